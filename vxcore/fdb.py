"""Fdb: (VNI, MAC) -> remote, set by hand or by a control plane, and learned by lanes.

Place in the house: above journal, remotes, segments and the compiled tables. Entries are in the tables
alone, those that lanes learned among them. Kept here is how many set entries of a segment name a remote:
as long as there is one, the segment takes packets from it.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vxcore._fast.table import KINDS, Pairs, as_macs, as_rows, set_targets
from vxcore.journal import Journal
from vxcore.remotes import Remotes
from vxcore.segments import Segments

KIND_NAMES = {number: name for name, number in KINDS.items()}
"""The kinds of entries, by the number that rows have."""
SEEN_BITS = 0xF_FFFF
"""Of the seconds in which rows say when an address was seen."""


def now_s() -> int:
    """The lanes' time, in seconds of the monotonic clock."""
    return int(time.monotonic())


class Fdb:
    """The forwarding table of `journal`'s tables; usable from any thread.

    In all methods `vni` and `remote` (numbers) are one or uint32 (n,), `mac` is one, uint64 (n,) or uint8
    (n, 6). A call applies whole or raises with nothing applied: ConfigError names the first entry that is
    wrong, TableFullError the first for which there is no room.
    """

    def __init__(self, journal: Journal, remotes: Remotes, segments: Segments) -> None:
        self._journal, self._tables = journal, journal.tables
        self._remotes, self._segments = remotes, segments
        self._users = Pairs()
        segments.before_removal(self._forget)

    def add(
        self,
        vni: ArrayLike,
        mac: ArrayLike,
        remote: ArrayLike,
        *,
        kind: str = "static",
        sequence: ArrayLike = 0,
    ) -> int:
        """As ``replace``, and an entry that was set already is an error."""
        return self._set(vni, mac, remote, kind, sequence, only_new=True)

    def replace(
        self,
        vni: ArrayLike,
        mac: ArrayLike,
        remote: ArrayLike,
        *,
        kind: str = "static",
        sequence: ArrayLike = 0,
    ) -> int:
        """Set entries, in the place of what is there; return how many were applied.

        `kind` is "static", or "control" or "sticky" of a control plane, held against each other by
        `sequence`, one or uint32 (n,): RFC 7432 sections 7.7, 15 and 15.2. What outranks an entry stays,
        and that is no error.
        """
        return self._set(vni, mac, remote, kind, sequence, only_new=False)

    def delete(
        self, vni: ArrayLike, mac: ArrayLike, *, missing_ok: bool = False, spare_static: bool = False
    ) -> int:
        """Delete entries of any kind, or with `spare_static` but static ones; return how many there were."""
        with self._journal.change():
            macs = as_macs(mac)
            vnis = as_rows(vni, len(macs), np.uint32, "vni")
            if spare_static:
                others = ~self._tables.fdb_are_static(vnis, macs)
                vnis, macs = vnis[others], macs[others]
            replaced = np.empty(len(macs), np.uint64)
            n = self._tables.fdb_delete(vnis, macs, missing_ok=missing_ok, replaced=replaced)
            self._count(vnis, set_targets(replaced), -1)
            return n

    def flush(self, *, vni: ArrayLike = (), remote: ArrayLike = (), port: ArrayLike = ()) -> None:
        """Void at once what was learned in these VNIs, from these remotes and from these overlay ports."""
        with self._journal.change():
            self._tables.flush(vni=vni, remote=remote, port=port)

    def snapshot(self) -> NDArray[Any]:
        """The entries as a structured array (`vxcore._fast.table.FDB_ROW`), in no order.

        What has aged or was flushed is left out.
        """
        return self._tables.fdb(now_s())

    # Inside a change

    def _forget(self, vnis: NDArray[np.uint32]) -> None:
        """Note that the entries of these VNIs go with their segments."""
        keys, counts, remotes = self._users.forget(vnis)
        self._journal.on_failure(lambda: self._users.add(keys, counts))
        self._remotes.hold(np.repeat(remotes, counts), -1)

    def _set(
        self,
        vni: ArrayLike,
        mac: ArrayLike,
        remote: ArrayLike,
        kind: str,
        sequence: ArrayLike,
        only_new: bool,
    ) -> int:
        with self._journal.change():
            macs = as_macs(mac)
            vnis, targets = (
                as_rows(vni, len(macs), np.uint32, "vni"),
                as_rows(remote, len(macs), np.uint32, "remote"),
            )
            replaced = np.empty(len(macs), np.uint64)
            change = self._tables.fdb_add if only_new else self._tables.fdb_replace
            n = change(vnis, macs, targets, kind=kind, sequence=sequence, replaced=replaced)
            applied = replaced != 1
            self._count(vnis[applied], targets[applied].astype(np.int64), 1)
            self._count(vnis, set_targets(replaced), -1)
            return n

    def _count(self, vnis: NDArray[Any], targets: NDArray[np.int64], sign: int) -> None:
        """Note that entries of these VNIs name these remotes now, or no longer; -1 is none."""
        changed = self._users.change(vnis, targets, sign)
        self._journal.on_failure(lambda: self._users.change(vnis, targets, -sign))
        if changed.any():
            self._tables.pair(vnis[changed], targets[changed], sign > 0)
        self._remotes.hold(targets[targets >= 0], sign)
