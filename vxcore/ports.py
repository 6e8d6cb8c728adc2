"""Open what a lane reads and writes: TAP devices and UDP sockets, and leave the host as it was.

Place in the house: above config, below engine. Everything here is set-up: it runs once, in Python,
before a lane starts and after it has stopped. Failures are OSError with the device or port in the
message, or ConfigError when the user asked for what cannot be.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
import random
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Protocol

from pyroute2 import IPRoute  # type: ignore[import-untyped]

from vxcore._fast.port import OverlayPort
from vxcore._fast.tap import TapPort
from vxcore.config import Offload, Underlay
from vxcore.errors import ConfigError, UnsupportedError, VxcoreError
from vxcore.parts import Part, descriptors, sockets
from vxcore.wire import ETH_LEN, VXLAN_LEN

IPAddress = IPv4Address | IPv6Address
log = logging.getLogger("vxcore")

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETHDRSZ = 0x400454D8
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_MULTI_QUEUE = 0x0002, 0x1000, 0x4000, 0x0100
_TUN_F_CSUM, _TUN_F_TSO, _TUN_F_USO = 0x01, 0x02 | 0x04 | 0x08, 0x20 | 0x40
_VNET_HDR_LEN = 10

# linux/in.h, linux/in6.h, asm-generic/socket.h: what Python's socket module lacks
_IP_RECVTOS = 13
_IP_MTU_DISCOVER, _IP_MTU = 10, 14
_IPV6_MTU_DISCOVER, _IPV6_MTU = 23, 24
_IPV6_DONTFRAG = 62
_PMTUDISC_DO, _PMTUDISC_INTERFACE = 2, 4
_SO_NO_CHECK, _SO_ATTACH_FILTER = 11, 26
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_UDP_NO_CHECK6_TX, _UDP_NO_CHECK6_RX = 101, 102
_UDP_SEGMENT, _UDP_GRO = 103, 104  # linux/udp.h, Linux 4.18 and 5.0

_SO_MEMINFO, _SK_MEMINFO_DROPS = 55, 8  # linux/sock_diag.h

BUFFER_LEN = 4 << 20
_PORT_TRIES = 8
_DISCARD_PORT = 9  # RFC 863; nothing is sent there, a route only asks for some port
_HEADINGS = 2  # lines of /proc/net/dev
_TX_DROPPED = 11  # column of /proc/net/dev: the kernel transmits what we read
_IFF_UP = 1
_RUN_BYTES = 65000  # as in udp.pyx

# Bytes that encapsulation adds above the inner MTU: outer IP, UDP, VXLAN, inner Ethernet.
OVERHEAD = {4: 20 + 8 + 8 + 14, 6: 40 + 8 + 8 + 14}


class OverlayDevice(Protocol):
    """What the port of a segment is made from, whatever its kind: opened once, with a part for each lane.

    `mtu` is the device's, in bytes; `uso` says whether it takes UDP frames that are joined.
    """

    name: str
    mtu: int
    uso: bool

    def port(self, lane: int, segment: int) -> OverlayPort:
        """The part of one lane, for the segment of that number in the tables."""

    def offloads(self) -> dict[str, str]:
        """The state of those settings of `Offload` that are its own: "on", "off", or why not."""

    def overruns(self) -> int:
        """Frames that were lost because we did not take them in time."""

    def part(self) -> Part | None:
        """What another process goes on with; None: it makes its own."""

    def inherit(self) -> None:
        """It is ours now that was handed over, with what is to be put back at the end."""

    def close(self) -> None:
        """Leave the host as it was; the lanes have ended."""


# How one is opened: device, the MTU that the underlay leaves, number of lanes, what is allowed, and what
# another process has handed over in the place of opening it.
OpenOverlay = Callable[[str, int, int, Offload, Part | None], OverlayDevice]


def offload_state(wanted: bool, works: bool) -> str:
    """What there is to say of an offload that was probed when opened."""
    if not wanted:
        return "off"
    return "on" if works else "not known to this kernel"


class Tap:
    """A TAP device with one queue for each lane, made if missing.

    ``close`` puts MTU and state of one that existed back. `fds` are the queues. `superframes` and
    `uso` say whether the device hands us TCP and UDP frames uncut, and takes them. Raises
    ConfigError when the name belongs to something else, PermissionError, UnsupportedError without
    /dev/net/tun, OSError otherwise. A `handed` part is the same device, open and set up.
    """

    def __init__(
        self,
        name: str,
        mtu: int,
        n_queues: int = 1,
        offload: Offload | None = None,
        handed: Part | None = None,
    ) -> None:
        self.name = name
        self.mtu = mtu
        self.offload = offload or Offload()
        self.fds: list[int] = []
        self._before: tuple[int, bool] | None = None
        self._inherited: tuple[int, bool] | None = None
        self._dropped_before = 0
        self._missing = False
        if handed is not None:
            self._take(handed)
            return
        with ExitStack() as undo, IPRoute() as route:
            existing = _link(route, name)
            self._refuse_other_kinds(existing)
            undo.callback(self._close_queues)
            for _ in range(n_queues):
                self.fds.append(open_tun(name, n_queues > 1))
            self.superframes, self.uso = _ask_for_superframes(self.fds, name, self.offload)
            if existing is not None:
                self._before = existing.get_attr("IFLA_MTU"), bool(existing["flags"] & _IFF_UP)
                undo.callback(self._restore)
            elif self.superframes:
                self._fit_one_run(route)
            self._set(route, mtu, True)
            self._dropped_before = self.overruns()
            undo.pop_all()

    def _take(self, handed: Part) -> None:
        self.fds, facts = handed.fds, handed.facts
        self.mtu, self.superframes, self.uso = facts["mtu"], facts["superframes"], facts["uso"]
        self._inherited = facts["before"]
        self._dropped_before = self.overruns()

    def part(self) -> Part:
        facts = {"mtu": self.mtu, "superframes": self.superframes, "uso": self.uso, "before": self._before}
        return Part(list(self.fds), facts)

    def inherit(self) -> None:
        self._before = self._inherited

    def _refuse_other_kinds(self, existing: Any) -> None:
        if existing is None:
            return
        kind = existing.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "physical"
        if kind != "tun":
            raise ConfigError(
                f"{self.name} exists and is a {kind} device; give the name of a TAP, or a new name"
            )

    def _fit_one_run(self, route: IPRoute) -> None:
        """Ask for super-frames of no more frames than one message on the underlay carries.

        The kernel's own limit, 64 KiB without headers, needs a second message for the last few.
        """
        most = _RUN_BYTES // (self.mtu + ETH_LEN + VXLAN_LEN)
        with suppress(Exception):  # it only saves work
            route.link("set", index=route.link_lookup(ifname=self.name)[0], gso_max_segs=max(1, most))

    def _set(self, route: IPRoute, mtu: int, up: bool) -> None:
        try:
            index = route.link_lookup(ifname=self.name)[0]
            route.link("set", index=index, mtu=mtu)
            route.link("set", index=index, state="up" if up else "down")
        except Exception as error:  # pyroute2's NetlinkError is no OSError
            code = getattr(error, "code", errno.EIO)
            raise OSError(code, f"{self.name}: setting MTU {mtu} and up: {os.strerror(code)}") from None

    def _restore(self) -> None:
        if self._before is not None:
            with IPRoute() as route:
                self._set(route, *self._before)

    def reopen(self) -> bool:
        """Make the device again that somebody deleted, behind the same descriptors; False: not yet."""
        try:
            again = Tap(self.name, self.mtu, len(self.fds), self.offload)
        except (OSError, VxcoreError) as error:
            if not self._missing:
                log.error("%s was deleted and cannot be made again yet: %s", self.name, error)
            self._missing = True
            return False
        for mine, new in zip(self.fds, again.fds, strict=True):
            os.dup2(new, mine, inheritable=False)
            os.close(new)
        self._before, self._dropped_before, self._missing = again._before, again._dropped_before, False
        log.warning("%s was deleted and is made again, without the addresses that it had", self.name)
        return True

    def port(self, lane: int, segment: int) -> TapPort:
        """The queue of one lane."""
        return TapPort(self.name, self.fds[lane], self.mtu, segment, self.superframes)

    def offloads(self) -> dict[str, str]:
        return {
            "tap_tso": offload_state(self.offload.tap_tso, self.superframes),
            "tap_uso": offload_state(self.offload.tap_uso, self.uso),
        }

    def set_mtu(self, mtu: int) -> None:
        """Change the device's MTU. Raises OSError, naming the device."""
        with IPRoute() as route:
            self._set(route, mtu, True)
        self.mtu = mtu

    def overruns(self) -> int:
        """Frames that the kernel dropped because we did not read them in time; 0 if it cannot be told."""
        return tap_overruns([self])

    def overruns_of(self, dropped: dict[str, int]) -> int:
        """The same, from what `_tx_dropped` has found."""
        return dropped.get(self.name, self._dropped_before) - self._dropped_before

    def close(self) -> None:
        try:
            self._restore()
        except (OSError, IndexError):
            pass  # it was deleted under us: nothing is left to put back
        finally:
            self._close_queues()

    def _close_queues(self) -> None:
        while self.fds:
            os.close(self.fds.pop())


