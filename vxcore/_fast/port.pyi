from typing import Final

from typing_extensions import disjoint_base

UNCLAIMED: Final[int]

@disjoint_base
class OverlayPort:
    mtu: int
    segment: int
    def set_vlan(self, vlan: int, port: OverlayPort | None) -> None: ...
    @property
    def name(self) -> str: ...

@disjoint_base
class UnderlayPort:
    @property
    def name(self) -> str: ...
