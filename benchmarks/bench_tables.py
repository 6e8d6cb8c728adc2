"""Tables at scale: loading, looking up, changing, flushing; beside a dict and the kernel's vxlan FDB.

Place in the house: suite `tables` of `vxcore bench`, with bench_control and bench_live. Each case checks what
it made. Memory is what the process grew by, resident, measured in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.hosts import run
from support.peers import require_root

from benchmarks import ROOT
from benchmarks.measuring import Case, in_turn
from vxcore._fast.table import Reader, Tables

BATCH = 256
N_REMOTES = 1024
N_FILLED = 100_000
FIRST_MAC = 0x020000000000
NOW_S = 1000
VXLAN = ["link", "add", "vx", "type", "vxlan", "id", "7", "dstport", "4789", "local", "192.0.2.1"]


def address(n: int) -> bytes:
    return bytes(10) + b"\xff\xff" + (0x0A000000 + n).to_bytes(4, "big")


def make_tables(n_segments: int, n_entries: int, n_remotes: int = N_REMOTES) -> Tables:
    tables = Tables(n_segments, n_remotes, 1 << 25, n_entries)
    with tables.transaction():
        for n in range(n_remotes):
            tables.add_remote(address(n), bytes(16))
    return tables


def random_macs(n: int) -> np.ndarray[Any, Any]:
    """Different ones, in no order."""
    order = np.random.default_rng(1).permutation(n).astype(np.uint64)
    return order * np.uint64(0x9E3779B1) % np.uint64(1 << 40) + np.uint64(FIRST_MAC)


def filled(n_entries: int) -> tuple[Tables, Any, Any]:
    """One segment with so many static entries, their addresses, and the remote of each."""
    tables = make_tables(1, n_entries)
    tables.add_segment(7, 0, [0], learning=True, ageing_s=300, max_learned=0)
    macs = random_macs(n_entries)
    remotes = np.arange(n_entries, dtype=np.uint32) % N_REMOTES
    tables.fdb_replace(np.full(n_entries, 7, np.uint32), macs, remotes)
    return tables, macs, remotes


# What a table weighs, by what the process grew while it was made.
WEIGH = """
import gc, time
import numpy as np
import benchmarks.bench_tables as bench

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

before = resident()
{body}
gc.collect()
print(seconds, resident() - before, peak())
"""

ALL_VNIS = """
tables = bench.make_tables(1 << 24, 1024)
vnis = np.arange(1 << 24, dtype=np.uint32)
remotes = vnis % bench.N_REMOTES
started = time.perf_counter()
numbers = tables.add_segments(vnis, remotes)
seconds = time.perf_counter() - started
reader = bench.Reader(tables)
reader.enter()
for vni in (0, 1, 4711, 0xABCDEF, 0xFFFFFF):
    segment = reader.find_segment(vni)
    assert reader.flood(segment) == [vni % bench.N_REMOTES]
    assert reader.is_peer(segment, vni % bench.N_REMOTES)
    assert not reader.is_peer(segment, (vni + 1) % bench.N_REMOTES)
