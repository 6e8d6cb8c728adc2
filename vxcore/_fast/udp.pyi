from collections.abc import Sequence

from typing_extensions import disjoint_base

from vxcore._fast.port import UnderlayPort

@disjoint_base
class UdpPort(UnderlayPort):
    def __init__(
        self,
        name: str,
        receiver: int,
        route: int,
        senders: Sequence[tuple[int, int]],
        family: int,
        dstport: int = 4789,
    ) -> None: ...
    @property
    def gso_error(self) -> int: ...
