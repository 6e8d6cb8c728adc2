"""Which scenarios there are, and rounds of them: in turn, so that drift hits all alike.

Place in the house: above tcp, pps and latency, below suites, which has it as suite `datapath`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Protocol

from msgspec import structs

from benchmarks.datapath import openvswitch
from benchmarks.datapath.latency import Latency
from benchmarks.datapath.pps import SmallPackets
from benchmarks.datapath.scale import Scale
from benchmarks.datapath.tcp import Tcp
from benchmarks.datapath.topology import MODES, Stage, offloads
from benchmarks.datapath.vteps import Vxcore, kinds
from benchmarks.machine import Meter, wait_for_quiet
from benchmarks.peers import AbsentError
from benchmarks.results import Better, Sample
from benchmarks.tally import Tally

Say = Callable[[str], None]
UNITS: dict[str, tuple[str, Better]] = {
    "tcp": ("Gb/s", "higher"),
    "pps": ("packets/s", "higher"),
    "latency": ("us", "lower"),
}
"""By what is measured: its unit, and which way is good."""


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


Chosen = list[tuple[Scenario, list[str]]]


def selected(patterns: Iterable[str], against: Path | None = None) -> Chosen:
    """Scenarios with those of their names that match a pattern (as of the shell; none: all)."""
    patterns = tuple(patterns) or ("*",)
    chosen = [
        (one, [name for name in one.names if any(fnmatch(name, pattern) for pattern in patterns)])
        for one in scenarios(against)
    ]
    return [(one, names) for one, names in chosen if names]


def measure(chosen: Chosen, scale: Scale, patience: float, tally: Tally, say: Say) -> None:
    """Measure all that was chosen, `scale.rounds` times.

    Before each set-up it waits, `patience` seconds at the most, for others to leave the machine alone.
    """
    for number in range(scale.rounds):
        # Every second round backwards: what always comes after the same neighbour inherits its heat.
        for scenario, names in chosen if number % 2 == 0 else reversed(chosen):
            wait_for_quiet(patience)
            say(names[0])
            _take(tally, scenario, names, scale, number)


def _take(tally: Tally, scenario: Scenario, names: list[str], scale: Scale, number: int) -> None:
    """One round of one scenario; one that failed is not tried again."""
    if any(name in tally.missing for name in names):
        return
    meter = Meter()
    try:
        taken = scenario.measure(names, scale)
    except Exception as error:  # one VTEP that does not come up must not cost the others their figures
        reason = " ".join(str(error).split()) or type(error).__name__
        for name in names:
            tally.miss(name, reason, "absent" if isinstance(error, AbsentError) else "failed")
        return
    others = meter.details()  # all of ours have ended, and their time is known
    for name, (sample, verified) in taken.items():
        whole = structs.replace(sample, process=number, details={**sample.details, **others})
        tally.add(name, *UNITS[name.partition("/")[0]], [whole], verified)


def versions() -> dict[str, str]:
    """Of the neighbours that are there."""
    try:
        return {"Open vSwitch": openvswitch.version()}
    except AbsentError:
        return {}


def offloads_of_modes() -> dict[str, dict[str, str]]:
    """What `ethtool -k` shows of an underlay device in each mode."""
    shown = {}
    for mode in MODES:
        with Stage() as stage:
            a, b = stage.host(1), stage.host(2)
            stage.link(a, "eth", b, "eth", mode)
            shown[mode] = offloads(a, "eth")
    return shown
