from collections.abc import Iterable
from typing import Final, Self

from typing_extensions import disjoint_base

OUT: Final[int]
IN: Final[int]
LEARNED: Final[tuple[str | None, ...]]
MAX_SNAP_LEN: Final[int]

@disjoint_base
class Watch:
    def __new__(
        cls,
        wake_fd: int,
        *,
        vni: int | None = None,
        mac: int | None = None,
        ways: Iterable[int] = ...,
        snap_len: int = ...,
        dropped_only: bool = False,
    ) -> Self: ...
    @property
    def lost(self) -> int: ...
    def take(
        self,
    ) -> list[tuple[int, int, int, int, int, int, bytes, int, int, int, int, int, bytes]]: ...
    def may_sleep(self) -> bool: ...
