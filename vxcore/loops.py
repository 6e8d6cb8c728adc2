"""Loops: remotes that the kernel would reach through our own overlay ports: tunnels through themselves.

Place in the house: above ports, below engine. Here a route is looked at when a remote or a port comes; of one
that changes later a lane knows its own packets (verdict TUNNEL_LOOP).
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterable, Mapping
from typing import Self

from vxcore.errors import ConfigError
from vxcore.ports import IPAddress

# linux/netlink.h, linux/rtnetlink.h
_HEADER, _ROUTE, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=8BI"), struct.Struct("=HH")
_REQUEST, _NEW_ROUTE, _GET_ROUTE = 1, 24, 26
_DST, _SRC, _OIF = 1, 2, 4
_ANSWER_LEN = 8192


class Routes:
    """The kernel's routes, asked by a socket of ours; a context manager. Used by one thread at a time."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._sock.bind((0, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def device_to(self, remote: IPAddress, source: IPAddress | None = None) -> int | None:
        """The number of the device that packets to a remote leave by; None when there is no route."""
        n_bits = remote.max_prefixlen
        family = socket.AF_INET if remote.version == 4 else socket.AF_INET6
        body = _ROUTE.pack(family, n_bits, n_bits if source else 0, *[0] * 6)
        body += _attribute(_DST, remote) + (_attribute(_SRC, source) if source else b"")
        self._sock.send(_HEADER.pack(_HEADER.size + len(body), _GET_ROUTE, _REQUEST, 1, 0) + body)
        answer = self._sock.recv(_ANSWER_LEN)
        length, kind, *_ = _HEADER.unpack_from(answer)
        return _device_in(answer[:length]) if kind == _NEW_ROUTE else None


def _attribute(kind: int, address: IPAddress) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(address.packed), kind) + address.packed


def _device_in(answer: bytes) -> int | None:
    at = _HEADER.size + _ROUTE.size
    while at + _ATTRIBUTE.size <= len(answer):
        length, kind = _ATTRIBUTE.unpack_from(answer, at)
        if kind == _OIF:
            return int.from_bytes(answer[at + 4 : at + 8], sys.byteorder)
        at += max(_ATTRIBUTE.size, (length + 3) & ~3)
    return None


def refuse_loops(
    routes: Routes, remotes: Iterable[IPAddress], sources: Mapping[int, IPAddress], devices: Mapping[str, int]
) -> None:
    """Raise ConfigError for the first remote that is reached through one of the devices, which have VNIs.

    `sources` are our own addresses, by family, if packets come from them where routes are looked up.
    """
    names = {}
    for name in devices:
        try:
            names[socket.if_nametoindex(name)] = name
        except OSError:
            continue  # it was deleted
    for remote in remotes if names else ():
        found = names.get(routes.device_to(remote, sources.get(remote.version)) or 0)
        if found is not None and not remote.is_multicast:
            raise ConfigError(
                f"remote {remote}: its route leads through {found}, the overlay port of VNI {devices[found]}:"
                " a tunnel through itself; route it by another device"
            )
