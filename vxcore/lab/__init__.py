"""`vxcore lab`: hosts with a VTEP each on one machine, what was done, and what was measured.

Place in the house: beside cli, above everything that it shows. It needs root and what the install
brought, and leaves nothing behind.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from contextlib import ExitStack
from functools import partial
from typing import Any, NoReturn

from pyroute2 import IPRoute  # type: ignore[import-untyped]

from vxcore.errors import UnsupportedError
from vxcore.lab.decode import Capture, explain
from vxcore.lab.hosts import LabError, Namespace, VtepProcess, index_of, namespace, plug, told
from vxcore.lab.modes import TAP, show_modes
from vxcore.lab.traffic import PingResult, ping, tcp

VNI = 42
UNDERLAY_MTU = 1500
OVERHEAD = {False: 50, True: 70}  # above the inner MTU, over IPv4 and IPv6
_SETTLE_S = 5.0


class Lab:
    """The hosts, their VTEPs, and the rows of the table."""

    def __init__(self, stack: ExitStack, args: argparse.Namespace) -> None:
        self.stack = stack
        self.names = f"vxlab{os.getpid()}-"
        self.n_hosts: int = args.hosts
        self.ipv6: bool = args.ipv6
        self.kernel_peer: bool = args.peer == "kernel"
        self.hosts: list[Namespace] = []
        self.vteps: list[VtepProcess] = []
        self.rows: list[tuple[str, str]] = []

    @property
    def mtu(self) -> int:
        """Of the overlay."""
        return UNDERLAY_MTU - OVERHEAD[self.ipv6]

    def underlay(self, number: int) -> str:
        """The underlay address of host `number`, counted from 1."""
        return f"2001:db8::{number}" if self.ipv6 else f"192.0.2.{number}"

    def build(self) -> None:
        """The network, a namespace with a bridge, and the hosts on it."""
        print(f"{self.n_hosts} hosts on one network")
        switch = self.stack.enter_context(namespace(f"{self.names}lan"))
        switch.add_bridge("lan", UNDERLAY_MTU)
        for number in range(1, self.n_hosts + 1):
            host = self.stack.enter_context(namespace(f"{self.names}h{number}"))
            plug(host, "eth", switch, f"port{number}", "lan", UNDERLAY_MTU)
            host.add_address("eth", self.underlay(number), 64 if self.ipv6 else 24)
            self.hosts.append(host)

    def start(self) -> None:
        """A VTEP on every host, and addresses on the overlay."""
        print(f"\nA VTEP on each, VNI {VNI}, every other host its remote")
        for number, host in enumerate(self.hosts, 1):
            others = [self.underlay(n) for n in range(1, self.n_hosts + 1) if n != number]
            if self.kernel_peer and number == self.n_hosts:
                add_kernel_vxlan(host, self.underlay(number), others, self.mtu)
            else:
                self._start_vtep(host, number, others)
            host.add_address(TAP, f"10.42.0.{number}", 24)
            host.add_address(TAP, f"fd42::{number}", 64)

    def _start_vtep(self, host: Namespace, number: int, others: list[str]) -> None:
        remotes = [word for other in others for word in ("--remote", other)]
        arguments = ["--vni", str(VNI), "--local", self.underlay(number), *remotes, "--tap", TAP]
        vtep = VtepProcess(host, arguments)
        self.stack.callback(vtep.stop)
        self.vteps.append(vtep)

    def measure(self, seconds: float) -> None:
        """Ping between all pairs, up to the full MTU, and TCP from the first host to the last."""
        print("\nPing and TCP across the overlay")
        capture = Capture(self.hosts[0], "eth")
        for number, host in enumerate(self.hosts, 1):
            for other in range(1, self.n_hosts + 1):
                if other != number:
                    self._ping(host, number, other)
        self._tcp(seconds)
        print("\nOne packet on the underlay, layer by layer")
        print("\n".join(explain(capture.packet())))

    def _ping(self, host: Namespace, number: int, other: int) -> None:
        for target, header_len in ((f"10.42.0.{other}", 28), (f"fd42::{other}", 48)):
            told(f"ip netns exec {host.name} ping {target}")
            wait_for(host, target)
            self._require(f"host {number} -> {target}", host.run(partial(ping, target)))
            full = partial(ping, target, 2, self.mtu - header_len)
            self._require("  with the full MTU", host.run(full))

    def _require(self, what: str, result: PingResult) -> None:
        if len(result.times_ms) != result.n_sent:
            raise LabError(f"ping {what}: {result}")
        self.rows.append((what, str(result)))

    def _tcp(self, seconds: float) -> None:
        first, last = self.hosts[0], self.hosts[-1]
        there, back = f"10.42.0.{self.n_hosts}", "10.42.0.1"
        self.rows.append((f"host 1 -> {there}", str(tcp(first.run, last.run, there, seconds))))
        self.rows.append((f"host {self.n_hosts} -> {back}", str(tcp(last.run, first.run, back, seconds))))

    def modes(self) -> None:
        """The four ways in which a container gets its network."""
        for row in show_modes(self.hosts[0], self.hosts[1], self.mtu, self.names):
            self.rows.append(row)

    def report(self) -> None:
        """The table, and what the VTEPs counted."""
        for number, vtep in enumerate(self.vteps, 1):
            self.rows.append((f"host {number} counted", _counted(vtep.counters())))
        print("\nMeasured")
        width = max(len(what) for what, _ in self.rows)
        for what, result in self.rows:
            print(f"  {what:{width}}  {result}")


def main(args: argparse.Namespace) -> int:
    """Run the lab: `hosts`, `peer`, `ipv6`, `seconds`, `no_modes` of `args`; 0 if all went well.

    Raises UnsupportedError without root, LabError naming the step that failed.
    """
    if os.geteuid() != 0:
        raise UnsupportedError("vxcore lab makes network namespaces, which needs root: sudo vxcore lab")
    signal.signal(signal.SIGTERM, _interrupt)
    started = time.monotonic()
    with ExitStack() as stack:
        lab = Lab(stack, args)
        lab.build()
        lab.start()
        lab.measure(args.seconds)
        if not args.no_modes:
            lab.modes()
        lab.report()
    print(f"\nEverything worked, in {time.monotonic() - started:.0f} s, and is cleaned up.")
    return 0


def _interrupt(number: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt


def add_kernel_vxlan(host: Namespace, local: str, others: list[str], mtu: int) -> None:
    """The Linux kernel's vxlan device as a peer, with head-end replication."""
    told(f"ip -n {host.name} link add {TAP} mtu {mtu} type vxlan id {VNI} local {local} dstport 4789")
    key = "vxlan_local6" if ":" in local else "vxlan_local"
    settings: dict[str, Any] = {"vxlan_id": VNI, key: local, "vxlan_port": 4789, "mtu": mtu}
    host.links(lambda route: route.link("add", ifname=TAP, kind="vxlan", **settings))
    for other in others:
        told(f"bridge -n {host.name} fdb append 00:00:00:00:00:00 dev {TAP} dst {other}")
        host.links(partial(_flood_to, other))
    host.up(TAP)


def _flood_to(other: str, route: IPRoute) -> None:
    route.fdb("append", ifindex=index_of(route, TAP), lladdr="00:00:00:00:00:00", dst=other)


def wait_for(host: Namespace, target: str) -> None:
    """Until a target answers for the first time; LabError when it does not."""
    deadline = time.monotonic() + _SETTLE_S
    while not host.run(lambda: ping(target, count=1)).times_ms:
        if time.monotonic() > deadline:
            raise LabError(f"{target} does not answer on {host.name}")


def _counted(counters: dict[str, Any]) -> str:
    segment = counters["segments"][0]
    drops = ", ".join(f"{name} {n}" for name, n in counters["drops"].items()) or "none"
    return f"{segment['tx_packets']} frames sent, {segment['rx_packets']} received; drops: {drops}"
