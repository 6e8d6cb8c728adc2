from collections.abc import Iterable, Sequence

from typing_extensions import Buffer, disjoint_base

from vxcore._fast.port import OverlayPort

@disjoint_base
class PacketOverlayPort(OverlayPort):
    def __init__(
        self,
        name: str,
        receiver: int,
        sender: int,
        mtu: int,
        segment: int,
        blocks: tuple[int, int],
        slot_len: int,
        *,
        vnet: bool = True,
        uso: bool = True,
    ) -> None: ...
    @property
    def gso_error(self) -> int: ...

def taken(port: PacketOverlayPort, budget: int = ...) -> tuple[list[tuple[bytes, bytes]], dict[int, int]]: ...
def sent(
    frames: Iterable[tuple[Sequence[Buffer], Buffer, int]], sender: int, vnet: bool = True, uso: bool = True
) -> dict[int, int]: ...
