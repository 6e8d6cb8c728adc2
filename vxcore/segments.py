"""Segments: VNI -> overlay port, flood set and policies.

Place in the house: above journal, remotes and the compiled tables, beside fdb. The tables hold all of
it; here it gets names, addresses and checks, and the remotes of a flood set are held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vxcore._fast.table import FLOODED, as_words, first
from vxcore.errors import ConfigError
from vxcore.journal import Journal
from vxcore.remotes import IPAddress, Remotes, packed
from vxcore.wire import VXLAN_PORT

IPNetwork = IPv4Network | IPv6Network
_MAPPED_BITS = 96


class Rate(NamedTuple):
    """How many frames of a kind a segment floods, of all lanes together."""

    per_s: int
    burst: int


class Ask(NamedTuple):
    """Frames for unknown addresses are not flooded: event `miss` asks, and they wait `hold_ms`."""

    hold_ms: int


class Policy(NamedTuple):
    """What a segment may learn, whom it takes packets from, and what it floods.

    `ageing` is in seconds, 0: never; `maxaddress` the most entries learned, 0: what the table holds.
    `source` is "peers" (flood set and FDB entries), "any", or the networks whose addresses are taken beside
    the peers'. `broadcast`, `multicast`, `unknown_unicast` are "flood", "drop" or a Rate, the last also Ask.
    """

    learning: bool = True
    ageing: int = 300
    maxaddress: int = 0
    source: str | tuple[IPNetwork, ...] = "peers"
    broadcast: str | Rate = "flood"
    multicast: str | Rate = "flood"
    unknown_unicast: str | Rate | Ask = "flood"


class Segments:
    """The segments of `journal`'s tables; usable from any thread."""

    def __init__(self, journal: Journal, remotes: Remotes) -> None:
        self._journal, self._tables, self._remotes = journal, journal.tables, remotes
        self._before_removal: list[Callable[[NDArray[np.uint32]], None]] = []

    def before_removal(self, action: Callable[[NDArray[np.uint32]], None]) -> None:
        """Call it with the VNIs of segments that are about to be removed, inside the change."""
        self._before_removal.append(action)

    # Asking

    def number(self, vni: int) -> int:
        """The number of a segment, as counters and lanes have it. Raises ConfigError for an unknown VNI."""
        number = self._tables.find_segment(vni)
        if number < 0:
            raise ConfigError(f"VNI {vni}: there is no such segment")
        return number

    def __contains__(self, vni: int) -> bool:
        return self._tables.find_segment(vni) >= 0

    def flood(self, vni: int) -> list[IPAddress]:
        """The addresses of a flood set, in the order of the remotes' numbers."""
        with self._journal.change():
            return [self._remotes.address(int(n)) for n in self._tables.flood(self.number(vni))]

    def snapshot(self) -> NDArray[Any]:
        """The segments as a structured array (`vxcore._fast.table.SEGMENT_ROW`).

        Number, VNI, overlay port, sizes and limits, how many entries it has learned now.
        """
        return self._tables.segments()

    # Changing

    def add(
        self,
        vni: int,
        port: int | Sequence[int],
        remotes: Iterable[IPAddress],
        policy: Policy | None = None,
        dstport: int = VXLAN_PORT,
    ) -> int:
        """Add a segment with its overlay port's number and its flood set; return the segment's number.

        With several ports, 2 to 8, frames go between them, too. `dstport` is the UDP port of its packets.
        Raises ConfigError, naming the VNI, when it is there already or a remote is refused; ValueError when
        there is no room.
        """
        policy = policy or Policy()
        with self._journal.change():
            if vni in self:
                raise ConfigError(f"VNI {vni}: it is there already; change it")
            members = [self._remotes.require(remote) for remote in remotes]
            ports = [port] if isinstance(port, int) else list(port)
            number = self._tables.add_segment(vni, ports[0], members, dstport=dstport, **_learning(policy))
            if len(ports) > 1:
                self._tables.set_ports(number, ports)
            self._remotes.hold(sorted(set(members)))
            self._set_policy(number, policy)
            self._remotes.segment_added(number, vni)
            return number

    def add_collector(
        self,
        vni: int,
        port: int,
        ranges: Iterable[tuple[int, int]],
        source: str | tuple[IPNetwork, ...],
        dstports: Iterable[int] = (VXLAN_PORT,),
    ) -> int:
        """Add a segment that only receives, from "any" source or from networks; return its number.

        It has `vni`, or with `ANY_VNI` all that no segment has, and the VNIs of `ranges`, on some UDP ports.
        Raises ValueError.
        """
        policy = Policy(learning=False, source=source)
        with self._journal.change():
            any_source = source == "any"
            number = self._tables.add_collector(vni, port, ranges, any_source=any_source, dstports=dstports)
            self._set_policy(number, policy)
            return number

    def add_many(
        self,
        vnis: ArrayLike,
        remotes: ArrayLike,
        port: ArrayLike = 0,
        policy: Policy | None = None,
        dstport: int = VXLAN_PORT,
    ) -> NDArray[np.uint32]:
        """Add segments in bulk; return their numbers, uint32 (n,).

        `vnis` are (n,), `remotes` the numbers of their flood sets, (n,) or (n, k), `port` one or (n,). Raises
        ConfigError, naming the first VNI that is wrong.
        """
        policy = policy or Policy()
        with self._journal.change():
            numbers = self._tables.add_segments(
                vnis, remotes, port=port, dstport=dstport, **_learning(policy)
            )
            self._remotes.hold_counts(self._tables.flood_counts(numbers))
            if _needs_row(policy):
                for number in numbers.tolist():
                    self._set_policy(number, policy)
            if self._remotes.has_lists():
                for number, vni in zip(numbers.tolist(), np.atleast_1d(vnis).tolist(), strict=True):
                    self._remotes.segment_added(number, vni)
            return numbers

    def change(
        self,
        vni: int,
        *,
        remotes: Iterable[IPAddress] | None = None,
        policy: Policy | None = None,
        dstport: int | None = None,
    ) -> None:
        """Give a segment another flood set, other policies, or another UDP port. Raises as ``add``."""
        with self._journal.change():
            number = self.number(vni)
            if dstport is not None:
                self._tables.change_segment(number, dstport=dstport)
            if remotes is not None:
                members = [self._remotes.require(remote) for remote in remotes]
                before = self._tables.flood(number)
                self._tables.change_segment(number, flood=members)
                self._remotes.hold(sorted(set(members)))
                self._remotes.hold(before, -1)
            if policy is not None:
                self._tables.change_segment(number, **_learning(policy))
                self._set_policy(number, policy)

    def remove(self, vnis: ArrayLike) -> NDArray[np.uint32]:
        """Remove segments with their FDB entries; return the numbers that they had, uint32 (n,).

        Raises ConfigError, naming the first VNI that is not there, with nothing removed.
        """
        with self._journal.change():
            given = as_words(vnis, np.uint32, "vni")
            numbers = self._tables.find_segments(given)
            at = first(numbers < 0)
            if at >= 0:
                raise ConfigError(f"VNI {given[at]}: there is no such segment")
            for action in self._before_removal:
                action(given)
            self._remotes.hold_counts(self._tables.flood_counts(numbers), -1)
            self._tables.remove_segments(numbers)
            return numbers.astype(np.uint32)

    def _set_policy(self, number: int, policy: Policy) -> None:
        row = self._tables.policy(number)
        wanted = _row(policy)
        if row != wanted:
            self._tables.set_policy(number, **wanted)


