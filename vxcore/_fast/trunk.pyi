from collections.abc import Sequence

from typing_extensions import disjoint_base

from vxcore._fast.port import OverlayPort

@disjoint_base
class VlanPort(OverlayPort):
    def __init__(self, trunk: OverlayPort, vlan: int, segment: int) -> None: ...

def tagged(
    vlan: int, parts: Sequence[bytearray], header: bytes, n_packets: int = 1
) -> tuple[bytes, dict[str, int], int]: ...
def claimed(
    frame: bytes, header: bytes, segments: dict[int, int]
) -> tuple[int, bytes, dict[str, int]] | int: ...
