"""Ports over AF_XDP: for our UDP port on the underlay's device, and for all frames of an overlay's.

Place in the house: above xdp and packet_overlay, below engine. An AF_XDP socket stays with its device: when
that is deleted, vxcore is to be started anew.
"""

from __future__ import annotations

import errno
import itertools
import logging
import socket
import struct
from collections.abc import Callable, Collection
from contextlib import ExitStack

from pyroute2 import IPRoute  # type: ignore[import-untyped]

from vxcore._fast.codec import Rules
from vxcore._fast.hops import Hops
from vxcore._fast.xdp_overlay import XdpOverlayPort
from vxcore._fast.xdp_underlay import XdpUnderlayPort
from vxcore.config import Offload, Underlay
from vxcore.errors import ConfigError
from vxcore.kernel_watch import LINKS, KernelWatch
from vxcore.packet_overlay import look_at
from vxcore.parts import Part, descriptors, sockets
from vxcore.ports import IPAddress, device_of, port_keeper
from vxcore.xdp import ALL_PACKETS, LARGEST_MTU, XdpDevice, our_packets

log = logging.getLogger("vxcore")

# linux/if_packet.h
_SOL_PACKET, _ADD_MEMBERSHIP, _MR_PROMISC = 263, 1, 1


class XdpUnderlay:
    """AF_XDP for the local addresses, all of which are on one device: `dev`, or the one that has them.

    Packets for our ports and addresses come to us; all others, also fragments and those with IP options or
    extension headers, go on to the host's stack. There sockets keep our ports, or the stack would answer
    with ICMP errors. Raises as XdpDevice does, and as UdpUnderlay for the port. `failed` is called, in a
    thread of ours, when the device is deleted.
    """

    def __init__(
        self,
        settings: Underlay,
        locals_: tuple[IPAddress, ...],
        dstports: Collection[int],
        n_lanes: int,
        offload: Offload,
        failed: Callable[[OSError], None],
        handed: Part | None = None,
    ) -> None:
        self.dev = settings.dev or _device_with(locals_)
        self._families = tuple(local.version for local in locals_)
        self._failed = failed
        self._keepers: list[socket.socket] = []
        with ExitStack() as undo:
            undo.callback(self._close_keepers)
            own = None if handed is None else _own(handed)
            if handed is not None:
                self._keepers = sockets(handed.fds[: handed.facts["others"]])
            else:
                for local, port in itertools.product(locals_, dstports):
                    self._keepers.append(port_keeper(settings, local, port, joins=False))
            self._device = XdpDevice(self.dev, n_lanes, our_packets(locals_, dstports), offload, own)
            undo.callback(self._device.close)
            self._watch = KernelWatch(LINKS, self._follow)
            undo.pop_all()

    def part(self) -> Part:
        """What another process goes on with."""
        return _with(self._keepers, self._device.part())

    def ports(self, lane: int, hops: Hops, rules: Rules) -> list[tuple[XdpUnderlayPort, tuple[int, ...]]]:
        """Those of a lane, one for each of its queues, with the IP families that it sends: the first does."""
        return [
            (XdpUnderlayPort(f"xdp {sock.name}", sock, hops, rules), () if n else self._families)
            for n, sock in enumerate(self._device.lanes[lane])
        ]

    def offloads(self) -> dict[str, str]:
        """As XdpDevice."""
        return self._device.offloads()

    def overruns(self) -> int:
        """As XdpDevice."""
        return self._device.overruns()

    def _follow(self) -> None:
        link = look_at(self.dev)
        if link is None or link.number != self._device.ifindex:
            self._failed(OSError(errno.ENODEV, f"underlay port xdp {self.dev}: the device is gone"))

    def close(self) -> None:
        """Leave the device as it was; the lanes have ended."""
        self._watch.close()
        self._device.close()
        self._close_keepers()

    def _close_keepers(self) -> None:
        for sock in self._keepers:
            sock.close()
        self._keepers.clear()


def _with(others: list[socket.socket], own: Part) -> Part:
    """A device's part, and other sockets."""
    return Part([*descriptors(others), *own.fds], {**own.facts, "others": len(others)})


