from vxcore._fast.port import OverlayPort, UnderlayPort

class NoOverlay(OverlayPort):
    def __init__(self, name: str = "rehearsal") -> None: ...

class NoUnderlay(UnderlayPort):
    def __init__(self, name: str = "rehearsal") -> None: ...
