"""The codec beside Scapy and tshark: what one makes the other reads alike, on generated packets."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet
from scapy.utils import wrpcap

from vxcore import Rules, Tunnel, Verdict, decap_frame, encap_frame

MACS = ("02:00:00:00:00:02", "02:00:00:00:00:01")
V4 = {"local": "192.0.2.1", "remote": "192.0.2.2"}
V6 = {"local": "2001:db8::1", "remote": "2001:db8::2"}

vnis = st.integers(0, 0xFFFFFF)
ports = st.integers(1, 65535).filter(lambda port: port not in (4789, 4790, 8472))
inner_ips = st.one_of(
    st.builds(IP, src=st.just("10.0.0.1"), dst=st.just("10.9.0.2"), tos=st.integers(0, 255)),
    st.builds(IPv6, src=st.just("fd00::1"), dst=st.just("fd00::2"), tc=st.integers(0, 255)),
)
transports = (
    st.builds(UDP, sport=ports, dport=ports) | st.builds(TCP, sport=ports, dport=ports) | st.just(ICMP())
)
ends = {"dst": "02:00:00:00:00:0b", "src": "02:00:00:00:00:0a"}
inner_frames = st.builds(
    lambda ip, l4, data: Ether(**ends) / ip / l4 / data, inner_ips, transports, st.binary(max_size=80)
)
frames = inner_frames.map(bytes) | st.just(bytes(Ether(**ends) / ARP(hwsrc=ends["src"], psrc="10.0.0.1")))
tunnel_options = st.fixed_dictionaries(
    {"ethernet": st.just(MACS), "udp_checksum": st.booleans()},
    optional={
        "ttl": st.integers(1, 255),
        "tos": st.integers(0, 63).map(lambda dscp: dscp << 2),
        "df": st.sampled_from(["set", "unset"]),
        "flow_label": st.integers(0, 0xFFFFF),
        "outer_vlan": st.integers(1, 4094),
    },
)


# Scapy


def rebuilt(packet: bytes) -> bytes:
    """The packet as Scapy makes it from the fields it read, with lengths and checksums its own."""
    outer = Ether(packet)
    for layer in (IP, IPv6, UDP):
        if layer in outer:
            for name in ("chksum", "len", "plen"):
                if name in outer[layer].fields and (layer, name, outer[layer].fields[name]) != (
                    UDP,
                    "chksum",
                    0,
                ):
                    del outer[layer].fields[name]
    return bytes(outer)


@settings(max_examples=300, deadline=None)
@given(frames, st.sampled_from([V4, V6]), vnis, tunnel_options)
def test_scapy_reads_and_rebuilds_what_encap_makes(
    frame: bytes, end: dict[str, str], vni: int, options: dict[str, Any]
) -> None:
    verdict, packet = encap_frame(frame, Tunnel(**end, vni=vni, **options))
    assert verdict == Verdict.DELIVERED
    assert rebuilt(packet) == packet
    outer = Ether(packet)
    ip = outer[IP] if end is V4 else outer[IPv6]
    assert (outer.dst, outer.src, ip.src, ip.dst) == (*MACS, end["local"], end["remote"])
    assert (outer[UDP].dport, outer[VXLAN].flags, outer[VXLAN].vni) == (4789, 0x08, vni)
    assert bytes(outer[VXLAN].payload) == frame
    assert (outer[Dot1Q].vlan if outer.type == 0x8100 else None) == options.get("outer_vlan")


OUTER_IPS: list[Callable[[], Packet]] = [
    lambda: IP(src="192.0.2.1", dst="192.0.2.2"),
    lambda: IP(src="192.0.2.1", dst="192.0.2.2", options=[IPOption(b"\x94\x04\0\0")] * 3),
    lambda: IPv6(src="2001:db8::1", dst="2001:db8::2"),
    lambda: IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt(),
    lambda: IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrFragment(offset=0, m=0),
]


@settings(max_examples=300, deadline=None)
@given(
    frames, st.sampled_from(OUTER_IPS), vnis, st.integers(0, 2), ports, st.booleans(), st.binary(max_size=9)
)
def test_decap_takes_what_scapy_makes(
    frame: bytes, ip: Callable[[], Packet], vni: int, tags: int, sport: int, zero: bool, padding: bytes
) -> None:
    outer: Packet = Ether(**ends)
    for tag in range(tags):
        outer = outer / Dot1Q(vlan=tag + 1)
    udp = UDP(sport=sport, dport=4789, **({"chksum": 0} if zero else {}))
    packet = bytes(outer / ip() / udp / VXLAN(flags=0x08, vni=vni) / frame) + padding
    got = decap_frame(packet, Rules(zero_checksum6="accept"))
    assert (got.verdict, got.frame) == (Verdict.DELIVERED, frame)
    assert (got.vni, got.source_port, str(got.source)) == (vni, sport, ip().src)


@pytest.mark.parametrize(
    "ip",
    [
        IP(dst="192.0.2.2", flags="MF"),
        IP(dst="192.0.2.2", frag=1),
        IPv6(dst="2001:db8::2") / IPv6ExtHdrFragment(offset=0, m=1),
        IPv6(dst="2001:db8::2") / IPv6ExtHdrDestOpt() / IPv6ExtHdrFragment(offset=9, m=0),
    ],
    ids=["v4 first", "v4 later", "v6 first", "v6 later"],
)
def test_outer_fragments_are_refused_under_their_name(ip: Packet) -> None:
    packet = bytes(Ether(**ends) / ip / UDP(sport=1, dport=4789) / VXLAN(flags=0x08, vni=1) / bytes(60))
    assert decap_frame(packet).verdict == Verdict.FRAGMENT


# tshark


IP_FIELDS = ["ip.src", "ip.dst", "ip.ttl", "ip.dsfield", "ip.flags.df", "ip.checksum.status"]
IPV6_FIELDS = ["ipv6.src", "ipv6.dst", "ipv6.hlim", "ipv6.tclass", "ipv6.flow"]
UDP_FIELDS = ["udp.srcport", "udp.dstport", "udp.length", "udp.checksum.status"]
FIELDS = [*IP_FIELDS, *IPV6_FIELDS, *UDP_FIELDS, "vxlan.vni", "vxlan.flags", "vlan.id"]
BAD, GOOD, ABSENT, ILLEGAL = "0", "1", "3", "4"  # illegal: absent over IPv6, as RFC 8200 has it


def tshark(program: str, packets: list[bytes]) -> list[dict[str, str]]:
    """What tshark says of each packet, the outermost of each field, checksums verified."""
    command = [program, "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-T", "fields", "-n"]
    command += ["-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE", "-E", "occurrence=f"]
    command += [word for field in FIELDS for word in ("-e", field)]
    with tempfile.NamedTemporaryFile(suffix=".pcap") as file:
        wrpcap(file.name, [Ether(packet) for packet in packets])
        lines = subprocess.run([*command, "-r", file.name], check=True, capture_output=True, text=True)
    told = [dict(zip(FIELDS, line.split("\t"), strict=True)) for line in lines.stdout.splitlines()]
    assert len(told) == len(packets)
    return told


cases = st.tuples(frames, st.sampled_from([V4, V6]), vnis, tunnel_options)


def generated(strategy: st.SearchStrategy[Any], n: int) -> list[Any]:
    """What Hypothesis thinks of, to be handed to a program in one go."""
    found = []

    @settings(max_examples=n, phases=[Phase.generate], database=None)
    @given(strategy)
    def collect(case: Any) -> None:
        found.append(case)

    collect()
    return found


def test_tshark_reads_what_encap_makes(require_tool: Callable[[str], str]) -> None:
    made = generated(cases, 400)
    packets = [encap_frame(frame, Tunnel(**end, vni=vni, **options))[1] for frame, end, vni, options in made]
    for (frame, end, vni, options), told in zip(made, tshark(require_tool("tshark"), packets), strict=True):
        assert (told["udp.dstport"], int(told["vxlan.vni"])) == ("4789", vni)
        assert told["udp.length"] == str(len(frame) + 16)
        absent = ABSENT if end is V4 else ILLEGAL
        assert told["udp.checksum.status"] == (GOOD if options["udp_checksum"] else absent)
        assert int(told["vxlan.flags"], 0) == 0x0800
        assert told["vlan.id"] == str(options.get("outer_vlan", ""))
        check_ip(told, end, options)


def check_ip(told: dict[str, str], end: dict[str, str], options: dict[str, Any]) -> None:
    """The outer IP header's fields."""
    ip = "ip" if end is V4 else "ipv6"
    assert (told[f"{ip}.src"], told[f"{ip}.dst"]) == (end["local"], end["remote"])
    tos, ttl = (
        told["ip.dsfield" if end is V4 else "ipv6.tclass"],
        told["ip.ttl" if end is V4 else "ipv6.hlim"],
    )
    assert (int(tos, 0) & 0xFC, ttl) == (options.get("tos", 0), str(options.get("ttl", 64)))
    if end is V4:
        assert told["ip.checksum.status"] == GOOD
        assert told["ip.flags.df"] in (("1", "True") if options.get("df") == "set" else ("0", "False"))
    elif "flow_label" in options:
        assert int(told["ipv6.flow"], 0) == options["flow_label"]


