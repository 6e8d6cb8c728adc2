"""What a run leaves: the schema of its JSON, and what is computed from samples.

Place in the house: lowest of the benchmarks, knows nobody but intervals. The structs are the schema;
schema.json has it as JSON Schema (`make docs`).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct, field, structs

from benchmarks import intervals

Better = Literal["lower", "higher"]
FORMAT = "vxcore-bench/2"


class Cpu(Struct, frozen=True, kw_only=True):
    """CPU seconds of one sample, from /proc/stat and getrusage.

    `busy` is what the whole machine worked, interrupts and softirqs too, minus the user time of
    processes that are not the benchmark's. `vtep_user` and `vtep_system` are the VTEP
    processes' own, part of `busy`; what the kernel does for a VTEP in softirqs is in `softirq`.
    """

    elapsed: float
    busy: float
    user: float
    system: float
    softirq: float
    vtep_user: float
    vtep_system: float
    core_busy: float | None = None
    """Of the core that the VTEP was pinned to, where it was, without the user time of others on it."""


class Sample(Struct, frozen=True, kw_only=True):
    """One turn: a value in the unit of its measurement, and what was seen beside it."""

    value: float
    process: int = 0
    """Which process or set-up it was taken in, from 0: samples of one have more in common."""
    cpu: Cpu | None = None
    details: dict[str, float] = field(default_factory=dict)
    """By name, with the unit at its end, such as `retransmits` or `p99_us`."""
    noise: tuple[str, ...] = ()
    """Why this sample may be off: other processes' CPU time, time stolen by the hypervisor."""


class Measurement(Struct, frozen=True, kw_only=True):
    """All samples of one thing, taken in turn with those of the others of its case."""

    name: str
    """CASE/WHO, such as encap/vxcore or tcp/wire/1/vxcore:kernel."""
    unit: str
    better: Better
    samples: tuple[Sample, ...]
    verified: str
    """What was compared beside the figure."""
    median: float
    low: float
    high: float
    """The extremes of the samples."""
    details: dict[str, float] = field(default_factory=dict)
    """Medians of the samples' details."""
    noisy: tuple[str, ...] = ()
    """Why no figure is to be told: named at half of the samples or more, or a wide interval."""

    @property
    def case(self) -> str:
        return self.name.rpartition("/")[0]

    @property
    def who(self) -> str:
        return self.name.rpartition("/")[2]


class Missing(Struct, frozen=True, kw_only=True):
    """What was not measured, and why: who takes part is absent, or it failed."""

    name: str
    reason: str
    kind: Literal["absent", "failed"] = "failed"


class Environment(Struct, frozen=True, kw_only=True):
    """Where a suite was run, and what disturbed it."""

    cpu: str
    n_cpus: int
    kernel: str
    distribution: str
    commit: str
    """With a + behind it when the tree had changes that were not committed."""
    python: str
    tools: dict[str, str]
    """Versions of the programs and packages that took part."""
    governor: str = ""
    """Of the processor's frequency; empty: this machine does not say."""
    compiler: str = ""
    flags: str = ""
    """With which vxcore's modules are compiled by setup.py now."""
    pinning: str = ""
    """The CPUs that the run was allowed to use."""
    offloads: dict[str, dict[str, str]] = field(default_factory=dict)
    """By mode of the data path: the features that `ethtool -k` showed of an underlay device."""
    load_average: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """When the suite started, over 1, 5 and 15 minutes."""
    steal_share: float
    """Of the CPU time during the suite, what the hypervisor took."""
    foreign_share: float
    """Of the CPU time during the suite, what processes took that are not the benchmark's (user time)."""


class Suite(Struct, frozen=True, kw_only=True):
    """One run of one suite."""

    command: str
    date: str
    """Start, UTC, ISO 8601."""
    seconds: float
    quick: bool
    environment: Environment
    measurements: tuple[Measurement, ...]
    missing: tuple[Missing, ...] = ()

    def found(self) -> dict[str, Measurement]:
        """The measurements by name."""
        return {each.name: each for each in self.measurements}


class Result(Struct, frozen=True, kw_only=True):
    """What `vxcore bench --json` writes: one run, or the latest run of each suite."""

    format: Literal["vxcore-bench/2"] = FORMAT
    suites: dict[str, Suite]


# Of samples


def ratio(one: Measurement, other: Measurement) -> float:
    """Median of the quotients turn by turn: what changed the machine's speed hit both."""
    return statistics.median(each.value for each in _quotients(one, other))


def is_noisy_ratio(one: Measurement, other: Measurement) -> bool:
    """Whether it cannot be told: one that spreads widely with the other, quotient by quotient, can."""
    disturbed = any(reason != SPREAD for each in (one, other) for reason in each.noisy)
    return disturbed or is_wide(_quotients(one, other))


def _quotients(one: Measurement, other: Measurement) -> tuple[Sample, ...]:
    pairs = zip(one.samples, other.samples, strict=False)
    return tuple(structs.replace(a, value=a.value / b.value) for a, b in pairs)


COUNTED = "instructions"
UNDISTURBED = (COUNTED, "MB")
"""Units of what other processes leave as it is."""
WIDE = 0.25
"""How much of the median half its confidence interval may be; with more, no figure is told."""
SPREAD = "wide spread"


def measurement(
    name: str, unit: str, better: Better, samples: Iterable[Sample], verified: str
) -> Measurement:
    """Medians, range and reasons for doubt of the samples of one name."""
    samples = tuple(samples)
    values = [sample.value for sample in samples]
    keys = [key for key in samples[0].details if all(key in sample.details for sample in samples)]
    return Measurement(
        name=name,
        unit=unit,
        better=better,
        samples=samples,
        verified=verified,
        median=statistics.median(values),
        low=min(values),
        high=max(values),
        details={key: statistics.median(sample.details[key] for sample in samples) for key in keys},
        noisy=() if unit in UNDISTURBED else _doubts(samples),
    )


def _doubts(samples: tuple[Sample, ...]) -> tuple[str, ...]:
    named = [reason for sample in samples for reason in {word.partition(":")[0] for word in sample.noise}]
    doubts = [reason for reason in dict.fromkeys(named) if named.count(reason) * 2 >= len(samples)]
    return (*doubts, SPREAD) if is_wide(samples) else tuple(doubts)


def is_wide(samples: Sequence[Sample]) -> bool:
    """Whether they are too different to tell their median."""
    low, high = intervals.of_median(grouped(samples))
    return high - low > 2 * WIDE * statistics.median(sample.value for sample in samples)


def grouped(samples: Iterable[Sample]) -> list[list[float]]:
    """Values by the process that they were taken in."""
    groups: dict[int, list[float]] = {}
    for sample in samples:
        groups.setdefault(sample.process, []).append(sample.value)
    return list(groups.values())


# Files


def write(result: Result, path: Path) -> None:
    """As JSON that people can read too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")


def read(path: Path) -> Result:
    """What `write` wrote. Raises msgspec.ValidationError when it does not match the schema."""
    return msgspec.json.decode(path.read_bytes(), type=Result)


def schema() -> dict[str, Any]:
    """The JSON Schema of a result."""
    return msgspec.json.schema(Result)
