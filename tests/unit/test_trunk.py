"""The tags of a trunk: put in where a segment sends, taken off where the trunk receives."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether

from vxcore import Verdict
from vxcore._fast.port import UNCLAIMED, OverlayPort
from vxcore._fast.trunk import VlanPort, claimed, tagged

ETHER = Ether(src="02:00:00:00:00:0a", dst="02:00:00:00:00:0b")
PACKET = IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2) / b"payload"
NOTHING = bytes(10)
FIELDS = ("flags", "gso_type", "hdr_len", "gso_size", "csum_start", "csum_offset")
NEEDS_CSUM = 1


def said(header: bytes) -> dict[str, int]:
    return dict(zip(FIELDS, struct.unpack("<BBHHHH", header), strict=True))


@st.composite
def parts(draw: st.DrawFn) -> list[bytearray]:
    """A frame as a lane hands it over: whole, or gathered from where its payloads were received."""
    first = draw(st.binary(min_size=14, max_size=80))
    return [bytearray(first), *map(bytearray, draw(st.lists(st.binary(min_size=1, max_size=9), max_size=64)))]


headers = st.builds(
    lambda flags, kind, *rest: struct.pack("<BBHHHH", flags, kind, *rest),
    st.sampled_from([0, NEEDS_CSUM]),
    st.sampled_from([0, 1, 4, 5]),
    st.integers(4, 65000) | st.just(0),
    st.integers(0, 65535),
    st.integers(0, 65000),
    st.integers(0, 65535),
)
vlans = st.integers(1, 4094)


@settings(max_examples=300, deadline=None)
@given(parts(), headers, vlans, st.integers(1, 64))
def test_what_a_segment_sends_comes_back_to_it_as_it_was(
    given_parts: list[bytearray], header: bytes, vlan: int, n_packets: int
) -> None:
    frame = b"".join(given_parts)
    on_trunk, told, n = tagged(vlan, given_parts, header, n_packets)
    assert on_trunk == frame[:12] + struct.pack("!HH", 0x8100, vlan) + frame[12:]
    assert (n, b"".join(given_parts)) == (n_packets, frame)
    raw = struct.pack("<BBHHHH", *told.values())
    assert claimed(on_trunk, raw, {vlan: 7, 0: 8}) == (7, frame, said(header))


@settings(max_examples=300, deadline=None)
@given(
    st.binary(min_size=14, max_size=60), st.binary(min_size=10, max_size=10), st.sampled_from([{}, {0: 1}])
)
def test_any_frame_and_header_is_a_segment_s_or_nobody_s(
    frame: bytes, header: bytes, segments: dict[int, int]
) -> None:
    answer: Any = claimed(frame, header, segments)
    if isinstance(answer, int):
        assert answer in (Verdict.UNKNOWN_VLAN, Verdict.INNER_VLAN, Verdict.INNER_TOO_SHORT)
    else:
        assert answer[0] == 1
        assert answer[1] in (frame, frame[:12] + frame[16:])


def test_offsets_count_the_tag_while_it_is_there() -> None:
    header = struct.pack("<BBHHHH", NEEDS_CSUM, 1, 54, 1400, 34, 16)
    _, told, _ = tagged(10, [bytearray(60)], header)
    assert (told["hdr_len"], told["csum_start"], told["csum_offset"]) == (58, 38, 16)
    finished = struct.pack("<BBHHHH", 0, 0, 0, 0, 0, 0)
    assert tagged(10, [bytearray(60)], finished)[1] == said(finished)


CLAIMS = [
    ("a VLAN that has a segment", ETHER / Dot1Q(vlan=10) / PACKET, (100, ETHER / PACKET)),
    ("with a priority", ETHER / Dot1Q(vlan=10, prio=7, id=1) / PACKET, (100, ETHER / PACKET)),
    ("no tag", ETHER / PACKET, (5, ETHER / PACKET)),
    ("only a priority", ETHER / Dot1Q(vlan=0, prio=3) / PACKET, (5, ETHER / PACKET)),
    ("an unknown VLAN", ETHER / Dot1Q(vlan=11) / PACKET, Verdict.UNKNOWN_VLAN),
    ("the reserved VLAN", ETHER / Dot1Q(vlan=4095) / PACKET, Verdict.UNKNOWN_VLAN),
    # Of these the segment's own rule for inner tags decides.
    ("two tags", ETHER / Dot1Q(vlan=10) / Dot1Q(vlan=3) / PACKET, (100, ETHER / Dot1Q(vlan=3) / PACKET)),
    ("a service tag", ETHER / Dot1AD(vlan=10) / PACKET, (5, ETHER / Dot1AD(vlan=10) / PACKET)),
]


@pytest.mark.parametrize(("what", "frame", "outcome"), CLAIMS, ids=[row[0] for row in CLAIMS])
def test_whose_a_frame_is(what: str, frame: Any, outcome: Any) -> None:
    answer = claimed(bytes(frame), NOTHING, {10: 100, 20: 200, 0: 5})
    expected = outcome if isinstance(outcome, Verdict) else (outcome[0], bytes(outcome[1]), said(NOTHING))
    assert answer == expected


def test_without_a_native_segment_nobody_has_frames_without_a_tag() -> None:
    for frame, verdict in [
        (ETHER / PACKET, Verdict.UNKNOWN_VLAN),
        (ETHER / Dot1Q(vlan=0) / PACKET, Verdict.UNKNOWN_VLAN),
        (ETHER / Dot1AD(vlan=10) / PACKET, Verdict.INNER_VLAN),
    ]:
        assert claimed(bytes(frame), NOTHING, {10: 100}) == verdict
    assert claimed(bytes(ETHER)[:12] + b"\x81\x00", NOTHING, {10: 100}) == Verdict.INNER_TOO_SHORT


def test_a_vlan_is_one_that_there_is() -> None:
    trunk = OverlayPort()
    for vlan in (0, 4095, -1):
        with pytest.raises(ValueError, match="1 to 4094 is right"):
            VlanPort(trunk, vlan, 0)
        with pytest.raises(ValueError, match="1 to 4094 is right"):
            trunk.set_vlan(vlan, None)
    trunk.segment = UNCLAIMED
    assert trunk.segment == UNCLAIMED
