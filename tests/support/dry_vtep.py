"""A Vtep without devices, sockets and lanes: tables, settings and events as ever, and no root is needed.

Place in the house: under tests of what is above vtep. What lanes would count and tell, a test says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from ipaddress import ip_address
from typing import Any

from vxcore import Vtep
from vxcore._fast.port import OverlayPort
from vxcore._fast.table import Reader
from vxcore.fdb import now_s
from vxcore.verdict import Verdict


class DryDevice:
    """What the port of a segment is made from."""

    uso = True

    def __init__(self, name: str, mtu: int) -> None:
        self.name, self.mtu = name, mtu

    def port(self, lane: int, segment: int) -> OverlayPort:
        return OverlayPort()

    def offloads(self) -> dict[str, str]:
        return {}

    def overruns(self) -> int:
        return 0

    def close(self) -> None:
        pass


class DryLane:
    """A lane that carries nothing; `dropped` is what it has counted, by verdict, `carried` by remote."""

    def __init__(self) -> None:
        self.dropped: Counter[Verdict] = Counter()
        self.carried = b""  # four uint64 for each remote

    def run(self) -> None:
        pass

    stop = run

    def attach(self, number: int, port: Any) -> None:
        pass

    watch = detach = ignore = lambda self, number: None
    know = listen = lambda self, *given: None

    def drops(self) -> dict[int, int]:
        return {int(verdict): n for verdict, n in self.dropped.items()}

    def segment_counters(self, segment: int) -> dict[str, int]:
        return dict.fromkeys(("rx_packets", "rx_bytes", "tx_packets", "tx_bytes"), 0)

    def remote_words(self, first: int, n: int) -> bytes:
        return self.carried[32 * first : 32 * (first + n)].ljust(32 * n, b"\0")

    def lane_counters(self) -> dict[str, int]:
        return {"wakeups": 0, "bursts": 0}


class DryVtep(Vtep):
    """The address 192.0.2.1 is its own, unless settings say otherwise."""

    def __init__(self, settings: Any = None) -> None:
        mapping = {} if settings is None else settings
        if isinstance(mapping, Mapping):
            mapping = {"underlay": {"local": "192.0.2.1"}, **mapping}
        super().__init__(mapping)
        self.lanes = [DryLane() for _ in range(self.settings.lanes.count)]

    def learn(self, vni: int, mac: int, remote: str) -> None:
        """As a lane does when a frame has come."""
        reader = Reader(self.tables, self.events.rings[0])
        reader.enter()
        try:
            reader.fdb_learn(reader.find_segment(vni), mac, self.remote(remote), now_s())
        finally:
            reader.leave()

    def _open_underlay(self, undo: ExitStack, n_lanes: int) -> None:
        self._udps, self._underlay_ports, self._xdps, self._tap = [], [], [], None
        self._own_ports = set(self.settings.dstports)

    def _locals_by_route(self) -> Any:
        return (ip_address("192.0.2.1"),)

    def _mtu(self, segment: Any) -> int:
        return 1450

    def _open_overlay(self, port: Any, mtu: int) -> Any:
        return DryDevice(port.dev, mtu)

    def _open_collector(self, collect: Any) -> Any:
        return DryDevice(collect.overlay.dev if collect.overlay else str(collect.write), 1500)

    def _make_lane(self, number: int, remotes: Any) -> Any:
        return self.lanes[number]
