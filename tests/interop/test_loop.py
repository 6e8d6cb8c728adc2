"""Two VTEPs whose overlay devices are in one bridge: what is for all goes round; the host does not melt."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from support import hosts
from support.controlled import Controlled
from support.hosts import Host, Lan, wait_until

pytestmark = pytest.mark.usefixtures("root")
WINDOW_S = 6
TABLES = {"moves_window": WINDOW_S}
MOST_PER_S = (
    1000  # each of a few dozen frames goes round 32 times in ten seconds; without a bound it is 50,000
)


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(2) as made:
        yield made
    assert hosts.namespaces_of_this_process() == []


def segments(remote: Host, *vnis: int) -> list[dict[str, Any]]:
    return [{"vni": vni, "tap": f"vx{vni}", "remotes": [remote.v4]} for vni in vnis]


def bridge(host: Host) -> None:
    """The device of VNI 42 and what leads to the other host, in one bridge that has an address."""
    host.ip("link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
    host.ip("link", "set", "br0", "address", f"02:00:00:00:42:0{host.number}")
    for dev in ("vx42", "second"):
        host.ip("link", "set", dev, "master", "br0", "up")
    host.ip("address", "add", f"10.42.0.{host.number}/24", "dev", "br0")


def build(lan: Lan, peer: str) -> list[Controlled]:
    """One VTEP or two, and the loop, which begins when ``br0`` of both hosts is up."""
    one, two = lan.hosts
    vteps = [Controlled(one, segment=segments(two, 42, 43), tables=TABLES)]
    if peer == "vxcore":
        vteps.append(Controlled(two, segment=segments(one, 42, 43), tables=TABLES))
    for vni in (42, 43) if peer == "kernel" else ():
        end = ("local", two.v4, "remote", one.v4, "dstport", "4789")
        two.ip("link", "add", f"vx{vni}", "type", "vxlan", "id", str(vni), *end)
    one.ip("link", "add", "second", "type", "veth", "peer", "name", "second", "netns", two.namespace)
    for host in (one, two):
        host.ip("address", "add", f"10.43.0.{host.number}/24", "dev", "vx43")
        host.ip("link", "set", "vx43", "up")
        bridge(host)
    one.ping("10.43.0.2")
    return vteps


def forwarded(vtep: Controlled) -> int:
    counted = vtep.counted(42)
    return int(counted["tx_packets"] + counted["rx_packets"])


def rate(vtep: Controlled) -> float:
    before, since = forwarded(vtep), time.monotonic()
    time.sleep(1)
    return (forwarded(vtep) - before) / (time.monotonic() - since)


@pytest.mark.parametrize("peer", ["vxcore", "kernel"])
def test_a_loop_over_the_tunnel_is_bounded_and_passes_when_it_is_opened(lan: Lan, peer: str) -> None:
    one, two = lan.hosts
    vteps = build(lan, peer)
    for host in (one, two):
        host.ip("link", "set", "br0", "up")
    for _ in range(3):  # ARP for a host that there is not
        one.run("ping", "-c", "1", "-W", "1", "10.42.0.99", check=False)
    wait_until(lambda: vteps[0].drops("loop") > 0, "frames are held back")
    assert vteps[0].happens(kind="loop")["dev"] == "vx42"
    wait_until(lambda: rate(vteps[0]) < MOST_PER_S, "few frames go round")
    one.ping("10.43.0.2")  # the other segment of both VTEPs
    frozen = [row for row in vteps[0]("snapshot", "fdb") if row["port"] >= 0]
    assert frozen
    one.ip("link", "set", "second", "down")
    wait_until(
        lambda: one.pings("10.42.0.2"), "the loop is opened, and hosts find each other over the tunnel", 30
    )
    assert two.pings("10.42.0.1")
    dropped = vteps[0].drops("loop")
    one.ping("10.42.0.2")
    assert rate(vteps[0]) < MOST_PER_S
    assert vteps[0].drops("loop") - dropped < 20


def test_it_is_said_once_in_the_log(lan: Lan) -> None:
    one, two = lan.hosts
    vteps = build(lan, "vxcore")
    for host in (one, two):
        host.ip("link", "set", "br0", "up")
    one.run("ping", "-c", "2", "-W", "1", "10.42.0.99", check=False)
    vteps[0].happens(kind="loop")
    _, log = vteps[0].process.communicate()
    (line,) = [line for line in log.splitlines() if "a loop?" in line]
    assert "VNI 42" in line
    assert "vx42" in line
