"""A thread that hears when the kernel changes links, addresses or neighbours of this network namespace.

Place in the house: on the ground. What has changed is for others to look up: events may be lost, so their
content is not used.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

log = logging.getLogger("vxcore")

LINKS, NEIGHBOURS, ADDRESSES = 0x1, 0x4, 0x10 | 0x100
"""What to hear of (RTMGRP_*, linux/rtnetlink.h); neighbours are the FDB of bridges, too."""


class KernelWatch:
    """Calls `changed` from a thread of its own at first, and when some of `groups` may have changed.

    Not more often than every `settle_s` seconds. What it raises is logged, and ends nothing.
    """

    def __init__(self, groups: int, changed: Callable[[], object], settle_s: float = 0.0) -> None:
        self._changed, self._settle_s = changed, settle_s
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._ends = threading.Event()
        self._closing = threading.Lock()
        self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._events.setblocking(False)
        self._events.bind((0, groups))
        self._thread = threading.Thread(target=self._run, name="vxcore-watch")
        self._thread.start()

    def again(self) -> None:
        """Call `changed` soon, as if something had; from any thread, and for nothing when it is closed."""
        with self._closing:  # or the number of the file may be another's
            if not self._ends.is_set():
                os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        poll = select.poll()  # select knows no file above the 1024th, and each port has some
        for fd in (self._events.fileno(), self._wake):
            poll.register(fd, select.POLLIN)
        self._tell()  # since it was looked at last
        while True:
            poll.poll()
            if self._ends.wait(self._settle_s):
                return
            with suppress(OSError):  # some were lost, or all are read
                while self._events.recv(1 << 16):
                    pass
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            self._tell()

    def _tell(self) -> None:
        try:
            self._changed()
        except Exception:
            log.exception("what the kernel has changed is not followed until it changes again")

    def close(self) -> None:
        """When `changed` is not called any more."""
        with self._closing:
            self._ends.set()
            os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._events.close()
        os.close(self._wake)
