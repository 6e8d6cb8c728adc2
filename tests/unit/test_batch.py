"""PacketBatch: memory that Python and the kernels share."""

from __future__ import annotations

import numpy as np
import pytest

from vxcore._fast.batch import PacketBatch, Spread


def test_frames_come_back_as_they_went_in() -> None:
    frames = [bytes([n % 256]) * (14 + 97 * n) for n in range(100)]
    assert PacketBatch.from_frames(frames).to_frames() == frames


def test_any_buffer_is_a_frame() -> None:
    frames = [b"a" * 20, bytearray(b"b" * 30), memoryview(b"c" * 40), np.full(50, 100, np.uint8)]
    assert PacketBatch.from_frames(frames).to_frames() == [bytes(frame) for frame in frames]


def test_every_packet_has_its_headroom() -> None:
    batch = PacketBatch.from_frames([b"x" * 60, b"y" * 9000, b"z" * 14], headroom=200)
    ends = np.concatenate(([0], batch.offset + batch.length))
    assert (batch.offset - ends[:-1] >= 200).all()


def test_arrays_are_views_of_the_batch() -> None:
    batch = PacketBatch(4, frame_size=100)
    batch.count = 2
    batch.data[batch.offset[1] : batch.offset[1] + 3] = [1, 2, 3]
    batch.length[1] = 3
    batch.vni[1] = 42
    assert batch.to_frames() == [b"", b"\x01\x02\x03"]
    assert batch.vni.tolist() == [0, 42]


def test_a_view_outlives_its_batch() -> None:
    view = PacketBatch.from_frames([b"kept"]).data
    assert bytes(view[128:132]) == b"kept"


def test_a_frame_too_large_for_its_slot_is_named() -> None:
    batch = PacketBatch(2, frame_size=64)
    with pytest.raises(ValueError, match="frame 1 has 65 bytes, its slot has room for 64"):
        batch.fill([b"x" * 64, b"x" * 65])
    assert len(batch) == 0


def test_a_full_batch_takes_no_more() -> None:
    batch = PacketBatch(1)
    assert batch.append(b"x" * 20) == 0
    with pytest.raises(ValueError, match="capacity 1"):
        batch.append(b"x" * 20)


@pytest.mark.parametrize(("field", "value"), [("offset", 0xFFFFFFFF), ("length", 5000), ("offset", 0)])
def test_reading_outside_a_slot_is_refused(field: str, value: int) -> None:
    batch = PacketBatch.from_frames([b"x" * 20, b"y" * 20])
    getattr(batch, field)[1] = value
    with pytest.raises(ValueError, match=r"packet 1: .* leave its slot"):
        batch.to_frames()


@pytest.mark.parametrize("arguments", [(0,), (1, 0), (1, 100, 127), (1 << 20, 65536)])
def test_impossible_sizes_are_refused(arguments: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\d"):
        PacketBatch(*arguments)


def test_reset_forgets_everything() -> None:
    batch = PacketBatch.from_frames([b"x" * 20])
    batch.verdict[0] = 5
    batch.reset()
    batch.count = 1
    assert (batch.length[0], batch.verdict[0], batch.offset[0]) == (0, 0, 128)


def test_spread_gives_packets_headroom_again_and_again() -> None:
    tight = PacketBatch.from_frames([bytes([n]) * n for n in range(100)])
    tight.verdict[3] = 5
    spread = Spread(int(tight.length.sum()), 100)
    for _ in range(3):
        batch = spread.take(tight)
        assert batch is spread.batch
        assert batch.to_frames() == tight.to_frames()
        assert batch.verdict.tolist() == tight.verdict.tolist()
        assert (batch.offset[1:] - batch.offset[:-1] - batch.length[:-1] >= 128).all()
        batch.offset[:] -= 128
    with pytest.raises(ValueError, match="101 packets, but room for 100"):
        spread.take(PacketBatch.from_frames([b""] * 101))
    with pytest.raises(ValueError, match="have 4951 bytes, but there is room for 4950"):
        spread.take(PacketBatch.from_frames([bytes(4951)]))
    tight.offset[7] = 0xFFFFFFFF
    with pytest.raises(ValueError, match="packet 7"):
        spread.take(tight)
