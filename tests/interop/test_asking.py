"""Frames for unknown addresses are not flooded: a program is asked, and they may wait for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support import hosts
from support.controlled import Controlled
from support.hosts import Host, Lan, VtepProcess, wait_until

pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(2) as lan:
        yield lan
    assert hosts.namespaces_of_this_process() == []


def start(lan: Lan, kind: str = "udp", **options: Any) -> Controlled:
    """A Vtep that does not know where its neighbour is, whose address the hosts know."""
    one, two = lan.hosts
    two.kernel_vxlan([one])
    segment = {"vni": 42, "tap": "vx42", "learning": False, "unknown_unicast": "ask", "source": "any"}
    vtep = Controlled(one, underlay={"kind": kind}, segment=[{**segment, **options}], remote=known(two))
    one.overlay("vx42")
    for host, other in ((one, two), (two, one)):  # who asks for addresses would tell its own
        host.ip("neigh", "replace", f"10.42.0.{other.number}", "lladdr", other.mac("vx42"), "dev", "vx42")
    return vtep


def known(host: Host) -> list[dict[str, str]]:
    """A remote that is in no flood set, so that underlays that need its link address have it."""
    return [{"address": host.v4}]


@pytest.mark.parametrize("kind", ["udp", "packet", "xdp"])
def test_a_subscriber_that_answers_gets_the_first_ping_through(lan: Lan, kind: str) -> None:
    one, two = lan.hosts
    vtep = start(lan, kind, hold=5000)
    vtep("answer_misses", 42, two.v4)
    one.ping("10.42.0.2", count=1)
    one.ping("10.42.0.2")
    assert vtep.happens(kind="miss", mac=two.mac("vx42"))["vni"] == 42
    assert vtep.drops("asked") == 0


def test_without_time_to_wait_the_first_is_dropped_and_the_next_goes(lan: Lan) -> None:
    one, two = lan.hosts
    vtep = start(lan)
    vtep("answer_misses", 42, two.v4)
    assert not one.pings("10.42.0.2")
    assert vtep.drops("asked") == 1
    one.ping("10.42.0.2")


def test_what_nobody_answers_for_is_dropped_after_its_time(lan: Lan) -> None:
    one, _ = lan.hosts
    vtep = start(lan, hold=100)
    assert not one.pings("10.42.0.2")
    wait_until(lambda: vtep.drops("asked") == 1, "its time is over")
    assert vtep.counted(42)["tx_packets"] == 0
    vtep("remove_segment", 42)


def test_what_waits_goes_with_its_segment(lan: Lan) -> None:
    one, two = lan.hosts
    vtep = start(lan, hold=10_000)
    one.pings("10.42.0.2")
    vtep("remove_segment", 42)
    wait_until(lambda: vtep.drops("asked") == 1, "it does not wait for nobody")
    vtep("add_segment", vni=42, tap="vx42", remotes=[two.v4])
    one.overlay("vx42")
    two.ip("neigh", "delete", "10.42.0.1", "dev", "vx42")  # the new device has an address of its own
    one.ping("10.42.0.2")


def test_up_asks_and_drops(lan: Lan) -> None:
    one, two = lan.hosts
    two.kernel_vxlan([one])
    mac = two.mac("vx42")
    options = ("--unknown-unicast", "ask", "--broadcast", "100/200", "--source", "any", "--nolearning")
    vtep = VtepProcess(
        one, "up", "--vni", "42", "--local", one.v4, "--remote", two.v4, "--tap", "vx42", *options
    )
    one.overlay("vx42")
    one.ip("neigh", "replace", "10.42.0.2", "lladdr", mac, "dev", "vx42")
    assert not one.pings("10.42.0.2")
    assert vtep.drops("asked") >= 1
