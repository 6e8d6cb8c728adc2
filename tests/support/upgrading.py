"""Traffic that goes on while a VTEP is upgraded, and what is to be said of it at the end.

Place in the house: above hosts, under test_upgrade.py and benchmarks/upgrades.py; numbered.py is
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
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from support.hosts import DEADLINE_S, STARVED, Host, Lan, VtepProcess, wait_until

NUMBERED = Path(__file__).with_name("numbered.py")
VXCORE = (sys.executable, "-m", "vxcore")
RATE = 10_000
VXLAN_PORT = f":{4789:04X}"
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


def answers(one: Host) -> None:
    """Host 2 answers, sooner or later."""
    wait_until(lambda: one.pings("10.42.0.2"), "an answer")


class Upgradable:
    """A VTEP in a host's namespace, which process by process becomes another one."""

    def __init__(self, host: Host, vtep: VtepProcess, before: tuple[str, ...] = ()) -> None:
        self.host, self.vtep, self.pid, self.before = host, vtep, vtep.process.pid, before
        self.asking: tuple[str, ...] = ()  # options of every command

    def upgrade(self, *options: str) -> dict[str, Any]:
        """To a process of the same vxcore; what the command said."""
        words = (*self.before, *VXCORE, "upgrade", "--json", *options, *self.asking)
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
    """Of all UDP sockets but a VTEP's, which counts by itself; and one that only keeps a port drops all."""
    text = "".join(host.run("cat", "/proc/net/udp").stdout for host in hosts)
    rows = [line.split() for line in text.splitlines() if line.split()[-1].isdigit()]
    return sum(int(row[-1]) for row in rows if not row[1].endswith(VXLAN_PORT))


def dropped_by_underlay_tap(host: Host) -> int:
    """Of whose overruns a VTEP does not tell."""
    shown = host.ip("-s", "-j", "link", "show", "vxu", check=False).stdout
    return int(json.loads(shown)[0]["stats64"]["tx"]["dropped"]) if shown else 0


def dropped_by_backlogs() -> int:
    """Of all processors, since the start of the machine."""
    lines = Path("/proc/net/softnet_stat").read_text().splitlines()
    return sum(int(line.split()[1], 16) for line in lines)


def output(process: subprocess.Popen[str], seconds: float = DEADLINE_S) -> str:
    """The next line that a process writes."""
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], seconds)[0], "it says nothing"
    return process.stdout.readline()


# VTEPs of each kind


def up(
    lan: Lan,
    *options: str,
    port: tuple[str, ...] = ("--tap", "vx42"),
    local: str | None = None,
    before: tuple[str, ...] = (),
) -> Upgradable:
    """A VTEP on host 1, and the kernel's on host 2."""
    one, two = lan.hosts
    ends = ("--local", local or one.v4, "--remote", two.v4)
    process = VtepProcess(one, "up", "--vni", "42", *ends, *port, *options, before=before)
    vtep = Upgradable(one, process, before)
    if port[0] == "--tap":
        one.overlay("vx42")
    two.kernel_vxlan([one])
    return vtep


def _other_underlay(kind: str) -> Callable[[Lan], Upgradable]:
    return lambda lan: up(lan, "--underlay", kind, "--dev", "eth")


def _other_overlay(kind: str) -> Callable[[Lan], Upgradable]:
    def start(lan: Lan) -> Upgradable:
        one = lan.hosts[0]
        peer = ("peer", "name", "host", "mtu", "1450")
        one.ip("link", "add", "access", "mtu", "1450", "type", "veth", *peer)
        switches = ("net.ipv6.conf.access.disable_ipv6=1", "net.ipv4.conf.access.arp_ignore=8")
        one.run("sysctl", "-qw", *switches)
        one.ip("link", "set", "access", "up")
        one.overlay("host")
        return up(lan, port=("--port", f"{kind}=access"))

    return start


def _underlay_tap(lan: Lan) -> Upgradable:
    one, two = lan.hosts
    one.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.neigh.eth.proxy_delay=0")
    one.ip("neigh", "add", "proxy", "192.0.2.101", "dev", "eth")
    vtep = up(lan, "--underlay", "tap", "--via", "vxu", local="192.0.2.101")
    entry = ("00:00:00:00:00:00", "dev", "vx42", "dst", "192.0.2.101")
    two.run("bridge", "fdb", "append", *entry)
    return vtep


KINDS: dict[str, Callable[[Lan], Upgradable]] = {
    "udp, tap": up,
    "packet, tap": _other_underlay("packet"),
    "xdp, tap": _other_underlay("xdp"),
    "tap, tap": _underlay_tap,
    "udp, packet": _other_overlay("packet"),
    "udp, xdp": _other_overlay("xdp"),
}
"""Underlay port, overlay port."""


class Found(NamedTuple):
    """What upgrades did to traffic; `dropped` is what some queue of a kernel had no room for."""

    sent: int
    missing: int
    repeated: int
    dropped: int
    talked: int
    stood_ms: list[float]


def upgraded_under_traffic(lan: Lan, vtep: Upgradable, n_upgrades: int) -> Found:
    """Upgrade it while numbered packets go both ways, and a TCP connection lasts; ends the VTEP."""
    one, two = lan.hosts
    answers(one)
    before = dropped_by_backlogs()
    flows = [Numbered(one, two, "10.42.0.2"), Numbered(two, one, "10.42.0.1")]
    talk = Talk(one, two, "10.42.0.2")
    stood_ms = [vtep.upgrade()["stood_ms"] for _ in range(n_upgrades)]
    talked, found = talk.finish(), [flow.finish() for flow in flows]
    dropped = dropped_by_sockets(one, two) + dropped_by_underlay_tap(one) + dropped_by_backlogs() - before
    answers(one)
    dropped += lost_for_want_of_room(vtep.stop())
    sent, missing, repeated = (sum(flow[name] for flow in found) for name in ("sent", "missing", "repeated"))
    return Found(sent, missing, repeated, dropped, talked, stood_ms)
