"""Which suites there are, and which of their cases words choose.

Place in the house: above session and datapath, below runner.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from typing import NamedTuple, Protocol

from benchmarks.datapath.suite import DataPath
from benchmarks.options import Options
from benchmarks.session import Say, Session
from benchmarks.tally import Tally
from vxcore.commands import meant
from vxcore.errors import ConfigError


class Suite(Protocol):
    """What can be run by its name."""

    @property
    def name(self) -> str: ...

    @property
    def about(self) -> str: ...

    def cases(self, options: Options) -> list[str]: ...

    def seconds(self, patterns: Sequence[str], options: Options) -> float: ...

    def measure(self, patterns: Sequence[str], options: Options, tally: Tally, say: Say) -> None: ...

    def tools(self) -> dict[str, str]: ...

    def offloads(self) -> dict[str, dict[str, str]]: ...


_ALL: tuple[Suite, ...] = (
    Session(
        "codec",
        "encapsulation and decapsulation, beside memcpy, struct, dpkt and Scapy",
        ("codec",),
        ("numpy", "dpkt", "scapy"),
        quick_s=10,
        full_s=18,
        processes=3,
    ),
    Session(
        "tables",
        "forwarding table and segments: look up, change, flush, weigh; beside a dict and the kernel's",
        ("tables", "control", "live"),
        ("numpy", "iproute2"),
        quick_s=12,
        full_s=60,
        processes=2,
    ),
    Session(
        "capture",
        "capture files of a gigabyte, beside cat, editcap, dpkt and Scapy",
        ("capture",),
        ("editcap", "dpkt", "scapy"),
        quick_s=10,
        full_s=50,
        processes=1,
    ),
    DataPath(),
    Session(
        "scale",
        "what a packet costs by the number of segments, remotes, FDB entries and lanes; beside the kernel's",
        ("scale",),
        ("numpy", "iperf3", "iproute2"),
        quick_s=25,
        full_s=110,
        processes=1,
    ),
    Session(
        "containers",
        "containers of two hosts: until they reach each other, TCP, round trips; beside Docker's own overlay",
        ("containers",),
        ("docker", "iperf3", "iproute2"),
        quick_s=45,
        full_s=240,
        processes=1,
    ),
    Session(
        "startup",
        "start of a command and of a VTEP, and imports; beside Python, numpy, Scapy and `ip link add`",
        ("startup",),
        ("numpy", "dpkt", "scapy", "iproute2"),
        quick_s=8,
        full_s=30,
        processes=1,
    ),
    Session(
        "instructions",
        "instructions for a packet, counted by callgrind, for CI",
        ("instructions",),
        ("numpy", "valgrind"),
        quick_s=12,
        full_s=12,
        processes=1,
    ),
)
SUITES: dict[str, Suite] = {suite.name: suite for suite in _ALL}
_LONG = ("containers",)  # a quick run has them only when they are named


class Chosen(NamedTuple):
    """A suite, and patterns of its cases (none: what it measures unless more is asked for)."""

    suite: Suite
    patterns: tuple[str, ...] = ()


def chosen(words: Sequence[str], options: Options) -> list[Chosen]:
    """What words choose: names of suites, and patterns (as of the shell) of SUITE/CASE. ConfigError: none."""
    if not words:
        return [Chosen(suite) for name, suite in SUITES.items() if not (options.quick and name in _LONG)]
    found: dict[str, list[str]] = {}
    for word in words:
        if word in SUITES:
            found[word] = []
            continue
        names = _matching(word, options)
        for name, cases in names.items():
            if found.get(name) != []:
                found[name] = found.get(name, []) + cases
    return [Chosen(SUITES[name], tuple(found[name])) for name in SUITES if name in found]


def _matching(word: str, options: Options) -> dict[str, list[str]]:
    """By suite, the cases that a pattern matches, or that stand below the words of one."""
    suites = [suite for suite in SUITES.values() if fnmatch(suite.name, word.partition("/")[0])]
    names = {suite.name: suite.cases(options) for suite in suites}
    found = {
        name: [case for case in cases if _matches(f"{name}/{case}", word)] for name, cases in names.items()
    }
    if not any(found.values()):
        known = [*SUITES, *(f"{name}/{case}" for name, cases in names.items() for case in cases)]
        near = (
            meant(word, [*known, "compare", "report"])
            or f"suites are {', '.join(SUITES)}; --list shows cases"
        )
        raise ConfigError(f"{word}: no suite or case is called so; {near}")
    return {name: cases for name, cases in found.items() if cases}


def _matches(name: str, word: str) -> bool:
    return fnmatch(name, word) or fnmatch(name, f"{word.rstrip('/')}/*")
