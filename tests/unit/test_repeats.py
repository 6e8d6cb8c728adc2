"""A frame to more than one host that comes again and again, byte for byte."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from vxcore._fast.repeats import held_back

FRAME = b"\xff" * 6 + bytes(range(50))
MOST, HELD_S = 32, 10


def test_it_is_held_back_when_it_came_too_often_in_a_second() -> None:
    assert held_back([(FRAME, 1, 100)] * 100) == [False] * MOST + [True] * 68


def test_it_may_come_again_after_a_while() -> None:
    burst = [(FRAME, 1, 100)] * 50
    assert held_back([*burst, (FRAME, 1, 100 + HELD_S - 1)])[-1]
    assert not held_back([*burst, (FRAME, 1, 100 + HELD_S)])[-1]


def test_one_that_comes_less_often_never_is() -> None:
    assert not any(held_back([(FRAME, 1, 100 + n // MOST) for n in range(2000)]))


def test_frames_that_differ_are_told_apart() -> None:
    """By segment, length, and any byte of the first 128."""
    others = [(FRAME[:at] + bytes([FRAME[at] ^ 1]) + FRAME[at + 1 :], 1, 100) for at in range(len(FRAME))]
    others += [(FRAME, 2, 100), (FRAME + b"\0", 1, 100), (FRAME[:-1], 1, 100)]
    burst = [(FRAME, 1, 100)] * 50
    assert not any(held_back([*burst, *others])[50:])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(min_size=14, max_size=300), min_size=1, max_size=20, unique=True))
def test_those_of_a_loop_are_held_however_many_others_pass(frames: list[bytes]) -> None:
    others = [n.to_bytes(14, "big") for n in range(3000)]
    story = [(frame, 1, 100) for _ in range(40) for frame in frames]
    story += [(frame, 3, 100) for frame in others] + [(frame, 1, 101) for frame in frames]
    assert all(held_back(story)[-len(frames) :])
