"""vxcore.Vtep is changed while it forwards, beside the Linux kernel's vxlan device."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import hosts
from support.controlled import Controlled
from support.hosts import Host, Lan, VtepProcess, run, wait_until

from vxcore.errors import ConfigError

pytestmark = pytest.mark.usefixtures("root", "nothing_is_left")


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(2) as made:
        yield made


def devices(host: Host) -> set[str]:
    return {link["ifname"] for link in json.loads(host.ip("-j", "link").stdout)}


def kernel(host: Host, vni: int, remote: Host, family: int = 4) -> None:
    """A kernel device for one more VNI, with an address of its own network."""
    name = f"vx{vni}"
    end = ("local", host.address(family), "remote", remote.address(family), "dstport", "4789")
    host.ip("link", "add", name, "type", "vxlan", "id", str(vni), *end)
    address(host, vni)


def address(host: Host, vni: int) -> None:
    host.ip("address", "add", f"10.{vni}.0.{host.number}/24", "dev", f"vx{vni}")
    host.ip("link", "set", f"vx{vni}", "up")


def segment(vni: int, *remotes: Host, **options: Any) -> dict[str, Any]:
    return {"vni": vni, "tap": f"vx{vni}", "remotes": [remote.v4 for remote in remotes], **options}


def silence(host: Host, device: str, address: str, mac: str) -> None:
    """Keep a kernel device from saying anything by itself, and from asking who has an address."""
    host.run("sysctl", "-qw", f"net.ipv6.conf.{device}.disable_ipv6=1")
    host.ip("neigh", "replace", address, "lladdr", mac, "nud", "permanent", "dev", device)


@pytest.mark.parametrize("underlay", ["udp", "packet"])
@pytest.mark.parametrize("n_lanes", [1, 2])
def test_segments_come_and_go_while_others_lose_no_packet(lan: Lan, underlay: str, n_lanes: int) -> None:
    one, two = lan.hosts
    kernel(two, 42, one)
    for vni in (43, 44):
        kernel(two, vni, one)
        silence(two, f"vx{vni}", f"10.{vni}.0.1", "02:00:00:00:43:01")  # each port is down for a moment
    settings = {"underlay": {"kind": underlay}, "lanes": {"count": n_lanes}}
    vtep = Controlled(one, segment=[segment(42, two)], **settings)
    address(one, 42)
    one.ping("10.42.0.2")
    others: list[Any] = []
    for _ in range(5):
        if not others or others[-1].poll() is not None:
            others.append(one.start("ping", "-q", "-f", "-c", "10000", "10.42.0.2"))
        vtep("add_segments", [segment(43, two), segment(44, two)])
        one.ip("link", "set", "vx43", "address", "02:00:00:00:43:01")
        for vni in (43, 44):
            address(one, vni)
        one.ping("10.43.0.2", count=2)
        assert vtep.counted(43)["rx_packets"] >= 2
        vtep("change_segment", 44, ageing=7, unknown_unicast="drop")
        vtep("remove_segments", [43, 44])
        assert devices(one).isdisjoint({"vx43", "vx44"})
    for each in others:
        out, _ = each.communicate()
        assert "10000 packets transmitted, 10000 received, 0% packet loss" in out, (out, vtep("counters"))
    wrong = {"overlay_down", "overlay_refused", "no_remote", "source_refused"}
    assert not set(vtep("counters")["drops"]) & wrong
    vtep.stop()
    assert devices(one) == {"lo", "eth"}


@pytest.mark.parametrize("n_lanes", [1, 2])
def test_frames_for_segments_that_come_and_go_have_a_verdict_and_cost_others_none(
    lan: Lan, n_lanes: int
) -> None:
    one, two = lan.hosts
    for vni in (42, 43):
        kernel(two, vni, one)
    vtep = Controlled(one, segment=[segment(42, two)], lanes={"count": n_lanes})
    address(one, 42)
    one.ping("10.42.0.2")
    strays = [two.start("ping", "-q", "-i", "0.002", "-b", "10.43.0.255") for _ in range(4)]
    others = one.start("ping", "-q", "-f", "-c", "5000", "10.42.0.2")
    for _ in range(10):
        vtep("add_segment", **segment(43, two))
        one.ip("link", "set", "vx43", "up")
        assert wait_until(lambda: vtep.counted(43)["rx_packets"], "frames arrive")
        vtep("remove_segment", 43)
    out, _ = others.communicate()
    assert "5000 packets transmitted, 5000 received, 0% packet loss" in out, (out, vtep("counters"))
    # The last: what the host's own stack has to say on a device whose segment is about to come or to go.
    possible = {"unknown_vni", "overlay_down", "unknown_vlan"}
    assert {"unknown_vni"} <= set(vtep("counters")["drops"]) <= possible
    for each in strays:
        each.kill()


@pytest.mark.parametrize("kind", ["udp", "packet", "xdp"])
def test_each_remote_has_what_came_from_it_and_was_sent_to_it(lan: Lan, kind: str) -> None:
    one, two = lan.hosts
    kernel(two, 42, one)
    vtep = Controlled(one, segment=[segment(42, two)], underlay={"kind": kind}, lanes={"count": 1})
    address(one, 42)
    wait_until(lambda: one.pings("10.42.0.2"), "answers to pings")
    before = vtep("remote_counts")[two.v4]
    one.ping("10.42.0.2", "-s", "1000", count=10)
    wait_until(lambda: vtep("remote_counts")[two.v4].items() <= vtep.counted(42).items(), "it has all of it")
    after = vtep("remote_counts")
    for way in ("rx", "tx"):
        assert after[two.v4][f"{way}_packets"] >= before[f"{way}_packets"] + 10
        assert after[two.v4][f"{way}_bytes"] >= before[f"{way}_bytes"] + 10 * (14 + 20 + 8 + 1000)
    vtep("remove_segment", 42)
    assert vtep("remote_counts") == {}
    vtep("add_segment", **{**segment(42, two), "remotes": ["192.0.2.77"]})  # by the same number
    counts = vtep("remote_counts")["192.0.2.77"]
    assert counts["rx_packets"] == 0
    assert counts["tx_bytes"] < 1000, "less than one of the pings: what a device says when it is set up"


def test_an_interface_that_exists_comes_and_goes_as_a_port(lan: Lan) -> None:
    one, two = lan.hosts
    for vni in (42, 43):
        kernel(two, vni, one)
    vtep = Controlled(one, segment=[segment(42, two)])
    address(one, 42)
    one.ip("link", "add", "c0", "mtu", "1450", "type", "veth", "peer", "name", "vx43", "mtu", "1450")
    one.ip("link", "set", "c0", "up")
    address(one, 43)
    others = one.start("ping", "-q", "-f", "-c", "5000", "10.42.0.2")
    for _ in range(3):
        vtep("add_segment", vni=43, port={"kind": "packet", "dev": "c0"}, remotes=[two.v4])
        assert vtep("describe")[1] == {
            "vni": 43,
            "port": "packet",
            "dev": "c0",
            "mtu": 1450,
            "remotes": [two.v4],
        }
        one.ping("10.43.0.2")
        vtep("remove_segment", 43)
        assert not one.pings("10.43.0.2")
    out, _ = others.communicate()
    assert "5000 packets transmitted, 5000 received, 0% packet loss" in out, out
    assert {"c0", "vx43"} <= devices(one)


def test_it_begins_with_nothing_and_puts_the_host_back(lan: Lan) -> None:
    one, two = lan.hosts
    kernel(two, 42, one)
    vtep = Controlled(one)
    assert vtep("describe") == []
    vtep("add_segment", **segment(42, two))
    address(one, 42)
    one.ping("10.42.0.2")
    assert vtep("snapshot", "segments")[0]["vni"] == 42
    assert [row["uses"] for row in vtep("snapshot", "remotes")] == [1]
    assert {row["vni"] for row in vtep("snapshot", "fdb")} == {42}
    vtep.stop()
    assert devices(one) == {"lo", "eth"}


def test_a_change_that_is_wrong_changes_nothing(lan: Lan) -> None:
    one, two = lan.hosts
    kernel(two, 42, one)
    vtep = Controlled(one, segment=[segment(42, two)])
    address(one, 42)
    before = vtep("describe")
    one.ip("link", "add", "vx44", "type", "bridge")
    wrong = [
        ([segment(43, two), segment(42, two, tap="vx45")], "VNI 42: vni: .*the VNI of segment"),
        ([segment(43, two), segment(44, two)], "vx44 exists and is a bridge device"),
        ([segment(43, two), segment(45, one)], "VNI 45: remotes.*local address"),
        ([segment(43, two), {"vni": 46}], "tap: missing"),
        ([segment(43, two), segment(47, two, source=["10.0.0.1/8"])], r"source\[0\]: .* has host bits set"),
    ]
    for segments, said in wrong:
        with pytest.raises(ConfigError, match=said):
            vtep("add_segments", segments)
        assert vtep("describe") == before
        assert devices(one) == {"lo", "eth", "vx42", "vx44"}
    with pytest.raises(ConfigError, match="VNI 43: there is no such segment"):
        vtep("remove_segments", [42, 43])
    with pytest.raises(ConfigError, match="the port vx42 cannot become vx99"):
        vtep("change_segment", 42, tap="vx99")
    one.ping("10.42.0.2")


def test_entries_are_set_while_it_forwards_and_hold_against_learning(lan: Lan) -> None:
    one, two = lan.hosts
    kernel(two, 42, one)
    vtep = Controlled(one, segment=[segment(42, learning=False)])
    address(one, 42)
    mac = two.mac("vx42")
    one.ip("neigh", "replace", "10.42.0.2", "lladdr", mac, "dev", "vx42")
    assert not one.pings("10.42.0.2")
    assert vtep("add_fdb", 42, mac, two.v4) == 1
    one.ping("10.42.0.2")  # and its answers are taken, for an entry names their source
    assert vtep("remove_fdb", 42, mac) == 1
    assert not one.pings("10.42.0.2")
    assert wait_until(lambda: vtep.drops("source_refused"), "nobody names it any more")
    assert vtep("snapshot", "remotes") == []


def test_entries_are_rewritten_by_the_hundred_thousand_and_no_packet_is_lost() -> None:
    with Lan(3) as lan:
        one, two, three = lan.hosts
        kernel(two, 42, one)
        vtep = Controlled(one, segment=[segment(42, two)], tables={"entries": 300_000})
        address(one, 42)
        others = one.start("ping", "-q", "-f", "-c", "20000", "10.42.0.2")
        rate = vtep("rewrite", 42, [two.v4, three.v4], 100_000, 30)
        out, _ = others.communicate()
        assert "20000 packets transmitted, 20000 received, 0% packet loss" in out, out
        print(f"{rate:.0f} entries in a second")
        assert rate > 100_000


def test_what_was_learned_is_flushed_by_segment_and_by_remote(lan: Lan) -> None:
    one, two = lan.hosts
    kernel(two, 42, one)
    vtep = Controlled(one, segment=[segment(42, two)])
    address(one, 42)
    for flush in ({"vnis": [42]}, {"remotes": [two.v4]}):
        one.ping("10.42.0.2")
        assert len(vtep("snapshot", "fdb")) == 1
        vtep("flush", **flush)
        assert vtep("snapshot", "fdb") == []


def test_the_difference_to_other_settings_is_applied(lan: Lan) -> None:
    one, two = lan.hosts
    for vni in (42, 43):
        kernel(two, vni, one)
    settings = {"underlay": {"local": one.v4}, "segment": [segment(42, two), segment(44, two)]}
    vtep = Controlled(one, **settings)
    address(one, 42)
    others = one.start("ping", "-q", "-f", "-c", "5000", "10.42.0.2")
    after = {**settings, "segment": [segment(42, two, ageing=9), segment(43, two, tap="vx44")]}
    vtep("apply", after)  # the TAP vx44 changes hands
    one.ip("address", "add", "10.43.0.1/24", "dev", "vx44")
    one.ping("10.43.0.2")
    assert {row["vni"]: row["ageing_s"] for row in vtep("snapshot", "segments")} == {42: 9, 43: 300}
    with pytest.raises(ConfigError, match=r"underlay\.dstport: 4789 cannot become 8472"):
        vtep("apply", {**after, "underlay": {"local": one.v4, "dstport": 8472}})
    vtep("apply", {**settings, "segment": [segment(42, two)]})
    assert devices(one) == {"lo", "eth", "vx42"}
    out, _ = others.communicate()
    assert "5000 packets transmitted, 5000 received, 0% packet loss" in out, out


def test_events_tell_what_happens(lan: Lan) -> None:
    one, two = lan.hosts
    kernel(two, 42, one)
    vtep = Controlled(one)
    vtep("add_segment", **segment(42, two, ageing=1))
    address(one, 42)
    one.ping("10.42.0.2")
    mac = two.mac("vx42")
    assert vtep.happens(kind="remote_added")["remote"] == two.v4
    assert vtep.happens(kind="learned", mac=mac)["remote"] == two.v4
    assert vtep("told")["learned"] >= 1
    assert vtep.happens(kind="aged", mac=mac)["was"] == two.v4
    one.ip("neigh", "replace", "10.42.0.9", "lladdr", "02:00:00:00:00:09", "dev", "vx42")
    assert not one.pings("10.42.0.9")
    assert vtep.happens(kind="miss")["mac"] == "02:00:00:00:00:09"
    vtep("change_segment", 42, remotes=[])
    assert vtep.happens(kind="remote_removed")["remote"] == two.v4
    assert vtep("counters")["events"]["dropped"] == 0


def test_an_address_that_moves_too_often_stays_where_it_is() -> None:
    """RFC 7432 section 15.1; and before it does, it is told where it was."""
    with Lan(3) as lan:
        one, two, three = lan.hosts
        for host in (two, three):
            kernel(host, 42, one)
            host.ip("link", "set", "vx42", "address", "02:00:00:00:00:77")
        vtep = Controlled(one, segment=[segment(42, two, three)], tables={"moves": 3, "moves_window": 60})
        address(one, 42)
        for _ in range(4):
            for host in (two, three):
                host.run("ping", "-c", "1", "-W", "1", "10.42.0.1", check=False)
        moved = vtep.happens(kind="moved")
        assert {moved["remote"], moved["was"]} == {two.v4, three.v4}
        counted = vtep("counters")["fdb"]
        assert (counted["moves"], counted["frozen"]) == (3, 1)
        assert counted["held"] > 0


def test_more_than_a_segment_may_learn_is_counted_flooded_and_told(lan: Lan) -> None:
    one, two = lan.hosts
    kernel(two, 42, one)
    vtep = Controlled(one, segment=[segment(42, two, maxaddress=1)])
    address(one, 42)
    one.ping("10.42.0.2")
    two.ip("link", "add", "link", "vx42", "name", "mv0", "type", "macvlan", "mode", "bridge")
    two.ip("address", "add", "10.42.0.3/24", "dev", "mv0")
    two.ip("link", "set", "mv0", "up")
    two.run("ping", "-c", "1", "-I", "mv0", "10.42.0.1", check=False)
    assert vtep.happens(kind="limit", vni=42)["mac"] == two.mac("mv0")
    assert vtep("counters")["fdb"]["overflow"] > 0
    assert len(vtep("snapshot", "fdb")) == 1
    one.ping("10.42.0.2")


# Whom a segment takes packets from


@pytest.mark.parametrize(
    ("family", "source"), [(4, "any"), (4, ["192.0.2.0/29"]), (6, "any"), (6, ["2001:db8::/124"])]
)
def test_a_vtep_that_nobody_named_is_let_in_and_learned(family: int, source: Any) -> None:
    """As the kernel's device does with a stranger, always; its own side has no list of us either."""
    with Lan(3) as lan:
        one, two, three = lan.hosts
        kernel(two, 42, one, family)
        local = {"local": one.address(family)}
        vtep = Controlled(one, segment=[segment(42, source=source)], underlay=local)
        address(one, 42)
        two.ping("10.42.0.1")
        one.ping("10.42.0.2")
        kernel(three, 42, one, family)
        three.ping("10.42.0.1")
        assert vtep.happens(kind="remote_added", remote=three.address(family))
        rows = vtep("snapshot", "remotes")
        assert [(row["learned"], row["uses"]) for row in rows] == [(True, 0)] * 2
        assert vtep("counters")["drops"].keys() <= {"no_remote", *hosts.STARVED}


