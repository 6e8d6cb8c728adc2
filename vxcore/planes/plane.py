"""What all control planes have in common: how they are started and asked, connect, and say what they hear.

Place in the house: lowest of planes.
"""

from __future__ import annotations

import random
import time
from typing import Any, NamedTuple, Protocol

from vxcore.plane_status import State, Status
from vxcore.told import Route
from vxcore.vtep import Vtep

_SHORTEST_S, _LONGEST_S = 0.2, 5.0


class Plane(Protocol):
    """A control plane of a VTEP that runs; while inside ``with`` it announces and hears."""

    name: str

    def changed(self) -> None:
        """What this host has to tell is not what it was; from any thread, quick."""

    def status(self) -> Status:
        """How it is; from any thread."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *_: object) -> None: ...


class News(NamedTuple):
    """What others say now and did not, and what they do not say any more."""

    add: list[Route]
    remove: list[Route]


class Connection:
    """Whether what a plane knows is as others say; the VTEP's events tell when that changes."""

    def __init__(self, vtep: Vtep, name: str) -> None:
        self._vtep, self._name = vtep, name
        self.state: State = "connecting"
        self._since = time.monotonic()
        self._reason = "not tried yet"

    @property
    def since_s(self) -> float:
        """For how many seconds it has been so."""
        return time.monotonic() - self._since

    @property
    def reason(self) -> str:
        """Why it is not connected."""
        return "" if self.state == "connected" else self._reason

    def made(self) -> float:
        """It is as others say from now on; for how many seconds it was not."""
        lasted_s = self.since_s
        self._become("connected")
        return lasted_s

    def lost(self, reason: str) -> tuple[bool, bool]:
        """There is none, or none could be made: whether there was one; whether the reason is a new one."""
        was, is_new = self.state == "connected", self._reason != reason
        self._reason = reason
        if was:
            self._become("stale")
        return was, is_new

    def _become(self, state: State) -> None:
        if self.state != state:
            self.state, self._since = state, time.monotonic()
            self._vtep.events.plane_changed(self._name, state)


class Pauses:
    """From one try to connect to the next: each longer, and short again after a connection that lasted."""

    def __init__(self) -> None:
        self._next_s, self._began = _SHORTEST_S, time.monotonic()

    def begin(self) -> None:
        """A try."""
        self._began = time.monotonic()

    def end(self) -> float:
        """Of it: how many seconds to wait, by chance more or less, so that not all hosts try at once."""
        if time.monotonic() - self._began > _LONGEST_S:
            self._next_s = _SHORTEST_S
        pause_s = self._next_s * random.uniform(0.5, 1.0)
        self._next_s = min(2 * self._next_s, _LONGEST_S)
        return pause_s
