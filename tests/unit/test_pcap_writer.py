"""What the Writer writes, read back by Scapy, by Wireshark's tools, and by the Reader."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.captures import read_pcap_by_scapy, read_pcapng_by_scapy

from vxcore import PacketBatch, Verdict
from vxcore._fast.pcap import Reader, Writer

FRAMES = [bytes([n % 256]) * (14 + n * 7) for n in range(60)]
TIMES = np.array([1_700_000_000_123_456_789 + n * 1_000_000_007 for n in range(60)])
ORIGINAL = np.array([len(frame) + n for n, frame in enumerate(FRAMES)], np.uint32)


def written(**options: Any) -> bytes:
    file = io.BytesIO()
    writer = Writer(file, **options)
    if writer.pcapng:
        writer.add_interface(1, "eth0")
    assert writer.write(PacketBatch.from_frames(FRAMES), TIMES, ORIGINAL) == len(FRAMES)
    return file.getvalue()


def read_back(data: bytes) -> tuple[list[bytes], list[int], list[int], list[int]]:
    reader = Reader(io.BytesIO(data))
    frames, times, original, links = [], [], [], []
    while reader.read():
        frames += reader.batch.to_frames()
        times += reader.time_ns.tolist()
        original += reader.original_len.tolist()
        links += reader.link.tolist()
    assert reader.problem is None
    return frames, times, original, links


@pytest.mark.parametrize("block_size", [64, 1000, 1 << 18])
@pytest.mark.parametrize("nanoseconds", [False, True])
@pytest.mark.parametrize("pcapng", [False, True])
def test_scapy_and_the_reader_read_what_was_written(
    pcapng: bool, nanoseconds: bool, block_size: int, tmp_path: Path
) -> None:
    data = written(pcapng=pcapng, nanoseconds=nanoseconds, block_size=block_size)
    times = TIMES if nanoseconds else TIMES // 1000 * 1000
    assert read_back(data) == (FRAMES, times.tolist(), ORIGINAL.tolist(), [1] * len(FRAMES))
    (tmp_path / "a").write_bytes(data)
    read = read_pcapng_by_scapy(tmp_path / "a") if pcapng else read_pcap_by_scapy(tmp_path / "a")
    rest = ("eth0",) if pcapng else ()
    assert read == [
        (frame, time, original, *rest)
        for frame, time, original in zip(FRAMES, times.tolist(), ORIGINAL.tolist(), strict=True)
    ]


@pytest.mark.parametrize("nanoseconds", [False, True])
@pytest.mark.parametrize("pcapng", [False, True])
def test_capinfos_finds_nothing_wrong(
    pcapng: bool, nanoseconds: bool, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    (tmp_path / "a").write_bytes(written(pcapng=pcapng, nanoseconds=nanoseconds))
    command = [require_tool("capinfos"), "-M", str(tmp_path / "a")]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "Number of packets:   60\n" in told
    assert f"Data size:           {sum(ORIGINAL)} bytes" in told
    assert ("nanoseconds" if nanoseconds else "microseconds") in told
    assert ("pcapng" in told) == pcapng


def test_interfaces_have_names_link_types_and_their_packets() -> None:
    file = io.BytesIO()
    writer = Writer(file, pcapng=True, nanoseconds=True, comment="why, and änd")
    assert [writer.add_interface(1, "vxlan7"), writer.add_interface(101)] == [0, 1]
    batch = PacketBatch.from_frames(FRAMES)
    interface = np.arange(60, dtype=np.uint32) % 2
    writer.write(batch, TIMES, interface=interface)
    assert read_back(file.getvalue())[3] == [1, 101] * 30
    assert read_back(file.getvalue())[2] == [len(frame) for frame in FRAMES]
    assert "why, and änd".encode() in file.getvalue()
    assert b"\x02\0\x06\0vxlan7" in file.getvalue()


def test_only_what_was_delivered_or_picked_is_written() -> None:
    batch = PacketBatch.from_frames(FRAMES)
    batch.verdict[::2] = Verdict.NOT_IP
    file = io.BytesIO()
    assert Writer(file).write(batch, TIMES) == 30
    assert read_back(file.getvalue())[0] == FRAMES[1::2]
    file = io.BytesIO()
    assert Writer(file).write(batch, TIMES, pick=np.array([5, 2, 5], np.uint32)) == 3
    assert read_back(file.getvalue())[:2] == (
        [FRAMES[5], FRAMES[2], FRAMES[5]],
        [int(TIMES[n]) // 1000 * 1000 for n in (5, 2, 5)],
    )
    file = io.BytesIO()
    assert Writer(file).write(batch, TIMES, pick=np.zeros(0, np.uint32)) == 0
    assert read_back(file.getvalue())[0] == []


def test_appending_goes_on_where_another_writer_stopped() -> None:
    for pcapng in (False, True):
        file = io.BytesIO()
        first = Writer(file, pcapng=pcapng)
        if pcapng:
            first.add_interface()
        first.write(PacketBatch.from_frames(FRAMES[:20]), TIMES[:20])
        second = Writer(file, pcapng=pcapng, append=True, n_interfaces=first.n_interfaces)
        second.write(PacketBatch.from_frames(FRAMES[20:]), TIMES[20:])
        assert read_back(file.getvalue())[0] == FRAMES


class Reluctant(io.BytesIO):
    """A raw file, which may take less than it is given."""

    def write(self, data: Any) -> int:
        return super().write(memoryview(data)[:11])


def test_a_file_that_takes_a_little_at_a_time_gets_everything() -> None:
    for pcapng in (False, True):
        file = Reluctant()
        writer = Writer(file, pcapng=pcapng, block_size=100)
        if pcapng:
            writer.add_interface(1, "eth0")
        writer.write(PacketBatch.from_frames(FRAMES), TIMES, ORIGINAL)
        assert file.getvalue() == written(pcapng=pcapng)


class Full(io.BytesIO):
    def write(self, data: Any) -> Any:
        return None if self.tell() else super().write(data)


def test_a_file_that_takes_nothing_is_an_error_and_no_loop() -> None:
    writer = Writer(Full())
    with pytest.raises(BlockingIOError, match="takes no more"):
        writer.write(PacketBatch.from_frames(FRAMES), TIMES)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda w, b: w.write(b, TIMES[:5]), "time_ns has 5 elements, the batch 60"),
        (lambda w, b: w.write(b, TIMES, ORIGINAL[:5]), "original_len has 5 elements"),
        (lambda w, b: w.write(b, TIMES, interface=ORIGINAL[:5]), "interface has 5 elements"),
        (lambda w, b: w.write(b, TIMES, pick=np.array([1, 60], np.uint32)), r"pick\[1\] is packet 60 of 60"),
        (lambda w, b: w.write(b, TIMES.astype(np.float64)), "Buffer dtype mismatch"),
        (lambda w, b: w.write(b, TIMES, pick=np.arange(5)), "Buffer dtype mismatch"),
        (lambda w, b: w.add_interface(1), "a pcap has one link type"),
        (lambda w, b: Writer(io.BytesIO(), comment="x"), "a pcap has no place for a comment"),
        (lambda w, b: Writer(io.BytesIO(), block_size=16), "from 64 up"),
        (lambda w, b: Writer(io.BytesIO(), pcapng=True).write(b, TIMES), "interface that was not added"),
        (lambda w, b: Writer(io.BytesIO(), pcapng=True, comment="x" * 65536), "holds 65535"),
    ],
)
def test_wrong_calls_are_refused(call: Callable[[Writer, PacketBatch], None], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call(Writer(io.BytesIO()), PacketBatch.from_frames(FRAMES))


@pytest.mark.parametrize(("offset", "length"), [(0, 60), (128, 5000), (0xFFFFFFFF, 1), (10**6, 0)])
def test_a_packet_outside_its_slot_is_not_written(offset: int, length: int) -> None:
    batch = PacketBatch.from_frames(FRAMES[:2])
    batch.offset[1], batch.length[1] = offset, length
    file = io.BytesIO()
    writer = Writer(file)
    with pytest.raises(ValueError, match=r"packet 1: offset .* leave its slot"):
        writer.write(batch, TIMES[:2])
    assert len(file.getvalue()) == 24


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.binary(max_size=90), st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=20),
    st.integers(64, 200),
)
def test_any_time_and_any_length_comes_back_from_a_pcapng(
    packets: list[tuple[bytes, int]], block_size: int
) -> None:
    file = io.BytesIO()
    writer = Writer(file, pcapng=True, nanoseconds=True, block_size=block_size)
    writer.add_interface()
    frames, times = [frame for frame, _ in packets], [time for _, time in packets]
    writer.write(PacketBatch.from_frames(frames), np.array(times, np.int64))
    assert read_back(file.getvalue())[:2] == (frames, times)


def test_times_before_1970_are_rounded_down_and_wrap_as_pcap_does() -> None:
    file = io.BytesIO()
    Writer(file).write(PacketBatch.from_frames([b"x" * 20]), np.array([-1]))
    assert read_back(file.getvalue())[1] == [(2**32 - 1) * 10**9 + 999_999_000]
