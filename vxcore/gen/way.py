"""The way of packets to a VTEP: by which device, to whose link address, and how large they may be.

Place in the house: beside plan; asks the kernel once, where a VTEP's nexthops go on listening to it.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from ipaddress import ip_address
from typing import Any, NamedTuple

from pyroute2 import IPRoute  # type: ignore[import-untyped]
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]

from vxcore.addresses import IPAddress
from vxcore.errors import ConfigError
from vxcore.nexthops import (
    ARPHRD_ETHER,
    NTF_USE,
    RTN_UNICAST,
    Neighbour,
    gateway_of,
    link_of,
    mtu_of,
    neighbour_key,
)
from vxcore.ports import scope_of

_WAIT_S = 3.0
_LOOK_S = 0.02


class Way(NamedTuple):
    """How packets for a VTEP leave this host past its IP stack."""

    device: str
    source: IPAddress | None
    """The address of ours that the kernel would use."""
    ethernet: tuple[bytes, bytes]
    """Destination and source of the Ethernet header."""
    mtu: int


def way_to(remote: IPAddress, dev: str | None = None) -> Way:
    """Look the route up, and have the kernel resolve the next hop.

    Raises OSError when there is no route or nobody answers for `remote`, ConfigError when the way is no
    Ethernet.
    """
    with IPRoute() as route:
        found = _route(route, remote, dev)
        link = route.get_links(found.get_attr("RTA_OIF"))[0]
        device = link.get_attr("IFLA_IFNAME")
        if found["type"] != RTN_UNICAST or link["ifi_type"] != ARPHRD_ETHER:
            raise ConfigError(f"to {remote}: reached by {device}, which leads to no other host over Ethernet")
        neighbour = Neighbour(link["index"], gateway_of(found) or remote)
        source = found.get_attr("RTA_PREFSRC")
        own = bytes.fromhex(link.get_attr("IFLA_ADDRESS").replace(":", ""))
        mtu = mtu_of(found) or link.get_attr("IFLA_MTU")
        ethernet = (_resolved(route, neighbour, device), own)
        return Way(device, ip_address(source) if source else None, ethernet, min(mtu, 65535))


def _route(route: IPRoute, remote: IPAddress, dev: str | None) -> Any:
    family = socket.AF_INET if remote.version == 4 else socket.AF_INET6
    by = {} if dev is None else {"oif": scope_of(dev)}
    try:
        return route.route("get", family=family, dst=str(remote), **by)[0]
    except NetlinkError as error:
        raise OSError(error.code, f"no route to {remote}: {os.strerror(error.code)}") from None


def _resolved(route: IPRoute, neighbour: Neighbour, device: str) -> bytes:
    """The link address of a next hop. The kernel is asked to resolve it as long as it does not know."""
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        try:
            link = link_of(route.neigh("get", **neighbour_key(neighbour))[0])
            if link is not None:
                return link
        except NetlinkError:
            route.neigh("replace", state=0, flags=NTF_USE, **neighbour_key(neighbour))
        time.sleep(_LOOK_S)
    raise OSError(errno.EHOSTUNREACH, f"{neighbour.address} on {device} does not answer")
