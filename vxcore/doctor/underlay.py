"""The underlay: our addresses and port, the ways to the remotes and what fits on them, a packet to ourselves.

Place in the house: part of doctor, above finding.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import structs
from pyroute2 import IPRoute  # type: ignore[import-untyped]
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]

from vxcore import ports
from vxcore.config import Underlay
from vxcore.doctor.finding import OK, WARNING, WRONG, Check, Finding, Subject
from vxcore.ports import OVERHEAD, IPAddress

_MOST = 10  # findings of a kind about remotes; of more it says how many
_ETHERNET_MTU = 1500
_ANSWER_S = 1.0
_PROBE_HEADER = bytes.fromhex("08000000fffffe00")  # RFC 7348 section 5, VNI 16777214
_PROBE_LEN = 200
_IFF_UP = 1  # linux/if.h
_BY_SINGLE = {4: "without a UDP checksum", 6: "with a UDP checksum"}
_BY_RUN = "with a UDP checksum"


class Way(NamedTuple):
    """How packets go to a remote: by which device, with which MTU."""

    remote: IPAddress
    device: str
    mtu: int

    @property
    def room(self) -> int:
        """The MTU that it leaves to segments."""
        return self.mtu - OVERHEAD[self.remote.version]


def addresses(subject: Subject) -> Iterator[Finding]:
    """Our addresses are this host's; or, for an underlay of kind "tap", they are not."""
    behind = subject.underlay.kind == "tap"
    for local in subject.locals:
        device = ports.device_of(local)
        if device is None and not behind:
            todo = "see `ip address`, and correct underlay.local or the host"
            yield Finding("address", WRONG, f"{local} is not an address of this host", todo)
        elif device is not None and behind:
            text = f'{local} is an address of {device}, and of an underlay of kind "tap" it must not be'
            yield Finding("address", WRONG, text, "give the VTEP an address of its own, see docs/ports.md")
        else:
            text = f"{local} is routed by this host" if behind else f"{local} is an address of {device}"
            yield Finding("address", OK, text)


def port(subject: Subject) -> Iterator[Finding]:
    """Nobody else has our UDP port."""
    number = subject.underlay.dstport
    for local in subject.locals or [IPv4Address("0.0.0.0")]:
        try:
            with socket.socket(_family(local), socket.SOCK_DGRAM) as sock:
                sock.bind(ports.socket_name(local, number, subject.underlay.dev))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                yield _taken(number, local)
            elif error.errno != errno.EADDRNOTAVAIL:  # of which the check of addresses tells
                yield Finding("port", WRONG, f"UDP port {number}: {error.strerror}", "see bind(2)")
        else:
            yield Finding("port", OK, f"UDP port {number} on {local} is free")


def _taken(number: int, local: IPAddress) -> Finding:
    owner = ports.port_owner(number)
    text = f"UDP port {number} on {local} is taken by {owner}"
    pid = owner.rpartition("(pid ")[2].rstrip(")")
    if pid.isdecimal() and b"vxcore" in _command_line(pid):
        return Finding("port", OK, f"{text}: a VTEP that runs")
    todo = (
        "end that, or set underlay.dstport, here and at the remotes; `ip -d link show type vxlan` lists the"
    )
    return Finding("port", WRONG, text, f"{todo} kernel's own devices")


def _command_line(pid: str) -> bytes:
    try:
        return Path("/proc", pid, "cmdline").read_bytes()
    except OSError:
        return b""


def _family(address: IPAddress) -> socket.AddressFamily:
    return socket.AF_INET6 if address.version == 6 else socket.AF_INET


def routes(subject: Subject) -> Iterator[Finding]:
    """There is a way to each remote, it fits, and it does not lead into the tunnel itself."""
    found = _ways(subject)
    ways = [way for way in found.values() if isinstance(way, Way)]
    lost = [_no_way(remote, way) for remote, way in found.items() if isinstance(way, OSError)]
    yield from _some(lost)
    own = {port.dev for segment in subject.segments for port in segment.overlays}
    yield from _some([_circle(way) for way in ways if way.device in own])
    if ways and not lost:
        by = ", ".join(sorted({way.device for way in ways}))
        yield Finding("route", OK, f"there are routes to all {len(ways)} remotes, by {by}")
    yield from _mtus(subject, {way.remote: way for way in ways})


