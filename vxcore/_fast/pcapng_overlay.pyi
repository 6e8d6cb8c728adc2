from typing_extensions import disjoint_base

from vxcore._fast.port import OverlayPort

@disjoint_base
class PcapngPort(OverlayPort):
    def __init__(
        self,
        name: str,
        directory: int,
        told: int,
        header: bytes,
        segment: int,
        mtu: int,
        place: tuple[int, int],
        *,
        max_len: int = 0,
        max_s: int = 0,
        snap_len: int = 262144,
    ) -> None: ...
    def close(self) -> None: ...
    @property
    def error(self) -> int: ...
    @property
    def n_files(self) -> int: ...