def tap_overruns(taps: Iterable[Tap]) -> int:
    """Frames that TAPs lost because we did not read them in time."""
    dropped = _tx_dropped()
    return sum(tap.overruns_of(dropped) for tap in taps)


def _tx_dropped() -> dict[str, int]:
    """Frames that the kernel could not send, by device; one that moved to another namespace is not there."""
    rows = (line.partition(":") for line in Path("/proc/net/dev").read_text().splitlines()[_HEADINGS:])
    return {name.strip(): int(columns.split()[_TX_DROPPED]) for name, _, columns in rows}


def _link(route: IPRoute, name: str) -> Any:
    indexes = route.link_lookup(ifname=name)
    return route.get_links(indexes[0])[0] if indexes else None


def device_of(address: IPAddress) -> str | None:
    """The device that has this address of ours."""
    with IPRoute() as route:
        for found in route.get_addr():  # IFA_ADDRESS is the other end's, where there is but one
            if str(address) == (found.get_attr("IFA_LOCAL") or found.get_attr("IFA_ADDRESS")):
                return socket.if_indextoname(found["index"])
    return None


def open_tun(name: str, multi_queue: bool, vnet_len: int = _VNET_HDR_LEN) -> int:
    """A queue of a TAP, made if missing, that puts a virtio-net header in front of each frame."""
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError as error:
        raise PermissionError(error.errno, "/dev/net/tun: no permission; run as root") from None
    except OSError as error:
        what = os.strerror(error.errno or errno.EIO)
        raise UnsupportedError(f"/dev/net/tun: {what}; the kernel's tun module is needed") from None
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_MULTI_QUEUE if multi_queue else 0)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("i", vnet_len))
        fcntl.ioctl(fd, _TUNSETOFFLOAD, 0)
    except OSError as error:
        os.close(fd)
        raise _tun_error(name, error, multi_queue) from None
    return fd


