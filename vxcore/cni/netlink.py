"""Links, addresses and routes by rtnetlink(7): as much of it as attaching a container takes.

Place in the house: lowest of cni; knows nobody. Where the rest of vxcore uses pyroute2, this takes a
hundredth of its start-up time.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_interface
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

Interface = IPv4Interface | IPv6Interface
IPAddress = IPv4Address | IPv6Address

# linux/netlink.h
_REQUEST, _ACK, _DUMP, _REPLACE, _EXCL, _CREATE = 0x1, 0x4, 0x300, 0x100, 0x200, 0x400
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_NESTED = 0x8000
# linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/if_arp.h
_NEWLINK, _DELLINK, _GETLINK, _NEWADDR, _GETADDR, _NEWROUTE = 16, 17, 18, 20, 22, 24
_NEWNEIGH = 28
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBi")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 10, 18
_IFLA_IFALIAS, _IFLA_NET_NS_FD = 20, 28
_INFO_KIND, _INFO_DATA, _INFO_PORT_KIND, _INFO_PORT_DATA = 1, 2, 4, 5
_VETH_PEER, _BRPORT_HAIRPIN = 1, 4
_IFA_ADDRESS, _IFA_LOCAL, _IFA_F_NODAD = 1, 2, 0x02
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_METRICS, _RTA_TABLE = 1, 4, 5, 6, 8, 15
_RTAX_MTU, _RTAX_ADVMSS = 2, 8
_RT_TABLE_UNSPEC, _RT_TABLE_MAIN = 0, 254
_RTPROT_STATIC, _SCOPE_UNIVERSE, _SCOPE_LINK, _RTN_UNICAST = 4, 0, 253, 1
_IFF_UP, _IFF_PROMISC = 0x1, 0x100
# linux/neighbour.h, linux/socket.h
_NDA_DST, _NDA_LLADDR, _NUD_NOARP, _NUD_PERMANENT, _NTF_MASTER = 1, 2, 0x40, 0x80, 0x04
_AF_BRIDGE = 7
_CLONE_NEWNET = 0x40000000
_BUFFER_LEN = 1 << 18


class Link(NamedTuple):
    """A network device at one time."""

    number: int
    name: str
    mac: str
    mtu: int
    master: int
    """The index of the bridge that it is in; 0: none."""
    kind: str
    alias: str
    up: bool


@contextmanager
def namespace(path: str) -> Iterator[None]:
    """Be in the network namespace that a file names, for this thread. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "rb") as there, open("/proc/thread-self/ns/net", "rb") as here:  # noqa: PTH123
        if libc.setns(there.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"{path}: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            if libc.setns(here.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns: cannot go back")


