"""Hosts that are measured: network namespaces joined by veth pairs, nothing between them.

Place in the house: above results, below vteps and the measures; hosts are those of the interop tests
(tests/support/hosts.py). Names carry the process's id and a counter; leaving a Stage ends what was
started in it and deletes its namespaces.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from support.hosts import Host, run

from vxcore.lab.hosts import in_namespace

T = TypeVar("T")
_numbers = itertools.count()
MTU = 1500
WIRE_LEN = MTU + 14

# By mode, what is changed of the underlay's devices. As made, a veth lets 64 KiB super-frames pass. In
# wire mode all that crosses has the size that a wire would carry; nic is wire with what a NIC's driver
# does on receipt besides, GRO, which a veth does only if it is told to.
_WIRE = dict.fromkeys(
    (
        "tx-udp_tnl-segmentation",
        "tx-udp_tnl-csum-segmentation",
        "tx-udp-segmentation",
        "tx-tcp-segmentation",
        "tx-tcp6-segmentation",
        "tx-tcp-mangleid-segmentation",
        "tx-tcp-ecn-segmentation",
    ),
    "off",
)
MODES: dict[str, dict[str, str]] = {"offload": {}, "wire": _WIRE, "nic": {**_WIRE, "gro": "on"}}


def inside(host: Host, call: Callable[..., T], *arguments: Any) -> T:
    """Call a function in the host's namespace; what it opens stays there."""
    return in_namespace(f"/var/run/netns/{host.namespace}", lambda: call(*arguments))


class Stage(AbstractContextManager["Stage"]):
    """Namespaces, their processes and a directory for these, there while the context lasts."""

    def __init__(self) -> None:
        self._prefix = f"vxb{os.getpid()}-{next(_numbers)}"
        self.hosts: list[Host] = []
        self._undo = ExitStack()
        self.directory = Path(tempfile.mkdtemp(prefix=f"{self._prefix}-"))

    def host(self, number: int) -> Host:
        """A new host, without devices or addresses."""
        host = Host(f"{self._prefix}h{number}", number)
        run("ip", "netns", "add", host.namespace)
        self.hosts.append(host)
        host.ip("link", "set", "lo", "up")
        inside(host, _unfilter)
        return host

    def link(self, left: Host, left_device: str, right: Host, right_device: str, mode: str) -> None:
        """Join two hosts by a veth pair in one of the MODES, both ends up; nothing crosses by itself."""
        peer = ("peer", "name", right_device, "netns", right.namespace)
        left.ip("link", "add", left_device, "mtu", str(MTU), "type", "veth", *peer)
        right.ip("link", "set", right_device, "mtu", str(MTU))
        for host, device in ((left, left_device), (right, right_device)):
            if MODES[mode]:
                host.run("ethtool", "-K", device, *(word for pair in MODES[mode].items() for word in pair))
            inside(host, Path(f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6").write_text, "1")
            host.ip("link", "set", device, "up")

    def counts(self, host: Host, device: str) -> Counts:
        """The counters of a host's device."""
        counts = Counts(host, device)
        self._undo.callback(counts.close)
        return counts

    def pids(self) -> list[int]:
        """Of the processes that were started in the hosts."""
        return [process.pid for host in self.hosts for process in host.processes]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in [process for host in self.hosts for process in host.processes]:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for host in self.hosts:
            run("ip", "netns", "delete", host.namespace, check=False)
        self._undo.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def _unfilter() -> None:
    """A bridge is a bridge and no firewall."""
    for name in ("iptables", "ip6tables", "arptables"):
        switch = Path(f"/proc/sys/net/bridge/bridge-nf-call-{name}")
        if switch.exists():
            switch.write_text("0")


def add_underlay_address(host: Host, device: str = "eth") -> None:
    """The host's IPv4 address in the underlay."""
    host.ip("address", "add", f"{host.v4}/24", "dev", device)


def offloads(host: Host, device: str) -> dict[str, str]:
    """The features that matter here, as `ethtool -k` shows them."""
    shown = dict(
        line.strip().split(": ", 1)
        for line in host.run("ethtool", "-k", device).stdout.splitlines()[1:]
        if ": " in line
    )
    wanted = (*_WIRE, "generic-receive-offload", "tx-checksumming")
    return {name: shown[name].split()[0] for name in wanted if name in shown}


# One core for the VTEP, another for what loads it


def pin(pid: int, cpu: int) -> None:
    """All threads of a process to one CPU; threads that these start stay there too."""
    for task in Path("/proc", str(pid), "task").iterdir():
        os.sched_setaffinity(int(task.name), {cpu})


def steer(host: Host, device: str, cpu: int) -> None:
    """What arrives on a device is taken in on this CPU, and not on the sender's as veth has it.

    By RPS; where XDP has made the veth a NAPI device, in threads of that, which are pinned.
    """
    path = f"/sys/class/net/{device}"
    host.run("sh", "-c", f"for file in {path}/queues/rx-*/rps_cpus; do echo {1 << cpu:x} > $file; done")
    before = _napi_threads()
    host.run("sh", "-c", f"echo 1 > {path}/threaded", check=False)  # refused where there is no NAPI
    for pid in _napi_threads() - before:
        pin(pid, cpu)


def _napi_threads() -> set[int]:
    """Of all devices of the machine."""
    found = set()
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text().startswith("napi/"):
                found.add(int(comm.parent.name))
        except OSError:
            continue  # it has ended
    return found


class Counts:
    """The counters of one device, read by a descriptor that stays in its namespace."""

    def __init__(self, host: Host, device: str) -> None:
        self._device = device
        self._fd = inside(host, lambda: os.open("/proc/thread-self/net/dev", os.O_RDONLY | os.O_CLOEXEC))

    def read(self) -> dict[str, int]:
        """Packets and bytes received."""
        for line in os.pread(self._fd, 1 << 16, 0).decode().splitlines():
            name, colon, columns = line.partition(":")
            if colon and name.strip() == self._device:
                n_bytes, n_packets = columns.split()[:2]
                return {"rx": int(n_packets), "rx_bytes": int(n_bytes)}
        raise OSError(f"{self._device} is gone")

    def close(self) -> None:
        os.close(self._fd)
