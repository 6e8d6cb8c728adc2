from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

from vxcore._fast.batch import PacketBatch

BLOCK_SIZE: Final[int]
READ_SIZE: Final[int]
WRITE_SIZE: Final[int]
SNAP_LEN: Final[int]
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
    def pcapng(self) -> bool: ...
    @property
    def nanoseconds(self) -> bool: ...
    @property
    def time_ns(self) -> NDArray[np.int64]: ...
    @property
    def original_len(self) -> NDArray[np.uint32]: ...
    @property
    def link(self) -> NDArray[np.uint16]: ...

@disjoint_base
class Writer:
    def __init__(
        self,
        file: Any,
        *,
        pcapng: bool = False,
        nanoseconds: bool = False,
        link: int = 1,
        comment: str | None = None,
        append: bool = False,
        n_interfaces: int = 0,
        block_size: int = 262144,
    ) -> None: ...
    def add_interface(self, link: int = 1, name: str | None = None) -> int: ...
    def write(
        self,
        batch: PacketBatch,
        time_ns: NDArray[np.int64],
        original_len: NDArray[np.uint32] | None = None,
        pick: NDArray[np.uint32] | None = None,
        interface: NDArray[np.uint32] | None = None,
    ) -> int: ...
    @property
    def pcapng(self) -> bool: ...
    @property
    def nanoseconds(self) -> bool: ...
    @property
    def n_interfaces(self) -> int: ...