@pytest.mark.parametrize("source", ["peers", ["192.0.2.3/32", "198.51.100.0/24"]])
def test_a_vtep_outside_the_policy_is_refused(lan: Lan, source: Any) -> None:
    one, two = lan.hosts
    kernel(two, 42, one)
    vtep = Controlled(one, segment=[segment(42, source=source)])
    address(one, 42)
    assert not two.pings("10.42.0.1")
    assert wait_until(lambda: vtep.drops("source_refused"), "refused")
    assert vtep("snapshot", "remotes") == []
    vtep("change_segment", 42, source=["192.0.2.2/32"])
    assert wait_until(lambda: two.pings("10.42.0.1"), "let in")


def test_a_remote_speaks_only_in_its_vnis(lan: Lan) -> None:
    one, two = lan.hosts
    for vni in (42, 43):
        kernel(two, vni, one)
    vtep = Controlled(one, segment=[segment(vni, two, source="any") for vni in (42, 43)])
    for vni in (42, 43):
        address(one, vni)
        one.ping(f"10.{vni}.0.2")
    vtep("add_remote", two.v4, vnis=[42, "100-199"])
    one.ping("10.42.0.2")
    assert not two.pings("10.43.0.1")
    assert wait_until(lambda: vtep.drops("vni_refused"), "refused")
    vtep("change_remote", two.v4, vnis=None)
    two.ping("10.43.0.1")


