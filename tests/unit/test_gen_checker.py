"""What a receiver makes of frames: lost, reordered, duplicated, damaged; and that nothing ever raises."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vxcore import PacketBatch, wire
from vxcore.gen import Checker, Plan, Received, bucket_ends, received

WINDOW = 1024
MOST = 3000
FRAMES = {}


def frame(sequence: int, size: int = 64) -> bytes:
    """Of the one stream of a plan; all up to MOST are made once."""
    if size not in FRAMES:
        batch = PacketBatch(MOST, frame_size=size)
        Plan(run=5, size=size).generator().fill(batch, time_ns=0)
        FRAMES[size] = batch.to_frames()
    return FRAMES[size][sequence]


def stamped(sequence: int, time_ns: int) -> bytes:
    """The same, sent at another time."""
    batch = PacketBatch(sequence + 1)
    Plan(run=5).generator().fill(batch, time_ns=time_ns)
    return batch.to_frames()[sequence]


def check(frames: list[bytes], time_ns: int = 0) -> Received:
    checker = Checker()
    checker.take(PacketBatch.from_frames(frames), time_ns)
    return received(checker)


def counted(sequences: list[int]) -> dict[str, int]:
    """The definitions, in as few words as can be."""
    seen: set[int] = set()
    count = Counter(lost=0, duplicated=0, reordered=0, late=0)
    for n in sequences:
        following = max(seen) + 1 if seen else n
        if n < following - WINDOW:
            count["late"] += 1
            continue
        count["duplicated"] += n in seen
        count["reordered"] += n not in seen and n < following
        seen.add(n)
    count["lost"] = max(seen) + 1 - min(seen) - len(seen)
    return dict(count)


@st.composite
def arrivals(draw: st.DrawFn) -> list[int]:
    """A stream of which some are lost, some come twice, and some come later."""
    start, n = draw(st.integers(0, MOST - 600)), draw(st.integers(1, 500))
    kept = [i for i in range(start, start + n) if draw(st.integers(0, 9))] or [start]
    again = draw(st.lists(st.sampled_from(kept), max_size=20))
    delays = {i: draw(st.integers(0, 40)) for i in draw(st.lists(st.sampled_from(kept), max_size=20))}
    order = sorted((i + delays.get(i, 0), i) for i in kept) + [
        (i + draw(st.integers(0, 50)), i) for i in again
    ]
    return [i for _, i in sorted(order)]


@settings(max_examples=60, deadline=None)
@given(arrivals())
def test_what_is_counted_is_what_happened(sequences: list[int]) -> None:
    got = check([frame(n) for n in sequences])
    assert {name: getattr(got, name) for name in ("lost", "duplicated", "reordered", "late")} == counted(
        sequences
    )
    assert (got.packets, got.streams, got.corrupted) == (len(sequences), 1, 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, MOST - 1), min_size=1, max_size=60))
def test_any_order_at_all(sequences: list[int]) -> None:
    """Jumps over more than the window, and back."""
    got = check([frame(n) for n in sequences])
    expected = counted(sequences)
    assert {name: getattr(got, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("sequences", "expected"),
    [
        ([0, 1, 2, 3], {"lost": 0, "reordered": 0, "duplicated": 0, "before": 0}),
        ([0, 1, 3], {"lost": 1}),
        ([5, 6, 9], {"lost": 2, "before": 5}),
        ([0, 2, 1, 3], {"lost": 0, "reordered": 1}),
        ([1, 0], {"lost": 0, "reordered": 1, "before": 0}),
        ([0, 1, 1, 1], {"duplicated": 2}),
        ([0, 3, 1, 1], {"lost": 1, "reordered": 1, "duplicated": 1}),
        ([0, 1500, 1], {"lost": 1499, "late": 1}),
        ([0, 1024, 1], {"lost": 1022, "reordered": 1}),
        ([0, 1024, 0], {"lost": 1023, "late": 1}),
        ([0, 1500, 1, 1025], {"lost": 1498, "late": 1, "reordered": 1, "duplicated": 0}),
    ],
)
def test_by_example(sequences: list[int], expected: dict[str, int]) -> None:
    got = check([frame(n) for n in sequences])
    assert {name: getattr(got, name) for name in expected} == expected


def test_a_stream_whose_first_frame_is_early_has_the_latencies_of_the_others() -> None:
    checker = Checker()
    for sequence, latency in enumerate((-5, 300, 100, 200)):
        checker.take_frame(stamped(sequence, 10_000), 10_000 + latency)
    (row,) = received(checker).rows
    assert (row.latency_least, row.latency_mean, row.latency_most) == (100, 200, 300)


def test_a_sender_that_lies_about_its_times_makes_no_mean_below_zero() -> None:
    checker, now = Checker(), (1 << 47) - 1
    liar = stamped(0, 0)
    for _ in range((1 << 16) + 2):
        checker.take_frame(liar, now)
    (row,) = received(checker).rows
    assert row.latency_mean == pytest.approx(now)


def test_streams_are_kept_apart_and_the_worst_comes_first() -> None:
    batch = PacketBatch(40)
    Plan(vnis="42,43", flows=2, run=9).generator().fill(batch)
    kept = [one for n, one in enumerate(batch.to_frames()) if n not in (4 * 3 + 2, 4 * 5 + 2, 4 * 6 + 1)]
    got = check(kept)
    assert (got.streams, got.lost) == (4, 3)
    assert [(row.run, row.stream, row.lost) for row in got.rows] == [
        (9, 2, 2),
        (9, 1, 1),
        (9, 0, 0),
        (9, 3, 0),
    ]
    assert got.rows[0].vni is None


def test_two_runs_are_two_streams() -> None:
    pair = []
    for run in (1, 2):
        batch = PacketBatch(3)
        Plan(run=run).generator().fill(batch)
        pair += batch.to_frames()
    got = check(pair)
    assert (got.streams, got.duplicated, got.lost) == (2, 0, 0)


def test_more_streams_than_there_is_room_for() -> None:
    batch, checker = PacketBatch(1000), Checker(max_streams=100)
    Plan(flows=500).generator().fill(batch)
    assert checker.take(batch) == 1000
    got = received(checker)
    assert (got.packets, got.streams, got.untracked) == (1000, 100, 800)


# Latency


def test_latency_is_the_time_between(monkeypatch: pytest.MonkeyPatch) -> None:
    checker = Checker()
    for n, ns in enumerate([10, 100, 1000, 10_000, 100_000]):
        assert checker.take_frame(frame(n), time_ns=ns)
    latency = received(checker).latency
    assert latency is not None
    assert (latency.least, latency.most, latency.mean) == (10, 100_000, 22222)
    assert 1000 <= latency.median < 1017
    assert latency.p90 == latency.p999 == 100_000
    assert sum(n for _, n in latency.histogram) == 5


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**47 - 1))
def test_a_bucket_is_at_most_a_sixty_fourth_wide(ns: int) -> None:
    checker = Checker()
    checker.take_frame(frame(0), time_ns=ns)
    latency = received(checker).latency
    assert latency is not None
    ((end, n),) = latency.histogram
    assert n == 1
    assert ns <= end <= ns + ns / 64


def test_buckets_grow() -> None:
    ends = bucket_ends()
    assert (np.diff(ends) > 0).all()
    assert ends[-1] == 2**47 - 1


def test_a_frame_from_the_future_has_no_latency() -> None:
    batch, checker = PacketBatch(1), Checker()
    Plan().generator().fill(batch, time_ns=1_000_000)
    checker.take(batch, 999_999)
    got = received(checker)
    assert (got.early, got.latency, got.packets) == (1, None, 1)


def test_the_stamp_outlasts_its_48_bits() -> None:
    sent, batch, checker = 2**48 * 5 - 100, PacketBatch(1), Checker()
    Plan().generator().fill(batch, time_ns=sent)
    checker.take(batch, sent + 300)
    latency = received(checker).latency
    assert latency is not None
    assert latency.least == 300


# Hostile and damaged frames


def test_every_bit_that_is_wrong_is_seen() -> None:
    """Behind the IP header; what is in front is the network's business."""
    whole = frame(7, 100)
    for at in range(34, 100):
        for bit in range(8):
            bad = bytearray(whole)
            bad[at] ^= 1 << bit
            got = check([bytes(bad)])
            assert got.packets == 0, (at, bit)
            is_stamped = at not in (42, 43)
            assert (got.corrupted, got.other) == (is_stamped, not is_stamped), (at, bit)


