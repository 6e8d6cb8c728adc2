from collections.abc import Iterable
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

KINDS: Final[dict[str, int]]
ROW: Final[np.dtype[np.void]]
NOWHERE: Final[int]

@disjoint_base
class Ring:
    def __new__(cls, wake_fd: int) -> Self: ...
    @property
    def dropped(self) -> int: ...
    def want(self, kinds: Iterable[str]) -> None: ...
    def take(self) -> NDArray[Any]: ...
    def may_sleep(self) -> bool: ...
