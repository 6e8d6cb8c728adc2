"""Tables at scale: loading, looking up, changing, flushing; beside a dict and the kernel's vxlan FDB.

Place in the house: `make bench` runs it. Each case checks what it made; compare cases of one run, by
their medians. Memory is what the process grew by, resident, measured in a process of its own.
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

from vxcore._fast.table import Reader, Tables

BATCH = 256
N_REMOTES = 1024
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
import gc, sys, time
import numpy as np
sys.path[:0] = {path!r}
import bench_tables as bench

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
    path = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tests")]
    code = WEIGH.format(path=path, body=body)
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seconds, grown, peak = done.stdout.split()
    return float(seconds), int(grown), int(peak)


@pytest.mark.benchmark(group="load all 16,777,216 VNIs with a remote each")
def test_all_vnis(benchmark: Any) -> None:
    results = []
    benchmark.pedantic(lambda: results.append(weigh(ALL_VNIS)), rounds=1)
    benchmark.extra_info.update(seconds=results[0][0], grown=results[0][1], peak=results[0][2])
    assert results[0][2] < 1_000_000_000


@pytest.mark.benchmark(group="memory of FDB entries")
@pytest.mark.parametrize("n_entries", [1_000_000, 10_000_000])
def test_entries_weigh(benchmark: Any, n_entries: int) -> None:
    results = []
    benchmark.pedantic(lambda: results.append(weigh(ENTRIES.format(n=n_entries))), rounds=1)
    benchmark.extra_info.update(seconds=results[0][0], grown=results[0][1], peak=results[0][2])
    assert results[0][1] < 40 * n_entries


# -- looking up -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[1_000, 1_000_000, 10_000_000], ids="{:,}".format)
def table(request: pytest.FixtureRequest) -> tuple[Tables, Any, Any]:
    return filled(request.param)


def batches(n: int, n_batches: int = 2000) -> Any:
    return np.random.default_rng(2).integers(0, n, (n_batches, BATCH))


@pytest.mark.benchmark(group="look up 2,000 batches of 256 random addresses")
def test_lookup(benchmark: Any, table: tuple[Tables, Any, Any]) -> None:
    tables, macs, remotes = table
    rows = batches(len(macs)).ravel()
    keys, out = macs[rows], np.empty(len(rows), np.int32)
    reader = Reader(tables)
    reader.enter()
    benchmark.pedantic(lambda: reader.fdb_find(0, keys, NOW_S, out), rounds=20, warmup_rounds=1)
    benchmark.extra_info["ns_per_packet"] = benchmark.stats.stats.median / len(rows) * 1e9
    assert (out == remotes[rows]).all()


@pytest.mark.benchmark(group="look up 2,000 batches of 256 random addresses")
@pytest.mark.parametrize("n_entries", [1_000, 1_000_000], ids="{:,}".format)
def test_lookup_dict(benchmark: Any, n_entries: int) -> None:
    macs = random_macs(n_entries)
    known = {(7, mac): n % N_REMOTES for n, mac in enumerate(macs.tolist())}
    keys = [(7, mac) for mac in macs[batches(n_entries).ravel()].tolist()]
    benchmark.pedantic(lambda: [known[key] for key in keys], rounds=5)
    benchmark.extra_info["ns_per_packet"] = benchmark.stats.stats.median / len(keys) * 1e9
    assert known[7, int(macs[5])] == 5


# -- changing -------------------------------------------------------------------------------------------


@pytest.mark.benchmark(group="1,000,000 FDB entries: replace all, in one call")
def test_replace(benchmark: Any) -> None:
    tables, macs, remotes = filled(1_000_000)
    vnis = np.full(len(macs), 7, np.uint32)
    other = (remotes + 1) % N_REMOTES
    benchmark.pedantic(lambda: tables.fdb_replace(vnis, macs, other), rounds=5)
    benchmark.extra_info["per_second"] = len(macs) / benchmark.stats.stats.median
    assert tables.fdb_counters()["entries"] == len(macs)
    reader = Reader(tables)
    reader.enter()
    assert (reader.fdb_find(0, macs, NOW_S) == other.astype(np.int32)).all()


@pytest.mark.benchmark(group="1,000,000 FDB entries: add and delete all, in two calls")
def test_add_and_delete(benchmark: Any) -> None:
    tables, macs, remotes = filled(1_000_000)
    vnis = np.full(len(macs), 7, np.uint32)

    def both() -> None:
        tables.fdb_delete(vnis, macs)
        tables.fdb_add(vnis, macs, remotes)

    benchmark.pedantic(both, rounds=5)
    assert tables.fdb_counters()["entries"] == len(macs)


@pytest.mark.benchmark(group="change one of 65,536 segments")
def test_change_segment(benchmark: Any) -> None:
    tables = make_tables(65536, 1024)
    tables.add_segments(np.arange(65536), np.zeros(65536, np.uint32))
    benchmark.pedantic(lambda: tables.change_segment(4711, flood=[1, 2, 3]), rounds=2000)
    assert tables.flood(4711).tolist() == [1, 2, 3]


@pytest.mark.benchmark(group="change a flood set of 1,024 remotes")
def test_flood_set(benchmark: Any) -> None:
    tables = make_tables(1, 1024)
    tables.add_segment(7, 0, range(512), learning=True, ageing_s=300, max_learned=0)
    benchmark.pedantic(lambda: tables.change_segment(0, flood=range(N_REMOTES)), rounds=500)
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
def test_flush(benchmark: Any) -> None:
    tables, reader, macs = learned(1_000_000)
    benchmark.pedantic(lambda: tables.flush(vni=7), rounds=500)
    reader.enter()
    assert (reader.fdb_find(0, macs, NOW_S) == -1).all()
    assert tables.fdb_counters()["entries"] == len(macs)


@pytest.mark.benchmark(group="one turn of a lane's sweep over 1,000,000 aged entries")
def test_sweep(benchmark: Any) -> None:
    tables, reader, macs = learned(1_000_000)
    benchmark.pedantic(lambda: reader.fdb_sweep(8192, NOW_S + 300), rounds=500)
    counters = tables.fdb_counters()
    assert counters["aged"] == len(macs) - counters["entries"] > 0


@pytest.mark.benchmark(group="learn 1,000,000 new addresses")
def test_learn(benchmark: Any) -> None:
    made: list[Any] = []
    benchmark.pedantic(lambda: made.append(learned(1_000_000)), rounds=3)
    assert all(tables.fdb_counters()["entries"] == 1_000_000 for tables, _, _ in made)


@pytest.mark.benchmark(
    group="look up while another thread flushes, sweeps and replaces: slowest of 2,000 batches"
)
def test_no_pause(benchmark: Any) -> None:
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
    benchmark.extra_info["slowest_us"] = benchmark.stats.stats.max * 1e6
    assert tables.fdb_counters()["flushed"] > 0


# -- the kernel's ---------------------------------------------------------------------------------------


@pytest.mark.benchmark(group="100,000 FDB entries: fill and dump")
def test_kernel(benchmark: Any, tmp_path: Path) -> None:
    require_root()
    namespace, batch = f"vxbench{time.monotonic_ns() % 1_000_000}", tmp_path / "batch"
    macs = [mac.to_bytes(6, "big").hex(":") for mac in random_macs(100_000).tolist()]
    batch.write_text(
        "".join(f"fdb add {mac} dev vx dst 10.0.{n >> 8 & 3}.{n & 255}\n" for n, mac in enumerate(macs))
    )
    run("ip", "netns", "add", namespace)
    try:
        run("ip", "-n", namespace, *VXLAN)
        dumps: list[str] = []

        def fill_and_dump() -> None:
            run("bridge", "-n", namespace, "-batch", str(batch))
            dumps.append(run("bridge", "-n", namespace, "fdb", "show", "dev", "vx").stdout)

        benchmark.pedantic(fill_and_dump, rounds=1)
        assert dumps[0].count(" dst 10.") == len(macs)
    finally:
        run("ip", "netns", "delete", namespace)


@pytest.mark.benchmark(group="100,000 FDB entries: fill and dump")
def test_vxcore(benchmark: Any) -> None:
    rows: list[Any] = []

    def fill_and_dump() -> None:
        rows.append(filled(100_000)[0].fdb())

    benchmark.pedantic(fill_and_dump, rounds=3)
    assert len(rows[0]) == 100_000


@pytest.mark.benchmark(group="100,000 FDB entries: fill and dump")
def test_dict(benchmark: Any) -> None:
    macs = random_macs(100_000).tolist()
    rows: list[Any] = []

    def fill_and_dump() -> None:
        known = {(7, mac): n % N_REMOTES for n, mac in enumerate(macs)}
        rows.append(list(known.items()))

    benchmark.pedantic(fill_and_dump, rounds=3)
    assert len(rows[0]) == 100_000
