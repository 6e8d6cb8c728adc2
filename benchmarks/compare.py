"""Two results, case by case: faster, slower, the same, or it cannot be told; for people and for CI.

Place in the house: above results and intervals, below command.

Times are told apart by the interval of the ratio of their medians (intervals.py): all of it on one side of 1,
and the ratio further from 1 than the threshold, is a change; all of it within the threshold is none; anything
else cannot be told. Neither can what was noisy, what one process measured alone (what differs between
processes is then unknown), what another processor measured, and what somebody beside it, whom nobody changed,
has done as well. Instructions that were counted have no interval: a threshold of their own is all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct, structs

from benchmarks import intervals
from benchmarks.results import COUNTED, Measurement, Result, Suite, grouped
from vxcore.columns import columns

Verdict = Literal["faster", "slower", "same", "cannot tell", "new", "gone"]
THRESHOLD = 0.05
"""How far from 1 a ratio of times must be to be a change."""
COUNTED_THRESHOLD = 0.005
"""The same of instructions: counts of one build repeat, but a compiler's mood is no change of ours."""


class Row(Struct, frozen=True, kw_only=True):
    """One measurement in both results."""

    name: str
    """SUITE/CASE/WHO."""
    unit: str
    verdict: Verdict
    why: str = ""
    """Of what cannot be told."""
    old: float | None = None
    new: float | None = None
    ratio: float | None = None
    """NEW / OLD, of medians."""
    low: float | None = None
    high: float | None = None
    """The interval in which the ratio lies with a confidence of 95%; null: instructions are counted."""

    @property
    def is_ours(self) -> bool:
        """Whether this is vxcore, and not somebody beside it."""
        return "vxcore" in self.name.rpartition("/")[2]


class Comparison(Struct, frozen=True, kw_only=True):
    """All measurements of two results."""

    threshold: float
    differences: tuple[str, ...]
    """In what the two runs were not alike."""
    rows: tuple[Row, ...]


def compared(old: Result, new: Result, threshold: float = THRESHOLD) -> Comparison:
    """Everything that is in either."""
    differences: dict[str, None] = {}
    rows: list[Row] = []
    for name in dict.fromkeys([*old.suites, *new.suites]):
        before, after = old.suites.get(name), new.suites.get(name)
        if before is None or after is None:
            rows += _alone(name, before or after, "new" if before is None else "gone")
            continue
        unlike = _unlike(before, after)
        differences |= dict.fromkeys(f"{name}: {each}" for each in unlike)
        rows += _suite(name, before, after, threshold, "; ".join(unlike))
    return Comparison(threshold=threshold, differences=tuple(differences), rows=tuple(rows))


def _alone(name: str, suite: Suite | None, verdict: Verdict) -> Iterator[Row]:
    for each in suite.measurements if suite else ():
        yield Row(name=f"{name}/{each.name}", unit=each.unit, verdict=verdict)


def _unlike(old: Suite, new: Suite) -> list[str]:
    """Why times cannot be compared."""
    found = []
    for what in ("cpu", "n_cpus"):
        before, after = getattr(old.environment, what), getattr(new.environment, what)
        if before != after:
            found.append(f"{what} was {before} and is {after}")
    if old.quick != new.quick:
        found.append("one run was quick, the other not")
    return found


def _suite(name: str, old: Suite, new: Suite, threshold: float, unlike: str) -> list[Row]:
    before, after = old.found(), new.found()
    rows = []
    for each in dict.fromkeys([*before, *after]):
        if each not in before or each not in after:
            one = before.get(each) or after[each]
            verdict: Verdict = "gone" if each in before else "new"
            rows.append(Row(name=f"{name}/{each}", unit=one.unit, verdict=verdict))
        else:
            rows.append(_row(f"{name}/{each}", before[each], after[each], threshold, unlike))
    return [_beside(row, rows) for row in rows]


def _row(name: str, old: Measurement, new: Measurement, threshold: float, unlike: str) -> Row:
    row = Row(
        name=name,
        unit=old.unit,
        verdict="cannot tell",
        old=old.median,
        new=new.median,
        ratio=new.median / old.median,
    )
    if old.unit == COUNTED:
        assert row.ratio is not None
        return structs.replace(row, verdict=_verdict(row.ratio, row.ratio, row.ratio, COUNTED_THRESHOLD, new))
    before, after = grouped(old.samples), grouped(new.samples)
    low, high = intervals.of_ratio(after, before)
    row = structs.replace(row, low=low, high=high)
    why = unlike or _doubt(old, "the old one") or _doubt(new, "the new one")
    if why:
        return structs.replace(row, why=why)
    if min(len(before), len(after)) < 2:
        return structs.replace(row, why="one process measured it: --rounds 3 has three")
    assert row.ratio is not None
    verdict = _verdict(row.ratio, low, high, threshold, new)
    return structs.replace(row, verdict=verdict, why="a wide interval" if verdict == "cannot tell" else "")


def _doubt(one: Measurement, which: str) -> str:
    return f"{which} is noisy: {', '.join(one.noisy)}" if one.noisy else ""


def _verdict(ratio: float, low: float, high: float, threshold: float, one: Measurement) -> Verdict:
    if 1 - threshold <= low and high <= 1 + threshold:
        return "same"
    if low <= 1 <= high or 1 - threshold <= ratio <= 1 + threshold:
        return "cannot tell"
    return "slower" if (ratio > 1) == (one.better == "lower") else "faster"


def _beside(row: Row, rows: list[Row]) -> Row:
    """What a neighbour in the same case did too is the machine's."""
    case = row.name.rpartition("/")[0]
    if not row.is_ours or row.verdict not in ("faster", "slower") or row.unit == COUNTED:
        return row
    alike = [
        other
        for other in rows
        if other.name.rpartition("/")[0] == case and not other.is_ours and other.verdict == row.verdict
    ]
    if not alike:
        return row
    who = alike[0].name.rpartition("/")[2]
    return structs.replace(row, verdict="cannot tell", why=f"{who} is {row.verdict} too: the machine changed")


def table(comparison: Comparison) -> Iterator[str]:
    """For people."""
    yield from (f"not alike: {each}" for each in comparison.differences)
    titles = ("case", "verdict", "unit", "old", "new", "new/old", "from", "to")
    yield from columns(titles, [_cells(row) for row in comparison.rows], n_left=3)
    counts = {
        verdict: sum(row.verdict == verdict for row in comparison.rows if row.is_ours)
        for verdict in dict.fromkeys(row.verdict for row in comparison.rows)
    }
    yield "of vxcore: " + ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
    yield from (f"{row.name}: {row.why}" for row in comparison.rows if row.why)


def _cells(row: Row) -> tuple[str, ...]:
    figures = (row.old, row.new, row.ratio, row.low, row.high)
    return row.name, row.verdict, row.unit, *("" if value is None else f"{value:.4g}" for value in figures)
