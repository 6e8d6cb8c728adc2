"""Four ways in which a container gets its network, each reaching a container on another host.

Place in the house: above hosts and traffic. Namespaces stand for containers; the names are Docker's.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from vxcore.lab.hosts import LabError, Namespace, in_namespace, index_of, namespace, plug, told
from vxcore.lab.traffic import Inside, ping, tcp

BRIDGE = "br42"
TAP = "vx42"
PREFIX_LEN = 24
TARGET = "10.42.0.202"
TCP_SECONDS = 0.3


Row = tuple[str, str]


def show_modes(one: Namespace, two: Namespace, mtu: int, names: str) -> Iterator[Row]:
    """Put a container behind a bridge on host `two`, and reach it from host `one` in four ways."""
    with ExitStack() as stack:
        print(f"\nHost {two.name}: a container behind a bridge that holds the overlay device")
        target = stack.enter_context(container(two, f"{names}c2", TARGET, mtu))
        print("\nMode host: the process uses the host's TAP")
        yield from _reach("host", one.run, target)
        print("\nMode bridge: a container's veth in a bridge that holds the TAP")
        one.links(lambda route: route.flush_addr(index=index_of(route, TAP)))
        box = stack.enter_context(container(one, f"{names}c1", "10.42.0.201", mtu))
        yield from _reach("bridge", box.run, target)
        print("\nMode container: a second process joins the first one's namespace")
        yield from _joined(box, target)
        print("\nMode none: an isolated namespace, and then the TAP moved into it by hand")
        alone = stack.enter_context(namespace(f"{names}c3"))
        yield _isolated(alone)
        _move_tap(one, alone)
        yield from _reach("none + TAP", alone.run, target)


@contextmanager
def container(host: Namespace, name: str, address: str, mtu: int) -> Iterator[Namespace]:
    """A namespace behind the host's bridge, into which the overlay device is plugged."""
    with namespace(name) as box:
        host.add_bridge(BRIDGE, mtu)
        host.enslave(TAP, BRIDGE)
        plug(box, "eth0", host, "veth0", BRIDGE, mtu)
        box.add_address("eth0", address, PREFIX_LEN)
        yield box


def _reach(mode: str, inside: Inside, target: Namespace) -> Iterator[Row]:  # type: ignore[type-arg]
    pinged = inside(lambda: ping(TARGET, count=3))
    if len(pinged.times_ms) != pinged.n_sent:
        raise LabError(f"mode {mode}: {pinged}")
    yield f"mode {mode}", str(pinged)
    yield "", str(tcp(inside, target.run, TARGET, TCP_SECONDS))


def _joined(box: Namespace, target: Namespace) -> Iterator[Row]:
    first = box.run(lambda: subprocess.Popen(["sleep", "infinity"]))
    try:
        told(f"nsenter --net=/proc/{first.pid}/ns/net ping {TARGET}")
        yield from _reach("container", lambda call: in_namespace(f"/proc/{first.pid}/ns/net", call), target)
    finally:
        first.kill()
        first.wait()


def _isolated(alone: Namespace) -> Row:
    told(f"ip netns exec {alone.name} ping {TARGET}")
    pinged = alone.run(lambda: ping(TARGET, count=1))
    if pinged.times_ms:
        raise LabError("mode none: an isolated namespace reached the network")
    return ("mode none", "unreachable, as it should be")


def _move_tap(host: Namespace, box: Namespace) -> None:
    told(f"ip -n {host.name} link set {TAP} nomaster netns {box.name}")

    def move(route: object) -> None:
        with open(box.path) as target:  # noqa: PTH123
            index = index_of(route, TAP)
            route.link("set", index=index, master=0)  # type: ignore[attr-defined]
            route.link("set", index=index, net_ns_fd=target.fileno())  # type: ignore[attr-defined]

    host.links(move)
    box.add_address(TAP, "10.42.0.203", PREFIX_LEN)
    box.up(TAP)
