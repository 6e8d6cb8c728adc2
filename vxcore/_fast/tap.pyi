from vxcore._fast.port import OverlayPort

class TapPort(OverlayPort):
    def __init__(self, name: str, fd: int, mtu: int, segment: int, superframes: bool = True) -> None: ...
