"""Segments whose flood set is an IP multicast group, beside the kernel's vxlan device with `group`."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import hosts
from support.controlled import Controlled
from support.hosts import STARVED, Host, Lan, VtepProcess, wait_until

from vxcore.remotes import unpacked

pytestmark = pytest.mark.usefixtures("root", "nothing_is_left")

GROUPS = {4: "239.1.1.1", 6: "ff05::1:1"}
OTHERS = {4: "239.1.1.2", 6: "ff02::1:2"}
KINDS = pytest.mark.parametrize("kind", ["udp", "packet"])
FAMILIES = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(3) as made:
        yield made


def kernel(host: Host, family: int = 4, group: str | None = None) -> None:
    """The kernel's own device vx42."""
    way = ("group", group or GROUPS[family], "dev", "eth", "dstport", "4789")
    host.ip("link", "add", "vx42", "type", "vxlan", "id", "42", "local", host.address(family), *way)
    host.overlay("vx42")


def segment(family: int = 4, vni: int = 42, **options: Any) -> dict[str, Any]:
    return {"vni": vni, "tap": f"vx{vni}", "group": GROUPS[family], **options}


def started(
    host: Host, *segments: dict[str, Any], family: int = 4, kind: str = "udp", **settings: Any
) -> Controlled:
    """A Vtep on the device `eth`; its TAP vx42, if it has one, gets its addresses."""
    underlay = {"kind": kind, "local": host.address(family), "dev": "eth", **settings.pop("underlay", {})}
    vtep = Controlled(host, underlay=underlay, segment=list(segments), **settings)
    if any(each["vni"] == 42 for each in segments):
        host.overlay("vx42")
    return vtep


def joined(host: Host, group: str) -> bool:
    """Whether the kernel says that it has joined (/proc/net/igmp, igmp6)."""
    found = json.loads(host.ip("-j", "maddress", "show", "dev", "eth").stdout)
    return group in {each.get("address") for each in found[0]["maddr"]}


def users(host: Host, group: str) -> int:
    """How often."""
    found = json.loads(host.ip("-j", "maddress", "show", "dev", "eth").stdout)
    return next((each.get("users", 1) for each in found[0]["maddr"] if each.get("address") == group), 0)


def echo_requests(host: Host) -> int:
    """How many the host's stack has received."""
    lines = host.run("cat", "/proc/net/snmp").stdout.splitlines()
    names, values = (line.split() for line in lines if line.startswith("Icmp:"))
    return int(dict(zip(names, values, strict=True))["InEchos"])


def addresses(vtep: Controlled) -> set[str]:
    """Of the remotes that it has learned."""
    texts = [row["address"] for row in vtep("snapshot", "remotes") if row["learned"]]
    return {str(unpacked(bytes(map(int, text.strip("[]").split())))) for text in texts}


@KINDS
@FAMILIES
@pytest.mark.parametrize("n_lanes", [1, 2])
def test_kernel_and_vxcore_talk_in_a_group(lan: Lan, family: int, kind: str, n_lanes: int) -> None:
    one, two, three = lan.hosts
    vteps = [
        started(host, segment(family), family=family, kind=kind, lanes={"count": n_lanes})
        for host in (one, three)
    ]
    kernel(two, family)
    for host in lan.hosts:
        for other in lan.hosts:
            if other is not host:
                host.ping(f"10.42.0.{other.number}")
                host.ping(f"fd42::{other.number}")
    for vtep, others in zip(vteps, [(two, three), (one, two)], strict=True):
        assert addresses(vtep) == {other.address(family) for other in others}
        assert vtep("describe")[0]["remotes"] == [GROUPS[family]]
        assert not set(vtep("counters")["drops"]) - STARVED


@KINDS
@FAMILIES
@pytest.mark.parametrize("n_lanes", [1, 2])
def test_a_broadcast_reaches_all_once_and_never_comes_back(
    lan: Lan, family: int, kind: str, n_lanes: int
) -> None:
    one, two, three = lan.hosts
    for host in (one, three):
        started(host, segment(family), family=family, kind=kind, lanes={"count": n_lanes})
    kernel(two, family)
    for sender in (one, two):
        before = [echo_requests(host) for host in lan.hosts]
        sender.run("ping", "-q", "-b", "-c", "50", "-i", "0.002", "-W", "1", "10.42.0.255", check=False)
        # The sender's own stack hands each broadcast to itself, too.
        assert [echo_requests(host) - n for host, n in zip(lan.hosts, before, strict=True)] == [50] * 3


@FAMILIES
def test_unknown_sources_are_learned_and_forgotten(lan: Lan, family: int) -> None:
    one, two, _ = lan.hosts
    vtep = started(one, segment(family, ageing=1), family=family)
    kernel(two, family)  # not before somebody listens to events
    two.ping("10.42.0.1")
    assert vtep.happens(kind="remote_added", remote=two.address(family))
    mac = two.mac("vx42")
    assert vtep.happens(kind="learned", mac=mac, remote=two.address(family))
    assert [row["n_flood"] for row in vtep("snapshot", "segments")] == [1]  # the group is, the remote not
    two.ip("link", "set", "vx42", "down")
    vtep.happens(kind="aged", mac=mac)
    wait_until(lambda: vtep("tidy") or not addresses(vtep), "forgotten")
    assert vtep.happens(kind="remote_removed", remote=two.address(family))


def test_learned_remotes_are_bounded_and_what_is_beyond_still_gets_through(lan: Lan) -> None:
    one, two, three = lan.hosts
    kernel(two)
    kernel(three)
    vtep = started(one, segment(), tables={"learned_remotes": 1})
    two.ping("10.42.0.1")
    wait_until(lambda: addresses(vtep) == {two.v4}, "learned")
    three.ping("10.42.0.1")
    event = vtep.happens(kind="limit", remote=three.v4)
    assert (event["vni"], event["mac"]) == (42, three.mac("vx42"))
    assert vtep("counters")["events"]["strangers_refused"] > 0
    assert addresses(vtep) == {two.v4}


