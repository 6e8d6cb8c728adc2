"""Instructions for a packet, counted by valgrind's callgrind: undisturbed by others, for CI.

Place in the house: suite `instructions` of `vxcore bench`. One process runs one fixed program under
callgrind, in which counting.pyx marks each case: a batch of 256, the call from Python included. callgrind has
vectors of at most 256 bits, so that machines with wider ones count alike. Every case checks what it made.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ROOT, peers
from benchmarks.measuring import Call, Case
from benchmarks.pyx import built
from benchmarks.results import COUNTED

N_PACKETS = 256
_NAME = re.compile(rb"^desc: Trigger: Client Request: (.+)$", re.M)
_SUM = re.compile(rb"^(?:totals|summary): (\d+)", re.M)


@pytest.mark.timeout(600)
def test_packet(case: Case, tmp_path: Path) -> None:
    valgrind = peers.program("valgrind")
    if not Path("/usr/include/valgrind/callgrind.h").exists():
        raise peers.AbsentError(f"valgrind's headers are not installed; {peers.INSTALL}")
    for who, count in counted(valgrind, tmp_path).items():
        case.add(f"vxcore, {who}", [count / N_PACKETS], COUNTED, "all bytes")


def counted(valgrind: str, folder: Path) -> dict[str, int]:
    """By case, the instructions of one call."""
    command = [valgrind, "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/out"]
    command += [sys.executable, "-c", "from benchmarks.bench_instructions import program; program()"]
    environment = {**os.environ, "PYTHONHASHSEED": "0", "VXCORE_COUNTING": built("counting").__file__}
    done = subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = {}
    for file in sorted(folder.glob("out*")):
        text = file.read_bytes()
        named, total = _NAME.search(text), _SUM.search(text)
        if named and total:
            found[named[1].decode()] = int(total[1])
    assert found, done.stderr[-2000:]
    return found


# The program, under callgrind


def program() -> None:
    """Count all cases, one after the other."""
    spec = importlib.util.spec_from_file_location("benchmarks.counting", os.environ["VXCORE_COUNTING"])
    assert spec is not None
    assert spec.loader is not None
    counting = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(counting)
    gc.disable()
    os.urandom = lambda n: bytes(range(n))  # tables have a seed of their own each time
    for name, make in CASES.items():
        before, run, check = make()
        counting.count(name.encode(), before, run)
        check()


Made = tuple[Call, Call, Call]
"""What comes before each run and is not counted, the run, and the check of what it made."""


def codec(way: str, length: int, **tunnel: Any) -> Callable[[], Made]:
    """A batch."""

    def make() -> Made:
        from benchmarks.bench_codec import MACS, make_frames, rewinding
        from vxcore import PacketBatch, Tunnel, decap, encap, wire

        frames = make_frames(N_PACKETS, length)
        ends = {
            "local": "192.0.2.1",
            "remote": "192.0.2.2",
            "vni": 42,
            "df": "set",
            "ethernet": MACS,
            **tunnel,
        }
        by = Tunnel(**ends)
        packets = [wire.encapsulate(frame, by.spec)[1] for frame in frames]
        batch = PacketBatch.from_frames(frames if way == "encap" else packets)
        expected = packets if way == "encap" else frames
        run = partial(encap, batch, by) if way == "encap" else partial(decap, batch)

        def check() -> None:
            assert batch.to_frames() == expected

        return rewinding(batch), run, check

    return make


def lists() -> Made:
    """From a list of bytes objects to another."""
    from benchmarks.bench_codec import FRAMES, PACKETS, TUNNEL
    from vxcore import PacketBatch, encap

    made: list[list[bytes]] = []

    def run() -> None:
        batch = PacketBatch.from_frames(FRAMES)
        encap(batch, TUNNEL)
        made.append(batch.to_frames())

    def check() -> None:
        assert made == [PACKETS, PACKETS]

    return nothing, run, check


def nothing() -> None:
    """Before what needs no preparation."""


def lookups(n_entries: int) -> Callable[[], Made]:
    """Of random entries."""

    def make() -> Made:
        from benchmarks.bench_tables import NOW_S, Reader, batches, filled, np

        tables, macs, remotes = filled(n_entries)
        rows = batches(n_entries, 1).ravel()
        keys, out, reader = macs[rows], np.empty(len(rows), np.int32), Reader(tables)
        reader.enter()

        def check() -> None:
            assert (out == remotes[rows]).all()

        return nothing, lambda: reader.fdb_find(0, keys, NOW_S, out), check

    return make


V6 = {"local": "2001:db8::1", "remote": "2001:db8::2"}
CASES: dict[str, Callable[[], Made]] = {
    "encap": codec("encap", 64),
    "decap": codec("decap", 64),
    "encap, IPv6": codec("encap", 64, **V6, udp_checksum=True),
    "decap, IPv6": codec("decap", 64, **V6, udp_checksum=True),
    "encap, 1,450 bytes with checksum": codec("encap", 1450, udp_checksum=True),
    "list in and out": lists,
    "lookup among 1,000": lookups(1_000),
    "lookup among 100,000": lookups(100_000),
}