def test_tshark_and_decap_see_the_same_damage(require_tool: Callable[[str], str]) -> None:
    packets, verdicts = [], set()
    for (frame, end, vni, options), at, bit in generated(
        st.tuples(cases, st.integers(14, 90), st.integers(0, 7)), 400
    ):
        packet = bytearray(encap_frame(frame, Tunnel(**end, vni=vni, **options))[1])
        packet[at % len(packet)] ^= 1 << bit
        packets.append(bytes(packet))
    for packet, told in zip(packets, tshark(require_tool("tshark"), packets), strict=True):
        verdicts.add(check_damaged(packet, told))
    assert {Verdict.DELIVERED, Verdict.IP_CHECKSUM, Verdict.UDP_CHECKSUM} <= verdicts


def check_damaged(packet: bytes, told: dict[str, str]) -> Verdict:
    got = decap_frame(packet, Rules(zero_checksum6="accept", ecn="ignore", inner_vlan="pass"))
    if got.verdict == Verdict.DELIVERED:
        assert (told["vxlan.vni"], told["udp.srcport"]) == (str(got.vni), str(got.source_port))
        assert told["udp.checksum.status"] in (GOOD, ABSENT, ILLEGAL)
        # Behind an outer IPv6 header the first IPv4 header is the inner one, and none of decap's business.
        assert got.source.version == 6 or told["ip.checksum.status"] == GOOD
    elif got.verdict == Verdict.IP_CHECKSUM:
        assert told["ip.checksum.status"] == BAD
    elif got.verdict == Verdict.UDP_CHECKSUM:
        assert told["udp.checksum.status"] == BAD
    return got.verdict