def _learning(policy: Policy) -> dict[str, Any]:
    return {
        "learning": policy.learning,
        "ageing_s": policy.ageing,
        "max_learned": policy.maxaddress,
        "any_source": policy.source == "any",
    }


def _needs_row(policy: Policy) -> bool:
    return policy[3:] not in (Policy()[3:], ("any", *Policy()[4:]))


def _row(policy: Policy) -> dict[str, Any]:
    kinds: Sequence[str | Rate | Ask] = [getattr(policy, name) for name in FLOODED]
    prefixes = [] if isinstance(policy.source, str) else [_prefix(network) for network in policy.source]
    return {
        "rates": tuple(map(_per_s, kinds)),
        "bursts": tuple(kind.burst if isinstance(kind, Rate) else 1 for kind in kinds),
        "prefixes": prefixes,
        "hold_ms": kinds[-1].hold_ms if isinstance(kinds[-1], Ask) else None,
    }


def _per_s(kind: str | Rate | Ask) -> int | None:
    """None: as many as there are, or are asked for."""
    if isinstance(kind, Rate):
        return kind.per_s
    return 0 if kind == "drop" else None


def _prefix(network: IPNetwork) -> tuple[bytes, int]:
    n_bits = network.prefixlen if network.version == 6 else _MAPPED_BITS + network.prefixlen
    return packed(network.network_address), n_bits
