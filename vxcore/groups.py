"""Groups: the IP multicast groups that segments flood to, joined while one of them does.

Place in the house: above ports and packet, below engine. The kernel is the one who joins and leaves
(IGMP, MLD); how often a group is used is not counted here but seen from the segments there are.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack
from typing import NamedTuple, Protocol

from vxcore.config import Underlay
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
from vxcore.ports import Instruction, IPAddress, UdpUnderlay, group_receiver, member

_NETWORK = 0x1_0000_0000 - 0x10_0000  # SKF_NET_OFF, linux/filter.h: from the IP header on
_SOURCE = {4: _NETWORK + 12, 6: _NETWORK + 8}
_UDP_SOURCE = 0  # a UDP socket's filter sees the packet from its UDP header on


class Listener(Protocol):
    """What is asked of a lane."""

    def listen(self, fd: int) -> None:
        """Read from a socket too."""

    def ignore(self, fd: int) -> None:
        """Read from it no more."""


class Joined(NamedTuple):
    """The sockets of a group: the one that has joined it, and of UDP underlays one that each lane reads."""

    member: socket.socket
    receivers: list[socket.socket]

    def close(self) -> None:
        for sock in (self.member, *self.receivers):
            sock.close()


class Groups:
    """The groups that are joined on the underlay's `dev`, for `n_lanes` lanes; at first none.

    A UDP socket of an address gets nothing that is sent to a group, so there are sockets for each group.
    The kernel gives each of them a copy of every packet: filters see to it that one lane takes it. Packet
    sockets get what their filter lets in, and need no more. Used by one thread at a time.
    """

    def __init__(
        self, settings: Underlay, underlays: Iterable[UdpUnderlay | PacketUnderlay], n_lanes: int
    ) -> None:
        self._settings, self._n_lanes = settings, n_lanes
        self._underlays = {underlay.local.version: underlay for underlay in underlays}
        self._joined: dict[IPAddress, Joined] = {}
        self._lanes: Sequence[Listener] = ()
        self._wait: Callable[[], None] = lambda: None

    def serve(self, lanes: Sequence[Listener], wait: Callable[[], None]) -> None:
        """Let lanes read what comes, from now on; `wait` returns when none uses what it did before."""
        self._lanes, self._wait = lanes, wait
        for joined in self._joined.values():
            self._listen(joined)

    def join(self, groups: Collection[IPAddress]) -> None:
        """Join those that are not joined yet, all or none.

        Raises OSError, naming group and device, for what the kernel refuses, and ConfigError.
        """
        with ExitStack() as undo:
            undo.callback(self.keep, set(self._joined))
            for group in sorted(set(groups) - self._joined.keys(), key=str):
                self._joined[group] = joined = self._open(group)
                self._listen(joined)
            self._filter()
            undo.pop_all()

    def keep(self, groups: Collection[IPAddress]) -> None:
        """Leave all but these."""
        gone = [self._joined.pop(group) for group in self._joined.keys() - set(groups)]
        if not gone:
            return
        self._filter()
        for joined in gone:
            for lane, sock in zip(self._lanes, joined.receivers, strict=False):
                lane.ignore(sock.fileno())
        self._wait()
        for joined in gone:
            joined.close()

    def close(self) -> None:
        """Leave all; the lanes have ended."""
        while self._joined:
            self._joined.popitem()[1].close()

    def _open(self, group: IPAddress) -> Joined:
        underlay = self._underlays[group.version]
        joined = Joined(member(self._settings, group), [])
        if isinstance(underlay, PacketUnderlay):
            return joined
        try:
            for lane in range(self._n_lanes):
                program = share_of(underlay.local, lane, self._n_lanes)
                joined.receivers.append(group_receiver(self._settings, group, underlay.gro, program))
        except BaseException:
            joined.close()
            raise
        return joined

    def _listen(self, joined: Joined) -> None:
        for lane, sock in zip(self._lanes, joined.receivers, strict=False):
            lane.listen(sock.fileno())

    def _filter(self) -> None:
        for underlay in self._underlays.values():
            if isinstance(underlay, PacketUnderlay):
                underlay.take_groups(self._joined)


def share_of(local: IPAddress, lane: int, n_lanes: int) -> list[Instruction]:
    """For a UDP socket: lets in what others have sent, and of that the flows of one lane, by source port."""
    lines: list[Line] = [
        *(*equal(_SOURCE[local.version], local.packed, "foreign"), (JA, 0, "drop", ""), "foreign"),
        *((LD_H, _UDP_SOURCE), (MOD, n_lanes), (JEQ, lane, "", "drop"), (RET, WHOLE)),
        *("drop", (RET, 0)),
    ]
    return assemble(lines)
