"""Encapsulation and decapsulation of 64-byte frames: vxcore beside a bare memcpy, struct, dpkt and Scapy.

Place in the house: suite `codec` of `vxcore bench`. Every case checks the bytes it made. What a case is
compared with runs between its own rounds, in turn, for the machine's speed drifts: ratios are medians of the
quotients turn by turn, and more to be trusted than the times.
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

from benchmarks import peers
from benchmarks.measuring import Call, Case, Timer, in_turn
from benchmarks.pyx import built
from vxcore import Layer, PacketBatch, Rules, Tunnel, TunnelSet, Verdict, decap, encap, wire

MACS = ("02:00:00:00:00:02", "02:00:00:00:00:01")
ENDS = {"local": "192.0.2.1", "remote": "192.0.2.2"}
TUNNEL = Tunnel(**ENDS, vni=42, df="set", ethernet=MACS)
ROUNDS = 1000


def make_frames(n_frames: int, length: int = 64) -> list[bytes]:
    """UDP frames of `length` bytes, each of another flow."""
    frames = []
    addresses = bytes([10, 0, 0, 1, 10, 0, 0, 2])
    ip = struct.pack("!BBHHHBB", 0x45, 0, length - 14, 1, 0, 64, 17)
    ip += struct.pack("!H", wire.internet_checksum(ip + bytes(2) + addresses)) + addresses
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


Sides = dict[str, Call]
KEPT: list[Any] = []  # what loops in C have the address of


def measure(
    case: Case,
    benchmark: Any,
    sides: Sides,
    rewind: Call,
    n_packets: int,
    rounds: int = ROUNDS,
    timer: Timer = time.perf_counter,
    n_bytes: int = 0,
) -> None:
    """Time all sides in turn, each from the same start.

    What takes milliseconds has CPU time as its `timer`, for other processes come in between; the
    microseconds of the others are less than it costs to read that.
    """
    rounds = rounds // 5 if case.quick else rounds
    for who, times in in_turn(benchmark, sides, max(rounds, 3), rewind, timer).items():
        if n_bytes:
            speeds = [n_bytes / seconds / 1e9 for seconds in times]
            case.add(who, speeds, "GB/s", "all bytes", "higher")
        else:
            case.add(who, [seconds / n_packets * 1e9 for seconds in times], "ns a packet", "all bytes")


@pytest.fixture(scope="module")
def floor() -> Any:
    """The compiled loops of floor.pyx."""
    return built("floor")


def copying(floor: Any, batch: PacketBatch) -> Sides:
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


# Beside copying the header, and nothing else


@pytest.mark.benchmark(group="encap, 256 frames of 64 bytes")
def test_encap(benchmark: Any, case: Case, floor: Any) -> None:
    batch = PacketBatch.from_frames(FRAMES)
    sides = {"vxcore": lambda: encap(batch, TUNNEL), **copying(floor, batch)}
    measure(case, benchmark, sides, rewinding(batch), 256)
    assert batch.to_frames() == PACKETS


@pytest.mark.benchmark(group="decap, 256 frames of 64 bytes")
def test_decap(benchmark: Any, case: Case, floor: Any) -> None:
    batch, spare = PacketBatch.from_frames(PACKETS), PacketBatch.from_frames(FRAMES)
    sides = {"vxcore": lambda: decap(batch), **copying(floor, spare)}
    measure(case, benchmark, sides, rewinding(batch), 256)
    assert batch.to_frames() == FRAMES


def n_cold(case: Case) -> int:
    """Frames that no cache holds together."""
    return 65_536 if case.quick else 262_144


@pytest.mark.benchmark(group="frames of 64 bytes, cold", timer=time.thread_time)
def test_encap_cold(benchmark: Any, case: Case, floor: Any) -> None:
    frames = make_frames(n_cold(case))
    batch = PacketBatch.from_frames(frames)
    sides = {"vxcore": lambda: encap(batch, TUNNEL), **copying(floor, batch)}
    measure(case, benchmark, sides, rewinding(batch), len(frames), 30, time.thread_time)
    assert decap(batch) == len(frames)
    assert batch.to_frames() == frames


@pytest.mark.benchmark(group="frames of 64 bytes, cold", timer=time.thread_time)
def test_decap_cold(benchmark: Any, case: Case, floor: Any) -> None:
    frames = make_frames(n_cold(case))
    spare = PacketBatch.from_frames(frames)
    copies = copying(floor, spare)
    encap(spare, TUNNEL)
    batch = PacketBatch.from_frames(spare.to_frames())
    sides = {"vxcore": lambda: decap(batch), **copies}
    measure(case, benchmark, sides, rewinding(batch), len(frames), 30, time.thread_time)
    assert batch.to_frames() == frames


@pytest.mark.benchmark(group="4,096 frames over one tunnel or many")
def test_encap_mixed(benchmark: Any, case: Case) -> None:
    batch = PacketBatch.from_frames(make_frames(4096))
    tunnels = TunnelSet([Tunnel(**ENDS, vni=n, df="set", ethernet=MACS) for n in range(4096)])
    index = np.random.default_rng(1).integers(0, 4096, 4096, dtype=np.uint32)
    one, ones = TunnelSet([TUNNEL]), np.zeros(4096, np.uint32)
    sides: Sides = {
        "vxcore, 4,096 tunnels": lambda: encap(batch, tunnels, index),
        "vxcore, one tunnel": lambda: encap(batch, TUNNEL),
        "vxcore, a set of one": lambda: encap(batch, one, ones),
    }
    rewind = rewinding(batch)
    measure(case, benchmark, sides, rewind, 4096)
    rewind()
    encap(batch, tunnels, index)
    assert np.array_equal(batch.vni, index)
    assert decap(batch) == 4096
    assert np.array_equal(batch.vni, index)


@pytest.mark.benchmark(group="UDP checksum over 1,450 bytes")
def test_checksum(benchmark: Any, case: Case, floor: Any) -> None:
    frames = make_frames(256, 1450)
    batch = PacketBatch.from_frames(frames)
    offset, sums = batch.offset.copy(), np.zeros(256, np.uint16)
    where = (batch.data.ctypes.data, offset.ctypes.data, 256, 1450, sums.ctypes.data)
    sides: Sides = {"vxcore": lambda: floor.checksums(*where)}
    measure(case, benchmark, sides, lambda: None, 256, n_bytes=256 * 1450)
    expected = [sum(np.frombuffer(frame, ">u2").tolist()) % 65535 for frame in frames]
    assert (sums.view(">u2") % 65535).tolist() == expected


@pytest.mark.benchmark(group="UDP checksum over 1,450 bytes")
def test_encap_with_checksum(benchmark: Any, case: Case) -> None:
    batch = PacketBatch.from_frames(make_frames(256, 1450))
    without = Tunnel(**ENDS, vni=42, df="set")
    tunnel = Tunnel(**ENDS, vni=42, df="set", udp_checksum=True)
    sides: Sides = {
        "vxcore": lambda: encap(batch, tunnel),
        "vxcore, without": lambda: encap(batch, without),
    }
    rewind = rewinding(batch)
    measure(case, benchmark, sides, rewind, 256)
    rewind()
    encap(batch, tunnel)
    assert decap(batch, Rules(udp_checksum="require"), Layer.IP) == 256


@pytest.mark.benchmark(group="a list of 256 frames in and out")
@pytest.mark.parametrize("what", ["encap", "decap"])
def test_list_in_list_out(benchmark: Any, case: Case, floor: Any, what: str) -> None:
    """Beside a loop in C over the list that copies each bytes object, and the shortest way in Python."""
    frames, expected = (FRAMES, PACKETS) if what == "encap" else (PACKETS, FRAMES)
    out: list[bytes] = []

    def through_vxcore() -> None:
        batch = PacketBatch.from_frames(frames)
        encap(batch, TUNNEL) if what == "encap" else decap(batch)
        out[:] = batch.to_frames()

    copies: Sides = {
        "a copy in C": lambda: floor.copy_list(frames),
        "a copy in Python": lambda: [bytes(memoryview(frame)) for frame in frames],
    }
    measure(case, benchmark, {"vxcore": through_vxcore, **copies}, lambda: None, 256)
    assert out == expected
    assert all(copy() == frames for copy in copies.values())


SIZES = (64, 128, 256, 512, 1024, 1450, 8950)


@pytest.mark.benchmark(group="lists of 256 frames in and out, by size")
@pytest.mark.parametrize("length", SIZES)
def test_size(benchmark: Any, case: Case, floor: Any, length: int) -> None:
    """Frames through encap, from a list of bytes into one; beside a copy of the list."""
    frames = make_frames(256, length)
    packets = [wire.encapsulate(frame, TUNNEL.spec)[1] for frame in frames]
    out: list[bytes] = []

    def through_vxcore() -> None:
        batch = PacketBatch.from_frames(frames)
        encap(batch, TUNNEL)
        out[:] = batch.to_frames()

    sides: Sides = {
        "vxcore": through_vxcore,
        "struct": lambda: [encap_by_struct(frame) for frame in frames],
        "a copy in C": lambda: floor.copy_list(frames),
    }
    measure(case, benchmark, sides, lambda: None, 256, rounds=100, n_bytes=256 * length)
    assert out == packets


# Beside what one writes in Python


def one_by_one(call: Callable[[bytes], bytes], packets: list[bytes], expected: list[bytes]) -> Call:
    """A side that makes a list, which was compared; outer headers are each library's own."""
    made = [call(packet) for packet in packets]
    assert [packet[-114:][42:] for packet in made] == [packet[-114:][42:] for packet in expected]
    return lambda: [call(packet) for packet in packets]


