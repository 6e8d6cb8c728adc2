"""Which scenarios there are, and a run of them: in turn, round by round, so that drift hits all alike.

Place in the house: above tcp, pps and latency, below __main__.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from fnmatch import fnmatch
from os import cpu_count, getloadavg
from pathlib import Path
from platform import python_version, release
from typing import Protocol

from msgspec import structs

from benchmarks.datapath import openvswitch
from benchmarks.datapath.latency import Latency
from benchmarks.datapath.machine import (
    Meter,
    commit,
    cpu_name,
    distribution,
    version_of,
    wait_for_quiet,
)
from benchmarks.datapath.pps import SmallPackets
from benchmarks.datapath.results import Environment, Measurement, Missing, Run, Sample, measurement
from benchmarks.datapath.scale import Scale
from benchmarks.datapath.tcp import Tcp
from benchmarks.datapath.topology import MODES, Stage, offloads
from benchmarks.datapath.vteps import Vxcore, kinds

Say = Callable[[str], None]


class Scenario(Protocol):
    """One set-up, over which one thing or several are measured."""

    @property
    def names(self) -> list[str]:
        """What it measures."""

    def measure(self, wanted: list[str], scale: Scale) -> dict[str, tuple[Sample, str]]:
        """A sample of each, and what was verified."""


def scenarios(against: Path | None = None) -> list[Scenario]:
    """All there are: each kind with itself, and the first variant of vxcore with the kernel, both ways."""
    known = kinds(against)
    first = next(kind for kind in known.values() if isinstance(kind, Vxcore))
    pairs = [(kind, kind) for kind in known.values()]
    pairs += [(first, known["kernel"]), (known["kernel"], first)]
    tunnels = [kind for kind in known.values() if kind.name != "veth"]
    return [
        *(Tcp(mode, left, right) for mode in MODES for left, right in pairs),
        *(SmallPackets(kind) for kind in tunnels),
        *(Latency(kind) for kind in known.values()),
    ]


def selected(patterns: Iterable[str], against: Path | None = None) -> list[tuple[Scenario, list[str]]]:
    """Scenarios with those of their names that match a pattern (as of the shell; none: all)."""
    patterns = tuple(patterns) or ("*",)
    chosen = [
        (one, [name for name in one.names if any(fnmatch(name, pattern) for pattern in patterns)])
        for one in scenarios(against)
    ]
    return [(one, names) for one, names in chosen if names]


def run(chosen: list[tuple[Scenario, list[str]]], scale: Scale, patience: float, say: Say) -> Run:
    """Measure all that was chosen, `scale.rounds` times.

    Before each set-up it waits, `patience` seconds at the most, for others to leave the machine alone.
    """
    started, date, environment = time.monotonic(), datetime.now(UTC), _environment()
    meter, tally = Meter(), Tally(say)
    for number in range(scale.rounds):
        # Every second round backwards: what always comes after the same neighbour inherits its heat.
        for scenario, names in chosen if number % 2 == 0 else reversed(chosen):
            wait_for_quiet(patience)
            tally.take(scenario, names, scale, f"{number + 1}/{scale.rounds}")
    foreign, steal = meter.shares()
    return Run(
        command=shlex.join(["python", "-m", "benchmarks.datapath", *sys.argv[1:]]),
        date=date.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 1),
        environment=structs.replace(
            environment, steal_share=round(steal, 4), foreign_share=round(foreign, 4)
        ),
        measurements=tuple(tally.measurements([name for _, names in chosen for name in names])),
        missing=tuple(Missing(name=name, reason=reason) for name, reason in tally.missing.items()),
    )


class Tally:
    """Samples by name, and what failed; a scenario that failed is not tried again."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.samples: dict[str, list[Sample]] = {}
        self.verified: dict[str, str] = {}
        self.missing: dict[str, str] = {}

    def take(self, scenario: Scenario, names: list[str], scale: Scale, which: str) -> None:
        """One round of one scenario."""
        if any(name in self.missing for name in names):
            return
        try:
            taken = scenario.measure(names, scale)
        except Exception as error:  # one VTEP that does not come up must not cost the others their figures
            reason = " ".join(str(error).split()) or type(error).__name__
            self.missing |= dict.fromkeys(names, reason)
            self.say(f"{which} {names[0]} ...: FAILED: {reason}")
            return
        for name, (sample, verified) in taken.items():
            self.samples.setdefault(name, []).append(sample)
            self.verified[name] = verified
            self.say(f"{which} {_line(name, sample)}")

    def measurements(self, names: list[str]) -> list[Measurement]:
        """In the order of the names; what failed in any round is not there."""
        return [
            measurement(name, self.samples[name], self.verified[name])
            for name in names
            if name in self.samples and name not in self.missing
        ]


def _line(name: str, sample: Sample) -> str:
    details = ", ".join(f"{key} {value:.4g}" for key, value in sample.details.items())
    noise = f" NOISY: {'; '.join(sample.noise)}" if sample.noise else ""
    return f"{name}: {sample.value:.4g} ({details}){noise}"


def _environment() -> Environment:
    """Before a run, so that the tree is the one that is measured; the shares are known only behind it."""
    return Environment(
        cpu=cpu_name(),
        n_cpus=cpu_count() or 1,
        kernel=release(),
        distribution=distribution(),
        commit=commit(),
        python=python_version(),
        tools=_tools(),
        offloads={mode: _offloads(mode) for mode in MODES},
        load_average=getloadavg(),
        steal_share=0.0,
        foreign_share=0.0,
    )


def _tools() -> dict[str, str]:
    versions = {"iperf3": version_of("iperf3", "--version"), "iproute2": version_of("ip", "-V")}
    try:
        versions["Open vSwitch"] = openvswitch.version()
    except FileNotFoundError:
        versions["Open vSwitch"] = ""
    return versions


def _offloads(mode: str) -> dict[str, str]:
    with Stage() as stage:
        a, b = stage.host(1), stage.host(2)
        stage.link(a, "eth", b, "eth", mode)
        return offloads(a, "eth")
