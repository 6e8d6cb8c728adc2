"""Open an interface that exists as the overlay port of a segment, by packet sockets, and follow its state.

Place in the house: above packet, below engine. Nothing of the interface is changed but that it listens
to all frames (promiscuous), which ends with the sockets. A thread hears of links that change: lanes go on
when the interface is down or deleted, and carry frames again when it is back.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import socket
import struct
import threading
from contextlib import ExitStack, suppress
from typing import NamedTuple

from vxcore._fast.packet_overlay import PacketOverlayPort
from vxcore.config import Offload
from vxcore.errors import ConfigError
from vxcore.kernel_watch import LINKS, KernelWatch
from vxcore.packet import SOL_PACKET, RingSize, packet_socket, received, ring_drops, set_ring, share
from vxcore.parts import Part, descriptors, sockets
from vxcore.ports import attach_filter, offload_state, set_buffer
from vxcore.wire import ETH_LEN

log = logging.getLogger("vxcore")

# linux/if_packet.h
_ADD_MEMBERSHIP, _IGNORE_OUTGOING = 1, 23  # the second since Linux 4.20
_MR_PROMISC = 1
_FANOUT_FLAG_IGNORE_OUTGOING = 0x4000  # Linux 5.9; before, received() alone sees to it
_ETH_P_ALL = 3
_SO_SNDBUFFORCE = 32
# linux/sockios.h, linux/if.h, linux/if_arp.h
_SIOCGIFFLAGS, _SIOCGIFMTU, _SIOCGIFHWADDR = 0x8913, 0x8921, 0x8927
_IFF_UP = 1
_ARPHRD_ETHER = 1

_TAG_LEN = 4
_LARGEST_SLOT = 9018  # a jumbo frame; larger ones come another way
_USO_SINCE = (6, 2)


class Link(NamedTuple):
    """An interface at one time."""

    number: int
    up: bool
    mtu: int
    kind: int


def look_at(name: str) -> Link | None:
    """The interface of that name, or None."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            number = socket.if_nametoindex(name)
            flags, mtu, kind = (
                struct.unpack_from(form, fcntl.ioctl(sock, request, struct.pack("16s24x", name.encode())), 16)
                for request, form in ((_SIOCGIFFLAGS, "H"), (_SIOCGIFMTU, "i"), (_SIOCGIFHWADDR, "H"))
            )
        except OSError:
            return None
        return Link(number, bool(flags[0] & _IFF_UP), mtu[0], kind[0])


def receiver_on(name: str, ring: RingSize, vnet: bool = True) -> socket.socket:
    """A packet socket with a ring for all that an interface receives, and nothing that it sends.

    All options come first: once it is bound, frames come.
    """
    sock = packet_socket(vnet=vnet)
    try:
        attach_filter(sock, received())
        with suppress(OSError):  # it spares the kernel work
            sock.setsockopt(SOL_PACKET, _IGNORE_OUTGOING, 1)
        set_ring(sock, ring)
        sock.bind((name, _ETH_P_ALL))
    except BaseException:
        sock.close()
        raise
    return sock


def listen_to_all(sock: socket.socket, index: int) -> None:
    """Frames for the MAC addresses of others, too, those of the remotes' hosts, while the socket is open."""
    request = struct.pack("=iHH8x", index, _MR_PROMISC, 0)
    sock.setsockopt(SOL_PACKET, _ADD_MEMBERSHIP, request)