class Netlink:
    """A socket of the network namespace that this thread is in; a context manager."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC)
        self._socket.settimeout(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    # Links

    def links(self) -> list[Link]:
        """All devices."""
        return [_link(body) for body in self._ask(_GETLINK, _DUMP, _LINK.pack(0, 0, 0, 0, 0), "links")]

    def link(self, name: str) -> Link | None:
        """The device of that name, or None."""
        try:
            number = socket.if_nametoindex(name)
            (body,) = self._ask(_GETLINK, _ACK, _LINK.pack(0, 0, number, 0, 0), name)
        except OSError:
            return None
        return _link(body)

    def add_bridge(self, name: str, mtu: int) -> None:
        """Make a bridge, without an address of its own."""
        info = _text(_INFO_KIND, "bridge")
        self._new(name, _text(_IFLA_IFNAME, name), _int(_IFLA_MTU, mtu), _nest(_IFLA_LINKINFO, info))

    def add_veth(self, name: str, peer: str, path: str, mtu: int, mac: str | None, alias: str) -> None:
        """Make a veth pair: `name` here, and `peer` in the network namespace at `path`."""
        with open(path, "rb") as there:  # noqa: PTH123
            inside = [_text(_IFLA_IFNAME, peer), _int(_IFLA_MTU, mtu), _int(_IFLA_NET_NS_FD, there.fileno())]
            if mac:
                inside.append(_attribute(_IFLA_ADDRESS, bytes.fromhex(mac.replace(":", ""))))
            other = _attribute(_VETH_PEER | _NESTED, _LINK.pack(0, 0, 0, 0, 0) + b"".join(inside))
            info = _nest(_IFLA_LINKINFO, _text(_INFO_KIND, "veth"), _nest(_INFO_DATA, other))
            self._new(name, _text(_IFLA_IFNAME, name), _int(_IFLA_MTU, mtu), info)
        self._change(name, _text(_IFLA_IFALIAS, alias))

    def enslave(self, name: str, bridge: str) -> None:
        """Put a device into a bridge, and set it up."""
        self._change(name, _int(_IFLA_MASTER, socket.if_nametoindex(bridge)), flags=_IFF_UP)

    def allow_hairpin(self, name: str) -> None:
        """Let the bridge send back by this device what came from there."""
        hairpin = _nest(_INFO_PORT_DATA, _attribute(_BRPORT_HAIRPIN, b"\1"))
        self._change(name, _nest(_IFLA_LINKINFO, _text(_INFO_PORT_KIND, "bridge"), hairpin))

    def set_up(self, name: str, *, promiscuous: bool = False) -> None:
        """Set a device up."""
        self._change(name, flags=_IFF_UP | (_IFF_PROMISC if promiscuous else 0))

    def delete(self, name: str) -> bool:
        """Delete a device; False: there is none."""
        try:
            index = socket.if_nametoindex(name)
        except OSError:
            return False
        self._ask(_DELLINK, _ACK, _LINK.pack(0, 0, index, 0, 0), name)
        return True

    def _new(self, name: str, *attributes: bytes) -> None:
        self._ask(_NEWLINK, _ACK | _CREATE | _EXCL, _LINK.pack(0, 0, 0, 0, 0) + b"".join(attributes), name)

    def _change(self, name: str, *attributes: bytes, flags: int = 0) -> None:
        head = _LINK.pack(0, 0, socket.if_nametoindex(name), flags, flags)
        self._ask(_NEWLINK, _ACK, head + b"".join(attributes), name)

    # Addresses and routes

    def addresses(self, name: str) -> list[str]:
        """The addresses of a device, with the lengths of their prefixes."""
        index, found = socket.if_nametoindex(name), []
        for body in self._ask(_GETADDR, _DUMP, _ADDRESS.pack(0, 0, 0, 0, 0), name):
            _, prefix_len, _, _, owner = _ADDRESS.unpack_from(body)
            own = _attributes(body[_ADDRESS.size :])
            if owner == index:
                packed = own.get(_IFA_LOCAL) or own[_IFA_ADDRESS]
                found.append(str(ip_interface((packed, prefix_len))))
        return found

    def add_address(self, name: str, address: Interface) -> None:
        """Give a device an address, which is used at once; one that it has is no error."""
        family, prefix_len = _family(address.version), address.network.prefixlen
        flags = _IFA_F_NODAD if address.version == 6 else 0
        body = _ADDRESS.pack(family, prefix_len, flags, 0, socket.if_nametoindex(name))
        packed = address.ip.packed
        body += _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed)
        with suppress(FileExistsError):
            self._ask(_NEWADDR, _ACK | _CREATE | _EXCL, body, f"{name}: {address}")

    def add_route(
        self, name: str, to: Interface, gateway: str | None, more: Mapping[str, int] | None = None
    ) -> None:
        """A route by a device; one that there is is no error. `more`: keys of CNI's routes since 1.1."""
        more = more or {}
        scope = more.get("scope", _SCOPE_UNIVERSE if gateway or to.version == 6 else _SCOPE_LINK)
        body = _ROUTE.pack(
            *(_family(to.version), to.network.prefixlen, 0, 0, _RT_TABLE_UNSPEC, _RTPROT_STATIC, scope),
            *(_RTN_UNICAST, 0),
        )
        body += _attribute(_RTA_DST, to.network.network_address.packed)
        body += _int(_RTA_OIF, socket.if_nametoindex(name))
        body += _int(_RTA_TABLE, more.get("table", _RT_TABLE_MAIN))
        if gateway:
            body += _attribute(_RTA_GATEWAY, ip_interface(gateway).ip.packed)
        if "priority" in more:
            body += _int(_RTA_PRIORITY, more["priority"])
        metrics = {_RTAX_MTU: more.get("mtu"), _RTAX_ADVMSS: more.get("advmss")}
        if any(metrics.values()):
            body += _nest(_RTA_METRICS, *(_int(kind, value) for kind, value in metrics.items() if value))
        with suppress(FileExistsError):
            self._ask(_NEWROUTE, _ACK | _CREATE | _EXCL, body, f"{name}: route {to}")

    # Who is behind a port of a bridge

    def tell_of(self, name: str, mac: str, addresses: Iterable[IPAddress]) -> None:
        """Have the bridge's FDB know a MAC address behind its port, and the port's neighbours IP addresses.

        Both go with the port. Nothing is sent by these neighbours: they are there to be read.
        """
        index, link_address = socket.if_nametoindex(name), bytes.fromhex(mac.replace(":", ""))
        entries = [(_AF_BRIDGE, _NUD_NOARP, _NTF_MASTER, b"")]
        for address in addresses:
            known = _attribute(_NDA_DST, address.packed)
            entries.append((_family(address.version), _NUD_PERMANENT, 0, known))
        for family, state, flags, known in entries:
            body = _NEIGHBOUR.pack(family, index, state, flags, 0) + known
            body += _attribute(_NDA_LLADDR, link_address)
            self._ask(_NEWNEIGH, _ACK | _CREATE | _REPLACE, body, f"{name}: {mac}")

    # Messages

    def _ask(self, kind: int, flags: int, body: bytes, what: str) -> list[bytes]:
        """The bodies of the answers; raises OSError that names `what`."""
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, 1, 0) + body)
        answers: list[bytes] = []
        while True:
            data = self._socket.recv(_BUFFER_LEN)
            while data:
                length, kind, _, _, _ = _HEADER.unpack_from(data)
                body, data = data[_HEADER.size : length], data[(length + 3) & ~3 :]
                if kind == _ERROR:
                    _refuse(struct.unpack_from("=i", body)[0], what)
                if kind in (_ERROR, _DONE):
                    return answers
                answers.append(body)


