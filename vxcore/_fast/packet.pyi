from typing_extensions import disjoint_base

from vxcore._fast.codec import Rules
from vxcore._fast.hops import Hops
from vxcore._fast.port import UnderlayPort

@disjoint_base
class PacketPort(UnderlayPort):
    def __init__(
        self,
        name: str,
        receiver: int,
        sender: int,
        family: int,
        blocks: tuple[int, int],
        slot_len: int,
        hops: Hops,
        rules: Rules,
        *,
        gso: bool = True,
    ) -> None: ...
    @property
    def gso_error(self) -> int: ...
