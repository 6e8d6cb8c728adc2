"""The command ping: whether a host of a segment answers, and a VTEP, and how long that takes.

Place in the house: among the commands, above asking. It asks as a host behind the segment's TAP would.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from ipaddress import IPv4Address, ip_address
from typing import Any

from vxcore.addresses import format_mac, parse_mac, parse_unicast
from vxcore.commands import SYSTEM_ERROR, argument, at_least, command
from vxcore.commands.asking import CONTROL, JSON, connect, say, say_json
from vxcore.control.client import Client
from vxcore.errors import ConfigError
from vxcore.probes import Asker, Echo, IPAddress

_MOST_S = 30.0
_ETH_LEN = 14
_SEE_DROPS = "see `vxcore show drops`, here and at the other VTEP, and `vxcore trace --dropped`"


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= _MOST_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; seconds from 0 to {_MOST_S:.0f}")
    return value


@command(
    "ask a host of a segment, and the VTEP that it is behind, for an answer",
    "vxcore ping 42 10.42.0.7\n"
    "vxcore ping 42 02:00:00:00:00:07      # by an address that this host or the VTEP knows of it\n"
    "vxcore ping --vtep 192.0.2.2",
    argument("vni", nargs="?", metavar="VNI", help="the segment"),
    argument("target", nargs="?", metavar="IP|MAC", help="the host"),
    argument("--vtep", metavar="IP", help="instead: a VTEP, on the underlay"),
    argument("-c", "--count", type=at_least(1), default=3, metavar="N", help="how often (3)"),
    argument(
        "-i", "--interval", type=_seconds, default=0.2, metavar="S", help="seconds in between, to 30 (0.2)"
    ),
    argument(
        "-W",
        "--wait",
        type=_seconds,
        default=1.0,
        metavar="S",
        help="seconds to wait for an answer, to 30 (1)",
    ),
    argument("--from", dest="source", metavar="IPV4", help="our address in the segment (none: a probe)"),
    CONTROL,
    JSON,
)
def ping(arguments: argparse.Namespace) -> int:
    """Exit code 0 when every request was answered and a full frame arrives, else 1."""
    if arguments.vtep is not None:
        found = _vtep(parse_unicast(arguments.vtep), arguments)
    else:
        found = _host(arguments)
    if arguments.json:
        say_json(found)
    else:
        say(_lines(found))
    times = found["overlay_ms"] if "overlay_ms" in found else found["underlay_ms"]
    return 0 if None not in times and found["full"]["arrives"] else SYSTEM_ERROR


def _host(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.vni is None or arguments.target is None:
        raise ConfigError("ping: give a VNI and a host's address, or --vtep and a VTEP's")
    with connect(arguments) as vtep:
        segment = _segment(vtep, arguments.vni)
        target = _address(vtep, segment, arguments.target)
    source = None if arguments.source is None else parse_unicast(arguments.source)
    if source is not None and not isinstance(source, IPv4Address):
        raise ConfigError(f"--from {source}: an IPv4 address; over IPv6 the link-local one is used")
    with Asker(segment["dev"], source) as asker:
        length = asker.mtu + _ETH_LEN  # of the device, for hosts go by that, whatever the VTEP gave it
        answers = _repeat(arguments, lambda: asker.ask(target, arguments.wait))
        full = asker.ask(target, arguments.wait, length) if any(answers) else None
    known = [answer for answer in answers if answer is not None]
    mac = format_mac(known[-1][1]) if known else None
    with connect(arguments) as vtep:  # anew, for a VTEP hangs up on who is silent for long
        remote = _remote(vtep, segment["vni"], mac)
    return {
        "vni": segment["vni"],
        "target": str(target),
        "mac": mac,
        "remote": remote,
        "overlay_ms": [None if answer is None else round(1e3 * answer[0], 3) for answer in answers],
        "underlay_ms": _underlay(parse_unicast(remote), arguments) if remote else [],
        "full": {"bytes": length, "arrives": full is not None},
    }


def _segment(vtep: Client, vni: str) -> dict[str, Any]:
    if not vni.isdecimal():
        raise ConfigError(f"{vni}: the number of a segment, before the host's address")
    rows = list(vtep.rows("segment.list", vni=int(vni)))
    if not rows:
        raise ConfigError(f"VNI {vni}: there is no such segment")
    if rows[0]["port"] != "tap":
        raise ConfigError(f"VNI {vni}: its port is no TAP; ping from a host behind {rows[0]['dev']}")
    return rows[0]


def _address(vtep: Client, segment: dict[str, Any], target: str) -> IPAddress:
    """The IP address to ask for; of a link address, one that the VTEP or this host knows it to have."""
    try:
        return parse_unicast(target)
    except ConfigError:
        mac = format_mac(parse_mac(target))
    for row in vtep.rows("neighbour.list", vni=segment["vni"], mac=mac):
        return ip_address(row["address"])
    for address in _neighbours(segment["dev"], mac):
        return ip_address(address)
    raise ConfigError(f"{target}: neither the VTEP nor this host knows an IP address of it; give that")


def _neighbours(device: str, mac: str) -> list[str]:
    """The IP addresses that this host's neighbour table has for a link address."""
    from pyroute2 import IPRoute  # type: ignore[import-untyped]

    with IPRoute() as route:
        index = next(iter(route.link_lookup(ifname=device)), None)
        if index is None:
            raise ConfigError(f"{device} is not in this network namespace; `ip netns exec` goes into another")
        entries = [
            entry for entry in route.get_neighbours(ifindex=index) if entry.get_attr("NDA_LLADDR") == mac
        ]
    return [str(entry.get_attr("NDA_DST")) for entry in entries]


