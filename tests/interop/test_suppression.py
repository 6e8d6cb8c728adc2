"""Requests for the link addresses of known neighbours are answered where they enter; the kernel asks."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from support import hosts
from support.controlled import Controlled
from support.hosts import Host, Lan, wait_until

pytestmark = pytest.mark.usefixtures("root")
KNOWN = "02:00:00:00:00:77"


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(2) as lan:
        yield lan
    assert hosts.namespaces_of_this_process() == []


def start(lan: Lan, underlay: str) -> Controlled:
    one, two = lan.hosts
    two.kernel_vxlan([one])
    neighbours = [{"address": "10.42.0.77", "mac": KNOWN}, {"address": "fd42::77", "mac": KNOWN}]
    segment = {"vni": 42, "tap": "vx42", "remotes": [two.v4], "neighbours": neighbours}
    vtep = Controlled(one, underlay={"kind": underlay}, segment=[segment])
    one.overlay("vx42")
    one.ping("10.42.0.2")
    return vtep


def link_address(host: Host, address: str) -> str | None:
    """What the kernel has found out, having been made to ask; a datagram will do."""
    host.run("ping", "-n", "-c", "1", "-W", "1", address, check=False)
    shown = json.loads(host.ip("-j", "neigh", "show", address, "dev", "vx42").stdout or "[]")
    return next((entry.get("lladdr") for entry in shown), None)


@pytest.mark.parametrize("underlay", ["udp", "packet"])
@pytest.mark.parametrize("address", ["10.42.0.77", "fd42::77"])
def test_a_known_neighbour_is_found_without_asking_the_underlay(
    lan: Lan, underlay: str, address: str
) -> None:
    one, two = lan.hosts
    vtep = start(lan, underlay)
    asked = two.start("tcpdump", "-n", "-l", "-i", "vx42", "arp or icmp6[0] = 135")
    assert asked.stderr is not None
    wait_until(lambda: "listening" in asked.stderr.readline(), "tcpdump listens")
    assert link_address(one, address) == KNOWN
    assert vtep.drops("answered") > 0
    assert link_address(one, "10.42.0.99") is None  # which is not known, and so is asked for
    wait_until(lambda: "10.42.0.99" in asked.stdout.readline(), "the request for another address")  # type: ignore[union-attr]
    asked.terminate()
    out, _ = asked.communicate()
    assert address not in out


def test_duplicate_address_detection_finds_the_neighbour(lan: Lan) -> None:
    one, _ = lan.hosts
    start(lan, "udp")
    one.ip("address", "add", "fd42::77/64", "dev", "vx42")

    def flags() -> bool:
        shown = json.loads(one.ip("-j", "address", "show", "dev", "vx42").stdout)[0]["addr_info"]
        return any(info.get("local") == "fd42::77" and info.get("dadfailed") for info in shown)

    wait_until(flags, "the address is found to be taken")


def test_neighbours_come_and_go_at_run_time(lan: Lan) -> None:
    one, _ = lan.hosts
    vtep = start(lan, "udp")
    vtep("set_neighbour", 42, "10.42.0.78", "02:00:00:00:00:78")
    assert link_address(one, "10.42.0.78") == "02:00:00:00:00:78"
    one.ip("neigh", "flush", "dev", "vx42")
    vtep("remove_neighbour", 42, "10.42.0.78")
    assert link_address(one, "10.42.0.78") is None
