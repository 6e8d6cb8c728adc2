"""What lanes tell Python: what is in it, what becomes of it when nobody listens, and who is woken."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from typing import Any

import numpy as np
import pytest
from support.hosts import wait_until

from vxcore._fast.events import KINDS, NOWHERE, Ring
from vxcore._fast.table import Reader, Tables
from vxcore.errors import ConfigError
from vxcore.events import Event, Events, Subscription
from vxcore.journal import Journal
from vxcore.remotes import Remotes, packed
from vxcore.segments import Policy, Segments

A, B = ip_address("192.0.2.1"), ip_address("192.0.2.2")
MAC = 0x020000000001
NOW = 5000


class Told:
    """Tables with VNI 7, and a lane's place at them that tells."""

    def __init__(self, max_entries: int = 100, **options: Any) -> None:
        self.tables = Tables(4, 8, 8, max_entries, **options)
        self.journal = Journal(self.tables)
        self.remotes = Remotes(self.journal)
        self.segments = Segments(self.journal, self.remotes)
        self.segments.add(7, 0, [A, B], Policy(maxaddress=2))
        self.events = Events(1, self.journal, self.remotes, self.segments)
        (self.ring,) = self.events.rings
        self.lane = Reader(self.tables, self.ring)

    def learn(self, mac: Any, target: int, now_s: int = NOW) -> None:
        self.lane.enter()
        self.lane.fdb_learn(0, mac, target, now_s)
        self.lane.leave()

    def taken(self) -> list[tuple[str, int, int, int]]:
        """Kind, MAC, where it is and where it was."""
        names = {number: name for name, number in KINDS.items()}
        rows = self.ring.take()
        assert all(row["vni"] == 7 for row in rows)
        return [(names[r["kind"]], int(r["mac"]), int(r["target"]), int(r["was"])) for r in rows]


@pytest.fixture
def told() -> Told:
    made = Told(max_moves=2)
    made.ring.want(KINDS)
    return made


def test_learning_moving_freezing_and_ageing_are_told_in_order(told: Told) -> None:
    told.learn(MAC, 0)
    told.learn(MAC, 0)  # nothing new
    told.learn(MAC, 1)
    told.learn(MAC, 0)
    told.lane.enter()
    told.lane.fdb_sweep(1000, NOW + 400)
    told.lane.leave()
    assert told.taken() == [
        ("learned", MAC, 0, NOWHERE),
        ("moved", MAC, 1, 0),
        ("frozen", MAC, 0, 1),
        ("aged", MAC, NOWHERE, 0),
    ]
    assert told.taken() == []


def test_a_limit_is_told_once_a_second(told: Told) -> None:
    told.learn([MAC, MAC + 1], 0)
    told.learn(range(MAC + 2, MAC + 50), 1)
    told.learn([MAC + 50], 1, NOW + 1)
    limits = [row for row in told.taken() if row[0] == "limit"]
    assert limits == [("limit", MAC + 2, 1, NOWHERE), ("limit", MAC + 50, 1, NOWHERE)]


def test_only_what_somebody_wants_is_told(told: Told) -> None:
    told.ring.want(["moved"])
    told.learn(MAC, 0)
    told.learn(MAC, 1)
    assert [row[0] for row in told.taken()] == ["moved"]


def test_what_finds_the_ring_full_is_counted_and_the_lane_goes_on() -> None:
    told = Told(max_entries=4000)
    told.segments.change(7, policy=Policy())
    told.ring.want(KINDS)
    told.learn(range(MAC, MAC + 1500), 0)
    assert told.ring.dropped == 1500 - 1024
    assert [row[1] for row in told.taken()] == list(range(MAC, MAC + 1024))
    told.learn(MAC + 5000, 0)
    assert [row[1] for row in told.taken()] == [MAC + 5000]
    assert len(told.tables.fdb()) == 1501


def test_who_sleeps_is_woken_once(told: Told) -> None:
    wake = os.eventfd(0, os.EFD_NONBLOCK)
    ring = Ring(wake)
    ring.want(KINDS)
    told.lane = Reader(told.tables, ring)
    told.learn(MAC, 0)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(wake)  # nobody sleeps
    assert not ring.may_sleep()
    ring.take()
    assert ring.may_sleep()
    told.learn(MAC, 1)
    told.learn(MAC + 1, 1)
    assert os.eventfd_read(wake) == 1
    os.close(wake)


def test_a_ring_survives_a_writer_and_a_reader_at_once() -> None:
    told = Told(max_entries=60_000)
    told.segments.change(7, policy=Policy())
    told.ring.want(KINDS)
    n = 50_000
    lane = threading.Thread(target=lambda: [told.learn(MAC + i, i % 2) for i in range(n)])
    lane.start()
    seen: list[tuple[str, int, int, int]] = []
    while lane.is_alive():
        seen += told.taken()
    seen += told.taken()
    lane.join()
    assert len(seen) + told.ring.dropped == n
    assert all(kind == "learned" and at == (mac - MAC) % 2 for kind, mac, at, _ in seen)
    assert [row[1] for row in seen] == sorted(row[1] for row in seen)


