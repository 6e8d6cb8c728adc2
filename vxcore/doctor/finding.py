"""What a check has found, and what the checks are told.

Place in the house: the ground of doctor's files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from vxcore.config import Segment, Settings, Underlay
from vxcore.ports import IPAddress, route_to

OK, WARNING, WRONG = "ok", "warning", "wrong"


class Finding(NamedTuple):
    """One thing that was looked at: how it is, and what to do about it unless it is `OK`."""

    check: str
    state: str
    what: str
    todo: str = ""


@dataclass(frozen=True)
class Subject:
    """What is examined: this host, for `settings` or, if they are None, for any VTEP."""

    settings: Settings | None = None

    @property
    def underlay(self) -> Underlay:
        """The settings' or the default."""
        return self.settings.underlay if self.settings else Underlay()

    @property
    def segments(self) -> tuple[Segment, ...]:
        """None without settings."""
        return self.settings.segments if self.settings else ()

    @cached_property
    def remotes(self) -> list[IPAddress]:
        """All hosts that may be sent to, each once."""
        found: dict[IPAddress, None] = {}
        for segment in self.segments:
            found |= dict.fromkeys([*segment.remotes, *(entry.remote for entry in segment.fdb)])
        for remote in self.settings.remotes if self.settings else ():
            found[remote.address] = None
        return list(found)

    @cached_property
    def locals(self) -> list[IPAddress]:
        """Our addresses: those that are given, or those by which the first remotes would be reached."""
        if self.underlay.local:
            return list(self.underlay.local)
        first = {remote.version: remote for remote in reversed(self.remotes)}
        found = []
        for remote in first.values():
            try:
                found.append(route_to(remote, self.underlay.dev)[0])
            except OSError:
                continue  # the check of routes tells
        return found


Check = Callable[[Subject], Iterator[Finding]]