@pytest.mark.benchmark(group="256 frames of 64 bytes, one by one in Python")
@pytest.mark.parametrize("what", ["encap", "decap"])
def test_python(benchmark: Any, case: Case, what: str) -> None:
    frames, expected = (FRAMES, PACKETS) if what == "encap" else (PACKETS, FRAMES)
    batch = PacketBatch.from_frames(frames)
    run = partial(encap, batch, TUNNEL) if what == "encap" else partial(decap, batch)
    rewind, sides = rewinding(batch), {"vxcore": run}
    for who, makers in WRITTEN.items():
        with case.may_lack(who):
            sides[who] = one_by_one(makers[what](), frames, expected)

    def warm() -> None:
        """Once more unmeasured: Scapy, for one, leaves nothing of ours in the processor's caches."""
        rewind()
        run()
        rewind()

    measure(case, benchmark, sides, warm, 256, rounds=10)


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


def scapy_encap() -> Callable[[bytes], bytes]:
    """The same by Scapy, with the inner frame dissected as its users have it."""
    inet, l2 = peers.package("scapy.layers.inet"), peers.package("scapy.layers.l2")
    vxlan = peers.package("scapy.layers.vxlan").VXLAN

    def call(frame: bytes) -> bytes:
        outer = l2.Ether(dst=MACS[0], src=MACS[1]) / inet.IP(src="192.0.2.1", dst="192.0.2.2", flags="DF")
        udp = inet.UDP(sport=50000, dport=4789, chksum=0)
        return bytes(outer / udp / vxlan(flags=0x08, vni=42) / l2.Ether(frame))

    return call


