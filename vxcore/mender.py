"""Sees to overlay ports that lanes have lost: a thread that sleeps until there are any.

Place in the house: below engine, which says how they are mended.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress

log = logging.getLogger("vxcore")

_AGAIN_MS = 1000


class Mender:
    """Calls `mend` when a lane wrote to `fd`, and again every second until it says that all is well."""

    def __init__(self, mend: Callable[[], bool]) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._mend, self._stop = mend, False
        self._thread = threading.Thread(target=self._run, name="vxcore-mender", daemon=True)

    def start(self, undo: ExitStack) -> None:
        """Begin to wait; `undo` ends it."""
        self._thread.start()
        undo.callback(self._end)

    def close(self) -> None:
        """When lanes have ended."""
        os.close(self.fd)

    def _end(self) -> None:
        self._stop = True
        os.eventfd_write(self.fd, 1)
        self._thread.join()

    def _run(self) -> None:
        well, poll = True, select.poll()
        poll.register(self.fd, select.POLLIN)
        while True:
            poll.poll(None if well else _AGAIN_MS)
            with suppress(BlockingIOError):
                os.eventfd_read(self.fd)
            if self._stop:
                return
            try:
                well = self._mend()
            except Exception:
                log.exception("overlay ports: trying again")
                well = False
