from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

from vxcore._fast.batch import PacketBatch
from vxcore.wire import VlanSpec

@disjoint_base
class VlanMap:
    def __init__(self, vnis: Mapping[int, int]) -> None: ...
    @property
    def spec(self) -> VlanSpec: ...
    def __len__(self) -> int: ...
    def untag(self, batch: PacketBatch) -> NDArray[np.uint32]: ...
    def tag(self, batch: PacketBatch) -> int: ...
