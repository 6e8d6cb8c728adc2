"""Encapsulation and decapsulation of 64-byte frames: vxcore beside a bare memcpy, struct and Scapy.

Place in the house: `make bench` runs it, and `make performance` makes docs/performance.md of it. Every case
checks the bytes it made. What a case is compared with runs between its own rounds, in turn, for the machine's
speed drifts: ``ratio`` is the median of the quotients round by round, and more to be trusted than the times.
"""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import pyximport
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from benchmarks import ROOT
from vxcore import Layer, PacketBatch, Rules, Tunnel, TunnelSet, Verdict, decap, encap, wire

MACS = ("02:00:00:00:00:02", "02:00:00:00:00:01")
ENDS = {"local": "192.0.2.1", "remote": "192.0.2.2"}
TUNNEL = Tunnel(**ENDS, vni=42, df="set", ethernet=MACS)
ROUNDS = 1000


def make_frames(n_frames: int, length: int = 64) -> list[bytes]:
    """UDP frames of `length` bytes, each of another flow."""
    frames = []
    ip = bytes(IP(src="10.0.0.1", dst="10.0.0.2", id=1, len=length - 14, proto=17))[:20]
    for n in range(n_frames):
        ports = struct.pack("!HHHH", 1024 + n % 60000, 53, length - 34, 0)
        frames.append((bytes.fromhex("02000000000b02000000000a0800") + ip + ports).ljust(length, b"x"))
    return frames


FRAMES = make_frames(256)
PACKETS = [wire.encapsulate(frame, TUNNEL.spec)[1] for frame in FRAMES]


def rewinding(batch: PacketBatch) -> Callable[[], None]:
    """A set-up step that puts the batch back as it is now."""
    offset, length = batch.offset.copy(), batch.length.copy()

    def rewind() -> None:
        batch.offset[:] = offset
        batch.length[:] = length
        batch.verdict[:] = Verdict.DELIVERED

    return rewind


Beside = dict[str, Callable[[], Any]]
KEPT: list[Any] = []  # what loops in C have the address of


def measure(
    benchmark: Any,
    run: Callable[[], Any],
    rewind: Callable[[], None],
    n_packets: int,
    beside: Beside | None = None,
    rounds: int = ROUNDS,
    timer: Callable[[], float] = time.perf_counter,
) -> None:
    """Time `run` from the same start each time, and between its rounds what it is compared with.

    What takes milliseconds has CPU time as its `timer`, for other processes come in between; the
    microseconds of the others are less than it costs to read that.
    """
    beside = beside or {}
    times: dict[str, list[float]] = {name: [] for name in beside}

    def between() -> None:
        for name, other in beside.items():
            rewind()
            started = timer()
            other()
            times[name].append(timer() - started)
        rewind()

    benchmark.pedantic(run, setup=between, rounds=rounds, warmup_rounds=5)
    data = np.array(benchmark.stats.stats.data)
    info = {"ns": np.median(data) / n_packets * 1e9}
    for name, taken in times.items():
        other = np.array(taken[-len(data) :])
        info[f"ns of {name}"] = np.median(other) / n_packets * 1e9
        info[f"ratio to {name}"] = np.median(data / other)
    benchmark.extra_info.update({key: round(float(value), 2) for key, value in info.items()})


@pytest.fixture(scope="module")
def floor() -> Any:
    """The compiled loops of floor.pyx."""
    headers = {"include_dirs": [str(ROOT / "pyx" / "include")]}
    built = str(ROOT / "build" / "benchmarks")
    hook = pyximport.install(language_level=3, build_dir=built, setup_args=headers)
    try:
        from benchmarks import floor as module
    finally:
        pyximport.uninstall(*hook)
    return module


def copying(floor: Any, batch: PacketBatch) -> Beside:
    """The headers alone, copied in front of the batch's packets as they are now: called, and inlined."""
    offset, header = batch.offset.copy(), PACKETS[0][:50]
    where = (batch.data.ctypes.data, offset.ctypes.data, len(offset))
    KEPT.append(offset)

    def check(copy: Callable[..., None]) -> Callable[[], None]:
        spare = np.zeros(128, np.uint8)
        copy(spare.ctypes.data, np.array([100], np.uint32).ctypes.data, 1, header)
        assert bytes(spare) == bytes(50) + header + bytes(28)
        return partial(copy, *where, header)

    return {"memcpy": check(floor.copy_headers), "inlined memcpy": check(floor.copy_headers_of_50)}


