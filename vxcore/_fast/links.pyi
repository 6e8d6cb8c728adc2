from typing import Final

import numpy as np
from numpy.typing import NDArray

from vxcore._fast.batch import PacketBatch

SUPPORTED_LINKS: Final[dict[int, str]]

def find_ip(batch: PacketBatch, link: NDArray[np.uint16] | None = None) -> int: ...
def strip_geneve(batch: PacketBatch) -> int: ...
