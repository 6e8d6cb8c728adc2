"""A tunnel routed through itself: refused where it can be seen, and cut where a route changes later."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import hosts
from support.controlled import Controlled
from support.hosts import Host, Lan, VtepProcess, wait_until

from vxcore.errors import ConfigError

pytestmark = pytest.mark.usefixtures("root")

FAR = {4: "10.99.0.2", 6: "fd99::2"}
FAMILIES = pytest.mark.parametrize("family", [4, 6])
SENDER = """
import socket, sys
source, to = sys.argv[1:]
sock = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((source, 50000))
for _ in range(20):
    sock.sendto(bytes.fromhex("0800000000002a00") + bytes(60), (to, 4789))
"""
REFUSED = "remote {}: its route leads through vx42, the overlay port of VNI 42: a tunnel through itself"


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(2) as lan:
        yield lan
    assert hosts.namespaces_of_this_process() == []


def tap(host: Host, family: int = 4) -> None:
    """A TAP that somebody has made, with a route to FAR."""
    host.ip("tuntap", "add", "vx42", "mode", "tap")
    host.ip("link", "set", "vx42", "up")
    host.ip("route", "add", FAR[family], "dev", "vx42")


def segment(*remotes: str, **options: Any) -> dict[str, Any]:
    return {"vni": 42, "tap": "vx42", "remotes": list(remotes), **options}


@FAMILIES
def test_it_does_not_start(lan: Lan, family: int) -> None:
    one, _ = lan.hosts
    tap(one, family)
    words = ("--local", one.address(family), "--remote", FAR[family])
    done = one.run(sys.executable, "-m", "vxcore", "up", "--vni", "42", "--tap", "vx42", *words, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().endswith(f"{REFUSED.format(FAR[family])}; route it by another device")
    assert len(done.stderr.splitlines()) == 1


@FAMILIES
def test_whatever_adds_a_remote_refuses_it(lan: Lan, family: int) -> None:
    one, two = lan.hosts
    tap(one, family)
    far, message = FAR[family], REFUSED.format(FAR[family])
    vtep = Controlled(one, underlay={"local": one.address(family)}, segment=[segment(two.address(family))])
    before = vtep("describe")
    tries: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        ("add_remote", (far,), {}),
        ("set_fdb", (42, "02:00:00:00:00:01", far), {}),
        ("add_segment", (), {"vni": 43, "tap": "vx43", "remotes": [far]}),
        ("change_segment", (42,), {"remotes": [far]}),
    ]
    for name, arguments, options in tries:
        with pytest.raises(ConfigError, match=message):
            vtep(name, *arguments, **options)
    assert vtep("describe") == before
    assert [row["uses"] for row in vtep("snapshot", "remotes")] == [1]


def test_a_port_that_known_remotes_are_behind_is_refused(lan: Lan) -> None:
    one, two = lan.hosts
    one.ip("route", "add", FAR[4], "via", two.v4)
    vtep = Controlled(one, segment=[{"vni": 43, "tap": "vx43", "remotes": [FAR[4]]}])
    one.ip("route", "delete", FAR[4])
    tap(one)
    with pytest.raises(ConfigError, match=REFUSED.format(FAR[4])):
        vtep("add_segment", **segment(two.v4))
    assert [row["vni"] for row in vtep("describe")] == [43]


def test_a_file_that_says_so_is_not_reloaded(lan: Lan, tmp_path: Path) -> None:
    one, two = lan.hosts
    tap(one)
    text = '[underlay]\nlocal = "{}"\n[[segment]]\nvni = 42\ntap = "vx42"\nremotes = ["{}"]\n'
    file = tmp_path / "vx.toml"
    file.write_text(text.format(one.v4, two.v4))
    vtep = VtepProcess(one, "run", str(file))
    file.write_text(text.format(one.v4, FAR[4]))
    vtep.process.send_signal(signal.SIGHUP)
    assert vtep.process.stdout is not None
    assert vtep.process.stdout.readline().strip() == "not reloaded"
    assert REFUSED.format(FAR[4]) in vtep.stop()


@FAMILIES
@pytest.mark.parametrize("kind", ["udp", "packet"])
def test_a_route_that_changes_later_is_cut_after_one_round(lan: Lan, family: int, kind: str) -> None:
    one, two = lan.hosts
    two.kernel_vxlan([one], family=family)
    remote = two.address(family)
    vtep = Controlled(one, underlay={"kind": kind, "local": one.address(family)}, segment=[segment(remote)])
    one.overlay("vx42")
    wait_until(lambda: one.pings("10.42.0.2"), "the tunnel works")
    one.ip("neigh", "replace", remote, "lladdr", two.mac("vx42"), "dev", "vx42", "nud", "permanent")
    one.ip("route", "add", f"{remote}/{32 if family == 4 else 128}", "dev", "vx42")
    wait_until(lambda: not one.pings("10.42.0.2") and vtep.drops("tunnel_loop"), "the loop is cut")
    before = vtep.counted(42)["tx_packets"]
    assert not one.pings("10.42.0.2")
    assert vtep.counted(42)["tx_packets"] - before < 20  # once each, and what the host itself sends
    one.ip("route", "delete", f"{remote}/{32 if family == 4 else 128}", "dev", "vx42")
    wait_until(lambda: one.pings("10.42.0.2"), "the tunnel works again")


@FAMILIES
def test_vxlan_of_others_passes_through_the_tunnel(lan: Lan, family: int) -> None:
    """To our port, from an address of the overlay."""
    one, two = lan.hosts
    two.kernel_vxlan([one], family=family)
    vtep = Controlled(one, underlay={"local": one.address(family)}, segment=[segment(two.address(family))])
    one.overlay("vx42")
    ends = ("10.42.0.1", "10.42.0.2") if family == 4 else ("fd42::1", "fd42::2")
    one.ping(ends[1])
    before = vtep.counted(42)["tx_packets"]
    one.run(sys.executable, "-c", SENDER, *ends)
    wait_until(lambda: vtep.counted(42)["tx_packets"] - before >= 20, "all are sent on")
    assert vtep.drops("tunnel_loop") == 0
