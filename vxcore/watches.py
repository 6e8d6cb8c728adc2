"""Watches: packets that lanes show, with what became of them, for a trace or a capture.

Place in the house: above remotes and the rings of the lanes, below engine. A watch has a ring of 4 MiB for
each lane; what finds it full is counted. Without a watch packets pay nothing; one that is watched goes
through its lane by itself, not in a burst with others.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, NamedTuple, Self

from vxcore._fast.lane import Lane
from vxcore._fast.table import Tables
from vxcore._fast.watch import IN, LEARNED, MAX_SNAP_LEN, OUT, Watch
from vxcore.errors import ConfigError
from vxcore.remotes import IPAddress, Remotes, unpacked
from vxcore.verdict import Verdict

WAYS = {"out": OUT, "in": IN}
_NAMES = {number: name for name, number in WAYS.items()}
_NO_ADDRESS = bytes(16)
_HEADER_LEN = 8  # VXLAN's, in front of the frame of a packet that comes in
_MAX_VNI, _MAX_MAC = 0xFF_FFFF, 0xFFFF_FFFF_FFFF


class Sight(NamedTuple):
    """A packet, and what became of it.

    `way` is "out", from the overlay port `device` to the underlay: `data` begins with the inner frame; or
    "in": `data` begins with the VXLAN header, and `source`, `source_port` and `tos` are of the outer packet.
    `remote` is where it is from, or for; None: a stranger, or all of the flood set. `learned` is what its
    source address was: "learned", "moved", "held" (moved too often, and stays), "refused" (set by hand
    elsewhere), "overflow", or None: known as it is. `gso_size` is of a super-frame, else 0. `length` is in
    bytes; `data` may be cut. `time_ns` is since 1970.
    """

    way: str
    verdict: Verdict
    time_ns: int
    lane: int
    vni: int
    device: str | None
    remote: IPAddress | None
    source: IPAddress | None
    source_port: int
    tos: int
    gso_size: int
    learned: str | None
    length: int
    data: bytes

    @property
    def frame(self) -> bytes:
        """The inner frame, as far as it is there."""
        return self.data if self.way == "out" else self.data[_HEADER_LEN:]

    @property
    def frame_len(self) -> int:
        """How long the inner frame was."""
        return self.length if self.way == "out" else max(0, self.length - _HEADER_LEN)


class PacketWatch:
    """Packets as they go through, from ``Vtep.watch``; a context manager.

    `lost` counts those that were not taken in time.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        tables: Tables,
        remotes: Remotes,
        device: Callable[[int], str | None],
        *,
        vni: int | None,
        mac: int | None,
        ways: Sequence[str],
        snap_len: int,
        dropped_only: bool,
    ) -> None:
        self._lanes, self._tables, self._remotes, self._device = lanes, tables, remotes, device
        for way in set(ways) - set(WAYS):
            raise ConfigError(f"way {way!r}: {' and '.join(WAYS)} are known")
        if not 0 <= snap_len <= MAX_SNAP_LEN:
            raise ConfigError(f"snap_len {snap_len}: 0 to {MAX_SNAP_LEN} bytes are right")
        if vni is not None and not 0 <= vni <= _MAX_VNI:
            raise ConfigError(f"vni {vni}: 0 to {_MAX_VNI} are right")
        if mac is not None and not 0 <= mac <= _MAX_MAC:
            raise ConfigError(f"mac {mac:#x}: a number of 48 bits is right")
        self._wanted: dict[str, Any] = {"vni": vni, "mac": mac, "ways": [WAYS[way] for way in ways]}
        self._wanted |= {"snap_len": snap_len, "dropped_only": dropped_only}
        self._watches: list[Watch] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self._watches:
            raise RuntimeError("this watch is watching already, or has been; make another")
        with ExitStack() as stack:
            self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            stack.callback(os.close, self._wake)
            self._watches = [Watch(self._wake, **self._wanted) for _ in self._lanes]
            stack.callback(self._tables.wait_for_lanes)
            for lane, watch in zip(self._lanes, self._watches, strict=True):
                try:
                    lane.show(watch)
                except ValueError as error:
                    raise ConfigError(str(error)) from None
                stack.callback(lane.hide, watch)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def lost(self) -> int:
        """How many packets found the ring of their lane full."""
        return sum(watch.lost for watch in self._watches)

    def take(self) -> list[Sight]:
        """What is there, without waiting, up to 1,024 packets of each lane, by time."""
        found = [self._sight(n, *row) for n, watch in enumerate(self._watches) for row in watch.take()]
        return sorted(found, key=lambda sight: sight.time_ns)

    def fileno(self) -> int:
        """Readable when lanes have shown something since ``may_sleep`` said that nothing is there."""
        return self._wake

    def may_sleep(self) -> bool:
        """Whether nothing waits to be taken; from now on lanes wake who waits."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        empty = [watch.may_sleep() for watch in self._watches]  # all lanes are to know
        return all(empty)

    def wait(self, seconds: float) -> None:
        """Until something is there, or the time is over."""
        if self.may_sleep():
            poll = select.poll()
            poll.register(self._wake, select.POLLIN)
            poll.poll(1000 * seconds)

    def _sight(
        self,
        lane: int,
        way: int,
        verdict: int,
        time_ns: int,
        vni: int,
        port: int,
        remote: int,
        source: bytes,
        source_port: int,
        tos: int,
        gso_size: int,
        learned: int,
        length: int,
        data: bytes,
    ) -> Sight:
        return Sight(
            _NAMES[way],
            Verdict(verdict),
            time_ns,
            lane,
            vni,
            self._device(port),
            self._address(remote),
            None if source == _NO_ADDRESS else unpacked(source),
            source_port,
            tos,
            gso_size,
            LEARNED[learned],
            length,
            data,
        )

    def _address(self, remote: int) -> IPAddress | None:
        if remote < 0:
            return None
        try:
            return self._remotes.address(remote)
        except ValueError:
            return None  # it was removed meanwhile