def _some(findings: list[Finding]) -> Iterator[Finding]:
    """The first of many that are alike."""
    yield from findings[:_MOST]
    if len(findings) > _MOST:
        last = findings[-1]
        yield last._replace(what=f"and {len(findings) - _MOST} more like it")


def _ways(subject: Subject) -> dict[IPAddress, Way | OSError]:
    """The way to each remote, or why there is none."""
    with IPRoute() as route:
        return {remote: _way(remote, subject.underlay.dev, route) for remote in subject.remotes}


def _way(remote: IPAddress, dev: str | None, route: Any) -> Way | OSError:
    try:
        mtu = ports.route_to(remote, dev)[1]
        if dev is None:
            index = route.route("get", dst=str(remote))[0].get_attr("RTA_OIF")
            dev = socket.if_indextoname(index)
        return Way(remote, dev, mtu)
    except OSError as error:
        return error
    except NetlinkError as error:
        return OSError(error.code, f"no route to remote {remote}: {os.strerror(error.code)}")


def _no_way(remote: IPAddress, error: OSError) -> Finding:
    text = error.strerror or f"no route to remote {remote}"
    return Finding("route", WRONG, text, "add a route; see `ip route get` and `ip link`")


def _circle(way: Way) -> Finding:
    text = f"the route to remote {way.remote} leads into {way.device}, the device of a segment: a circle"
    return Finding("route", WRONG, text, "route the remotes' addresses by the underlay's device")


def _mtus(subject: Subject, ways: dict[IPAddress, Way]) -> Iterator[Finding]:
    """What hosts of a segment may send fits the narrowest way to its remotes (RFC 7348 section 4.3)."""
    wrong, mtus = [], _mtus_of_devices()
    for segment in subject.segments:
        peers = [*segment.remotes, *(entry.remote for entry in segment.fdb)]
        narrowest = min(
            (ways[peer] for peer in peers if peer in ways), key=lambda way: way.room, default=None
        )
        mtu = segment.mtu or mtus.get(segment.overlays[0].dev)
        if narrowest is None or mtu is None or mtu <= narrowest.room:
            continue
        dev, needed = segment.overlays[0].dev, mtu + OVERHEAD[narrowest.remote.version]
        text = (
            f"VNI {segment.vni}: {dev} has an MTU of {mtu}, and the route to {narrowest.remote} by"
            f" {narrowest.device} (MTU {narrowest.mtu}) has room for {narrowest.room}"
        )
        todo = (
            f"raise the MTU of {narrowest.device} and all behind it to {needed}, or lower that of {dev} and"
        )
        # What the MTU of a TAP is before its VTEP starts does not count.
        state = WARNING if segment.overlays[0].kind == "tap" and segment.mtu is None else WRONG
        wrong.append(Finding("mtu", state, text, f"{todo} its hosts to {narrowest.room}"))
    yield from _some(wrong)
    if ways and not wrong:
        narrowest = min(ways.values(), key=lambda way: way.room)
        text = f"segments may have an MTU of {narrowest.room}: the narrowest route is to {narrowest.remote}"
        yield Finding("mtu", OK, f"{text} by {narrowest.device}, MTU {narrowest.mtu}")


def _mtus_of_devices() -> dict[str, int]:
    with IPRoute() as route:
        return {link.get_attr("IFLA_IFNAME"): link.get_attr("IFLA_MTU") for link in route.get_links()}


