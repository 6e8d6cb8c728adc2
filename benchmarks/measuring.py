"""What a test of bench_*.py measures: sides that take turns, and what each was checked for.

Place in the house: above results and peers, below conftest, which hands a Case to each test and tells
`vxcore bench` what is in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

from benchmarks.peers import AbsentError
from benchmarks.results import Better, Missing, Sample

N_SAMPLES = 5
"""What the rounds of one process become: medians of so many stretches of them, one behind the other."""
_N_WARM_UP = 5
Call = Callable[[], Any]
Timer = Callable[[], float]


class Case:
    """One test: measurements by who was measured."""

    def __init__(self, name: str, quick: bool) -> None:
        self.name = name
        self.quick = quick
        self.told: list[dict[str, Any]] = []
        self.missing: list[Missing] = []
        self.foreign_between: list[float] = []
        """Of the CPU time what others took between turns, where in turns ours are not told from them."""

    def add(
        self,
        who: str,
        values: Sequence[float],
        unit: str,
        verified: str,
        better: Better = "lower",
        apart: bool = False,
        **details: float,
    ) -> None:
        """Values of all rounds, in order; `apart`: each round was a process of its own."""
        found = enumerate(stretches(values))
        samples = [Sample(value=value, process=apart * n, details=details) for n, value in found]
        told = {"name": f"{self.name}/{who}", "unit": unit, "better": better, "verified": verified}
        self.told.append({**told, "samples": samples})

    @contextmanager
    def may_lack(self, who: str) -> Any:
        """Around what needs somebody who may be absent: then that is told, and the rest goes on."""
        try:
            yield
        except AbsentError as error:
            self.missing.append(Missing(name=f"{self.name}/{who}", reason=str(error), kind="absent"))


def stretches(values: Sequence[float]) -> list[float]:
    """Medians of at most N_SAMPLES stretches of equal length."""
    length = max(1, len(values) // N_SAMPLES)
    starts = range(0, min(len(values), length * N_SAMPLES), length)
    return [float(median(values[start : start + length])) for start in starts]


def in_turn(
    benchmark: Any,
    sides: dict[str, Call],
    rounds: int,
    rewind: Call = lambda: None,
    timer: Timer = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each round of each side, A B A B: the first is pytest-benchmark's, the others come between.

    `rewind` puts back before each what all start from.
    """
    (first, run), *others = sides.items()
    times: dict[str, list[float]] = {name: [] for name in sides}

    def between() -> None:
        for name, other in others:
            rewind()
            started = timer()
            other()
            times[name].append(timer() - started)
        rewind()

    benchmark.pedantic(run, setup=between, rounds=rounds, warmup_rounds=min(_N_WARM_UP, rounds // 5))
    times[first] = list(benchmark.stats.stats.data)
    return {name: taken[-rounds:] for name, taken in times.items()}
