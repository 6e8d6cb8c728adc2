"""Segments that share a port, told apart by 802.1Q tags; containers in the VLANs, kernel devices as peers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support import hosts
from support.controlled import Controlled
from support.hosts import Host, Lan, run, wait_until
from support.vlans import Access

from vxcore.errors import ConfigError

pytestmark = pytest.mark.usefixtures("root")
VLANS: dict[int, int | None] = {42: 10, 43: 20, 44: None}  # by VNI; None is without a tag
MTU = "1450"


class Trunk(Lan):
    """Host 1 has a container for each VNI, behind its device c{VNI}; host 2 the kernel's devices."""

    def __enter__(self) -> Trunk:
        super().__enter__()
        self.one, self.two = self.hosts
        self.containers = {vni: self._container(vni) for vni in VLANS}
        for vni in VLANS:
            self._kernel(vni)
        return self

    def _kernel(self, vni: int) -> None:
        name = f"vx{vni}"
        end = ("local", self.two.v4, "remote", self.one.v4, "dstport", "4789")
        self.two.ip("link", "add", name, "type", "vxlan", "id", str(vni), *end)
        self.two.ip("address", "add", f"10.{vni}.0.2/24", "dev", name)
        self.two.ip("link", "set", name, "up")

    def _container(self, vni: int) -> Host:
        made = Host(f"{self.one.namespace}c{vni}", vni)
        run("ip", "netns", "add", made.namespace)
        peer = ("peer", "name", "eth", "mtu", MTU, "netns", made.namespace)
        self.one.ip("link", "add", f"c{vni}", "mtu", MTU, "type", "veth", *peer)
        self.one.run("sysctl", "-qw", f"net.ipv6.conf.c{vni}.disable_ipv6=1")
        self.one.ip("link", "set", f"c{vni}", "up")
        made.ip("address", "add", f"10.{vni}.0.1/24", "dev", "eth")
        made.ip("link", "set", "eth", "up")
        made.ip("link", "set", "lo", "up")
        return made

    def lead(self, dev: str = "vx0", vlans: dict[int, int | None] = VLANS) -> Access:
        """Lead the containers to the trunk, each with its VLAN."""
        return Access(self.one, dev, {f"c{vni}": vlan or 0 for vni, vlan in vlans.items()})

    def veth(self) -> None:
        """For a trunk of kind "packet"."""
        peer = ("peer", "name", "vb", "mtu", MTU)
        self.one.ip("link", "add", "vp", "mtu", MTU, "type", "veth", *peer)
        for dev in ("vp", "vb"):
            self.one.run("sysctl", "-qw", f"net.ipv6.conf.{dev}.disable_ipv6=1")
            self.one.ip("link", "set", dev, "up")
        self.lead("vb")

    def segment(self, vni: int, **options: Any) -> dict[str, Any]:
        vlan = {} if VLANS[vni] is None else {"vlan": VLANS[vni]}
        return {"vni": vni, "tap": "vx0", "remotes": [self.two.v4], **vlan, **options}

    def __exit__(self, *why: object) -> None:
        for vni in VLANS:
            run("ip", "netns", "delete", f"{self.one.namespace}c{vni}", check=False)
        super().__exit__(None, None, None)


@pytest.fixture
def lan() -> Iterator[Trunk]:
    with Trunk(2) as made:
        yield made
    assert hosts.namespaces_of_this_process() == []


def start(lan: Trunk, kind: str, **settings: Any) -> Controlled:
    if kind == "tap":
        vtep = Controlled(lan.one, segment=[lan.segment(vni) for vni in VLANS], **settings)
        lan.lead()
        return vtep
    lan.veth()
    segments: list[dict[str, Any]] = []
    for vni, vlan in VLANS.items():
        port = {"kind": "packet", "dev": "vp", **({} if vlan is None else {"vlan": vlan})}
        segments.append({"vni": vni, "port": port, "remotes": [lan.two.v4]})
    return Controlled(lan.one, segment=segments, **settings)


@pytest.mark.parametrize("n_lanes", [1, 2])
@pytest.mark.parametrize("kind", ["tap", "packet"])
def test_each_vlan_is_a_segment_and_reaches_no_other(lan: Trunk, kind: str, n_lanes: int) -> None:
    vtep = start(lan, kind, lanes={"count": n_lanes})
    for vni, container in lan.containers.items():
        container.ping(f"10.{vni}.0.2")
        before = vtep.counted(vni)
        for one, other in ((container, lan.two), (lan.two, container)):
            for transport in ("tcp", "udp"):
                end = 1 if other is container else 2
                one.transfer(other, f"10.{vni}.0.{end}", transport, 1_000_000)
        after = vtep.counted(vni)
        assert after["tx_bytes"] - before["tx_bytes"] > 2_000_000
        assert after["rx_bytes"] - before["rx_bytes"] > 2_000_000
        others = [vtep.counted(other)["tx_bytes"] for other in VLANS if other > vni]
        assert all(n < 100_000 for n in others)
    drops = vtep("counters")["drops"]
    assert drops.keys() <= hosts.STARVED


def test_frames_of_other_vlans_are_nobody_s(lan: Trunk) -> None:
    vtep = Controlled(lan.one, segment=[lan.segment(42), lan.segment(43)])
    plugged = lan.lead()
    assert not lan.containers[44].pings("10.44.0.2")  # no tag, and no segment for it
    before = vtep.drops("unknown_vlan")
    assert before > 0
    plugged.stop()
    lan.lead(vlans={42: 10, 44: 30})
    assert not lan.containers[44].pings("10.44.0.2")
    assert vtep.drops("unknown_vlan") > before
    lan.containers[42].ping("10.42.0.2")