def _own(part: Part) -> Part:
    """The device's again."""
    return Part(part.fds[part.facts["others"] :], part.facts)


def _device_with(locals_: tuple[IPAddress, ...]) -> str:
    """The one device that has all the addresses."""
    found = {device_of(local): local for local in locals_}
    if None in found:
        raise ConfigError(f"local {found[None]} is not an address of this host; see `ip address`")
    if len(found) > 1:
        names = ", ".join(f"{local} on {name}" for name, local in found.items())
        raise ConfigError(f'{names}: kind "xdp" uses one device; set dev, or give addresses of one device')
    return str(*found)


class XdpOverlay:
    """AF_XDP on an interface that exists: all its frames are a segment's, none reaches this host's stack.

    `most` is the MTU that the underlay leaves; a larger one of the interface is warned of. Raises as
    XdpDevice does.
    """

    # It takes no super-frames at all, and so hinders nobody else's.
    uso = True

    def __init__(
        self,
        name: str,
        most: int,
        n_lanes: int = 1,
        offload: Offload | None = None,
        handed: Part | None = None,
    ) -> None:
        self.name = name
        self._ports: list[XdpOverlayPort] = []
        with ExitStack() as undo:
            own = None if handed is None else _own(handed)
            self._device = XdpDevice(name, n_lanes, ALL_PACKETS, offload or Offload(), own)
            undo.callback(self._device.close)
            self.mtu = self._device.mtu
            self._link = look_at(name)
            if handed is None:
                self._listener = undo.enter_context(_listen_to_all(self._device.ifindex))
                self._say_what_is_odd(most)
            else:
                (self._listener,) = sockets(handed.fds[:1])
            self._watch = KernelWatch(LINKS, self._follow)
            undo.pop_all()

    def _say_what_is_odd(self, most: int) -> None:
        if self.mtu > most:
            log.warning(
                "%s: its MTU is %d and the underlay carries %d: larger packets are dropped and their senders"
                " told; `ip link set %s mtu %d`, and of what is behind it, spares them that",
                *(self.name, self.mtu, most, self.name, most),
            )
        if self._link is not None and not self._link.up:
            log.warning("%s is down: no frames until it is up", self.name)
        with IPRoute() as route:
            own = [str(one.get_attr("IFA_ADDRESS")) for one in route.get_addr(index=self._device.ifindex)]
        routed = [address for address in own if not address.startswith("fe80:")]
        if routed:
            log.warning("%s has the address %s, where this host hears nothing now", self.name, routed[0])

    def part(self) -> Part:
        return _with([self._listener], self._device.part())

    def inherit(self) -> None:
        """There is nothing to put back."""

    def port(self, lane: int, segment: int) -> XdpOverlayPort:
        """The sockets of one lane, one for each of its queues."""
        port = XdpOverlayPort(f"xdp {self.name}", self._device.lanes[lane], self.mtu, segment)
        self._ports.append(port)
        return port

    def offloads(self) -> dict[str, str]:
        """As XdpDevice."""
        return self._device.offloads()

    def overruns(self) -> int:
        """As XdpDevice."""
        return self._device.overruns()

    def _follow(self) -> None:
        """Say what became of the interface, once."""
        before, now = self._link, look_at(self.name)
        if now == before or before is None:
            return
        self._link = now
        if now is None or now.number != before.number:
            log.error("%s is gone, and AF_XDP with it: no frames; start vxcore anew", self.name)
            self._link = None
            return
        if now.up != before.up:
            log.warning("%s is %s", self.name, "up again" if now.up else "down: no frames until it is up")
        self.mtu = min(now.mtu, LARGEST_MTU)
        for port in self._ports:
            port.mtu = self.mtu

    def close(self) -> None:
        """Leave the interface as it was; the lanes have ended."""
        self._watch.close()
        self._listener.close()
        self._device.close()


def _listen_to_all(ifindex: int) -> socket.socket:
    """Let the interface take frames for other MAC addresses, too, while this socket is open."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        sock.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, struct.pack("=iHH8x", ifindex, _MR_PROMISC, 0))
    except BaseException:
        sock.close()
        raise
    return sock
