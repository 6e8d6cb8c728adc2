"""Scapy packets through the codec and back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, CookedLinux, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw
from scapy.plist import PacketList
from scapy.utils import rdpcap, wrpcap

import vxcore.scapy as vs
from vxcore import Layer, Rules, Tunnel, Verdict

MACS = ("02:00:00:00:00:02", "02:00:00:00:00:01")
INNER = Ether(dst="02:00:00:00:00:0b", src="02:00:00:00:00:0a")
ARP_BODY = ARP(hwsrc=INNER.src, psrc="10.0.0.1")
FRAMES = [INNER / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=n, dport=53) / b"x" for n in range(1, 30)]
V4 = Tunnel(local="192.0.2.1", remote="192.0.2.2", vni=42, ethernet=MACS)
V6 = Tunnel(local="2001:db8::1", remote="2001:db8::2", vni=7)
for number, packet in enumerate(FRAMES):
    packet.time = 1_700_000_000 + number / 8
    packet.sniffed_on = "eth0"


@pytest.mark.parametrize(
    ("tunnel", "layer", "outer"),
    [
        (V4, None, Ether),
        (V4, Layer.IP, IP),
        (V6, None, IPv6),
        (V4, Layer.UDP_PAYLOAD, VXLAN),
        (V6, Layer.UDP_PAYLOAD, VXLAN),
    ],
)
def test_there_and_back(tunnel: Tunnel, layer: Layer | None, outer: type[Packet]) -> None:
    result = vs.encap(FRAMES, tunnel, layer)
    assert isinstance(result.packets, PacketList)
    assert {type(packet) for packet in result.packets} == {outer}
    assert {packet[VXLAN].vni for packet in result.packets} == {tunnel.spec.vni}
    assert [bytes(packet[VXLAN].payload) for packet in result.packets] == [bytes(f) for f in FRAMES]
    back = vs.decap(result.packets)
    assert [bytes(packet) for packet in back.packets] == [bytes(frame) for frame in FRAMES]
    assert [packet.time for packet in back.packets] == [frame.time for frame in FRAMES]
    assert {packet.sniffed_on for packet in back.packets} == {"eth0"}
    assert set(back.vni.tolist()) == {tunnel.spec.vni}
    assert not back.verdict.any()


def test_packets_of_every_kind_in_one_list() -> None:
    plain = vs.encap(FRAMES[:5], V4, Layer.IP).packets
    cooked = CookedLinux(proto=0x0800) / plain[0]
    payload = vs.encap_packet(FRAMES[2], V6, Layer.UDP_PAYLOAD).packet
    stranger = INNER / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(dport=53)
    packets = [payload, plain[1], INNER / ARP_BODY, cooked, Raw(b"?"), stranger, INNER / plain[3]]
    result = vs.decap(packets)
    assert [bytes(packet) for packet in result.packets] == [bytes(FRAMES[n]) for n in (2, 1, 0, 3)]
    assert result.vni.tolist() == [7, 42, 0, 42, 0, 0, 42]
    assert [Verdict(verdict).name for verdict in result.verdict] == [
        "DELIVERED",
        "DELIVERED",
        "NOT_IP",
        "DELIVERED",
        "LINK_TYPE",
        "OTHER_PORT",
        "DELIVERED",
    ]


def test_single_packets() -> None:
    verdict, outer, vni = vs.encap_packet(FRAMES[0], V4)
    assert (verdict, vni) == (Verdict.DELIVERED, 42)
    assert outer is not None
    assert vs.decap_packet(outer) == (Verdict.DELIVERED, Ether(bytes(FRAMES[0])), 42)
    assert vs.decap_packet(INNER / ARP_BODY) == (Verdict.NOT_IP, None, 0)
    assert vs.encap_packet(IP(src="10.0.0.1", dst="10.0.0.2"), V4).verdict == Verdict.LINK_TYPE


def test_rules_and_bare_ip_of_gpe() -> None:
    inner = IP(src="10.0.0.1", dst="10.0.0.2") / UDP() / b"hello"
    bare = VXLAN(flags=0x0C, NextProtocol=1, vni=9) / inner
    outer = IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=1, dport=4790, chksum=0) / bare
    verdict, packet, vni = vs.decap_packet(outer, Rules(ports=(4790,), gpe=True))
    assert (verdict, vni, type(packet)) == (Verdict.DELIVERED, 9, IP)
    assert bytes(packet) == bytes(inner)


def test_nothing_in_nothing_out() -> None:
    for result in (vs.encap([], V4), vs.decap(PacketList([]))):
        assert (len(result.packets), len(result.verdict), len(result.vni)) == (0, 0, 0)


def test_time_stamps_survive_files(tmp_path: Path) -> None:
    wrpcap(str(tmp_path / "a.pcap"), FRAMES)
    wrpcap(str(tmp_path / "b.pcap"), vs.encap(rdpcap(str(tmp_path / "a.pcap")), V4).packets)
    back = vs.decap(rdpcap(str(tmp_path / "b.pcap"))).packets
    assert [float(packet.time) for packet in back] == [frame.time for frame in FRAMES]


def test_without_scapy_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['scapy'] = None\nimport vxcore.scapy"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == (
        "vxcore.errors.MissingExtraError: vxcore.scapy needs Scapy: `pip install 'vxcore[scapy]'` brings it"
    )
