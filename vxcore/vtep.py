"""Vtep: a VTEP in this process, that is told what to do while it forwards.

Place in the house: above engine, below daemon; the class that programs use. Here arguments are read and
checked; what they mean is done by engine, remotes, segments and fdb.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import UNSET, UnsetType, structs
from numpy.typing import ArrayLike, NDArray

from vxcore import config
from vxcore.addresses import MacAddress, VniRange, parse_unicast
from vxcore.config import Remote, Segment, Settings
from vxcore.engine import Engine
from vxcore.errors import ConfigError
from vxcore.events import Event, Subscription
from vxcore.neighbours import Addresses
from vxcore.parts import Parts
from vxcore.remotes import IPAddress
from vxcore.running import listed, running
from vxcore.told import Route, Row
from vxcore.watches import PacketWatch, Sight

AnyAddress = IPAddress | str
_FIXED = ("underlay", "lanes", "offload", "tables", "state", "control")
_QUEUE_LEN = 4096


class Vtep(Engine):
    """A VTEP that runs inside ``with Vtep(settings) as vtep:`` and is changed while it forwards.

    `settings` are from ``config.load``, or a mapping as the TOML file would have it, with or without
    segments: ``Vtep({"underlay": {"local": "192.0.2.1"}})``. Entering opens what it needs and starts the
    lanes, or raises with nothing left behind; leaving puts the host back.

    A change applies whole or raises with nothing applied: ConfigError names the entry that is wrong and what
    would be right, TableFullError the one that found no room. Lanes see it at their next batch; packets of
    other segments do not notice. Methods may be called from any thread.
    """

    def __init__(self, settings: Settings | Mapping[str, Any], handed: Parts | None = None) -> None:
        made = settings if isinstance(settings, Settings) else config.from_mapping(settings)
        super().__init__(made, handed)
        self._segment_callbacks: list[Callable[[], object]] = []

    # Segments

    def add_segment(self, **options: Any) -> None:
        """Add a segment and open its port; `options` are the keys of ``[[segment]]``.

        Addresses may be text or what ``ipaddress`` makes of it:
        ``add_segment(vni=42, tap="vx42", remotes=["192.0.2.2"], source="any")``.
        """
        self.add_segments([options])

    def add_segments(self, segments: Iterable[Segment | Mapping[str, Any]]) -> None:
        """Add segments, all or none, each as for ``add_segment``."""
        added = [each if isinstance(each, Segment) else config.segment(each) for each in segments]
        with self._lock:
            self._replace(added=added)

    def change_segment(self, vni: int, **options: Any) -> None:
        """Change the keys of a segment that are given, and nothing else; its port must stay the same."""
        with self._lock:
            before = self._segment(vni)
            given = config.segment({"vni": vni, **options})
            after = structs.replace(before, **{name: getattr(given, name) for name in options})
            self._replace(changed=[after])

    def change_flood(
        self, vni: int, *, add: Iterable[AnyAddress] = (), remove: Iterable[AnyAddress] = ()
    ) -> None:
        """Add remotes to a segment's flood set, and take others out of it."""
        with self._lock:
            remotes = list(self._segment(vni).remotes)
            for address in map(_address, remove):
                if address not in remotes:
                    raise ConfigError(f"VNI {vni}: remote {address} is not in the flood set")
                remotes.remove(address)
            self.change_segment(vni, remotes=[*remotes, *map(_address, add)])

    def remove_segment(self, vni: int) -> None:
        """Remove a segment with its FDB entries, and close its port."""
        self.remove_segments([vni])

    def remove_segments(self, vnis: Iterable[int]) -> None:
        """Remove segments, all or none."""
        with self._lock:
            removed = list(dict.fromkeys(vnis))
            for vni in removed:
                self._segment(vni)
            self._replace(removed=removed)

    def _segment(self, vni: int) -> Segment:
        if vni not in self._segments:
            raise ConfigError(f"VNI {vni}: there is no such segment")
        return self._segments[vni]

    def _replace(
        self, removed: Iterable[int] = (), changed: Iterable[Segment] = (), added: Iterable[Segment] = ()
    ) -> None:
        """Check what the segments would be as a whole, and switch to it."""
        removed, changed, added = list(removed), list(changed), list(added)
        new = {segment.vni: segment for segment in changed}
        kept = [new.get(vni, segment) for vni, segment in self._segments.items() if vni not in removed]
        settings = structs.replace(self.settings, segments=(*kept, *added))
        config.check(settings)
        self.switch(removed, changed, added)
        self._now(settings)

    def _now(self, settings: Settings) -> None:
        """Note what it was made to be, and tell those who follow it."""
        self.settings = settings
        for callback in self._segment_callbacks:
            callback()

    def apply(self, settings: Settings) -> None:
        """Become what `settings` say, by the difference to what is now; other segments do not notice.

        Raises ConfigError, naming it, for a setting that cannot change while it runs: those of the tables
        ``[underlay]``, ``[lanes]``, ``[offload]``, ``[tables]``, ``[state]``, ``[control]``, ``[metrics]``,
        ``[process]``, ``[docker]``, ``[etcd]``, ``[evpn]``.
        """
        with self._lock:
            if settings.collects != self.settings.collects:
                raise ConfigError("collect: a collector cannot change while it runs; restart it")
            for name in ("metrics", "process", "docker", "etcd", "evpn"):
                if getattr(settings, name) != getattr(self.settings, name):
                    raise ConfigError(f"{name}: it cannot change while this runs; restart it")
            for table in _FIXED:
                _refuse_changes(
                    table, *(getattr(self._opened(each), table) for each in (self.settings, settings))
                )
            new = {segment.vni: segment for segment in settings.segments}
            old = self._segments
            removed = [
                vni for vni, each in old.items() if vni not in new or new[vni].overlays != each.overlays
            ]
            added = [each for vni, each in new.items() if vni not in old or vni in removed]
            changed = [
                each for vni, each in new.items() if vni in old and vni not in removed and each != old[vni]
            ]
            self.switch(removed, changed, added, settings.remotes)
            self._now(settings)

    def _opened(self, settings: Settings) -> Settings:
        """Settings with the local addresses that the route chose, where they name none."""
        local = settings.underlay.local or tuple(self.locals)
        return structs.replace(settings, underlay=structs.replace(settings.underlay, local=local))

    # Remotes

    def add_remote(
        self, address: AnyAddress, vnis: Iterable[int | str] | None = None, *, spoke: bool = False
    ) -> int:
        """Add a remote, and return its number, as the FDB has it.

        One that segments or FDB entries name is there without this; one that is added stays without them.

        `vnis`, numbers and ranges such as ``"100-199"``, are those that it may speak in; None: all. What a
        `spoke` sends to other spokes goes on to them from here.
        """
        return self.remotes.add(_address(address), vnis=_ranges(vnis), spoke=spoke)

    def change_remote(
        self,
        address: AnyAddress,
        vnis: Iterable[int | str] | UnsetType | None = UNSET,
        *,
        spoke: bool | None = None,
    ) -> None:
        """Let a remote speak in other VNIs, be a spoke or none; what is not given stays."""
        ranges = vnis if isinstance(vnis, UnsetType) else _ranges(vnis)
        self.remotes.change(_address(address), vnis=ranges, spoke=spoke)

    def remove_remotes(self, addresses: Iterable[AnyAddress]) -> None:
        """Remove remotes and what was learned from them; none may be in a flood set or a set FDB entry."""
        self.remotes.remove([_address(address) for address in addresses])

    def remote(self, address: AnyAddress) -> int:
        """The number of a remote. Raises ConfigError when it is none."""
        number = self.remotes.number(_address(address))
        if number is None:
            raise ConfigError(f"remote {address}: there is no such remote")
        return number

    def listed_remotes(self) -> tuple[Remote, ...]:
        """The remotes that were added by themselves, or that may speak in some VNIs only."""
        with self.journal.change():
            return listed(self.remotes)

    # The forwarding table

    def add_fdb(
        self,
        vni: ArrayLike,
        mac: ArrayLike | str,
        remote: ArrayLike | AnyAddress,
        *,
        kind: str = "static",
        sequence: ArrayLike = 0,
    ) -> int:
        """Set FDB entries that are not set yet; return how many were applied.

        `vni` is one or uint32 (n,); `mac` text, a number, uint64 (n,) or uint8 (n, 6); `remote` an address,
        which becomes a remote if it is none, or the numbers of remotes, one or uint32 (n,). `kind` is
        "static", or "control" or "sticky" of a control plane with sequence numbers (RFC 7432 section 15):
        what these find outranked stays, and is no error.
        """
        return self._set_fdb(self.fdb.add, vni, mac, remote, kind, sequence)

    def set_fdb(
        self,
        vni: ArrayLike,
        mac: ArrayLike | str,
        remote: ArrayLike | AnyAddress,
        *,
        kind: str = "static",
        sequence: ArrayLike = 0,
    ) -> int:
        """As ``add_fdb``, in the place of what is there."""
        return self._set_fdb(self.fdb.replace, vni, mac, remote, kind, sequence)

    def remove_fdb(self, vni: ArrayLike, mac: ArrayLike | str, *, missing_ok: bool = False) -> int:
        """Remove FDB entries of any kind; return how many there were."""
        return self.fdb.delete(vni, _mac(mac), missing_ok=missing_ok)

    # Neighbours

    def set_neighbour(
        self, vni: ArrayLike, address: Addresses, mac: ArrayLike | str, *, router: ArrayLike = False
    ) -> None:
        """Let requests for the link address of an IP address be answered here with `mac`.

        Arguments are as of ``neighbours.Neighbours.set``, and `mac` may be text; in the place of what is
        there.
        """
        self.neighbours.set(vni, address, _mac(mac), router)

    def remove_neighbour(self, vni: ArrayLike, address: Addresses, *, missing_ok: bool = False) -> None:
        """Let requests for these addresses go to all again."""
        self.neighbours.remove(vni, address, missing_ok=missing_ok)

    # What control planes say

    def tell(self, source: str, *, add: Iterable[Route] = (), remove: Iterable[Route] = ()) -> None:
        """What a control plane of that name says beside what is set: routes that are new or changed, or gone.

        They are not among the settings, and may be of segments that are not here yet. Of those that name one
        MAC address the FDB has the one with the highest rank (RFC 7432 section 15); what cannot be used is
        named in the log.
        """
        with self._lock:
            self.told.update(source, add, remove)

    def tell_all(self, source: str, routes: Iterable[Route]) -> None:
        """As ``tell``, of all that a control plane says: what is not among it is gone."""
        with self._lock:
            self.told.replace(source, routes)

    def told_by(self, source: str) -> list[Route]:
        """All that a control plane says."""
        with self._lock:
            return self.told.routes(source)

    def n_told_by(self, source: str) -> int:
        """How much that is."""
        with self._lock:
            return self.told.count(source)

    def told_rows(self) -> list[Row]:
        """All that control planes have told, and what is used of it."""
        with self._lock:
            return list(self.told.rows())

    def on_segments(self, callback: Callable[[], object]) -> None:
        """Call it, quick as it must be, when segments have been added, changed or removed."""
        with self._lock:
            self._segment_callbacks.append(callback)

    def flush(
        self,
        *,
        vnis: Iterable[int] = (),
        remotes: Iterable[AnyAddress] = (),
        devices: Iterable[str] = (),
    ) -> None:
        """Forget at once what was learned in these segments, from these remotes, and behind these devices."""
        with self._lock, self.journal.change():
            self.fdb.flush(
                vni=np.array([self._segment(vni).vni for vni in vnis], np.uint32),
                remote=np.array([self.remote(address) for address in remotes], np.uint32),
                port=np.array([place for device in devices for place in self._places(device)], np.uint32),
            )

    def _places(self, device: str) -> list[int]:
        """Of the device, and of its VLANs."""
        accesses = [access for ports in self._accesses.values() for access in ports]
        places = [access.place for access in accesses if access.device.key[1] == device]
        if not places:
            raise ConfigError(f"device {device}: no segment has it")
        return places

    def _set_fdb(
        self,
        change: Callable[..., int],
        vni: ArrayLike,
        mac: ArrayLike | str,
        remote: ArrayLike | AnyAddress,
        kind: str,
        sequence: ArrayLike,
    ) -> int:
        with self.journal.change():
            if isinstance(remote, (str, *_ADDRESSES)):
                remote = self.remotes.require(_address(remote))
            return change(vni, _mac(mac), remote, kind=kind, sequence=sequence)

    # Observing

    def snapshot(self, table: str) -> NDArray[Any]:
        """A table as it is now, as a structured array: "segments", "remotes", "fdb", "neighbours".

        segments: segment, vni, port, n_flood, ageing_s, max_learned, n_learned, learning, any_source,
        dstport. remotes: remote, address (uint8 (16,), IPv4 mapped), uses, named, learned, spoke. fdb: vni,
        kind (numbers as in ``vxcore._fast.table.KINDS``), mac, remote (-1: none), port, sequence, seen_s.
        neighbours: vni, address (uint8 (16,)), mac, router.
        """
        tables = {
            "segments": self.segments.snapshot,
            "remotes": self.remotes.snapshot,
            "fdb": self.fdb.snapshot,
            "neighbours": self.neighbours.snapshot,
        }
        if table not in tables:
            raise ConfigError(f"snapshot of {table!r}: known are {', '.join(tables)}")
        return tables[table]()

    def watch(
        self,
        *,
        vni: int | None = None,
        mac: int | str | None = None,
        ways: Sequence[str] = ("out", "in"),
        snap_len: int = 65_535,
        dropped_only: bool = False,
    ) -> PacketWatch:
        """Packets from now on, each with its verdict: ``with vtep.watch(vni=42) as seen: seen.take()``.

        None is any `vni`, and any `mac`, which is source or destination of the inner frame. `ways` are "out",
        from overlay to underlay, and "in". Up to `snap_len` bytes of each are kept. Up to four watches may be
        there at a time. ``vxcore.trace`` says in words what happened to each.
        """
        number = MacAddress(mac).number if isinstance(mac, str) else mac
        return self._watch_packets(
            vni=vni, mac=number, ways=ways, snap_len=snap_len, dropped_only=dropped_only
        )

    def foretell_out(self, vni: int, frame: bytes) -> Sight:
        """What would become of a frame from the overlay port of a segment; nothing is sent or learned.

        Not known are what devices would say of it, and whether a rate still lets it through. Raises
        ConfigError for an unknown VNI, OSError when there is no route.
        """
        with self._lock:
            self._segment(vni)
            return self._fits(self._rehearsal().out(self.segments.number(vni), frame))

    def foretell_in(
        self,
        packet: bytes,
        source: AnyAddress,
        *,
        source_port: int = 0,
        tos: int = 0,
        dstport: int | None = None,
    ) -> Sight:
        """The same of a packet from the underlay, given from its VXLAN header on.

        `dstport` is the UDP port of ours that it comes to; None: its segment's.
        """
        with self._lock:
            segment = self._segments.get(int.from_bytes(packet[4:7], "big"))
            own = self.settings.underlay.dstport if segment is None else self.settings.dstport_of(segment)
            return self._rehearsal().arrive(packet, _address(source), source_port, tos, dstport or own)

    def running(self) -> Settings:
        """Settings that say what is now: a VTEP started with them is as this one, but for what it learned.

        They have the segments as they were changed, the remotes, the neighbours, the FDB entries that were
        set, and the local addresses that were chosen by the route.
        """
        with self._lock, self.journal.change():
            return running(self)

    def subscribe(self, kinds: Iterable[str] | None = None, size: int = _QUEUE_LEN) -> Subscription:
        """Events of these kinds (None: all; see ``vxcore.events.Event``) from now on.

        ``with vtep.subscribe() as events: async for event in events: ...``. Up to `size` wait to be taken.
        """
        return self.events.subscribe(kinds, size)

    def on_event(self, callback: Callable[[Event], object], kinds: Iterable[str] | None = None) -> None:
        """Call `callback` for each event, in one thread that all callbacks share.

        While it takes its time events wait in a ring of 1024 for each lane; what finds that full is counted
        as dropped.
        """
        self.events.call(callback, kinds)


_ADDRESSES = config.ADDRESS_TYPES


def _address(address: AnyAddress) -> IPAddress:
    return parse_unicast(str(address))


def _mac(mac: ArrayLike | str) -> ArrayLike:
    return MacAddress(mac).number if isinstance(mac, str) else mac


def _ranges(vnis: Iterable[int | str] | None) -> list[tuple[int, int]] | None:
    return None if vnis is None else [VniRange(str(each)).ends for each in vnis]


def _refuse_changes(table: str, before: Any, after: Any) -> None:
    for name in before.__struct_fields__:
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            raise ConfigError(f"{table}.{name}: {old} cannot become {new} while it runs; restart it")
