"""The network devices of Docker's networks: a TAP for each, and a macvlan device on it for each container.

Place in the house: in docker, above ports. All are of this host's network namespace until Docker moves a
container's device; each says by its alias (``ip link show``) whose it is, so that what was left behind can be
told from what is somebody else's. A macvlan device goes with the namespace it is in, however that ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute  # type: ignore[import-untyped]
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]

from vxcore.errors import ConfigError, UnsupportedError
from vxcore.ports import open_tun

_TUNSETPERSIST = 0x400454CB  # linux/if_tun.h
_IFF_NOARP = 0x80  # linux/if.h
_MACVLAN_MODE_BRIDGE = "bridge"
_ALIAS = "vxcore docker "


@contextmanager
def _links(what: str) -> Iterator[IPRoute]:
    """A netlink socket; what it raises becomes an OSError that names `what`."""
    with IPRoute() as route:
        try:
            yield route
        except NetlinkError as error:
            raise OSError(error.code, f"{what}: {os.strerror(error.code)}") from None


def _find(route: IPRoute, name: str) -> Any:
    indexes = route.link_lookup(ifname=name)
    return route.get_links(indexes[0])[0] if indexes else None


def make_tap(name: str, network_id: str, *, multi_queue: bool) -> None:
    """A TAP that stays until it is deleted, or the one that is there already.

    This host takes no part in what it carries: no ARP, no IPv6, and IPv4 from it is refused, for nothing is
    routed to it. Raises ConfigError when somebody else has a device of that name.
    """
    with _links(name) as route, ExitStack() as undo:
        existing = _find(route, name)
        if existing is not None and existing.get_attr("IFLA_IFALIAS") != _ALIAS + network_id:
            raise ConfigError(f"{name}: there is a device of that name; delete it, or choose another VNI")
        if existing is None:
            _make_persistent(name, multi_queue)
            undo.callback(delete, name)
        index = route.link_lookup(ifname=name)[0]
        route.link("set", index=index, ifalias=_ALIAS + network_id, flags=_IFF_NOARP, change=_IFF_NOARP)
        _shut(name)
        route.link("set", index=index, state="up")
        undo.pop_all()


def delete_tap(name: str, network_id: str) -> None:
    """Delete the TAP of a network; one that is not there, or is somebody else's, is no error."""
    with _links(name) as route:
        link = _find(route, name)
        if link is not None and link.get_attr("IFLA_IFALIAS") == _ALIAS + network_id:
            route.link("del", index=link["index"])


def _make_persistent(name: str, multi_queue: bool) -> None:
    fd = open_tun(name, multi_queue)
    try:
        fcntl.ioctl(fd, _TUNSETPERSIST, 1)
    finally:
        os.close(fd)


def _shut(name: str) -> None:
    for setting, value in (("ipv4/conf/{}/rp_filter", "1"), ("ipv6/conf/{}/disable_ipv6", "1")):
        with suppress(FileNotFoundError):  # a kernel without IPv6
            Path("/proc/sys/net", setting.format(name)).write_text(value)


def make_end(name: str, tap: str, mac: str) -> None:
    """A container's device on a network's TAP, in the place of one of that name, with the TAP's MTU."""
    delete(name)
    with _links(name) as route:
        below = _find(route, tap)
        if below is None:
            raise OSError(errno.ENODEV, f"{tap}: there is no such device any more; start vxcore anew")
        try:
            route.link(
                "add",
                ifname=name,
                kind="macvlan",
                link=below["index"],
                macvlan_mode=_MACVLAN_MODE_BRIDGE,
                address=mac,
                mtu=below.get_attr("IFLA_MTU"),
            )
        except NetlinkError as error:
            if error.code == errno.EOPNOTSUPP:
                raise UnsupportedError("no macvlan devices; the kernel's macvlan module is needed") from None
            raise
        route.link("set", index=route.link_lookup(ifname=name)[0], ifalias=f"{_ALIAS}end")


def delete(name: str) -> None:
    """Delete a device; one that is not there is no error."""
    with _links(name) as route:
        for index in route.link_lookup(ifname=name):
            route.link("del", index=index)


def left_behind(known: set[str]) -> list[str]:
    """The TAPs of networks that are not among the `known` IDs."""
    with _links("devices") as route:
        aliases = {link.get_attr("IFLA_IFNAME"): link.get_attr("IFLA_IFALIAS") for link in route.get_links()}
    taps = {name: alias.removeprefix(_ALIAS) for name, alias in aliases.items() if _is_of_a_tap(alias)}
    return [name for name, network_id in taps.items() if network_id not in known]


def _is_of_a_tap(alias: str | None) -> bool:
    return alias is not None and alias.startswith(_ALIAS) and alias != f"{_ALIAS}end"
