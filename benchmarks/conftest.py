"""Gives each test of bench_*.py its Case, and tells `vxcore bench` what was measured.

Place in the house: above measuring and machine. By itself, `pytest benchmarks` shows pytest-benchmark's
tables; `session.py` starts it with --tell, and reads a line of JSON for each thing that happened.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from fnmatch import fnmatch
from statistics import median
from typing import Any

import msgspec
import pytest

from benchmarks.machine import Meter, noise_of, shares_told
from benchmarks.measuring import Case
from benchmarks.peers import AbsentError
from benchmarks.results import Missing

_CASE = pytest.StashKey[Case]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("vxcore")
    group.addoption("--quick", action="store_true", help="fewer rounds, smaller tables and files")
    group.addoption("--case", action="append", default=[], metavar="PATTERN", help="only these cases")
    group.addoption("--tell", type=int, metavar="FD", help="write there what happens, as lines of JSON")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: takes too long for --quick")
    if config.getoption("--tell") is not None:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # leave by the way that cleans up


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    patterns, quick = config.getoption("--case"), config.getoption("--quick")
    chosen = [
        item
        for item in items
        if (not patterns or any(fnmatch(name_of(item), pattern) for pattern in patterns))
        and not (quick and item.get_closest_marker("full"))
    ]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen
    _tell(config, {"chosen": [name_of(item) for item in items]})


def name_of(item: pytest.Item) -> str:
    """``test_lookup[1,000]`` -> ``lookup/1,000``."""
    name, _, parameter = item.name.removeprefix("test_").partition("[")
    return f"{name}/{parameter.rstrip(']')}" if parameter else name


@pytest.fixture
def quick(request: pytest.FixtureRequest) -> bool:
    """Whether this is to be short."""
    return bool(request.config.getoption("--quick"))


@pytest.fixture
def case(request: pytest.FixtureRequest, quick: bool) -> Iterator[Case]:
    """Where a test puts what it has measured."""
    made = request.node.stash[_CASE] = Case(name_of(request.node), quick)
    meter = Meter()
    yield made
    foreign, steal = meter.shares()
    if made.foreign_between:
        foreign = median(made.foreign_between)
    noise, others = noise_of(foreign, steal), shares_told(foreign, steal)
    for told in made.told:
        told["samples"] = [
            msgspec.structs.replace(sample, noise=noise, details={**sample.details, **others})
            for sample in told["samples"]
        ]


def _skipping() -> Iterator[None]:
    """Who is absent is named, and no failure."""
    try:
        return (yield)
    except AbsentError as error:
        pytest.skip(str(error))


pytest_pyfunc_call = pytest_fixture_setup = pytest.hookimpl(wrapper=True)(_skipping)


def pytest_runtest_setup(item: pytest.Item) -> None:
    _tell(item.config, {"began": name_of(item)})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: pytest.TestReport = yield
    if not report.passed:
        item.stash[_CASE] = Case("", quick=False)
        kind = "absent" if report.skipped else "failed"
        _tell(item.config, {"missing": Missing(name=name_of(item), reason=_reason(report), kind=kind)})
    elif report.when == "teardown" and _CASE in item.stash:
        for missing in item.stash[_CASE].missing:
            _tell(item.config, {"missing": missing})
        for told in item.stash[_CASE].told:
            _tell(item.config, {"measured": told})
    return report


def _reason(report: pytest.TestReport) -> str:
    if report.skipped and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return " ".join(str(getattr(report.longrepr, "reprcrash", None) or report.longrepr).split())


def _tell(config: pytest.Config, what: dict[str, Any]) -> None:
    descriptor = config.getoption("--tell")
    if descriptor is not None:
        os.write(descriptor, msgspec.json.encode(what) + b"\n")