def scapy_decap() -> Callable[[bytes], bytes]:
    vxlan, ether = peers.package("scapy.layers.vxlan").VXLAN, peers.package("scapy.layers.l2").Ether
    return lambda packet: bytes(ether(packet)[vxlan].payload)


def dpkt_encap() -> Callable[[bytes], bytes]:
    """dpkt has no VXLAN header; its users pack that."""
    dpkt = peers.package("dpkt")
    ends = {"src": ADDRESSES[:4], "dst": ADDRESSES[4:]}

    def call(frame: bytes) -> bytes:
        payload = VXLAN_HEADER + frame
        udp = dpkt.udp.UDP(sport=50000, dport=4789, data=payload, ulen=8 + len(payload))
        ip = dpkt.ip.IP(**ends, p=17, ttl=64, df=1, data=udp, len=28 + len(payload))
        return bytes(dpkt.ethernet.Ethernet(dst=ETHERNET[:6], src=ETHERNET[6:12], data=ip))

    return call


def dpkt_decap() -> Callable[[bytes], bytes]:
    dpkt = peers.package("dpkt")

    def call(packet: bytes) -> bytes:
        udp = dpkt.ethernet.Ethernet(packet).data.data
        if not isinstance(udp, dpkt.udp.UDP) or udp.dport != 4789 or not udp.data[0] & 8:
            raise ValueError("not ours")
        return bytes(udp.data[8:])

    return call


WRITTEN = {
    "struct": {"encap": lambda: encap_by_struct, "decap": lambda: decap_by_struct},
    "dpkt": {"encap": dpkt_encap, "decap": dpkt_decap},
    "scapy": {"encap": scapy_encap, "decap": scapy_decap},
}
"""By who writes it: makers of functions from one packet to another; raise AbsentError."""
