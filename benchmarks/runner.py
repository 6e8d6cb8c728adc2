"""Runs suites one after the other, and makes one result of what they measured.

Place in the house: above suites, below command.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from benchmarks import machine
from benchmarks.options import Options
from benchmarks.progress import Progress
from benchmarks.results import Result, Suite
from benchmarks.session import SessionError
from benchmarks.suites import Chosen
from benchmarks.tally import Tally


def estimate(chosen: Sequence[Chosen], options: Options) -> float:
    """About how many seconds all of it takes on a quiet machine."""
    return sum(each.suite.seconds(each.patterns, options) for each in chosen)


def run(chosen: Sequence[Chosen], options: Options, command: str, progress: Progress) -> Result:
    """Measure all that was chosen."""
    suites = {}
    with progress:
        for each in chosen:
            progress.suite(each.suite.name, each.suite.seconds(each.patterns, options))
            suites[each.suite.name] = _suite(each, options, command, progress)
    return Result(suites=suites)


def _suite(chosen: Chosen, options: Options, command: str, progress: Progress) -> Suite:
    suite, tally = chosen.suite, Tally()
    date, started = datetime.now(UTC), time.monotonic()
    environment = machine.environment(suite.tools(), suite.offloads())
    meter = machine.Meter()
    try:
        suite.measure(chosen.patterns, options, tally, progress.case)
    except SessionError as error:
        tally.miss(suite.name, str(error), "failed")
    environment = machine.disturbed(environment, meter)
    return Suite(
        command=command,
        date=date.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 1),
        quick=options.quick,
        environment=environment,
        measurements=tally.measurements(),
        missing=tuple(tally.missing.values()),
    )
