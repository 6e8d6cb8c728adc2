from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

from vxcore._fast.batch import PacketBatch

BLOCK_SIZE: Final[int]
MAX_PACKETS: Final[int]
LINK_ETHERNET: Final[int]

@disjoint_base
class Reader:
    def __init__(self, file: Any, block_size: int = 8388608, max_packets: int = 65536) -> None: ...
    def read(self) -> int: ...
    @property
    def batch(self) -> PacketBatch: ...
    @property
    def problem(self) -> str | None: ...
    @property
    def nanoseconds(self) -> bool: ...
    @property
    def time_ns(self) -> NDArray[np.int64]: ...
    @property
    def original_len(self) -> NDArray[np.uint32]: ...
    @property
    def link(self) -> NDArray[np.uint16]: ...
