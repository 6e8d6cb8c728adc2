"""Taking VXLAN off a capture file: vxcore beside editcap's chop, dpkt and Scapy.

Place in the house: `make bench` runs it. vxcore and editcap are run as a user runs them, start-up
included, on a file of VXCORE_BENCH_MB megabytes (1,000); dpkt and Scapy, which take minutes for that,
on a small one. Compare by ``MB/s`` (of what is read) and ``CPU s/GB`` (user and system, which a busy
machine disturbs less), which each case prints and the JSON has. The files are in /dev/shm, so that no
disk is measured; ``cat`` of the same file to the same place says what the machine itself takes, which
is much for pages that a file does not have yet. Every case checks the packets that it made.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dpkt
import pytest
from scapy.layers.vxlan import VXLAN
from scapy.utils import PcapReader, PcapWriter

from vxcore import Tunnel, encap_frame

MEGABYTES = int(os.environ.get("VXCORE_BENCH_MB", "1000"))
SMALL_MB = 2
# Frames as they are between servers: half of them small, most bytes in the large ones.
SIZES = [64, 64, 64, 64, 90, 128, 256, 576, 1434, 1434, 1434, 1434]
RECORD = struct.Struct("<IIII")
GROUP = "decap of a capture"
TUNNEL = Tunnel(
    local="192.0.2.1",
    remote="192.0.2.2",
    vni=42,
    ethernet=("02:00:00:00:00:02", "02:00:00:00:00:01"),
)


def frame(number: int, length: int) -> bytes:
    """A UDP frame of `length` bytes."""
    ip = bytes.fromhex("450000000000000040110000") + bytes([10, 0, 0, 1, 10, 0, 0, 2])
    ip = ip[:2] + struct.pack("!H", length - 14) + ip[4:]
    udp = struct.pack("!HHHH", 1024 + number % 60000, 53, length - 34, 0)
    return (bytes.fromhex("02000000000b02000000000a0800") + ip + udp).ljust(length, b"x")


FRAMES = [frame(n, SIZES[n % len(SIZES)]) for n in range(1200)]
PACKETS = [encap_frame(one, TUNNEL)[1] for one in FRAMES]


def records(packets: list[bytes]) -> bytes:
    """Records of a pcap, all of one time."""
    return b"".join(RECORD.pack(1_700_000_000, 7, len(one), len(one)) + one for one in packets)


HEADER = struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)
BEFORE, AFTER = records(PACKETS), records(FRAMES)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Where the files are; deleted afterwards."""
    path = Path("/dev/shm") / f"vxcore-bench-{os.getpid()}"
    path.mkdir()
    yield path
    shutil.rmtree(path)