def set_offload(fds: list[int], name: str, flags: int) -> bool:
    """Say what each queue's reader can deal with (TUNSETOFFLOAD); False when the kernel refuses."""
    try:
        for fd in fds:
            fcntl.ioctl(fd, _TUNSETOFFLOAD, flags)
    except OSError as error:
        log.info("%s: offloads %#x refused: %s", name, flags, error.strerror)
        return False
    return True


def _ask_for_superframes(fds: list[int], name: str, offload: Offload) -> tuple[bool, bool]:
    """Ask for super-frames, with UDP's (Linux 6.2) if possible; which of the two we got."""
    tso = _TUN_F_CSUM | _TUN_F_TSO
    if not offload.tap_tso:
        return False, False
    if offload.tap_uso and set_offload(fds, name, tso | _TUN_F_USO):
        return True, True
    return set_offload(fds, name, tso), False


def _tun_error(name: str, error: OSError, multi_queue: bool) -> Exception:
    code = error.errno or errno.EIO
    if code == errno.EPERM:
        return PermissionError(
            code, f"{name}: no permission to open the TAP; root or CAP_NET_ADMIN is needed"
        )
    if code == errno.EBUSY:
        return ConfigError(f"{name} is in use by another process; give another name or end that process")
    if code == errno.EINVAL:
        other = "a TUN or single-queue device, but there is more than one lane" if multi_queue else ""
        return ConfigError(
            f"{name} exists with other settings ({other or 'a TUN or multi-queue device'});"
            " delete it or give another name"
        )
    return OSError(code, f"{name}: opening the TAP: {os.strerror(code)}")


