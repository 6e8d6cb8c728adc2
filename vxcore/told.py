"""Told: what control planes say of other VTEPs, in the tables beside what settings say.

Place in the house: above remotes, segments, fdb and neighbours, below engine. A control plane says who takes
part in a segment (Member) and who is behind whom (Endpoint), of all segments that there are anywhere; here it
waits for the segment, is held against what others say, and becomes flood sets, FDB entries and neighbours.
What was set by hand is not touched, and none of this is in the settings that `save` writes.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from vxcore._fast.table import Reader
from vxcore.addresses import MacAddress, mac_text
from vxcore.config import IPAddress, decode
from vxcore.errors import VxcoreError
from vxcore.fdb import Fdb
from vxcore.journal import Journal
from vxcore.neighbours import Neighbours
from vxcore.remotes import Remotes, packed
from vxcore.segments import Segments

log = logging.getLogger("vxcore")

K = TypeVar("K")
V = TypeVar("V")
Station = tuple[int, MacAddress]
"""A VNI and a MAC address in it."""
Host = tuple[int, IPAddress]
"""A VNI and an IP address in it."""
_MANY = 1000  # VTEPs that were refused, after which those are forgotten of which nothing is said any more


class Member(Struct, frozen=True, tag=True):
    """A VTEP takes part in a segment: it gets BUM frames (as a route of type 3, RFC 7432 section 7.3)."""

    vni: int
    vtep: IPAddress


class Endpoint(Struct, frozen=True, tag=True, kw_only=True):
    """A MAC address is behind a VTEP (as routes of type 2, RFC 7432 section 7.2)."""

    vni: int
    mac: MacAddress
    vtep: IPAddress
    addresses: tuple[IPAddress, ...] = ()
    """Its IP addresses: requests for them are answered here."""
    sequence: int = 0
    """How often it has moved, 0 to 2**32 - 1 (RFC 7432 section 7.7)."""
    sticky: bool = False
    """It does not move (RFC 7432 section 15.2)."""
    router: bool = False
    """What IPv6 hosts are told of it (RFC 4861 section 4.4)."""

    @property
    def kind(self) -> str:
        """As the FDB has it."""
        return "sticky" if self.sticky else "control"

    @property
    def rank(self) -> tuple[bool, int, int]:
        """The lowest is believed, of those that name one MAC address: as the FDB holds them."""
        return not self.sticky, -self.sequence, int(self.vtep)


Route = Member | Endpoint


class Row(NamedTuple):
    """A route, who told it, and what it is good for."""

    source: str
    route: Route
    state: str
    """"used", "outranked", "no segment", "no room", or why it cannot be."""


class Answer(NamedTuple):
    """What requests for an address are answered."""

    mac: MacAddress
    router: bool


class Told:
    """What control planes, each a `source` with a name, say of other VTEPs.

    `flood` gives the flood set that the settings have for a VNI; `refuse` raises, saying why, for what cannot
    be a remote here. Of one thread at a time.
    """

    def __init__(
        self,
        journal: Journal,
        tables: tuple[Remotes, Segments, Fdb, Neighbours],
        flood: Callable[[int], Collection[IPAddress]],
        refuse: Callable[[IPAddress], None],
    ) -> None:
        self._journal = journal
        self._remotes, self._segments, self._fdb, self._neighbours = tables
        self._flood, self._refuse = flood, refuse
        self._members: dict[int, dict[IPAddress, set[str]]] = defaultdict(dict)
        self._said: dict[Station, dict[tuple[str, IPAddress], Endpoint]] = {}
        self._stations: dict[int, set[MacAddress]] = defaultdict(set)
        self._hosts: dict[Host, set[MacAddress]] = defaultdict(set)
        self._in_fdb: dict[Station, Endpoint] = {}
        self._in_neighbours: dict[Host, Answer] = {}
        self._refused: dict[IPAddress, str] = {}
        self._named: dict[IPAddress, str] = {}  # of the refused, in the log
        self._many = _MANY
        self._reader = Reader(journal.tables)

    # What is said

    def update(self, source: str, add: Iterable[Route] = (), remove: Iterable[Route] = ()) -> None:
        """Take routes that are new, or new versions of what is there, and forget others.

        An Endpoint is known by VNI, MAC address and VTEP. What cannot be used raises nothing: the log names
        it, and ``rows`` does.
        """
        vnis: set[int] = set()
        stations: set[Station] = set()
        for each in remove:
            self._forget(source, each, vnis, stations)
        for each in add:
            self._note(source, each, vnis, stations)
        self._settle(vnis, stations)
        self._forget_refused()

    def replace(self, source: str, routes: Iterable[Route]) -> None:
        """Take all that a source says, and forget what it does not say any more."""
        new = {_name(each): each for each in routes}
        gone = [each for each in self.routes(source) if _name(each) not in new]
        self.update(source, new.values(), gone)

    def routes(self, source: str) -> list[Route]:
        """All that a source says."""
        members = [
            Member(vni, vtep)
            for vni, vteps in self._members.items()
            for vtep, sources in vteps.items()
            if source in sources
        ]
        endpoints = [each for said in self._said.values() for (who, _), each in said.items() if who == source]
        return [*members, *endpoints]

    def count(self, source: str) -> int:
        """How many there are of them."""
        n_members = sum(source in sources for vteps in self._members.values() for sources in vteps.values())
        return n_members + sum(who == source for said in self._said.values() for who, _ in said)

    @property
    def sources(self) -> set[str]:
        """Who says anything."""
        members = (sources for vteps in self._members.values() for sources in vteps.values())
        return {who for said in self._said.values() for who, _ in said}.union(*members)

    def rows(self) -> Iterator[Row]:
        """All that is said, and what it is good for."""
        for vni, vteps in self._members.items():
            there = set(self._segments.flood(vni)) if vni in self._segments else set()
            for vtep, sources in vteps.items():
                state = self._state(vni, vtep, "used" if vtep in there else "no room")
                yield from (Row(source, Member(vni, vtep), state) for source in sorted(sources))
        for (vni, mac), said in self._said.items():
            held = self._in_fdb.get((vni, mac))
            for (source, vtep), each in said.items():
                state = "no room" if held is None else "used" if held == each else "outranked"
                yield Row(source, each, self._state(vni, vtep, state))

    def _state(self, vni: int, vtep: IPAddress, otherwise: str) -> str:
        if vni not in self._segments:
            return "no segment"
        if vtep in self._refused:
            return self._refused[vtep]
        return otherwise

    def holds(self, vni: int, mac: str, remote: IPAddress) -> bool:
        """Whether a control-plane entry of the FDB is from here."""
        held = self._in_fdb.get((vni, MacAddress(mac)))
        return held is not None and held.vtep == remote

    def holds_neighbour(self, vni: int, address: IPAddress) -> bool:
        """Whether a neighbour is from here."""
        return (vni, address) in self._in_neighbours

    # Segments

    def flood(self, vni: int, own: Collection[IPAddress]) -> list[IPAddress]:
        """The flood set of a VNI, if that is its own one, with those who take part and are in it now."""
        members = self._members.get(vni)
        if not members or vni not in self._segments:
            return [*own]
        there = set(self._segments.flood(vni)).difference(own)
        return [*own, *(vtep for vtep in members if vtep in there)]

    def _wanted(self, vni: int) -> list[IPAddress]:
        """The flood set as it is to be: its own one, and all who take part."""
        own = self._flood(vni)
        others = [vtep for vtep in self._members.get(vni, ()) if vtep not in own and self._may_be(vtep)]
        return [*own, *others]

    def segments_changed(self, gone: Iterable[int], there: Iterable[int]) -> None:
        """Segments are gone, with all that was in them; others are new, or have other settings."""
        for vni in gone:
            for mac in self._stations.get(vni, ()):
                self._in_fdb.pop((vni, mac), None)
        removed = set(gone)
        if removed:
            kept = {host: answer for host, answer in self._in_neighbours.items() if host[0] not in removed}
            self._in_neighbours = kept
        vnis = set(there)
        self._refused.clear()  # the way to a remote may lead through a segment's port
        self._settle(vnis, {(vni, mac) for vni in vnis for mac in self._stations.get(vni, ())})

    # Noting

    def _note(self, source: str, route: Route, vnis: set[int], stations: set[Station]) -> None:
        if isinstance(route, Member):
            self._members[route.vni].setdefault(route.vtep, set()).add(source)
            vnis.add(route.vni)
            return
        self._forget(source, route, vnis, stations)
        station = route.vni, route.mac
        self._said.setdefault(station, {})[source, route.vtep] = route
        self._stations[route.vni].add(route.mac)
        for address in route.addresses:
            self._hosts[route.vni, address].add(route.mac)
        stations.add(station)

    def _forget(self, source: str, route: Route, vnis: set[int], stations: set[Station]) -> None:
        if isinstance(route, Member):
            vteps = self._members.get(route.vni, {})
            _discard(vteps, route.vtep, source)
            if not vteps:
                self._members.pop(route.vni, None)
            vnis.add(route.vni)
            return
        station = route.vni, route.mac
        said = self._said.get(station, {})
        gone = said.pop((source, route.vtep), None)
        if gone is None:
            return
        stations.add(station)
        still = {address for each in said.values() for address in each.addresses}
        for address in set(gone.addresses) - still:
            _discard(self._hosts, (route.vni, address), route.mac)
        if not said:
            del self._said[station]
            _discard(self._stations, route.vni, route.mac)

    def _forget_refused(self) -> None:
        """Those that nobody names any more, once there are many: others may name ever new ones."""
        if len(self._named) < self._many:
            return
        said = {vtep for vteps in self._members.values() for vtep in vteps}
        said |= {vtep for each in self._said.values() for _, vtep in each}
        self._named = {vtep: why for vtep, why in self._named.items() if vtep in said}
        self._refused = {vtep: why for vtep, why in self._refused.items() if vtep in said}
        self._many = max(_MANY, 2 * len(self._named))

    # Settling

    def _settle(self, vnis: Collection[int], stations: Collection[Station]) -> None:
        """Have the tables say what is said of these; if something in it cannot be, all but that."""
        try:
            self._apply(vnis, stations)
        except VxcoreError:
            for vni in vnis:
                if vni in self._segments:
                    self._fill(vni)
            for station in stations:
                why = _refusal(partial(self._apply, [], [station]))
                if why is not None:
                    log.warning("a control plane's word is not used: %s", why)

    def _fill(self, vni: int) -> None:
        """Have as many in a flood set as there is room for: who is there stays, and who is gone is out."""
        there = set(self._segments.flood(vni))
        wanted = sorted(self._wanted(vni), key=there.__contains__, reverse=True)
        n, last = sum(each in there for each in wanted), None
        steps = [1 << bit for bit in reversed(range((len(wanted) - n).bit_length()))]
        for step in (0, *steps):
            why = _refusal(partial(self._segments.change, vni, remotes=wanted[: n + step]))
            n, last = (n + step, last) if why is None else (n, why)
        if last is not None:
            left_out = len(wanted[n:])
            log.warning("a control plane's word is not used: VNI %d, %d members: %s", vni, left_out, last)

    def _apply(self, vnis: Collection[int], stations: Collection[Station]) -> None:
        here = [(vni, mac) for vni, mac in stations if vni in self._segments]
        best = {station: self._believed(station) for station in here}
        entries = {s: each for s, each in best.items() if each != self._in_fdb.get(s)}
        hosts = {(s[0], address) for s in here for address in self._addresses(s, best[s])}
        with self._journal.change():
            for vni in vnis:
                if vni in self._segments:
                    self._segments.change(vni, remotes=self._wanted(vni))
            self._set_entries(entries)
            answers = self._set_answers({host: self._answer(host, best) for host in hosts})
        _keep(self._in_fdb, entries)
        _keep(self._in_neighbours, answers)

    def _believed(self, station: Station) -> Endpoint | None:
        said = [each for each in self._said.get(station, {}).values() if self._may_be(each.vtep)]
        return min(said, key=lambda each: each.rank, default=None)

    def _addresses(self, station: Station, best: Endpoint | None) -> set[IPAddress]:
        """Those that it has, had, or is said to have."""
        was = self._in_fdb.get(station)
        return {address for each in (was, best) if each is not None for address in each.addresses}

    def _answer(self, host: Host, best: dict[Station, Endpoint | None]) -> Answer | None:
        """Whose an address is, if one of those who are believed has it."""
        vni, address = host
        having = []
        for mac in self._hosts.get(host, ()):
            station = vni, mac
            each = best[station] if station in best else self._in_fdb.get(station)
            if each is not None and address in each.addresses:
                having.append(each)
        first = min(having, key=lambda each: (each.rank, each.mac), default=None)
        return None if first is None else Answer(first.mac, first.router)

    def _set_entries(self, entries: dict[Station, Endpoint | None]) -> None:
        old = [station for station in entries if station in self._in_fdb]
        if old:
            vnis, macs = _columns(old)
            self._fdb.delete(vnis, macs, missing_ok=True, spare_static=True)
        for kind in ("control", "sticky"):
            new = [each for each in entries.values() if each is not None and each.kind == kind]
            if new:
                vnis, macs = _columns([(each.vni, each.mac) for each in new])
                numbers = {vtep: self._remotes.require(vtep) for vtep in {each.vtep for each in new}}
                remotes = np.array([numbers[each.vtep] for each in new], np.uint32)
                sequence = np.array([each.sequence for each in new], np.uint32)
                self._fdb.replace(vnis, macs, remotes, kind=kind, sequence=sequence)

    def _set_answers(self, answers: dict[Host, Answer | None]) -> dict[Host, Answer | None]:
        """Those that are not as they were; what somebody else has set stays."""
        changed: dict[Host, Answer | None] = {}
        ours: dict[Host, Answer | None] = {}
        for host, new in answers.items():
            old = self._in_neighbours.get(host)
            found = self._neighbour(host)
            if found is not None and found != old:
                changed[host] = None
            elif new != found:
                changed[host] = ours[host] = new
        gone = [host for host, new in ours.items() if new is None]
        if gone:
            self._neighbours.remove([vni for vni, _ in gone], [address for _, address in gone])
        there = [(host, new) for host, new in ours.items() if new is not None]
        if there:
            macs = [new.mac.number for _, new in there]
            routers = [new.router for _, new in there]
            vnis, addresses = zip(*(host for host, _ in there), strict=True)
            self._neighbours.set(vnis, addresses, macs, routers)
        return changed

    def _neighbour(self, host: Host) -> Answer | None:
        """What requests for an address are answered now."""
        vni, address = host
        self._reader.enter()
        try:
            found = self._reader.find_neighbour(self._segments.number(vni), packed(address))
        finally:
            self._reader.leave()
        return None if found is None else Answer(MacAddress(mac_text(found[0])), found[1])

    def _may_be(self, vtep: IPAddress) -> bool:
        """Whether it can be a remote; the log says once why not."""
        if vtep not in self._refused and self._remotes.number(vtep) is None:
            try:
                self._refuse(vtep)
            except VxcoreError as error:
                self._refused[vtep] = str(error)
                if self._named.get(vtep) != str(error):
                    self._named[vtep] = str(error)
                    log.warning("a control plane's word is not used: %s", error)
        return vtep not in self._refused


def as_words(routes: Iterable[Route]) -> list[Any]:
    """Routes as JSON would have them."""
    return msgspec.to_builtins(list(routes), builtin_types=(), enc_hook=str)  # type: ignore[no-any-return]


def from_words(words: object) -> list[Route]:
    """The inverse. Raises msgspec.ValidationError for what are no routes."""
    return msgspec.convert(words, list[Route], dec_hook=decode)


def _name(route: Route) -> tuple[object, ...]:
    """By which a route of a source is known."""
    if isinstance(route, Member):
        return route.vni, route.vtep
    return route.vni, route.mac, route.vtep


def _columns(stations: Collection[Station]) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
    vnis, macs = zip(*stations, strict=True)
    return np.array(vnis, np.uint32), np.array([mac.number for mac in macs], np.uint64)


def _refusal(change: Callable[[], object]) -> VxcoreError | None:
    """Why a change cannot be; None: it is made."""
    try:
        change()
    except VxcoreError as error:
        return error
    return None


def _discard(sets: dict[K, set[V]], key: K, item: V) -> None:
    """Take an item out of a set, and with the last one the set."""
    items = sets.get(key, set())
    items.discard(item)
    if not items:
        sets.pop(key, None)


def _keep(held: dict[K, V], changed: Mapping[K, V | None]) -> None:
    """Note what is in the tables now."""
    for key, new in changed.items():
        if new is None:
            held.pop(key, None)
        else:
            held[key] = new