class PacketOverlay:
    """The packet sockets of a segment on an interface: a receiver with a ring and a sender for each lane.

    Several receivers share a fanout group, by which frames of one flow stay with one of them. `most` is
    the MTU that the underlay leaves; a larger one of the interface is warned of. Raises ConfigError when
    there is no such Ethernet interface, PermissionError, UnsupportedError when the kernel lacks what is
    needed, OSError otherwise.
    """

    def __init__(
        self,
        name: str,
        most: int,
        n_lanes: int = 1,
        offload: Offload | None = None,
        handed: Part | None = None,
    ) -> None:
        self.name = name
        self._offload = offload or Offload()
        self._vnet = self._offload.packet_vnet
        self.uso = self._vnet and _kernel() >= _USO_SINCE
        self._link = self._require_ethernet() if handed is None else Link(*handed.facts["link"])
        self.mtu = self._link.mtu
        self.ring = RingSize.fit_for(min(self.mtu + ETH_LEN + _TAG_LEN, _LARGEST_SLOT))
        self.receivers: list[socket.socket] = []
        self.senders: list[socket.socket] = []
        self._ports: list[PacketOverlayPort] = []
        self._dropped = 0
        self._lock = threading.Lock()
        with ExitStack() as undo:
            undo.callback(self._close_sockets)
            if handed is None:
                self._open_sockets(n_lanes)
            else:
                socks = sockets(handed.fds)
                self.receivers, self.senders = socks[:n_lanes], socks[n_lanes:]
                self.ring = RingSize(*handed.facts["ring"])
            self._watch = KernelWatch(LINKS, self._follow)
            undo.pop_all()
        self._say_what_is_odd(most)

    def _require_ethernet(self) -> Link:
        link = look_at(self.name)
        if link is None:
            raise ConfigError(
                f'{self.name}: there is no such device; a port of kind "packet" needs one that exists'
            )
        if link.kind != _ARPHRD_ETHER:
            raise ConfigError(
                f'{self.name} is no Ethernet device; a port of kind "packet" is a veth, a bridge port, a NIC'
            )
        return link

    def _say_what_is_odd(self, most: int) -> None:
        if self.mtu > most:
            log.warning(
                "%s: its MTU is %d and the underlay carries %d: larger packets are dropped and their senders"
                " told; `ip link set %s mtu %d`, and of what is behind it, spares them that",
                *(self.name, self.mtu, most, self.name, most),
            )
        if not self._link.up:
            log.warning("%s is down: no frames until it is up", self.name)

    # The sockets

    def _open_sockets(self, n_lanes: int) -> None:
        for _ in range(n_lanes):
            self.receivers.append(receiver_on(self.name, self.ring, self._vnet))
            self.senders.append(self._sender())
        share(self.receivers, _FANOUT_FLAG_IGNORE_OUTGOING)
        listen_to_all(self.receivers[0], self._link.number)

    def _sender(self) -> socket.socket:
        sock = packet_socket(vnet=self._vnet)
        try:
            set_buffer(sock, _SO_SNDBUFFORCE, socket.SO_SNDBUF)
            sock.bind((self.name, 0))
        except BaseException:
            sock.close()
            raise
        return sock

    # What the engine calls

    def port(self, lane: int, segment: int) -> PacketOverlayPort:
        """The sockets of one lane."""
        receiver, sender = self.receivers[lane].fileno(), self.senders[lane].fileno()
        port = PacketOverlayPort(
            *(self.name, receiver, sender, self.mtu, segment, self.ring.blocks, self.ring.slot_len),
            vnet=self._vnet,
            uso=self.uso,
        )
        self._ports.append(port)
        return port

    def part(self) -> Part:
        return Part(descriptors([*self.receivers, *self.senders]), {"ring": self.ring, "link": self._link})

    def inherit(self) -> None:
        """There is nothing to put back."""

    def offloads(self) -> dict[str, str]:
        state = offload_state(self._offload.packet_vnet, True)
        for error in (port.gso_error for port in self._ports if port.gso_error):
            state = f"refused by the kernel: {os.strerror(error)}"
        return {"packet_vnet": state}

    def overruns(self) -> int:
        """Frames that the kernel dropped because our rings were full."""
        with self._lock:
            self._dropped += sum(ring_drops(sock) for sock in self.receivers)
            return self._dropped

    def close(self) -> None:
        self._watch.close()
        self._close_sockets()

    def _close_sockets(self) -> None:
        for sock in [*self.receivers, *self.senders]:
            sock.close()
        self.receivers.clear()
        self.senders.clear()

    # The interface changes

    def _follow(self) -> None:
        """Say what became of the interface, once, and use it again when it is back."""
        before, now = self._link, look_at(self.name)
        if now is None or now.kind != _ARPHRD_ETHER:
            if before.number:
                log.warning("%s is gone: no frames until there is a device of that name", self.name)
                self._link = before._replace(number=0)
            return
        if now != before:
            self._link = now
            self._take_up(before, now)

    def _take_up(self, before: Link, now: Link) -> None:
        if now.number != before.number:
            self._move_to(now)
        elif now.up != before.up:
            log.warning("%s is %s", self.name, "up again" if now.up else "down: no frames until it is up")
        for port in self._ports:
            port.mtu = now.mtu
        self.mtu = now.mtu

    def _move_to(self, link: Link) -> None:
        """The name belongs to another device now. What shares a fanout group cannot be bound anew."""
        try:
            for sender in self.senders:
                sender.bind((self.name, 0))
            for receiver in self.receivers:
                receiver.bind((self.name, _ETH_P_ALL))
            listen_to_all(self.receivers[0], link.number)
        except OSError as error:
            log.error("%s is back, but not for us: %s; start vxcore anew", self.name, error.strerror)
            return
        log.warning("%s is back", self.name)


def _kernel() -> tuple[int, ...]:
    """Major and minor number of the running kernel's release."""
    return tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