@pytest.mark.benchmark(group="encap, 256 frames of 64 bytes")
def test_encap_vxcore(benchmark: Any, floor: Any) -> None:
    batch = PacketBatch.from_frames(FRAMES)
    measure(benchmark, lambda: encap(batch, TUNNEL), rewinding(batch), 256, copying(floor, batch))
    assert batch.to_frames() == PACKETS


@pytest.mark.benchmark(group="encap, 256 frames of 64 bytes")
def test_encap_struct(benchmark: Any) -> None:
    packets: list[bytes] = []

    def run() -> None:
        packets[:] = [encap_by_struct(frame) for frame in FRAMES]

    measure(benchmark, run, lambda: None, 256, rounds=30)
    assert [packet[42:] for packet in packets] == [packet[42:] for packet in PACKETS]


@pytest.mark.benchmark(group="encap, 256 frames of 64 bytes")
def test_encap_scapy(benchmark: Any) -> None:
    packets: list[bytes] = []

    def run() -> None:
        packets[:] = [encap_by_scapy(frame) for frame in FRAMES]

    measure(benchmark, run, lambda: None, 256, rounds=5)
    assert [packet[42:] for packet in packets] == [packet[42:] for packet in PACKETS]


ETHERNET = bytes.fromhex("0200000000020200000000010800")
ADDRESSES = bytes([192, 0, 2, 1, 192, 0, 2, 2])
VXLAN_HEADER = struct.pack("!II", 0x08000000, 42 << 8)


def encap_by_struct(frame: bytes) -> bytes:
    """What one writes without a library: struct for the headers, CRC-32 of the addresses for the port."""
    port = 49152 + zlib.crc32(frame[26:38]) % 16384
    length = len(frame) + 50
    ip = struct.pack("!BBHHHBBH", 0x45, 0, length - 14, 0, 0x4000, 64, 17, 0) + ADDRESSES
    total = sum(struct.unpack("!10H", ip))
    total = (total & 0xFFFF) + (total >> 16)
    ip = ip[:10] + struct.pack("!H", ~total & 0xFFFF) + ip[12:]
    return ETHERNET + ip + struct.pack("!HHHH", port, 4789, length - 34, 0) + VXLAN_HEADER + frame


def encap_by_scapy(frame: bytes) -> bytes:
    """The same by Scapy, with the inner frame dissected as its users have it."""
    outer = Ether(dst=MACS[0], src=MACS[1]) / IP(src="192.0.2.1", dst="192.0.2.2", flags="DF")
    return bytes(outer / UDP(sport=50000, dport=4789, chksum=0) / VXLAN(flags=0x08, vni=42) / Ether(frame))


@pytest.mark.benchmark(group="decap, 256 frames of 64 bytes")
def test_decap_vxcore(benchmark: Any, floor: Any) -> None:
    batch, spare = PacketBatch.from_frames(PACKETS), PacketBatch.from_frames(FRAMES)
    measure(benchmark, lambda: decap(batch), rewinding(batch), 256, copying(floor, spare))
    assert batch.to_frames() == FRAMES


@pytest.mark.benchmark(group="decap, 256 frames of 64 bytes")
def test_decap_struct(benchmark: Any) -> None:
    frames: list[bytes] = []

    def run() -> None:
        frames[:] = [decap_by_struct(packet) for packet in PACKETS]

    measure(benchmark, run, lambda: None, 256, rounds=30)
    assert frames == FRAMES


@pytest.mark.benchmark(group="decap, 256 frames of 64 bytes")
def test_decap_scapy(benchmark: Any) -> None:
    frames: list[bytes] = []

    def run() -> None:
        frames[:] = [bytes(Ether(packet)[VXLAN].payload) for packet in PACKETS]

    measure(benchmark, run, lambda: None, 256, rounds=5)
    assert frames == FRAMES


def decap_by_struct(packet: bytes) -> bytes:
    """The checks without which nobody should take a packet in."""
    (ethertype,) = struct.unpack_from("!H", packet, 12)
    first, total, protocol = struct.unpack_from("!BxH5xB", packet, 14)
    port, length = struct.unpack_from("!HH", packet, 36)
    flags, _vni = struct.unpack_from("!II", packet, 42)
    words = sum(struct.unpack_from("!10H", packet, 14))
    whole = total + 14 <= len(packet) and length + 20 <= total
    ours = ethertype == 0x0800 and first == 0x45 and protocol == 17 and port == 4789 and flags >> 27 & 1
    if not whole or not ours or (words & 0xFFFF) + (words >> 16) != 0xFFFF:
        raise ValueError("not ours")
    return packet[50 : 34 + length]


