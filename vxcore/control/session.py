"""One client of the control socket, from its first byte to its last.

Place in the house: in control, above requests, below server. What a client may take is bounded: the length of
its lines, the time it lets us wait, what is kept for it unread, and with others the number of long lists.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from socket import socket
from typing import Any, TypeVar

import msgspec

from vxcore._version import __version__
from vxcore.control import PROTOCOL
from vxcore.control.protocol import (
    REQUESTS,
    Asked,
    Dropped,
    Event,
    Fault,
    Greeting,
    HandsOver,
    Happened,
    Message,
    Monitor,
    PacketsWanted,
    Refusal,
    Reply,
    Seen,
    Takeover,
    Told,
    fault_of,
)
from vxcore.control.requests import Operated, answer, asked, packet
from vxcore.control.socket_file import Peer, peer_of
from vxcore.errors import ConfigError, UnsupportedError
from vxcore.events import Event as VtepEvent
from vxcore.events import Subscription
from vxcore.handover import VERSIONS
from vxcore.problem import nearest, shown
from vxcore.watches import PacketWatch

log = logging.getLogger("vxcore")

IDLE_S = 60.0
"""How long a client that is not told events may ask nothing, or take to say a line."""
SLOW_S = 30.0
"""How long a client may leave unread what it was sent."""
MAX_LISTS = 8
"""Long lists that are sent at once, for each holds a copy of its table."""
QUEUE_LEN = 4096
"""Events that wait for a client."""

T = TypeVar("T")


class HangUpError(Exception):
    """Why the server does not go on with a client; it is told."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.fault = Fault(code=code, message=message)


class _GoneError(Exception):
    """The client is no longer there, or does not read."""


