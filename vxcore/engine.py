"""Engine: settings become open ports, filled tables and running lanes, and change while these run.

Place in the house: above ports, the tables' modules and the compiled ones, below vtep. Python sets up,
changes, observes and shuts down; packets are the lanes'.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from vxcore import config
from vxcore._fast.codec import Rules
from vxcore._fast.gsotap import GsoTapPort
from vxcore._fast.lane import Lane
from vxcore._fast.packet import PacketPort
from vxcore._fast.table import ANY_VNI, Tables
from vxcore._fast.udp import UdpPort
from vxcore._fast.xdp_underlay import XdpUnderlayPort
from vxcore.config import Collect, FdbEntry, Port, Remote, Segment, Settings
from vxcore.endpoints import Endpoint, Endpoints
from vxcore.errors import ConfigError, UnsupportedError
from vxcore.events import Events
from vxcore.fdb import Fdb
from vxcore.gsotap import UnderlayTap, narrowest_mtu
from vxcore.journal import Journal
from vxcore.loops import Routes, refuse_loops
from vxcore.mender import Mender
from vxcore.neighbours import Neighbours
from vxcore.nexthops import NextHops
from vxcore.overlays import Access, Overlays, title
from vxcore.packet import PacketUnderlay
from vxcore.packet_overlay import PacketOverlay
from vxcore.parts import NOTHING, Part, Parts
from vxcore.pcapng_overlay import PcapngOverlay
from vxcore.ports import (
    OVERHEAD,
    IPAddress,
    OpenOverlay,
    OverlayDevice,
    Tap,
    UdpUnderlay,
    device_of,
    offload_state,
    route_to,
    scope_of,
    tap_overruns,
)
from vxcore.rehearsal import Rehearsal
from vxcore.remotes import Remotes
from vxcore.segments import Ask, Policy, Rate, Segments
from vxcore.state import Keeper, Memory
from vxcore.told import Told
from vxcore.verdict import Verdict
from vxcore.watches import PacketWatch, Sight
from vxcore.wire import ETH_LEN
from vxcore.xdp_ports import XdpOverlay, XdpUnderlay

_NOT_RUNNING = "this VTEP does not run; use it inside `with Vtep(settings) as vtep:`"
GsoPort = UdpPort | PacketPort | GsoTapPort
AnyPort = GsoPort | XdpUnderlayPort

# The kinds of overlay ports.
_OVERLAYS: dict[str, OpenOverlay] = {"tap": Tap, "packet": PacketOverlay, "xdp": XdpOverlay}

_ETHERNET_MTU = 1500
_OF_UDP = ("udp_gso", "udp_gro")
_BY_NEXT_HOP = ("packet", "xdp")
_PORTS_FIXED = ("xdp", "tap")  # underlays that say once which UDP ports they take
_ALL_PORTS = tuple(range(1, 65536))
_SEGMENTS = 4096  # unless the settings say otherwise
_ENTRIES = 65536
_PLACES = 4  # of overlay ports for each segment there may be: a device and a VLAN of it, and another one
_MAX_FLOOD = 1 << 24  # members of all flood sets: no memory is kept for them
_USO_LINUX = (6, 2)
_LOOK_S = 0.005
_MIN_MTU = 68  # RFC 791: what every IPv4 link must carry


COUNTED = ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes")  # as a lane has them


class Traffic(NamedTuple):
    """What was carried: a row for each segment, and all since the start, segments that went among it.

    `vni` and `n_learned`, entries of the FDB, are uint32 (n,); `counts` is uint64 (n, 4) and `total` uint64
    (4,), in the order of `COUNTED`. `titles` has the VNIs of collectors as text, by what `vni` has for them.
    """

    vni: NDArray[np.uint32]
    n_learned: NDArray[np.uint32]
    counts: NDArray[np.uint64]
    total: NDArray[np.uint64]
    titles: dict[int, str]


class RemoteTraffic(NamedTuple):
    """What came from each remote and was sent to it, since it is one: a row for each.

    `remote` are numbers, as ``snapshot("remotes")`` has them, uint32 (n,), and `address` is uint8 (n, 16),
    IPv4 mapped; `counts` is uint64 (n, 4), in the order of `COUNTED`. What a collector takes is no remote's.
    """

    remote: NDArray[np.uint32]
    address: NDArray[np.uint8]
    counts: NDArray[np.uint64]


class Engine:
    """A VTEP that runs inside ``with Engine(settings) as engine:``.

    Entering opens TAP devices and sockets and starts the lanes, or raises with nothing left behind;
    leaving stops them and puts the host back. ``failure`` is what ended a lane by itself, or None.
    All methods may be called from any thread. With what another process has `handed` over, entering
    opens only what is not in it, and lanes start with ``go``.
    """

    def __init__(self, settings: Settings, handed: Parts | None = None) -> None:
        self.settings = settings
        self._waits = handed is not None
        self._handed = handed or NOTHING
        self.failure: BaseException | None = None
        self._undo = ExitStack()
        self._lock = threading.RLock()
        self._started = False
        self._segments: dict[int, Segment] = {}
        self._collects: dict[int, Collect] = {}  # by one of its VNIs
        self._accesses: dict[int, tuple[Access, ...]] = {}  # the overlay ports of each VNI
        self._before: dict[int, Counter[str]] = {}  # what its number had counted before it was the VNI's
        self._coming: Sequence[Segment] = ()  # of those, what is about to be added
        self._lanes: list[Lane] = []
        self._threads: list[threading.Thread] = []
        self._go = threading.Event()
        self.stands = False

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self._open(undo)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._started = False
        self._undo.close()

    # Opening

    def _open(self, undo: ExitStack) -> None:
        underlay = self.settings.underlay
        self._lanes, self._started = [], False
        for vni in [*self._segments, *self._collects]:
            self._forget(vni)
        self.locals = underlay.local or self._locals_by_route()
        self._routes = undo.enter_context(Routes())
        n_lanes = self.settings.lanes.count
        self._open_underlay(undo, n_lanes)
        self._endpoints = Endpoints(underlay, self._udps, n_lanes, self._handed)
        undo.callback(self._endpoints.close)
        self._endpoints.open(self._endpoints_of(self.settings.segments))
        self._make_tables(n_lanes, undo)
        self._mender = Mender(self._mend)
        undo.callback(self._mender.close)
        self._overlays = Overlays(n_lanes, _PLACES * self._max_segments, self.tables.wait_for_lanes)
        undo.callback(self._overlays.close)
        self._fill_tables()
        known = self._known_remotes()
        self._next_hops = self._start_next_hops(known, undo) if underlay.kind in _BY_NEXT_HOP else None
        self._lanes = [self._make_lane(n, known) for n in range(n_lanes)]
        self._endpoints.serve(self._lanes, self.tables.wait_for_lanes)
        self._tell_lanes_what_is_ours()
        self._begin_overlays()
        self._started = True
        self._start_threads(undo)

    def _start_threads(self, undo: ExitStack) -> None:
        """What was learned before is there before lanes run, and is written when none does any more."""
        self.memory = Memory(self.journal, self.remotes, self.fdb)
        kept = self.settings.state
        self._keeper = None if kept.file is None else Keeper(self.memory, kept.file, kept.interval)
        if self._keeper is not None:
            self._keeper.writes = not self._waits
            if not self._waits:
                self._keeper.restore()
            self._keeper.start(undo)
        undo.callback(self.stand)
        self._go.clear()
        self._start_lanes()
        self.events.start(undo)
        self._mender.start(undo)
        if not self._waits:
            self._go.set()

    # Handing over

    def parts(self) -> dict[str, Part]:
        """The descriptors of all ports, with what another process has to know of them to go on."""
        parts = {_underlay_title(udp.local): udp.part() for udp in self._udps}
        parts |= {_underlay_title("xdp"): xdp.part() for xdp in self._xdps}
        if self._tap is not None:
            parts[_underlay_title("tap")] = self._tap.part()
        return {**parts, **self._endpoints.parts(), **self._overlays.parts()}

    def places(self) -> dict[str, int]:
        """The numbers that rows of the FDB have for the segments' ports, by names that others know, too."""
        return self._overlays.accesses()

    def stand(self) -> None:
        """Let the lanes stop at the end of a burst; what comes waits in the kernel until ``go_on``."""
        for lane in self._lanes:
            lane.stop()
        self.stands = True
        self._go.set()
        for thread in self._threads:
            thread.join()

    def rest(self) -> dict[str, list[bytes]]:
        """Of lanes that stand: where their ports are to go on, here or in another process."""
        lanes = {f"lane {n}": lane.rest() for n, lane in enumerate(self._lanes)}
        return {**lanes, **self._overlays.rest()}

    def wait_for_next_hops(self, seconds: float) -> None:
        """Until it is known how to reach all remotes; those that cannot be are waited for so long."""
        deadline = time.monotonic() + seconds
        while self._next_hops is not None and not self._next_hops.are_known() and time.monotonic() < deadline:
            time.sleep(_LOOK_S)

    def resume(self, rest: dict[str, list[bytes]]) -> None:
        """Begin where the lanes of another process have stopped."""
        for n, lane in enumerate(self._lanes):
            lane.resume(rest[f"lane {n}"])
        self._overlays.resume(rest)

    def go(self) -> None:
        """Let lanes begin with what was handed over, which is ours from now on."""
        self._go.set()
        self._overlays.inherit()
        if self._keeper is not None:
            self._keeper.writes = True

    def go_on(self) -> None:
        """Let lanes that stand run again."""
        for lane in self._lanes:
            lane.again()
        self._start_lanes()

    def leave(self) -> None:
        """End without putting anything back, for another process has it; the lanes stand."""
        if self._keeper is not None:
            self._keeper.leave()
        for device in self._overlays.devices:
            if device.part() is None:
                device.close()

    def _fill_tables(self) -> None:
        """The ports of segments and collectors, and then all of it in the tables."""
        segments, collects = self.settings.segments, self.settings.collects
        accesses = self._reserve(segments, segments)
        collectors = [self._reserve_collector(collect) for collect in collects]
        with self.journal.change(), self._expecting(segments):
            self._set_remotes((), self.settings.remotes)
            for segment, ports in zip(segments, accesses, strict=True):
                self._fill(segment, ports)
            for collect, port in zip(collects, collectors, strict=True):
                self._fill_collector(collect, port)

    def _begin_overlays(self) -> None:
        self._overlays.serve(self._lanes)
        with self.journal.change():
            for vni in self._accesses:
                self._attach(vni)
        self._overlays.begin(access for ports in self._accesses.values() for access in ports)

    def _make_tables(self, n_lanes: int, undo: ExitStack) -> None:
        limits, underlay = self.settings.tables, self.settings.underlay
        segments = self.settings.segments
        n_here = sum(len(segment.fdb) + segment.maxaddress for segment in segments)
        n_segments = len(segments) + len(self.settings.collects)
        self._max_segments = limits.segments or max(_SEGMENTS, n_segments)
        self.tables = Tables(
            self._max_segments,
            limits.remotes,
            _MAX_FLOOD,
            limits.entries or _ENTRIES + n_here,
            max_moves=limits.moves,
            moves_window_s=limits.moves_window,
        )
        self.journal = Journal(self.tables)
        self._remotes_before = np.zeros((limits.remotes, len(COUNTED)), np.uint64)
        scope = scope_of(underlay.dev) if underlay.dev else 0
        self.remotes = Remotes(
            self.journal,
            port=underlay.dstport,
            scope=scope,
            max_learned=limits.learned_remotes,
            refuse=self._refuse_remote,
            on_change=self._remote_changed,
        )
        self.segments = Segments(self.journal, self.remotes)
        self.fdb = Fdb(self.journal, self.remotes, self.segments)
        self.neighbours = Neighbours(self.journal)
        tables = self.remotes, self.segments, self.fdb, self.neighbours
        self.told = Told(self.journal, tables, lambda vni: self._segments[vni].flood, self._refuse_remote)
        known = self.journal, self.remotes, self.segments
        self.events = Events(n_lanes, *known, self._device, self._reaches)
        undo.callback(self.events.close)

    def _refuse_remote(self, address: IPAddress) -> None:
        """Raise, saying why, for what cannot be a remote here."""
        if address in self.locals:
            raise ConfigError(f"remote {address}: a local address; a VTEP cannot be its own remote")
        if address.version not in {local.version for local in self.locals}:
            raise ConfigError(f"remote {address}: no local address is IPv{address.version}; add one")
        if address.version == 6 and address.is_link_local and self.settings.underlay.dev is None:
            raise ConfigError(f"remote {address}: link-local and no device is named; set dev")
        self._refuse_loops([address], [*self._segments.values(), *self._coming])
        if self._started and self._tap is not None:
            raise UnsupportedError(f'remote {address}: an underlay of kind "tap" takes no new remotes')

    def _refuse_loops(self, remotes: Iterable[IPAddress], segments: Iterable[Segment]) -> None:
        """Raise for a remote that is reached through the port of one of these segments."""
        if self.settings.underlay.dev is not None:  # which all packets leave by
            return
        devices = {port.dev: segment.vni for segment in segments for port in segment.overlays}
        sources: dict[int, IPAddress] = {}
        if self._tap is None:  # behind the TAP is another host, whose packets are forwarded
            sources = {local.version: local for local in self.locals}
        refuse_loops(self._routes, remotes, sources, devices)

    def _reaches(self, number: int) -> bool:
        """Whether what is sent to a remote now is not lost for want of a next hop."""
        return self._next_hops is None or self._next_hops.table.knows(number)

    def _remote_changed(self, what: str, number: int, address: IPAddress) -> None:
        if what == "added":  # another may have had its number
            self._remotes_before[number] = self._remote_counts(number, 1)
        if self._started and self._next_hops is not None:
            self._next_hops.put(number, address if what == "added" else None)
        self.events.remote_changed(what, address)

    def _open_underlay(self, undo: ExitStack, n_lanes: int) -> None:
        underlay, dstports = self.settings.underlay, self.settings.dstports
        self._udps: list[UdpUnderlay | PacketUnderlay] = []
        self._underlay_ports: list[GsoPort] = []
        self._xdps: list[XdpUnderlay] = []
        self._tap: UnderlayTap | None = None
        # Those for which nothing is to be opened.
        self._own_ports = set(dstports) if underlay.kind in _PORTS_FIXED else {underlay.dstport}
        if underlay.kind == "tap":
            peers = [remote for segment in self.settings.segments for remote in _peers(segment)]
            mtu = narrowest_mtu(peers, underlay.dev)
            handed = self._handed.take(_underlay_title("tap"))
            self._tap = UnderlayTap(underlay, self.locals, dstports, n_lanes, mtu, handed)
            undo.callback(self._tap.close)
            return
        if underlay.kind == "xdp":
            xdp = XdpUnderlay(
                *(underlay, self.locals, dstports, n_lanes, self.settings.offload, self._fail),
                self._handed.take(_underlay_title("xdp")),
            )
            undo.callback(xdp.close)
            self._xdps.append(xdp)
            return
        kind = PacketUnderlay if underlay.kind == "packet" else UdpUnderlay
        for local in self.locals:
            handed = self._handed.take(_underlay_title(local))
            udp = kind(underlay, local, n_lanes, self.settings.offload, handed)
            undo.callback(udp.close)
            self._udps.append(udp)

    def _endpoints_of(self, segments: Iterable[Segment]) -> set[Endpoint]:
        """What is to be listened to for segments, and for the collectors, beside the underlay's own ports."""
        segments = list(segments)
        ports = {self.settings.dstport_of(segment) for segment in segments}
        ports.update(*(self.settings.dstports_of(each) for each in self.settings.collects))
        groups = {Endpoint(self.settings.dstport_of(s), s.group) for s in segments if s.group is not None}
        return {Endpoint(port) for port in ports - self._own_ports} | groups

    def _tell_lanes_what_is_ours(self) -> None:
        for lane in self._lanes:
            lane.know(*self._ours())

    def _ours(self) -> tuple[list[bytes], set[int]]:
        """Our addresses and UDP ports, as a lane wants to know them."""
        endpoints = self._endpoints_of(self._segments.values())
        return [local.packed for local in self.locals], self._own_ports | {each.port for each in endpoints}

    def _locals_by_route(self) -> tuple[IPAddress, ...]:
        """For each family among the peers, the source address that the first of it would see."""
        first: dict[int, IPAddress] = {}
        for segment in self.settings.segments:
            for remote in _peers(segment):
                first.setdefault(remote.version, remote)
        return tuple(route_to(remote, self.settings.underlay.dev)[0] for remote in first.values())

    def _mtu(self, segment: Segment) -> int:
        """What fits the narrowest route of the segment (RFC 7348 section 4.3: never fragment)."""
        dev = self.settings.underlay.dev
        rooms = {remote: route_to(remote, dev)[1] - OVERHEAD[remote.version] for remote in _peers(segment)}
        if not rooms:
            return _ETHERNET_MTU - max(OVERHEAD[local.version] for local in self.locals)
        narrowest = min(rooms, key=lambda remote: rooms[remote])
        if rooms[narrowest] < _MIN_MTU:
            raise ConfigError(
                f"VNI {segment.vni}: the route to {narrowest} leaves an MTU of {rooms[narrowest]}"
            )
        # What fits one IPv4 packet bounds loopback's 65,536, as it bounds the setting.
        return min(rooms[narrowest], 65535 - OVERHEAD[4])

    def _device_mtu(self, sharing: Iterable[Segment]) -> int:
        """Of a device, by the segments that have it: what fits all of them."""
        return min(segment.mtu or self._mtu(segment) for segment in sharing)

    def _reserve(
        self, added: Iterable[Segment], all_of: Iterable[Segment], undo: ExitStack | None = None
    ) -> list[tuple[Access, ...]]:
        """The overlay ports of segments to be, whose devices are opened; `all_of` are those there will be."""
        sharing = _by_device(all_of)
        with ExitStack() as steps:
            reserved = [
                tuple(
                    self._overlays.reserve(port, partial(self._open_for, port, sharing), steps)
                    for port in segment.overlays
                )
                for segment in added
            ]
            kept = steps.pop_all()
        if undo is not None:
            undo.push(kept)
        return reserved

    def _open_for(self, port: Port, sharing: dict[str, list[Segment]]) -> OverlayDevice:
        return self._open_overlay(port, self._device_mtu(sharing[port.dev]))

    def _open_overlay(self, port: Port, mtu: int) -> OverlayDevice:
        self._refuse_circle(port)
        handed = self._handed.take(title((port.kind, port.dev)))
        return _OVERLAYS[port.kind](port.dev, mtu, self.settings.lanes.count, self.settings.offload, handed)

    def _open_collector(self, collect: Collect) -> OverlayDevice:
        if collect.overlay is None:
            return PcapngOverlay(collect, self.settings.lanes.count)
        return self._open_overlay(collect.overlay, _ETHERNET_MTU)

    def _reserve_collector(self, collect: Collect) -> Access:
        port = collect.overlay
        key = (port.kind, port.dev) if port else ("files", collect.write or "")
        with ExitStack() as undo:
            access = self._overlays.add(key, self._open_collector(collect), undo)
            undo.pop_all()
        return access

    def _fill_collector(self, collect: Collect, access: Access) -> None:
        vni = collect.ranges[0][0] if collect.ranges else ANY_VNI
        dstports = self.settings.dstports_of(collect)
        self.segments.add_collector(vni, access.place, collect.ranges, collect.source, dstports)
        self._before[vni] = Counter()
        self._collects[vni], self._accesses[vni] = collect, (access,)

    def _refuse_circle(self, port: Port) -> None:
        """What the underlay receives must not go into a segment: each packet would go round for ever."""
        for local in self.locals if port.kind != "tap" else ():
            if device_of(local) == port.dev:
                text = f"{port.dev} has the local address {local}: it leads to the underlay"
                raise ConfigError(f"{text}; give the device that leads to the segment's hosts")

    def _fill(self, segment: Segment, accesses: tuple[Access, ...]) -> None:
        """Put a segment into the tables, with its overlay ports' places."""
        places, dstport = [access.place for access in accesses], self.settings.dstport_of(segment)
        number = self.segments.add(segment.vni, places, segment.flood, _policy(segment), dstport)
        self._set_entries(segment, (), segment.fdb)
        self._set_neighbours(segment, (), segment.neighbours)
        self._before[segment.vni] = _sum(lane.segment_counters(number) for lane in self._lanes)
        self._segments[segment.vni], self._accesses[segment.vni] = segment, accesses
        self.journal.on_failure(lambda: self._forget(segment.vni))

    def _forget(self, vni: int) -> None:
        for known in (self._segments, self._collects, self._accesses, self._before):
            known.pop(vni, None)

    def _set_entries(self, segment: Segment, before: Sequence[FdbEntry], entries: Sequence[FdbEntry]) -> None:
        """The entries that a segment's settings name, in the place of those before."""
        static = {entry.mac for entry in entries if entry.kind == "static"}  # which replace any other
        known = set(entries)
        for entry in before:
            if entry not in known and entry.mac not in static:
                self.fdb.delete(segment.vni, entry.mac.number, missing_ok=True)
        known = set(before)
        by_kind: dict[str, list[FdbEntry]] = {}
        for entry in entries:
            if entry not in known:
                by_kind.setdefault(entry.kind, []).append(entry)
        for kind, fresh in by_kind.items():
            macs = [entry.mac.number for entry in fresh]
            remotes = [self.remotes.require(entry.remote) for entry in fresh]
            sequences = [entry.sequence for entry in fresh]
            self.fdb.replace(segment.vni, macs, remotes, kind=kind, sequence=sequences)

    def _set_neighbours(self, segment: Segment, before: Sequence[Any], after: Sequence[Any]) -> None:
        """The neighbours that a segment's settings name, in the place of those before."""
        gone = {entry.address for entry in before} - {entry.address for entry in after}
        if gone:
            self.neighbours.remove(segment.vni, sorted(gone, key=str), missing_ok=True)
        fresh = [entry for entry in after if entry not in before]
        if fresh:
            macs = [entry.mac.number for entry in fresh]
            addresses = [entry.address for entry in fresh]
            self.neighbours.set(segment.vni, addresses, macs, [entry.router for entry in fresh])

    def _set_remotes(self, before: Sequence[Remote], after: Sequence[Remote]) -> None:
        """What is said of remotes, in the place of what was said before."""
        for remote in after:
            ranges = None if remote.vnis is None else [each.ends for each in remote.vnis]
            if self.remotes.is_named(remote.address):
                self.remotes.change(remote.address, vnis=ranges, spoke=remote.spoke)
            else:
                self.remotes.add(remote.address, vnis=ranges, spoke=remote.spoke)
        gone = {remote.address for remote in before} - {remote.address for remote in after}
        self.remotes.release(address for address in gone if self.remotes.is_named(address))

    def _make_lane(self, number: int, remotes: list[IPAddress]) -> Lane:
        underlay, offload = self.settings.underlay, self.settings.offload
        ports = self._open_ports(number, remotes)
        self._underlay_ports += [port for port, _ in ports if not isinstance(port, XdpUnderlayPort)]
        return Lane(
            self.tables,
            ports,
            (),
            tos=-1 if underlay.tos == "inherit" else underlay.tos,
            ttl=-1 if underlay.ttl == "inherit" else 0,
            strict=underlay.reserved == "strict",
            ecn_linux=underlay.ecn == "linux",
            join_tcp=offload.join,
            join_udp=offload.join and self._takes_udp(),
            busy_poll_us=self.settings.lanes.busy_poll,
            max_overlays=_PLACES * self._max_segments,
            n_lanes=self.settings.lanes.count,
            ring=self.events.rings[number],
            lost_fd=self._mender.fd,
        )

    def _takes_udp(self) -> bool:
        """Whether overlay ports take UDP super-frames; without any, as the kernel's version says."""
        if not self._overlays.devices:
            release = tuple(int(word) for word in os.uname().release.split(".")[:2] if word.isdecimal())
            return self.settings.offload.tap_uso and release >= _USO_LINUX
        return all(overlay.uso for overlay in self._overlays.devices)

    def _open_ports(self, number: int, remotes: list[IPAddress]) -> list[tuple[AnyPort, tuple[int, ...]]]:
        """The underlay ports of a lane, each with the IP families that it sends."""
        if self._tap is not None:
            families = tuple(local.version for local in self.locals)
            return [(self._tap.port(number, self._tap.tunnels(remotes)), families)]
        if self._xdps:
            assert self._next_hops is not None
            table, rules = self._next_hops.table, self._rules(tuple(self._own_ports))
            return [port for xdp in self._xdps for port in xdp.ports(number, table, rules)]
        return [(self._underlay_port(udp, number), (udp.local.version,)) for udp in self._udps]

    def _start_next_hops(self, remotes: list[IPAddress], undo: ExitStack) -> NextHops:
        underlay = self.settings.underlay
        for xdp in self._xdps:
            underlay = structs.replace(underlay, dev=xdp.dev)
        capacity = self.settings.tables.remotes
        hops = NextHops(underlay, self.locals, remotes, capacity, self.events.reached)
        undo.callback(hops.close)
        hops.start()
        return hops

    def _underlay_port(self, udp: UdpUnderlay | PacketUnderlay, number: int) -> UdpPort | PacketPort:
        if isinstance(udp, PacketUnderlay):
            return self._packet_port(udp, number)
        pool = [(single.fileno(), run.fileno() if run else -1) for single, run in udp.pool]
        name = f"udp {udp.local} port {self.settings.underlay.dstport}"
        return UdpPort(
            name,
            udp.receivers[number].fileno(),
            udp.routes[number].fileno(),
            pool,
            udp.local.version,
            self.settings.underlay.dstport,
        )

    def _packet_port(self, packet: PacketUnderlay, number: int) -> PacketPort:
        underlay = self.settings.underlay
        assert self._next_hops is not None
        return PacketPort(
            f"packet {packet.local} port {underlay.dstport}",
            packet.receivers[number].fileno(),
            packet.senders[number].fileno(),
            packet.local.version,
            packet.ring.blocks,
            packet.ring.slot_len,
            self._next_hops.table,
            self._rules(_ALL_PORTS),  # which of them are ours its sockets' filter knows, which may change
            gso=packet.gso,
        )

    def _rules(self, ports: tuple[int, ...]) -> Rules:
        zero_checksum6 = "accept" if self.settings.underlay.udp6zerocsumrx else "drop"
        return Rules(ports=ports, zero_checksum6=zero_checksum6)

    def _start_lanes(self) -> None:
        """A thread for each, which carries packets when they may go."""
        self.stands, self._threads = False, []
        for n, lane in enumerate(self._lanes):
            thread = threading.Thread(target=self._run, args=(n, lane), name=f"vxcore-lane-{n}")
            thread.start()
            self._threads.append(thread)

    def _run(self, number: int, lane: Lane) -> None:
        cpus = self.settings.lanes.cpus
        try:
            if cpus:
                os.sched_setaffinity(0, {cpus[number % len(cpus)]})
            self._go.wait()
            if not self.stands:
                lane.run()
        except BaseException as error:
            self.failure = error

    def _fail(self, error: BaseException) -> None:
        self.failure = error

    def _mend(self) -> bool:
        """Open the TAP devices again that were deleted; whether none is missing any more."""
        with self._lock:
            lost = {place: code for place in self._overlays.places() if (code := self._lost(place))}
            done = [self._open_again(place, code) for place, code in lost.items()]
            return all(done)

    def _lost(self, place: int) -> int:
        return max(lane.lost(place) for lane in self._lanes)

    def _open_again(self, place: int, code: int) -> bool:
        overlay = self._overlays.places()[place]
        if not isinstance(overlay, Tap):
            self._fail(OSError(code, f"overlay port {overlay.name}: {os.strerror(code)}"))
            return True
        if not overlay.reopen():
            return False
        for lane in self._lanes:
            lane.revive(place)
        return True

    # Changing

    def switch(
        self,
        removed: Sequence[int] = (),
        changed: Sequence[Segment] = (),
        added: Sequence[Segment] = (),
        remotes: Sequence[Remote] | None = None,
    ) -> None:
        """Remove segments (by VNI), change and add others, and what is said of remotes: all or nothing.

        Lanes see the whole of it at a batch boundary; other segments' packets do not notice. Raises
        ConfigError and what opening a TAP raises.
        """
        with self._lock, ExitStack() as undo:
            self._require_running()
            for vni in (*removed, *(segment.vni for segment in changed)):
                self.segments.number(vni)
            undo.callback(self._endpoints.keep, self._endpoints_of(self._segments.values()))
            self._endpoints.open(self._endpoints_of([*changed, *added]))
            accesses = self._reserve(added, self._after(removed, changed, added), undo)
            undo.callback(self._overlays.forget_parted)
            with self.journal.change(), self._expecting(added):
                self._refuse_loops(self._known_remotes(), added)
                if remotes is not None:
                    self._set_remotes(self.settings.remotes, remotes)
                touched = [self._segments[vni] for vni in removed]
                gone = self._take_out(removed)
                for segment in changed:
                    self._change(segment)
                for segment, ports in zip(added, accesses, strict=True):
                    self._fill(segment, ports)
                    self._attach(segment.vni)
                self._fit_mtus([*touched, *changed, *added])
            undo.pop_all()
            self._overlays.begin(access for ports in accesses for access in ports)
            self._overlays.settle(gone)
            self._endpoints.keep(self._endpoints_of(self._segments.values()))
            self._tell_lanes_what_is_ours()
            self.told.segments_changed(removed, [segment.vni for segment in (*changed, *added)])

    def _after(
        self, removed: Sequence[int], changed: Sequence[Segment], added: Sequence[Segment]
    ) -> list[Segment]:
        """The segments that there will be; VNI by VNI they may still be refused."""
        new = {segment.vni: segment for segment in changed}
        kept = [new.get(vni, segment) for vni, segment in self._segments.items() if vni not in removed]
        taken = {(port.dev, port.vlan): segment.vni for segment in kept for port in segment.overlays}
        for segment in added:
            for port in segment.overlays:
                if (port.dev, port.vlan) in taken:
                    other = taken[port.dev, port.vlan]
                    raise ConfigError(f"VNI {segment.vni}: {port.dev} is the device of VNI {other}")
                taken[port.dev, port.vlan] = segment.vni
        return [*kept, *added]

    @contextmanager
    def _expecting(self, segments: Sequence[Segment]) -> Iterator[None]:
        """While segments are added, their ports are there already."""
        self._coming = segments
        try:
            yield
        finally:
            self._coming = ()

    def _known_remotes(self) -> list[IPAddress]:
        """In the order of their numbers."""
        return [self.remotes.address(int(n)) for n in self.tables.remotes()["remote"]]

    def _require_running(self) -> None:
        if not self._started:
            raise RuntimeError(_NOT_RUNNING)

    if not TYPE_CHECKING:  # it would let every misspelt name pass

        def __getattr__(self, name: str) -> Any:
            """What there is only while it runs."""
            if name in ("tables", "journal", "remotes", "segments", "fdb", "neighbours", "told", "events"):
                raise RuntimeError(_NOT_RUNNING)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _take_out(self, vnis: Sequence[int]) -> list[Access]:
        """Remove segments from the tables, and their ports from the lanes; these ports."""
        self.segments.remove(list(vnis))
        gone = [access for vni in vnis for access in self._accesses[vni]]
        for vni in vnis:
            self._forget_for_now(vni)
        self._overlays.release(gone, self.journal.on_failure)
        return gone

    def _forget_for_now(self, vni: int) -> None:
        segment, accesses, before = self._segments[vni], self._accesses[vni], self._before[vni]

        def put_back() -> None:
            self._segments[vni], self._accesses[vni], self._before[vni] = segment, accesses, before

        self.journal.on_failure(put_back)
        self._forget(vni)

    def _attach(self, vni: int) -> None:
        """Let frames go to the ports of a segment that is in the tables."""
        number = self.segments.number(vni)
        for access in self._accesses[vni]:
            self._overlays.attach(access, number, self.journal.on_failure)

    def _change(self, segment: Segment) -> None:
        """Give a segment other settings; its port stays."""
        vni = segment.vni
        before = self._segments[vni]
        if segment.overlays != before.overlays:
            old, new = _port_text(before), _port_text(segment)
            raise ConfigError(f"VNI {vni}: the port {old} cannot become {new} while it runs")
        dstport = self.settings.dstport_of(segment)
        flood, policy = self._flood(segment), _policy(segment)
        self.segments.change(vni, remotes=flood, policy=policy, dstport=dstport)
        self._set_entries(segment, before.fdb, segment.fdb)
        self._set_neighbours(segment, before.neighbours, segment.neighbours)
        self._segments[vni] = segment
        self.journal.on_failure(lambda: self._segments.__setitem__(vni, before))

    def _fit_mtus(self, touched: Iterable[Segment]) -> None:
        """Give the TAPs of these segments, some of which are gone, an MTU that fits all who have them now."""
        ports = {port for segment in touched for port in segment.overlays}
        sharing = _by_device(self._segments.values()) if ports else {}
        for port in ports:
            tap = self._overlays.find(port)
            if isinstance(tap, Tap) and port.dev in sharing:
                self._fit_mtu(tap, self._device_mtu(sharing[port.dev]))

    def _fit_mtu(self, tap: Tap, mtu: int) -> None:
        before = tap.mtu
        if mtu != before:
            tap.set_mtu(mtu)
            self.journal.on_failure(lambda: tap.set_mtu(before))

    # Observing

    def _watch_packets(self, **wanted: Any) -> PacketWatch:
        self._require_running()
        return PacketWatch(self._lanes, self.tables, self.remotes, self._device, **wanted)

    def _rehearsal(self) -> Rehearsal:
        self._require_running()
        families = tuple(local.version for local in self.locals)
        n_places = self._overlays.n_places
        underlay, ours = self.settings.underlay, self._ours()
        return Rehearsal(self.tables, self.remotes, underlay, families, n_places, self._device, ours)

    def _fits(self, sight: Sight) -> Sight:
        """What the narrowest way says to a frame that is to be sent."""
        segment = self._segments[sight.vni]
        peers = self._flood(segment) if sight.remote is None else [sight.remote]
        for remote in peers if sight.verdict == Verdict.DELIVERED else ():
            room = route_to(remote, self.settings.underlay.dev)[1] - OVERHEAD[remote.version] + ETH_LEN
            if sight.length > room:
                return sight._replace(verdict=Verdict.TOO_BIG)
        return sight

    def _device(self, place: int) -> str | None:
        return self._overlays.name_of(place)

    def describe(self) -> list[dict[str, Any]]:
        """A dict per segment: vni, port and dev, mtu, and the flood set's remotes as text."""
        with self._lock:
            segments = [self._describe(segment) for segment in self._segments.values()]
            mtus = [self._mtu_of(vni) for vni in self._collects]
            collectors = [
                {**_collector_names(collect), "mtu": mtu, "remotes": [], "collects": True}
                for collect, mtu in zip(self._collects.values(), mtus, strict=True)
            ]
            return segments + collectors

    def devices(self) -> dict[int, str]:
        """The device of each segment's ports, by the number that rows of the FDB have."""
        with self._lock:
            accesses = [access for vni in self._segments for access in self._accesses[vni]]
            return {access.place: access.device.opened.name for access in accesses}

    def _flood(self, segment: Segment) -> list[IPAddress]:
        """With those of whom control planes say that they take part."""
        return self.told.flood(segment.vni, segment.flood)

    def _describe(self, segment: Segment) -> dict[str, Any]:
        remotes = [str(remote) for remote in self._flood(segment)]
        return {**_names(segment), "mtu": self._mtu_of(segment.vni), "remotes": remotes}

    def _mtu_of(self, vni: int) -> int:
        return min(access.device.opened.mtu for access in self._accesses[vni])

    def counters(self) -> dict[str, Any]:
        """Counters since the start, ready for JSON: segments, drops by verdict name, fdb, lanes, offloads."""
        with self._lock:
            segments = [{**_names(s), **self._count(s.vni)} for s in self._segments.values()]
            segments += [
                {**_collector_names(each), **self._count(vni)} for vni, each in self._collects.items()
            ]
            counted = {"segments": segments, **self._totals()}
            if self._next_hops is not None:
                counted["next_hops"] = self._next_hops.states()
            return counted

    def totals(self) -> dict[str, Any]:
        """As ``counters``, without what there is one of for each segment and each remote."""
        with self._lock:
            return self._totals()

    def lane_drops(self) -> dict[int, int]:
        """Packets that lanes have dropped, by verdict: quicker than ``totals``, which asks the kernel too."""
        return dict(_sum(lane.drops() for lane in self._lanes))

    def _totals(self) -> dict[str, Any]:
        counts = Counter(self.lane_drops())
        below = [*self._udps, *self._xdps, self._endpoints]
        counts[Verdict.UNDERLAY_OVERRUN] += sum(each.overruns() for each in below)
        counts[Verdict.OVERLAY_OVERRUN] += self._overlay_overruns()
        drops = {Verdict(number).label: count for number, count in counts.items() if count}
        lanes = [lane.lane_counters() for lane in self._lanes]
        return {
            "drops": drops,
            "fdb": self.tables.fdb_counters(),
            "lanes": lanes,
            "offloads": self.offloads(),
            "events": self.events.counters(),
        }

    def _overlay_overruns(self) -> int:
        """TAPs together: the kernel tells of all devices at once."""
        taps = [overlay for overlay in self._overlays.devices if isinstance(overlay, Tap)]
        others = [overlay for overlay in self._overlays.devices if not isinstance(overlay, Tap)]
        return tap_overruns(taps) + sum(each.overruns() for each in others)

    def traffic(self) -> Traffic:
        """What every segment carried, as arrays: for many segments much quicker than ``counters``."""
        with self._lock:
            words = [np.frombuffer(lane.segment_words(), np.uint64) for lane in self._lanes]
            counts = np.sum(words, axis=0, dtype=np.uint64).reshape(-1, len(COUNTED))
            numbers, vnis, n_learned = self.tables.segment_numbers().T
            rows = counts[numbers]
            earlier = {vni: before for vni, before in self._before.items() if any(before.values())}
            places = {vni: place for place, vni in enumerate(vnis.tolist())} if earlier else {}
            for vni, before in earlier.items():
                rows[places[vni]] -= np.array([before[name] for name in COUNTED], np.uint64)
            titles = {vni: collect.title for vni, collect in self._collects.items()}
            return Traffic(vnis, n_learned, rows, counts.sum(axis=0), titles)

    def remote_traffic(self) -> RemoteTraffic:
        """What came from each remote, and was sent to it, as arrays."""
        with self._lock:
            rows = self.tables.remotes()
            numbers = rows["remote"]  # ascending
            counts = self._remote_counts(0, int(numbers[-1]) + 1 if len(numbers) else 0)[numbers]
            return RemoteTraffic(numbers, rows["address"], counts - self._remotes_before[numbers])

    def _remote_counts(self, first: int, n: int) -> NDArray[np.uint64]:
        """Of `n` numbers from `first` on, whoever had them."""
        counts = np.zeros((n, len(COUNTED)), np.uint64)
        for lane in self._lanes:
            counts += np.frombuffer(lane.remote_words(first, n), np.uint64).reshape(counts.shape)
        return counts

    def _count(self, vni: int) -> dict[str, int]:
        """What a segment's lanes have counted since it is there."""
        number, before = self.segments.number(vni), self._before[vni]
        now = _sum(lane.segment_counters(number) for lane in self._lanes)
        return {name: now[name] - before[name] for name in now}

    def turns(self) -> list[int]:
        """How often the loop of each lane has turned: at least once a second, also without packets."""
        return [sum(lane.lane_counters().values()) for lane in self._lanes]

    def offloads(self) -> dict[str, str]:
        """Each offload by name: "on", "off", or why the kernel does not do it."""
        wanted = self.settings.offload
        states = {name: offload_state(getattr(wanted, name), True) for name in wanted.__struct_fields__}
        for name in _OF_UDP:
            works = all(getattr(udp, name.removeprefix("udp_"), True) for udp in self._udps)
            states[name] = offload_state(getattr(wanted, name), works)
        parts: list[OverlayDevice | XdpUnderlay] = [*self._overlays.devices, *self._xdps]
        for part in parts:
            states |= {name: state for name, state in part.offloads().items() if state != "on"}
        errors = {port.gso_error for port in self._underlay_ports if port.gso_error}
        if errors:
            name = "udp_gso" if self._udps else "tunnel_gso"
            states[name] = f"refused by the kernel: {os.strerror(errors.pop())}"
        return states