def _refuse(code: int, what: str) -> None:
    if code:
        raise OSError(-code, f"{what}: {os.strerror(-code)}")


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


def _link(body: bytes) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    own = _attributes(body[_LINK.size :])
    info = _attributes(own.get(_IFLA_LINKINFO, b""))
    name, kind, alias = (
        value.rstrip(b"\0").decode()
        for value in (own[_IFLA_IFNAME], info.get(_INFO_KIND, b""), own.get(_IFLA_IFALIAS, b""))
    )
    mtu, master = (int.from_bytes(own.get(key, b""), sys.byteorder) for key in (_IFLA_MTU, _IFLA_MASTER))
    return Link(
        index, name, own.get(_IFLA_ADDRESS, b"").hex(":"), mtu, master, kind, alias, bool(flags & _IFF_UP)
    )


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        found[kind & ~_NESTED] = data[_ATTRIBUTE.size : length]
        data = data[max(_ATTRIBUTE.size, (length + 3) & ~3) :]
    return found


def _attribute(kind: int, value: bytes) -> bytes:
    padding = bytes(-len(value) % 4)
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + padding


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _int(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("=I", value))


def _nest(kind: int, *inside: bytes) -> bytes:
    return _attribute(kind | _NESTED, b"".join(inside))


def write_setting(name: str, value: str) -> None:
    """A setting of /proc/sys/net, in the network namespace that this thread is in; no IPv6 is no error."""
    with suppress(FileNotFoundError):
        Path("/proc/sys/net", name).write_text(value)