Senders = tuple[socket.socket, socket.socket | None]
Options = Sequence[tuple[int, int, int]]


class UdpUnderlay:
    """The UDP sockets of one local address: a receiver for each lane, and a pool of source ports.

    RFC 7348 section 5 wants the source port to vary with the inner flow; a UDP socket has one port,
    so there are several, which send only: a filter lets nothing in. Each source port has a second
    socket for runs, if UDP_SEGMENT is to be used: such messages need a UDP checksum, while the others
    go without, as the RFC recommends over IPv4.
    """

    def __init__(
        self,
        settings: Underlay,
        local: IPAddress,
        n_lanes: int = 1,
        offload: Offload | None = None,
        handed: Part | None = None,
    ) -> None:
        self.local = local
        self.receivers: list[socket.socket] = []
        self.routes: list[socket.socket] = []
        self.pool: list[Senders] = []
        self._settings, self._n_lanes = settings, n_lanes
        self._overruns_before = 0
        offload = offload or Offload()
        if handed is not None:
            self._take(handed)
            return
        with ExitStack() as undo:
            undo.callback(self.close)
            for _ in range(n_lanes):
                self.receivers.append(self._receiver(settings.dstport))
                self.routes.append(_sender(settings, local, 0, ()))
            self.gro = offload.udp_gro and all(_turn_on(sock, _UDP_GRO, 1) for sock in self.receivers)
            self.gso = offload.udp_gso and _turn_on(self.receivers[0], _UDP_SEGMENT, 0)
            self._fill_pool(settings)
            undo.pop_all()

    def _take(self, handed: Part) -> None:
        socks, n = sockets(handed.fds), self._n_lanes
        self.gro, self.gso = handed.facts["gro"], handed.facts["gso"]
        self.receivers, self.routes, pool = socks[:n], socks[n : 2 * n], socks[2 * n :]
        if self.gso:
            self.pool = list(zip(pool[::2], pool[1::2], strict=True))
        else:
            self.pool = [(single, None) for single in pool]
        self._overruns_before = self.overruns()

    def part(self) -> Part:
        """What another process goes on with."""
        return Part(descriptors(self._sockets()), {"gro": self.gro, "gso": self.gso})

    def _sockets(self) -> list[socket.socket]:
        return [*self.receivers, *self.routes, *(sock for pair in self.pool for sock in pair if sock)]

    def _receiver(self, port: int) -> socket.socket:
        return _receiver(self._settings, self.local, port, _SHARE_PORT if self._n_lanes > 1 else ())

    def listen(self, port: int) -> tuple[list[socket.socket], list[socket.socket]]:
        """Take what is sent to one more port: none that hold it, and a receiver for each lane."""
        receivers: list[socket.socket] = []
        try:
            for _ in range(self._n_lanes):
                receivers.append(self._receiver(port))
                if self.gro:
                    _turn_on(receivers[-1], _UDP_GRO, 1)
        except BaseException:
            for sock in receivers:
                sock.close()
            raise
        return [], receivers

    def _fill_pool(self, settings: Underlay) -> None:
        first, last = settings.srcport
        wanted = settings.source_ports
        candidates = random.sample(range(first, last + 1), min(last - first + 1, wanted * _PORT_TRIES))
        for port in candidates:
            if len(self.pool) == wanted:
                return
            try:
                self.pool.append(self._senders(settings, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        if len(self.pool) < wanted:
            raise OSError(
                errno.EADDRINUSE, f"only {len(self.pool)} of {wanted} source ports are free in {first}-{last}"
            )

    def _senders(self, settings: Underlay, port: int) -> Senders:
        single = _sender(settings, self.local, port, ())
        if not self.gso:
            return single, None
        try:
            # Bound before, single let nobody share its port; from here on it does, with this one.
            single.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            return single, _sender(settings, self.local, port, (_SHARE, *_CHECKSUMS))
        except BaseException:
            single.close()
            raise

    def overruns(self) -> int:
        """Datagrams that the kernel dropped because we did not receive them in time."""
        return sum(dropped(sock) for sock in self.receivers) - self._overruns_before

    def close(self) -> None:
        for sock in self._sockets():
            sock.close()
        self.receivers.clear()
        self.routes.clear()
        self.pool.clear()


def dropped(sock: socket.socket) -> int:
    """How many datagrams the kernel had no room for in a socket's queue."""
    info = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 64)
    return int(struct.unpack_from("=I", info, 4 * _SK_MEMINFO_DROPS)[0])


def _udp_socket(settings: Underlay, version: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setblocking(False)
    if version == 6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if settings.dev:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, settings.dev.encode() + b"\0")
        except OSError as error:
            sock.close()
            if error.errno == errno.ENODEV:
                scope_of(settings.dev)
            raise OSError(error.errno, f"dev {settings.dev}: {os.strerror(error.errno or 0)}") from None
    return sock


def _turn_on(sock: socket.socket, option: int, value: int) -> bool:
    """Set an offload's option; False when this kernel does not know it."""
    try:
        sock.setsockopt(socket.IPPROTO_UDP, option, value)
    except OSError as error:
        log.info("UDP option %d refused: %s", option, error.strerror)
        return False
    return True


def _receiver(settings: Underlay, local: IPAddress, port: int, options: Options) -> socket.socket:
    sock = _udp_socket(settings, local.version)
    try:
        for option in options:
            sock.setsockopt(*option)
        set_buffer(sock, _SO_RCVBUFFORCE, socket.SO_RCVBUF)
        if local.version == 4:
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTOS, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
            sock.setsockopt(socket.IPPROTO_UDP, _UDP_NO_CHECK6_RX, int(settings.udp6zerocsumrx))
        _bind(sock, local, port, settings.dev)
    except BaseException:
        sock.close()
        raise
    return sock


def group_receiver(
    settings: Underlay, group: IPAddress, port: int, gro: bool, program: list[Instruction]
) -> socket.socket:
    """A UDP socket that gets what is sent to a group's port, if somebody joins it, and a filter lets in.

    Each such socket of a group gets a copy of every packet.
    """
    sock = _receiver(settings, group, port, (_SHARE,))
    try:
        attach_filter(sock, program)
        if gro:
            _turn_on(sock, _UDP_GRO, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def member(settings: Underlay, group: IPAddress) -> socket.socket:
    """Join a group on `dev`, until the socket is closed. Raises OSError, naming both."""
    dev = settings.dev or ""
    index, sock = scope_of(dev), _udp_socket(settings, group.version)
    try:
        if group.version == 4:
            request = struct.pack("=4s4xi", group.packed, index)  # ip_mreqn, linux/in.h
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        else:
            request = struct.pack("=16si", group.packed, index)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
    except OSError as error:
        sock.close()
        text = os.strerror(error.errno or errno.EIO)
        raise OSError(error.errno, f"group {group} cannot be joined on {dev}: {text}") from None
    return sock


_SHARE_PORT = ((socket.SOL_SOCKET, socket.SO_REUSEPORT, 1),)
_SHARE = (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
_CHECKSUMS = ((socket.SOL_SOCKET, _SO_NO_CHECK, 0), (socket.IPPROTO_UDP, _UDP_NO_CHECK6_TX, 0))


def _sender(settings: Underlay, local: IPAddress, port: int, options: Options) -> socket.socket:
    sock = _udp_socket(settings, local.version)
    try:
        attach_filter(sock, _NOTHING)
        set_buffer(sock, _SO_SNDBUFFORCE, socket.SO_SNDBUF)
        (_set_ipv4 if local.version == 4 else _set_ipv6)(sock, settings)
        for option in options:
            sock.setsockopt(*option)
        sock.bind(socket_name(local, port, settings.dev))
    except BaseException:
        sock.close()
        raise
    return sock


def _set_ipv4(sock: socket.socket, settings: Underlay) -> None:
    # Neither mode ever fragments here; INTERFACE leaves DF unset for routers on the way.
    discover = _PMTUDISC_DO if settings.df == "set" else _PMTUDISC_INTERFACE
    sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, discover)
    sock.setsockopt(socket.SOL_SOCKET, _SO_NO_CHECK, int(not settings.udpcsum))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    if isinstance(settings.ttl, int) and settings.ttl:  # to a group it is 1 otherwise
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, settings.ttl)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, settings.ttl)


