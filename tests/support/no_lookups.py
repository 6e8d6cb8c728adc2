"""Scapy asks nobody: a packet without a MAC address fails the test instead of sending ARP.

Place in the house: called by conftest before any test is imported, for many build packets as they are.
"""

from __future__ import annotations

from typing import Any, NoReturn

from scapy.layers import l2


def forbid_lookups() -> None:
    """From now on an address that a packet leaves to Scapy is an error.

    Scapy fills in a missing destination by an ARP request or neighbour solicitation on whatever
    network this machine has, and a missing source by the machine's own address.
    """
    l2.conf.neighbor.resolve = refuse_destination
    l2.SourceMACField.i2h = source_that_is_given


def refuse_destination(link: Any, network: Any) -> NoReturn:
    """In place of ``Neighbor.resolve``."""
    raise AssertionError(
        f"no destination MAC in {type(link).__name__}()/{type(network).__name__}(): give dst"
    )


def source_that_is_given(field: Any, packet: Any, value: str | None) -> str:
    """In place of ``SourceMACField.i2h``."""
    if value is None:
        raise AssertionError(f"no source MAC in {type(packet).__name__}(): give {field.name}")
    return l2.MACField.i2h(field, packet, value)
