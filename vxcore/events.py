"""Events: what lanes tell, handed to who wants to know; and what the control side itself does about it.

Place in the house: above remotes, segments and the rings of the lanes, below engine. One thread sleeps
until a lane has something to tell. Nothing here is waited for: rings and subscriptions are bounded, and
count what they could not take.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from vxcore._fast.events import KINDS as RING_KINDS
from vxcore._fast.events import NOWHERE, Ring
from vxcore._fast.table import PORT, Reader, mac_text
from vxcore.errors import ConfigError, TableFullError, VxcoreError
from vxcore.fdb import now_s
from vxcore.journal import Journal
from vxcore.remotes import IPAddress, Remotes, packed, unpacked
from vxcore.segments import Segments

log = logging.getLogger("vxcore")

STRANGER, LOOP = "stranger", "loop"
_OF_PYTHON = ("remote_added", "remote_removed", "plane_connected", "plane_stale")
KINDS = (*(kind for kind in RING_KINDS if kind != STRANGER), *_OF_PYTHON)
_NAMES = {number: name for name, number in RING_KINDS.items()}
_TIDY_S = 60.0
_WAKE_S = 1.0
_PENDING_LEN = 4096


class Event(NamedTuple):
    """Something that happened. What a kind does not have is None.

    learned: `mac` in `vni` is at `remote`. moved, frozen: and it `was` at another; frozen: it moved too
    often and stays at `remote` (RFC 7432 section 15.1). aged: not heard from, and forgotten. limit: could
    not be learned, for there are too many addresses, or too many remotes; told once a second. miss: a frame
    is for `mac`, which is not known; told once a second for each. remote_added, remote_removed: `remote`
    alone. loop: `mac` is behind our own port on `dev` and at `was` by turns, so that what comes of it from
    there is dropped while `tables.moves_window` lasts; or, without `was`, a frame of it came to `dev` again
    and again. A host that is behind a port of ours has `dev` for a `remote`. plane_connected, plane_stale:
    the control plane of that name has its connection, or has lost it.
    """

    kind: str
    vni: int | None = None
    mac: str | None = None
    remote: IPAddress | None = None
    was: IPAddress | None = None
    dev: str | None = None
    plane: str | None = None


class Subscription:
    """Events of some kinds, in a queue of `size`; from ``Vtep.subscribe``, and a context manager.

    ``async for`` waits for each, ``take`` gives without waiting what is there. `dropped` counts
    what found the queue full.
    """

    def __init__(self, owner: Events, kinds: frozenset[str], size: int) -> None:
        self.kinds, self.dropped = kinds, 0
        self._owner, self._size = owner, size
        self._events: deque[Event] = deque()
        self._lock = threading.Lock()
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Want no more; who waits gets the end."""
        self._owner.unsubscribe(self)
        with self._lock:
            self._closed = True
            self._wake()

    def take(self) -> list[Event]:
        """What is there, the oldest first."""
        with self._lock:
            events = list(self._events)
            self._events.clear()
            return events

    def put(self, event: Event) -> None:
        """Called by Events."""
        with self._lock:
            if len(self._events) == self._size:
                self.dropped += 1
                return
            self._events.append(event)
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None:
            loop, flag = self._waiter
            if not loop.is_closed():
                loop.call_soon_threadsafe(flag.set)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        flag = asyncio.Event()
        while True:
            with self._lock:
                if self._events:
                    return self._events.popleft()
                if self._closed:
                    raise StopAsyncIteration
                flag.clear()
                self._waiter = asyncio.get_running_loop(), flag
            await flag.wait()


class _Callback:
    """A subscriber that is called in the thread of Events, and so holds it up."""

    def __init__(self, kinds: frozenset[str], call: Callable[[Event], object]) -> None:
        self.kinds, self.dropped, self._call = kinds, 0, call

    def put(self, event: Event) -> None:
        try:
            self._call(event)
        except Exception:
            log.exception("event %s: the callback failed", event.kind)

    def close(self) -> None:
        """There is nobody to tell."""


