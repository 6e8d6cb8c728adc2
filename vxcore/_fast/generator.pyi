from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

from vxcore._fast.batch import PacketBatch
from vxcore._fast.codec import Tunnel

@disjoint_base
class Generator:
    def __init__(
        self,
        heads: NDArray[np.uint8],
        sizes: NDArray[np.uint32],
        *,
        tunnels: Sequence[Tunnel] = (),
        vnis: NDArray[np.uint32] | Sequence[int] = (),
        ways: NDArray[np.uint32] | None = None,
        clock: int = ...,
    ) -> None: ...
    @property
    def n_streams(self) -> int: ...
    @property
    def clock(self) -> int: ...
    def fill(
        self,
        batch: PacketBatch,
        count: int | None = None,
        *,
        encap: bool = False,
        time_ns: int | None = None,
    ) -> int: ...

@disjoint_base
class Transmitter:
    def __init__(
        self,
        generator: Generator,
        fd: int,
        kind: int = 0,
        *,
        rate: float = 0.0,
        bits: bool = False,
        burst: int = 0,
    ) -> None: ...
    def run(self, count: int = 0, seconds: float = 0.0) -> None: ...
    def stop(self) -> None: ...
    @property
    def sent(self) -> int: ...
    @property
    def sent_bytes(self) -> int: ...
    @property
    def refused(self) -> int: ...
    @property
    def started_ns(self) -> int: ...
    @property
    def ended_ns(self) -> int: ...
    @property
    def error(self) -> int: ...
