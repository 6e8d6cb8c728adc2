"""What a VTEP is now, as the settings that would make it so.

Place in the house: above engine, below vtep. Segments are changed as settings, and so are there; FDB entries,
neighbours and remotes are in the tables alone, and are read from these. What control planes say stays theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from vxcore.addresses import MacAddress, VniRange, mac_text, order
from vxcore.config import FdbEntry, Neighbour, Remote, Settings
from vxcore.engine import Engine
from vxcore.fdb import KIND_NAMES
from vxcore.remotes import Remotes, unpacked

T = TypeVar("T")
_CONTROLLED = ("control", "sticky")
_SET = ("static", *_CONTROLLED)


def running(engine: Engine) -> Settings:
    """The settings of an engine that runs; to be called inside a change, so that the tables agree."""
    settings = engine.settings
    entries = _by_vni(_set_rows(engine), lambda rows: _entries(rows, engine.remotes))
    neighbours = _by_vni(_neighbour_rows(engine), _neighbours)
    segments = tuple(
        structs.replace(each, fdb=entries.get(each.vni, ()), neighbours=neighbours.get(each.vni, ()))
        for each in settings.segments
    )
    underlay = structs.replace(settings.underlay, local=tuple(engine.locals))
    return structs.replace(settings, underlay=underlay, remotes=listed(engine.remotes), segments=segments)


def _set_rows(engine: Engine) -> NDArray[Any]:
    """The entries that somebody set, in the order of their addresses."""
    rows = engine.fdb.snapshot()
    rows = rows[_are(rows, _SET) & (rows["remote"] >= 0)]
    controlled = np.flatnonzero(_are(rows, _CONTROLLED))
    told = [n for n, row in zip(controlled, rows[controlled], strict=True) if _is_told(row, engine)]
    rows = np.delete(rows, told)
    return rows[np.argsort(rows["mac"], kind="stable")]


def _are(rows: NDArray[Any], kinds: tuple[str, ...]) -> NDArray[np.bool]:
    return np.isin(rows["kind"], [number for number, name in KIND_NAMES.items() if name in kinds])


def _neighbour_rows(engine: Engine) -> NDArray[Any]:
    """The neighbours that somebody set."""
    rows = engine.neighbours.snapshot()
    held = engine.told.holds_neighbour
    told = [n for n, row in enumerate(rows) if held(int(row["vni"]), unpacked(bytes(row["address"])))]
    return np.delete(rows, told)


def _is_told(row: Any, engine: Engine) -> bool:
    remote = engine.remotes.address(int(row["remote"]))
    return engine.told.holds(int(row["vni"]), mac_text(int(row["mac"])), remote)


def _by_vni(rows: NDArray[Any], make: Callable[[NDArray[Any]], T]) -> dict[int, T]:
    """What is made of the rows of each VNI, which stay in their order."""
    rows = rows[np.argsort(rows["vni"], kind="stable")]
    vnis, starts = np.unique(rows["vni"], return_index=True)
    return {int(vni): make(part) for vni, part in zip(vnis, np.split(rows, starts[1:]), strict=False)}


def _entries(rows: NDArray[Any], remotes: Remotes) -> tuple[FdbEntry, ...]:
    known = {number: remotes.address(number) for number in np.unique(rows["remote"]).tolist()}
    kinds: dict[int, Any] = KIND_NAMES
    columns = (rows[name].tolist() for name in ("mac", "remote", "kind", "sequence"))
    return tuple(
        FdbEntry(mac=MacAddress(mac_text(mac)), remote=known[remote], kind=kinds[kind], sequence=sequence)
        for mac, remote, kind, sequence in zip(*columns, strict=True)
    )


def _neighbours(rows: NDArray[Any]) -> tuple[Neighbour, ...]:
    entries = [
        Neighbour(
            address=unpacked(bytes(row["address"])),
            mac=MacAddress(mac_text(int(row["mac"]))),
            router=bool(row["router"]),
        )
        for row in rows
    ]
    return tuple(sorted(entries, key=lambda entry: order(entry.address)))


def listed(remotes: Remotes) -> tuple[Remote, ...]:
    """Those that are to stay, and those of which there is more to say."""
    listed = [
        Remote(
            address=remotes.address(number),
            vnis=_ranges(remotes.vnis(number)),
            spoke=remotes.is_spoke(number),
        )
        for number in remotes.listed()
    ]
    return tuple(sorted(listed, key=lambda remote: order(remote.address)))


def _ranges(vnis: tuple[tuple[int, int], ...] | None) -> tuple[VniRange, ...] | None:
    if vnis is None:
        return None
    return tuple(VniRange(str(first) if first == last else f"{first}-{last}") for first, last in vnis)
