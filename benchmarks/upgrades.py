"""Upgrades under traffic: what is lost, and how long lanes stand; the table of docs/upgrade.md.

Place in the house: beside suites, for nobody else has such a thing. The traffic is that of
tests/support/upgrading.py; results/upgrades.json, of which the table is made, keeps the figures.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal

import msgspec
from msgspec import Struct
from support.hosts import Lan
from support.upgrading import KINDS, RATE, upgraded_under_traffic

from benchmarks import ROOT, machine, peers
from benchmarks.datapath.report import paragraph, row
from benchmarks.results import Environment

RESULTS = ROOT / "benchmarks" / "results" / "upgrades.json"
PAGE = ROOT / "docs" / "upgrade.md"
MARKS = ("<!-- upgrades: made by `make docs`, do not edit -->", "<!-- upgrades: end -->")


class Upgrades(Struct, frozen=True, kw_only=True):
    """Of one kind of ports; times in milliseconds."""

    upgrades: int
    sent: int
    missing: int
    dropped: int
    median_ms: float
    max_ms: float


class Run(Struct, frozen=True, kw_only=True):
    """All kinds."""

    format: Literal["vxcore-upgrades/2"] = "vxcore-upgrades/2"
    command: str
    date: str
    environment: Environment
    kinds: dict[str, Upgrades]


def measure(n_upgrades: int, kinds: list[str]) -> Iterator[Run]:
    """So many upgrades of each kind, one after the other; what is known after each."""
    environment = machine.environment(peers.versions(("iproute2",)), {})
    meter, started = machine.Meter(), datetime.now(UTC)
    found: dict[str, Upgrades] = {}
    for kind in kinds:
        found[kind] = _measured(kind, n_upgrades)
        yield Run(
            command=f"python -m benchmarks.upgrades --run {n_upgrades}",
            date=started.isoformat(timespec="minutes"),
            environment=machine.disturbed(environment, meter),
            kinds=found,
        )


def _measured(kind: str, n_upgrades: int) -> Upgrades:
    with Lan(2) as lan:
        found = upgraded_under_traffic(lan, KINDS[kind](lan), n_upgrades)
    return Upgrades(
        upgrades=n_upgrades,
        sent=found.sent,
        missing=found.missing,
        dropped=found.dropped,
        median_ms=round(statistics.median(found.stood_ms), 1),
        max_ms=round(max(found.stood_ms), 1),
    )


def section(run: Run) -> str:
    """The table, marks included."""
    where = run.environment
    lines = [
        MARKS[0],
        row("Underlay, overlay", "Upgrades", "Packets", "Missing", "No room", "Stood: median, longest"),
        row("---", "--:", "--:", "--:", "--:", "--:"),
        *(
            row(
                *(kind, str(each.upgrades), f"{each.sent:,}", str(each.missing), str(each.dropped)),
                f"{each.median_ms} ms, {each.max_ms} ms",
            )
            for kind, each in run.kinds.items()
        ),
        "",
        *paragraph(
            f"{where.cpu}, {where.n_cpus} CPUs, Linux {where.kernel}, {where.distribution}, Python "
            f"{where.python}. Commit {where.commit}, {run.date}, `{run.command}`. {RATE:,} numbered packets "
            "a second were to go each way, beside a TCP connection that lasted. Meanwhile other processes, "
            f"VTEPs that had been upgraded among them, took {where.foreign_share:.0%} of the machine's CPU "
            f"time, and the hypervisor {where.steal_share:.0%}."
        ),
        MARKS[1],
    ]
    return "\n".join(lines)


def page(text: str) -> str:
    """The page with the table of the results that are kept."""
    run = msgspec.json.decode(RESULTS.read_bytes(), type=Run)
    before, _, rest = text.partition(MARKS[0])
    return before + section(run) + rest.partition(MARKS[1])[2]


def main() -> None:
    """Measure if that is asked for, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.upgrades", description=__doc__)
    parser.add_argument("--run", type=int, metavar="N", help="so many upgrades of each kind (100 are kept)")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    options = parser.parse_args()
    for run in measure(options.run, options.only) if options.run else ():
        RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")
    PAGE.write_text(page(PAGE.read_text()))


if __name__ == "__main__":
    main()
