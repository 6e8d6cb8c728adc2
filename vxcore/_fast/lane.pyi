from collections.abc import Sequence

from typing_extensions import disjoint_base

from vxcore._fast.table import Tables

@disjoint_base
class Lane:
    def __init__(
        self,
        tables: Tables,
        underlay: Sequence[int],
        pools: Sequence[Sequence[int]],
        overlays: Sequence[tuple[int, int, int]],
        *,
        tos: int = 0,
        ttl: int = 0,
        strict: bool = False,
        ecn_linux: bool = False,
    ) -> None: ...
    def run(self) -> None: ...
    def stop(self) -> None: ...
    def drops(self) -> dict[int, int]: ...
    def segment_counters(self, segment: int) -> dict[str, int]: ...
    def lane_counters(self) -> dict[str, int]: ...