def _set_ipv6(sock: socket.socket, settings: Underlay) -> None:
    sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DO)
    sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_DONTFRAG, 1)
    sock.setsockopt(socket.IPPROTO_UDP, _UDP_NO_CHECK6_TX, int(settings.udp6zerocsumtx))
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
    if isinstance(settings.ttl, int) and settings.ttl:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, settings.ttl)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, settings.ttl)


Instruction = tuple[int, int, int, int]
_NOTHING: list[Instruction] = [(0x06, 0, 0, 0)]  # return 0


def attach_filter(sock: socket.socket, program: list[Instruction]) -> None:
    """Let in what a classic BPF program lets in; its instructions are code, jt, jf, k (linux/filter.h)."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    fprog = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)


def port_keeper(settings: Underlay, local: IPAddress, port: int, joins: bool) -> socket.socket:
    """A UDP socket that has a port of ours and lets nothing in, for those who receive by other means.

    `joins` asks the kernel to join datagrams of one flow before anybody sees them (UDP_GRO).
    """
    sock = _udp_socket(settings, local.version)
    try:
        attach_filter(sock, _NOTHING)
        if joins:
            _turn_on(sock, _UDP_GRO, 1)
        _bind(sock, local, port, settings.dev)
    except BaseException:
        sock.close()
        raise
    return sock


def set_buffer(sock: socket.socket, force: int, ask: int) -> None:
    """Ask for a large buffer, with the option that needs privileges or with the one that does not."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, force, BUFFER_LEN)
    except PermissionError:  # as large as net.core.*mem_max allows
        sock.setsockopt(socket.SOL_SOCKET, ask, BUFFER_LEN)