def make(path: Path, megabytes: int) -> Path:
    """A capture of about so many megabytes, the same packets again and again."""
    with path.open("wb") as file:
        file.write(HEADER)
        for _ in range(megabytes * 1_000_000 // len(BEFORE)):
            file.write(BEFORE)
    return path


@pytest.fixture(scope="module")
def large(folder: Path) -> Path:
    return make(folder / "large.pcap", MEGABYTES)


@pytest.fixture(scope="module")
def small(folder: Path) -> Path:
    return make(folder / "small.pcap", SMALL_MB)


def check(path: Path, source: Path) -> None:
    """Every record of the output, its time and its bytes."""
    repeats = (source.stat().st_size - len(HEADER)) // len(BEFORE)
    assert path.stat().st_size == len(HEADER) + repeats * len(AFTER)
    with path.open("rb") as file:
        file.seek(len(HEADER))
        for _ in range(repeats):
            assert file.read(len(AFTER)) == AFTER


def measure(benchmark: Any, run: Callable[[], Any], source: Path, rounds: int = 5) -> None:
    """Time `run`, which reads `source` once."""
    run()
    before = cpu_s()
    benchmark.pedantic(run, rounds=rounds)
    size = source.stat().st_size
    benchmark.extra_info["MB"] = round(size / 1e6)
    benchmark.extra_info["MB/s"] = round(size / benchmark.stats.stats.median / 1e6, 2)
    benchmark.extra_info["CPU s/GB"] = round((cpu_s() - before) / rounds / size * 1e9, 3)
    print(f"\n{benchmark.name}: {benchmark.extra_info}")


def cpu_s() -> float:
    """What this process and those that it waited for have used of the processor."""
    return sum(os.times()[:4])


def command(*words: object) -> Callable[[], None]:
    """A function that runs a command."""
    return lambda: subprocess.run([str(word) for word in words], check=True, stderr=subprocess.DEVNULL)


def vxcore(*words: object) -> Callable[[], None]:
    return command(sys.executable, "-m", "vxcore", *words)


@pytest.mark.benchmark(group=GROUP)
def test_vxcore_to_dev_null(benchmark: Any, large: Path, folder: Path) -> None:
    measure(benchmark, vxcore("decap", large, "/dev/null"), large)
    vxcore("decap", large, folder / "out")()
    check(folder / "out", large)


@pytest.mark.benchmark(group=GROUP)
def test_vxcore_to_a_file(benchmark: Any, large: Path, folder: Path) -> None:
    measure(benchmark, vxcore("decap", large, folder / "out"), large, rounds=3)
    check(folder / "out", large)


@pytest.mark.benchmark(group=GROUP)
def test_vxcore_into_pages_that_are_there(benchmark: Any, large: Path, folder: Path) -> None:
    """Through standard output onto the same file, which keeps its pages: the copying without their making."""
    vxcore("decap", large, folder / "out")()
    measure(benchmark, shell(f'"{sys.executable}" -m vxcore decap "{large}" - 1<>"{folder}/out"'), large)
    check(folder / "out", large)


def shell(line: str) -> Callable[[], None]:
    return command("sh", "-c", line)


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("pages", ["new", "there"])
def test_cat_of_the_same(benchmark: Any, large: Path, folder: Path, pages: str) -> None:
    """What the machine takes to copy the file, and no more."""
    redirection = ">" if pages == "new" else "1<>"
    measure(benchmark, shell(f'cat "{large}" {redirection}"{folder}/out"'), large, rounds=3)
    assert subprocess.run(["cmp", large, folder / "out"], check=False).returncode == 0


@pytest.mark.benchmark(group=GROUP)
def test_editcap_chop(benchmark: Any, large: Path, folder: Path) -> None:
    """It cuts 50 bytes off whatever is there: no look at what they are, and no VNI."""
    chop = command("editcap", "-F", "pcap", "-L", "-C", "50", large, folder / "out")
    measure(benchmark, chop, large, rounds=3)
    check(folder / "out", large)


@pytest.mark.benchmark(group=GROUP)
def test_dpkt(benchmark: Any, small: Path, folder: Path) -> None:
    measure(benchmark, lambda: decap_by_dpkt(small, folder / "out"), small)
    check(folder / "out", small)


def decap_by_dpkt(source: Path, target: Path) -> None:
    """What one writes with dpkt, which parses the frame as far as UDP."""
    with source.open("rb") as file, target.open("wb") as out:
        writer = dpkt.pcap.Writer(out, snaplen=262144)
        for time, data in dpkt.pcap.Reader(file):
            udp = dpkt.ethernet.Ethernet(data).data.data
            if isinstance(udp, dpkt.udp.UDP) and udp.dport == 4789 and udp.data[0] & 8:
                writer.writepkt(udp.data[8:], time)


@pytest.mark.benchmark(group=GROUP)
def test_scapy(benchmark: Any, small: Path, folder: Path) -> None:
    measure(benchmark, lambda: decap_by_scapy(small, folder / "out"), small, rounds=2)
    check(folder / "out", small)


def decap_by_scapy(source: Path, target: Path) -> None:
    """What one writes with Scapy."""
    with PcapReader(str(source)) as reader, PcapWriter(str(target), linktype=1) as writer:
        for packet in reader:
            if VXLAN in packet:
                inner = packet[VXLAN].payload
                inner.time = packet.time
                writer.write(inner)


@pytest.mark.benchmark(group="inspect of a capture")
def test_inspect(benchmark: Any, large: Path) -> None:
    measure(benchmark, command(sys.executable, "-c", INSPECT, large), large)


INSPECT = """
import contextlib, io, json, sys
from vxcore import cli
with contextlib.redirect_stdout(io.StringIO()) as out:
    assert cli.main(["inspect", sys.argv[1], "--json"]) == 0
report = json.loads(out.getvalue())
assert report["verdicts"] == {"DELIVERED": report["packets"]}
assert report["inner_flows"]["different"] == 1200, report["inner_flows"]["different"]
"""
