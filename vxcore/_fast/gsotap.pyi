from collections.abc import Sequence

from typing_extensions import disjoint_base

from vxcore._fast.codec import Rules, Tunnel
from vxcore._fast.port import UnderlayPort

@disjoint_base
class GsoTapPort(UnderlayPort):
    def __init__(
        self, name: str, fd: int, mtu: int, tunnels: Sequence[Tunnel], verify: Rules, trust: Rules
    ) -> None: ...
    @property
    def gso_error(self) -> int: ...
