"""Changes of the tables while a lane forwards, and a flood set of 1,024 remotes; what is lost is counted.

Place in the house: of suite `tables` of `vxcore bench`, as root. A VTEP in a namespace gets frames from
its TAP at a steady rate, and the packets that reach the other namespace are counted there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.hosts import Host, wait_until
from support.peers import require_root

from benchmarks.bench_tables import add_rate
from benchmarks.datapath.load import Blast, frames_of
from benchmarks.datapath.topology import Stage, add_underlay_address, inside
from benchmarks.measuring import Case
from vxcore import Vtep

FAR, NEAR = "06:00:00:00:00:01", "02:00:00:00:00:09"
BROADCAST = "ff:ff:ff:ff:ff:ff"
N_ENTRIES = 1_000_000
BULK = 20_000  # entries changed by one call
RATE = 10_000  # packets a second
N_REMOTES = 1024
FLOODS_PER_S = 100
N_FRAMES = 1000  # different ones: the same over and over is taken for a loop


def lanes_cpu_s() -> float:
    """CPU time of this process's lanes: the thread that makes the frames spins beside them."""
    lanes = [each for each in threading.enumerate() if each.name.startswith("vxcore-lane")]
    spent = [Path(f"/proc/self/task/{lane.native_id}/schedstat").read_text() for lane in lanes]
    return sum(int(text.split()[0]) for text in spent) / 1e9


@contextmanager
def forwarding(stage: Stage, **segment: Any) -> Iterator[tuple[Vtep, Host, Host, Callable[[], int]]]:
    """A VTEP with one segment in the first of two namespaces, and how many packets reached the second."""
    here, there = stage.host(1), stage.host(2)
    stage.link(here, "eth", there, "eth", "wire")
    for host, other in ((here, there), (there, here)):
        add_underlay_address(host)
        host.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        host.ip("neigh", "replace", other.v4, "lladdr", other.mac("eth"), "dev", "eth", "nud", "permanent")
    vtep = Vtep(
        {
            "underlay": {"local": here.v4},
            "tables": {"entries": 2 * N_ENTRIES, "remotes": 2 * N_REMOTES},
            "segment": [{"vni": 42, "tap": "vx42", **segment}],
        }
    )
    inside(here, vtep.__enter__)
    try:
        counts = stage.counts(there, "eth")
        yield vtep, here, there, lambda: counts.read()["rx"]
    finally:
        vtep.__exit__(None, None, None)


@pytest.mark.full
@pytest.mark.benchmark(group="1,000,000 FDB entries change, by calls of 20,000, while a lane forwards")
def test_updates_while_forwarding(benchmark: Any, case: Case) -> None:
    require_root()
    n = np.arange(N_ENTRIES, dtype=np.uint64)
    macs, frame = n + np.uint64(0x0A0000000000), frames_of(1, (FAR, NEAR))
    with Stage() as stage, forwarding(stage) as (vtep, here, there, arrived):
        two = vtep.add_remote(there.v4), vtep.add_remote("192.0.2.77")
        vtep.set_fdb(42, FAR, two[0])
        turns = iter(range(1 << 20))

        def change_all() -> None:
            remote = two[next(turns) % 2]
            for at in range(0, N_ENTRIES, BULK):
                vtep.set_fdb(42, macs[at : at + BULK], remote)

        change_all()
        before, counters = arrived(), vtep.counters()["segments"][0]
        with Blast(here, "vx42", frame, 0, RATE) as blast:
            wait_until(lambda: arrived() > before, "packets cross")
            benchmark.pedantic(change_all, rounds=5)
            offered, refused = blast.stop()
        sent = offered - refused
        wait_until(
            lambda: vtep.counters()["segments"][0]["tx_packets"] - counters["tx_packets"] >= sent, "sent"
        )
        lost = sent - (arrived() - before)
        snapshot = vtep.snapshot("fdb")
    add_rate(case, benchmark.stats.stats.data, N_ENTRIES, "the entries", offered=sent, lost=lost)
    assert len(snapshot) == N_ENTRIES + 1
    assert (snapshot["remote"] == two[(next(turns) - 1) % 2]).sum() >= N_ENTRIES
    assert lost == 0


@pytest.mark.full
@pytest.mark.benchmark(group="a frame to each of 1,024 remotes")
def test_flood(benchmark: Any, case: Case) -> None:
    require_root()
    remotes = [f"198.18.{1 + n // 256}.{n % 256}" for n in range(N_REMOTES)]
    with Stage() as stage, forwarding(stage) as (vtep, here, there, arrived):
        here.ip("route", "add", "198.18.0.0/16", "via", there.v4)
        inside(here, lambda: vtep.change_segment(42, remotes=remotes))
        before, cpu = arrived(), lanes_cpu_s()
        blast = Blast(here, "vx42", frames_of(N_FRAMES, (BROADCAST, NEAR)), 0, FLOODS_PER_S)
        with blast:
            benchmark.pedantic(lambda: time.sleep(2), rounds=1)
            offered, refused = blast.stop()
        sent = (offered - refused) * N_REMOTES
        wait_until(lambda: vtep.counters()["segments"][0]["tx_packets"] >= sent, "all sent")
        cpu = lanes_cpu_s() - cpu
        lost = sent - (arrived() - before)
        drops = vtep.counters()["drops"]
    case.add("vxcore", [1e9 * cpu / sent], "ns", "the number of copies", copies=sent, lost=lost)
    assert not drops
    assert lost == 0