# What a segment floods


def unknown(host: Host, number: int) -> str:
    """Make `host` send to a station that is nowhere, and return the command's output."""
    mac = f"02:00:00:00:01:{number:02x}"
    host.ip("neigh", "replace", f"10.42.0.{number}", "lladdr", mac, "dev", "vx42")
    out = host.run("ping", "-q", "-c", "50", "-i", "0.002", "-W", "1", f"10.42.0.{number}", check=False)
    return out.stdout


def test_frames_for_unknown_stations_are_dropped_where_the_segment_says_so(lan: Lan) -> None:
    one, two = lan.hosts
    kernel(two, 42, one)
    vtep = Controlled(one, segment=[segment(42, two, unknown_unicast="drop")])
    address(one, 42)
    one.ping("10.42.0.2")  # ARP is flooded, and the station then known
    sent = vtep.counted(42)["tx_packets"]
    unknown(one, 9)
    assert vtep.drops("flood_refused") == 50
    assert vtep.counted(42)["tx_packets"] - sent < 10
    vtep("change_segment", 42, unknown_unicast="flood")
    unknown(one, 10)
    assert vtep.drops("flood_refused") == 50


@pytest.mark.parametrize("n_lanes", [1, 2])
def test_unknown_unicast_is_held_to_its_rate(lan: Lan, n_lanes: int) -> None:
    one, two = lan.hosts
    kernel(two, 42, one)
    limit = {"rate": 2 * n_lanes, "burst": 10 * n_lanes}
    vtep = Controlled(one, segment=[segment(42, two, unknown_unicast=limit)], lanes={"count": n_lanes})
    address(one, 42)
    one.ping("10.42.0.2", count=30)  # known unicast is not held
    assert vtep.drops("rate_limit") == 0
    unknown(one, 9)  # one flow, of one lane, in less than two seconds
    assert 50 - 10 - 2 * 2 <= vtep.drops("rate_limit") <= 50 - 10


