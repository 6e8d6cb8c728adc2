"""What a run leaves: the schema of its JSON, and medians of samples.

Place in the house: lowest of the suite, knows nobody. The structs are the schema; `python -m
benchmarks.datapath --schema` prints it as JSON Schema.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

FORMAT = "vxcore-datapath/1"


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
    """One measurement: its value in the unit of its group, and what was seen beside it."""

    value: float
    cpu: Cpu
    details: dict[str, float]
    """By name, with the unit at its end, such as `retransmits` or `p99_us`."""
    noise: tuple[str, ...] = ()
    """Why this sample may be off: other processes' CPU time, time stolen by the hypervisor."""


class Measurement(Struct, frozen=True, kw_only=True):
    """All samples of one thing, taken in turn with those of the others."""

    name: str
    """SUITE/.../WHO, such as tcp/wire/1/vxcore:kernel: what --only selects by."""
    suite: Literal["tcp", "pps", "latency"]
    unit: Literal["Gb/s", "packets/s", "us"]
    samples: tuple[Sample, ...]
    verified: str
    """What was compared byte for byte beside the figure, and on what the wire carried."""
    median: float
    low: float
    high: float
    details: dict[str, float]
    """Medians of the samples' details."""
    noisy: tuple[str, ...] = ()
    """Why not to trust it: what was named at half of the samples or more, or a wide spread."""


class Missing(Struct, frozen=True, kw_only=True):
    """What could not be measured, and why."""

    name: str
    reason: str


class Environment(Struct, frozen=True, kw_only=True):
    """Where a run took place."""

    cpu: str
    n_cpus: int
    kernel: str
    distribution: str
    commit: str
    python: str
    tools: dict[str, str]
    """Versions of the programs that took part."""
    offloads: dict[str, dict[str, str]]
    """By mode: the features that `ethtool -k` showed of an underlay device."""
    load_average: tuple[float, float, float]
    """When the run started, over 1, 5 and 15 minutes."""
    steal_share: float
    """Of the CPU time during the run, what the hypervisor took."""
    foreign_share: float
    """Of the CPU time during the run, what processes took that are not the benchmark's (user time)."""


class Run(Struct, frozen=True, kw_only=True):
    """One run of the suite."""

    format: Literal["vxcore-datapath/1"] = "vxcore-datapath/1"
    command: str
    date: str
    """Start, UTC, ISO 8601."""
    seconds: float
    environment: Environment
    measurements: tuple[Measurement, ...]
    missing: tuple[Missing, ...]


def ratio(one: Measurement, other: Measurement) -> float:
    """Median of the quotients round by round: what changed the machine's speed hit both."""
    pairs = zip(one.samples, other.samples, strict=False)
    return statistics.median(a.value / b.value for a, b in pairs)


_WIDE = 0.25
_UNITS: dict[str, Literal["Gb/s", "packets/s", "us"]] = {"tcp": "Gb/s", "pps": "packets/s", "latency": "us"}


def measurement(name: str, samples: list[Sample], verified: str) -> Measurement:
    """Medians, range and reasons for doubt of the samples of one name."""
    suite = name.partition("/")[0]
    values = [sample.value for sample in samples]
    details = {
        key: statistics.median(sample.details[key] for sample in samples) for key in samples[0].details
    }
    return Measurement(
        name=name,
        suite=suite,  # type: ignore[arg-type]
        unit=_UNITS[suite],
        samples=tuple(samples),
        verified=verified,
        median=statistics.median(values),
        low=min(values),
        high=max(values),
        details=details,
        noisy=_doubts(samples, values),
    )


def _doubts(samples: list[Sample], values: list[float]) -> tuple[str, ...]:
    named = [reason for sample in samples for reason in {word.partition(":")[0] for word in sample.noise}]
    doubts = [reason for reason in dict.fromkeys(named) if named.count(reason) * 2 >= len(samples)]
    middle = statistics.median(values)
    if len(values) > 1 and max(values) - min(values) > 2 * _WIDE * middle:
        doubts.append("wide spread")
    return tuple(doubts)


def write(run: Run, path: Path) -> None:
    """As JSON that people can read too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")


def read(path: Path) -> Run:
    """What `write` wrote. Raises msgspec.ValidationError when it does not match the schema."""
    return msgspec.json.decode(path.read_bytes(), type=Run)


def schema() -> bytes:
    """The JSON Schema of a run."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(Run)), indent=2)
