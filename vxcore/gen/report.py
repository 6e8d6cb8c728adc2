"""What came of a run, for programs and for people: the structs that `vxcore gen --json` prints.

Place in the house: above the compiled checker, below sender and receiver.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from vxcore._fast.checker import Checker, bucket_ends

_KEY_RUN, _KEY_STREAM = 32, 0xFFFFFFFF


class Sizes(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bytes of the frames that a plan has in turn, without the check sequence of Ethernet."""

    least: int
    mean: float
    most: int


class Answers(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the emulated VTEPs got: ARP requests and solicitations, which were answered, and VXLAN packets."""

    asked: int
    packets: int
    stamped: int
    """Of the packets, those that a generator has made."""


class Sent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What went out; bytes are those of the packets from the (outer) Ethernet header on."""

    seconds: float
    packets: int
    bytes: int
    packets_per_s: float
    bits_per_s: float
    refused: int
    """Packets that the socket did not take; a receiver finds them lost."""
    run: int
    streams: int
    vteps: int
    """0: frames without VXLAN were sent."""
    sizes: Sizes
    answers: Answers | None


class Latency(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From stamp to reading, in nanoseconds; median and percentiles are up to 1.6 % too high."""

    least: int
    mean: int
    median: int
    p90: int
    p99: int
    p999: int
    most: int
    histogram: list[tuple[int, int]]
    """Frames by latency: (the largest of a bucket, frames), without the empty ones."""


class StreamRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One stream; see Received."""

    run: int
    stream: int
    vni: int | None
    packets: int
    bytes: int
    before: int
    lost: int
    duplicated: int
    reordered: int
    late: int
    latency_least: int
    latency_mean: int
    latency_most: int


class Received(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What arrived; bytes are those of the (inner) frames."""

    seconds: float
    """From the first frame to the last."""
    packets: int
    """With a stamp and whole, those that came more than once included."""
    bytes: int
    packets_per_s: float
    bits_per_s: float
    streams: int
    before: int
    """Sequence numbers below the first that came, of all streams: sent before the receiver began, or lost."""
    lost: int
    """Sequence numbers between the lowest and the highest that came, and that did not come."""
    duplicated: int
    reordered: int
    """Came after a frame of their stream with a higher number (RFC 4737 section 3.3)."""
    late: int
    """Came more than 1024 numbers behind: reordered or duplicated, nobody knows; those of the first are
    among the lost."""
    corrupted: int
    """With a stamp, but not as they were sent; they are of no stream."""
    untracked: int
    """Of the packets, those of streams for which there was no room."""
    other: int
    """Frames without a stamp."""
    foreign: int
    """On the underlay: packets that are no VXLAN packets to our port."""
    overruns: int
    """Packets that the receiver was too slow for; they are among the lost."""
    early: int
    """Stamped later than they came, for the clocks differ; in no latency."""
    latency: Latency | None
    rows: list[StreamRow]
    """Streams, those that lost most first."""


def received(checker: Checker, overruns: int = 0, limit: int = 10, tunnel: bool = False) -> Received:
    """A checker's findings, with up to `limit` streams; `tunnel` says that the VNIs are known."""
    totals, rows = checker.totals, checker.rows()
    lost = _lost(rows)
    seconds = (totals["last_ns"] - totals["first_ns"]) / 1e9
    order = np.lexsort((rows["key"], -lost.astype(np.float64)))[:limit]
    return Received(
        seconds=round(seconds, 9),
        packets=totals["received"],
        bytes=totals["bytes_"],
        packets_per_s=_rate(totals["received"], seconds),
        bits_per_s=_rate(8 * totals["bytes_"], seconds),
        streams=len(rows),
        before=_sum(rows["first"]),
        lost=_sum(lost),
        **{name: _sum(rows[name]) for name in ("duplicated", "reordered", "late")},
        **{name: totals[name] for name in ("corrupted", "untracked", "other", "foreign", "early")},
        overruns=overruns,
        latency=_latency(checker),
        rows=[_row(rows[n], int(lost[n]), tunnel) for n in order],
    )


def _lost(rows: NDArray[np.void]) -> NDArray[np.uint64]:
    """Of each stream; numbers that came twice or late are no news."""
    news = rows["received"] - rows["duplicated"] - rows["late"]
    lost: NDArray[np.uint64] = rows["next"] - rows["first"] - news
    return lost


def _sum(column: NDArray[np.uint64]) -> int:
    """Exactly, whatever an attacker's numbers are."""
    return sum(int(value) for value in column)


def _rate(amount: int, seconds: float) -> float:
    return round(amount / seconds, 1) if seconds > 0 else 0.0


def _latency(checker: Checker) -> Latency | None:
    totals, counts = checker.totals, checker.histogram
    n = totals["latencies"]
    if not n:
        return None
    ends, below = bucket_ends(), np.cumsum(counts)

    def share(wanted: float) -> int:
        end = int(ends[np.searchsorted(below, wanted * n)])
        return int(min(max(end, totals["least_ns"]), totals["most_ns"]))

    used = np.flatnonzero(counts)
    return Latency(
        least=totals["least_ns"],
        mean=round(totals["sum_ns"] / n),
        median=share(0.5),
        p90=share(0.9),
        p99=share(0.99),
        p999=share(0.999),
        most=totals["most_ns"],
        histogram=list(zip(ends[used].tolist(), counts[used].tolist(), strict=True)),
    )


def _row(row: np.void, lost: int, tunnel: bool) -> StreamRow:
    return StreamRow(
        run=int(row["key"]) >> _KEY_RUN & 0xFFFF,
        stream=int(row["key"]) & _KEY_STREAM,
        vni=int(row["vni"]) if tunnel else None,
        packets=int(row["received"]),
        bytes=int(row["bytes"]),
        before=int(row["first"]),
        lost=lost,
        **{name: int(row[name]) for name in ("duplicated", "reordered", "late")},
        latency_least=int(row["least_ns"]),
        latency_mean=round(float(row["sum_ns"]) / max(1, int(row["latencies"]))),
        latency_most=int(row["most_ns"]),
    )


def sizes(lengths: NDArray[np.uint32]) -> Sizes:
    """Of the frames that come in turn."""
    mean = round(float(lengths.mean()), 1)
    return Sizes(least=int(lengths.min()), mean=mean, most=int(lengths.max()))
