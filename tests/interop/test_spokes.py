"""A hub relays between spokes that do not reach each other: kernel vxlan devices that know the hub alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support import hosts
from support.controlled import Controlled
from support.hosts import STARVED, Host, Lan, wait_until

pytestmark = pytest.mark.usefixtures("root")

KINDS = pytest.mark.parametrize("kind", ["udp", "packet", "xdp"])
N_BYTES = 5_000_000
N_BROADCASTS = 50


@pytest.fixture
def lan() -> Iterator[Lan]:
    """Host 1 is the hub."""
    with Lan(4) as lan:
        yield lan
    assert hosts.namespaces_of_this_process() == []


def start(
    lan: Lan, kind: str = "udp", family: int = 4, spokes: str = "234", **options: Any
) -> tuple[Controlled, list[Host]]:
    """The hub, and the others, of whom some are marked."""
    hub, *others = lan.hosts
    for host in others:
        host.kernel_vxlan([hub], family=family)
    remotes = [{"address": h.address(family), "spoke": str(h.number) in spokes} for h in others]
    segment = {"vni": 42, "tap": "vx42", "remotes": [h.address(family) for h in others], **options}
    underlay = {"kind": kind, "local": hub.address(family), "df": "set" if family == 4 else "unset"}
    vtep = Controlled(hub, underlay=underlay, segment=[segment], remote=remotes)
    hub.overlay("vx42")
    for host in others:
        wait_until(lambda h=host: h.pings("10.42.0.1"), "the hub answers")  # type: ignore[misc]
    return vtep, others


def received(host: Host) -> int:
    """Packets that its vx42 had from the underlay, or of a TAP from us."""
    return int(json.loads(host.ip("-j", "-s", "link", "show", "vx42").stdout)[0]["stats64"]["rx"]["packets"])


def echo_requests(host: Host) -> int:
    """How many the host's stack has received."""
    lines = host.run("cat", "/proc/net/snmp").stdout.splitlines()
    names, values = (line.split() for line in lines if line.startswith("Icmp:"))
    return int(dict(zip(names, values, strict=True))["InEchos"])


def broadcast(lan: Lan, sender: Host) -> list[int]:
    """How many of a sender's broadcasts each host's stack got; the sender's own from itself."""
    before = [echo_requests(host) for host in lan.hosts]
    count = str(N_BROADCASTS)
    sender.run("ping", "-q", "-b", "-c", count, "-i", "0.002", "-W", "1", "10.42.0.255", check=False)
    return [echo_requests(host) - n for host, n in zip(lan.hosts, before, strict=True)]


@pytest.mark.parametrize(
    ("kind", "family", "wire"),
    [*((kind, 4, wire) for kind in ("udp", "packet", "xdp") for wire in (False, True)), ("udp", 6, False)],
)
def test_spokes_talk_through_the_hub_and_it_sees_nothing_of_it(
    lan: Lan, kind: str, family: int, wire: bool
) -> None:
    if wire:
        lan.wire_mode()
    vtep, (two, three, four) = start(lan, kind, family)
    for one, other in ((two, three), (three, four), (four, two)):
        one.ping(f"10.42.0.{other.number}")
        one.ping(f"fd42::{other.number}")
    before = received(lan.hosts[0])
    two.transfer(three, "10.42.0.3", "tcp", N_BYTES)
    four.transfer(two, "fd42::2", "tcp", N_BYTES)
    three.transfer(lan.hosts[0], "10.42.0.1", "tcp", N_BYTES)
    assert received(lan.hosts[0]) - before < N_BYTES // 1000  # the third alone, and some ARP
    assert vtep.counted(42)["tx_bytes"] > 2 * N_BYTES
    known = STARVED | ({"no_next_hop"} if kind != "udp" else set())
    assert not set(vtep("counters")["drops"]) - known


def test_a_broadcast_reaches_all_once_and_never_comes_back(lan: Lan) -> None:
    _, (two, *_) = start(lan)
    assert broadcast(lan, two) == [N_BROADCASTS] * 4
    assert broadcast(lan, lan.hosts[0]) == [N_BROADCASTS] * 4


def test_nothing_is_relayed_to_or_from_who_is_not_marked(lan: Lan) -> None:
    _, (two, three, four) = start(lan, spokes="4")
    for one, other in ((two, three), (two, four), (four, two)):
        assert not one.pings(f"10.42.0.{other.number}")
    assert broadcast(lan, two) == [N_BROADCASTS, N_BROADCASTS, 0, 0]
    assert broadcast(lan, four) == [N_BROADCASTS, 0, 0, N_BROADCASTS]


def test_remotes_become_spokes_and_cease_to_be_while_it_runs(lan: Lan) -> None:
    vtep, (two, three, _) = start(lan, spokes="")
    assert not two.pings("10.42.0.3")
    for host in (two, three):
        vtep("change_remote", host.v4, spoke=True)
    assert [row["spoke"] for row in vtep("snapshot", "remotes")] == [True, True, False]
    two.ping("10.42.0.3")
    vtep("change_remote", three.v4, spoke=False)
    assert not two.pings("10.42.0.3")
    two.ping("10.42.0.1")


def test_what_is_for_the_hubs_host_does_not_go_to_other_spokes(lan: Lan) -> None:
    _, (two, three, _) = start(lan)
    two.ping("10.42.0.1")
    before = received(three)
    two.ping("10.42.0.1", count=100)
    assert received(three) - before < 50  # some ARP


def test_relayed_floods_keep_to_the_rates_of_the_segment(lan: Lan) -> None:
    vtep, (two, *_) = start(lan, broadcast={"rate": 1, "burst": 10})
    hub, own, *others = broadcast(lan, two)
    assert (hub, own) == (N_BROADCASTS, N_BROADCASTS)
    assert all(0 < n <= 15 for n in others)
    assert vtep.drops("rate_limit") >= N_BROADCASTS - 15


@KINDS
def test_the_sender_of_what_is_too_large_for_the_way_to_another_spoke_is_told(lan: Lan, kind: str) -> None:
    vtep, (two, three, _) = start(lan, kind)
    two.ping("10.42.0.3")
    lan.hosts[0].ip("route", "add", f"{three.v4}/32", "dev", "eth", "mtu", "1400")
    command = ("ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", "1400", "10.42.0.3")
    wait_until(lambda: "mtu = 1350" in two.run(*command, check=False).stdout, "told by ICMP")
    assert vtep.drops("too_big") > 0
    two.ping("10.42.0.3", "-M", "do", "-s", "1322")
