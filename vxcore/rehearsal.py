"""What would become of a packet: a lane that never runs, with ports that lead nowhere, over the same tables.

Place in the house: above watches, below engine. The lane's own code decides, so what is foretold is what
happens; it learns nothing and sends nothing. What it cannot know is what devices would say, and how many
frames a rate still lets through.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from vxcore._fast.lane import Lane
from vxcore._fast.rehearsal import NoOverlay, NoUnderlay
from vxcore._fast.table import Tables
from vxcore._fast.watch import MAX_SNAP_LEN
from vxcore.config import Underlay
from vxcore.errors import ConfigError
from vxcore.remotes import IPAddress, Remotes, packed
from vxcore.watches import PacketWatch, Sight
from vxcore.wire import ETH_LEN


class Rehearsal:
    """A lane for packets that are never sent, from one thread at a time.

    `families` are the IP versions of our addresses, `n_places` how many overlay ports there may be, and
    `device` gives their names, and `ours` has our addresses, packed, and UDP ports.
    """

    def __init__(
        self,
        tables: Tables,
        remotes: Remotes,
        underlay: Underlay,
        families: tuple[int, ...],
        n_places: int,
        device: Callable[[int], str | None],
        ours: tuple[list[bytes], set[int]],
    ) -> None:
        self._lane = Lane(
            tables,
            [(NoUnderlay(), families)],
            [NoOverlay() for _ in range(n_places)],
            strict=underlay.reserved == "strict",
            ecn_linux=underlay.ecn == "linux",
            rehearses=True,
        )
        self._lane.know(*ours)
        self._watched = partial(
            PacketWatch,
            [self._lane],
            tables,
            remotes,
            device,
            vni=None,
            mac=None,
            ways=("out", "in"),
            snap_len=MAX_SNAP_LEN,
            dropped_only=False,
        )

    def out(self, segment: int, frame: bytes) -> Sight:
        """A frame from the overlay port of a segment, by its number. Raises ConfigError for what is none."""
        if not ETH_LEN <= len(frame) <= MAX_SNAP_LEN:
            raise ConfigError(f"a frame of {len(frame)} bytes: {ETH_LEN} to {MAX_SNAP_LEN} are right")
        with self._watched() as watch:
            self._lane.rehearse_out(segment, frame)
            return watch.take()[0]

    def arrive(self, packet: bytes, source: IPAddress, source_port: int, tos: int, dstport: int) -> Sight:
        """A packet from the underlay, from its VXLAN header on, that comes to a UDP port of ours."""
        if not 1 <= len(packet) <= MAX_SNAP_LEN:
            raise ConfigError(f"a packet of {len(packet)} bytes: 1 to {MAX_SNAP_LEN} are right")
        with self._watched() as watch:
            self._lane.rehearse_in(packet, packed(source), source_port, tos, dstport)
            return watch.take()[0]
