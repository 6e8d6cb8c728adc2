"""`vxcore top` on a terminal, over a running VTEP."""

from __future__ import annotations

import os
import pty
import select
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from support.hosts import DEADLINE_S, Host, Lan

pytestmark = pytest.mark.usefixtures("root", "nothing_is_left")
VXCORE = (sys.executable, "-m", "vxcore")


@pytest.fixture
def one() -> Iterator[Host]:
    with Lan(2) as lan:
        one, two = lan.hosts
        two.kernel_vxlan([one])
        lan.vtep(one)
        one.ping("10.42.0.2")
        yield one


class Terminal:
    """A command on a terminal of 80 x 24."""

    def __init__(self, host: Host, *words: str) -> None:
        self.fd, theirs = pty.openpty()
        self.text = ""
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
        command = ["ip", "netns", "exec", host.namespace, *VXCORE, *words]
        self.pid = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", 'exec setsid -c "$@"', "sh", *command],
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, theirs, n) for n in (0, 1, 2)],
        )
        os.close(theirs)

    def shows(self, what: str) -> None:
        """Wait until it does."""
        deadline = time.monotonic() + DEADLINE_S
        while what not in self.text:
            assert time.monotonic() < deadline, self.text[-2000:]
            if select.select([self.fd], [], [], 0.2)[0]:
                self.text += os.read(self.fd, 65536).decode(errors="replace")
        self.text = self.text[self.text.index(what) + len(what) :]

    def press(self, key: str) -> None:
        os.write(self.fd, key.encode())

    def end(self) -> int:
        """Its exit code."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            if select.select([self.fd], [], [], 0.05)[0]:
                with suppress(OSError):  # nobody has the other side
                    self.text += os.read(self.fd, 65536).decode(errors="replace")
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"it goes on: {self.text[-2000:]}")


def test_a_terminal_shows_rates_and_obeys_keys(one: Host) -> None:
    pings = one.start("ping", "-q", "-i", "0.005", "10.42.0.2")
    terminal = Terminal(one, "top")
    terminal.shows("rx p/s v")
    terminal.shows("vx42")
    terminal.press("l")
    terminal.shows("bursts/s v")
    terminal.press("d")
    terminal.shows("what it means")
    terminal.press("s")
    terminal.press("/")
    terminal.press("nothing like it")
    terminal.shows("filter: nothing like it_")
    terminal.press("\r")
    terminal.press("q")
    assert terminal.end() == 0
    pings.kill()


def test_without_a_terminal_one_screen_can_be_had(one: Host) -> None:
    done = one.run(*VXCORE, "top", "--once")
    assert "vx42" in done.stdout
    assert "\x1b" not in done.stdout
    refused = one.run(*VXCORE, "top", check=False)
    assert refused.returncode == 2
    assert refused.stderr == "vxcore: error: top needs a terminal; --once prints one screen anywhere\n"
