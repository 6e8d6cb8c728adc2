"""Frames too large for the underlay are never fragmented: they are counted, and answered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support import hosts
from support.hosts import Host, Lan, wait_until

pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(3) as lan:
        yield lan
    assert hosts.namespaces_of_this_process() == []


def told(host: Host, target: str, size: int) -> str:
    """What ping prints of an answer that is none to it."""
    return host.run(
        "ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", str(size), target, check=False
    ).stdout


def forget_path_mtus(host: Host) -> None:
    host.ip("route", "flush", "cache")
    host.ip("-6", "route", "flush", "cache")


def test_the_sender_is_told_of_a_narrower_device_and_tcp_goes_on(lan: Lan) -> None:
    one, two, _ = lan.hosts
    two.kernel_vxlan([one])
    vtep = lan.vtep(one)
    one.ping("10.42.0.2", "-M", "do", "-s", "1422")
    one.ip("link", "set", "eth", "mtu", "1400")
    assert "mtu = 1350" in told(one, "10.42.0.2", 1422)
    assert "mtu=1350" in told(one, "fd42::2", 1402)
    assert vtep.drops("too_big") >= 2
    one.ping("10.42.0.2", "-M", "do", "-s", "1322")
    forget_path_mtus(one)
    for target in ("10.42.0.2", "fd42::2"):
        one.transfer(two, target, "tcp", 5_000_000)
    assert set(vtep.counters()["drops"]) - hosts.STARVED == {"too_big"}


def test_a_path_mtu_learned_from_a_router_is_honoured_and_expires(lan: Lan) -> None:
    one, two, router = lan.hosts
    router.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0")
    router.run("sysctl", "-qw", "net.ipv4.conf.eth.send_redirects=0")
    one.ip("route", "add", f"{two.v4}/32", "via", router.v4)
    one.run("sysctl", "-qw", "net.ipv4.route.mtu_expires=2", "net.ipv4.conf.all.accept_redirects=0")
    two.kernel_vxlan([one])
    vtep = hosts.VtepProcess(
        *(one, "up", "--vni", "42", "--local", one.v4, "--remote", two.v4, "--tap", "vx42", "--df", "set")
    )
    one.overlay("vx42")
    one.ping("10.42.0.2", "-M", "do", "-s", "1422")
    router.ip("route", "add", f"{two.v4}/32", "dev", "eth", "mtu", "lock", "1400")
    # The first tells the router, the router tells us, and from then on we tell the sender.
    wait_until(lambda: "mtu = 1350" in told(one, "10.42.0.2", 1422), "the sender is told of the path's MTU")
    assert vtep.drops("too_big") >= 1
    one.ping("10.42.0.2", "-M", "do", "-s", "1322")
    router.ip("route", "delete", f"{two.v4}/32", "dev", "eth", "mtu", "lock", "1400")

    def the_way_is_wide_again() -> bool:
        one.ip("route", "flush", "cache")  # what the sender in the overlay was told
        return one.pings("10.42.0.2", "-M", "do", "-s", "1422")

    wait_until(the_way_is_wide_again, "the learned MTU has expired")
