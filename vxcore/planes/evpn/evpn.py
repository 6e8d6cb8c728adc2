"""The control plane EVPN: this VTEP's routes are the speaker's, and others' are in its tables.

Place in the house: outermost of planes.evpn. One thread with an event loop of its own: a task follows what
the speaker hears, and the loop sees to what it is to say. When the speaker is gone, what is known stays in
the tables. When it is back it knows little at first, so what it says is added to what was known, until all
its neighbours have told it all, or `restart` seconds are over; then its routes are read as a whole.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Self

from msgspec import structs

from vxcore import config
from vxcore.plane_status import Status, Trouble
from vxcore.planes.evpn.book import Book
from vxcore.planes.evpn.messages import Message
from vxcore.planes.evpn.mobility import Mobility
from vxcore.planes.evpn.routes import Key, Speech, withdrawn
from vxcore.planes.evpn.speaker import Neighbour, Speaker, SpeakerError
from vxcore.planes.plane import Connection, Pauses
from vxcore.told import Endpoint, Member, Route
from vxcore.vtep import Vtep

log = logging.getLogger("vxcore")

_SETTLE_S = 0.02  # in which more may come that is dealt with together
_SOON_S = 0.2  # from one look at the speaker's neighbours to the next, as long as they are awaited
_STARTS_S = 1.0
_QUIET_S = 3.0  # after that long a neighbour that does not say so has told all
_LEAVE_S = 5.0

Now = Callable[[], Collection[Route]]


class Evpn:
    """A VTEP's part in EVPN, while inside ``with``; `now` is all that it has to tell.

    A speaker that cannot be reached is waited for.
    """

    name = "evpn"

    def __init__(self, vtep: Vtep, settings: config.Evpn, now: Now) -> None:
        self._vtep, self._settings, self._now = vtep, settings, now
        tables = vtep.settings.tables
        self._counts: Counter[str] = Counter(
            requests=0, messages=0, restarts=0, whole_reads=0, not_imported=0
        )
        self._book = Book(vtep.locals, self._counts)
        self._mobility = Mobility(tables.moves, tables.moves_window)
        self._said: dict[Route, dict[Key, Message]] = {}
        self._news: list[Message] = []
        self._neighbours: list[Neighbour] = []
        self._up_since: dict[str, float] = {}
        self._connection = Connection(vtep, self.name)
        self._ends = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="vxcore-evpn", daemon=True)

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave: others hear at once that this VTEP is gone."""
        self._ends = True
        self.changed()
        self._thread.join(_LEAVE_S + self._settings.timeout)

    def changed(self) -> None:
        """There is something else to tell."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(self._wake.set)

    def status(self) -> Status:
        """How it is now."""
        down = [
            Trouble(f"neighbour {each.address}", "no session") for each in self._neighbours if not each.is_up
        ]
        return Status(
            plane=self.name,
            state=self._connection.state,
            since_s=round(self._connection.since_s, 3),
            peer=self._settings.api,
            reason=self._connection.reason,
            heard=self._vtep.n_told_by(self.name),
            announced=len(self._said),
            troubles=(*self._mobility.troubles, *down, *self._book.ignored),
            counts=dict(self._counts),
        )

    # Connections

    def _run(self) -> None:
        assert self._loop is not None
        try:
            self._loop.run_until_complete(self._connect_again())
        finally:
            self._loop.close()

    async def _connect_again(self) -> None:
        pauses = Pauses()
        while not self._ends:
            pauses.begin()
            try:
                async with self._speaker() as speaker:
                    await self._speak(speaker)
            except SpeakerError as error:
                self._lost(str(error))
            except Exception as error:
                log.exception("evpn: %s", self._settings.api)
                self._lost(repr(error))
            await self._sleep(pauses.end())
        if self._said or self._book.own:  # it was lost, and may be there again
            with suppress(SpeakerError):
                async with self._speaker() as speaker:
                    await self._withdraw_all(speaker)

    def _speaker(self) -> Speaker:
        return Speaker(self._settings.api, self._settings.timeout, self._counts)

    async def _sleep(self, seconds: float) -> None:
        """Or until this VTEP leaves."""
        until = time.monotonic() + seconds
        while not self._ends and time.monotonic() < until:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), until - time.monotonic())
            self._wake.clear()

    def _lost(self, reason: str) -> None:
        was, is_new = self._connection.lost(reason)
        self._counts["restarts"] += was
        if self._ends:
            return
        api = self._settings.api
        if was:
            log.warning("evpn: the speaker at %s is gone: %s; traffic goes on by what was known", api, reason)
        elif is_new:
            log.warning("evpn: the speaker at %s: %s; it is tried again", api, reason)

    async def _speak(self, speaker: Speaker) -> None:
        """As long as the connection lasts; returns when this VTEP leaves."""
        asn, router_id = await speaker.about()
        speech = Speech(self._settings, asn, self._router_id(router_id))
        for known in (self._said, self._up_since, self._news):
            known.clear()
        follower = asyncio.create_task(self._follow(speaker))
        try:
            await self._keep(speaker, speech, follower)
            await self._withdraw_all(speaker)
        finally:
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)  # nobody else asks how it ended

    def _router_id(self, speakers: str) -> str:
        own = next((str(local) for local in self._vtep.locals if local.version == 4), speakers)
        return own if self._settings.router_id is None else str(self._settings.router_id)

    async def _follow(self, speaker: Speaker) -> None:
        """Take what comes and goes."""
        async for paths in speaker.watch():
            self._news += paths
            self._wake.set()

    async def _keep(self, speaker: Speaker, speech: Speech, follower: asyncio.Task[None]) -> None:
        """Have the speaker say what there is, and know all it has, until this VTEP leaves."""
        began, whole = time.monotonic(), False
        look_at = began
        while not self._ends:
            self._wake.clear()
            self._hear(speech)
            now = time.monotonic()
            if now >= look_at:
                self._neighbours = await speaker.neighbours()
                look_at = now + (self._settings.timeout if whole else _SOON_S)
            waits_for, waited_s = self._waits_for(), now - began
            if not whole and self._knows_all(waits_for, waited_s):
                await self._read_whole(speaker, speech)
                whole = True
            may_begin = whole or len(waits_for) < len(self._neighbours) or waited_s >= _QUIET_S
            await self._announce(speaker, speech, may_begin=may_begin)
            if whole:
                await self._withdraw_rest(speaker)
            await self._wait(follower, max(0.0, look_at - time.monotonic()))

    def _knows_all(self, waits_for: list[Neighbour], waited_s: float) -> bool:
        """Whether the speaker does; when it begins, its neighbours are not there at once."""
        if waits_for:
            return waited_s >= self._settings.restart
        return waited_s >= (_STARTS_S if self._neighbours else _QUIET_S)

    async def _wait(self, follower: asyncio.Task[None], seconds: float) -> None:
        """Until there is something to do, or the connection is lost."""
        wake = asyncio.create_task(self._wake.wait())
        await asyncio.wait({wake, follower}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        wake.cancel()
        if follower.done():
            follower.result()
        if not self._ends:
            await asyncio.sleep(_SETTLE_S)

    def _waits_for(self) -> list[Neighbour]:
        """The neighbours of the speaker's that have not told it all."""
        now = time.monotonic()
        for each in self._neighbours:
            if each.is_up:
                self._up_since.setdefault(each.address, now)
            else:
                self._up_since.pop(each.address, None)

        def has_told(each: Neighbour) -> bool:
            quiet = not each.says_when and now - self._up_since.get(each.address, now) >= _QUIET_S
            return each.is_up and (each.told_all or quiet)

        return [each for each in self._neighbours if not has_told(each)]

    # What others say

    def _hear(self, speech: Speech) -> None:
        """Tell the tables what has come and gone."""
        if self._news:
            news = self._book.update(self._news, speech)
            self._news.clear()
            self._vtep.tell(self.name, add=news.add, remove=news.remove)

    async def _read_whole(self, speaker: Speaker, speech: Speech) -> None:
        routes = self._book.replace(await speaker.paths(), speech)
        self._counts["whole_reads"] += 1
        self._vtep.tell_all(self.name, routes)
        for _, route in self._book.own.values():
            if isinstance(route, Endpoint):
                self._mobility.remember(route)
        lasted_s = self._connection.made()
        log.info("evpn: in step with the speaker at %s, after %.1f s", self._settings.api, lasted_s)

    # What this VTEP says

    async def _announce(self, speaker: Speaker, speech: Speech, *, may_begin: bool) -> None:
        """Say what has changed; a route that is to be another one is replaced, and never missing."""
        wanted = self._wanted(may_begin)
        gone = [path for route in self._said.keys() - wanted for path in self._said[route].items()]
        new = {route: dict(speech.paths(route)) for route in wanted - self._said.keys()}
        said = {route: paths for route, paths in self._said.items() if route in wanted} | new
        keys = {key for paths in said.values() for key in paths}
        news = [path for paths in new.values() for path in paths.values()]
        news += [withdrawn(path) for key, path in gone if key not in keys]
        if news:
            await speaker.say(news)
        self._said = said

    def _wanted(self, may_begin: bool) -> set[Route]:
        local = self._now()
        endpoints = (self._as_set(each) for each in local if isinstance(each, Endpoint))
        announced = self._mobility.announced(endpoints, self._book.heard, may_begin=may_begin)
        return {each for each in local if isinstance(each, Member)} | set(announced)

    def _as_set(self, endpoint: Endpoint) -> Endpoint:
        """With what settings say of it."""
        given = self._settings.of(endpoint.vni)
        sticky, router = endpoint.mac in given.sticky, endpoint.mac in given.gateways
        if not sticky and not router:
            return endpoint
        return structs.replace(endpoint, sticky=sticky, router=router)

    async def _withdraw_all(self, speaker: Speaker) -> None:
        """What this process has said, and what the one before it had, if it was not yet said again."""
        paths = {key: path for key, (path, _) in self._book.own.items()}
        for said in self._said.values():
            paths |= said
        await speaker.say([withdrawn(path) for path in paths.values()])
        self._said.clear()
        self._book.own.clear()

    async def _withdraw_rest(self, speaker: Speaker) -> None:
        """What the speaker still has of a process that was here before."""
        keys = {key for paths in self._said.values() for key in paths}
        rest = {key: path for key, (path, _) in self._book.own.items() if key not in keys}
        if rest:
            await speaker.say([withdrawn(path) for path in rest.values()])
            for key in rest:
                del self._book.own[key]
