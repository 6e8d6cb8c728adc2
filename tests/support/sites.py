"""Two sites for interop tests: each a host with a VTEP, a bridge behind it, and a container on the bridge.

Place in the house: above hosts. PORTS is the one list of what vxcore can be run with, PEERS of what stands
at the other end; `all_pairs` is what the tests go through. A new kind of port is a line here.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import hosts
from support.hosts import Host, Lan, VtepProcess
from vxcore.config import Offload

AGENT = Path(__file__).with_name("agent.py")


@dataclass(frozen=True)
class Ports:
    """A kind of overlay port and of underlay port, by the options that choose them."""

    name: str
    options: tuple[str, ...] = ()
    overlay: str = "tap"


WITHOUT = [word for name in Offload.__struct_fields__ for word in ("--no-offload", name)]
PORTS = [
    Ports("tap-udp"),
    Ports("tap-udp-2lanes", ("--lanes", "2")),
    Ports("tap-udp-without-offload", tuple(WITHOUT)),
    Ports("packet-udp", overlay="packet"),
    Ports("packet-udp-2lanes", ("--lanes", "2"), "packet"),
    Ports("packet-udp-without-offload", tuple(WITHOUT), "packet"),
    Ports("packet-packet", ("--underlay", "packet"), "packet"),
    Ports("tap-xdp", ("--underlay", "xdp")),
    Ports("xdp-udp", overlay="xdp"),
    Ports("xdp-xdp", ("--underlay", "xdp"), "xdp"),
    Ports("xdp-xdp-without-offload", ("--underlay", "xdp", *WITHOUT), "xdp"),
]
PEERS = ["kernel", "vxcore"]
MODES = ["offload", "wire"]  # whether super-frames cross the wire between the hosts


@dataclass(frozen=True)
class Pair:
    """One of the set-ups."""

    ports: Ports
    peer: str
    mode: str
    family: int

    def __str__(self) -> str:
        return f"{self.ports.name}-{self.peer}-{self.mode}-v{self.family}"


def all_pairs() -> list[Pair]:
    """The first kind of ports with everything; of the others each, with each value of the rest once."""
    first = [Pair(PORTS[0], *rest) for rest in itertools.product(PEERS, MODES, (4, 6))]
    others = [(PEERS[0], MODES[0], 4), (PEERS[1], MODES[1], 6)]
    return first + [Pair(ports, *rest) for ports in PORTS[1:] for rest in others]


class Agent:
    """Traffic's end in a namespace; see agent.py."""

    def __init__(self, host: Host, address4: str, address6: str) -> None:
        self.v4, self.v6 = address4, address6
        self.process = host.start(sys.executable, str(AGENT), stdin=subprocess.PIPE)

    def address(self, family: int) -> str:
        """Of the overlay."""
        return self.v4 if family == 4 else self.v6

    def begin(self, command: str, **arguments: Any) -> None:
        assert self.process.stdin is not None
        print(json.dumps([command, arguments]), file=self.process.stdin, flush=True)

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        return json.loads(line)

    def ask(self, command: str, **arguments: Any) -> Any:
        self.begin(command, **arguments)
        return self.answer()


class Site:
    """A host, its bridge br0 with the overlay device vx42, and a container behind a veth."""

    def __init__(self, host: Host, mtu: int) -> None:
        self.host = host
        self.container = Host(f"{host.namespace}c", host.number + 10)
        self.mtu = mtu

    def build(self) -> None:
        """All but the overlay device, which is not there yet."""
        inside, mtu = self.container.namespace, str(self.mtu)
        hosts.run("ip", "netns", "add", inside)
        for name in ("ip", "ip6"):  # netfilter would mend or drop what is wrong; where it is loaded at all
            off = f"echo 0 > /proc/sys/net/bridge/bridge-nf-call-{name}tables"
            self.host.run("sh", "-c", off, check=False)
        peer = ("peer", "name", "eth", "mtu", mtu, "netns", inside)
        self.host.ip("link", "add", "br0", "mtu", mtu, "type", "bridge", "mcast_snooping", "0")
        self.host.ip("link", "add", "c0", "mtu", mtu, "type", "veth", *peer)
        self.host.ip("link", "set", "c0", "master", "br0", "up")
        self.host.overlay("br0")
        self.container.overlay("eth")
        self.agents = [self._agent(self.host), self._agent(self.container)]

    @staticmethod
    def _agent(host: Host) -> Agent:
        return Agent(host, f"10.42.0.{host.number}", f"fd42::{host.number}")

    def prepare(self, overlay: str, options: tuple[str, ...]) -> tuple[str, ...]:
        """The options of a kind of overlay port, whose device comes to lie behind vx42."""
        if overlay == "tap":
            return ("--tap", "vx42")
        mtu, behind = str(self.mtu), "vx42p"
        if self.host.ip("link", "show", behind, check=False).returncode:
            peer = ("peer", "name", behind, "mtu", mtu)
            self.host.ip("link", "add", "vx42", "mtu", mtu, "type", "veth", *peer)
            self.host.run("sysctl", "-qw", f"net.ipv6.conf.{behind}.disable_ipv6=1")
            self.host.ip("link", "set", behind, "arp", "off", "up")  # or this host would answer there
        uso = "off" if "packet_vnet" in options else "on"  # without these headers nobody knows how to cut
        self.host.run("ethtool", "-K", "vx42", "tx-udp-segmentation", uso)
        return ("--port", f"{overlay}={behind}")

    def plug(self) -> None:
        """The overlay device into the bridge."""
        self.host.ip("address", "flush", "dev", "vx42")
        self.host.ip("link", "set", "vx42", "mtu", str(self.mtu), "master", "br0", "up")

    def clean(self) -> None:
        for agent in self.agents:
            agent.process.kill()
            agent.process.communicate()
        hosts.run("ip", "netns", "delete", self.container.namespace, check=False)


