from typing_extensions import disjoint_base

@disjoint_base
class OverlayPort:
    mtu: int
    @property
    def name(self) -> str: ...

@disjoint_base
class UnderlayPort:
    @property
    def name(self) -> str: ...
