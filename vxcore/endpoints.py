"""Endpoints: where packets arrive beside the underlay's own port, listened to while a segment needs it.

Place in the house: above ports and packet, below engine. They are our addresses with other UDP ports, and
IP multicast groups, which the kernel joins and leaves for us (IGMP, MLD). How often one is used is not
counted here but seen from the segments there are.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack
from typing import NamedTuple, Protocol

from vxcore.config import Underlay
from vxcore.errors import UnsupportedError
from vxcore.packet import (
    JA,
    JEQ,
    LD_H,
    MOD,
    RET,
    WHOLE,
    Line,
    PacketUnderlay,
    assemble,
    equal,
)
from vxcore.parts import NOTHING, Part, Parts, descriptors, sockets
from vxcore.ports import Instruction, IPAddress, UdpUnderlay, dropped, group_receiver, member

_NETWORK = 0x1_0000_0000 - 0x10_0000  # SKF_NET_OFF, linux/filter.h: from the IP header on
_SOURCE = {4: _NETWORK + 12, 6: _NETWORK + 8}
_UDP_SOURCE = 0  # a UDP socket's filter sees the packet from its UDP header on


class Endpoint(NamedTuple):
    """A UDP port, and a group or (None) all our addresses."""

    port: int
    group: IPAddress | None = None

    @property
    def title(self) -> str:
        """By which it is handed over."""
        return f"UDP port {self.port}" if self.group is None else f"UDP port {self.port} of {self.group}"


class Listener(Protocol):
    """What is asked of a lane."""

    def listen(self, fd: int, dstport: int) -> None:
        """Read from a socket too, which is bound to that port."""

    def ignore(self, fd: int) -> None:
        """Read from it no more."""


class Opened(NamedTuple):
    """The sockets of an endpoint: those that hold it, and of UDP underlays a list for each lane to read."""

    endpoint: Endpoint
    holders: list[socket.socket]
    receivers: list[list[socket.socket]]

    def overruns(self) -> int:
        """Of a group nothing is known: the kernel counts what a filter left to another lane, too."""
        if self.endpoint.group is not None:
            return 0
        return sum(dropped(sock) for each in self.receivers for sock in each)

    def part(self) -> Part:
        """What another process goes on with."""
        return Part(descriptors(self._sockets()), {"holders": len(self.holders)})

    def close(self) -> None:
        for sock in self._sockets():
            sock.close()

    def _sockets(self) -> list[socket.socket]:
        return [*self.holders, *(sock for each in self.receivers for sock in each)]


class Endpoints:
    """What is listened to for `n_lanes` lanes beside the underlay's own port; at first nothing.

    A UDP socket of an address gets nothing that is sent to a group, so there are sockets for each group.
    The kernel gives each of them a copy of every packet: filters see to it that one lane takes it. Packet
    sockets get what their filter lets in, and need no more. `underlays` are none for kinds that cannot change
    what they take while they run. Used by one thread at a time.
    """

    def __init__(
        self,
        settings: Underlay,
        underlays: Iterable[UdpUnderlay | PacketUnderlay],
        n_lanes: int,
        handed: Parts = NOTHING,
    ) -> None:
        self._settings, self._n_lanes, self._handed = settings, n_lanes, handed
        self._underlays = {underlay.local.version: underlay for underlay in underlays}
        self._opened: dict[Endpoint, Opened] = {}
        self._overruns_before = 0
        self._lanes: Sequence[Listener] = ()
        self._wait: Callable[[], None] = lambda: None

    def serve(self, lanes: Sequence[Listener], wait: Callable[[], None]) -> None:
        """Let lanes read what comes, from now on; `wait` returns when none uses what it did before."""
        self._lanes, self._wait = lanes, wait
        for endpoint, opened in self._opened.items():
            self._listen(endpoint, opened)

    def open(self, endpoints: Collection[Endpoint]) -> None:
        """Listen to those that are not yet, all or none.

        Raises OSError, naming what the kernel refuses, ConfigError, and UnsupportedError.
        """
        with ExitStack() as undo:
            undo.callback(self.keep, set(self._opened))
            for endpoint in sorted(set(endpoints) - self._opened.keys(), key=str):
                self._opened[endpoint] = opened = self._open(endpoint)
                self._listen(endpoint, opened)
            self._filter()
            undo.pop_all()

    def keep(self, endpoints: Collection[Endpoint]) -> None:
        """Leave all but these."""
        gone = [self._opened.pop(endpoint) for endpoint in self._opened.keys() - set(endpoints)]
        if not gone:
            return
        self._filter()
        for opened in gone:
            for lane, socks in zip(self._lanes, opened.receivers, strict=False):
                for sock in socks:
                    lane.ignore(sock.fileno())
        self._wait()
        for opened in gone:
            self._overruns_before += opened.overruns()
            opened.close()

    def overruns(self) -> int:
        """Datagrams that the kernel dropped because we did not receive them in time."""
        return self._overruns_before + sum(opened.overruns() for opened in self._opened.values())

    def parts(self) -> dict[str, Part]:
        """What another process goes on with."""
        return {endpoint.title: opened.part() for endpoint, opened in self._opened.items()}

    def close(self) -> None:
        """Leave all; the lanes have ended."""
        while self._opened:
            self._opened.popitem()[1].close()

    def _open(self, endpoint: Endpoint) -> Opened:
        if not self._underlays:
            kind = self._settings.kind
            raise UnsupportedError(
                f'UDP port {endpoint.port}: an underlay of kind "{kind}" takes no new port while it runs;'
                " restart it"
            )
        handed = self._handed.take(endpoint.title)
        if handed is not None:
            return self._taken(endpoint, handed)
        opened = Opened(endpoint, [], [[] for _ in range(self._n_lanes)])
        try:
            if endpoint.group is not None:
                self._join(endpoint.group, endpoint.port, opened)
            else:
                for underlay in self._underlays.values():
                    holders, receivers = underlay.listen(endpoint.port)
                    opened.holders.extend(holders)
                    for lane, sock in enumerate(receivers):
                        opened.receivers[lane].append(sock)
        except BaseException:
            opened.close()
            raise
        return opened

    def _taken(self, endpoint: Endpoint, handed: Part) -> Opened:
        socks, n = sockets(handed.fds), handed.facts["holders"]
        each = (len(socks) - n) // self._n_lanes
        receivers = [socks[n + lane * each : n + (lane + 1) * each] for lane in range(self._n_lanes)]
        opened = Opened(endpoint, socks[:n], receivers)
        self._overruns_before -= opened.overruns()
        return opened

    def _join(self, group: IPAddress, port: int, opened: Opened) -> None:
        underlay = self._underlays[group.version]
        opened.holders.append(member(self._settings, group))
        if isinstance(underlay, PacketUnderlay):
            return
        for lane in range(self._n_lanes):
            program = share_of(underlay.local, lane, self._n_lanes)
            opened.receivers[lane].append(group_receiver(self._settings, group, port, underlay.gro, program))

    def _listen(self, endpoint: Endpoint, opened: Opened) -> None:
        for lane, socks in zip(self._lanes, opened.receivers, strict=False):
            for sock in socks:
                lane.listen(sock.fileno(), endpoint.port)

    def _filter(self) -> None:
        ports = {endpoint.port for endpoint in self._opened}
        groups = {endpoint.group for endpoint in self._opened if endpoint.group is not None}
        for underlay in self._underlays.values():
            if isinstance(underlay, PacketUnderlay):
                underlay.take(ports, groups)


def share_of(local: IPAddress, lane: int, n_lanes: int) -> list[Instruction]:
    """For a UDP socket: lets in what others have sent, and of that the flows of one lane, by source port."""
    lines: list[Line] = [
        *(*equal(_SOURCE[local.version], local.packed, "foreign"), (JA, 0, "drop", ""), "foreign"),
        *((LD_H, _UDP_SOURCE), (MOD, n_lanes), (JEQ, lane, "", "drop"), (RET, WHOLE)),
        *("drop", (RET, 0)),
    ]
    return assemble(lines)
