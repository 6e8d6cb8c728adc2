"""The ring of packets that a lane shows: what is taken is what went through, in order, or it is counted."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vxcore import Verdict, trace
from vxcore._fast.lane import Lane
from vxcore._fast.rehearsal import NoOverlay, NoUnderlay
from vxcore._fast.table import Tables
from vxcore._fast.watch import IN, OUT, Watch
from vxcore.config import Underlay
from vxcore.errors import ConfigError
from vxcore.journal import Journal
from vxcore.rehearsal import Rehearsal
from vxcore.remotes import Remotes
from vxcore.watches import PacketWatch, Sight

REMOTE = bytes(10) + b"\xff\xff" + bytes((192, 0, 2, 2))
WAY, VERDICT, PLACE, DATA = 0, 1, 4, -1
NOWHERE = 0xFFFFFFFF


class Rehearsed:
    """A lane with one segment and one remote, and an eventfd for watches."""

    def __init__(self) -> None:
        self.tables = Tables(4, 16, 16, 100)
        with self.tables.transaction():
            remote = self.tables.add_remote(REMOTE, bytes(16))
        self.tables.add_segment(42, 0, [remote], learning=True, ageing_s=300, max_learned=0)
        self.lane = Lane(self.tables, [(NoUnderlay(), (4, 6))], [NoOverlay()], rehearses=True)
        self.wake = os.eventfd(0, os.EFD_NONBLOCK)

    def watch(self, **options: Any) -> Watch:
        watch = Watch(self.wake, **options)
        self.lane.show(watch)
        return watch


@pytest.fixture
def lane() -> Iterator[Rehearsed]:
    made = Rehearsed()
    yield made
    os.close(made.wake)


def frame(number: int, length: int) -> bytes:
    return (b"\xff" * 6 + b"\x02\0" + number.to_bytes(4, "big") + b"\x88\xb5").ljust(length, b"x")


def test_packets_of_all_sizes_go_round_the_ring(lane: Rehearsed) -> None:
    dice, watch = random.Random(1), lane.watch()
    sent: list[bytes] = []
    taken: list[bytes] = []
    for number in range(5000):
        sent.append(frame(number, dice.choice((14, 15, 60, 1500, 9000, 65535))))
        lane.lane.rehearse_out(0, sent[-1])
        if dice.random() < 0.004:
            taken += [row[DATA] for row in watch.take()]
    while rows := watch.take():
        taken += [row[DATA] for row in rows]
    assert len(taken) + watch.lost == len(sent)
    assert watch.lost > 0, "it fills up now and then"
    left = iter(sent)
    assert all(any(each == one for each in left) for one in taken), "in order, and whole"


def test_a_ring_that_is_full_takes_more_when_something_was_taken(lane: Rehearsed) -> None:
    watch = lane.watch()
    large = frame(1, 60_000)
    while watch.lost == 0:
        lane.lane.rehearse_out(0, large)
    assert {row[DATA] for row in watch.take()} == {large}
    lane.lane.rehearse_out(0, frame(2, 60))
    assert [row[DATA] for row in watch.take()] == [frame(2, 60)]


def test_who_reads_sleeps_only_when_nothing_is_there(lane: Rehearsed) -> None:
    watch = lane.watch()
    assert watch.may_sleep()
    lane.lane.rehearse_out(0, frame(1, 60))
    assert not watch.may_sleep()
    watch.take()
    assert watch.may_sleep()


@pytest.mark.parametrize(
    ("options", "n"),
    [
        ({}, 3),
        ({"vni": 42}, 2),
        ({"vni": 43}, 1),
        ({"ways": [OUT]}, 1),
        ({"ways": [IN]}, 2),
        ({"mac": 0x020000000001}, 3),
        ({"mac": 0xFFFFFFFFFFFF}, 3),
        ({"mac": 0x020000000002}, 0),
        ({"dropped_only": True}, 1),
        ({"vni": 42, "dropped_only": True}, 0),
    ],
)
def test_a_watch_sees_what_it_wants(lane: Rehearsed, options: dict[str, Any], n: int) -> None:
    watch = lane.watch(**options)
    lane.lane.rehearse_out(0, frame(1, 60))
    for vni in (42, 43):
        packet = b"\x08\0\0\0" + vni.to_bytes(3, "big") + b"\0" + frame(1, 60)
        lane.lane.rehearse_in(packet, REMOTE, 5000, 0)
    assert len(watch.take()) == n


def test_watches_are_apart_and_four_at_most(lane: Rehearsed) -> None:
    watches = [lane.watch(snap_len=n) for n in (14, 20, 60, 100)]
    with pytest.raises(ValueError, match="4 watches"):
        lane.watch()
    lane.lane.rehearse_out(0, frame(1, 80))
    assert [len(watch.take()[0][DATA]) for watch in watches] == [14, 20, 60, 80]
    lane.lane.hide(watches[1])
    lane.lane.rehearse_out(0, frame(2, 80))
    assert [len(watch.take()) for watch in watches] == [1, 0, 1, 1]
    for watch in (watches[0], watches[2], watches[3]):
        lane.lane.hide(watch)
    lane.lane.rehearse_out(0, frame(3, 80))
    assert [len(watch.take()) for watch in watches] == [0, 0, 0, 0]


def test_a_watch_for_drops_misses_drops_alone(lane: Rehearsed) -> None:
    watch = lane.watch(dropped_only=True)
    unknown = b"\x08\0\0\0\0\0\x2b\0" + frame(1, 60_000)
    while watch.lost == 0:
        lane.lane.rehearse_in(unknown, REMOTE, 1, 0)
    for number in range(100):
        lane.lane.rehearse_out(0, frame(number, 60_000))
    assert watch.lost == 1


def test_a_packet_of_no_segment_has_no_port(lane: Rehearsed) -> None:
    watch = lane.watch(ways=[IN])
    lane.lane.rehearse_in(b"\x08\0\0\0\0\0\x63\0" + frame(1, 60), REMOTE, 1, 0)
    assert watch.take()[0][PLACE] == NOWHERE


def test_a_watch_is_used_once_and_leaves_no_descriptor(lane: Rehearsed) -> None:
    remotes = Remotes(Journal(lane.tables))
    wanted = {"vni": None, "mac": None, "ways": ("out",), "snap_len": 60, "dropped_only": False}
    n_open = len(list(Path("/proc/self/fd").iterdir()))
    watch = PacketWatch([lane.lane], lane.tables, remotes, lambda place: None, **wanted)
    assert len(list(Path("/proc/self/fd").iterdir())) == n_open
    with watch:
        assert watch.may_sleep()
    with pytest.raises(RuntimeError, match="make another"), watch:
        pass
    for wrong in ({"vni": 1 << 70}, {"mac": -1}, {"snap_len": 1 << 20}, {"ways": ("up",)}):
        with pytest.raises(ConfigError):
            PacketWatch([lane.lane], lane.tables, remotes, lambda place: None, **{**wanted, **wrong})
    rehearsal = Rehearsal(lane.tables, remotes, Underlay(), (4,), 1, lambda place: None, ([], set()))
    for _ in range(3):
        with pytest.raises(ConfigError, match="a frame of 3 bytes"):
            rehearsal.out(0, bytes(3))
        assert rehearsal.out(0, frame(1, 60)).verdict == Verdict.DELIVERED
    assert len(list(Path("/proc/self/fd").iterdir())) == n_open


def test_a_rehearsal_changes_nothing(lane: Rehearsed) -> None:
    watch = lane.watch()
    before = lane.tables.fdb_counters()
    for _ in range(3):
        lane.lane.rehearse_in(b"\x08\0\0\0\0\0\x2a\0" + frame(7, 60), REMOTE, 1, 0)
    assert lane.tables.fdb_counters() == before
    assert len(lane.tables.fdb()) == 0
    assert [row[VERDICT] for row in watch.take()] == [Verdict.DELIVERED] * 3


@pytest.mark.parametrize("length", range(80))
def test_words_are_found_for_a_packet_that_is_cut_anywhere(length: int) -> None:
    packet = (
        b"\x08\0\0\0\0\0\x2a\0" + frame(1, 14)[:12] + b"\x08\x00" + bytes.fromhex("4500001c0001000040110000")
    )
    packet = (packet + bytes(8) + bytes.fromhex("1000200000080000")).ljust(80, b"\0")[:length]
    for way in ("in", "out"):
        for verdict in Verdict:
            sight = Sight(way, verdict, 0, 0, 42, None, None, None, 0, 0, 0, None, 80, packet)
            assert trace.headline(sight)
            assert all(isinstance(step, str) for step in trace.steps(sight))


def test_a_rehearsal_knows_ports_and_spokes(lane: Rehearsed) -> None:
    watch, other = lane.watch(), lane.tables.add_remote(REMOTE[:15] + b"\x99", bytes(16))
    packet = b"\x08\0\0\0\0\0\x2a\0" + b"\x02" + frame(7, 60)[1:]
    lane.tables.fdb_replace(42, int.from_bytes(packet[8:14], "big"), other)
    lane.lane.rehearse_in(packet, REMOTE, 1, 0, 8472)
    lane.lane.rehearse_in(packet, REMOTE, 1, 0)
    for remote in (0, other):
        lane.tables.mark_spoke(remote, True)
    lane.lane.rehearse_in(packet, REMOTE, 1, 0)
    rows = watch.take()
    assert [row[VERDICT] for row in rows] == [Verdict.WRONG_PORT, Verdict.DELIVERED, Verdict.DELIVERED]
    assert [row[PLACE] for row in rows[1:]] == [0, NOWHERE]