class Worker:
    """Does what clients ask for, one thing at a time, in a thread of its own."""

    def __init__(self, operated: Operated, listening: socket, accept: Callable[[bool], None]) -> None:
        self.operated, self.listening, self.accept = operated, listening, accept
        self.n_lists = 0
        self._pool = ThreadPoolExecutor(1, "vxcore-control-work")

    async def do(self, call: Callable[[], T]) -> T:
        """Call it there."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def close(self) -> None:
        """When it has done what was begun."""
        self._pool.shutdown()


class Session:
    """A client, and what it has asked; `peer` is who it is."""

    def __init__(self, worker: Worker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._worker, self._operated = worker, worker.operated
        self._reader, self._writer = reader, writer
        self.peer: Peer = peer_of(writer.get_extra_info("socket"))

    async def talk(self, refused: HangUpError | None = None) -> None:
        """Answer until one of us hangs up; at once, if the client is `refused`."""
        try:
            try:
                if refused is not None:
                    raise refused
                await self._send(_line(Greeting(vxcore=__version__, protocol=PROTOCOL, pid=os.getpid())))
                while line := await self._read():
                    await self._answer(line)
            except HangUpError as last:
                await self._send(_line(Refusal(id=None, error=last.fault)))
            self._writer.close()
            async with asyncio.timeout(SLOW_S):
                await self._writer.wait_closed()
        except (_GoneError, ConnectionError, TimeoutError):
            log.debug("control socket: process %d is gone, or does not read", self.peer.pid)
        finally:
            self._writer.transport.abort()

    async def _read(self) -> bytes:
        try:
            async with asyncio.timeout(IDLE_S):
                return await self._reader.readline()
        except TimeoutError:
            raise HangUpError("idle", f"nothing was asked for {IDLE_S:.0f} s") from None
        except ValueError:
            raise HangUpError("too_long", "a line is longer than 1 MiB") from None

    async def _send(self, data: bytes) -> None:
        self._writer.write(data)
        try:
            async with asyncio.timeout(SLOW_S):
                await self._writer.drain()
        except (ConnectionError, TimeoutError):
            raise _GoneError from None

    async def _answer(self, line: bytes) -> None:
        message = _message(line)
        try:
            given = _known(message)
            if isinstance(given, Monitor):
                await self._monitor(message, given)
            if isinstance(given, PacketsWanted):
                await self._show_packets(message, given)
            if isinstance(given, Takeover):
                await self._hand_over(message, given)
            await self._reply(message, given)
        except (HangUpError, _GoneError):
            raise
        except Exception as error:
            await self._refuse(message, error)

    async def _refuse(self, message: Message, error: Exception) -> None:
        fault = fault_of(error)
        if fault.code == "internal":
            log.error("control socket: %s", message.do, exc_info=error)
        self._note(message, f": {fault.message}")
        await self._send(_line(Refusal(id=message.id, error=fault)))

    async def _reply(self, message: Message, given: Asked) -> None:
        answered = await self._worker.do(partial(answer, self._operated, message.do, given))
        self._note(message)
        if isinstance(answered, Told):
            await self._send(_line(Reply(id=message.id, ok=answered)))
            return
        lines = _lines(message.id, answered)
        first = await self._worker.do(partial(next, lines))
        more = await self._worker.do(partial(next, lines, None))
        if more is None:
            await self._send(first)
        else:
            await self._send_long(first, more, lines)

    async def _send_long(self, first: bytes, more: bytes | None, lines: Iterator[bytes]) -> None:
        """A list of more than one piece."""
        if self._worker.n_lists >= MAX_LISTS:
            raise HangUpError("busy", f"{MAX_LISTS} long lists are being sent already")
        self._worker.n_lists += 1
        try:
            await self._send(first)
            while more is not None:
                await self._send(more)
                more = await self._worker.do(partial(next, lines, None))
        finally:
            self._worker.n_lists -= 1

    def _note(self, message: Message, failure: str = "") -> None:
        """Who changed what, or tried to."""
        if message.do in REQUESTS and REQUESTS[message.do].changes:
            peer, what = self.peer, msgspec.json.encode(message.given).decode()
            what = what if len(what) <= _NOTED_LEN else f"{what[:_NOTED_LEN]}..."
            log.info("user %d, process %d: %s %s%s", peer.uid, peer.pid, message.do, what, failure)

    async def _hand_over(self, message: Message, given: Takeover) -> None:
        """The connection is a handover's from now on. Who connects meanwhile waits until it is decided."""
        hand_over = self._operated.hand_over
        if self.peer.uid not in (0, os.geteuid()):
            raise HangUpError("denied", f"user {self.peer.uid} may not take the VTEP over: root may")
        if hand_over is None:
            raise UnsupportedError(self._operated.stays)
        version = max(set(given.versions) & set(VERSIONS), default=None)
        if version is None:
            known, asked = (", ".join(map(str, sorted(each))) for each in (VERSIONS, given.versions))
            text = f"vxcore {__version__} here hands over in version {known}, and the new one knows {asked}"
            raise UnsupportedError(f"{text}; upgrade in steps, or restart")
        self._note(message)
        transport: Any = self._writer.transport  # which reads as well
        transport.pause_reading()
        await self._send(_line(Reply(id=message.id, ok=HandsOver(version=version))))
        connection = self._writer.get_extra_info("socket").dup()
        self._worker.accept(False)
        try:
            call = partial(hand_over, connection, self._worker.listening, self.peer.pid)
            await self._worker.do(call)
        finally:
            self._worker.accept(True)
        raise _GoneError

    async def _monitor(self, message: Message, given: Monitor) -> None:
        """Send events until the client hangs up, or says anything."""
        with self._operated.vtep.subscribe(given.kinds or None, QUEUE_LEN) as events:
            await self._send(_line(Reply(id=message.id, ok={})))
            ended = asyncio.ensure_future(self._until_it_speaks(events))
            try:
                await self._tell(events)
            finally:
                ended.cancel()
        raise _GoneError

    async def _until_it_speaks(self, events: Subscription) -> None:
        with suppress(ConnectionError):  # it is gone, and that is as good
            await self._reader.read(1)
        events.close()

    async def _tell(self, events: Subscription) -> None:
        dropped = 0
        async for first in events:
            lines = [_event_line(event) for event in (first, *events.take())]
            if events.dropped > dropped:
                lines.append(_line(Dropped(dropped=events.dropped - dropped)))
                dropped = events.dropped
            await self._send(b"".join(lines))

    async def _show_packets(self, message: Message, given: PacketsWanted) -> None:
        """Send packets until the client hangs up, or says anything."""
        mac = None if given.mac is None else given.mac.number
        watch = self._operated.vtep.watch(
            vni=given.vni,
            mac=mac,
            ways=given.ways,
            snap_len=given.snap_len,
            dropped_only=given.dropped_only,
        )
        with watch:
            await self._send(_line(Reply(id=message.id, ok={})))
            ended = asyncio.ensure_future(self._reader.read(1))
            try:
                await self._tell_packets(watch, given.steps, ended)
            finally:
                ended.cancel()
        raise _GoneError

    async def _tell_packets(self, watch: PacketWatch, steps: bool, ended: asyncio.Future[bytes]) -> None:
        lost = 0
        while not ended.done():
            lines = [_line(Seen(packet=packet(sight, steps))) for sight in watch.take()]
            if watch.lost > lost:
                lines.append(_line(Dropped(dropped=watch.lost - lost)))
                lost = watch.lost
            if lines:
                await self._send(b"".join(lines))
                await asyncio.sleep(0)  # others have their turn, also beside a client that keeps up
            elif watch.may_sleep():
                await _readable(watch.fileno(), ended)


async def _readable(fd: int, ended: asyncio.Future[bytes]) -> None:
    """Until a descriptor is, or the client has ended."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, ready.set)
    ended.add_done_callback(lambda _: ready.set())
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)


_NOTED_LEN = 200


def _message(line: bytes) -> Message:
    try:
        return msgspec.json.decode(line, type=Message)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise HangUpError("malformed", f"not a line of JSON with `do`: {error}") from None


def _known(message: Message) -> Asked:
    """What is asked for, checked."""
    if message.do not in REQUESTS:
        near = nearest(message.do, list(REQUESTS))
        raise ConfigError(f"do: {shown(message.do)}: there is no such request; {near}")
    return asked(message.do, message.given)


def _line(said: Any) -> bytes:
    return msgspec.json.encode(said, enc_hook=str) + b"\n"  # addresses are texts of a kind


def _lines(ident: Any, pages: Iterator[Told]) -> Iterator[bytes]:
    page = next(pages)
    for following in pages:
        yield _line(Reply(id=ident, ok=page, more=True))
        page = following
    yield _line(Reply(id=ident, ok=page))


def _event_line(event: VtepEvent) -> bytes:
    remote, was = (None if address is None else str(address) for address in (event.remote, event.was))
    told = Event(
        time=time.time(),
        kind=event.kind,
        vni=event.vni,
        mac=event.mac,
        remote=remote,
        was=was,
        plane=event.plane,
    )
    return _line(Happened(event=told))
