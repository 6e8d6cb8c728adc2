"""Hosts for interop tests: network namespaces joined by one underlay network, with a VTEP in each.

Place in the house: under tests/interop. Names carry the process's id and a counter, so that runs do
not collide; leaving a Lan ends what was started in it and deletes its namespaces, also on failure.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_numbers = itertools.count()
BULK = Path(__file__).with_name("bulk.py")
DEADLINE_S = 15.0
# The drops that come of a busy machine, where a VTEP has to wait for a processor while its queues fill.
STARVED = {"overlay_overrun", "underlay_overrun"}


def wait_until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_S) -> Any:
    """Poll until the condition is true and return its value; fail, saying `what`, at the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"after {seconds} s still not: {what}"
        time.sleep(0.02)


def run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; a failure shows what it printed."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 or not check, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done


class Host:
    """One namespace with an underlay address of each family on its device `eth`."""

    def __init__(self, namespace: str, number: int) -> None:
        self.namespace = namespace
        self.number = number
        self.v4 = f"192.0.2.{number}"
        self.v6 = f"2001:db8::{number}"
        self.processes: list[subprocess.Popen[str]] = []

    def address(self, family: int) -> str:
        """Of the underlay."""
        return self.v4 if family == 4 else self.v6

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run("ip", "netns", "exec", self.namespace, *command, check=check)

    def ip(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run("ip", "-n", self.namespace, *words, check=check)

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Start a process in the namespace; the Lan ends it."""
        line = ["ip", "netns", "exec", self.namespace, *command]
        process = subprocess.Popen(line, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
        self.processes.append(process)
        return process

    def overlay(self, device: str, number: int | None = None) -> None:
        """Give an overlay device its addresses, 10.42.0.n and fd42::n, and set it up."""
        n = self.number if number is None else number
        self.ip("address", "add", f"10.42.0.{n}/24", "dev", device)
        self.ip("address", "add", f"fd42::{n}/64", "dev", device, "nodad")
        self.ip("link", "set", device, "up")

    def kernel_vxlan(self, remotes: list[Host], *words: str, family: int = 4, vni: int = 42) -> None:
        """The kernel's own device vx42, with head-end replication to the remotes."""
        port = () if "dstport" in words else ("dstport", "4789")
        self.ip(
            *("link", "add", "vx42", "type", "vxlan", "id", str(vni), "local", self.address(family)),
            *(*port, *words),
        )
        mtu = self.mtu("eth") - (50 if family == 4 else 70)
        self.ip("link", "set", "vx42", "mtu", str(mtu))
        for remote in remotes:
            entry = ("00:00:00:00:00:00", "dev", "vx42", "dst", remote.address(family))
            run("bridge", "-n", self.namespace, "fdb", "append", *entry)
        self.overlay("vx42")

    def ping(self, target: str, *options: str, count: int = 3) -> None:
        """Ping and require an answer to every request, late as it may be on a busy machine.

        Once some are answered, `ping` waits for the others no longer than from one request to the next: so
        all are sent at once, and the next would be far off.
        """
        at_once = ("-l", str(count), "-i", "10", "-S", str(4096 * count))  # and room to send them all
        done = self.run("ping", "-n", "-c", str(count), *at_once, *options, target)
        assert f"{count} received" in done.stdout, done.stdout

    def pings(self, target: str, *options: str) -> bool:
        """Whether one ping is answered."""
        return self.run("ping", "-n", "-c", "1", "-W", "1", *options, target, check=False).returncode == 0

    def mac(self, device: str) -> str:
        return str(json.loads(self.ip("-j", "link", "show", device).stdout)[0]["address"])

    def mtu(self, device: str) -> int:
        return int(json.loads(self.ip("-j", "link", "show", device).stdout)[0]["mtu"])

    def transfer(self, other: Host, target: str, kind: str, n_bytes: int) -> None:
        """Send pseudo-random bytes to `target` on `other`, and require that all arrive unchanged."""
        server = other.start(sys.executable, str(BULK), "serve", kind, target, str(n_bytes))
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        client = self.run(sys.executable, str(BULK), "send", kind, target, str(n_bytes), port)
        out, err = server.communicate(timeout=DEADLINE_S)
        assert server.returncode == 0, f"{client.stderr}{out}{err}"


class VtepProcess:
    """`vxcore up` or `vxcore run` in a host's namespace; ready when constructed.

    `before` is the start of the command: a program that runs the rest of it.
    """

    def __init__(
        self, host: Host, *arguments: str, n_segments: int = 1, before: tuple[str, ...] = ()
    ) -> None:
        self.process = host.start(*before, sys.executable, "-m", "vxcore", *arguments)
        assert self.process.stdout is not None
        self.ready = []
        for _ in range(n_segments):
            line = self.process.stdout.readline()
            if not line.startswith("ready "):
                raise AssertionError(f"not ready: {line}{self.process.communicate(timeout=10)}")
            self.ready.append(line.strip())

    def counters(self) -> dict[str, Any]:
        self.process.send_signal(signal.SIGUSR1)
        assert self.process.stdout is not None
        return dict(json.loads(self.process.stdout.readline()))

    def drops(self, verdict: str) -> int:
        return int(self.counters()["drops"].get(verdict, 0))

    def stop(self, sent: signal.Signals = signal.SIGTERM) -> str:
        """End it, require exit code 0, and return what it logged."""
        self.process.send_signal(sent)
        _, err = self.process.communicate(timeout=DEADLINE_S)
        assert self.process.returncode == 0, err
        return err


class Lan:
    """A bridge in a namespace of its own, and `n_hosts` hosts plugged into it."""

    def __init__(self, n_hosts: int, mtu: int = 1500) -> None:
        prefix = f"vxt{os.getpid()}-{next(_numbers)}"
        self.switch = f"{prefix}s"
        self.hosts = [Host(f"{prefix}h{n}", n) for n in range(1, n_hosts + 1)]
        self.mtu = mtu
        self._macs: dict[int, str] = {}  # of hosts that were lost

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _build(self) -> None:
        run("ip", "netns", "add", self.switch)
        run("ip", "-n", self.switch, "link", "add", "lan", "type", "bridge", "mcast_snooping", "0")
        run("ip", "-n", self.switch, "link", "set", "lan", "mtu", str(self.mtu), "up")
        for host in self.hosts:
            self.plug(host)

    def plug(self, host: Host) -> None:
        """Make a host, with its link to the bridge; one that was lost has its MAC address again."""
        port, peer = f"p{host.number}", ("peer", "name", "eth", "netns", host.namespace)
        run("ip", "netns", "add", host.namespace)
        run("ip", "-n", self.switch, "link", "add", port, "mtu", str(self.mtu), "type", "veth", *peer)
        run("ip", "-n", self.switch, "link", "set", port, "master", "lan", "up")
        if mac := self._macs.get(host.number):
            host.ip("link", "set", "eth", "address", mac)
        host.ip("link", "set", "eth", "mtu", str(self.mtu), "up")
        host.ip("link", "set", "lo", "up")
        host.ip("address", "add", f"{host.v4}/24", "dev", "eth")
        host.ip("address", "add", f"{host.v6}/64", "dev", "eth", "nodad")

    def lose(self, host: Host) -> None:
        """End a host at once: its link, its processes, its devices; it can be plugged in again."""
        self._macs[host.number] = host.mac("eth")
        run("ip", "-n", self.switch, "link", "delete", f"p{host.number}")
        wait_until(lambda: not _killed(host), f"no process is in {host.namespace} any more")
        run("ip", "netns", "delete", host.namespace)

    def on_switch(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command where the bridge is; port p1 leads to host 1."""
        return run("ip", "netns", "exec", self.switch, *command)

    def wire_mode(self) -> None:
        """Make the hosts hand finished MTU-sized packets to the wire, as to a NIC without offloads."""
        features = [
            "tx-udp_tnl-segmentation",
            "tx-udp_tnl-csum-segmentation",
            "tx-checksumming",
            "tso",
            "gso",
            "gro",
        ]
        off = [word for feature in features for word in (feature, "off")]
        for host in self.hosts:
            host.run("ethtool", "-K", "eth", *off)

    def vtep(self, host: Host, *options: str, family: int = 4, vni: int = 42) -> VtepProcess:
        """`vxcore up` with all other hosts as remotes and TAP vx42, which gets its addresses."""
        others = [other for other in self.hosts if other is not host]
        remotes = [word for other in others for word in ("--remote", other.address(family))]
        local = ("--local", host.address(family))
        vtep = VtepProcess(host, "up", "--vni", str(vni), *local, *remotes, "--tap", "vx42", *options)
        host.overlay("vx42")
        return vtep

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in self.hosts:
            _killed(host)
        for process in [process for host in self.hosts for process in host.processes]:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for namespace in [self.switch, *(host.namespace for host in self.hosts)]:
            run("ip", "netns", "delete", namespace, check=False)


def _killed(host: Host) -> list[str]:
    """The processes that were there; some took the place of others, and are nobody's children."""
    pids = run("ip", "netns", "pids", host.namespace, check=False).stdout.split()
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    return pids


def namespaces_of_this_process() -> list[str]:
    """What a Lan that did not clean up has left."""
    return re.findall(rf"^vxt{os.getpid()}-\S+", run("ip", "netns", "list").stdout, re.MULTILINE)
