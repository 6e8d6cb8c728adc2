"""ARP requests and neighbour solicitations, asked and checked by Scapy."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from vxcore._fast.suppress import asked, reply_to
from vxcore.wire import internet_checksum, pseudo_header

ASKER, KNOWN = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
MAC = int(KNOWN.replace(":", ""), 16)
BROADCAST = Ether(src=ASKER, dst="ff:ff:ff:ff:ff:ff")
SOLICITED = Ether(src=ASKER, dst="33:33:ff:00:00:02")
GROUP = "ff02::1:ff00:2"
REQUEST = ARP(op=1, hwsrc=ASKER, psrc="10.0.0.1", hwdst="00:00:00:00:00:00", pdst="10.0.0.2")
SOURCE = ICMPv6NDOptSrcLLAddr(lladdr=ASKER)
SOLICITATION = IPv6(src="fd00::1", dst=GROUP, hlim=255) / ICMPv6ND_NS(tgt="fd00::2") / SOURCE
DETECTION = IPv6(src="::", dst=GROUP, hlim=255) / ICMPv6ND_NS(tgt="fd00::2")


def address(text: str) -> bytes:
    made = ipaddress.ip_address(text)
    return made.packed if made.version == 6 else bytes(10) + b"\xff\xff" + made.packed


def checksum_holds(packet: Packet) -> bool:
    raw = bytes(packet[IPv6])
    return internet_checksum(pseudo_header(raw[8:24], raw[24:40], 58, len(raw) - 40) + raw[40:]) == 0


def test_an_arp_request_is_answered_for_who_has_the_address() -> None:
    frame = bytes(BROADCAST / REQUEST)
    assert asked(frame) == (address("10.0.0.2"), False)
    reply = Ether(reply_to(frame, MAC))
    assert (reply.src, reply.dst, reply.type) == (KNOWN, ASKER, 0x0806)
    said = reply[ARP]
    assert (said.op, said.hwsrc, said.psrc, said.hwdst, said.pdst) == (
        2,
        KNOWN,
        "10.0.0.2",
        ASKER,
        "10.0.0.1",
    )
    assert len(reply) == 14 + 28


def test_an_arp_probe_learns_that_the_address_is_taken() -> None:
    frame = bytes(BROADCAST / ARP(op=1, hwsrc=ASKER, psrc="0.0.0.0", pdst="10.0.0.2"))
    assert asked(frame) == (address("10.0.0.2"), True)
    said = Ether(reply_to(frame, MAC))[ARP]
    assert (said.op, said.hwsrc, said.psrc, said.hwdst, said.pdst) == (2, KNOWN, "10.0.0.2", ASKER, "0.0.0.0")


@pytest.mark.parametrize("router", [False, True])
def test_a_solicitation_gets_a_solicited_advertisement(router: bool) -> None:
    frame = bytes(SOLICITED / SOLICITATION)
    assert asked(frame) == (address("fd00::2"), False)
    reply = Ether(reply_to(frame, MAC, router))
    assert (reply.src, reply.dst) == (KNOWN, ASKER)
    assert (reply[IPv6].src, reply[IPv6].dst, reply[IPv6].hlim) == ("fd00::2", "fd00::1", 255)
    said = reply[ICMPv6ND_NA]
    assert (said.R, said.S, said.O, said.tgt) == (int(router), 1, 1, "fd00::2")
    assert reply[ICMPv6NDOptDstLLAddr].lladdr == KNOWN
    assert checksum_holds(reply)


def test_duplicate_address_detection_is_answered_to_all_nodes() -> None:
    frame = bytes(SOLICITED / DETECTION)
    assert asked(frame) == (address("fd00::2"), True)
    reply = Ether(reply_to(frame, MAC))
    assert (reply.src, reply.dst) == (KNOWN, "33:33:00:00:00:01")
    assert (reply[IPv6].src, reply[IPv6].dst) == ("fd00::2", "ff02::1")
    assert (reply[ICMPv6ND_NA].S, reply[ICMPv6ND_NA].O) == (0, 1)
    assert checksum_holds(reply)


def test_a_solicitation_to_one_host_is_answered_too() -> None:
    """Neighbour unreachability detection asks the host itself."""
    frame = bytes(
        Ether(src=ASKER, dst=KNOWN) / IPv6(src="fd00::1", dst="fd00::2", hlim=255) / SOLICITATION[1]
    )
    assert Ether(reply_to(frame, MAC))[IPv6].dst == "fd00::1"


@pytest.mark.parametrize("tags", [1, 2])
@pytest.mark.parametrize("rest", [REQUEST, SOLICITATION])
def test_the_answer_has_the_tags_of_the_question(tags: int, rest: Packet) -> None:
    frame = BROADCAST
    for n in range(tags):
        frame = frame / Dot1Q(vlan=100 + n, prio=5)
    raw = bytes(frame / rest)
    reply = reply_to(raw, MAC)
    assert reply[12 : 12 + 4 * tags + 2] == raw[12 : 12 + 4 * tags + 2]
    assert reply[12 + 4 * tags :] == reply_to(bytes(BROADCAST / rest), MAC)[12:]


def test_padding_is_not_copied() -> None:
    padded = bytes(BROADCAST / REQUEST) + bytes(18)
    assert reply_to(padded, MAC) == reply_to(bytes(BROADCAST / REQUEST), MAC)


def damaged(frame: Packet, at: int, to: int) -> bytes:
    raw = bytearray(bytes(frame))
    raw[at] = to
    return bytes(raw)


def solicited(**changed: object) -> Packet:
    """A solicitation with other fields of its IPv6 header."""
    fields = {"src": "fd00::1", "dst": GROUP, "hlim": 255, **changed}
    return SOLICITED / IPv6(**fields) / ICMPv6ND_NS(tgt="fd00::2") / SOURCE


NOT_ASKING = {
    "gratuitous ARP": bytes(BROADCAST / ARP(op=1, hwsrc=ASKER, psrc="10.0.0.1", pdst="10.0.0.1")),
    "an ARP reply": bytes(BROADCAST / ARP(op=2, hwsrc=ASKER, psrc="10.0.0.1", pdst="10.0.0.2")),
    "in another's name": bytes(BROADCAST / ARP(op=1, hwsrc=KNOWN, psrc="10.0.0.1", pdst="10.0.0.2")),
    "another hardware": damaged(BROADCAST / REQUEST, 15, 6),
    "another protocol": damaged(BROADCAST / REQUEST, 16, 9),
    "link addresses of 8 bytes": damaged(BROADCAST / REQUEST, 18, 8),
    "addresses of 16 bytes": damaged(BROADCAST / REQUEST, 19, 16),
    "cut short": bytes(BROADCAST / REQUEST)[:-1],
    "from a group": bytes(Ether(src="03:00:00:00:00:01", dst="ff:ff:ff:ff:ff:ff") / REQUEST),
    "from beyond a router": bytes(solicited(hlim=254)),
    "from a multicast address": bytes(solicited(src="ff02::1")),
    "a wrong checksum": damaged(SOLICITED / SOLICITATION, 14 + 42, 0xEE),
    "for a group": bytes(SOLICITED / IPv6(src="fd00::1", dst=GROUP, hlim=255) / ICMPv6ND_NS(tgt="ff02::1")),
    "an advertisement": bytes(
        SOLICITED / IPv6(src="fd00::1", dst=GROUP, hlim=255) / ICMPv6ND_NA(tgt="fd00::2")
    ),
    "longer than it is": damaged(SOLICITED / SOLICITATION, 14 + 5, 33),
    "a probe with a link address": bytes(SOLICITED / DETECTION / SOURCE),
    "a probe of another group": bytes(
        SOLICITED / IPv6(src="::", dst="ff02::1:ff00:3", hlim=255) / ICMPv6ND_NS(tgt="fd00::2")
    ),
    "another's link address": bytes(
        SOLICITED
        / IPv6(src="fd00::1", dst=GROUP, hlim=255)
        / ICMPv6ND_NS(tgt="fd00::2")
        / ICMPv6NDOptSrcLLAddr(lladdr=KNOWN)
    ),
    "an option of no length": bytes(
        SOLICITED
        / IPv6(src="fd00::1", dst=GROUP, hlim=255)
        / ICMPv6ND_NS(tgt="fd00::2")
        / Raw(b"\x0e\x00" + bytes(6))
    ),
    "UDP": bytes(Ether(src=ASKER, dst=KNOWN) / IP(src="10.0.0.1", dst="10.0.0.2") / UDP() / bytes(40)),
    "three tags": bytes(BROADCAST / Dot1Q() / Dot1Q() / Dot1Q() / REQUEST),
    "nothing but a header": bytes(BROADCAST)[:14],
}


@pytest.mark.parametrize("name", NOT_ASKING)
def test_what_does_not_plainly_ask_goes_on_as_any_frame(name: str) -> None:
    assert asked(NOT_ASKING[name]) is None
    assert reply_to(NOT_ASKING[name], MAC) == b""


@pytest.mark.parametrize("frame", [BROADCAST / REQUEST, SOLICITED / SOLICITATION, SOLICITED / DETECTION])
def test_no_truncated_question_is_answered(frame: Packet) -> None:
    raw = bytes(frame)
    assert all(asked(raw[:length]) is None for length in range(14, len(raw)))


@given(st.binary(min_size=14, max_size=120), st.sampled_from([b"\x08\x06", b"\x86\xdd", b"\x81\x00"]))
def test_whatever_comes_is_read_within_its_bounds(raw: bytes, ethertype: bytes) -> None:
    frame = raw[:12] + ethertype + raw[14:]
    reply = reply_to(frame, MAC)
    assert len(reply) in (0, *(14 + 4 * tags + length for tags in range(3) for length in (28, 72)))
