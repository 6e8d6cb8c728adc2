"""Amounts of bytes as text.

Place in the house: beside addresses, below problem and config: what a person writes is read here.
"""

from __future__ import annotations

import re
from typing import Self

from vxcore.addresses import AddressError

SIZE_FORM = 'a number of bytes from 64KiB to 1TiB, such as "1GiB" or "500MB"'
SMALLEST, LARGEST = 1 << 16, 1 << 40
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}


class Size(int):
    """Bytes of a file: ``1GiB``, ``500MB``, ``1000000``; in either case, with or without a space.

    Raises AddressError, a ConfigError, for other text and for what is no sensible size of a file.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        match = re.fullmatch(r"(\d{1,13})\s*([a-zA-Z]*)", text)
        if not match or match[2].upper() not in _UNITS:
            raise AddressError(text, "is no size", SIZE_FORM)
        size = int(match[1]) * _UNITS[match[2].upper()]
        if not SMALLEST <= size <= LARGEST:
            raise AddressError(text, "is too small" if size < SMALLEST else "is too large", SIZE_FORM)
        return super().__new__(cls, size)


def amount(n_bytes: float) -> str:
    """Bytes for a person: ``1.5 GB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n_bytes < 1000 or unit == "GB":
            return f"{n_bytes:.0f} bytes" if unit == "bytes" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    raise AssertionError("not reached")