def _underlay_title(of: object) -> str:
    """The name under which a part of the underlay is handed over."""
    return f"underlay {of}"


def _sum(counters: Iterable[dict[Any, int]]) -> Counter[Any]:
    total: Counter[Any] = Counter()
    for one in counters:
        total.update(one)
    return total


def _peers(segment: Segment) -> list[IPAddress]:
    return [*segment.flood, *(entry.remote for entry in segment.fdb)]


def _by_device(segments: Iterable[Segment]) -> dict[str, list[Segment]]:
    sharing: dict[str, list[Segment]] = {}
    for segment in segments:
        for dev in {port.dev for port in segment.overlays}:
            sharing.setdefault(dev, []).append(segment)
    return sharing


def _port_text(segment: Segment) -> str:
    return ", ".join(
        port.dev if port.vlan is None else f"{port.dev} VLAN {port.vlan}" for port in segment.overlays
    )


def _names(segment: Segment) -> dict[str, Any]:
    """Of the first port; those with others have a list of all."""
    first = segment.overlays[0]
    names: dict[str, Any] = {"vni": segment.vni, "port": first.kind, "dev": first.dev}
    if first.vlan is not None:
        names["vlan"] = first.vlan
    if segment.ports:
        names["ports"] = [
            {name: each for name, each in structs.asdict(port).items() if each is not None}
            for port in segment.ports
        ]
    return names


def _collector_names(collect: Collect) -> dict[str, Any]:
    port = collect.overlay
    return {
        "vni": collect.title,
        "port": port.kind if port else "pcapng",
        "dev": port.dev if port else collect.write,
    }


def _policy(segment: Segment) -> Policy:
    return Policy(
        learning=segment.learning,
        ageing=segment.ageing,
        maxaddress=segment.maxaddress,
        source=segment.admits,
        broadcast=_flooded(segment.broadcast),
        multicast=_flooded(segment.multicast),
        unknown_unicast=_unknown(segment),
    )


def _unknown(segment: Segment) -> str | Rate | Ask:
    asks = segment.unknown_unicast == "ask"
    return Ask(segment.hold or 0) if asks else _flooded(segment.unknown_unicast)


def _flooded(setting: str | config.Rate) -> str | Rate:
    return setting if isinstance(setting, str) else Rate(setting.rate, setting.burst)
