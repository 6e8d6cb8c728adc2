"""What is known of the store's content: all keys as they were last seen, and what they mean.

Place in the house: in planes.etcd, above records. Of one thread at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple, TypeGuard

from vxcore.config import IPAddress
from vxcore.plane_status import Trouble
from vxcore.planes.etcd.records import Claim, Record, RecordError, claim_key, read
from vxcore.planes.etcd.store import Change, Entry
from vxcore.planes.plane import News
from vxcore.problem import plain, shown
from vxcore.told import Endpoint, Member, Route

log = logging.getLogger("vxcore")


class Ignored(NamedTuple):
    """A key that means nothing, as of a revision."""

    why: str
    revision: int


class Held(NamedTuple):
    """A key, and what it means."""

    entry: Entry
    record: Record


class Book:
    """The keys of the store. `ours` are the addresses of this VTEP: what is said of them is no news."""

    def __init__(self, ours: Collection[IPAddress]) -> None:
        self._ours = ours
        self._held: dict[str, Held] = {}
        self._ignored: dict[str, Ignored] = {}

    def replace(self, entries: Iterable[Entry]) -> list[Route]:
        """Know these and no others; what others say then."""
        self._held.clear()
        self._ignored.clear()
        for entry in entries:
            self._take(entry)
        return [held.record for held in self._held.values() if self._is_news(held.record)]

    def update(self, entries: Iterable[Entry]) -> News:
        """Know what has changed since; an older change than what is known is none."""
        before: dict[str, Record | None] = {}
        for entry in entries:
            if self._revision(entry.key) <= entry.revision:
                before.setdefault(entry.key, self._record(entry.key))
                self._take(entry)
        news = News([], [])
        for key, old in before.items():
            new = self._record(key)
            if new == old:
                continue
            if self._is_news(old) and (new is None or _vtep(new) != _vtep(old)):
                news.remove.append(old)
            if self._is_news(new):
                news.add.append(new)
        return news

    def _take(self, entry: Entry) -> None:
        self._held.pop(entry.key, None)
        before = self._ignored.pop(entry.key, None)
        if entry.value is None:
            return
        try:
            self._held[entry.key] = Held(entry, read(entry.key, entry.value))
        except RecordError as error:
            self._ignored[entry.key] = Ignored(str(error), entry.revision)
            if before is None or before.why != str(error):
                log.warning("etcd: the key %s is ignored: %s", shown(entry.key), error)

    def _record(self, key: str) -> Record | None:
        held = self._held.get(key)
        return None if held is None else held.record

    def _revision(self, key: str) -> int:
        """As of which it is known; 0: there is no such key."""
        if key in self._held:
            return self._held[key].entry.revision
        return self._ignored[key].revision if key in self._ignored else 0

    def _is_news(self, record: Record | None) -> TypeGuard[Route]:
        return isinstance(record, (Member, Endpoint)) and record.vtep not in self._ours

    # What is ours

    def claim(self, address: IPAddress) -> tuple[Entry, Claim] | None:
        """Who says that this VTEP address is his."""
        held = self._held.get(claim_key(address))
        return (held.entry, held.record) if held is not None and isinstance(held.record, Claim) else None

    def changes(self, wanted: Mapping[str, bytes], address: IPAddress, lease: int) -> list[Change]:
        """What makes the keys of this VTEP those that are wanted, under that lease.

        Its keys are those that name its address. A key that says the same of another VTEP is that one's:
        the first has it.
        """
        changes = []
        for key, value in wanted.items():
            held = self._held.get(key)
            if held is None:
                changes.append(Change(key, value, self._revision(key)))
            elif self._is_of(key, held, address) and (held.entry.value, held.entry.lease) != (value, lease):
                changes.append(Change(key, value, held.entry.revision))
        left = (
            Change(key, None, held.entry.revision)
            for key, held in self._held.items()
            if key not in wanted and self._is_of(key, held, address)
        )
        return [*changes, *left]

    def conflicts(self, wanted: Mapping[str, bytes], address: IPAddress) -> dict[str, str]:
        """The wanted keys that another VTEP has, and which."""
        found = {}
        for key in wanted:
            held = self._held.get(key)
            if held is not None and isinstance(held.record, Endpoint) and held.record.vtep != address:
                found[key] = str(held.record.vtep)
        return found

    def names(self, key: str, address: IPAddress) -> bool:
        """Whether a key is there and says something of that VTEP."""
        return _vtep(self._record(key)) == address

    def has(self, item: tuple[str, bytes]) -> bool:
        """Whether a key has that value."""
        held = self._held.get(item[0])
        return held is not None and held.entry.value == item[1]

    def _is_of(self, key: str, held: Held, address: IPAddress) -> bool:
        return key == claim_key(address) or _vtep(held.record) == address

    @property
    def ignored(self) -> list[Trouble]:
        """Keys that mean nothing."""
        return [Trouble(plain(key), each.why) for key, each in self._ignored.items()]


def _vtep(record: Record | None) -> IPAddress | None:
    return record.vtep if isinstance(record, (Member, Endpoint)) else None
