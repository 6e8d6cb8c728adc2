"""What a service manager is told: ready, reloading, stopping, alive; sd_notify(3), by one datagram each.

Place in the house: beside metrics, below daemon; knows nobody. Without a service manager all of it does
nothing, and nothing of it can fail what runs.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping

log = logging.getLogger("vxcore")

_SEND_S = 1.0
_RELOAD_USEC = 600_000_000  # a file of thousands of segments takes its time


class ServiceManager:
    """systemd, or whoever has put NOTIFY_SOCKET into the environment.

    `watchdog_usec` is within how many microseconds it wants to hear that we live; 0: it does not.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self.watchdog_usec = _watchdog_usec(environment) if self._address else 0

    def ready(self, status: str) -> None:
        """Started, or reloaded; `status` is shown by ``systemctl status``."""
        self._tell("READY=1", f"STATUS={status}", *self._within(self.watchdog_usec))

    def reloading(self) -> None:
        """Settings are read again; ``ready`` ends that. Meanwhile nobody needs to hear that we live."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={now}", "STATUS=reloading", *self._within(_RELOAD_USEC))

    def stopping(self, status: str) -> None:
        """The end begins."""
        self._tell("STOPPING=1", f"STATUS={status}")

    def succeeded_by(self, pid: int) -> None:
        """Another process is what it is to look after from now on; it is one of ours."""
        self._tell(f"MAINPID={pid}")

    @property
    def environment(self) -> dict[str, str]:
        """By which such a process finds it."""
        return {"NOTIFY_SOCKET": self._address, "WATCHDOG_USEC": str(self.watchdog_usec or "")}

    def alive(self) -> None:
        """To be told within every `watchdog_usec`."""
        self._tell("WATCHDOG=1")

    def _within(self, usec: int) -> list[str]:
        return [f"WATCHDOG_USEC={usec}"] if self.watchdog_usec else []

    def _tell(self, *assignments: str) -> None:
        if not self._address:
            return
        message = "\n".join(" ".join(each.splitlines()) for each in assignments)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(_SEND_S)
                sock.sendto(message.encode(), _path(self._address))
        except OSError as error:
            log.warning("the service manager was not told %s: %s", assignments[0], error)


def _path(address: str) -> str:
    """An abstract address is written with @ in the place of its NUL."""
    return "\0" + address[1:] if address.startswith("@") else address


def _watchdog_usec(environment: Mapping[str, str]) -> int:
    """What WATCHDOG_USEC says, if it is meant for this process."""
    usec, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    return int(usec) if usec.isdecimal() and pid in ("", str(os.getpid())) else 0


class Watchdog:
    """Tells the service manager that we live, as long as every lane turns.

    `turns` counts the turns of each lane's loop, of which there is at least one a second.
    """

    def __init__(self, manager: ServiceManager, turns: Callable[[], list[int]]) -> None:
        self._manager, self._turns = manager, turns
        self._before: list[int] = []

    def look(self) -> None:
        """To be called about once a second."""
        if not self._manager.watchdog_usec:
            return
        now = self._turns()
        if not self._before or all(new != old for new, old in zip(now, self._before, strict=True)):
            self._before = now
            self._manager.alive()
