from typing_extensions import disjoint_base

from vxcore._fast.port import OverlayPort
from vxcore._fast.xsk import XskSocket

@disjoint_base
class XdpOverlayPort(OverlayPort):
    def __init__(self, name: str, sockets: list[XskSocket], mtu: int, segment: int) -> None: ...