class Events:
    """The rings of `n_lanes` lanes, the thread that empties them, and who is told."""

    def __init__(
        self,
        n_lanes: int,
        journal: Journal,
        remotes: Remotes,
        segments: Segments,
        device_at: Callable[[int], str | None] = lambda place: None,
        reaches: Callable[[int], bool] = lambda remote: True,
    ) -> None:
        self._journal, self._tables = journal, journal.tables
        self._remotes, self._segments, self._device_at = remotes, segments, device_at
        self._reaches = reaches
        self._waiting: dict[bytes, tuple[int, int, int]] = {}  # strangers that are not reached yet
        self._reached: deque[bytes] = deque()
        self._loops: dict[int, float] = {}  # by VNI, when one was last said in the log
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        self.rings = [Ring(self._wake) for _ in range(n_lanes)]
        self._reader = Reader(self._tables)
        self._subscribers: tuple[Subscription | _Callback, ...] = ()
        self._pending: deque[Event] = deque()  # what the control side itself has to tell
        self._lock = threading.Lock()
        self._told = self._dropped_before = self._refused = 0
        self._limit_told_at = -_WAKE_S
        self._stop = False
        self._tidy_at = time.monotonic() + _TIDY_S
        self._thread = threading.Thread(target=self._run, name="vxcore-events", daemon=True)
        self._want()

    # What the engine calls

    def start(self, undo: ExitStack) -> None:
        """Begin to empty the rings; `undo` ends it."""
        self._thread.start()
        undo.callback(self.stop)

    def stop(self) -> None:
        """End the thread, and tell subscribers that no more will come."""
        self._stop = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        for subscriber in self._subscribers:
            subscriber.close()

    def close(self) -> None:
        """When lanes have ended."""
        os.close(self._wake)

    def subscribe(self, kinds: Iterable[str] | None, size: int) -> Subscription:
        """Events of these kinds (None: all) from now on. Raises ConfigError for a kind that there is not."""
        subscription = Subscription(self, _kinds(kinds), size)
        self._change((*self._subscribers, subscription))
        return subscription

    def call(self, callback: Callable[[Event], object], kinds: Iterable[str] | None) -> None:
        """Call it for each event, in a thread of its own."""
        self._change((*self._subscribers, _Callback(_kinds(kinds), callback)))

    def unsubscribe(self, subscriber: Subscription) -> None:
        self._change(tuple(each for each in self._subscribers if each is not subscriber))

    def remote_changed(self, what: str, address: IPAddress) -> None:
        """A remote was "added" or "removed"."""
        self._pend(Event(f"remote_{what}", remote=address))

    def plane_changed(self, plane: str, state: str) -> None:
        """A control plane is "connected" or "stale"."""
        self._pend(Event(f"plane_{state}", plane=plane))

    def _pend(self, event: Event) -> None:
        """Let the thread tell it, as it tells everything."""
        if len(self._pending) == _PENDING_LEN:
            self._dropped_before += 1
        elif not self._stop:
            self._pending.append(event)
            os.eventfd_write(self._wake, 1)

    def reached(self, address: IPAddress) -> None:
        """Packets for a remote can be sent from now on."""
        self._reached.append(packed(address))
        os.eventfd_write(self._wake, 1)

    def counters(self) -> dict[str, int]:
        """How many events lanes told, and how many were dropped because rings or queues were full.

        `strangers_refused` are frames that were let in from a VTEP for which there was no room among the
        remotes.
        """
        dropped = sum(ring.dropped for ring in self.rings) + sum(s.dropped for s in self._subscribers)
        return {
            "told": self._told,
            "dropped": dropped + self._dropped_before,
            "strangers_refused": self._refused,
        }

    def _change(self, subscribers: tuple[Subscription | _Callback, ...]) -> None:
        with self._lock:
            gone = set(self._subscribers) - set(subscribers)
            self._dropped_before += sum(subscriber.dropped for subscriber in gone)
            self._subscribers = subscribers
            self._want()

    def _want(self) -> None:
        wanted = {kind for subscriber in self._subscribers for kind in subscriber.kinds} & set(RING_KINDS)
        for ring in self.rings:
            ring.want(wanted | {STRANGER, LOOP})

    # The thread

    def _run(self) -> None:
        while not self._stop:
            try:
                self._round()
            except Exception:
                log.exception("events: going on")
                time.sleep(_WAKE_S)

    def _round(self) -> None:
        while self._pending:
            self._put(self._pending.popleft())
        while self._reached:
            self._learn_waiting(self._reached.popleft())
        rows = [rows for rows in (ring.take() for ring in self.rings) if len(rows)]
        for each in rows:
            self._handle(each)
        if not rows and all(ring.may_sleep() for ring in self.rings):
            self._poll.poll(1000 * _WAKE_S)
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        if time.monotonic() >= self._tidy_at:
            self.tidy()

    def _handle(self, rows: NDArray[Any]) -> None:
        self._told += len(rows)
        strange = rows["kind"] == RING_KINDS[STRANGER]
        if strange.any():
            self._meet(rows[strange])
        for row in rows[rows["kind"] == RING_KINDS[LOOP]].tolist():
            self._say_loop(self._event(*row))
        if self._subscribers:
            for row in rows[~strange].tolist():
                self._put(self._event(*row))

    def _event(self, mac: int, vni: int, kind: int, target: int, was: int, _: Any) -> Event:
        dev = self._device_at(target - PORT) if PORT <= target < NOWHERE else None
        return Event(_NAMES[kind], vni, mac_text(mac), self._address(target), self._address(was), dev)

    def _say_loop(self, event: Event) -> None:
        """Once a minute for each segment: where one address loops, others do."""
        now = time.monotonic()
        vni = event.vni or 0
        if now >= self._loops.get(vni, -_TIDY_S) + _TIDY_S:
            self._loops[vni] = now
            what = (
                f"is behind {event.dev} and {event.was} by turns"
                if event.was
                else f"comes round to {event.dev}"
            )
            log.warning("VNI %d: a loop? %s %s; such frames are held back", vni, event.mac, what)

    def _address(self, target: int) -> IPAddress | None:
        if target == NOWHERE or target >= PORT:
            return None
        try:
            return self._remotes.address(target)
        except ValueError:
            return None  # it was removed meanwhile

    def _put(self, event: Event) -> None:
        for subscriber in self._subscribers:
            if event.kind in subscriber.kinds:
                subscriber.put(event)

    # VTEPs that are no remotes yet

    def _meet(self, rows: NDArray[Any]) -> None:
        """Make remotes of those whom a segment's policy let in, and learn what they sent."""
        for row in rows:
            vni, mac, address = int(row["vni"]), int(row["mac"]), bytes(row["address"])
            try:
                self._welcome(vni, mac, address)
            except TableFullError as error:
                self._refuse(error)
                self._tell_limit(Event("limit", vni, mac_text(mac), unpacked(address)))
            except (ValueError, VxcoreError) as error:
                self._refuse(error)

    def _refuse(self, error: Exception) -> None:
        self._refused += 1
        log.debug("a frame was let in: %s", error)

    def _tell_limit(self, event: Event) -> None:
        """Once a second, as lanes do."""
        now = time.monotonic()
        if now >= self._limit_told_at + _WAKE_S:
            self._limit_told_at = now
            self._put(event)

    def _welcome(self, vni: int, mac: int, address: bytes) -> None:
        with self._journal.change():
            segment = self._segments.number(vni)
            remote = self._remotes.learn(unpacked(address))
        self._waiting[address] = segment, vni, mac
        if self._reaches(remote):
            self._learn_waiting(address)

    def _learn_waiting(self, address: bytes) -> None:
        """Learn, of a stranger that can be answered now, the address that it sent from last."""
        if address not in self._waiting:
            return
        segment, vni, mac = self._waiting.pop(address)
        remote = self._remotes.number(unpacked(address))
        if remote is None or self._tables.find_segment(vni) != segment:
            return  # it is gone meanwhile
        self._reader.enter()
        try:
            self._reader.fdb_learn(segment, mac, remote, now_s())
        finally:
            self._reader.leave()

    def tidy(self) -> None:
        """Forget learned remotes that the FDB no longer names."""
        self._tidy_at = time.monotonic() + _TIDY_S
        self._waiting.clear()  # whom nothing was learned from is forgotten, and met again
        with self._journal.change():
            if self._remotes.has_learned():
                self._remotes.forget(np.unique(self._tables.fdb(now_s())["remote"]))


def _kinds(kinds: Iterable[str] | None) -> frozenset[str]:
    wanted = frozenset(KINDS if kinds is None else kinds)
    for kind in sorted(wanted - set(KINDS)):
        raise ConfigError(f"event {kind!r}: there is no such kind; known are {', '.join(KINDS)}")
    return wanted
