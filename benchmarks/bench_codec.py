"""Encapsulation and decapsulation of 64-byte frames: vxcore beside Scapy, struct and a bare memcpy.

Place in the house: `make bench` runs it. Every case checks the bytes it made; compare cases of one
run, by their medians: the machine's speed drifts.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from vxcore import Layer, PacketBatch, Tunnel, TunnelSet, Verdict, decap, encap, wire

MACS = ("02:00:00:00:00:02", "02:00:00:00:00:01")
ENDS = {"local": "192.0.2.1", "remote": "192.0.2.2"}
TUNNEL = Tunnel(**ENDS, vni=42, df="set", ethernet=MACS)
ROUNDS = 300


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


def measure(benchmark: Any, run: Callable[[], Any], rewind: Callable[[], None], rounds: int = ROUNDS) -> None:
    """Time `run` alone, each time from the same start."""
    benchmark.pedantic(run, setup=rewind, rounds=rounds, warmup_rounds=10)


@pytest.fixture(scope="module")
def floor() -> Any:
    """The compiled memcpy loop."""
    import sys

    import pyximport

    pyximport.install(language_level=3)
    sys.path.insert(0, str(Path(__file__).parent))
    import floor as module

    return module


@pytest.mark.benchmark(group="encap, 256 frames of 64 bytes")
def test_encap_vxcore(benchmark: Any) -> None:
    batch = PacketBatch.from_frames(FRAMES)
    measure(benchmark, lambda: encap(batch, TUNNEL), rewinding(batch))
    assert batch.to_frames() == PACKETS


@pytest.mark.benchmark(group="encap, 256 frames of 64 bytes")
def test_encap_memcpy_floor(benchmark: Any, floor: Any) -> None:
    batch = PacketBatch.from_frames(FRAMES)
    header = np.frombuffer(PACKETS[0][:50], np.uint8)
    offset = batch.offset.copy()
    measure(benchmark, lambda: floor.copy_headers(batch.data, offset, header), lambda: None)
    assert bytes(batch.data[offset[7] - 50 : offset[7]]) == PACKETS[0][:50]


@pytest.mark.benchmark(group="encap, 256 frames of 64 bytes")
def test_encap_struct(benchmark: Any) -> None:
    packets: list[bytes] = []

    def run() -> None:
        packets[:] = [encap_by_struct(frame) for frame in FRAMES]

    measure(benchmark, run, lambda: None, rounds=30)
    assert [packet[42:] for packet in packets] == [packet[42:] for packet in PACKETS]


@pytest.mark.benchmark(group="encap, 256 frames of 64 bytes")
def test_encap_scapy(benchmark: Any) -> None:
    packets: list[bytes] = []

    def run() -> None:
        packets[:] = [encap_by_scapy(frame) for frame in FRAMES]

    measure(benchmark, run, lambda: None, rounds=3)
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
def test_decap_vxcore(benchmark: Any) -> None:
    batch = PacketBatch.from_frames(PACKETS)
    measure(benchmark, lambda: decap(batch), rewinding(batch))
    assert batch.to_frames() == FRAMES


@pytest.mark.benchmark(group="decap, 256 frames of 64 bytes")
def test_decap_memcpy_floor(benchmark: Any, floor: Any) -> None:
    test_encap_memcpy_floor(benchmark, floor)


@pytest.mark.benchmark(group="decap, 256 frames of 64 bytes")
def test_decap_struct(benchmark: Any) -> None:
    frames: list[bytes] = []

    def run() -> None:
        frames[:] = [decap_by_struct(packet) for packet in PACKETS]

    measure(benchmark, run, lambda: None, rounds=30)
    assert frames == FRAMES


@pytest.mark.benchmark(group="decap, 256 frames of 64 bytes")
def test_decap_scapy(benchmark: Any) -> None:
    frames: list[bytes] = []

    def run() -> None:
        frames[:] = [bytes(Ether(packet)[VXLAN].payload) for packet in PACKETS]

    measure(benchmark, run, lambda: None, rounds=3)
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


@pytest.mark.benchmark(group="encap, 262,144 frames of 64 bytes, cold")
@pytest.mark.parametrize("what", ["vxcore", "memcpy_floor"])
def test_encap_cold(benchmark: Any, floor: Any, what: str) -> None:
    frames = make_frames(262_144)
    batch = PacketBatch.from_frames(frames)
    header, offset = np.frombuffer(PACKETS[0][:50], np.uint8), batch.offset.copy()
    run = (
        (lambda: encap(batch, TUNNEL))
        if what == "vxcore"
        else (lambda: floor.copy_headers(batch.data, offset, header))
    )
    measure(benchmark, run, rewinding(batch), rounds=10)
    assert bytes(batch.data[offset[-1] - 8 : offset[-1]]) == VXLAN_HEADER


@pytest.mark.benchmark(group="encap over one tunnel or many, 4,096 frames")
@pytest.mark.parametrize("n_tunnels", [1, 4096])
def test_encap_mixed(benchmark: Any, n_tunnels: int) -> None:
    batch = PacketBatch.from_frames(make_frames(4096))
    tunnels = TunnelSet([Tunnel(**ENDS, vni=n, df="set", ethernet=MACS) for n in range(n_tunnels)])
    index = np.random.default_rng(1).integers(0, n_tunnels, 4096, dtype=np.uint32)
    measure(benchmark, lambda: encap(batch, tunnels, index), rewinding(batch))
    assert np.array_equal(batch.vni, index)


@pytest.mark.benchmark(group="encap with UDP checksum, 256 frames of 1,450 bytes")
def test_encap_checksum(benchmark: Any) -> None:
    batch = PacketBatch.from_frames(make_frames(256, 1450))
    tunnel = Tunnel(**ENDS, vni=42, df="set", udp_checksum=True)
    measure(benchmark, lambda: encap(batch, tunnel), rewinding(batch))
    assert decap(batch, layer=Layer.IP) == 256


@pytest.mark.benchmark(group="a list of 256 frames in and out")
@pytest.mark.parametrize("what", ["vxcore", "copy"])
def test_list_in_list_out(benchmark: Any, what: str) -> None:
    out: list[bytes] = []

    def through_vxcore() -> None:
        batch = PacketBatch.from_frames(FRAMES)
        encap(batch, TUNNEL)
        out[:] = batch.to_frames()

    def copy() -> None:
        out[:] = [bytes(memoryview(frame)) for frame in FRAMES]

    measure(benchmark, through_vxcore if what == "vxcore" else copy, lambda: None)
    assert out == (PACKETS if what == "vxcore" else FRAMES)
