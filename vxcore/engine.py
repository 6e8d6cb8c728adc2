"""Vtep: settings become open ports, filled tables and running lanes.

Place in the house: above ports and the compiled modules, below daemon. Python only sets up, observes
and shuts down; packets are the lane's.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from vxcore._fast.codec import Rules
from vxcore._fast.gsotap import GsoTapPort
from vxcore._fast.lane import Lane
from vxcore._fast.packet import PacketPort
from vxcore._fast.table import Tables
from vxcore._fast.udp import UdpPort
from vxcore.config import Port, Segment, Settings
from vxcore.errors import ConfigError
from vxcore.gsotap import UnderlayTap, narrowest_mtu
from vxcore.nexthops import NextHops
from vxcore.packet import PacketUnderlay
from vxcore.packet_overlay import PacketOverlay
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
)
from vxcore.verdict import Verdict

AnyPort = UdpPort | PacketPort | GsoTapPort

# The kinds of overlay ports.
_OVERLAYS: dict[str, OpenOverlay] = {"tap": Tap, "packet": PacketOverlay}

_ETHERNET_MTU = 1500
_OF_UDP = ("udp_gso", "udp_gro")
_MIN_MTU = 68  # RFC 791: what every IPv4 link must carry


class Vtep:
    """A VTEP that runs inside ``with Vtep(settings) as vtep:``.

    Entering opens TAP devices and sockets and starts the lane, or raises with nothing left behind;
    leaving stops it and puts the host back. ``failure`` is what ended a lane by itself, or None.
    All methods may be called from any thread.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.failure: BaseException | None = None
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self._open(undo)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    # Opening

    def _open(self, undo: ExitStack) -> None:
        underlay = self.settings.underlay
        self.locals = underlay.local or self._locals_by_route()
        n_lanes = self.settings.lanes.count
        self._open_underlay(undo, n_lanes)
        self._overlays: list[OverlayDevice] = []
        for segment in self.settings.segments:
            self._refuse_circle(segment.overlay)
            open_overlay, mtu = _OVERLAYS[segment.overlay.kind], segment.mtu or self._mtu(segment)
            overlay = open_overlay(segment.overlay.dev, mtu, n_lanes, self.settings.offload)
            undo.callback(overlay.close)
            self._overlays.append(overlay)
        self._fill_tables()
        self._next_hops = self._start_next_hops(undo) if underlay.kind == "packet" else None
        self._lanes = [self._make_lane(n) for n in range(n_lanes)]
        for n, lane in enumerate(self._lanes):
            self._start(n, lane, undo)

    def _refuse_circle(self, port: Port) -> None:
        """What the underlay receives must not go into a segment: each packet would go round for ever."""
        for local in self.locals if port.kind != "tap" else ():
            if device_of(local) == port.dev:
                text = f"{port.dev} has the local address {local}: it leads to the underlay"
                raise ConfigError(f"{text}; give the device that leads to the segment's hosts")

    def _open_underlay(self, undo: ExitStack, n_lanes: int) -> None:
        underlay = self.settings.underlay
        self._udps: list[UdpUnderlay | PacketUnderlay] = []
        self._underlay_ports: list[AnyPort] = []
        self._tap: UnderlayTap | None = None
        if underlay.kind == "tap":
            peers = [remote for segment in self.settings.segments for remote in _peers(segment)]
            mtu = narrowest_mtu(peers, underlay.dev)
            self._tap = UnderlayTap(underlay, self.locals, n_lanes, mtu)
            undo.callback(self._tap.close)
            return
        kind = PacketUnderlay if underlay.kind == "packet" else UdpUnderlay
        for local in self.locals:
            udp = kind(underlay, local, n_lanes, self.settings.offload)
            undo.callback(udp.close)
            self._udps.append(udp)

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

    def _fill_tables(self) -> None:
        segments = self.settings.segments
        self._remotes = list(dict.fromkeys(remote for segment in segments for remote in _peers(segment)))
        numbers = {remote: n for n, remote in enumerate(self._remotes)}
        n_static = sum(len(segment.fdb) for segment in segments)
        n_learned = sum(segment.maxaddress for segment in segments)
        self._tables = Tables(
            len(segments),
            len(numbers),
            sum(len(s.remotes) for s in segments),
            max(65536, n_static + n_learned),
        )
        for remote in self._remotes:
            self._tables.add_remote(_packed(remote), _sockaddr(remote, self.settings.underlay))
        for n, segment in enumerate(segments):
            self._add_segment(n, segment, numbers)
        self._tables.set_peers([(n, numbers[r]) for n, s in enumerate(segments) for r in set(_peers(s))])

    def _add_segment(self, number: int, segment: Segment, numbers: dict[IPAddress, int]) -> None:
        self._tables.add_segment(
            segment.vni,
            number,
            [numbers[remote] for remote in segment.remotes],
            learning=segment.learning,
            ageing_s=segment.ageing,
            max_learned=segment.maxaddress,
        )
        for entry in segment.fdb:
            mac = int.from_bytes(entry.mac.packed, "big")
            self._tables.add_static(segment.vni, mac, numbers[entry.remote])

    def _make_lane(self, number: int) -> Lane:
        underlay, offload = self.settings.underlay, self.settings.offload
        ports = self._open_ports(number)
        self._underlay_ports += [port for port, _ in ports]
        return Lane(
            self._tables,
            ports,
            [overlay.port(number, n) for n, overlay in enumerate(self._overlays)],
            tos=-1 if underlay.tos == "inherit" else underlay.tos,
            ttl=-1 if underlay.ttl == "inherit" else 0,
            strict=underlay.reserved == "strict",
            ecn_linux=underlay.ecn == "linux",
            join_tcp=offload.join,
            join_udp=offload.join and all(overlay.uso for overlay in self._overlays),
            busy_poll_us=self.settings.lanes.busy_poll,
        )

    def _open_ports(self, number: int) -> list[tuple[AnyPort, tuple[int, ...]]]:
        """The underlay ports of a lane, each with the IP families that it sends."""
        if self._tap is not None:
            families = tuple(local.version for local in self.locals)
            return [(self._tap.port(number, self._tap.tunnels(self._remotes)), families)]
        return [(self._underlay_port(udp, number), (udp.local.version,)) for udp in self._udps]

    def _start_next_hops(self, undo: ExitStack) -> NextHops:
        hops = NextHops(self.settings.underlay, self.locals, self._remotes)
        undo.callback(hops.close)
        hops.start()
        return hops

    def _underlay_port(self, udp: UdpUnderlay | PacketUnderlay, number: int) -> UdpPort | PacketPort:
        if isinstance(udp, PacketUnderlay):
            return self._packet_port(udp, number)
        pool = [(single.fileno(), run.fileno() if run else -1) for single, run in udp.pool]
        name = f"udp {udp.local} port {self.settings.underlay.dstport}"
        return UdpPort(
            name, udp.receivers[number].fileno(), udp.routes[number].fileno(), pool, udp.local.version
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
            Rules(
                ports=(underlay.dstport,),
                zero_checksum6="accept" if underlay.udp6zerocsumrx else "drop",
            ),
            gso=packet.gso,
        )

    def _start(self, number: int, lane: Lane, undo: ExitStack) -> None:
        thread = threading.Thread(target=self._run, args=(number, lane), name=f"vxcore-lane-{number}")
        thread.start()
        undo.callback(thread.join)
        undo.callback(lane.stop)

    def _run(self, number: int, lane: Lane) -> None:
        cpus = self.settings.lanes.cpus
        try:
            if cpus:
                os.sched_setaffinity(0, {cpus[number % len(cpus)]})
            lane.run()
        except BaseException as error:
            self.failure = error

    # Observing

    def describe(self) -> list[dict[str, Any]]:
        """A dict per segment: vni, port and dev, mtu, and the flood set's remotes as text."""
        return [
            {**_names(s), "mtu": overlay.mtu, "remotes": [str(remote) for remote in s.remotes]}
            for s, overlay in zip(self.settings.segments, self._overlays, strict=True)
        ]

    def counters(self) -> dict[str, Any]:
        """Counters since the start, ready for JSON: segments, drops by verdict name, fdb, lanes, offloads."""
        segments = [
            {**_names(s), **_sum(lane.segment_counters(n) for lane in self._lanes)}
            for n, s in enumerate(self.settings.segments)
        ]
        counts = _sum(lane.drops() for lane in self._lanes)
        counts[Verdict.UNDERLAY_OVERRUN] += sum(udp.overruns() for udp in self._udps)
        counts[Verdict.OVERLAY_OVERRUN] += sum(overlay.overruns() for overlay in self._overlays)
        drops = {Verdict(number).name.lower(): count for number, count in counts.items() if count}
        lanes = [lane.lane_counters() for lane in self._lanes]
        counted = {
            "segments": segments,
            "drops": drops,
            "fdb": self._tables.fdb_counters(),
            "lanes": lanes,
            "offloads": self.offloads(),
        }
        if self._next_hops is not None:
            counted["next_hops"] = self._next_hops.states()
        return counted

    def offloads(self) -> dict[str, str]:
        """Each offload by name: "on", "off", or why the kernel does not do it."""
        wanted = self.settings.offload
        states = {name: offload_state(getattr(wanted, name), True) for name in wanted.__struct_fields__}
        for name in _OF_UDP:
            works = all(getattr(udp, name.removeprefix("udp_"), True) for udp in self._udps)
            states[name] = offload_state(getattr(wanted, name), works)
        for overlay in self._overlays:
            states |= {name: state for name, state in overlay.offloads().items() if state != "on"}
        errors = {port.gso_error for port in self._underlay_ports if port.gso_error}
        if errors:
            name = "udp_gso" if self._udps else "tunnel_gso"
            states[name] = f"refused by the kernel: {os.strerror(errors.pop())}"
        return states

    def fdb(self) -> list[dict[str, Any]]:
        """The forwarding table: a dict of vni, mac, remote and static for each entry."""
        return [
            {
                "vni": vni,
                "mac": mac.to_bytes(6, "big").hex(":"),
                "remote": str(self._remotes[n]),
                "static": static,
            }
            for vni, mac, n, static in self._tables.fdb_rows()
        ]


def _sum(counters: Iterable[dict[Any, int]]) -> Counter[Any]:
    total: Counter[Any] = Counter()
    for one in counters:
        total.update(one)
    return total


def _peers(segment: Segment) -> list[IPAddress]:
    return [*segment.remotes, *(entry.remote for entry in segment.fdb)]


def _names(segment: Segment) -> dict[str, Any]:
    return {"vni": segment.vni, "port": segment.overlay.kind, "dev": segment.overlay.dev}


def _packed(address: IPAddress) -> bytes:
    """Sixteen bytes, IPv4 as ::ffff:a.b.c.d."""
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def _sockaddr(address: IPAddress, underlay: Any) -> bytes:
    """The kernel's sockaddr_in or sockaddr_in6 of a remote's VXLAN port."""
    port = struct.pack("!H", underlay.dstport)
    if address.version == 4:
        return struct.pack("=H", socket.AF_INET) + port + address.packed + bytes(8)
    scope = scope_of(underlay.dev) if address.is_link_local else 0
    return struct.pack("=H", socket.AF_INET6) + port + bytes(4) + address.packed + struct.pack("=I", scope)
