"""Neighbours: which link address an IP address has in a segment, so that requests are answered here.

Place in the house: above journal, segments and the compiled tables, beside fdb. The tables hold it all;
here addresses are read and checked. Lanes answer ARP requests and neighbour solicitations from it, instead
of flooding them.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vxcore.addresses import parse_unicast
from vxcore.journal import Journal
from vxcore.remotes import packed

AnyAddress = IPv4Address | IPv6Address | str
Addresses = AnyAddress | Sequence[AnyAddress] | NDArray[np.uint8]


class Neighbours:
    """The neighbours of `journal`'s tables; usable from any thread. They go with their segments."""

    def __init__(self, journal: Journal) -> None:
        self._journal, self._tables = journal, journal.tables

    def set(self, vni: ArrayLike, address: Addresses, mac: ArrayLike, router: ArrayLike = False) -> None:
        """Set who has which address, in the place of what is there.

        `vni` is one or uint32 (n,); `address` one, a sequence of n, or uint8 (n, 16) with IPv4 mapped; `mac`
        a number, uint64 (n,) or uint8 (n, 6); `router`, one or bool (n,), is what IPv6 hosts are told of it
        (RFC 4861 section 4.4). Raises ConfigError with nothing set, naming the first entry that is wrong.
        """
        with self._journal.change():
            self._tables.set_neighbours(vni, _packed(address), mac, router)

    def remove(self, vni: ArrayLike, address: Addresses, *, missing_ok: bool = False) -> None:
        """Remove neighbours. Raises ConfigError with nothing removed, naming the first that is not there."""
        with self._journal.change():
            self._tables.remove_neighbours(vni, _packed(address), missing_ok=missing_ok)

    def snapshot(self) -> NDArray[Any]:
        """The neighbours as a structured array, in no order: vni, address (uint8 (16,)), mac, router."""
        return self._tables.neighbours()


def _packed(given: Addresses) -> NDArray[np.uint8]:
    """As uint8 (n, 16), IPv4 mapped."""
    if isinstance(given, np.ndarray) and given.dtype == np.uint8:
        return np.atleast_2d(given)
    each = [given] if isinstance(given, (str, IPv4Address, IPv6Address)) else given
    rows = [packed(parse_unicast(str(address))) for address in each]
    return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 16)
