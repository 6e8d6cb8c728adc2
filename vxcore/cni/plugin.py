"""The commands of the CNI plugin, and its main program.

Place in the house: outermost of cni, below commands. A container has a veth pair: one end is its device, the
other is in the bridge of the segment, in which the segment's TAP is, too.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from ipaddress import IPv4Interface, ip_interface
from typing import Any, NamedTuple

from vxcore.addresses import mac_of
from vxcore.cni import masquerade
from vxcore.cni.exchange import (
    VERSIONS,
    Attachment,
    CniError,
    Code,
    Config,
    attachment,
    read_config,
    result,
    valid_attachments,
)
from vxcore.cni.ipam import delegate
from vxcore.cni.netlink import Link, Netlink, namespace, write_setting
from vxcore.control.client import Client, ControlError
from vxcore.errors import ConfigError

Environment = Mapping[str, str]
_ALL = {4: "0.0.0.0/0", 6: "::/0"}


def main() -> int:
    """Do what the environment says; the exit code. What a runtime is told goes to standard output."""
    environment = os.environ
    version = VERSIONS[-1]
    try:
        command = environment.get("CNI_COMMAND", "")
        if command == "VERSION":
            return _tell({"cniVersion": version, "supportedVersions": list(VERSIONS)})
        if command not in _COMMANDS:
            known = ", ".join(("VERSION", *_COMMANDS))
            raise CniError(Code.ENVIRONMENT, f"CNI_COMMAND {command!r}: known are {known}")
        config = read_config(sys.stdin.buffer.read(), command)
        version = config.version
        return _tell(_COMMANDS[command](config, environment))
    except CniError as error:
        _tell(error.told(version))
    except OSError as error:
        _tell(CniError(Code.SYSTEM, error.strerror or str(error)).told(version))
    except Exception as error:  # a defect of ours; even so, what a runtime can read
        _tell(CniError(Code.SYSTEM, f"internal error: {error!r}").told(version))
    return 1


def _tell(told: dict[str, Any] | None) -> int:
    if told is not None:
        print(json.dumps(told, indent=2))
    return 0


class Segment(NamedTuple):
    """What the VTEP says of a segment."""

    tap: str
    mtu: int


def _segment(config: Config, unreachable: Code) -> Segment:
    """Of the VTEP that runs; raises CniError, with this code when it does not."""
    try:
        with Client(config.control) as client:
            (row,) = client.rows("segment.list", vni=config.vni)
    except ControlError as error:
        raise CniError(unreachable, str(error)) from None
    except ConfigError as error:
        raise CniError(
            Code.CONFIG if unreachable is Code.TRY_AGAIN else unreachable, f"vni: {error}"
        ) from None
    if row["port"] != "tap":
        raise CniError(Code.CONFIG, f"vni: {config.vni} has a port of kind {row['port']}; it must be a TAP")
    return Segment(row["dev"], row["mtu"])


def _outside(where: Attachment) -> str:
    """The name of the end that is not in the container."""
    return "vxc" + hashlib.sha256(f"{where.container}/{where.device}".encode()).hexdigest()[:11]


def _alias(config: Config) -> str:
    return f"vxcore cni {config.name}"


# ADD


def add(config: Config, environment: Environment) -> dict[str, Any]:
    """A device in the container, on the segment, with its addresses; or nothing, and an error."""
    where = attachment(environment, netns=True)
    segment = _segment(config, Code.TRY_AGAIN)
    mtu = _mtu(config, segment)
    with Netlink() as links, ExitStack() as undo:  # which needs the links
        _ready_bridge(links, config, segment)
        undo.callback(_quietly, lambda: delegate(config, "DEL", environment))
        leased = delegate(config, "ADD", environment)
        mac = config.mac or _mac_of(leased)
        outside = _outside(where)
        links.delete(outside)  # what an attempt before has left
        undo.callback(_quietly, lambda: links.delete(outside))
        links.add_veth(outside, where.device, where.netns, mtu, mac, _alias(config))
        links.enslave(outside, config.bridge)
        if config.hairpin:
            links.allow_hairpin(outside)
        if config.masquerade:
            masquerade.set_up(config, outside, leased)
            undo.callback(_quietly, lambda: masquerade.forget(config, outside))
        if config.gateway:
            _be_gateway(links, config, leased)
        own = _dress_there(links, config, where, leased)
        made = [_described(links, config.bridge), _described(links, outside), own | {"sandbox": where.netns}]
        undo.pop_all()
    return result(config, made, leased)


def _mtu(config: Config, segment: Segment) -> int:
    if config.mtu is not None and config.mtu > segment.mtu:
        raise CniError(Code.CONFIG, f"mtu: {config.mtu} is more than the {segment.mtu} of the segment")
    return config.mtu or segment.mtu


def _quietly(call: Callable[[], object]) -> None:
    """What fails while a failure is undone is not what is to be told."""
    try:
        call()
    except (CniError, OSError) as error:
        print(f"vxcore-cni: {error}", file=sys.stderr)


def _mac_of(leased: Mapping[str, Any]) -> str | None:
    for ip in leased.get("ips") or ():
        address = ip_interface(ip["address"])
        if isinstance(address, IPv4Interface):
            return mac_of(address.ip)
    return None


def _ready_bridge(links: Netlink, config: Config, segment: Segment) -> None:
    """Have the bridge, and the segment's TAP in it."""
    if links.link(config.bridge) is None:
        _make_bridge(links, config.bridge, segment.mtu)
    bridge, tap = links.link(config.bridge), links.link(segment.tap)
    if bridge is None or bridge.kind != "bridge":
        raise CniError(Code.CONFIG, f"bridge: {config.bridge} is there, and no bridge; name another")
    if tap is None:
        raise CniError(
            Code.TRY_AGAIN, f"{segment.tap}: there is no such device here; where does the VTEP run?"
        )
    if tap.master not in (0, bridge.number):
        other = next((link.name for link in links.links() if link.number == tap.master), "another")
        raise CniError(Code.CONFIG, f"bridge: {segment.tap} is in {other}; name that one")
    if not tap.master:
        links.enslave(segment.tap, config.bridge)
    links.set_up(config.bridge, promiscuous=config.promiscuous)