@pytest.mark.parametrize(("kind", "target"), [("broadcast", "10.42.0.255"), ("multicast", "224.0.0.251")])
def test_broadcast_and_multicast_are_held_to_their_rates(lan: Lan, kind: str, target: str) -> None:
    one, two = lan.hosts
    kernel(two, 42, one)
    vtep = Controlled(one, segment=[segment(42, two, **{kind: {"rate": 1, "burst": 5}})])
    run("ip", "netns", "exec", one.namespace, "sysctl", "-qw", "net.ipv6.conf.vx42.disable_ipv6=1")
    address(one, 42)
    ways = ("-b",) if kind == "broadcast" else ("-I", "vx42")
    one.run("ping", "-q", "-c", "40", "-i", "0.002", "-W", "1", *ways, target, check=False)
    assert 40 - 5 - 3 <= vtep.drops("rate_limit") <= 40 - 5 + 3  # a few frames are the kernel's own


# A file that is read again


def reread(vtep: VtepProcess, file: Path, text: str) -> str:
    """What it says of the file's new text."""
    file.write_text(text)
    vtep.process.send_signal(signal.SIGHUP)
    assert vtep.process.stdout is not None
    return vtep.process.stdout.readline().strip()


def test_a_changed_file_is_applied_by_its_difference_or_not_at_all(lan: Lan, tmp_path: Path) -> None:
    one, two = lan.hosts
    for vni in (42, 43):
        kernel(two, vni, one)
    file, top = tmp_path / "vx.toml", f'[underlay]\nlocal = "{one.v4}"\n'
    entry = '[[segment]]\nvni = {0}\ntap = "vx{0}"\nremotes = ["{1}"]\n'
    file.write_text(top + entry.format(42, two.v4))
    vtep = VtepProcess(one, "run", str(file))
    address(one, 42)
    one.ping("10.42.0.2")
    others = one.start("ping", "-q", "-f", "-c", "5000", "10.42.0.2")

    assert reread(vtep, file, top + entry.format(42, two.v4) + entry.format(43, two.v4)) == "reloaded"
    address(one, 43)
    one.ping("10.43.0.2")
    assert reread(vtep, file, top + entry.format(42, two.v4) + entry.format(44, one.v4)) == "not reloaded"
    one.ping("10.43.0.2")
    assert reread(vtep, file, top + "dstport = 1\n" + entry.format(42, two.v4)) == "not reloaded"
    assert reread(vtep, file, top + entry.format(42, two.v4)) == "reloaded"
    assert devices(one) == {"lo", "eth", "vx42"}
    out, _ = others.communicate()
    assert "5000 packets transmitted, 5000 received, 0% packet loss" in out, out
    log = vtep.stop()
    assert f'{file}:10: segment[1].remotes[0]: "{one.v4}" is a local address' in log
    assert "underlay.dstport: 4789 cannot become 1 while it runs" in log
