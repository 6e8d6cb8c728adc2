"""Remotes: the VTEPs that we send to and hear from, by address and by number.

Place in the house: above journal and the compiled tables, below segments and fdb, which hold the
remotes that they name. Addresses and numbers are in the tables alone; kept here is who holds a remote:
its user, segments and set FDB entries, or what was learned from it. One that nobody holds goes.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from enum import IntFlag
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import ArrayLike, NDArray

from vxcore.errors import ConfigError, TableFullError
from vxcore.journal import Journal

IPAddress = IPv4Address | IPv6Address
VniRange = tuple[int, int]
"""First and last VNI."""

ROW = np.dtype(
    [
        ("remote", "u4"),
        ("address", "u1", 16),
        ("uses", "i8"),
        ("named", "?"),
        ("learned", "?"),
        ("spoke", "?"),
    ]
)
_FEW = 64
_MAPPED = bytes(10) + b"\xff\xff"


class Held(IntFlag):
    """By whom a remote is held, beside segments and FDB entries."""

    NOBODY = 0
    USER = 1
    LEARNING = 2


def packed(address: IPAddress) -> bytes:
    """Sixteen bytes, IPv4 as ::ffff:a.b.c.d."""
    return address.packed if address.version == 6 else _MAPPED + address.packed


def unpacked(address: bytes) -> IPAddress:
    """The inverse of ``packed``."""
    return ip_address(address[12:] if address.startswith(_MAPPED) else address)


def sockaddr(address: IPAddress, port: int, scope: int = 0) -> bytes:
    """The kernel's sockaddr_in or sockaddr_in6 of a UDP port.

    `scope` is the device, for IPv6 addresses that mean something on one only: link-local ones and groups.
    """
    be_port = struct.pack("!H", port)
    if address.version == 4:
        return struct.pack("=H", socket.AF_INET) + be_port + address.packed + bytes(8)
    scope_id = struct.pack("=I", scope if address.is_link_local or address.is_multicast else 0)
    return struct.pack("=H", socket.AF_INET6) + be_port + bytes(4) + address.packed + scope_id


class Remotes:
    """The remotes of `journal`'s tables; at first there are none.

    `port` and `scope` are of the sockaddr that packets are sent to. `max_learned` is how many may be there
    only because frames came from them. `refuse` raises, saying why, for an
    address that cannot be a remote here. `on_change` is called with "added" or "removed", the number and
    the address, after each change, by the thread that made it. Usable from any thread.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        port: int = 4789,
        scope: int = 0,
        max_learned: int = 16_384,
        refuse: Callable[[IPAddress], None] | None = None,
        on_change: Callable[[str, int, IPAddress], None] | None = None,
    ) -> None:
        self._journal, self._tables = journal, journal.tables
        self._port, self._scope = port, scope
        self._refuse, self._on_change = refuse, on_change
        self._uses: NDArray[np.int64] = np.zeros(16, np.int64)
        self._held: dict[int, Held] = {}
        self._max_learned, self._n_learned = max_learned, 0
        self._lists: dict[int, tuple[VniRange, ...]] = {}
        self._spokes: set[int] = set()
        self._touched: set[int] = set()

    # Asking

    def number(self, address: IPAddress) -> int | None:
        """The number of a remote, as the FDB and flood sets have it; None when it is no remote."""
        number = self._tables.find_remote(packed(address))
        return None if number < 0 else number

    def address(self, number: int) -> IPAddress:
        """The address of a remote. Raises ValueError when there is no such remote."""
        return unpacked(self._tables.remote_address(number))

    def is_named(self, address: IPAddress) -> bool:
        """Whether ``add`` has added it, and it was not removed."""
        number = self.number(address)
        return number is not None and bool(self._held.get(number, Held.NOBODY) & Held.USER)

    def vnis(self, number: int) -> tuple[VniRange, ...] | None:
        """The VNIs that a remote may speak in; None: all."""
        return self._lists.get(number)

    def is_spoke(self, number: int) -> bool:
        """Whether what a remote sends to others that are spokes goes on to them."""
        return number in self._spokes

    def snapshot(self) -> NDArray[Any]:
        """The remotes as a structured array of `ROW`, in the order of their numbers.

        Number, address (16 bytes, IPv4 mapped), how many flood sets and set FDB entries name it, whether a
        user added it, whether it was learned, whether it is a spoke.
        """
        with self._journal.change():
            known = self._tables.remotes()
            rows = np.zeros(len(known), ROW)
            rows["remote"], rows["address"], rows["spoke"] = known["remote"], known["address"], known["spoke"]
            rows["uses"] = self._grown(int(known["remote"].max(initial=0)))[known["remote"]]
            for bit, name in ((Held.USER, "named"), (Held.LEARNING, "learned")):
                holders = [number for number, held in self._held.items() if held & bit]
                rows[name] = np.isin(known["remote"], holders)
        return rows

    # Changing

    def add(self, address: IPAddress, *, vnis: Sequence[VniRange] | None = None, spoke: bool = False) -> int:
        """Add a remote that stays until it is removed; return its number.

        `vnis` are ranges of the VNIs that it may speak in; None: all. What a `spoke` sends to other spokes
        goes on to them. Raises ConfigError when it is there already or cannot be a remote here, ValueError
        when there is no room.
        """
        with self._journal.change():
            number = self.require(address)
            if self._held.get(number, Held.NOBODY) & Held.USER:
                raise ConfigError(f"remote {address}: it is there already; change it")
            self._hold_as(number, Held.USER)
            self._list(number, vnis)
            self._mark(number, spoke)
            return number

    def change(
        self,
        address: IPAddress,
        *,
        vnis: Sequence[VniRange] | UnsetType | None = UNSET,
        spoke: bool | None = None,
    ) -> None:
        """Let a remote speak in other VNIs, be a spoke or none. Raises ConfigError when it is no remote."""
        with self._journal.change():
            number = self._known(address)
            if vnis is not UNSET:
                self._list(number, vnis)
            if spoke is not None:
                self._mark(number, spoke)

    def remove(self, addresses: Iterable[IPAddress]) -> None:
        """Remove remotes and what was learned from them: all or none.

        Raises ConfigError, naming the first, for one that is not there, or that a flood set or a set FDB
        entry names.
        """
        with self._journal.change():
            for address in addresses:
                number = self._known(address)
                if self.uses(number):
                    raise ConfigError(f"remote {address}: {self._user_of(number)}; remove that first")
                self._hold_as(number, Held.NOBODY)
                self._say_nothing_of(number)

    def release(self, addresses: Iterable[IPAddress]) -> None:
        """Take back ``add``: they go as soon as nobody else holds them, and nothing more is said of them."""
        with self._journal.change():
            for address in addresses:
                number = self._known(address)
                self._hold_as(number, self._held.get(number, Held.NOBODY) & ~Held.USER)
                self._say_nothing_of(number)

    def require(self, address: IPAddress) -> int:
        """The number of a remote, which is added if it is not there.

        It goes again at the end of the change if nobody holds it then.
        """
        with self._journal.change():
            number = self._tables.find_remote(packed(address))
            return self._add(address) if number < 0 else number

    def learn(self, address: IPAddress) -> int:
        """Add a remote because frames come from it; ``forget`` removes it.

        Raises as ``add``, and TableFullError when as many are there as may be.
        """
        with self._journal.change():
            number = self.require(address)
            held = self._held.get(number, Held.NOBODY)
            if not held & Held.LEARNING and self._n_learned >= self._max_learned:
                raise TableFullError(f"remote {address}: {self._n_learned} are learned; no more may be")
            self._hold_as(number, held | Held.LEARNING)
            return number

    def forget(self, heard: ArrayLike) -> None:
        """Let go of the learned remotes but those `heard` (their numbers): what the FDB still names."""
        with self._journal.change():
            kept = set(np.asarray(heard).tolist())
            for number, held in list(self._held.items()):
                if held & Held.LEARNING and number not in kept:
                    self._hold_as(number, held & ~Held.LEARNING)

    def listed(self) -> list[int]:
        """The numbers of the remotes that ``add`` has added, or of which there is something to say."""
        named = {number for number, held in self._held.items() if held & Held.USER}
        return sorted(named | self._lists.keys() | self._spokes)

    def has_learned(self) -> bool:
        """Whether ``learn`` has added any that are still there."""
        return self._n_learned > 0

    def uses(self, number: int) -> int:
        """How many flood sets and set FDB entries name a remote."""
        return int(self._grown(number)[number])

    def hold(self, numbers: ArrayLike, sign: int = 1) -> None:
        """Note that flood sets or FDB entries name these remotes, each as often as it is there."""
        given = np.asarray(numbers, np.int64)
        if len(given) < _FEW:
            self._hold(*np.unique(given, return_counts=True), sign)
        else:
            self.hold_counts(np.bincount(given), sign)

    def hold_counts(self, counts: NDArray[np.int64], sign: int = 1) -> None:
        """As ``hold``, with how often each remote, by its number, is named."""
        which = np.flatnonzero(counts)
        self._hold(which, counts[which], sign)

    def _hold(self, which: NDArray[np.int64], counts: NDArray[np.int64], sign: int) -> None:
        """Note that remotes, ascending, are named so often."""
        if not len(which):
            return
        with self._journal.change():
            self._grown(int(which[-1]))
            delta = sign * counts.astype(np.int64)
            self._uses[which] += delta
            self._journal.on_failure(lambda: self._take_back(which, delta))
            if sign < 0:
                self._touch(which[self._uses[which] == 0].tolist())

    def has_lists(self) -> bool:
        """Whether any remote may speak in some VNIs only."""
        return bool(self._lists)

    def segment_added(self, number: int, vni: int) -> None:
        """Let the remotes that have lists with a new segment's VNI speak in it."""
        for remote, ranges in self._lists.items():
            if _holds(ranges, vni):
                self._tables.let_speak(remote, number)

    # Inside a change

    def _add(self, address: IPAddress) -> int:
        if self._refuse is not None:
            self._refuse(address)
        number = self._tables.add_remote(packed(address), sockaddr(address, self._port, self._scope))
        self._touch([number])
        self._tell("added", number, address)
        return number

    def _known(self, address: IPAddress) -> int:
        number = self.number(address)
        if number is None:
            raise ConfigError(f"remote {address}: there is no such remote")
        return number

    def _user_of(self, number: int) -> str:
        for row in self._tables.segments():
            if number in self._tables.flood(int(row["segment"])):
                return f"it is in the flood set of VNI {row['vni']}"
        return f"{self.uses(number)} FDB entries name it"

    def _hold_as(self, number: int, held: Held) -> None:
        before = self._held.get(number, Held.NOBODY)
        self._set_held(number, held)
        self._journal.on_failure(lambda: self._set_held(number, before))
        self._touch([number])

    def _set_held(self, number: int, held: Held) -> None:
        before = self._held.get(number, Held.NOBODY)
        self._n_learned += bool(held & Held.LEARNING) - bool(before & Held.LEARNING)
        self._held[number] = held

    def _list(self, number: int, vnis: Sequence[VniRange] | None) -> None:
        before = self._lists.get(number)
        ranges = None if vnis is None else tuple(vnis)
        if ranges == before:
            return
        self._set_list(number, ranges)
        self._journal.on_failure(lambda: self._set_list(number, before))
        allowed = None
        if ranges is not None:
            rows = self._tables.segments()
            allowed = [int(r["segment"]) for r in rows if _holds(ranges, int(r["vni"]))]
        self._tables.list_remote(number, allowed)

    def _say_nothing_of(self, number: int) -> None:
        self._list(number, None)
        self._mark(number, False)

    def _mark(self, number: int, spoke: bool) -> None:
        if spoke == (number in self._spokes):
            return
        self._spokes ^= {number}
        self._journal.on_failure(lambda: self._spokes.symmetric_difference_update({number}))
        self._tables.mark_spoke(number, spoke)

    def _set_list(self, number: int, ranges: tuple[VniRange, ...] | None) -> None:
        if ranges is None:
            self._lists.pop(number, None)
        else:
            self._lists[number] = ranges

    def _touch(self, numbers: list[int]) -> None:
        """Look at the end of the change whether somebody still holds these."""
        self._touched.update(numbers)
        self._journal.at_the_end(self._drop_unheld)
        self._journal.on_failure(self._touched.clear)

    def _drop_unheld(self) -> None:
        gone = [n for n in sorted(self._touched) if not self._held.get(n) and not self.uses(n)]
        self._touched.clear()
        for number in gone:
            self._tell("removed", number, self.address(number))
            self._say_nothing_of(number)
            self._held.pop(number, None)
        if gone:
            self._tables.remove_remotes(gone)

    def _tell(self, what: str, number: int, address: IPAddress) -> None:
        if self._on_change is not None:
            notify = self._on_change
            self._journal.afterwards(lambda: notify(what, number, address))

    def _take_back(self, which: NDArray[Any], delta: NDArray[np.int64]) -> None:
        self._uses[which] -= delta

    def _grown(self, number: int) -> NDArray[np.int64]:
        if number >= len(self._uses):
            more = np.zeros(2 * (number + 1), np.int64)
            more[: len(self._uses)] = self._uses
            self._uses = more
        return self._uses


def _holds(ranges: Sequence[VniRange], vni: int) -> bool:
    return any(first <= vni <= last for first, last in ranges)