def _make_bridge(links: Netlink, name: str, mtu: int) -> None:
    """With no address, not even one that IPv6 makes; another container may be doing the same."""
    try:
        links.add_bridge(name, mtu)
    except FileExistsError:
        return
    write_setting(f"ipv6/conf/{name}/disable_ipv6", "1")


def _be_gateway(links: Netlink, config: Config, leased: Mapping[str, Any]) -> None:
    for ip in leased.get("ips") or ():
        address = ip_interface(ip["address"])
        if not ip.get("gateway"):
            continue
        if address.version == 6:
            write_setting(f"ipv6/conf/{config.bridge}/disable_ipv6", "0")
            write_setting("ipv6/conf/all/forwarding", "1")
        else:
            write_setting("ipv4/ip_forward", "1")
        links.add_address(config.bridge, ip_interface(f"{ip['gateway']}/{address.network.prefixlen}"))


def _dress_there(
    links: Netlink, config: Config, where: Attachment, leased: Mapping[str, Any]
) -> dict[str, Any]:
    """Addresses and routes for the container; its host, and so control planes, know of them."""
    with namespace(where.netns), Netlink() as inside:
        own = _dress(inside, config, where.device, leased)
    addresses = [ip_interface(ip["address"]).ip for ip in leased.get("ips") or ()]
    links.tell_of(_outside(where), own["mac"], addresses)
    return own


def _dress(links: Netlink, config: Config, device: str, leased: Mapping[str, Any]) -> dict[str, Any]:
    """Addresses and routes, inside the container."""
    ips = list(leased.get("ips") or ())
    addresses = [ip_interface(ip["address"]) for ip in ips]
    if any(address.version == 6 for address in addresses):
        write_setting(f"ipv6/conf/{device}/disable_ipv6", "0")
    links.set_up(device)
    for address in addresses:
        links.add_address(device, address)
    for route in leased.get("routes") or ():
        to = ip_interface(route["dst"])
        links.add_route(device, to, route.get("gw") or _gateway_of(ips, to.version), _more_of(route))
    if config.default_route:
        for version, every in _ALL.items():
            if gateway := _gateway_of(ips, version):
                links.add_route(device, ip_interface(every), gateway)
    return _described(links, device)