def _remote(vtep: Client, vni: int, mac: str | None) -> str | None:
    rows = vtep.rows("fdb.list", vni=vni, mac=mac) if mac else ()
    return next((row["remote"] for row in rows if row["remote"]), None)


def _repeat(arguments: argparse.Namespace, ask: Callable[[], Any]) -> list[Any]:
    answers = []
    for n in range(arguments.count):
        if n:
            time.sleep(arguments.interval)
        answers.append(ask())
    return answers


def _underlay(remote: IPAddress, arguments: argparse.Namespace) -> list[float | None]:
    with Echo(remote) as echo:
        times = _repeat(arguments, lambda: echo.ask(arguments.wait))
    return [None if each is None else round(1e3 * each, 3) for each in times]


def _vtep(address: IPAddress, arguments: argparse.Namespace) -> dict[str, Any]:
    from vxcore.ports import route_to

    with connect(arguments) as vtep:
        is_remote = any(row["address"] == str(address) for row in vtep.rows("remote.list"))
    mtu = route_to(address, None)[1]
    length = min(mtu, 65_535)
    with Echo(address) as echo:
        arrives = echo.ask(arguments.wait, length) is not None
    return {
        "target": str(address),
        "is_remote": is_remote,
        "underlay_ms": _underlay(address, arguments),
        "full": {"bytes": length, "arrives": arrives},
    }


def _lines(found: dict[str, Any]) -> list[str]:
    if "vni" not in found:
        known = "a remote" if found["is_remote"] else "no remote of this VTEP"
        head, kinds = f"{found['target']} is {known}", ["underlay"]
        what = f"a packet of {found['full']['bytes']} bytes, the MTU of the route,"
    else:
        behind = f", behind {found['remote']}" if found["remote"] else ""
        where = f"is at {found['mac']}{behind}" if found["mac"] else "does not answer"
        head, kinds = f"{found['target']} {where}", ["overlay", "underlay"]
        n_bytes = found["full"]["bytes"]
        what = f"a frame of {n_bytes} bytes, the device's MTU of {n_bytes - _ETH_LEN},"
    lines = [head, *(_times(kind, found[f"{kind}_ms"]) for kind in kinds if found[f"{kind}_ms"])]
    if found["full"]["arrives"]:
        return [*lines, f"{what} arrives"]
    if all(each is None for each in found[f"{kinds[0]}_ms"]):
        return [*lines, _SEE_DROPS]
    return [*lines, f"{what} does not arrive: `vxcore doctor FILE` compares MTUs"]


def _times(kind: str, times: list[float | None]) -> str:
    known = [each for each in times if each is not None]
    counted = f"{kind}: {len(known)} of {len(times)} answered"
    if not known:
        return counted
    mean = sum(known) / len(known)
    return f"{counted}; {min(known):.3f} / {mean:.3f} / {max(known):.3f} ms (least, mean, most)"
