"""Segments with UDP ports of their own, beside kernel vxlan devices with other ports.

An Azure gateway load balancer sends traffic from outside in VNI 800 to port 10800, from inside in VNI 801 to
port 10801; old Linux and flannel use port 8472.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.controlled import Controlled
from support.hosts import DEADLINE_S, STARVED, Host, Lan, VtepProcess, run, wait_until

from vxcore.errors import UnsupportedError

pytestmark = pytest.mark.usefixtures("root", "nothing_is_left")

PAIR = {800: 10800, 801: 10801}
KINDS = pytest.mark.parametrize("kind", ["udp", "packet", "xdp"])
FAMILIES = pytest.mark.parametrize("family", [4, 6])
N_BYTES = 3_000_000


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(2) as made:
        yield made


def address(host: Host, vni: int) -> str:
    return f"10.{vni % 250}.0.{host.number}"


def name(host: Host, vni: int) -> None:
    """Give a VNI's device its address."""
    host.ip("address", "add", f"{address(host, vni)}/24", "dev", f"vx{vni}")
    host.ip("link", "set", f"vx{vni}", "up")


def kernel(host: Host, vni: int, remote: Host, dstport: int, family: int = 4) -> None:
    end = ("local", host.address(family), "remote", remote.address(family), "dstport", str(dstport))
    host.ip("link", "add", f"vx{vni}", "type", "vxlan", "id", str(vni), *end)
    host.ip("link", "set", f"vx{vni}", "mtu", "1400")
    name(host, vni)


def segment(vni: int, remote: Host, dstport: int | None, family: int = 4) -> dict[str, Any]:
    own = {} if dstport is None else {"dstport": dstport}
    return {"vni": vni, "tap": f"vx{vni}", "mtu": 1400, "remotes": [remote.address(family)], **own}


def listens(host: Host, port: int) -> bool:
    return f":{port} " in host.run("ss", "-Huln").stdout


def drops_but(vtep: Controlled, *known: str) -> dict[str, int]:
    return {key: n for key, n in vtep("counters")["drops"].items() if key not in {*STARVED, *known}}


@pytest.mark.parametrize(
    ("kind", "n_lanes"), [("udp", 1), ("udp", 2), ("packet", 1), ("packet", 2), ("xdp", 1)]
)
@FAMILIES
def test_two_segments_talk_to_two_kernel_devices_on_two_ports(
    lan: Lan, kind: str, family: int, n_lanes: int
) -> None:
    one, two = lan.hosts
    for vni, port in PAIR.items():
        kernel(two, vni, one, port, family)
    segments = [segment(vni, two, port, family) for vni, port in PAIR.items()]
    underlay = {"kind": kind, "local": one.address(family)}
    vtep = Controlled(one, underlay=underlay, segment=segments, lanes={"count": n_lanes})
    for vni in PAIR:
        name(one, vni)
        one.ping(address(two, vni))
        two.transfer(one, address(one, vni), "tcp", N_BYTES)
        one.transfer(two, address(two, vni), "tcp", N_BYTES)
    assert all(vtep.counted(vni)["rx_bytes"] > N_BYTES for vni in PAIR)
    assert not drops_but(vtep, "no_next_hop")


@KINDS
def test_what_comes_to_another_segments_port_is_dropped(lan: Lan, kind: str) -> None:
    """The devices have each other's ports: both are ours, and each VNI comes to the wrong one."""
    one, two = lan.hosts
    for vni, port in zip(PAIR, reversed(PAIR.values()), strict=True):
        kernel(two, vni, one, port)
    segments = [segment(vni, two, port) for vni, port in PAIR.items()]
    vtep = Controlled(one, underlay={"kind": kind}, segment=segments)
    for vni in PAIR:
        name(one, vni)
        assert not two.pings(address(one, vni))
    assert vtep.drops("wrong_port") >= 2
    assert [vtep.counted(vni)["rx_packets"] for vni in PAIR] == [0, 0]


