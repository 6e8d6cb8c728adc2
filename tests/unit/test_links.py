"""Link types and GENEVE: where the IP header is found, and every length at which it is not."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.contrib.geneve import GENEVE, GeneveOptions
from scapy.layers.inet import IP, UDP, IPOption_RR
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, CookedLinux, CookedLinuxV2, Dot1Q, Ether, Loopback
from scapy.packet import Packet

from vxcore import PacketBatch, Verdict
from vxcore._fast.links import SUPPORTED_LINKS, find_ip, strip_geneve

ENDS = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
ETHER = Ether(**ENDS)
V4 = IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=1, dport=4789) / (b"x" * 30)
V6 = IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP(sport=1, dport=4789) / (b"x" * 30)

CASES = [
    (1, ETHER / V4, V4),
    (1, ETHER / V6, V6),
    (1, ETHER / Dot1Q(vlan=1) / V4, V4),
    (1, Ether(**ENDS, type=0x88A8) / Dot1Q(vlan=1) / Dot1Q(vlan=2) / V6, V6),
    (113, CookedLinux() / V4, V4),
    (113, CookedLinux() / Dot1Q(vlan=1) / V6, V6),
    (276, CookedLinuxV2(proto=0x0800) / V4, V4),
    (276, CookedLinuxV2(proto=0x86DD) / V6, V6),
    (101, V4, V4),
    (101, V6, V6),
    (12, V4, V4),
    (14, V6, V6),
    (228, V4, V4),
    (229, V6, V6),
    (0, Loopback(type=2) / V4, V4),
    (0, struct.pack("<I", 2) + bytes(V4), V4),
    *[(0, struct.pack(order + "I", af) + bytes(V6), V6) for af in (10, 24, 28, 30) for order in "<>"],
    (108, struct.pack(">I", 2) + bytes(V4), V4),
    (108, struct.pack(">I", 24) + bytes(V6), V6),
]


def find(packet: bytes, link: int) -> tuple[Verdict, bytes]:
    batch = PacketBatch.from_frames([packet])
    found = find_ip(batch, np.array([link], np.uint16))
    verdict = Verdict(batch.verdict[0])
    assert found == (verdict == Verdict.DELIVERED)
    return verdict, batch.to_frames()[0]


@pytest.mark.parametrize(("link", "packet", "expected"), CASES)
def test_ip_is_found_behind_every_link_type(link: int, packet: Packet, expected: Packet) -> None:
    assert find(bytes(packet), link) == (Verdict.DELIVERED, bytes(expected))


def test_every_supported_link_type_is_tested() -> None:
    assert {link for link, _, _ in CASES} == set(SUPPORTED_LINKS)


@pytest.mark.parametrize(("link", "packet", "expected"), CASES)
def test_a_packet_cut_in_its_link_header_stays_where_it_is(
    link: int, packet: Packet, expected: Packet
) -> None:
    header_len = len(bytes(packet)) - len(bytes(expected))
    for length in range(header_len + 1):
        assert find(bytes(packet)[:length], link) == (Verdict.TRUNCATED, bytes(packet)[:length])
    assert find(bytes(packet)[: header_len + 1], link)[0] == Verdict.DELIVERED


@pytest.mark.parametrize(
    ("link", "packet", "verdict"),
    [
        (147, V4, Verdict.LINK_TYPE),
        (105, V4, Verdict.LINK_TYPE),
        (1, ETHER / ARP(hwsrc=ETHER.src, psrc="10.0.0.1"), Verdict.NOT_IP),
        (1, ETHER / Dot1Q() / Dot1Q() / Dot1Q() / V4, Verdict.NOT_IP),
        (1, Ether(**ENDS, type=0x0800) / V6, Verdict.BAD_IP_HEADER),
        (1, Ether(**ENDS, type=0x86DD) / V4, Verdict.BAD_IP_HEADER),
        (113, CookedLinux(proto=0x0806) / bytes(30), Verdict.NOT_IP),
        (101, b"\x50" + bytes(40), Verdict.NOT_IP),
        (228, V6, Verdict.BAD_IP_HEADER),
        (229, V4, Verdict.BAD_IP_HEADER),
        (0, bytes([7, 0, 0, 0]) + bytes(V4), Verdict.NOT_IP),
        (0, struct.pack("<I", 2) + bytes(V6), Verdict.BAD_IP_HEADER),
    ],
)
def test_what_is_no_ip_is_named(link: int, packet: Packet, verdict: Verdict) -> None:
    assert find(bytes(packet), link) == (verdict, bytes(packet))


def test_each_packet_of_a_batch_has_its_own_link_type() -> None:
    batch = PacketBatch.from_frames([bytes(packet) for _, packet, _ in CASES] * 3)
    batch.verdict[1] = Verdict.TOO_BIG
    links = np.array([link for link, _, _ in CASES] * 3, np.uint16)
    assert find_ip(batch, links) == len(CASES) * 3 - 1
    expected = [bytes(ip) for _, _, ip in CASES] * 3
    expected[1] = bytes(CASES[1][1])
    assert batch.to_frames() == expected


def test_a_wrong_shape_is_refused_and_a_packet_outside_its_slot_is_not_touched() -> None:
    batch = PacketBatch.from_frames([bytes(ETHER / V4)] * 2)
    with pytest.raises(ValueError, match="link has 3 elements, the batch 2"):
        find_ip(batch, np.zeros(3, np.uint16))
    batch.offset[1] = 0xFFFFFFF0
    assert find_ip(batch) == 1
    assert batch.verdict.tolist() == [Verdict.DELIVERED, Verdict.BAD_SLOT]
    batch.verdict[1] = Verdict.DELIVERED
    assert strip_geneve(batch) == 0
    batch.count = 0
    assert find_ip(batch, np.zeros(0, np.uint16)) == 0


OPTIONS = [GeneveOptions(classid=0x0108, type=1, data=bytes(4)), GeneveOptions(data=bytes(8))]
INSIDE = [
    GENEVE(vni=5, proto=0x0800) / V4,
    GENEVE(vni=5, proto=0x86DD) / V6,
    GENEVE(vni=5, proto=0x6558) / ETHER / V4,
    GENEVE(vni=5, proto=0x6558) / ETHER / Dot1Q() / V6,
    GENEVE(vni=5, proto=0x0800, critical=1, options=OPTIONS) / V4,
]
OUTER = [
    IP(src="198.51.100.1") / UDP(dport=6081),
    IP(src="198.51.100.1", options=[IPOption_RR()]) / UDP(dport=6081),
    IPv6(src="2001:db8::9") / UDP(dport=6081),
]


def stripped(packet: bytes) -> bytes:
    batch = PacketBatch.from_frames([packet])
    strip_geneve(batch)
    assert batch.verdict[0] == Verdict.DELIVERED
    return batch.to_frames()[0]


@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("inside", INSIDE)
def test_geneve_is_passed_over_or_left_at_every_length(outer: Packet, inside: Packet) -> None:
    packet = bytes(outer / inside)
    expected = bytes(inside[IP] if IP in inside else inside[IPv6])
    assert stripped(packet) == expected
    header_len = len(packet) - len(expected)
    for length in range(len(packet)):
        cut = packet[:length]
        assert stripped(cut) == (cut if length <= header_len else cut[header_len:])


@pytest.mark.parametrize(
    "packet",
    [
        V4,
        IP() / UDP(dport=6080) / GENEVE(proto=0x0800) / V4,
        IP(frag=5) / UDP(dport=6081) / GENEVE(proto=0x0800) / V4,
        IP(proto=6) / UDP(dport=6081) / GENEVE(proto=0x0800) / V4,
        IPv6(nh=6) / UDP(dport=6081) / GENEVE(proto=0x0800) / V4,
        IP() / UDP(dport=6081) / GENEVE(version=1, proto=0x0800) / V4,
        IP() / UDP(dport=6081) / GENEVE(proto=0x0806) / ARP(hwsrc=ETHER.src, psrc="10.0.0.1"),
        IP() / UDP(dport=6081) / GENEVE(proto=0x86DD) / bytes(V4),
        IP() / UDP(dport=6081) / GENEVE(proto=0x6558) / ETHER / ARP(hwsrc=ETHER.src, psrc="10.0.0.1"),
        IP() / UDP(dport=6081) / GENEVE(proto=0x0800, optionlen=63) / V4,
        bytes(IP(ihl=4) / UDP(dport=6081) / GENEVE(proto=0x0800) / V4),
    ],
)
def test_what_is_no_geneve_with_ip_in_it_stays(packet: Packet) -> None:
    assert stripped(bytes(packet)) == bytes(packet)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=120), st.sampled_from([*SUPPORTED_LINKS, 7]), st.booleans())
def test_noise_moves_the_start_only_within_the_packet(noise: bytes, link: int, geneve: bool) -> None:
    packet = bytes(OUTER[0] / GENEVE(proto=0x6558))[:28] + noise if geneve else noise
    batch = PacketBatch.from_frames([packet])
    if not geneve:
        find_ip(batch, np.array([link], np.uint16))
    strip_geneve(batch)
    assert packet.endswith(batch.to_frames()[0])