def reverse_path(subject: Subject) -> Iterator[Finding]:
    """With a strict filter a packet must come by the device by which its sender is reached (RFC 3704)."""
    if subject.underlay.kind in ("packet", "xdp"):
        return
    local = next((each for each in subject.locals if each.version == 4), None)
    ours = ports.device_of(local) if local else None
    strict = ours is not None and _is_strict(ours)
    ways = [way for way in _ways(subject).values() if isinstance(way, Way) and way.remote.version == 4]
    wrong = []
    for way in ways if strict else ():
        if way.device not in (ours, "lo"):
            text = f"{way.remote} is reached by {way.device}, and {local} is on {ours}, which drops what"
            todo = f"`sysctl -w net.ipv4.conf.{ours}.rp_filter=2`, or mend the route"
            wrong.append(Finding("rp_filter", WARNING, f"{text} comes another way", todo))
    yield from _some(wrong)
    if not wrong and subject.remotes:
        text = f"strict on {ours}, and routes agree with it" if strict else "not strict"
        yield Finding("rp_filter", OK, f"the reverse-path filter is {text}")


def _is_strict(device: str) -> bool:
    values = [Path("/proc/sys/net/ipv4/conf", name, "rp_filter").read_text() for name in ("all", device)]
    return max(map(int, values)) == 1


def to_ourselves(subject: Subject) -> Iterator[Finding]:
    """A packet with each kind of checksum, by sockets as a VTEP has them, arrives here as it was sent."""
    if not _loopback_is_up():
        text = "lo is down: this host cannot send to itself, so that checksums could not be tried"
        yield Finding("checksum", WARNING, text, "`ip link set lo up`, which metrics on loopback need, too")
        return
    ours = [each for each in subject.locals if ports.device_of(each) and not each.is_link_local]
    for local in ours if subject.locals else [IPv4Address("127.0.0.1")]:
        try:
            lost = _lost(subject.underlay, local)
        except OSError as error:
            text = f"a packet from {local} to itself could not be sent: {error.strerror or error}"
            yield Finding("checksum", WRONG, text, "see the other findings")
            continue
        if lost:
            todo = (
                "look for a firewall's rules about lo (`nft list ruleset`), and for `tc filter show dev lo`"
            )
            text = f"packets from {local} to itself {' and '.join(lost)} do not arrive as they were sent"
            yield Finding("checksum", WRONG, text, todo)
        else:
            yield Finding("checksum", OK, f"packets from {local} to itself arrive as they were sent")


def _loopback_is_up() -> bool:
    """In a network namespace that is new it is not."""
    with IPRoute() as route:
        return bool(route.get_links(ifname="lo")[0]["flags"] & _IFF_UP)


def _lost(settings: Underlay, local: IPAddress) -> list[str]:
    """Which kinds of packets did not come; a free port stands for ours, where a VTEP may run."""
    free = structs.replace(settings, dstport=_free_port(local), source_ports=1, dev=None)
    underlay = ports.UdpUnderlay(free, local)
    try:
        (single, run), receiver = underlay.pool[0], underlay.receivers[0]
        target = ports.socket_name(local, free.dstport, free.dev)
        senders = {_BY_SINGLE[local.version]: single, _BY_RUN: run or single}
        sent = {_send(sender, target): kind for kind, sender in senders.items()}
        return sorted(sent[payload] for payload in _missing(set(sent), receiver))
    finally:
        underlay.close()


def _free_port(local: IPAddress) -> int:
    with socket.socket(_family(local), socket.SOCK_DGRAM) as sock:
        sock.bind((str(local), 0))
        return int(sock.getsockname()[1])


def _send(sender: socket.socket, target: tuple[object, ...]) -> bytes:
    """Send a packet that nobody else sends, and return it."""
    payload = _PROBE_HEADER + os.urandom(_PROBE_LEN)
    sender.sendto(payload, target)
    return payload


def _missing(payloads: set[bytes], receiver: socket.socket) -> set[bytes]:
    """Of some packets, those that have not come in time."""
    deadline = time.monotonic() + _ANSWER_S
    while payloads and select.select([receiver], [], [], max(0.0, deadline - time.monotonic()))[0]:
        payloads = payloads - {receiver.recv(2 * _PROBE_LEN)}
    return payloads


CHECKS: tuple[Check, ...] = (addresses, port, routes, reverse_path, to_ourselves)