@pytest.mark.benchmark(group="262,144 frames of 64 bytes, cold", timer=time.thread_time)
def test_encap_cold(benchmark: Any, floor: Any) -> None:
    frames = make_frames(262_144)
    batch = PacketBatch.from_frames(frames)
    beside = copying(floor, batch)
    measure(
        benchmark, lambda: encap(batch, TUNNEL), rewinding(batch), len(frames), beside, 31, time.thread_time
    )
    assert decap(batch) == len(frames)
    assert batch.to_frames() == frames


@pytest.mark.benchmark(group="262,144 frames of 64 bytes, cold", timer=time.thread_time)
def test_decap_cold(benchmark: Any, floor: Any) -> None:
    frames = make_frames(262_144)
    spare = PacketBatch.from_frames(frames)
    beside = copying(floor, spare)
    encap(spare, TUNNEL)
    batch = PacketBatch.from_frames(spare.to_frames())
    measure(benchmark, lambda: decap(batch), rewinding(batch), len(frames), beside, 31, time.thread_time)
    assert batch.to_frames() == frames


@pytest.mark.benchmark(group="4,096 frames over one tunnel or many")
def test_encap_mixed(benchmark: Any) -> None:
    batch = PacketBatch.from_frames(make_frames(4096))
    tunnels = TunnelSet([Tunnel(**ENDS, vni=n, df="set", ethernet=MACS) for n in range(4096)])
    index = np.random.default_rng(1).integers(0, 4096, 4096, dtype=np.uint32)
    one, ones = TunnelSet([TUNNEL]), np.zeros(4096, np.uint32)
    beside: Beside = {
        "one tunnel": lambda: encap(batch, TUNNEL),
        "a set of one": lambda: encap(batch, one, ones),
    }
    measure(benchmark, lambda: encap(batch, tunnels, index), rewinding(batch), 4096, beside)
    assert np.array_equal(batch.vni, index)
    assert decap(batch) == 4096
    assert np.array_equal(batch.vni, index)


@pytest.mark.benchmark(group="UDP checksum over 1,450 bytes")
def test_checksum(benchmark: Any, floor: Any) -> None:
    frames = make_frames(256, 1450)
    batch = PacketBatch.from_frames(frames)
    offset, sums = batch.offset.copy(), np.zeros(256, np.uint16)
    where = (batch.data.ctypes.data, offset.ctypes.data, 256, 1450, sums.ctypes.data)
    measure(benchmark, lambda: floor.checksums(*where), lambda: None, 256)
    benchmark.extra_info["GB/s"] = round(1450 / benchmark.extra_info["ns"], 1)
    expected = [sum(np.frombuffer(frame, ">u2").tolist()) % 65535 for frame in frames]
    assert (sums.view(">u2") % 65535).tolist() == expected


@pytest.mark.benchmark(group="UDP checksum over 1,450 bytes")
def test_encap_with_checksum(benchmark: Any) -> None:
    batch = PacketBatch.from_frames(make_frames(256, 1450))
    without = Tunnel(**ENDS, vni=42, df="set")
    tunnel = Tunnel(**ENDS, vni=42, df="set", udp_checksum=True)
    beside: Beside = {"the same without": lambda: encap(batch, without)}
    measure(benchmark, lambda: encap(batch, tunnel), rewinding(batch), 256, beside)
    assert decap(batch, Rules(udp_checksum="require"), Layer.IP) == 256


@pytest.mark.benchmark(group="a list of 256 frames in and out")
@pytest.mark.parametrize("what", ["encap", "decap"])
def test_list_in_list_out(benchmark: Any, floor: Any, what: str) -> None:
    """Beside a loop in C over the list that copies each bytes object, and the shortest way in Python."""
    frames, expected = (FRAMES, PACKETS) if what == "encap" else (PACKETS, FRAMES)
    out: list[bytes] = []

    def through_vxcore() -> None:
        batch = PacketBatch.from_frames(frames)
        encap(batch, TUNNEL) if what == "encap" else decap(batch)
        out[:] = batch.to_frames()

    beside: Beside = {
        "a copy in C": lambda: floor.copy_list(frames),
        "a copy in Python": lambda: [bytes(memoryview(frame)) for frame in frames],
    }
    measure(benchmark, through_vxcore, lambda: None, 256, beside)
    assert out == expected
    assert all(copy() == frames for copy in beside.values())
