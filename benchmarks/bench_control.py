"""The authority at scale: what bench_tables.py measures of the tables, through remotes, segments and fdb.

Place in the house: of suite `tables` of `vxcore bench`. Each case checks what it made. Memory is the peak of
a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from ipaddress import ip_address
from typing import Any

import numpy as np
import pytest

from benchmarks import ROOT
from benchmarks.bench_tables import add_rate, add_times, alone
from benchmarks.measuring import Case
from vxcore._fast.table import Tables
from vxcore.fdb import Fdb
from vxcore.journal import Journal
from vxcore.remotes import Remotes
from vxcore.segments import Segments

N_REMOTES = 1024
N_VNIS = 1024
FIRST_MAC = 0x020000000000

ALL_VNIS = """
import resource, time
import numpy as np
from benchmarks.bench_control import Control
control = Control(1 << 24, 65536)
vnis = np.arange(1 << 24, dtype=np.uint32)
started = time.perf_counter()
control.load(vnis)
seconds = time.perf_counter() - started
assert control.segments.number(0xFFFFFF) == 0xFFFFFF
assert control.remotes.uses(7) == len(vnis) // 1024
print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


class Control:
    """Tables and their authority."""

    def __init__(self, n_segments: int, n_entries: int) -> None:
        self.journal = Journal(Tables(n_segments, N_REMOTES, 1 << 25, n_entries))
        self.remotes = Remotes(self.journal)
        self.segments = Segments(self.journal, self.remotes)
        self.fdb = Fdb(self.journal, self.remotes, self.segments)

    def load(self, vnis: Any) -> None:
        """Add the VNIs, each with one remote in its flood set."""
        with self.journal.change():
            numbers = [self.remotes.require(ip_address(0x0A000001 + n)) for n in range(N_REMOTES)]
            self.segments.add_many(vnis, np.array(numbers, np.uint32)[vnis % N_REMOTES])


def filled(n_entries: int) -> tuple[Control, Any, Any, Any]:
    """So many static entries over 1,024 VNIs and 1,024 remotes."""
    control = Control(N_VNIS, 3 * n_entries // 2)
    control.load(np.arange(N_VNIS, dtype=np.uint32))
    n = np.arange(n_entries, dtype=np.uint32)
    vnis, macs, remotes = n % N_VNIS, FIRST_MAC + n.astype(np.uint64), n // N_VNIS % N_REMOTES
    control.fdb.add(vnis, macs, remotes)
    return control, vnis, macs, remotes


@pytest.mark.full
@pytest.mark.benchmark(group="load all 16,777,216 VNIs with a remote each, through vxcore.segments")
def test_all_vnis_by_segments(benchmark: Any, case: Case) -> None:
    results: list[str] = []

    def load() -> None:
        command = [sys.executable, "-c", ALL_VNIS]
        results.append(subprocess.run(command, check=True, cwd=ROOT, stdout=-1, text=True).stdout)

    benchmark.pedantic(load, rounds=1)
    seconds, peak = map(float, results[0].split())
    case.add("vxcore", [seconds], "s", "the last VNI, the uses of a remote", peak_mb=peak / 1e6)
    assert peak < 1_000_000_000


@pytest.mark.full
@pytest.mark.benchmark(group="1,000,000 FDB entries in 1,024 VNIs: move all, in one call through vxcore.fdb")
def test_replace_by_fdb(benchmark: Any, case: Case) -> None:
    control, vnis, macs, remotes = filled(1_000_000)
    turns = iter(range(1, 100))
    times = alone(
        benchmark,
        case,
        lambda: control.fdb.replace(vnis, macs, (remotes + np.uint32(next(turns))) % N_REMOTES),
        5,
    )
    add_rate(case, times, len(macs), "the uses of all remotes")
    assert sum(control.remotes.uses(n) for n in range(N_REMOTES)) == len(macs) + N_VNIS


@pytest.mark.benchmark(group="an FDB entry moves, by a call of its own through vxcore.fdb")
def test_replace_one(benchmark: Any, case: Case) -> None:
    control, vnis, macs, _ = filled(10_000)
    turns = iter(range(1 << 20))

    def move() -> None:
        n = next(turns)
        control.fdb.replace(int(vnis[7]), int(macs[7]), n % N_REMOTES)

    add_times(case, alone(benchmark, case, move, 3000), "us", "the number of entries")
    assert len(control.fdb.snapshot()) == len(macs)
