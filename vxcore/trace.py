"""A packet's way through the VTEP, in words: a step a line.

Place in the house: above watches and wire, below vtep. The lane shows what came and what became of it; the
steps in between follow from the verdict, for each verdict belongs to one step.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from ipaddress import ip_address

from vxcore import wire
from vxcore.addresses import format_mac
from vxcore.verdict import Verdict
from vxcore.watches import Sight

_PROTOCOLS = {1: "ICMP", 2: "IGMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}
_ETHERTYPES = {0x0806: "ARP", 0x8100: "802.1Q", 0x88A8: "802.1ad", 0x88CC: "LLDP"}
_LEARNED = {
    None: "its source address is known to be there, or nothing is learned here",
    "learned": "its source address is new: learned",
    "moved": "its source address was elsewhere: moved here",
    "held": "its source address has moved too often: it stays where it was",
    "refused": "its source address is set to be elsewhere: not learned",
    "overflow": "its source address is new, but there is no room to learn it",
}
_FORETOLD = "its source address is learned to be there, if it is not yet and this segment learns"
# The steps of a packet that comes in, by the verdicts that end it there.
_HEADER = {Verdict.TRUNCATED, Verdict.NO_VNI_FLAG, Verdict.RESERVED_BITS, Verdict.INNER_TOO_SHORT}
_POLICY = {Verdict.UNKNOWN_VNI, Verdict.WRONG_PORT, Verdict.SOURCE_REFUSED, Verdict.VNI_REFUSED}
_FRAME = {Verdict.INNER_VLAN, Verdict.ECN}


def headline(sight: Sight) -> str:
    """What it is, in one line: time, way, segment, frame, verdict."""
    time = datetime.fromtimestamp(sight.time_ns / 1e9).astimezone()
    return (
        f"{time:%H:%M:%S}.{sight.time_ns // 1000 % 1_000_000:06} {sight.way} vni {sight.vni} "
        f"{describe(sight.frame)}, {sight.frame_len} bytes: {sight.verdict.name.lower()}"
    )


def describe(frame: bytes) -> str:
    """Addresses and protocol of a frame."""
    if len(frame) < wire.ETH_LEN:
        return "no whole Ethernet header"
    inner = wire.dissect(frame)
    macs = f"{format_mac(frame[6:12])} > {format_mac(frame[0:6])}"
    if not inner.version:
        return f"{macs} {_ETHERTYPES.get(inner.protocol, f'type {inner.protocol:#06x}')}"
    source, destination = (str(ip_address(address)) for address in inner.addresses)
    if any(inner.ports):
        source, destination = f"{source} port {inner.ports[0]}", f"{destination} port {inner.ports[1]}"
    protocol = _PROTOCOLS.get(inner.protocol, f"protocol {inner.protocol}")
    return f"{macs} {protocol} {source} > {destination}"


def steps(sight: Sight, foretold: bool = False) -> list[str]:
    """What happened to it, or would, one thing after the other; the last is its end."""
    return list(_in(sight, foretold) if sight.way == "in" else _out(sight))


def _out(sight: Sight) -> Iterator[str]:
    kind = f"a super-frame in pieces of {sight.gso_size} bytes" if sight.gso_size else "a frame"
    yield f"{kind} of {sight.length} bytes from {sight.device or 'an overlay port that is gone'}"
    if sight.verdict in (Verdict.INNER_VLAN, Verdict.UNKNOWN_VLAN, Verdict.TUNNEL_LOOP):
        yield _dropped(sight)
        return
    group = bool(sight.data[0] & 1) if sight.data else False
    if sight.remote is not None:
        yield f"{format_mac(sight.data[0:6])} is known: at {sight.remote}"
    elif group:
        what = "broadcast" if sight.data[0:6] == b"\xff" * 6 else "multicast"
        yield f"{what}: for the flood set of VNI {sight.vni}"
    else:
        yield f"{format_mac(sight.data[0:6])} is not known: unknown unicast, for the flood set"
    if sight.verdict != Verdict.DELIVERED:
        yield _dropped(sight)
        return
    where = f"to {sight.remote}" if sight.remote is not None else "to each remote of the flood set"
    yield f"encapsulated with VNI {sight.vni}, and sent {where}"


def _in(sight: Sight, foretold: bool) -> Iterator[str]:
    joined = f", joined from pieces of {sight.gso_size} bytes" if sight.gso_size else ""
    yield f"{sight.length} bytes from {sight.source} port {sight.source_port}, TOS {sight.tos:#04x}{joined}"
    if sight.verdict in _HEADER:
        yield _dropped(sight)
        return
    flags = f"flags {sight.data[0]:#04x}, " if sight.data else ""
    yield f"VXLAN header: {flags}VNI {sight.vni}"
    if sight.verdict in _POLICY:
        yield _dropped(sight)
        return
    known = "is a remote" if sight.remote is not None else "is no remote, but let in"
    yield f"{sight.source} {known}, and may speak in VNI {sight.vni}"
    if sight.verdict in _FRAME:
        yield _dropped(sight)
        return
    yield _FORETOLD if foretold else _LEARNED[sight.learned]
    if sight.verdict != Verdict.DELIVERED:
        yield _dropped(sight)
        return
    yield f"decapsulated, and given to {sight.device or 'another spoke, or an overlay port that is gone'}"


def _dropped(sight: Sight) -> str:
    end = "ended here" if sight.verdict == Verdict.ANSWERED else "dropped"
    return f"{end}: {sight.verdict.name.lower()}: {sight.verdict.text}; {sight.verdict.remedy}"