@pytest.mark.parametrize("source", ["peers", ["192.0.2.2/32"]])
@KINDS
def test_strangers_are_refused_where_sources_are_restricted(lan: Lan, kind: str, source: Any) -> None:
    one, two, three = lan.hosts
    kernel(two)
    kernel(three)
    known = [two.v4] if source == "peers" else []
    vtep = started(one, segment(source=source, remotes=known), kind=kind)
    one.ping("10.42.0.2")
    assert not three.pings("10.42.0.1")
    assert vtep.drops("source_refused") > 0
    vtep("change_segment", 42, source=None)
    three.ping("10.42.0.1")


def test_packets_to_the_group_of_nobody_here_are_not_taken(lan: Lan) -> None:
    one, two, _ = lan.hosts
    kernel(two, group=OTHERS[4])
    vtep = started(one, segment(), kind="packet")
    assert not two.pings("10.42.0.1")
    assert vtep.counted(42)["rx_packets"] == 0


@KINDS
@FAMILIES
def test_a_group_is_joined_while_a_segment_uses_it(lan: Lan, family: int, kind: str) -> None:
    one, two, _ = lan.hosts
    group, other = GROUPS[family], OTHERS[family]
    kernel(two, family, other)
    vtep = started(one, family=family, kind=kind)
    assert not joined(one, group)
    vtep("add_segments", [segment(family, 43), segment(family, 44)])
    assert users(one, group) == 1
    vtep("remove_segment", 43)
    assert joined(one, group)
    vtep("add_segment", **segment(family))
    one.overlay("vx42")
    assert not one.pings("10.42.0.2")
    vtep("change_segment", 42, group=other)
    one.ping("10.42.0.2")
    assert joined(one, group)
    assert joined(one, other)
    vtep("remove_segment", 44)
    assert not joined(one, group)
    vtep("change_segment", 42, group=None)
    assert not joined(one, other)
    vtep("change_segment", 42, group=group)
    vtep.stop()
    assert not joined(one, group)


def test_a_change_that_fails_joins_nothing(lan: Lan) -> None:
    one, _, _ = lan.hosts
    vtep = started(one, segment())
    one.ip("link", "add", "vx43", "type", "bridge")
    with pytest.raises(Exception, match="vx43 exists and is a bridge"):
        vtep("add_segment", **segment(vni=43, group=OTHERS[4]))
    assert not joined(one, OTHERS[4])
    assert joined(one, GROUPS[4])


@pytest.mark.parametrize(("ttl", "expected"), [(0, "1"), (7, "7")])
@KINDS
@FAMILIES
def test_packets_to_a_group_have_the_kernels_ttl(
    lan: Lan, family: int, kind: str, ttl: int, expected: str
) -> None:
    one, two, _ = lan.hosts
    filters = ("-i", "eth", "-c", "1", "-nn", "-v", "dst", GROUPS[family], "and", "udp")
    capture = two.start("tcpdump", "-l", "--immediate-mode", *filters)
    assert capture.stderr is not None
    assert next(line for line in capture.stderr if "listening" in line)
    started(one, segment(family), family=family, kind=kind, underlay={"ttl": ttl})
    one.pings("10.42.0.2")
    out, _ = capture.communicate(timeout=hosts.DEADLINE_S)
    assert f"ttl {expected}," in out or f"hlim {expected}," in out, out


def reread(vtep: VtepProcess, file: Path, text: str) -> str:
    """What it says of the file's new text."""
    file.write_text(text)
    vtep.process.send_signal(signal.SIGHUP)
    assert vtep.process.stdout is not None
    return vtep.process.stdout.readline().strip()


def test_a_segment_with_a_group_comes_and_goes_with_the_file(lan: Lan, tmp_path: Path) -> None:
    one, two, _ = lan.hosts
    kernel(two)
    file, top = tmp_path / "vx.toml", f'[underlay]\nlocal = "{one.v4}"\ndev = "eth"\n'
    entry = '[[segment]]\nvni = {0}\ntap = "vx{0}"\ngroup = "{1}"\n'
    other, ours = entry.format(43, OTHERS[4]), entry.format(42, GROUPS[4])
    file.write_text(top + other)
    vtep = VtepProcess(one, "run", str(file))
    assert vtep.ready == [f"ready vni 43 tap vx43 mtu 1450 remotes {OTHERS[4]}"]
    assert reread(vtep, file, top + other + ours) == "reloaded"
    one.overlay("vx42")
    one.ping("10.42.0.2")
    assert reread(vtep, file, top + other + ours.replace("239.1.1.1", "10.1.1.1")) == "not reloaded"
    one.ping("10.42.0.2")
    assert reread(vtep, file, top + other) == "reloaded"
    assert not joined(one, GROUPS[4])
    assert joined(one, OTHERS[4])
    log = vtep.stop()
    assert '"10.1.1.1" is not an IP multicast group' in log
    assert not joined(one, OTHERS[4])


@FAMILIES
def test_up_takes_a_group_as_ip_link_does(lan: Lan, family: int) -> None:
    one, two, _ = lan.hosts
    kernel(two, family)
    options = ("--vni", "42", "--tap", "vx42", "--group", GROUPS[family], "--dev", "eth")
    vtep = VtepProcess(one, "up", *options)
    one.overlay("vx42")
    one.ping("10.42.0.2")
    vtep.stop()
    assert not joined(one, GROUPS[family])