def forged(sequence: int, run: int = 5) -> bytes:
    """With a right checksum."""
    bad = bytearray(frame(0))
    bad[44:46], bad[50:58] = run.to_bytes(2), sequence.to_bytes(8)
    bad[40:42] = bytes(2)
    pseudo = wire.pseudo_header(bytes(bad[26:30]), bytes(bad[30:34]), 17, 30)
    bad[40:42] = (wire.internet_checksum(pseudo + bytes(bad[34:])) or 0xFFFF).to_bytes(2)
    return bytes(bad)


@pytest.mark.parametrize("sequence", [2**64 - 1, 2**63, 2**62])
def test_a_number_that_nobody_reaches_is_damage(sequence: int) -> None:
    assert check([forged(sequence)]).corrupted == 1


def test_a_jump_that_nobody_makes_is_damage() -> None:
    got = check([frame(0), forged(2**40), frame(1)])
    assert (got.corrupted, got.packets, got.lost) == (1, 2, 0)


def test_the_filler_is_compared_where_there_is_no_checksum() -> None:
    bad = bytearray(frame(0, 100))
    bad[40:42], bad[90] = bytes(2), bad[90] ^ 1
    assert check([bytes(bad)]).corrupted == 1
    bad[90] ^= 1
    assert check([bytes(bad)]).packets == 1


def test_a_super_frame_is_its_pieces() -> None:
    """As a VTEP joins frames for a TAP: one header, the payloads one behind the other, no checksum yet."""
    one, two, three = (bytearray(frame(n, 100)) for n in (0, 1, 3))
    joined = one + two[42:] + three[42:]
    joined[16:18], joined[38:40] = (len(joined) - 14).to_bytes(2), (len(joined) - 34).to_bytes(2)
    checker = Checker()
    checker.take_frame(joined, time_ns=0, piece=58)
    got = received(checker)
    assert (got.packets, got.lost, got.bytes, got.corrupted) == (3, 1, 300, 0)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 64), st.integers(0, 3))
def test_nothing_raises(tail: bytes, kept: int, piece: int) -> None:
    checker = Checker(max_streams=1)
    checker.take_frame(frame(1)[:kept] + tail, piece=piece)
    checker.take_frame(tail, piece=piece)
    totals = received(checker)
    assert totals.packets + totals.corrupted + totals.other >= min(1, len(tail))


def test_an_empty_checker_has_a_report() -> None:
    got = received(Checker())
    assert (got.packets, got.lost, got.latency, got.rows, got.packets_per_s) == (0, 0, None, [], 0.0)


def test_the_room_for_streams_is_bounded() -> None:
    for wrong in (0, 2**20 + 1):
        with pytest.raises(ValueError, match="max_streams"):
            Checker(max_streams=wrong)
