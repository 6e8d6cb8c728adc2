"""The control planes of a VTEP that runs: all that its settings name, fed by one look at this host.

Place in the house: outermost of planes, below docker and daemon.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Self

from vxcore.config import Settings
from vxcore.plane_status import Status
from vxcore.planes.local import Local, Source
from vxcore.planes.plane import Plane
from vxcore.vtep import Vtep


def _etcd(vtep: Vtep, settings: Settings, local: Local) -> Plane | None:
    if settings.etcd is None:
        return None
    from vxcore.planes.etcd.etcd import Etcd

    return Etcd(vtep, settings.etcd, local.now)


def _evpn(vtep: Vtep, settings: Settings, local: Local) -> Plane | None:
    if settings.evpn is None:
        return None
    from vxcore.planes.evpn.evpn import Evpn

    return Evpn(vtep, settings.evpn, local.now)


_MAKERS: tuple[Callable[[Vtep, Settings, Local], Plane | None], ...] = (_etcd, _evpn)


class Planes:
    """What the settings name; there may be none.

    Inside ``with`` this host is looked at, and sources can be added; ``start`` lets planes speak. Raises what
    a plane raises when its settings cannot be used.
    """

    def __init__(self, vtep: Vtep, settings: Settings) -> None:
        self._local = Local(vtep, self._changed)
        made = (make(vtep, settings, self._local) for make in _MAKERS)
        self._planes = [plane for plane in made if plane is not None]
        self._running = ExitStack()

    def __enter__(self) -> Self:
        if self._planes:
            self._running.enter_context(self._local)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave all of them, and then look no more."""
        self._running.close()

    def add_source(self, source: Source) -> None:
        """Let somebody else say who is behind this VTEP; see ``again``."""
        if self._planes:
            self._local.add_source(source)

    def again(self) -> None:
        """What a source says is not what it was."""
        if self._planes:
            self._local.again()

    def start(self) -> None:
        """Announce what there is, all at once, and hear."""
        if self._planes:
            self._local.look()
        for plane in self._planes:
            self._running.enter_context(plane)

    def status(self) -> list[Status]:
        """How each of them is."""
        return [plane.status() for plane in self._planes]

    def _changed(self) -> None:
        for plane in self._planes:
            plane.changed()
