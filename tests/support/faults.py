"""Faults of the kernel and the machine, let into a running vxcore by faults.c.

Place in the house: under the interop tests of recovery. `before` starts the command of a VtepProcess; what is
written here then happens to its lanes.
"""

from __future__ import annotations

import mmap
import struct
import subprocess
from pathlib import Path

CALLS = ("sendmmsg", "recvmmsg", "read", "writev", "epoll_wait")  # in the order of faults.c
_FAULT = struct.Struct("=ii")
_CLOCK = struct.Struct("=q")
_SOURCE = Path(__file__).with_suffix(".c")


def build(folder: Path) -> Path:
    """Compile faults.c."""
    library = folder / "faults.so"
    line = ["cc", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-o", str(library), str(_SOURCE)]
    subprocess.run(line, check=True)
    return library


class Faults:
    """What is to happen to a process that `before` starts."""

    def __init__(self, library: Path, file: Path) -> None:
        file.write_bytes(bytes(len(CALLS) * _FAULT.size + _CLOCK.size))
        with file.open("r+b") as opened:
            self._memory = mmap.mmap(opened.fileno(), 0)
        self.before = ("env", f"LD_PRELOAD={library}", f"VX_FAULTS={file}")

    def fail(self, call: str, error: int, n: int = 1) -> None:
        """Let the next n such calls of lanes fail with an errno; or raise a signal in them, minus `error`."""
        _FAULT.pack_into(self._memory, CALLS.index(call) * _FAULT.size, error, n)

    def left(self, call: str) -> int:
        """How many are still to fail."""
        return int(_FAULT.unpack_from(self._memory, CALLS.index(call) * _FAULT.size)[1])

    def set_clock(self, forth_s: int) -> None:
        """Set the clock since 1970 so much before what it really is."""
        _CLOCK.pack_into(self._memory, len(CALLS) * _FAULT.size, forth_s)
