"""Capture files as Scapy writes them, as they should not be, and cut off anywhere."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.utils import PcapNgWriter, wrpcap
from support.captures import START_S, block, enhanced, interface, pcap, section

from vxcore import PacketBatch, read_pcap
from vxcore._fast.pcap import Reader
from vxcore.errors import CaptureError

ETHER = Ether(src="02:00:00:00:00:0a", dst="02:00:00:00:00:0b")
PACKETS = [ETHER / IP(src="10.0.0.1", dst="10.0.0.2") / UDP() / bytes(n) for n in range(50)]
FRAMES = [bytes(packet) for packet in PACKETS]
for number, packet in enumerate(PACKETS):
    packet.time = 1_700_000_000 + number / 4


def read_all(data: bytes, block_size: int = 1 << 16) -> tuple[list[bytes], list[int], str | None]:
    reader = Reader(io.BytesIO(data), block_size)
    frames, times = [], []
    while reader.read():
        frames += reader.batch.to_frames()
        times += reader.time_ns.tolist()
    return frames, times, reader.problem


def test_scapy_and_we_read_the_same(tmp_path: Path) -> None:
    classic, modern = str(tmp_path / "a.pcap"), str(tmp_path / "b.pcapng")
    wrpcap(classic, PACKETS)
    with PcapNgWriter(modern) as writer:
        writer.write(PACKETS)
    for file in (classic, modern):
        batch = read_pcap(file)
        assert isinstance(batch, PacketBatch)
        assert batch.to_frames() == FRAMES
        assert (batch.offset[1:] - batch.offset[:-1] - batch.length[:-1] >= 128).all()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nano", [False, True])
def test_pcap_of_either_byte_order_and_resolution(order: str, nano: bool) -> None:
    frames, times, problem = read_all(pcap(FRAMES, order, nano))
    assert (frames, problem) == (FRAMES, None)
    assert times == [(START_S + n) * 10**9 + n * (1 if nano else 1000) for n in range(len(FRAMES))]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("resolution", "stamp", "expected"),
    [
        (b"", 5_000_001, 5_000_001_000),
        (b"\x09", 5_000_000_001, 5_000_000_001),
        (b"\x03", 5_001, 5_001_000_000),
        (b"\x0c", 5_000_000_001_999, 5_000_000_001),
        (b"\x8a", 5 * 1024 + 512, 5_500_000_000),
        (b"\x00", 5, 5_000_000_000),
    ],
)
def test_pcapng_times(order: str, resolution: bytes, stamp: int, expected: int) -> None:
    option = struct.pack(f"{order}HH", 9, 1) + resolution + bytes(3) if resolution else b""
    offset = struct.pack(f"{order}HHq", 14, 8, 100) + struct.pack(f"{order}HH", 0, 0)
    for options, extra in ((option, 0), (option + offset, 100_000_000_000)):
        data = section(order) + interface(order, options=options) + enhanced(FRAMES[0], stamp, order)
        assert read_all(data) == ([FRAMES[0]], [expected + extra], None)


def test_pcapng_with_everything_in_it() -> None:
    old = struct.pack("<HHIIII", 1, 0, 0, 7, len(FRAMES[1]), len(FRAMES[1])) + FRAMES[1]
    simple = struct.pack("<I", len(FRAMES[2]) + 5) + FRAMES[2] + bytes(5)
    data = section() + interface() + interface(link=101) + block(4, bytes(40)) + enhanced(FRAMES[0], 5)
    data += block(2, old) + block(3, simple) + block(0x0BAD, bytes(300_000))  # larger than the block
    data += section(">") + interface(">", snap_len=20) + enhanced(FRAMES[3], 6, ">")
    data += block(3, struct.pack(">I", 99) + FRAMES[4][:20], ">")
    frames, _, problem = read_all(data)
    assert problem is None
    assert frames == [FRAMES[0], FRAMES[1], FRAMES[2] + bytes(5), FRAMES[3], FRAMES[4][:20]]


@pytest.mark.parametrize(
    "data", [pcap(FRAMES), section() + interface() + b"".join(enhanced(f, 1) for f in FRAMES)]
)
def test_a_file_cut_anywhere_gives_all_that_is_whole(data: bytes) -> None:
    for length in range(30, len(data), 7):
        if length < 60:
            continue
        frames, _, problem = read_all(data[:length])
        assert frames == FRAMES[: len(frames)]
        whole = length == len(data) or read_all(data[:length] + b"")[2] is None
        assert whole or "at byte" in str(problem)
        if not whole:
            assert "the file ends inside a record" in str(problem)
    assert read_all(data)[0] == FRAMES


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a capture file: 0 bytes long"),
        (b"GIF89a" * 9, "it starts with 47494638"),
        (pcap([])[:20], "the pcap header is cut short: 20 of 24 bytes"),
    ],
)
def test_what_is_no_capture(data: bytes, said: str) -> None:
    with pytest.raises(CaptureError, match=said):
        Reader(io.BytesIO(data))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            pcap([]) + struct.pack("<IIII", 0, 0, 0xFFFFFFFF, 0) + bytes(99999),
            "at byte 24: a record claims more",
        ),
        (section() + struct.pack("<II", 6, 13) + bytes(20), "at byte 28: a block of 13 bytes"),
        (section() + enhanced(b"x" * 20, 1), "at byte 28: 20 bytes on interface 0"),
        (section() + interface() + block(6, bytes(8)), "at byte 48: a packet block of 20 bytes"),
        (section()[:8] + bytes(20), "at byte 0: a section header without"),
        (section() + interface()[:-1] + b"\x07", "ends with another length"),
        (section() + block(3, bytes(20)), "belongs to no interface"),
    ],
)
def test_damage_is_named_with_its_place(data: bytes, said: str) -> None:
    frames, _, problem = read_all(data)
    assert frames == []
    assert said in str(problem)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8), st.booleans())
def test_damage_anywhere_harms_nothing(damage: list[tuple[int, int]], ng: bool) -> None:
    data = bytearray(
        section() + interface() + b"".join(enhanced(f, 1) for f in FRAMES[:20]) if ng else pcap(FRAMES[:20])
    )
    for at, value in damage:
        data[at % len(data)] = value
    try:
        frames, _, _ = read_all(bytes(data), 4096)
    except CaptureError:
        return
    assert sum(map(len, frames)) <= len(data)


def test_records_that_straddle_blocks() -> None:
    frames = [bytes([n % 256]) * (n % 1500) for n in range(2000)]
    for size in (2048, 4096, 65536):
        assert read_all(pcap(frames), size)[0] == frames
        ng = section() + interface() + b"".join(enhanced(frame, 1) for frame in frames)
        assert read_all(ng, size)[0] == frames


def test_gzip_is_undone_and_a_limit_kept(tmp_path: Path) -> None:
    file = tmp_path / "a.pcap.gz"
    file.write_bytes(gzip.compress(pcap(FRAMES)))
    assert read_pcap(file).to_frames() == FRAMES
    assert read_pcap(file, limit=3).to_frames() == FRAMES[:3]


def test_a_damaged_file_is_refused_unless_the_damage_is_behind_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "a.pcap"
    file.write_bytes(pcap(FRAMES)[:-1])
    with pytest.raises(CaptureError, match=rf"{file}: at byte \d+: the file ends inside a record"):
        read_pcap(file)
    assert read_pcap(file, limit=5).to_frames() == FRAMES[:5]
    file.write_bytes(pcap([]))
    with pytest.raises(CaptureError, match="no packets"):
        read_pcap(file)


class Trickle(io.BytesIO):
    """A pipe: gives a few bytes at a time."""

    def readinto(self, buffer: Any) -> int:
        return super().readinto(memoryview(buffer)[:7])


@pytest.mark.parametrize(
    "data",
    [
        pcap(FRAMES),
        section() + interface() + b"".join(enhanced(f, 1) for f in FRAMES) + block(0x0BAD, bytes(9000)),
    ],
)
def test_a_pipe_that_gives_little_at_a_time_is_read_as_it_comes(data: bytes) -> None:
    reader = Reader(Trickle(data), 4096)
    frames: list[bytes] = []
    while reader.read():
        frames += reader.batch.to_frames()
        assert len(reader.batch) < 5
    assert (frames, reader.problem) == (FRAMES, None)


def test_a_block_larger_than_memory_that_is_cut_short_is_named() -> None:
    data = section() + interface() + enhanced(FRAMES[0], 1) + block(0x0BAD, bytes(300_000))
    for missing in (1, 100_000):
        frames, _, problem = read_all(data[:-missing])
        assert frames == FRAMES[:1]
        assert f"the file ends inside a block, of which {missing} bytes are missing" in str(problem)


def test_a_raised_count_shows_no_packets_of_before() -> None:
    """A batch's slots are those of its packets: behind the last there is nothing to look at."""
    reader = Reader(io.BytesIO(pcap([*FRAMES, bytes(70_000)])), 1 << 17, max_packets=40)
    for expected in (40, 11):
        assert reader.read() == expected
        reader.batch.count = 40
        for n in range(expected, 40):
            if reader.batch.length[n]:
                with pytest.raises(ValueError, match="slot"):
                    reader.batch[n]
    assert reader.read() == 0