def _bind(sock: socket.socket, local: IPAddress, port: int, dev: str | None) -> None:
    try:
        sock.bind(socket_name(local, port, dev))
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(f"local {local} is not an address of this host; see `ip address`") from None
        if error.errno == errno.EADDRINUSE:
            text = f"UDP port {port} on {local} is taken by {port_owner(port)}"
            raise OSError(error.errno, text) from None
        raise OSError(error.errno, f"UDP port {port} on {local}: {os.strerror(error.errno or 0)}") from None


def socket_name(
    address: IPAddress, port: int, dev: str | None
) -> tuple[str, int] | tuple[str, int, int, int]:
    """An address as Python's sockets take it; link-local ones and groups mean something on one device."""
    if address.version == 6 and (address.is_link_local or address.is_multicast) and dev is not None:
        return str(address), port, 0, scope_of(dev)
    return str(address), port


def scope_of(dev: str) -> int:
    """The index of a device. Raises ConfigError when there is none of that name."""
    try:
        return socket.if_nametoindex(dev)
    except OSError:
        raise ConfigError(f"dev {dev}: there is no such device") from None


def port_owner(port: int) -> str:
    """Who has a UDP port, in words: a process by name and pid, or the kernel."""
    inodes = set(_inodes_on(port))
    for fd in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(fd.readlink()).removeprefix("socket:[").removesuffix("]") in inodes:
                pid = fd.parts[2]
                return f"{Path('/proc', pid, 'comm').read_text().strip()} (pid {pid})"
        except OSError:
            continue  # it ended, or is not ours to see
    return "the kernel (a vxlan device?) or a process that cannot be seen from here"


def _inodes_on(port: int) -> Iterator[str]:
    for table in ("/proc/net/udp", "/proc/net/udp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port and fields[9] != "0":
                yield fields[9]


def route_to(remote: IPAddress, dev: str | None) -> tuple[IPAddress, int]:
    """The source address that the kernel would use towards `remote`, and the route's MTU in bytes.

    Raises OSError, naming the remote, when there is no route.
    """
    four = remote.version == 4
    with _udp_socket(Underlay(dev=dev), remote.version) as sock:
        try:
            sock.connect(socket_name(remote, _DISCARD_PORT, dev))
        except OSError as error:
            raise OSError(
                error.errno, f"no route to remote {remote}: {os.strerror(error.errno or 0)}"
            ) from None
        level, option = (socket.IPPROTO_IP, _IP_MTU) if four else (socket.IPPROTO_IPV6, _IPV6_MTU)
        source: Callable[[str], IPAddress] = IPv4Address if four else IPv6Address
        return source(sock.getsockname()[0].partition("%")[0]), sock.getsockopt(level, option)
