"""Joining frames: whatever comes, cutting again what was joined gives the same frames in the same order."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import offload
from support.offload import ACK, DF, ETH, FIN, PSH, TCP, UDP
from support.senders import TWISTS, Sender, flipped, is_ipv4

from vxcore._fast.gro import joined

ECE, URG, SYN, RST, CWR, AE = 0x40, 0x20, 0x02, 0x04, 0x80, 0x100
ODD_FLAGS = [PSH, FIN, FIN | PSH, ECE, CWR, URG, SYN, RST, AE]
FLAGS = [ACK] * 8 + [ACK | flag for flag in ODD_FLAGS] + [0, PSH]
Frames = list[bytes]

payloads = st.one_of(st.just(64), st.just(64), st.integers(0, 70)).map(lambda n: bytes(range(n)))
senders = st.builds(
    Sender,
    version=st.sampled_from([4, 6]),
    proto=st.sampled_from([TCP, UDP]),
    number=st.integers(1, 3),
    tos=st.sampled_from([0, 2]),
    fragment=st.sampled_from([DF, 0, 0x8000]),
    ident=st.sampled_from([0, 0xFFFE]),
    ident_step=st.sampled_from([0, 1, 1, 2]),
    sequence=st.sampled_from([1, 0xFFFFFFC0, 0xFFFFFF01]),
    options=st.sampled_from([b"", b"\1\1\x08\x0a" + bytes(8)]),
)
# What a sender changes between two frames, some of it back again.
CHANGES: dict[str, Any] = {
    "nothing": lambda s: None,
    "acknowledgement": lambda s: setattr(s, "acknowledged", s.acknowledged ^ 1),
    "window": lambda s: setattr(s, "window", s.window ^ 1),
    "urgent pointer": lambda s: setattr(s, "urgent", s.urgent ^ 1),
    "TTL": lambda s: setattr(s, "ttl", s.ttl ^ 1),
    "ECN": lambda s: setattr(s, "tos", s.tos ^ 1),
    "class": lambda s: setattr(s, "tos", s.tos ^ 0x20),
    "identification": lambda s: setattr(s, "ident", s.ident ^ 0x100),
    "identification again": lambda s: setattr(s, "ident", (s.ident - s.ident_step) & 0xFFFF),
    "DF": lambda s: setattr(s, "fragment", s.fragment ^ DF),
    "a gap": lambda s: setattr(s, "sequence", (s.sequence + 1) & 0xFFFFFFFF),
    "a repetition": lambda s: setattr(s, "sequence", (s.sequence - 64) & 0xFFFFFFFF),
    "options": lambda s: setattr(s, "options", flipped(s.options, -1, 1) if s.options else b""),
    "more options": lambda s: setattr(s, "options", b"" if s.options else b"\1" * 4),
}


def sent(parts: list[tuple[bytes, dict[str, int]]]) -> Frames:
    """What a network without offloads would carry of them."""
    return [frame for one in parts for frame in offload.expanded(*one)]


def finished(frames: Frames) -> Frames:
    """The frames, with the checksums that are partial finished."""
    apart = [(frame, offload.parts(frame)) for frame in frames]
    return [of.frame() if of and frame == offload.partial(frame) else frame for frame, of in apart]


def by_flow(frames: Frames) -> dict[bytes, Frames]:
    """By addresses, which all frames of a flow here share, with what DF makes meaningless taken out."""
    flows = defaultdict(list)
    for frame in frames:
        one = offload.anonymous([frame])[0] if is_ipv4(frame) and frame[20] & 0x40 else frame
        flows[frame[12:ETH] + (frame[26:34] if is_ipv4(frame) else frame[22:54])].append(one)
    return flows


@st.composite
def traffic(draw: Any) -> Frames:
    """Frames of several flows in turn, each with its share of the unusual."""
    flows = draw(st.lists(senders, min_size=1, max_size=4, unique_by=lambda s: (s.version, s.number)))
    odd = draw(st.sampled_from([0, 2, 10]))
    frames = []
    for _ in range(draw(st.integers(1, 40))):
        flow = draw(st.sampled_from(flows))
        unusual = odd and draw(st.integers(0, 19)) < odd
        CHANGES[draw(st.sampled_from(sorted(CHANGES))) if unusual else "nothing"](flow)
        frame = flow.send(draw(payloads), draw(st.sampled_from(FLAGS)) if unusual else ACK)
        twist = draw(st.sampled_from(sorted(TWISTS))) if unusual else "as it is"
        frames.append(TWISTS[twist](frame))
    return frames


@settings(max_examples=300, deadline=None)
@given(traffic(), st.booleans(), st.booleans())
def test_no_flow_loses_gains_or_reorders_a_byte(frames: Frames, tcp: bool, udp: bool) -> None:
    assert by_flow(sent(joined(frames, tcp=tcp, udp=udp))) == by_flow(finished(frames))


steps = st.tuples(payloads, st.sampled_from(FLAGS), *map(st.sampled_from, (sorted(CHANGES), sorted(TWISTS))))


@settings(max_examples=300, deadline=None)
@given(senders, st.lists(steps))
def test_one_flow_is_joined_wherever_the_reference_allows_it(sender: Sender, taken: list[Any]) -> None:
    frames = []
    for payload, flags, change, twist in taken:
        CHANGES[change](sender)
        frames.append(TWISTS[twist](sender.send(payload, flags)))
    made = joined(frames)
    assert [len(offload.expanded(*one)) for one in made] == [len(group) for group in offload.join(frames)]


def flow(n: int, **options: Any) -> Frames:
    sender = Sender(**options)
    return [sender.send(bytes([i % 256]) * 64) for i in range(n)]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("proto", [TCP, UDP])
@pytest.mark.parametrize("partial", [False, True])
def test_a_plain_run_becomes_one(version: int, proto: int, partial: bool) -> None:
    frames = flow(64, version=version, proto=proto, sequence=0xFFFFF000)
    given_ = [offload.partial(frame) for frame in frames] if partial else frames
    ((frame, vnet),) = joined(given_)
    assert offload.expanded(frame, vnet) == frames
    assert [len(offload.expanded(*one)) for one in joined(given_ + given_)] == [64, 64]


@pytest.mark.parametrize("change", sorted(set(CHANGES) - {"nothing"}))
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("proto", [TCP, UDP])
def test_a_change_of_any_header_field_starts_anew(change: str, version: int, proto: int) -> None:
    sender = Sender(version, proto, fragment=0, options=b"\1\1\x08\x0a" + bytes(8))
    frames = [sender.send(b"x" * 64) for _ in range(2)]
    CHANGES[change](sender)
    frames += [sender.send(b"x" * 64) for _ in range(2)]
    tcp_only = change not in ("TTL", "ECN", "class", "identification", "identification again", "DF")
    matters = not (tcp_only and proto == UDP)
    if version == 6 and change in ("identification", "identification again", "DF"):
        matters = False
    assert [len(offload.expanded(*one)) for one in joined(frames)] == ([2, 2] if matters else [4])


@pytest.mark.parametrize("twist", sorted(set(TWISTS) - {"as it is", "checksum partial"}))
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("proto", [TCP, UDP])
def test_a_doubtful_frame_goes_singly_and_in_its_place(twist: str, version: int, proto: int) -> None:
    frames = flow(5, version=version, proto=proto)
    frames[2] = TWISTS[twist](frames[2])
    made = joined(frames)
    assert sent(made) == frames
    assert [len(offload.expanded(*one)) for one in made] == [2, 1, 2]


@pytest.mark.parametrize("flags", sorted(set(FLAGS) - {ACK}))
def test_flags_end_a_run_or_stand_alone(flags: int) -> None:
    sender = Sender()
    frames = [sender.send(b"x" * 64, flags if n == 2 else ACK) for n in range(5)]
    expected = [3, 2] if flags & ~(FIN | PSH) == ACK else [2, 1, 2]
    assert [len(offload.expanded(*one)) for one in joined(frames)] == expected


def test_flows_in_turn_do_not_disturb_each_other() -> None:
    flows = [flow(20, number=n, version=4 + n % 2 * 2, proto=TCP if n % 3 else UDP) for n in range(1, 13)]
    in_turn = [frame for row in zip(*flows, strict=True) for frame in row]
    made = [offload.expanded(*one) for one in joined(in_turn)]
    assert by_flow([frame for one in made for frame in one]) == by_flow(in_turn)
    # Some share a place where they wait, and then push each other out.
    assert sum(one in made for one in flows) >= len(flows) / 4


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("proto", [TCP, UDP])
def test_a_super_frame_is_at_most_what_an_ip_packet_holds(version: int, proto: int) -> None:
    sender = Sender(version, proto)
    frames = [sender.send(bytes([n]) * 8000) for n in range(10)]
    made = joined(frames, mtu=9000)
    assert [len(offload.expanded(*one)) for one in made] == [8, 2]
    assert sent(made) == frames
    overhead = len(frames[0]) - ETH - 8000
    sender = Sender(version, proto)
    frames = [sender.send(b"a" * 13000) for _ in range(5)] + [sender.send(b"b" * (535 - overhead))]
    ((frame, _),) = joined(frames, mtu=15000)
    assert len(frame) == ETH + 65535
    frames[-1:] = [Sender(version, proto, sequence=1 + 65000, ident=5).send(b"b" * (536 - overhead))]
    assert [len(offload.expanded(*one)) for one in joined(frames, mtu=15000)] == [5, 1]


def test_what_is_switched_off_is_not_joined() -> None:
    for proto, off in ((TCP, {"tcp": False}), (UDP, {"udp": False})):
        frames = flow(3, proto=proto)
        assert [frame for frame, _ in joined(frames, **off)] == frames


def test_one_identification_for_all_is_joined_where_df_allows_it() -> None:
    assert len(joined(flow(4, ident_step=0))) == 1
    assert len(joined(flow(4, ident_step=0, fragment=0))) == 4
    mixed = flow(3, ident_step=0, ident=7) + flow(1, ident=10)
    mixed[3] = Sender(ident=10, sequence=1 + 3 * 64).send(b"x" * 64)
    assert len(joined(mixed)) == 2


@pytest.mark.parametrize("version", [4, 6])
def test_a_tcp_super_frame_from_a_peer_on_this_machine_is_cut_to_the_mtu(version: int) -> None:
    frame = Sender(version).send(b"x" * 40000)
    ((made, vnet),) = joined([offload.partial(frame)], mtu=1450)
    pieces = offload.expanded(made, vnet)
    assert pieces == offload.cut(frame, vnet["gso_size"])
    assert max(map(len, pieces)) == ETH + 1450
