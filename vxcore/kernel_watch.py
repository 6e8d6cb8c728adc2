"""A thread that hears when the kernel changes links, addresses or neighbours of this network namespace.

Place in the house: on the ground. What has changed is for others to look up: events may be lost, so their
content is not used.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

LINKS, NEIGHBOURS, ADDRESSES = 0x1, 0x4, 0x10 | 0x100
"""What to hear of (RTMGRP_*, linux/rtnetlink.h); neighbours are the FDB of bridges, too."""


class KernelWatch:
    """Calls `changed` from a thread of its own at first, and when some of `groups` may have changed.

    Not more often than every `settle_s` seconds.
    """

    def __init__(self, groups: int, changed: Callable[[], object], settle_s: float = 0.0) -> None:
        self._changed, self._settle_s = changed, settle_s
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._ends = threading.Event()
        self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._events.setblocking(False)
        self._events.bind((0, groups))
        self._thread = threading.Thread(target=self._run, name="vxcore-watch")
        self._thread.start()

    def again(self) -> None:
        """Call `changed` soon, as if something had; from any thread."""
        os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        self._changed()  # since it was looked at last
        while True:
            select.select([self._events.fileno(), self._wake], [], [])
            if self._ends.wait(self._settle_s):
                return
            with suppress(OSError):  # some were lost, or all are read
                while self._events.recv(1 << 16):
                    pass
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            self._changed()

    def close(self) -> None:
        """When `changed` is not called any more."""
        self._ends.set()
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._events.close()
        os.close(self._wake)