"""

ENTRIES = """
started = time.perf_counter()
tables, macs, remotes = bench.filled({n})
seconds = time.perf_counter() - started
reader = bench.Reader(tables)
reader.enter()
assert (reader.fdb_find(0, macs[::97], bench.NOW_S) == remotes[::97]).all()
del macs, remotes
"""


def weigh(body: str) -> tuple[float, int, int]:
    """Seconds, bytes grown, and the peak of the whole process."""
    command = [sys.executable, "-c", WEIGH.format(body=body)]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seconds, grown, peak = done.stdout.split()
    return float(seconds), int(grown), int(peak)


@pytest.mark.full
@pytest.mark.benchmark(group="load all 16,777,216 VNIs with a remote each")
def test_all_vnis(benchmark: Any, case: Case) -> None:
    results = []
    benchmark.pedantic(lambda: results.append(weigh(ALL_VNIS)), rounds=1)
    seconds, _, peak = results[0]
    case.add("vxcore", [seconds], "s", "lookups of five VNIs", peak_mb=peak / 1e6)
    assert peak < 1_000_000_000


@pytest.mark.benchmark(group="memory of FDB entries")
@pytest.mark.parametrize("n_entries", [1_000_000, pytest.param(10_000_000, marks=pytest.mark.full)])
def test_entries_weigh(benchmark: Any, case: Case, n_entries: int) -> None:
    results = []
    benchmark.pedantic(lambda: results.append(weigh(ENTRIES.format(n=n_entries))), rounds=1)
    seconds, grown, _ = results[0]
    case.add("vxcore", [grown / 1e6], "MB", "lookups of every 97th entry", load_s=seconds)
    assert grown < 40 * n_entries


# -- looking up -----------------------------------------------------------------------------------------


def batches(n: int, n_batches: int = 2000) -> Any:
    return np.random.default_rng(2).integers(0, n, (n_batches, BATCH))


@pytest.mark.benchmark(group="look up 2,000 batches of 256 random addresses")
@pytest.mark.parametrize(
    "n_entries",
    [1_000, 10_000, 100_000, 1_000_000, pytest.param(10_000_000, marks=pytest.mark.full)],
    ids="{:,}".format,
)
def test_lookup(benchmark: Any, case: Case, n_entries: int) -> None:
    """Beside a dict, as large as one should be."""
    tables, macs, remotes = filled(n_entries)
    rows = batches(n_entries).ravel()
    keys, out = macs[rows], np.empty(len(rows), np.int32)
    reader = Reader(tables)
    reader.enter()
    sides = {"vxcore": lambda: reader.fdb_find(0, keys, NOW_S, out)}
    if n_entries <= (100_000 if case.quick else 1_000_000):
        known = {(7, mac): n % N_REMOTES for n, mac in enumerate(macs.tolist())}
        pairs = [(7, mac) for mac in keys.tolist()]
        assert [known[pair] for pair in pairs] == remotes[rows].tolist()
        sides["dict"] = lambda: [known[pair] for pair in pairs]
    for who, times in in_turn(benchmark, sides, 5 if case.quick else 20).items():
        case.add(who, [seconds / len(rows) * 1e9 for seconds in times], "ns", "every answer")
    assert (out == remotes[rows]).all()


# -- changing -------------------------------------------------------------------------------------------


def add_times(case: Case, times: list[float], unit: str, verified: str, **details: float) -> None:
    """Of rounds in seconds."""
    scale = {"s": 1.0, "us": 1e6}[unit]
    case.add("vxcore", [seconds * scale for seconds in times], unit, verified, **details)


def add_rate(case: Case, times: list[float], n: int, verified: str, **details: float) -> None:
    """Of rounds in which n things were done each."""
    rates = [n / seconds / 1e6 for seconds in times]
    case.add("vxcore", rates, "M/s", verified, better="higher", **details)


def alone(benchmark: Any, case: Case, run: Any, rounds: int) -> list[float]:
    """Seconds of each round of what nothing stands beside."""
    return in_turn(benchmark, {"vxcore": run}, max(3, rounds // 5) if case.quick else rounds)["vxcore"]


@pytest.mark.benchmark(group="1,000,000 FDB entries: replace all, in one call")
def test_replace(benchmark: Any, case: Case) -> None:
    tables, macs, remotes = filled(1_000_000)
    vnis = np.full(len(macs), 7, np.uint32)
    other = (remotes + 1) % N_REMOTES
    times = alone(benchmark, case, lambda: tables.fdb_replace(vnis, macs, other), 5)
    add_rate(case, times, len(macs), "lookups of all entries")
    assert tables.fdb_counters()["entries"] == len(macs)
    reader = Reader(tables)
    reader.enter()
    assert (reader.fdb_find(0, macs, NOW_S) == other.astype(np.int32)).all()


@pytest.mark.full
@pytest.mark.benchmark(group="1,000,000 FDB entries: add and delete all, in two calls")
def test_add_and_delete(benchmark: Any, case: Case) -> None:
    tables, macs, remotes = filled(1_000_000)
    vnis = np.full(len(macs), 7, np.uint32)

    def both() -> None:
        tables.fdb_delete(vnis, macs)
        tables.fdb_add(vnis, macs, remotes)

    add_rate(case, alone(benchmark, case, both, 5), len(macs), "the number of entries")
    assert tables.fdb_counters()["entries"] == len(macs)


@pytest.mark.benchmark(group="change one of 65,536 segments")
def test_change_segment(benchmark: Any, case: Case) -> None:
    tables = make_tables(65536, 1024)
    tables.add_segments(np.arange(65536), np.zeros(65536, np.uint32))
    times = alone(benchmark, case, lambda: tables.change_segment(4711, flood=[1, 2, 3]), 2000)
    add_times(case, times, "us", "the flood set")
    assert tables.flood(4711).tolist() == [1, 2, 3]


@pytest.mark.benchmark(group="change a flood set of 1,024 remotes")
def test_flood_set(benchmark: Any, case: Case) -> None:
    tables = make_tables(1, 1024)
    tables.add_segment(7, 0, range(512), learning=True, ageing_s=300, max_learned=0)
    times = alone(benchmark, case, lambda: tables.change_segment(0, flood=range(N_REMOTES)), 500)
    add_times(case, times, "us", "the flood set")
    assert tables.flood(0).tolist() == list(range(N_REMOTES))


# -- flush and sweep ------------------------------------------------------------------------------------


def learned(n_entries: int) -> tuple[Tables, Reader, Any]:
    tables = make_tables(1, n_entries)
    tables.add_segment(7, 0, [0], learning=True, ageing_s=300, max_learned=0)
    macs = random_macs(n_entries)
    reader = Reader(tables)
    reader.enter()
    reader.fdb_learn(0, macs, np.arange(n_entries, dtype=np.uint32) % N_REMOTES, NOW_S)
    return tables, reader, macs


@pytest.mark.benchmark(group="flush 1,000,000 learned entries")
def test_flush(benchmark: Any, case: Case) -> None:
    tables, reader, macs = learned(1_000_000)
    times = alone(benchmark, case, lambda: tables.flush(vni=7), 500)
    add_times(case, times, "us", "lookups of all entries")
    reader.enter()
    assert (reader.fdb_find(0, macs, NOW_S) == -1).all()
    assert tables.fdb_counters()["entries"] == len(macs)


@pytest.mark.benchmark(group="one turn of a lane's sweep over 1,000,000 aged entries")
def test_sweep(benchmark: Any, case: Case) -> None:
    tables, reader, macs = learned(1_000_000)
    times = alone(benchmark, case, lambda: reader.fdb_sweep(8192, NOW_S + 300), 500)
    add_times(case, times, "us", "the counters")
    counters = tables.fdb_counters()
    assert counters["aged"] == len(macs) - counters["entries"] > 0


@pytest.mark.full
@pytest.mark.benchmark(group="learn 1,000,000 new addresses")
def test_learn(benchmark: Any, case: Case) -> None:
    made: list[Any] = []
    add_times(
        case, alone(benchmark, case, lambda: made.append(learned(1_000_000)), 3), "s", "the number of entries"
    )
    assert all(tables.fdb_counters()["entries"] == 1_000_000 for tables, _, _ in made)


@pytest.mark.benchmark(
    group="look up while another thread flushes, sweeps and replaces: slowest of 2,000 batches"
)
def test_no_pause(benchmark: Any, case: Case) -> None:
    tables, reader, macs = learned(1_000_000)
    keys, out = [macs[row] for row in batches(len(macs))], np.empty(BATCH, np.int32)
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            tables.flush(vni=7)
            tables.sweep(NOW_S + 1)
            tables.fdb_replace(7, macs[:200_000], 5)
            tables.fdb_delete(7, macs[:200_000])

    writer = threading.Thread(target=change)
    writer.start()
    turn = iter(keys)

    def batch() -> None:
        reader.enter()
        reader.fdb_find(0, next(turn), NOW_S, out)

    try:
        benchmark.pedantic(batch, rounds=len(keys))
    finally:
        stop.set()
        writer.join()
    stats = benchmark.stats.stats
    add_times(case, stats.data, "us", "the counters", slowest_us=stats.max * 1e6)
    assert tables.fdb_counters()["flushed"] > 0


# -- the kernel's ---------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.benchmark(group="100,000 FDB entries: fill and dump")
def test_fill_and_dump(benchmark: Any, case: Case, tmp_path: Path) -> None:
    """Beside a dict, and the kernel's vxlan device in a namespace, by `bridge`."""
    require_root()
    namespace, batch = f"vxbench{time.monotonic_ns() % 1_000_000}", tmp_path / "batch"
    macs = random_macs(N_FILLED).tolist()
    rows = [
        f"{mac.to_bytes(6, 'big').hex(':')} dev vx dst 10.0.{n >> 8 & 3}.{n & 255}"
        for n, mac in enumerate(macs)
    ]
    batch.write_text("".join(f"fdb replace {row}\n" for row in rows))
    sides = {
        "vxcore": lambda: len(filled(N_FILLED)[0].fdb()),
        "dict": lambda: len(list({(7, mac): n % N_REMOTES for n, mac in enumerate(macs)}.items())),
        "kernel": lambda: kernel_filled(namespace, batch),
    }
    run("ip", "netns", "add", namespace)
    try:
        run("ip", "-n", namespace, *VXLAN)
        for who, times in in_turn(benchmark, sides, 3).items():
            case.add(who, times, "s", "the number of entries")
        assert [count() for count in sides.values()] == [N_FILLED] * 3
    finally:
        run("ip", "netns", "delete", namespace)


def kernel_filled(namespace: str, batch: Path) -> int:
    """Fill and dump; how many entries there were."""
    run("bridge", "-n", namespace, "-batch", str(batch))
    return run("bridge", "-n", namespace, "fdb", "show", "dev", "vx").stdout.count(" dst 10.")
