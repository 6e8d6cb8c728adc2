from collections.abc import Sequence
from typing import Any

from typing_extensions import disjoint_base

from vxcore._fast.events import Ring
from vxcore._fast.port import OverlayPort, UnderlayPort
from vxcore._fast.table import Tables

@disjoint_base
class Lane:
    def __init__(
        self,
        tables: Tables,
        underlays: Sequence[tuple[UnderlayPort, Sequence[int]]],
        overlays: Sequence[OverlayPort],
        *,
        tos: int = 0,
        ttl: int = 0,
        strict: bool = False,
        ecn_linux: bool = False,
        join_tcp: bool = True,
        join_udp: bool = True,
        busy_poll_us: int = 0,
        max_overlays: int = 0,
        n_lanes: int = 1,
        ring: Ring | None = None,
    ) -> None: ...
    def attach(self, number: int, port: OverlayPort) -> None: ...
    def watch(self, number: int) -> None: ...
    def detach(self, number: int) -> Any: ...
    def listen(self, fd: int) -> None: ...
    def ignore(self, fd: int) -> None: ...
    def run(self) -> None: ...
    def stop(self) -> None: ...
    def drops(self) -> dict[int, int]: ...
    def segment_counters(self, segment: int) -> dict[str, int]: ...
    def lane_counters(self) -> dict[str, int]: ...
