"""What is known of the speaker's routes, and what they mean: members and endpoints of other VTEPs.

Place in the house: in planes.evpn, above routes. BGP has a route for each address of an endpoint, and an
endpoint has all of its addresses. Of one thread at a time.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable

from vxcore.addresses import MacAddress, in_order
from vxcore.config import IPAddress
from vxcore.plane_status import Trouble
from vxcore.planes.evpn.messages import Message
from vxcore.planes.evpn.routes import Key, RouteError, Speech, key_of, read
from vxcore.planes.plane import News
from vxcore.told import Endpoint, Member, Route, Station

_MAX_IGNORED = 1000  # that are named; others may send any number, and ever new ones

Name = tuple[int, str, IPAddress]
"""Of a route of `told`: VNI, MAC address or nothing, VTEP."""


class Book:
    """The routes of the speaker. `ours` are the addresses of this VTEP: what is said of them is no news.

    `counts` gets how many were ignored, by their reasons.
    """

    def __init__(self, ours: Collection[IPAddress], counts: Counter[str]) -> None:
        self._ours, self._counts = ours, counts
        self._held: dict[Key, Route] = {}
        self._parts: dict[Name, dict[Key, Route]] = defaultdict(dict)
        self._stations: dict[Station, dict[IPAddress, Endpoint]] = defaultdict(dict)
        self._ignored: dict[bytes, Trouble] = {}
        self.own: dict[Key, tuple[Message, Route]] = {}
        """What the speaker has of this VTEP, from this process or the one before it."""

    def replace(self, paths: Iterable[Message], speech: Speech) -> list[Route]:
        """Know these and no others; what others say then."""
        for known in (self._held, self._parts, self._stations, self._ignored, self.own):
            known.clear()
        self.update(paths, speech)
        return [whole for whole in map(_joined, self._parts.values()) if whole is not None]

    def update(self, paths: Iterable[Message], speech: Speech) -> News:
        """Know what has come or gone."""
        before: dict[Name, Route | None] = {}
        for path in paths:
            self._ignored.pop(path.nlri.value, None)
            try:
                key = key_of(path)
            except RouteError as error:
                self._ignore(path, path.nlri.type_url.rpartition(".")[2], error)
                continue
            self._drop(key, before)
            if not path.is_withdraw:
                self._take(key, path, speech, before)
        news = News([], [])
        for name, old in before.items():
            new = self._settle(name)
            if new == old:
                continue
            if new is None and old is not None:
                news.remove.append(old)
            elif new is not None:
                news.add.append(new)
        return news

    def heard(self, station: Station) -> Endpoint | None:
        """Who is believed of all others that say they have it."""
        said = self._stations.get(station, {}).values()
        return min(said, key=lambda each: each.rank, default=None)

    def _take(self, key: Key, path: Message, speech: Speech, before: dict[Name, Route | None]) -> None:
        try:
            route, targets = read(path)
        except RouteError as error:
            self._ignore(path, key.title, error)
            return
        if route.vtep in self._ours:
            self.own[key] = path, route
        elif not speech.takes(route.vni, targets):
            self._counts["not_imported"] += 1
        else:
            name = _name(route)
            before.setdefault(name, _joined(self._parts[name]))
            self._held[key] = self._parts[name][key] = route

    def _drop(self, key: Key, before: dict[Name, Route | None]) -> None:
        self.own.pop(key, None)
        route = self._held.pop(key, None)
        if route is not None:
            name = _name(route)
            before.setdefault(name, _joined(self._parts[name]))
            del self._parts[name][key]

    def _settle(self, name: Name) -> Route | None:
        """What a route of `told` is now."""
        whole = _joined(self._parts[name])
        if whole is None:
            del self._parts[name]
        vni, mac, vtep = name
        if mac:
            station = vni, MacAddress(mac)
            if isinstance(whole, Endpoint):
                self._stations[station][vtep] = whole
            else:
                self._stations[station].pop(vtep, None)
                if not self._stations[station]:
                    del self._stations[station]
        return whole

    def _ignore(self, path: Message, title: str, error: RouteError) -> None:
        if not path.is_withdraw:
            self._counts[f"ignored_{error.name}"] += 1
            if len(self._ignored) == _MAX_IGNORED:
                del self._ignored[next(iter(self._ignored))]
            self._ignored[path.nlri.value] = Trouble(title, str(error))

    @property
    def ignored(self) -> list[Trouble]:
        """Routes that are not used; of very many the last."""
        return list(self._ignored.copy().values())


def _name(route: Route) -> Name:
    return route.vni, route.mac if isinstance(route, Endpoint) else "", route.vtep


def _joined(parts: dict[Key, Route]) -> Route | None:
    """One route of those that have its name; the addresses in their order."""
    routes = list(parts.values())
    if not routes or isinstance(routes[0], Member):
        return routes[0] if routes else None
    endpoints = [each for each in routes if isinstance(each, Endpoint)]
    first = min(endpoints, key=lambda each: each.rank)
    addresses = {address for each in endpoints for address in each.addresses}
    return Endpoint(
        vni=first.vni,
        mac=first.mac,
        vtep=first.vtep,
        addresses=in_order(addresses),
        sequence=first.sequence,
        sticky=first.sticky,
        router=any(each.router for each in endpoints),
    )
