from collections.abc import Iterable
from typing import Any

from typing_extensions import Buffer

def joined(
    frames: Iterable[Buffer], mtu: int = 1450, tcp: bool = True, udp: bool = True
) -> list[tuple[bytes, dict[str, Any]]]: ...
