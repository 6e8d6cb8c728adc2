from typing_extensions import disjoint_base

from vxcore._fast.codec import Rules
from vxcore._fast.hops import Hops
from vxcore._fast.port import UnderlayPort
from vxcore._fast.xsk import XskSocket

@disjoint_base
class XdpUnderlayPort(UnderlayPort):
    def __init__(self, name: str, socket: XskSocket, hops: Hops, rules: Rules) -> None: ...

def opened(packet: bytearray | memoryview, rules: Rules) -> tuple[int, bytes]: ...
