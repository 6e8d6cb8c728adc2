"""Round trips of small datagrams through a pair of VTEPs, idle, and beside a TCP flow.

Place in the house: above vteps and load, beside tcp and pps, below plan. One datagram at a time is
under way, so an idle figure holds two wake-ups of each process on the way. Nothing is pinned.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from support.hosts import Host, wait_until

from benchmarks.datapath.load import DATAGRAM, echo_server, round_trips
from benchmarks.datapath.scale import Scale
from benchmarks.datapath.tcp import serve
from benchmarks.datapath.topology import Counts, Stage
from benchmarks.datapath.vteps import Kind, pair
from benchmarks.machine import Meter
from benchmarks.peers import program
from benchmarks.results import Sample

_N_WARM_UP, _WARM_UP_S = 200, 0.5
_FLOWING_BYTES = 10_000_000


@dataclass(frozen=True)
class Latency:
    """Between two VTEPs of one kind, the underlay as made (offload mode)."""

    kind: Kind

    @property
    def names(self) -> list[str]:
        """What it measures."""
        return [f"latency/{state}/{self.kind.name}" for state in ("idle", "load")]

    def measure(self, wanted: list[str], scale: Scale) -> dict[str, tuple[Sample, str]]:
        """A sample of each name that is wanted, and what was verified; all over one set-up."""
        with Stage() as stage:
            a, b, vteps = pair(stage, self.kind, self.kind, "offload")
            counts = stage.counts(b, "eth")
            samples = {}
            with echo_server(b, self.kind.target(b)) as port:
                target = (self.kind.target(b), port)
                wait_until(lambda: _all_answered(a, target), "round trips without a loss")
                for name in wanted:
                    with _load(a, b, target[0], counts, name.split("/")[1] == "load"):
                        samples[name] = _sample(stage, a, target, vteps, counts, scale)
        return samples


def _all_answered(host: Host, target: tuple[str, int]) -> bool:
    """Warm up; Open vSwitch, for one, takes its time over the first packets."""
    times = round_trips(host, target, _N_WARM_UP, _WARM_UP_S)
    return bool((times > 0).all())


def _some_answered(host: Host, target: tuple[str, int], scale: Scale) -> np.ndarray[Any, Any]:
    """The round trips of a sample; of more than one where it was so short that nothing was answered."""
    times = np.zeros(0, np.int64)

    def taken() -> bool:
        nonlocal times
        times = np.append(times, round_trips(host, target, scale.n_round_trips, scale.latency_s))
        return bool((times > 0).any())

    wait_until(taken, "an answer to a datagram")
    return times


@contextmanager
def _load(a: Host, b: Host, target: str, counts: Counts, wanted: bool) -> Iterator[None]:
    """One TCP flow from a to b that has got going, or nothing."""
    if not wanted:
        yield
        return
    program("iperf3")
    serve(b, target)
    before = counts.read()["rx_bytes"]
    client = a.start("iperf3", "-c", target, "-t", "60")
    wait_until(lambda: counts.read()["rx_bytes"] > before + _FLOWING_BYTES, "the TCP flow flows")
    try:
        yield
        assert client.poll() is None, f"the TCP flow ended early: {client.communicate()}"
    finally:
        client.kill()
        client.communicate()


def _sample(
    stage: Stage, a: Host, target: tuple[str, int], vteps: list[int], counts: Counts, scale: Scale
) -> tuple[Sample, str]:
    meter, before = Meter(vteps, stage.pids), counts.read()["rx_bytes"]
    times = _some_answered(a, target, scale) / 1000
    n_bytes = counts.read()["rx_bytes"] - before
    cpu, noise = meter.read()
    answered = times[times > 0]
    p50, p99, p999 = np.percentile(answered, [50, 99, 99.9])
    details = {
        "p99_us": float(p99),
        "p999_us": float(p999),
        "max_us": float(answered.max()),
        "lost": float(len(times) - len(answered)),
        "n_round_trips": float(len(times)),
        "load_gigabits_per_s": n_bytes * 8 / cpu.elapsed / 1e9,
        "cpu_us_per_round_trip": cpu.busy / len(times) * 1e6,
    }
    verified = f"{len(answered)} answers of {len(DATAGRAM)} bytes alike"
    return Sample(value=float(p50), cpu=cpu, details=details, noise=noise), verified