@pytest.mark.parametrize("kind", ["udp", "packet"])
@pytest.mark.parametrize("n_lanes", [1, 2])
def test_a_port_is_open_while_a_segment_has_it(lan: Lan, kind: str, n_lanes: int) -> None:
    one, two = lan.hosts
    for vni, port in PAIR.items():
        kernel(two, vni, one, port)
    kernel(two, 42, one, 4789)
    kernel(two, 43, one, 10800)
    vtep = Controlled(
        one, underlay={"kind": kind}, segment=[segment(42, two, None)], lanes={"count": n_lanes}
    )
    name(one, 42)
    assert not listens(one, 10800)
    wait_until(lambda: one.pings(address(two, 42)), "the first segment works")
    others = one.start("ping", "-q", "-i", "0.002", "-c", "1000", address(two, 42))
    vtep("add_segments", [segment(vni, two, port) for vni, port in PAIR.items()])
    vtep("add_segment", **segment(43, two, 10800))
    for vni in (*PAIR, 43):
        name(one, vni)
        one.ping(address(two, vni))
    vtep("remove_segments", [801, 800])
    assert not listens(one, 10801)
    assert listens(one, 10800)
    one.ping(address(two, 43))
    vtep("change_segment", 43, dstport=10801)
    assert listens(one, 10801)
    assert not listens(one, 10800)
    assert not one.pings(address(two, 43))
    vtep("change_segment", 43, dstport=10800)
    one.ping(address(two, 43))
    out, _ = others.communicate(timeout=DEADLINE_S)
    assert "1000 received, 0% packet loss" in out, out


def test_a_port_that_is_taken_changes_nothing_and_its_owner_is_named(lan: Lan) -> None:
    one, two = lan.hosts
    one.ip("link", "add", "other", "type", "vxlan", "id", "1", "local", one.v4, "dstport", "10801")
    one.ip("link", "set", "other", "up")
    vtep = Controlled(one)
    with pytest.raises(Exception, match=r"UDP port 10801 on 192\.0\.2\.1 is taken by the kernel"):
        vtep("add_segments", [segment(vni, two, port) for vni, port in PAIR.items()])
    assert vtep("describe") == []
    assert not listens(one, 10800)


def test_what_takes_no_new_port_while_it_runs_says_so(lan: Lan) -> None:
    one, two = lan.hosts
    vtep = Controlled(one, underlay={"kind": "xdp"}, segment=[segment(800, two, 10800)])
    with pytest.raises(UnsupportedError, match=r"UDP port 10801: an underlay of kind .xdp. takes no new"):
        vtep("add_segment", **segment(801, two, 10801))
    vtep("add_segment", **segment(801, two, 10800))
    assert [row["vni"] for row in vtep("describe")] == [800, 801]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("kind", ["udp", "packet"])
def test_one_group_serves_segments_on_several_ports(lan: Lan, family: int, kind: str) -> None:
    one, two = lan.hosts
    group = {4: "239.1.1.1", 6: "ff05::1:1"}[family]
    for vni, port in PAIR.items():
        way = ("group", group, "dev", "eth", "dstport", str(port))
        two.ip("link", "add", f"vx{vni}", "type", "vxlan", "id", str(vni), "local", two.address(family), *way)
        name(two, vni)
    segments = [{"vni": v, "tap": f"vx{v}", "group": group, "dstport": port} for v, port in PAIR.items()]
    underlay = {"kind": kind, "local": one.address(family), "dev": "eth"}
    Controlled(one, underlay=underlay, segment=segments)
    for vni in PAIR:
        name(one, vni)
        command = ("ping", "-q", "-c", "3", "-l", "3", "-W", "1", address(two, vni))
        wait_until(lambda c=command: "3 received" in one.run(*c, check=False).stdout, f"VNI {vni} works")  # type: ignore[misc]


@KINDS
def test_a_collector_takes_both_ports_of_the_pair(lan: Lan, tmp_path: Path, kind: str) -> None:
    one, two = lan.hosts
    for vni, port in {**PAIR, 802: 10802}.items():
        kernel(two, vni, one, port)
        two.ip("neigh", "add", address(one, vni), "lladdr", "02:00:00:00:00:01", "dev", f"vx{vni}")
    ports = [word for port in PAIR.values() for word in ("--dstport", str(port))]
    options = ("--local", one.v4, *ports, "-w", str(tmp_path), "--underlay", kind)
    vtep = VtepProcess(one, "collect", *options)
    for vni in (*PAIR, 802):
        assert not two.pings(address(one, vni))
    wait_until(lambda: vtep.counters()["segments"][0]["rx_packets"] >= 2, "both are taken")
    vtep.stop()
    fields = ("-T", "fields", "-e", "frame.comment")
    comments = "".join(run("tshark", "-r", str(file), *fields).stdout for file in tmp_path.glob("*.pcapng*"))
    assert {int(vni) for vni in re.findall(r"vni=(\d+)", comments)} == set(PAIR)
