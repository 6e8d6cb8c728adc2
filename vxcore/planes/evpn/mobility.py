"""Which of this host's endpoints are announced, and with which sequence numbers (RFC 7432 section 15).

Place in the house: in planes.evpn, above told. Whoever gets a MAC address that another VTEP announces says so
with a number that is higher by one; whoever hears that of one of its own has it no more.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from msgspec import structs

from vxcore.plane_status import Trouble
from vxcore.told import Endpoint, Station

_MAX_SEQUENCE = 0xFFFF_FFFF

Heard = Callable[[Station], Endpoint | None]


@dataclass
class _Own:
    sequence: int
    moved_to: Endpoint | None = None
    """Who has it now, though it still seems to be here."""


class Mobility:
    """The endpoints of this host.

    An address that comes here more often than `moves` times within `window_s` seconds while others announce
    it is at several places at a time, and is left to them (section 15.1); 0: never.
    """

    def __init__(self, moves: int, window_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._moves, self._window_s, self._clock = moves, window_s, clock
        self._own: dict[Station, _Own] = {}
        self._before: dict[Station, int] = {}
        self._times: dict[Station, deque[float]] = defaultdict(deque)
        self._refused: dict[Station, str] = {}

    def remember(self, endpoint: Endpoint) -> None:
        """The process before this one has announced it."""
        station = endpoint.vni, endpoint.mac
        self._before[station] = max(endpoint.sequence, self._before.get(station, 0))

    def announced(self, local: Iterable[Endpoint], heard: Heard, *, may_begin: bool) -> Iterator[Endpoint]:
        """What is to be announced of those that are here. Until it `may_begin`, none that was not before."""
        there = {(each.vni, each.mac): each for each in local}
        for station in self._own.keys() - there.keys():
            del self._own[station]
        self._refused.clear()
        for station, endpoint in there.items():
            own, best = self._own.get(station), heard(station)
            if own is None and may_begin:
                own = self._first(station, endpoint, best)
            if own is not None:
                said = structs.replace(endpoint, sequence=own.sequence)
                own.moved_to = best if best is not None and best.rank < said.rank else None
                if own.moved_to is None:
                    yield said

    def _first(self, station: Station, endpoint: Endpoint, best: Endpoint | None) -> _Own | None:
        """It was not here until now."""
        known = self._before.pop(station, None)
        sequence = known or 0
        if best is not None and (known is None or best.rank < structs.replace(endpoint, sequence=known).rank):
            if best.sticky and not endpoint.sticky:
                self._refused[station] = f"VTEP {best.vtep} has it, and says that it does not move"
                return None
            if not self._may_move(station):
                self._refused[station] = f"VTEP {best.vtep} has it, too: it moves too often"
                return None
            sequence = min(best.sequence + 1, _MAX_SEQUENCE)
        self._own[station] = _Own(sequence)
        return self._own[station]

    def _may_move(self, station: Station) -> bool:
        now = self._clock()
        for each in [each for each, times in self._times.items() if times[-1] < now - self._window_s]:
            del self._times[each]
        times = self._times[station]
        while times and times[0] < now - self._window_s:
            times.popleft()
        if self._moves and len(times) >= self._moves:
            return False
        times.append(now)
        return True

    @property
    def troubles(self) -> list[Trouble]:
        """What is here and is not announced; from any thread."""
        moved = {
            station: f"VTEP {best.vtep} has it now, with sequence {best.sequence}"
            for station, best in [(station, own.moved_to) for station, own in self._own.copy().items()]
            if best is not None
        }
        return [
            Trouble(f"{mac} vni {vni}", why) for (vni, mac), why in (moved | self._refused.copy()).items()
        ]
