"""From captured packets to what is inside: link layer, GENEVE and VXLAN taken off, batch by batch.

Place in the house: above source, under the commands decap and inspect. The work on packets is
compiled (links, codec); this says in which order, and what counts as cut short.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vxcore._fast.batch import PacketBatch
from vxcore._fast.codec import Rules, decap
from vxcore._fast.links import find_ip, strip_geneve
from vxcore._fast.pcap import Reader
from vxcore.verdict import Verdict
from vxcore.wire import VXLAN_PORT, Layer

Checksum = Literal["ignore", "verify", "require"]


@dataclass(frozen=True, kw_only=True)
class StripOptions:
    """What is taken off. Raises ConfigError (from wire.DecapRules) for a port out of range.

    `depth` is the number of VXLAN headers, one in the other, that are taken off at most.
    """

    ports: tuple[int, ...] = (VXLAN_PORT,)
    depth: int = 1
    checksum: Checksum = "ignore"
    gpe: bool = False


@dataclass
class Stripped:
    """A Reader's batch, of which the delivered packets now are inner frames.

    `start` and `length` are where each packet lay before, `outer_at` where the outer IP header of its
    first VXLAN header stands; `cut` says which were cut short by the snap length. All shape (n,).
    """

    reader: Reader
    start: NDArray[np.uint32]
    length: NDArray[np.uint32]
    cut: NDArray[np.bool_] | None
    outer_at: NDArray[np.uint32] = field(init=False)

    @property
    def batch(self) -> PacketBatch:
        """The batch itself."""
        return self.reader.batch

    def original_len(self) -> NDArray[np.uint32] | None:
        """How long each packet, as it now is, was on the wire; None: as long as it is."""
        if self.cut is None:
            return None
        missing = np.where(self.cut, self.reader.original_len - self.length, np.uint32(0))
        return self.batch.length + missing

    def restore(self, which: NDArray[np.bool_]) -> None:
        """Make packets again what they were in the capture."""
        np.copyto(self.batch.offset, self.start, where=which)
        np.copyto(self.batch.length, self.length, where=which)


class Stripper:
    """Takes off what stands in front of inner frames, as StripOptions say."""

    def __init__(self, options: StripOptions) -> None:
        self._depth = options.depth
        common = {
            "ports": options.ports,
            "udp_checksum": options.checksum,
            "zero_checksum6": "accept",
            "ecn": "ignore",  # an inner frame is shown as it was sent
            "inner_vlan": "pass",
            "gpe": options.gpe,
        }
        self._rules = Rules(**common)
        self._cut_rules = Rules(**common, truncated="deliver")

    def strip(self, reader: Reader) -> Stripped:
        """Take off what is in front of the packets that `reader` has just read."""
        batch = reader.batch
        cut = batch.length < reader.original_len
        stripped = Stripped(reader, batch.offset.copy(), batch.length.copy(), cut if cut.any() else None)
        find_ip(batch, reader.link)
        strip_geneve(batch)
        stripped.outer_at = batch.offset.copy()
        self._decap(batch, stripped.cut)
        for _ in range(1, self._depth):
            if not self._strip_nested(batch, stripped.cut):
                break
        return stripped

    def _decap(self, batch: PacketBatch, cut: NDArray[np.bool_] | None) -> int:
        """Decapsulate from the IP header on; what a snap length cut is allowed to be cut."""
        ready = None if cut is None else batch.verdict == Verdict.DELIVERED
        n_delivered = decap(batch, self._rules, Layer.IP)
        if cut is None or ready is None:
            return n_delivered
        again = cut & ready & (batch.verdict == Verdict.TRUNCATED)
        if not again.any():
            return n_delivered
        first = batch.verdict.copy()
        batch.verdict[:] = np.where(again, Verdict.DELIVERED, Verdict.TRUNCATED)
        n_delivered += decap(batch, self._cut_rules, Layer.IP)
        np.copyto(batch.verdict, first, where=~again)
        return n_delivered

    def _strip_nested(self, batch: PacketBatch, cut: NDArray[np.bool_] | None) -> int:
        """Take one more VXLAN header off where there is one; how many packets had one."""
        frames = (batch.verdict == Verdict.DELIVERED) & (batch.protocol == 0)
        known = _arrays(batch)
        before = [array.copy() for array in known]
        batch.verdict[~frames] = Verdict.NOT_IP
        find_ip(batch)
        n_nested = self._decap(batch, cut)
        failed = batch.verdict != Verdict.DELIVERED
        for array, old in zip(known, before, strict=True):
            array[failed] = old[failed]
        return n_nested


def _arrays(batch: PacketBatch) -> list[NDArray[Any]]:
    """All that a batch knows of its packets."""
    walk: list[NDArray[Any]] = [batch.offset, batch.length, batch.verdict, batch.protocol, batch.vni]
    return [*walk, batch.source, batch.source_port, batch.tos, batch.gbp]
