"""Traffic that goes on while a VTEP is upgraded, and what is to be said of it at the end.

Place in the house: above hosts, under test_upgrade.py and the benchmark of upgrades; numbered.py is
what runs in the namespaces.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.hosts import DEADLINE_S, STARVED, Host, VtepProcess, wait_until

NUMBERED = Path(__file__).with_name("numbered.py")
VXCORE = (sys.executable, "-m", "vxcore")
RATE = 10_000
# What a machine without time for us makes the kernel drop, wherever a queue is full.
NO_ROOM = STARVED | {"overlay_full", "underlay_full"}


def _start(host: Host, *words: str) -> subprocess.Popen[str]:
    return host.start(sys.executable, str(NUMBERED), *words, stdin=subprocess.PIPE)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise AssertionError(process.communicate(timeout=DEADLINE_S)[1])
    return line.strip()


class Numbered:
    """Numbered UDP packets from a host to an address of another one, from now on."""

    def __init__(self, sender: Host, receiver: Host, address: str, rate: int = RATE) -> None:
        self._receiver_host = receiver
        self._receiver = _start(receiver, "receive", address)
        port = _line(self._receiver)
        self._sender = _start(sender, "send", address, port, str(rate))

    def finish(self) -> dict[str, Any]:
        """How many there were, `sent`, and how many are `missing` or `repeated`."""
        sent = self._sender.communicate(timeout=DEADLINE_S)[0].strip()
        assert sent, "the sender has failed"
        assert self._receiver.stdin is not None
        self._receiver.stdin.write(f"{sent}\n")
        self._receiver.stdin.flush()
        found: dict[str, Any] = json.loads(_line(self._receiver))
        return {**found, "sent": int(sent)}


class Talk:
    """A TCP connection that lasts, from a host to an address of another one."""

    def __init__(self, client: Host, server: Host, address: str) -> None:
        self._server = _start(server, "echo", address)
        self._client = _start(client, "talk", address, _line(self._server))

    def finish(self) -> int:
        """How many blocks went there and came back, unchanged; fails if it broke."""
        out, err = self._client.communicate(timeout=60)
        assert self._client.returncode == 0, err
        return int(out)


class Upgradable:
    """A VTEP in a host's namespace, which process by process becomes another one."""

    def __init__(self, host: Host, vtep: VtepProcess, before: tuple[str, ...] = ()) -> None:
        self.host, self.vtep, self.pid, self._before = host, vtep, vtep.process.pid, before
        self.asking: tuple[str, ...] = ()  # options of every command

    def upgrade(self, *options: str) -> dict[str, Any]:
        """To a process of the same vxcore; what the command said."""
        words = (*self._before, *VXCORE, "upgrade", "--json", *options, *self.asking)
        done: dict[str, Any] = json.loads(self.host.run(*words).stdout)
        assert done["was"] == self.pid
        self.pid = done["pid"]
        assert self.show()["pid"] == self.pid
        return done

    def fails(self, *options: str) -> str:
        """An upgrade that does not take place, and what is said of it; the process goes on."""
        done = self.host.run(*VXCORE, "upgrade", *options, *self.asking, check=False)
        assert done.returncode == 1, done.stdout + done.stderr
        assert self.show()["pid"] == self.pid
        return done.stderr

    def show(self, *words: str) -> Any:
        return json.loads(self.host.run(*VXCORE, "show", *words, "--json", *self.asking).stdout)

    def stop(self) -> str:
        """End the last of the processes; what all of them have logged."""
        assert self.vtep.process.stderr is not None
        os.kill(self.pid, signal.SIGTERM)
        log = self.vtep.process.stderr.read()  # it ends when nobody has it any more
        self.vtep.process.wait(DEADLINE_S)  # the first of them, which nobody else does
        wait_until(lambda: not Path("/proc", str(self.pid)).exists(), "its end")
        return log


def lost_for_want_of_room(log: str) -> int:
    """Of all processes of a VTEP, as each says when it ends."""
    drops = re.findall(r"(\w+) (\d+)", " ".join(re.findall(r"dropped: (.*)", log)))
    return sum(int(n) for name, n in drops if name in NO_ROOM)


def dropped_by_sockets(*hosts: Host) -> int:
    """Of all UDP sockets that there are now."""
    text = "".join(host.run("cat", "/proc/net/udp").stdout for host in hosts)
    return sum(int(line.split()[-1]) for line in text.splitlines() if line.split()[-1].isdigit())


def dropped_by_backlogs() -> int:
    """Of all processors, since the start of the machine."""
    lines = Path("/proc/net/softnet_stat").read_text().splitlines()
    return sum(int(line.split()[1], 16) for line in lines)


def output(process: subprocess.Popen[str], seconds: float = DEADLINE_S) -> str:
    """The next line that a process writes."""
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], seconds)[0], "it says nothing"
    return process.stdout.readline()