def test_a_tap_of_several_segments_has_the_mtu_that_fits_all(lan: Trunk) -> None:
    vtep = Controlled(lan.one, segment=[lan.segment(42), lan.segment(43, mtu=1400)])
    lan.lead()
    assert lan.one.mtu("vx0") == 1400
    vtep("remove_segment", 43)
    assert lan.one.mtu("vx0") == 1450
    vtep("add_segment", **lan.segment(43, mtu=1300))
    assert {row["vni"]: (row["dev"], row.get("vlan"), row["mtu"]) for row in vtep("describe")} == {
        42: ("vx0", 10, 1300),
        43: ("vx0", 20, 1300),
    }


def test_the_sender_of_what_is_too_large_is_told_in_its_vlan(lan: Trunk) -> None:
    start(lan, "tap")
    for host in (lan.one, lan.two):
        host.ip("link", "set", "eth", "mtu", "1300")
    container = lan.containers[42]

    def told() -> bool:
        done = container.run(
            "ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", "1400", "10.42.0.2", check=False
        )
        return "mtu" in done.stdout + done.stderr

    wait_until(told, "the sender learns the MTU")


def test_a_known_neighbour_is_answered_for_in_its_vlan(lan: Trunk) -> None:
    mac = "02:00:00:00:00:77"
    vtep = Controlled(
        lan.one,
        segment=[lan.segment(42, neighbours=[{"address": "10.42.0.77", "mac": mac}]), lan.segment(43)],
    )
    lan.lead()
    lan.containers[42].run("ping", "-c", "1", "-W", "1", "10.42.0.77", check=False)
    (found,) = json.loads(lan.containers[42].ip("-j", "neigh", "show", "10.42.0.77").stdout)
    assert found["lladdr"] == mac
    assert vtep.drops("answered") > 0


# While it runs


def test_vlans_come_and_go_while_others_lose_no_packet(lan: Trunk) -> None:
    vtep = Controlled(lan.one, segment=[lan.segment(42)])
    lan.lead()
    lan.containers[42].ping("10.42.0.2")
    flood = lan.containers[42].start("ping", "-q", "-f", "-c", "5000", "10.42.0.2")
    rounds = 0
    while flood.poll() is None or rounds == 0:
        vtep("add_segments", [lan.segment(43), lan.segment(44)])
        for vni in (43, 44):
            lan.containers[vni].ping(f"10.{vni}.0.2", count=1)
        vtep("remove_segments", [43, 44])
        assert not lan.containers[43].pings("10.43.0.2")
        rounds += 1
    out, _ = flood.communicate()
    assert "5000 packets transmitted, 5000 received, 0% packet loss" in out, out


def test_the_device_stays_until_its_last_segment_goes(lan: Trunk) -> None:
    vtep = Controlled(lan.one, segment=[lan.segment(44)])
    plugged = lan.lead()
    lan.containers[44].ping("10.44.0.2")
    vtep("add_segment", **lan.segment(42))
    vtep("remove_segment", 44)  # the first one, whose frames have no tag
    lan.containers[42].ping("10.42.0.2")
    assert not lan.containers[44].pings("10.44.0.2")
    vtep("add_segment", **lan.segment(44))
    for vni in (42, 44):
        lan.containers[vni].ping(f"10.{vni}.0.2")
    vtep("remove_segments", [42, 44])
    assert lan.one.ip("link", "show", "vx0", check=False).returncode != 0
    plugged.stop()
    vtep("add_segment", **lan.segment(43))
    lan.lead()
    lan.containers[43].ping("10.43.0.2")


def test_a_change_that_is_wrong_changes_no_vlan(lan: Trunk) -> None:
    vtep = Controlled(lan.one, segment=[lan.segment(42)])
    lan.lead()
    before = vtep("describe")
    lan.one.ip("link", "add", "vx9", "type", "bridge")
    wrong = [
        ([lan.segment(43), lan.segment(44, vlan=10)], "VNI 44: vlan: .*the VLAN of segment"),
        ([lan.segment(43), lan.segment(44, tap="vx9")], "vx9 exists and is a bridge device"),
        ([lan.segment(43), lan.segment(44, remotes=[lan.one.v4])], "VNI 44: remotes.*local address"),
    ]
    for segments, said in wrong:
        with pytest.raises(ConfigError, match=said):
            vtep("add_segments", segments)
        assert vtep("describe") == before
    with pytest.raises(ConfigError, match="the port vx0 VLAN 10 cannot become vx0 VLAN 11"):
        vtep("change_segment", 42, vlan=11)
    lan.containers[42].ping("10.42.0.2")
    assert not lan.containers[43].pings("10.43.0.2")


def test_vlans_change_hands_with_the_settings(lan: Trunk) -> None:
    settings = {"underlay": {"local": lan.one.v4}}
    vtep = Controlled(lan.one, **settings, segment=[lan.segment(42), lan.segment(43)])
    lan.lead()
    swapped = [lan.segment(42, vlan=20), lan.segment(43, vlan=10)]
    vtep("apply", {**settings, "segment": swapped})
    lan.containers[42].ip("address", "add", "10.43.0.9/24", "dev", "eth")
    lan.containers[42].ping("10.43.0.2")
    assert not lan.containers[42].pings("10.42.0.2")
    vtep("apply", {**settings, "segment": [lan.segment(42), lan.segment(44)]})
    for vni in (42, 44):
        container = lan.containers[vni]
        wait_until(lambda container=container, vni=vni: container.pings(f"10.{vni}.0.2"), "an answer")
