"""The underlay port of kind tap: the VTEP is a host of its own, which its host routes to."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator

import pytest
from support import hosts
from support.hosts import Host, Lan, VtepProcess
from support.peers import require_tool

KERNEL = tuple(int(word) for word in platform.release().split(".")[:2])
pytestmark = [
    pytest.mark.usefixtures("root"),
    pytest.mark.skipif(KERNEL < (6, 17), reason="tunnel offloads of TAP devices came with Linux 6.17"),
]


class Behind:
    """A VTEP's address behind a host: as a remote of others, and as `local` of the VTEP."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.addresses = {4: f"192.0.2.{100 + host.number}", 6: f"2001:db8::{100 + host.number}"}

    def address(self, family: int) -> str:
        return self.addresses[family]

    def route(self) -> None:
        """Make the host forward, and answer at once for the address on its network."""
        for switch in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv6.conf.eth.proxy_ndp"):
            self.host.run("sysctl", "-qw", f"{switch}=1")
        for version in (4, 6):  # a proxy waits for up to 0.8 s before it answers, each side in turn
            self.host.run("sysctl", "-qw", f"net.ipv{version}.neigh.eth.proxy_delay=0")
        for address in self.addresses.values():
            self.host.ip("neigh", "add", "proxy", address, "dev", "eth")

    def vtep(self, remote: str, family: int, *options: str) -> VtepProcess:
        self.route()
        ends = ("--local", self.address(family), "--remote", remote)
        kind = ("--underlay", "tap", "--via", "vxu")
        vtep = VtepProcess(self.host, "up", "--vni", "42", *ends, "--tap", "vx42", *kind, *options)
        self.host.overlay("vx42")
        return vtep


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(2) as lan:
        yield lan
    assert hosts.namespaces_of_this_process() == []


@pytest.mark.parametrize("mode", ["offload", "wire"])
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("peer", ["kernel", "tap", "udp"])
def test_everything_crosses_both_ways(lan: Lan, peer: str, family: int, mode: str) -> None:
    if mode == "wire":
        require_tool("ethtool")
        lan.wire_mode()
    one, two = lan.hosts
    first, second = Behind(one), Behind(two)
    if peer == "kernel":
        two.kernel_vxlan([first], family=family)  # type: ignore[list-item]
    elif peer == "tap":
        second.vtep(first.address(family), family)
    else:
        ends = ("--local", two.address(family), "--remote", first.address(family))
        VtepProcess(two, "up", "--vni", "42", *ends, "--tap", "vx42")
        two.overlay("vx42")
    vtep = first.vtep((second if peer == "tap" else two).address(family), family)
    size = one.mtu("vx42") - 28
    one.ping("10.42.0.2", "-M", "do", "-s", str(size))
    two.ping("10.42.0.1", "-M", "do", "-s", str(size))
    for target_one, target_two in (("10.42.0.1", "10.42.0.2"), ("fd42::1", "fd42::2")):
        for kind, n_bytes in (("tcp", 10_000_000), ("udp", 200_000)):
            one.transfer(two, target_two, kind, n_bytes)
            two.transfer(one, target_one, kind, n_bytes)
    assert set(vtep.counters()["drops"]) <= hosts.STARVED | {
        "not_udp",
        "not_ip",
    }  # what this host says to the new device


def test_a_host_that_does_not_forward_is_told_so(lan: Lan) -> None:
    one, two = lan.hosts
    one.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    command = ("up", "--vni", "42", "--local", "192.0.2.101", "--remote", two.v4, "--tap", "vx42")
    done = one.run(sys.executable, "-m", "vxcore", *command, "--underlay", "tap", check=False)
    assert done.returncode == 2
    assert 'kind "tap": this host does not forward IPv4; `sysctl -w net.ipv4.ip_forward=1`' in done.stderr
    assert "vxu0" not in one.ip("link").stdout


def test_an_existing_device_is_not_taken(lan: Lan) -> None:
    one, two = lan.hosts
    one.ip("link", "add", "vxu0", "type", "bridge")
    command = ("up", "--vni", "42", "--local", "192.0.2.101", "--remote", two.v4, "--tap", "vx42")
    done = one.run(sys.executable, "-m", "vxcore", *command, "--underlay", "tap", check=False)
    assert done.returncode == 2
    assert "via vxu0: that device exists; give the name of a new device" in done.stderr


def test_everything_is_gone_at_the_end(lan: Lan) -> None:
    one, two = lan.hosts
    first = Behind(one)
    two.kernel_vxlan([first])  # type: ignore[list-item]
    first.route()
    before = one.ip("link").stdout + one.ip("route").stdout
    vtep = first.vtep(two.v4, 4)
    one.ping("10.42.0.2")
    assert "192.0.2.101 dev vxu" in one.ip("route").stdout
    vtep.stop()
    assert one.ip("link").stdout + one.ip("route").stdout == before
