"""Cutting super-frames: against the readable reference, against Scapy, and what no header may bring about."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.l2 import Ether
from support import offload
from support.offload import ACK, DF, ETH, TCP, TCPV4, TCPV6, UDP, UDP_L4
from support.senders import Sender

from vxcore._fast.gro import joined
from vxcore._fast.gso import finished, segments_of

DESTINATION_OPTIONS = b"\x06\0\1\4\0\0\0\0"


def header(
    flags: int = 1, kind: int = 0, size: int = 0, start: int = 0, offset: int = 0, hdr_len: int = 0
) -> bytes:
    """A virtio-net header."""
    return struct.pack("=BBHHHH", flags, kind, hdr_len, size, start, offset)


@st.composite
def superframes(draw: Any) -> bytes:
    """TCP or UDP, any flags, options, identification and sequence number, wrapping around included."""
    version, proto = draw(st.sampled_from([4, 6])), draw(st.sampled_from([TCP, UDP]))
    sender = Sender(
        version,
        proto,
        tos=draw(st.integers(0, 255)),
        fragment=draw(st.sampled_from([DF, 0])),
        ident=draw(st.sampled_from([0, 7, 0xFFFE])),
        sequence=draw(st.sampled_from([1, 0xFFFFFF00, 0xFFFFFFFF])),
        options=draw(st.sampled_from([b"", b"\1\1\x08\x0a" + bytes(8), b"\1" * 40])),
    )
    if version == 6 and draw(st.booleans()):
        sender.extensions, sender.extension = bytes((proto,)) + DESTINATION_OPTIONS[1:], 60
    payload = draw(st.binary(min_size=1, max_size=40)) * draw(st.integers(1, 100))
    return sender.send(payload, draw(st.integers(0, 0xFF)))


@settings(max_examples=400, deadline=None)
@given(superframes(), st.integers(1, 5000))
def test_pieces_are_what_the_reference_cuts(frame: bytes, size: int) -> None:
    assert segments_of(frame, size) == offload.cut(frame, size)
    assert segments_of(offload.partial(frame), size) == offload.cut(frame, size)


@settings(max_examples=60, deadline=None)
@given(superframes(), st.integers(100, 2000))
def test_scapy_finds_every_length_and_checksum_right(frame: bytes, size: int) -> None:
    for piece in segments_of(frame, size):
        packet = Ether(piece)
        for layer in packet.layers():
            for name in ("chksum", "cksum", "len", "plen"):
                if name in packet[layer].fields:
                    del packet[layer].fields[name]
        assert bytes(packet) == piece


@settings(max_examples=300, deadline=None)
@given(superframes(), st.integers(1, 5000))
def test_cut_and_joined_again_it_is_the_same_frame(frame: bytes, size: int) -> None:
    of = offload.parts(frame)
    assert of is not None
    pieces = segments_of(frame, size)
    groups = offload.join(pieces)
    made = joined(pieces)
    assert len(made) == len(groups)
    assert [piece for one in made for piece in offload.expanded(*one)] == pieces
    plain = len(of.ip) == (20 if of.version == 4 else 40) and (of.proto == UDP or of.l4[13] & ~0x09 == ACK)
    if plain and 1 < len(pieces) <= 64:
        assert made == [(offload.partial(frame), made[0][1])]
        assert made[0][1]["gso_size"] == size


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("proto", [TCP, UDP])
@pytest.mark.parametrize("size", [1, 536, 1448, 32000, 65000])
def test_the_largest_frame_and_payloads_from_one_byte(version: int, proto: int, size: int) -> None:
    sender = Sender(version, proto, sequence=0xFFFF8000)
    overhead = (20 if version == 4 else 40) + (20 if proto == TCP else 8)
    payload = bytes(range(251)) * 262
    frame = sender.send(payload[: 65535 - overhead])
    pieces = segments_of(frame, size)
    assert len(pieces) == -(-(65535 - overhead) // size)
    assert b"".join(piece[ETH + overhead :] for piece in pieces) == payload[: 65535 - overhead]
    for n in (0, 1, len(pieces) // 2, len(pieces) - 1):
        assert pieces[n] == offload.one_piece(offload.parts(frame), n, n * size, size).frame()  # type: ignore[arg-type]


def test_a_routing_header_keeps_the_pseudo_header_of_its_last_address() -> None:
    """Which the sender summed up; the fixed header has the next hop instead (RFC 8200 section 8.1)."""
    routing = bytes((UDP, 2, 4, 1)) + bytes(4) + b"\xfd" + bytes(14) + b"\x99"
    frame = Sender(6, UDP, extensions=routing, extension=43).send(b"x" * 3000)
    at_l4 = ETH + 40 + len(routing)
    pseudo = frame[ETH + 8 : ETH + 24] + routing[8:] + struct.pack("!HH", UDP, len(frame) - at_l4)
    frame = frame[: at_l4 + 6] + offload.total(pseudo).to_bytes(2, "big") + frame[at_l4 + 8 :]
    pieces = finished(bytearray(frame), header(1, UDP_L4, 1000, at_l4, 6))
    assert pieces is not None
    assert len(pieces) == 3
    for piece in pieces:
        pseudo = piece[ETH + 8 : ETH + 24] + routing[8:] + struct.pack("!HH", UDP, len(piece) - at_l4)
        assert offload.total(pseudo + piece[at_l4:]) == 0xFFFF


# -- headers that lie ---------------------------------------------------------------------------------

TCP4 = Sender(4, TCP).send(b"x" * 3000)
TCP6 = Sender(6, TCP).send(b"x" * 3000)
UDP4 = Sender(4, UDP).send(b"x" * 3000)


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (TCP4, header(kind=TCPV6, size=1000)),
        (TCP6, header(kind=TCPV4, size=1000)),
        (TCP4, header(kind=UDP_L4, size=1000)),
        (UDP4, header(kind=TCPV4, size=1000)),
        (TCP4, header(kind=TCPV4, size=0)),
        (UDP4, header(kind=UDP_L4, size=0)),
        (TCP4, header(kind=TCPV4, size=65535)),
        (TCP4, header(kind=3, size=1000)),  # UFO: no kernel has it any more
        (TCP4, header(kind=0x21, size=1000)),  # a tunnel's
        (TCP4[:14], header(kind=TCPV4, size=1000)),
        (TCP4[:50], header(kind=TCPV4, size=1000)),
        (TCP4[:54], header(kind=TCPV4, size=1000)),  # no payload
        (TCP4[:46] + b"\x4f" + TCP4[47:], header(kind=TCPV4, size=1000)),  # data offset 4
        (TCP4[:46] + b"\xf0" + TCP4[47:90], header(kind=TCPV4, size=1000)),  # and 15, behind the end
        (UDP4[:20] + b"\x20\0" + UDP4[22:], header(kind=UDP_L4, size=1000)),  # a fragment
        (UDP4[:16] + b"\0\x13" + UDP4[18:], header(kind=UDP_L4, size=1000)),  # 19 bytes of IP
        (UDP4[:14] + b"\x4f" + UDP4[15:60], header(kind=UDP_L4, size=1000)),  # IP header behind the end
        (UDP4[:12] + b"\x86\xdd" + UDP4[14:], header(kind=UDP_L4, size=1000)),
        (UDP4, header(start=len(UDP4), offset=0)),
        (UDP4, header(start=len(UDP4) - 1, offset=0)),
        (UDP4, header(start=65535, offset=65535)),
        (UDP4, header(start=34, offset=len(UDP4) - 35)),
    ],
)
def test_a_header_that_contradicts_its_frame_is_refused(frame: bytes, said: bytes) -> None:
    assert finished(bytearray(frame), said) is None


@pytest.mark.parametrize("frame", [TCP4, TCP6])
def test_what_a_header_says_needlessly_does_not_matter(frame: bytes) -> None:
    kind = TCPV4 if frame is TCP4 else TCPV6
    said = header(0, kind | 0x80, 1000, 65535, 65535, 65535)
    assert finished(bytearray(frame), said) == offload.cut(frame, 1000)
    assert finished(bytearray(frame), header(0, 0, 65535, 65535, 65535, 65535)) == [frame]


@pytest.mark.parametrize("of", ["total length", "UDP length"])
@pytest.mark.parametrize("says", [0, 7, 8, 19, 20, 27, 28, 65535])
def test_lengths_that_lie_do_not_matter_where_the_frame_has_its_own(of: str, says: int) -> None:
    at = 16 if of == "total length" else 38
    frame = UDP4[:at] + struct.pack("!H", says) + UDP4[at + 2 :]
    made = finished(bytearray(frame), header(1, UDP_L4, 1000, 34, 6))
    assert made == (None if of == "total length" and says < 20 else offload.cut(UDP4, 1000))


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=14, max_size=90), st.integers(0, 100), st.integers(0, 100))
def test_a_checksum_is_finished_only_within_the_frame(frame: bytes, start: int, offset: int) -> None:
    made = finished(bytearray(frame), header(1, 0, 0, start, offset))
    inside = start < len(frame) and start + offset + 2 <= len(frame)
    assert made == ([offload.finish(frame, start, offset)] if inside else None)
