"""One captured packet, told layer by layer for a reader who has never seen VXLAN.

Place in the house: beside hosts, knows wire's constants only. A real capture's tool is tshark.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from struct import error as struct_error
from struct import unpack_from

from vxcore import wire
from vxcore.addresses import format_mac
from vxcore.lab.hosts import LabError, Namespace

_ETH_P_ALL = 3
_WAIT_S = 5.0
_ICMP = {1: {8: "echo request", 0: "echo reply"}, 58: {128: "echo request", 129: "echo reply"}}
_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6"}


class Capture:
    """Catches one VXLAN packet that carries ICMP echo on a device, from construction on."""

    def __init__(self, host: Namespace, device: str) -> None:
        self._packet: bytes | None = None
        self._socket = host.run(lambda: _listen(device))
        self._thread = threading.Thread(target=self._catch, daemon=True)
        self._thread.start()

    def _catch(self) -> None:
        with self._socket:
            try:
                while self._packet is None:
                    packet = self._socket.recv(65536)
                    if any("echo" in line for line in explain(packet)):
                        self._packet = packet
            except OSError:
                return  # the time is over

    def packet(self) -> bytes:
        """The packet; LabError if none came."""
        self._thread.join(_WAIT_S)
        if self._packet is None:
            raise LabError("no VXLAN packet was captured on the underlay")
        return self._packet


def _listen(device: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    sock.bind((device, _ETH_P_ALL))
    sock.settimeout(_WAIT_S)
    return sock


def explain(packet: bytes) -> list[str]:
    """A line per layer: its bytes, its name, its fields. What is cut short ends the list."""
    try:
        return list(_frame(packet, 0, "outer"))
    except (IndexError, ValueError, struct_error):
        return ["not a whole packet"]


def _line(start: int, length: int, name: str, what: str) -> str:
    return f"  bytes {start:3}-{start + length - 1:3}  {name:14} {what}"


def _frame(packet: bytes, at: int, where: str) -> Iterator[str]:
    destination, source = packet[at : at + 6], packet[at + 6 : at + 12]
    (ethertype,) = unpack_from("!H", packet, at + 12)
    what = f"{format_mac(source)} -> {format_mac(destination)}, type {ethertype:#06x}"
    yield _line(at, wire.ETH_LEN, f"{where} Ethernet", what)
    if ethertype in (wire.ETHERTYPE_IPV4, wire.ETHERTYPE_IPV6):
        yield from _ip(packet, at + wire.ETH_LEN, where)


def _ip(packet: bytes, at: int, where: str) -> Iterator[str]:
    four = packet[at] >> 4 == 4
    length = (packet[at] & 15) * 4 if four else wire.IPV6_LEN
    protocol, ttl = (packet[at + 9], packet[at + 8]) if four else (packet[at + 6], packet[at + 7])
    first, size = (at + 12, 4) if four else (at + 8, 16)
    source, destination = (ip_address(packet[n : n + size]) for n in (first, first + size))
    name = _PROTOCOLS.get(protocol, str(protocol))
    yield _line(at, length, f"{where} IPv{4 if four else 6}", f"{source} -> {destination}, ttl {ttl}, {name}")
    if protocol == wire.UDP:
        yield from _udp(packet, at + length, where)
    elif packet[at + length] in _ICMP.get(protocol, {}):
        yield from _icmp(packet, at + length, where, _ICMP[protocol][packet[at + length]])


def _udp(packet: bytes, at: int, where: str) -> Iterator[str]:
    source, destination, length, check = unpack_from("!HHHH", packet, at)
    what = f"port {source} (the flow's hash) -> {destination}, length {length}, checksum {check:#06x}"
    yield _line(at, wire.UDP_LEN, f"{where} UDP", what)
    if destination == wire.VXLAN_PORT:
        flags, vni = unpack_from("!II", packet, at + wire.UDP_LEN)
        what = f"flags {flags >> 24:#04x} (I: the VNI is valid), VNI {vni >> 8}"
        yield _line(at + wire.UDP_LEN, wire.VXLAN_LEN, "VXLAN", what)
        yield from _frame(packet, at + wire.UDP_LEN + wire.VXLAN_LEN, "inner")


def _icmp(packet: bytes, at: int, where: str, name: str) -> Iterator[str]:
    identifier, sequence = unpack_from("!HH", packet, at + 4)
    yield _line(at, len(packet) - at, f"{where} ICMP", f"{name} {sequence}, id {identifier}")
