"""Taking VXLAN off a capture file: vxcore beside editcap's chop, dpkt and Scapy.

Place in the house: suite `capture` of `vxcore bench`. vxcore and editcap are run as a user runs them,
start-up included, on a file of 1,000 megabytes; dpkt and Scapy, which take minutes for that, on a small one.
What is measured is CPU time, user and system, for a gigabyte read, which a busy machine disturbs less than
the clock. The files are in /dev/shm, so that no disk is measured; ``cat`` of the same file to the same place
says what the machine itself takes, which is much for pages that a file does not have yet. Every case checks
the packets that it made.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import peers
from benchmarks.measuring import Call, Case, in_turn
from vxcore import Tunnel, encap_frame

MEGABYTES, QUICK_MB, SMALL_MB = 1000, 100, 2
# Frames as they are between servers: half of them small, most bytes in the large ones.
SIZES = [64, 64, 64, 64, 90, 128, 256, 576, 1434, 1434, 1434, 1434]
RECORD = struct.Struct("<IIII")
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
def large(folder: Path, request: pytest.FixtureRequest) -> Path:
    return make(folder / "large.pcap", QUICK_MB if request.config.getoption("--quick") else MEGABYTES)


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


def measure(case: Case, benchmark: Any, sides: dict[str, Call], source: Path, rounds: int) -> None:
    """Time what each reads `source` once, in turn, by the clock and by the processor."""
    gigabytes, used = source.stat().st_size / 1e9, {name: [] for name in sides}

    def counting(name: str, run: Call) -> Call:
        def counted() -> None:
            before = cpu_s()
            run()
            used[name].append((cpu_s() - before) / gigabytes)

        return counted

    counted = {name: counting(name, run) for name, run in sides.items()}
    for who, times in in_turn(benchmark, counted, 2 if case.quick else rounds).items():
        speed = gigabytes * 1000 * len(times) / sum(times)
        taken = used[who][-len(times) :]
        case.add(who, taken, "CPU s/GB", "every record", apart=True, mb_per_s=speed, mb=gigabytes * 1000)


def cpu_s() -> float:
    """What this process and those that it waited for have used of the processor."""
    return sum(os.times()[:4])


def command(*words: object) -> Call:
    """A function that runs a command."""
    return lambda: subprocess.run([str(word) for word in words], check=True, stderr=subprocess.DEVNULL)


def vxcore(*words: object) -> Call:
    return command(sys.executable, "-m", "vxcore", *words)


def shell(line: str) -> Call:
    return command("sh", "-c", line)


@pytest.mark.benchmark(group="decap of a capture")
def test_decap(benchmark: Any, case: Case, large: Path, folder: Path) -> None:
    """Into pages that are there: onto the same file, which keeps them, so that none is made.

    editcap cuts 50 bytes off whatever is there: no look at what they are, and no VNI.
    """
    new, there, chopped = (folder / name for name in ("new", "there", "chopped"))
    onto = f'1<>"{there}"'
    sides = {
        "vxcore to nowhere": vxcore("decap", large, "/dev/null"),
        "vxcore into pages that are there": shell(f'"{sys.executable}" -m vxcore decap "{large}" - {onto}'),
        "cat into pages that are there": shell(f'cat "{large}" {onto}'),
        "vxcore to a new file": vxcore("decap", large, new),
        "cat to a new file": shell(f'cat "{large}" >"{folder}/copy"'),
    }
    with case.may_lack("editcap to a new file"):
        editcap = peers.program("editcap")
        sides["editcap to a new file"] = command(editcap, "-F", "pcap", "-L", "-C", "50", large, chopped)
    shutil.copyfile(large, there)
    measure(case, benchmark, sides, large, rounds=3)
    sides["vxcore into pages that are there"]()
    os.truncate(there, new.stat().st_size)  # cat had left more
    for path in (path for path in (new, there, chopped) if path.exists()):
        check(path, large)
    assert subprocess.run(["cmp", large, folder / "copy"], check=False).returncode == 0
    for path in (new, there, chopped, folder / "copy"):
        path.unlink(missing_ok=True)


@pytest.mark.benchmark(group="decap of a small capture")
def test_decap_by_libraries(benchmark: Any, case: Case, small: Path, folder: Path) -> None:
    sides: dict[str, Call] = {}
    for who, by in (("dpkt", by_dpkt), ("scapy", by_scapy)):
        with case.may_lack(who):
            sides[who] = by(small, folder / who)
    if not sides:
        pytest.skip("neither dpkt nor Scapy is installed")
    measure(case, benchmark, sides, small, rounds=5)
    for who in sides:
        check(folder / who, small)


def by_dpkt(source: Path, target: Path) -> Call:
    """What one writes with dpkt, which parses the frame as far as UDP."""
    dpkt = peers.package("dpkt")

    def run() -> None:
        with source.open("rb") as file, target.open("wb") as out:
            writer = dpkt.pcap.Writer(out, snaplen=262144)
            for time, data in dpkt.pcap.Reader(file):
                udp = dpkt.ethernet.Ethernet(data).data.data
                if isinstance(udp, dpkt.udp.UDP) and udp.dport == 4789 and udp.data[0] & 8:
                    writer.writepkt(udp.data[8:], time)

    return run


def by_scapy(source: Path, target: Path) -> Call:
    """What one writes with Scapy."""
    utils, vxlan = peers.package("scapy.utils"), peers.package("scapy.layers.vxlan").VXLAN

    def run() -> None:
        with utils.PcapReader(str(source)) as reader, utils.PcapWriter(str(target), linktype=1) as writer:
            for packet in reader:
                if vxlan in packet:
                    inner = packet[vxlan].payload
                    inner.time = packet.time
                    writer.write(inner)

    return run


@pytest.mark.benchmark(group="inspect of a capture")
def test_inspect(benchmark: Any, case: Case, large: Path) -> None:
    measure(case, benchmark, {"vxcore": command(sys.executable, "-c", INSPECT, large)}, large, rounds=3)


INSPECT = """
import contextlib, io, json, sys
from vxcore import cli
with contextlib.redirect_stdout(io.StringIO()) as out:
    assert cli.main(["inspect", sys.argv[1], "--json"]) == 0
report = json.loads(out.getvalue())
assert report["verdicts"] == {"DELIVERED": report["packets"]}
assert report["inner_flows"]["different"] == 1200, report["inner_flows"]["different"]
"""