def _more_of(route: Mapping[str, Any]) -> dict[str, int]:
    """What a route may have since 1.1."""
    keys = ("mtu", "advmss", "priority", "table", "scope")
    return {key: route[key] for key in keys if isinstance(route.get(key), int) and route[key] >= 0}


def _gateway_of(ips: list[dict[str, Any]], version: int) -> str | None:
    found = (ip["gateway"] for ip in ips if ip.get("gateway"))
    return next((gateway for gateway in found if ip_interface(gateway).version == version), None)


def _described(links: Netlink, name: str) -> dict[str, Any]:
    link = _require(links, name)
    return {"name": name, "mac": link.mac, "mtu": link.mtu}


def _require(links: Netlink, name: str) -> Link:
    link = links.link(name)
    if link is None:
        raise CniError(Code.NOT_AS_IT_WAS, f"{name}: there is no such device")
    return link


# DEL, CHECK, STATUS, GC


def delete(config: Config, environment: Environment) -> None:
    """What ADD has made, as far as it is there; no VTEP is needed."""
    where = attachment(environment, netns=False)
    delegate(config, "DEL", environment)
    with Netlink() as links:
        links.delete(_outside(where))
    if config.masquerade:
        masquerade.forget(config, _outside(where))


def check(config: Config, environment: Environment) -> None:
    """Whether all is as ADD has left it; raises CniError, saying what is not."""
    where = attachment(environment, netns=True)
    if config.previous is None:
        raise CniError(Code.CONFIG, "prevResult: missing; CHECK is about what ADD has said")
    segment = _segment(config, Code.TRY_AGAIN)
    delegate(config, "CHECK", environment)
    with Netlink() as links:
        bridge = _require(links, config.bridge)
        for name in (segment.tap, _outside(where)):
            if _require(links, name).master != bridge.number:
                raise CniError(Code.NOT_AS_IT_WAS, f"{name}: it is not in {config.bridge} any more")
    if config.masquerade and not masquerade.is_there(config, _outside(where)):
        raise CniError(Code.NOT_AS_IT_WAS, "ipMasq: its rules are gone")
    with namespace(where.netns), Netlink() as inside:
        _check_inside(inside, config.previous, where)


def _check_inside(links: Netlink, previous: Mapping[str, Any], where: Attachment) -> None:
    interfaces = list(previous.get("interfaces") or ())
    own = [n for n, each in enumerate(interfaces) if each.get("name") == where.device and each.get("sandbox")]
    link = _require(links, where.device)
    if not link.up:
        raise CniError(Code.NOT_AS_IT_WAS, f"{where.device}: it is down")
    if own and interfaces[own[-1]].get("mac", link.mac) != link.mac:
        raise CniError(Code.NOT_AS_IT_WAS, f"{where.device}: its MAC address is {link.mac} now")
    there = links.addresses(where.device)
    for ip in previous.get("ips") or ():
        if ip.get("interface") in own and str(ip_interface(ip["address"])) not in there:
            raise CniError(Code.NOT_AS_IT_WAS, f"{where.device}: it has not {ip['address']} any more")


def status(config: Config, environment: Environment) -> None:
    """Whether ADD could do its work; raises CniError if not.

    Where the segment is not served, containers that there are do not reach those of other hosts either.
    """
    _segment(config, Code.NOT_CONNECTED)
    delegate(config, "STATUS", environment)


def collect(config: Config, environment: Environment) -> None:
    """Delete what is left of containers of this network that are no more."""
    kept = {_outside(Attachment(container, device, "")) for container, device in valid_attachments(config)}
    with Netlink() as links:
        for link in links.links():
            if link.alias == _alias(config) and link.name not in kept:
                links.delete(link.name)
    if config.masquerade:
        masquerade.forget_others(config, kept)
    delegate(config, "GC", environment)


_COMMANDS: dict[str, Callable[[Config, Environment], dict[str, Any] | None]] = {
    "ADD": add,
    "DEL": delete,
    "CHECK": check,
    "STATUS": status,
    "GC": collect,
}