@dataclass
class Sites:
    """What a test gets: site 0 is vxcore's, site 1 the peer's; `vteps` are vxcore's processes."""

    pair: Pair
    lan: Lan
    both: list[Site]
    vteps: list[VtepProcess]
    unresolved: list[int] = field(default_factory=list)
    """Of each VTEP, the packets from before the kernel had resolved its next hops."""

    def ends(self) -> Iterator[tuple[Agent, Agent]]:
        """Container to container, and host to host, both ways."""
        for one, other in zip(self.both[0].agents, self.both[1].agents, strict=True):
            yield one, other
            yield other, one

    def drops(self) -> list[dict[str, int]]:
        all_of = [vtep.counters()["drops"] for vtep in self.vteps]
        for drops, before in zip(all_of, self.unresolved, strict=True):
            if drops.get("no_next_hop") == before:
                drops.pop("no_next_hop", None)
        return all_of

    def resolve(self) -> None:
        """Wait until the VTEPs find each other."""
        one, other = (site.host for site in self.both)
        hosts.wait_until(lambda: one.pings(f"10.42.0.{other.number}"), "the VTEPs find each other")
        self.unresolved = [vtep.drops("no_next_hop") for vtep in self.vteps]

    def replace_vtep(self, *options: str, before: tuple[str, ...] = ()) -> VtepProcess:
        """End vxcore at site 0 and start it with other options; `before` is what starts it."""
        self.vteps[0].stop()
        self.vteps[0] = start_vtep(self.both[0], self.lan, self.pair, *options, before=before)
        self.resolve()
        return self.vteps[0]


def start_vtep(site: Site, lan: Lan, pair: Pair, *options: str, before: tuple[str, ...] = ()) -> VtepProcess:
    others = [host for host in lan.hosts if host is not site.host]
    remotes = [word for other in others for word in ("--remote", other.address(pair.family))]
    ends = ("--local", site.host.address(pair.family), *remotes)
    port = site.prepare(pair.ports.overlay, options)
    vtep = VtepProcess(site.host, "up", "--vni", "42", *ends, *port, *options, before=before)
    site.plug()
    return vtep


@contextmanager
def build(pair: Pair) -> Iterator[Sites]:
    """Build a pair's set-up, and take it down."""
    with Lan(2) as lan:
        if pair.mode == "wire":
            lan.wire_mode()
        if (
            "xdp_native" in pair.ports.options
        ):  # UDP super-frames then come whole, and nobody knows how to cut
            for host in lan.hosts:
                host.run("ethtool", "-K", "eth", "tx-udp-segmentation", "off")
        both = [Site(host, 1500 - (50 if pair.family == 4 else 70)) for host in lan.hosts]
        sites = Sites(pair, lan, both, [])
        try:
            for site in both:
                site.build()
            start_peer(sites)
            sites.vteps.insert(0, start_vtep(both[0], lan, pair, *pair.ports.options))
            sites.resolve()
            yield sites
        finally:
            for site in both:
                site.clean()


def start_peer(sites: Sites) -> None:
    site, pair = sites.both[1], sites.pair
    if pair.peer == "kernel":
        site.host.kernel_vxlan([sites.lan.hosts[0]], family=pair.family)
        site.plug()
    else:
        sites.vteps.append(start_vtep(site, sites.lan, pair, *pair.ports.options))


def send_stream(one: Agent, other: Agent, family: int, n_bytes: int, longest: int) -> None:
    """In writes of up to `longest` bytes; each byte is compared."""
    address = other.address(family)
    port = other.ask("listen", kind="tcp", host=address)
    other.begin("receive_stream", n_bytes=n_bytes, seed=n_bytes)
    sent = one.ask("send_stream", host=address, port=port, n_bytes=n_bytes, seed=n_bytes, longest=longest)
    assert (sent, other.answer()) == ("ok", "ok")


def send_datagrams(one: Agent, other: Agent, family: int, sizes: list[int], uso: bool, gro: bool) -> None:
    """Datagrams of these sizes, with UDP_SEGMENT and UDP_GRO or without; compared in their order."""
    address = other.address(family)
    port = other.ask("listen", kind="udp", host=address, gro=gro)
    other.begin("receive_datagrams", sizes=sizes, seed=7)
    sent = one.ask("send_datagrams", host=address, port=port, sizes=sizes, seed=7, uso=uso)
    assert (sent, other.answer()) == ("ok", "ok")
