"""Next hops: where packets for each remote go, by the kernel's routes and neighbours, kept fresh.

Place in the house: above ports and the compiled modules, below engine. One Python thread listens to
the kernel's netlink events and publishes header templates; lanes pick them up and never wait for it.
The kernel resolves: it is asked to (NTF_USE) when a link address is missing, and when one has not been
confirmed for a while, for it does not see the packets that would otherwise make it look.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

from pyroute2 import IPRoute  # type: ignore[import-untyped]
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]
from pyroute2.netlink.rtnl.marshal import MarshalRtnl  # type: ignore[import-untyped]

from vxcore._fast.codec import Tunnel
from vxcore._fast.hops import Hops
from vxcore.config import Underlay
from vxcore.errors import ConfigError
from vxcore.ports import IPAddress, scope_of

log = logging.getLogger("vxcore")

# linux/netlink.h, linux/rtnetlink.h: links; neighbours; IPv4 addresses, routes, rules; IPv6 the same
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_GROUPS = (1, 3, 5, 7, 8, 9, 11, 19)
RTN_UNICAST = 1
ARPHRD_ETHER = 1
_IFF_UP = 1
# linux/neighbour.h
NTF_USE = 0x01
_STALE, _FAILED = 0x04, 0x20
_VALID = 0x02 | _STALE | 0x08 | 0x10 | 0x40 | 0x80  # reachable, delay, probe, noarp, permanent

_SETTLE_S = 0.02  # one change of a route is several events
_RETRY_S = 1.0
_RETRY_MOST_S = 30.0
_START_S = 0.3
_MAX_IP_LEN = 65535
_DEFAULT_TTL = {4: "/proc/sys/net/ipv4/ip_default_ttl", 6: "/proc/sys/net/ipv6/conf/all/hop_limit"}


class Neighbour(NamedTuple):
    """Whom packets are sent to: a remote itself, or the router on the way to it."""

    ifindex: int
    address: IPAddress


class Way(NamedTuple):
    """How packets for a remote leave this host."""

    neighbour: Neighbour
    device: str
    source: bytes
    mtu: int


class UnreachableError(Exception):
    """There is no way to a remote at present; the message says why."""


class NextHops:
    """The next hops of `remotes`, numbered as in the tables, from ``start`` to ``close``.

    There may be up to `capacity` of them when others are added later. `on_known` is called with each for
    which a next hop was missing, when there is one.
    `table` is what lanes read. ``start`` raises ConfigError when a remote is reached by a device that
    is no Ethernet; one that has no route or does not answer is tried again and again.
    """

    def __init__(
        self,
        settings: Underlay,
        local: tuple[IPAddress, ...],
        remotes: list[IPAddress],
        capacity: int = 0,
        on_known: Callable[[IPAddress], object] = lambda remote: None,
    ) -> None:
        self._settings, self._on_known = settings, on_known
        self._locals = {address.version: address for address in local}
        self._remotes: list[IPAddress | None] = list(remotes)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.table = Hops(max(len(remotes), capacity), self._wake)
        self._ways: list[Way | str] = ["not looked up yet"] * len(remotes)
        self._users: dict[Neighbour, list[int]] = {}
        self._links: dict[Neighbour, bytes] = {}
        self._retries: dict[Neighbour, tuple[float, float]] = {}  # when to ask again, and how long until then
        self._stop = self._changed = False
        self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        self._thread = threading.Thread(target=self._run, name="vxcore-nexthops")

    # What the engine calls

    def start(self) -> None:
        """Look all remotes up, wait a moment for those who answer, and keep them fresh from then on."""
        self._events.setblocking(False)
        self._events.bind((0, 0))  # without a number of its own a socket gets no events
        for group in _GROUPS:
            self._events.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        with IPRoute() as route:
            self._look_up_all(route, strict=True)
            deadline = time.monotonic() + _START_S
            while self._retries and (left := deadline - time.monotonic()) > 0:
                self._serve(route, left)
        self._thread.start()

    def close(self) -> None:
        """Stop looking; lanes must have ended before."""
        self._stop = True
        if self._thread.is_alive():
            os.eventfd_write(self._wake, 1)
            self._thread.join()
        self._events.close()
        os.close(self._wake)

    def put(self, number: int, remote: IPAddress | None) -> None:
        """Look a remote up that is added while it runs, or no longer (None); from any thread."""
        while len(self._remotes) <= number:
            self._ways.append("not looked up yet")
            self._remotes.append(None)
        self._remotes[number] = remote
        self._changed = True
        os.eventfd_write(self._wake, 1)

    def are_known(self) -> bool:
        """Whether all remotes have been looked up, and those that can be reached have answered."""
        ways = [way for way, remote in zip(list(self._ways), list(self._remotes), strict=False) if remote]
        return not self._changed and all(
            isinstance(way, Way) and way.neighbour in self._links for way in ways
        )

    def states(self) -> dict[str, str]:
        """For each remote, in words, where its packets go or why nowhere."""
        ways = list(self._ways)
        return {str(r): self._state(way) for r, way in zip(list(self._remotes), ways, strict=False) if r}

    def _state(self, way: Way | str) -> str:
        if isinstance(way, str):
            return way
        link = self._links.get(way.neighbour)
        return f"{way.neighbour.address} on {way.device}, {link.hex(':') if link else 'not resolved'}"

    # The thread

    def _run(self) -> None:
        with IPRoute() as route:
            while not self._stop:
                try:
                    self._serve(route, self._until_retry())
                except Exception:
                    log.exception("next hops: looking all up again")
                    time.sleep(_RETRY_S)
                    self._look_up_all(route)

    def _until_retry(self) -> float | None:
        if not self._retries:
            return None
        return max(0.0, min(when for when, _ in self._retries.values()) - time.monotonic())

    def _serve(self, route: IPRoute, timeout: float | None) -> None:
        """One round: wait for the kernel, for a lane or for the time, and do what is to be done."""
        select.select([self._events.fileno(), self._wake], [], [], timeout)
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        changed, added = self._take_events(route), self._changed
        if added:
            self._changed = False
            self._look_up_all(route)
        if changed:
            time.sleep(_SETTLE_S)
            self._take_events(route)
            self._look_up_all(route)
        self._hurry(self.table.take_wanted())
        self._retry(route)

    def _take_events(self, route: IPRoute) -> bool:
        """Follow changes of neighbours; whether there were others, or some were lost."""
        changed = False
        try:
            while True:
                for event in MarshalRtnl().parse(self._events.recv(1 << 16)):
                    if event["event"] in ("RTM_NEWNEIGH", "RTM_DELNEIGH"):
                        self._neighbour_changed(route, event)
                    else:
                        changed = True
        except BlockingIOError:
            return changed
        except OSError:  # ENOBUFS: too many events for the socket's buffer
            return True

    # Routes

    def _look_up_all(self, route: IPRoute, strict: bool = False) -> None:
        self._users = {}
        for number, remote in enumerate(self._remotes):
            before = self._ways[number]
            if remote is None:
                self._ways[number] = "not looked up yet"
                self.table.withdraw(number)
                continue
            self._ways[number] = way = self._look_up(route, remote, strict)
            if isinstance(way, Way):
                self._users.setdefault(way.neighbour, []).append(number)
            elif way != before:
                log.warning("remote %s: %s", remote, way)
                self.table.withdraw(number)
        for known in (self._links, self._retries):
            for neighbour in known.keys() - self._users.keys():
                del known[neighbour]
        for neighbour in self._users:
            self._publish(neighbour)
            self._read(route, neighbour)

    def _look_up(self, route: IPRoute, remote: IPAddress, strict: bool) -> Way | str:
        try:
            return self._find_way(route, remote)
        except ConfigError as error:
            if strict:
                raise
            return str(error)
        except UnreachableError as error:
            return str(error)
        except NetlinkError as error:
            return f"no route: {os.strerror(error.code)}"

    def _find_way(self, route: IPRoute, remote: IPAddress) -> Way:
        if remote.is_multicast:  # on the one device, and no route has a say
            return self._way_by(route, scope_of(self._settings.dev or ""), remote)
        family = socket.AF_INET if remote.version == 4 else socket.AF_INET6
        wanted: dict[str, Any] = {"dst": str(remote), "src": str(self._locals[remote.version])}
        if self._settings.dev:
            wanted["oif"] = scope_of(self._settings.dev)
        found = route.route("get", family=family, **wanted)[0]
        if found["type"] != RTN_UNICAST:
            raise UnreachableError("the route leads to no other host")
        return self._way_by(route, found.get_attr("RTA_OIF"), remote, gateway_of(found), mtu_of(found))

    def _way_by(
        self, route: IPRoute, index: int, remote: IPAddress, gateway: IPAddress | None = None, mtu: int = 0
    ) -> Way:
        """By the device of that number; `mtu` is the route's own, 0: the device's."""
        link = route.get_links(index)[0]
        device = link.get_attr("IFLA_IFNAME")
        if link["ifi_type"] != ARPHRD_ETHER:
            raise ConfigError(
                f'remote {remote} is reached by {device}, which is no Ethernet; use kind = "udp"'
            )
        if not link["flags"] & _IFF_UP:
            raise UnreachableError(f"{device} is down")
        neighbour = Neighbour(link["index"], gateway or remote)
        source = bytes.fromhex(link.get_attr("IFLA_ADDRESS").replace(":", ""))
        return Way(neighbour, device, source, min(mtu or link.get_attr("IFLA_MTU"), _MAX_IP_LEN))

    # Neighbours

    def _read(self, route: IPRoute, neighbour: Neighbour) -> None:
        """Ask the kernel what it knows of a neighbour now. A group needs no asking."""
        if neighbour.address.is_multicast:
            self._links[neighbour] = group_mac(neighbour.address)
            self._publish(neighbour)
            return
        try:
            found = route.neigh("get", **neighbour_key(neighbour))[0]
        except NetlinkError:
            self._ask(route, neighbour)
        else:
            self._follow(route, neighbour, found)

    def _neighbour_changed(self, route: IPRoute, event: Any) -> None:
        address = event.get_attr("NDA_DST")
        neighbour = Neighbour(event["ifindex"], ip_address(address)) if address else None
        if neighbour is None or neighbour not in self._users or neighbour.address.is_multicast:
            return
        if event["event"] == "RTM_DELNEIGH":
            self._ask(route, neighbour)  # what is known stays good until somebody says otherwise
        else:
            self._follow(route, neighbour, event)

    def _follow(self, route: IPRoute, neighbour: Neighbour, found: Any) -> None:
        link = link_of(found)
        if link is not None:
            self._links[neighbour] = link
            self._retries.pop(neighbour, None)
            self._publish(neighbour)
            if found["state"] == _STALE:
                self._use(route, neighbour)
            return
        if found["state"] & _FAILED and self._links.pop(neighbour, None):
            log.warning("next hop %s does not answer", neighbour.address)
            self._publish(neighbour)
        self._ask(route, neighbour)

    def _publish(self, neighbour: Neighbour) -> None:
        """Tell lanes what is known of a neighbour, for all remotes that it is on the way to."""
        link = self._links.get(neighbour)
        for number in self._users[neighbour]:
            way = self._ways[number]
            if link is None:
                self.table.withdraw(number)
            elif isinstance(way, Way) and (remote := self._remotes[number]):
                known = self.table.knows(number)
                tunnel = self._tunnel(remote, link, way.source)
                self.table.publish(number, tunnel, neighbour.ifindex, way.mtu)
                if not known:
                    self._on_known(remote)

    def _tunnel(self, remote: IPAddress, link: bytes, source: bytes) -> Tunnel:
        settings, four = self._settings, remote.version == 4
        return Tunnel(
            local=self._locals[remote.version],
            remote=remote,
            vni=0,
            dst_port=settings.dstport,
            src_port=settings.srcport,
            ttl=(settings.ttl if isinstance(settings.ttl, int) else 0) or _default_ttl(remote),
            df=settings.df,
            udp_checksum=settings.udpcsum if four else not settings.udp6zerocsumtx,
            ethernet=(link, source),
        )

    def _ask(self, route: IPRoute, neighbour: Neighbour) -> None:
        """Let the kernel resolve it, and look again later; ever later while nobody answers."""
        if neighbour not in self._retries:
            self._use(route, neighbour)
            self._retries[neighbour] = time.monotonic() + _RETRY_S, _RETRY_S

    def _use(self, route: IPRoute, neighbour: Neighbour) -> None:
        with suppress(NetlinkError):  # its device went away: an event tells
            route.neigh("replace", state=0, flags=NTF_USE, **neighbour_key(neighbour))

    def _hurry(self, wanted: list[int]) -> None:
        """Packets were dropped for want of these: do not wait longer than the shortest time."""
        soon = time.monotonic() + _RETRY_S
        for number in wanted:
            way = self._ways[number]
            if isinstance(way, Way) and way.neighbour in self._retries:
                when, _ = self._retries[way.neighbour]
                self._retries[way.neighbour] = min(when, soon), _RETRY_S

    def _retry(self, route: IPRoute) -> None:
        now = time.monotonic()
        for neighbour, (when, pause) in list(self._retries.items()):
            if when <= now:
                self._use(route, neighbour)
                longer = min(2 * pause, _RETRY_MOST_S)
                self._retries[neighbour] = now + longer, longer
                self._read(route, neighbour)


def gateway_of(found: Any) -> IPAddress | None:
    """The router of a route, which may be of the other family."""
    via = found.get_attr("RTA_VIA")
    address = via["addr"] if via else found.get_attr("RTA_GATEWAY")
    return ip_address(address) if address else None


def mtu_of(route: Any) -> int:
    """The route's own; 0: it is that of the device."""
    metrics = route.get_attr("RTA_METRICS")
    return (metrics and metrics.get_attr("RTAX_MTU")) or 0


def link_of(neighbour: Any) -> bytes | None:
    """The Ethernet address that the kernel knows of a neighbour; None: none that holds."""
    link = bytes.fromhex((neighbour.get_attr("NDA_LLADDR") or "").replace(":", ""))
    return link if neighbour["state"] & _VALID and len(link) == 6 else None


def neighbour_key(neighbour: Neighbour) -> dict[str, Any]:
    """What names it in a request to the kernel."""
    family = socket.AF_INET if neighbour.address.version == 4 else socket.AF_INET6
    return {"ifindex": neighbour.ifindex, "dst": str(neighbour.address), "family": family}


def group_mac(group: IPAddress) -> bytes:
    """The Ethernet address of a group (RFC 1112 section 6.4, RFC 2464 section 7)."""
    if group.version == 6:
        return b"\x33\x33" + group.packed[12:]
    return b"\x01\x00\x5e" + bytes([group.packed[1] & 0x7F]) + group.packed[2:]


def _default_ttl(remote: IPAddress) -> int:
    """As the kernel's: the sysctl, and 1 to a group."""
    return 1 if remote.is_multicast else int(Path(_DEFAULT_TTL[remote.version]).read_text())
