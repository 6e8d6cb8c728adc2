"""Addresses as text and as bytes, and which of them can name a host.

Place in the house: beside wire.py, above errors alone. Whoever reads an address that a person wrote
(settings, commands) or shows one reads and shows it here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Self

from vxcore.errors import ConfigError

IPAddress = IPv4Address | IPv6Address

MAC_FORM = "a unicast MAC address such as 02:00:00:00:00:01"
IP_FORM = "an IPv4 or IPv6 address"
GROUP_FORM = "an IP multicast group such as 239.1.1.1 or ff05::1"
PREFIX_FORM = "an IP prefix such as 192.0.2.0/24"
LISTEN_FORM = 'an IP address and a TCP port such as "127.0.0.1:9464" or "[::1]:9464"'
TARGET_FORM = 'a route target such as "65000:42" or "192.0.2.1:42"'
VNIS_FORM = 'a VNI such as 42, or a range such as "100-199"'

_MAX_VNI = 0xFF_FFFF
_MAC = re.compile(r"[0-9a-fA-F]{2}([:-])[0-9a-fA-F]{2}(?:\1[0-9a-fA-F]{2}){4}")
_LISTEN = re.compile(r"([0-9.]+|\[[0-9a-fA-F:.]+\]):([0-9]{1,5})")
_TARGET = re.compile(r"([0-9]{1,10}|[0-9]+(?:\.[0-9]+){3}):([0-9]{1,10})")
_MAX_PORT = 0xFFFF
_MAX_SHORT, _MAX_AS = 0xFFFF, 0xFFFF_FFFF
_BROADCAST = IPv4Address("255.255.255.255")


class AddressError(ConfigError):
    """An address is malformed or names no single host.

    ``wrong`` completes a sentence that begins with the text; ``allowed`` says what would be right.
    """

    def __init__(self, text: str, wrong: str, allowed: str) -> None:
        super().__init__(f"{text} {wrong}; {allowed}")
        self.wrong = wrong
        self.allowed = allowed


class MacAddress(str):
    """A unicast MAC address as lower-case text with colons: ``02:00:00:00:00:01``.

    Accepts what `parse_mac` accepts; raises AddressError for a group address and for all zeros,
    behind which no station can be.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        packed = parse_mac(text)
        if packed[0] & 1:
            raise AddressError(text, "is a group address", MAC_FORM)
        if not any(packed):
            raise AddressError(text, "is the zero address", MAC_FORM)
        return super().__new__(cls, format_mac(packed))

    @property
    def packed(self) -> bytes:
        """The six bytes as they stand in a frame."""
        return parse_mac(self)

    @property
    def number(self) -> int:
        """As the tables have it: its 48 bits, the first byte highest."""
        return int.from_bytes(self.packed, "big")


def mac_of(address: IPv4Address) -> str:
    """The MAC address of a container with this address: nobody else's in its network, for that is its alone.

    Locally administered, and as Docker's own drivers make it; who has the address next has the MAC address,
    too, so that no neighbour's cache is wrong.
    """
    return format_mac(b"\x02\x42" + address.packed)


def parse_mac(text: str) -> bytes:
    """The six bytes of a MAC address, any kind, written with colons or dashes in either case.

    Raises AddressError (a ConfigError) when `text` is nothing of the sort.
    """
    if not _MAC.fullmatch(text):
        raise AddressError(text, "is not a MAC address", MAC_FORM)
    return bytes.fromhex(text.replace(text[2], ""))


def format_mac(packed: bytes) -> str:
    """Six bytes as lower-case text with colons."""
    return packed.hex(":")


def mac_text(number: int) -> str:
    """A MAC address from the number that the tables have."""
    return format_mac(number.to_bytes(6, "big"))


def in_order(addresses: Iterable[IPAddress]) -> tuple[IPAddress, ...]:
    """IPv4 first, each by number."""
    return tuple(sorted(addresses, key=order))


def order(address: IPAddress) -> tuple[int, int]:
    """What they are sorted by."""
    return address.version, int(address)


def parse_unicast(text: str) -> IPAddress:
    """The IP address in `text`, of either family, if it can be one host's address.

    Raises AddressError (a ConfigError) for text that is no address and for addresses that no single
    host has: multicast, broadcast, unspecified, IPv4-mapped, or with a zone (``%eth0``).
    """
    try:
        address = ip_address(text)
    except ValueError:
        raise AddressError(text, "is not an IP address", IP_FORM) from None
    wrong, allowed = _not_one_host(address)
    if wrong:
        raise AddressError(text, wrong, allowed)
    return address


