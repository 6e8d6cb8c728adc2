"""What the sender of a frame is told that is too large for the underlay, checked by Scapy."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6PacketTooBig, ICMPv6TimeExceeded, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

from vxcore._fast.icmp import answer_to
from vxcore.wire import internet_checksum, pseudo_header

ETHER = Ether(src="02:00:00:00:00:0a", dst="02:00:00:00:00:0b")
V4 = IP(src="10.0.0.1", dst="10.0.0.2", flags="DF", id=7)
V6 = IPv6(src="fd00::1", dst="fd00::2")


def answer(frame: Packet, mtu: int = 1400, family: int = 4) -> Packet | None:
    raw = answer_to(bytes(frame), mtu, family)
    return Ether(raw) if raw else None


def checksums_hold(packet: Packet) -> bool:
    raw = bytes(packet)[14:]
    if packet.type == 0x0800:
        return internet_checksum(raw[:20]) == 0 and internet_checksum(raw[20:]) == 0
    return internet_checksum(pseudo_header(raw[8:24], raw[24:40], 58, len(raw) - 40) + raw[40:]) == 0


@pytest.mark.parametrize(("family", "overhead"), [(4, 50), (6, 70)])
def test_ipv4_gets_fragmentation_needed_from_whom_it_was_meant_for(family: int, overhead: int) -> None:
    frame = ETHER / V4 / TCP(sport=1, dport=2) / bytes(1400)
    reply = answer(frame, 1400, family)
    assert (reply.src, reply.dst) == (ETHER.dst, ETHER.src)
    assert (reply[IP].src, reply[IP].dst) == ("10.0.0.2", "10.0.0.1")
    assert (reply[ICMP].type, reply[ICMP].code, reply[ICMP].nexthopmtu) == (3, 4, 1400 - overhead)
    assert bytes(reply)[14 + 28 :] == bytes(frame)[14 : 14 + 548]
    assert reply[IP].len == 576
    assert checksums_hold(reply)


def test_ipv6_gets_packet_too_big() -> None:
    frame = ETHER / V6 / UDP(sport=1, dport=2) / bytes(1400)
    reply = answer(frame, 1500, 6)
    assert (reply.src, reply.dst) == (ETHER.dst, ETHER.src)
    assert (reply[IPv6].src, reply[IPv6].dst) == ("fd00::2", "fd00::1")
    assert reply[ICMPv6PacketTooBig].mtu == 1430
    quoted = bytes(reply)[14 + 48 :]
    assert quoted == bytes(frame)[14 : 14 + len(quoted)]
    assert len(quoted) >= 500
    assert checksums_hold(reply)


def test_ipv6_is_never_told_less_than_1280() -> None:
    assert answer(ETHER / V6 / UDP() / bytes(1300), 1300)[ICMPv6PacketTooBig].mtu == 1280


@pytest.mark.parametrize(
    "frame",
    [
        ETHER / IP(src="10.0.0.1", dst="10.0.0.2") / UDP() / bytes(1400),  # may be fragmented
        ETHER / IP(src="10.0.0.1", dst="10.0.0.2", flags="DF", frag=5) / bytes(1400),
        ETHER / V4 / ICMP(type=3, code=4) / bytes(1400),  # an error is not answered by an error
        ETHER / IP(src="10.0.0.1", dst="224.0.0.1", flags="DF") / UDP() / bytes(1400),
        ETHER / IP(src="0.0.0.0", dst="10.0.0.2", flags="DF") / UDP() / bytes(1400),
        ETHER / IP(src="255.255.255.255", dst="10.0.0.2", flags="DF") / UDP() / bytes(1400),
        Ether(src=ETHER.src, dst="ff:ff:ff:ff:ff:ff") / V4 / UDP() / bytes(1400),
        Ether(src="03:00:00:00:00:01", dst=ETHER.dst) / V4 / UDP() / bytes(1400),
        ETHER / Dot1Q(vlan=5) / V4 / UDP() / bytes(1400),
        ETHER / V6 / ICMPv6TimeExceeded() / bytes(1400),
        ETHER / IPv6(src="ff02::1", dst="fd00::2") / UDP() / bytes(1400),
        ETHER / IPv6(src="fd00::1", dst="ff02::2") / UDP() / bytes(1400),
        ETHER / ARP(hwsrc=ETHER.src, psrc="10.0.0.1"),
        ETHER / bytes(1400),
    ],
    ids=lambda frame: frame.summary(),
)
def test_no_answer(frame: Packet) -> None:
    assert answer(frame) is None


@pytest.mark.parametrize("frame", [ETHER / V4 / ICMP(type=8), ETHER / V6 / ICMPv6EchoRequest()])
def test_a_ping_is_answered(frame: Packet) -> None:
    assert answer(frame / bytes(1400)) is not None


def test_nothing_is_told_when_the_mtu_is_not_known_or_absurd() -> None:
    frame = ETHER / V4 / UDP() / bytes(1400)
    assert [answer(frame, mtu) for mtu in (0, 1, 50)] == [None] * 3


def test_every_truncation_is_survived() -> None:
    for frame in (ETHER / V4 / ICMP(type=8) / bytes(30), ETHER / V6 / ICMPv6EchoRequest() / bytes(30)):
        for length in range(1, len(frame)):
            answer_to(bytes(frame)[:length], 1400)