# Subscribers


@pytest.fixture
def running(told: Told) -> Iterator[Told]:
    with ExitStack() as undo:
        undo.callback(told.events.close)
        told.events.start(undo)
        yield told


def collected(subscription: Subscription, n: int) -> list[Event]:
    events: list[Event] = []

    def enough() -> bool:
        events.extend(subscription.take())
        return len(events) >= n

    wait_until(enough, f"{n} events")
    return events


def test_a_subscriber_gets_the_kinds_it_asked_for(running: Told) -> None:
    with running.events.subscribe(["learned", "remote_added"], 10) as subscription:
        running.learn(MAC, 0)
        running.learn(MAC, 1)
        running.events.remote_changed("added", B)
        running.learn(MAC + 1, 1)
        events = collected(subscription, 3)
    assert sorted(event.kind for event in events) == ["learned", "learned", "remote_added"]
    assert Event("learned", 7, "02:00:00:00:00:01", A) in events
    assert Event("remote_added", remote=B) in events
    with pytest.raises(ConfigError, match="event 'lost': there is no such kind; known are learned, moved"):
        running.events.subscribe(["lost"], 10)


def test_a_subscriber_that_takes_nothing_loses_only_its_own(running: Told) -> None:
    slow, quick = running.events.subscribe(None, 2), running.events.subscribe(None, 100)
    for n in range(10):
        running.learn(MAC, n % 2)
        running.learn(MAC + 1, n % 2)
    collected(quick, 6)
    wait_until(lambda: slow.dropped >= 4, "dropped")
    dropped = slow.dropped
    slow.close()
    quick.close()
    assert running.events.counters()["dropped"] == dropped
    assert len(slow.take()) == 2


def test_events_are_iterated_and_end_with_the_vtep(told: Told) -> None:
    async def watch() -> list[str]:
        kinds = []
        with told.events.subscribe(["learned", "moved"], 10) as subscription, ExitStack() as undo:
            told.events.start(undo)
            told.learn(MAC, 0)
            async for event in subscription:
                kinds.append(event.kind)
                if event.kind == "learned":
                    told.learn(MAC, 1)
                else:
                    await asyncio.to_thread(undo.close)
        return kinds

    assert asyncio.run(asyncio.wait_for(watch(), 10)) == ["learned", "moved"]
    told.events.close()


def test_a_callback_that_fails_does_not_end_the_events(
    running: Told, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Event] = []

    def callback(event: Event) -> None:
        seen.append(event)
        raise KeyError("mine")

    running.events.call(callback, ["learned"])
    running.learn(MAC, 0)
    running.learn(MAC + 1, 0)
    wait_until(lambda: len(seen) == 2, "both")
    assert "event learned: the callback failed" in caplog.text


def test_a_stranger_becomes_a_remote_and_what_it_sent_is_learned(told: Told) -> None:
    stranger = ip_address("198.51.100.7")
    told.events._welcome(7, MAC, packed(stranger))
    number = told.remotes.number(stranger)
    assert told.tables.fdb_rows() == [(7, MAC, number, False)]
    told.events.tidy()
    assert told.remotes.number(stranger) == number
    told.tables.flush(vni=7)
    told.events.tidy()
    assert told.remotes.number(stranger) is None


def test_learned_remotes_are_bounded(running: Told) -> None:
    running.remotes._max_learned = 1
    strangers = [ip_address(f"198.51.100.{n}") for n in (7, 8, 9)]
    rows = np.zeros(3, running.ring.take().dtype)
    rows["kind"], rows["vni"], rows["mac"] = KINDS["stranger"], 7, MAC
    rows["address"] = [list(packed(stranger)) for stranger in strangers]
    with running.events.subscribe(["limit"], 10) as subscription:
        running.events._meet(rows)
        assert [event.remote for event in subscription.take()] == [strangers[1]]  # once a second
    assert [running.remotes.number(each) is not None for each in strangers] == [True, False, False]
    assert running.events.counters()["strangers_refused"] == 2


def test_callbacks_are_called_by_one_thread(running: Told) -> None:
    threads: set[int] = set()
    kinds: set[str] = set()

    def callback(event: Event) -> None:
        threads.add(threading.get_ident())
        kinds.add(event.kind)

    running.events.call(callback, None)
    running.learn(MAC, 0)
    running.events.remote_changed("removed", B)
    wait_until(lambda: kinds == {"learned", "remote_removed"}, "both")
    assert len(threads) == 1
    assert threading.get_ident() not in threads
