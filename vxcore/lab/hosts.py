"""Hosts of the lab: network namespaces, joined by a bridge, each told in the commands one would type.

Place in the house: lowest of the lab. Everything made here is undone by leaving its context, whatever
happened inside.
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pyroute2 import IPRoute, netns  # type: ignore[import-untyped]

from vxcore.errors import VxcoreError

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000
_READY_S = 15.0
_END_S = 10.0
_IFA_F_NODAD = 0x02  # linux/if_addr.h: no wait for duplicate address detection


class LabError(VxcoreError):
    """A step of the lab did not do what it should."""


def told(command: str) -> None:
    """Show a step as the command that a user would type."""
    print(f"  # {command}")


def in_namespace(path: str, call: Callable[[], T]) -> T:
    """Run a function in the network namespace at `path`: in a thread of its own, for setns is a thread's.

    What the function opens or starts stays in that namespace. Raises what it raises.
    """
    answer: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def inside() -> None:
        try:
            _enter(path)
            answer.put((call(), None))
        except BaseException as error:
            answer.put((None, error))

    threading.Thread(target=inside, daemon=True).start()
    value, error = answer.get()
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def _enter(path: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(fd, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"{path}: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(fd)


class Namespace:
    """A network namespace that is there while its context lasts."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = f"/var/run/netns/{name}"

    def run(self, call: Callable[[], T]) -> T:
        """Run a function inside."""
        return in_namespace(self.path, call)

    def links(self, call: Callable[[IPRoute], T]) -> T:
        """Run a function with a netlink socket of this namespace."""

        def inside() -> T:
            with IPRoute() as route:
                return call(route)

        return self.run(inside)

    def up(self, device: str) -> None:
        """Set a device up."""
        told(f"ip -n {self.name} link set {device} up")
        self.links(lambda route: route.link("set", index=index_of(route, device), state="up"))

    def add_address(self, device: str, address: str, prefix_len: int) -> None:
        """Give a device an address."""
        told(f"ip -n {self.name} address add {address}/{prefix_len} dev {device}")
        flags = {"flags": _IFA_F_NODAD} if ":" in address else {}
        self.links(
            lambda route: route.addr(
                "add", index=index_of(route, device), address=address, prefixlen=prefix_len, **flags
            )
        )

    def enslave(self, device: str, bridge: str) -> None:
        """Plug a device into a bridge."""
        told(f"ip -n {self.name} link set {device} master {bridge}")
        self.links(
            lambda route: route.link("set", index=index_of(route, device), master=index_of(route, bridge))
        )

    def add_bridge(self, name: str, mtu: int) -> None:
        """Make a bridge, and set it up."""
        told(f"ip -n {self.name} link add {name} mtu {mtu} type bridge")
        self.links(lambda route: route.link("add", ifname=name, kind="bridge", mtu=mtu))
        self.up(name)


def index_of(route: IPRoute, device: str) -> int:
    """The index of a device; LabError if there is none of that name."""
    indexes = route.link_lookup(ifname=device)
    if not indexes:
        raise LabError(f"there is no device {device}")
    return int(indexes[0])


@contextmanager
def namespace(name: str) -> Iterator[Namespace]:
    """A new namespace with its loopback up."""
    told(f"ip netns add {name}")
    netns.create(name)
    try:
        made = Namespace(name)
        made.links(lambda route: route.link("set", index=index_of(route, "lo"), state="up"))
        yield made
    finally:
        netns.remove(name)


def plug(inside: Namespace, device: str, switch: Namespace, port: str, bridge: str, mtu: int) -> None:
    """Join a namespace to a bridge in another by a veth pair."""
    told(f"ip -n {switch.name} link add {port} type veth peer name {device} netns {inside.name}")
    fd = os.open(inside.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        peer = {"ifname": device, "net_ns_fd": fd, "mtu": mtu}
        switch.links(lambda route: route.link("add", ifname=port, kind="veth", mtu=mtu, peer=peer))
    finally:
        os.close(fd)
    switch.enslave(port, bridge)
    switch.up(port)
    inside.up(device)


class VtepProcess:
    """`vxcore up` in a namespace; usable once constructed."""

    def __init__(self, host: Namespace, arguments: list[str]) -> None:
        told(f"ip netns exec {host.name} vxcore up {' '.join(arguments)}")
        command = [sys.executable, "-m", "vxcore", "up", *arguments]
        # The parent's directory on the path, so that a vxcore that is not installed finds itself.
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        self._process = host.run(
            lambda: subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
            )
        )
        self.ready = self._line()
        if not self.ready.startswith("ready"):
            self._process.kill()
            raise LabError(f"the VTEP on {host.name} did not start: {self._process.communicate()[1].strip()}")

    def _line(self) -> str:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], _READY_S)[0]:
            return ""
        return self._process.stdout.readline().strip()

    def counters(self) -> dict[str, Any]:
        """What the VTEP counted so far."""
        self._process.send_signal(signal.SIGUSR1)
        line = self._line()
        if not line:
            raise LabError("the VTEP gave no counters")
        return dict(json.loads(line))

    def stop(self) -> None:
        """End it as a user would."""
        self._process.terminate()
        try:
            self._process.communicate(timeout=_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
