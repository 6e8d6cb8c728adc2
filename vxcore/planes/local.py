"""What this host has to tell: in which segments it takes part, and whose addresses are behind its ports.

Place in the house: in planes, above vtep. The kernel knows who is there: the device of a TAP and macvlan
devices on it have addresses, and if a TAP is the port of a bridge, then the bridge's FDB and neighbours name
the hosts behind its other ports. A segment with several overlay ports has learned who is behind them. What
Docker gave its containers, Docker's driver says.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Self

from pyroute2 import IPRoute  # type: ignore[import-untyped]
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]

from vxcore.addresses import AddressError, MacAddress, in_order, mac_text, parse_unicast
from vxcore.config import IPAddress, Segment
from vxcore.errors import VxcoreError
from vxcore.events import Event
from vxcore.kernel_watch import ADDRESSES, LINKS, NEIGHBOURS, KernelWatch
from vxcore.told import Endpoint, Member, Route
from vxcore.vtep import Vtep

log = logging.getLogger("vxcore")

_SETTLE_S = 0.1
_AF_BRIDGE = 7  # linux/socket.h
_IFF_UP = 0x1
# linux/neighbour.h
_NUD_PERMANENT = 0x80
_VALID = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | _NUD_PERMANENT  # reachable, stale, delay, probe, noarp
_MOVES = ("learned", "moved", "aged")

Source = Callable[[], Iterable[Endpoint]]


class Local:
    """What a running VTEP has to tell; `changed` is called, from any thread, when that is not as it was.

    A context manager: it listens meanwhile, by a thread of its own.
    """

    def __init__(self, vtep: Vtep, changed: Callable[[], object]) -> None:
        self._vtep, self._changed = vtep, changed
        self._sources: list[Source] = []
        self._known: frozenset[Route] = frozenset()
        self._looking = threading.Lock()

    def __enter__(self) -> Self:
        self._watch = KernelWatch(LINKS | NEIGHBOURS | ADDRESSES, self.look, _SETTLE_S)
        self._vtep.on_segments(self._watch.again)
        self._vtep.on_event(self._heard, _MOVES)
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.close()

    def add_source(self, source: Source) -> None:
        """Let somebody else say whom there is; it says ``again`` when that has changed."""
        self._sources.append(source)
        self.again()

    def again(self) -> None:
        """Look up soon what there is."""
        self._watch.again()

    def now(self) -> frozenset[Route]:
        """All that there is to tell, as it was looked up last."""
        return self._known

    def look(self) -> None:
        """Look up what there is."""
        with self._looking:
            before = self._known
            try:
                self._known = frozenset(self._routes())
            except (OSError, NetlinkError, VxcoreError) as error:
                log.warning("who is behind the overlay ports is not known: %s", error)
            is_new = self._known != before
        if is_new:
            self._changed()

    def _heard(self, event: Event) -> None:
        if event.dev is not None:  # behind a port, or no longer
            self.again()

    def _routes(self) -> Iterator[Route]:
        vtep = self._vtep.locals[0]
        segments = self._vtep.settings.segments
        yield from (Member(segment.vni, vtep) for segment in segments)
        found: dict[tuple[int, MacAddress], Endpoint] = {}
        host = read_host()
        for segment in segments:
            for mac, addresses in _behind(segment, host).items():
                known = in_order(addresses)
                found[segment.vni, mac] = Endpoint(vni=segment.vni, mac=mac, vtep=vtep, addresses=known)
        several = any(len(segment.overlays) > 1 for segment in segments)
        for vni, mac in self._learned() if several else ():
            found.setdefault((vni, mac), Endpoint(vni=vni, mac=mac, vtep=vtep))
        here = {segment.vni for segment in segments}
        for source in self._sources:
            found |= {(each.vni, each.mac): each for each in source() if each.vni in here}
        yield from found.values()

    def _learned(self) -> Iterator[tuple[int, MacAddress]]:
        rows = self._vtep.snapshot("fdb")
        rows = rows[(rows["remote"] < 0) & (rows["port"] >= 0)]
        for vni, mac in zip(rows["vni"].tolist(), rows["mac"].tolist(), strict=True):
            yield vni, MacAddress(mac_text(mac))


class Device(NamedTuple):
    """A network device."""

    number: int
    mac: str
    up: bool
    master: int | None
    below: int | None
    kind: str


class Host(NamedTuple):
    """This network namespace: devices by name, and by the number of a device what there is to say of it."""

    devices: dict[str, Device]
    addresses: dict[int, set[IPAddress]]
    learned: dict[int, list[tuple[int, str]]]
    """By a bridge: the number of a port, and a MAC address behind it."""
    neighbours: dict[int, list[tuple[IPAddress, str]]]
    """IP and MAC address."""


def read_host() -> Host:
    """What the kernel says now."""
    host = Host({}, defaultdict(set), defaultdict(list), defaultdict(list))
    with IPRoute() as route:
        for link in route.get_links():
            host.devices[link.get_attr("IFLA_IFNAME")] = _device(link)
        for each in route.get_addr():
            address = _unicast(each.get_attr("IFA_LOCAL") or each.get_attr("IFA_ADDRESS"))
            host.addresses[each["index"]] |= set() if address is None else {address}
        for each in route.get_neighbours(family=_AF_BRIDGE):
            if each.get_attr("NDA_MASTER") is not None and not each["state"] & _NUD_PERMANENT:
                entry = each["ifindex"], each.get_attr("NDA_LLADDR") or ""
                host.learned[each.get_attr("NDA_MASTER")].append(entry)
        for each in route.get_neighbours():
            if each["state"] & _VALID and each.get_attr("NDA_LLADDR"):
                address = _unicast(each.get_attr("NDA_DST"))
                if address is not None:
                    host.neighbours[each["ifindex"]].append((address, each.get_attr("NDA_LLADDR")))
    return host


def _device(link: Any) -> Device:
    info = link.get_attr("IFLA_LINKINFO")
    return Device(
        number=link["index"],
        mac=link.get_attr("IFLA_ADDRESS") or "",
        up=bool(link["flags"] & _IFF_UP),
        master=link.get_attr("IFLA_MASTER"),
        below=link.get_attr("IFLA_LINK"),
        kind="" if info is None else info.get_attr("IFLA_INFO_KIND") or "",
    )


def _unicast(text: str | None) -> IPAddress | None:
    """None: it is of no single host; a device may have that of a group, too, which it takes part in."""
    try:
        return parse_unicast(text or "")
    except AddressError:
        return None


def _behind(segment: Segment, host: Host) -> dict[MacAddress, set[IPAddress]]:
    """Who is behind the TAPs of a segment; the kernel knows nobody behind VLANs and packet ports."""
    found: dict[MacAddress, set[IPAddress]] = {}
    for port in segment.overlays:
        device = host.devices.get(port.dev)
        if port.kind == "tap" and port.vlan is None and device is not None and device.up:
            found |= _behind_bridge(device, host) if device.master is not None else _on(device, host)
    return found


def _on(device: Device, host: Host) -> dict[MacAddress, set[IPAddress]]:
    """The device itself, and macvlan devices on it; without an IP address they take no part."""
    above = [each for each in host.devices.values() if each.kind == "macvlan" and each.below == device.number]
    with_addresses = [(each, host.addresses.get(each.number, set())) for each in (device, *above) if each.up]
    return {
        MacAddress(each.mac): set(addresses)
        for each, addresses in with_addresses
        if addresses and _is_unicast(each.mac)
    }


def _behind_bridge(port: Device, host: Host) -> dict[MacAddress, set[IPAddress]]:
    """The host behind its bridge, and who is behind the other ports of that."""
    assert port.master is not None
    bridge = next((each for each in host.devices.values() if each.number == port.master), None)
    if bridge is None or bridge.kind != "bridge":
        return {}
    found = _on(bridge, host)
    others = [(number, mac) for number, mac in host.learned.get(bridge.number, ()) if number != port.number]
    found |= {MacAddress(mac): set() for _, mac in others if mac not in found and _is_unicast(mac)}
    for number in {bridge.number, *(number for number, _ in others)}:  # CNI knows them by their ports
        for address, mac in host.neighbours.get(number, ()):
            if mac in found:
                found[MacAddress(mac)].add(address)
    return found


def _is_unicast(mac: str) -> bool:
    try:
        MacAddress(mac)
    except AddressError:
        return False
    return True