def parse_group(text: str) -> IPAddress:
    """The IP multicast group in `text`, of either family; raises AddressError for anything else."""
    try:
        address = ip_address(text)
    except ValueError:
        raise AddressError(text, "is not an IP address", GROUP_FORM) from None
    if not address.is_multicast:
        raise AddressError(text, "is not an IP multicast group", GROUP_FORM)
    if isinstance(address, IPv6Address) and address.scope_id:
        raise AddressError(text, "has a zone", f"leave out %{address.scope_id} and set dev")
    return address


def _not_one_host(address: IPAddress) -> tuple[str, str]:
    """Why `address` names no single host, and what would be right; empty if it does name one."""
    if address.is_multicast:
        return "is an IP multicast group", "the address of one host; a segment's group is its key `group`"
    if address.is_unspecified:
        return "is the unspecified address", "the address of one host"
    if address == _BROADCAST:
        return "is the broadcast address", "the address of one host"
    if isinstance(address, IPv6Address) and address.scope_id:
        return "has a zone", f"leave out %{address.scope_id} and set dev"
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return "is an IPv4 address in IPv6 form", f"write {address.ipv4_mapped}"
    return "", ""


def parse_prefix(text: str) -> IPv4Network | IPv6Network:
    """The network in `text`, of either family.

    Raises AddressError (a ConfigError) for what is none, or has bits set beyond its length.
    """
    try:
        return ip_network(text)
    except ValueError as error:
        wrong = "has host bits set" if "host bits" in str(error) else "is not an IP prefix"
        raise AddressError(text, wrong, PREFIX_FORM) from None


class VniRange(str):
    """VNIs from `first` to `last`, as text: ``42``, ``100-199``. Raises AddressError for other text."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        match = re.fullmatch(r"(\d{1,8})(?:-(\d{1,8}))?", text)
        if not match or not int(match[1]) <= int(match[2] or match[1]) <= _MAX_VNI:
            raise AddressError(text, "is no VNI and no range of them", VNIS_FORM)
        return super().__new__(cls, text)

    @property
    def ends(self) -> tuple[int, int]:
        """The first and the last VNI."""
        first, _, last = self.partition("-")
        return int(first), int(last or first)


class Listen(str):
    """Where a TCP server listens, as text: ``127.0.0.1:9464``, ``[::1]:9464``; port 0 is any that is free.

    Raises AddressError for other text.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        match = _LISTEN.fullmatch(text)
        if not match or int(match[2]) > _MAX_PORT:
            raise AddressError(text, "is no address with a port", LISTEN_FORM)
        try:
            address = ip_address(match[1].removeprefix("[").removesuffix("]"))
        except ValueError:
            raise AddressError(text, "is no address with a port", LISTEN_FORM) from None
        return super().__new__(cls, f"[{address}]:{match[2]}" if address.version == 6 else text)

    @property
    def ends(self) -> tuple[IPAddress, int]:
        """Address and port."""
        address, _, port = self.rpartition(":")
        return ip_address(address.strip("[]")), int(port)


class Target(str):
    """A route target or route distinguisher as text: an AS number or an IPv4 address, and a number.

    The two share six bytes (RFC 4360 section 3): behind an AS number of two bytes the number has four. Raises
    AddressError for text that is nothing of the sort.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        match = _TARGET.fullmatch(text)
        if match is None:
            raise AddressError(text, "is not a route target", TARGET_FORM)
        admin, number = _administrator(text, match[1]), int(match[2])
        most = 0xFFFF_FFFF if isinstance(admin, int) and admin <= _MAX_SHORT else _MAX_SHORT
        if number > most:
            raise AddressError(text, "has too large a number", f"no more than {most} behind {admin}")
        return super().__new__(cls, f"{admin}:{number}")

    @property
    def ends(self) -> tuple[int | IPv4Address, int]:
        """AS number or address, and the number."""
        admin, _, number = self.partition(":")
        return (IPv4Address(admin) if "." in admin else int(admin)), int(number)


def _administrator(text: str, admin: str) -> int | IPv4Address:
    if "." not in admin:
        if int(admin) > _MAX_AS:
            raise AddressError(text, "has too large an AS number", f"no more than {_MAX_AS}")
        return int(admin)
    try:
        return IPv4Address(admin)
    except ValueError:
        raise AddressError(text, "is not a route target", TARGET_FORM) from None
