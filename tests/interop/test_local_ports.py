"""A segment with two overlay ports, a TAP and a container's veth: its hosts, and those of a kernel peer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support import hosts
from support.controlled import Controlled
from support.hosts import Host, Lan, run

from vxcore.errors import ConfigError

pytestmark = pytest.mark.usefixtures("root")
PORTS = [{"kind": "tap", "dev": "vx42"}, {"kind": "packet", "dev": "vc"}]


class Set(Lan):
    """Host 1 with a container behind its veth `vc`; host 2 with the kernel's vxlan device."""

    def __enter__(self) -> Set:
        super().__enter__()
        self.one, self.two = self.hosts
        self.container = Host(f"{self.one.namespace}c", 11)
        run("ip", "netns", "add", self.container.namespace)
        peer = ("peer", "name", "eth", "mtu", "1450", "netns", self.container.namespace)
        self.one.ip("link", "add", "vc", "mtu", "1450", "type", "veth", *peer)
        self.one.run("sysctl", "-qw", "net.ipv6.conf.vc.disable_ipv6=1")
        self.one.ip("link", "set", "vc", "up")
        self.container.overlay("eth")
        self.two.kernel_vxlan([self.one])
        return self

    def segment(self, **options: Any) -> dict[str, Any]:
        return {"vni": 42, "ports": PORTS, "remotes": [self.two.v4], **options}

    def __exit__(self, *why: object) -> None:
        run("ip", "netns", "delete", self.container.namespace, check=False)
        super().__exit__(None, None, None)


@pytest.fixture
def lan() -> Iterator[Set]:
    with Set(2) as made:
        yield made
    assert hosts.namespaces_of_this_process() == []


@pytest.mark.parametrize("n_lanes", [1, 2])
@pytest.mark.parametrize("offload", [{}, {"packet_vnet": False}, {"tap_tso": False}])
def test_every_host_reaches_every_other(lan: Set, n_lanes: int, offload: dict[str, bool]) -> None:
    vtep = Controlled(lan.one, segment=[lan.segment()], lanes={"count": n_lanes}, offload=offload)
    lan.one.overlay("vx42")
    all_of = [lan.one, lan.container, lan.two]
    for one in all_of:
        for other in all_of:
            if one is not other:
                one.ping(f"10.42.0.{other.number}")
                one.ping(f"fd42::{other.number}")
    before = vtep.counted(42)["tx_bytes"]
    for one, other in ((lan.one, lan.container), (lan.container, lan.one)):
        one.transfer(other, f"10.42.0.{other.number}", "tcp", 2_000_000)
    assert vtep.counted(42)["tx_bytes"] - before < 100_000  # it is nobody else's
    for one, other in (
        (lan.two, lan.container),
        (lan.container, lan.two),
        (lan.two, lan.one),
        (lan.one, lan.two),
    ):
        for transport in ("tcp", "udp"):
            one.transfer(other, f"10.42.0.{other.number}", transport, 1_000_000)
    drops = vtep("counters")["drops"]
    assert drops.keys() <= {"same_port", *hosts.STARVED}


def test_it_is_learned_who_is_behind_which_port(lan: Set) -> None:
    vtep = Controlled(lan.one, segment=[lan.segment()])
    lan.one.overlay("vx42")
    lan.one.ping("10.42.0.11")
    lan.one.ping("10.42.0.2")
    told = {event["mac"]: event["dev"] for event in vtep("take") if event["kind"] == "learned"}
    assert told[lan.container.mac("eth")] == "vc"
    assert told[lan.two.mac("vx42")] is None

    def here() -> dict[str, int]:
        return {f"{row['mac']:012x}": row["port"] for row in vtep("snapshot", "fdb")}

    tap, container, remote = (
        host.mac(dev).replace(":", "")
        for host, dev in ((lan.one, "vx42"), (lan.container, "eth"), (lan.two, "vx42"))
    )
    found = here()
    assert found[remote] == -1
    assert -1 < found[tap] != found[container] > -1
    vtep("flush", devices=["vc"])
    assert here().keys() == {tap, remote}
    vtep("flush", devices=["vx42"])
    assert here().keys() == {remote}
    assert vtep("describe")[0]["ports"] == PORTS


def test_a_host_moves_between_a_port_and_the_remote(lan: Set) -> None:
    vtep = Controlled(lan.one, segment=[lan.segment()])
    lan.one.overlay("vx42")
    mac = "02:00:00:00:00:77"
    lan.two.ip("link", "set", "vx42", "address", mac)
    lan.two.ping("10.42.0.1")
    lan.two.ip("link", "set", "vx42", "down")
    lan.container.ip("link", "set", "eth", "address", mac)
    lan.container.ping("10.42.0.1")
    moved = vtep.happens(kind="moved", mac=mac)
    assert (moved["dev"], moved["was"]) == ("vc", lan.two.v4)
    assert vtep("counters")["fdb"]["moves"] == 1
    lan.one.ping("10.42.0.11")


def test_ports_come_and_go_with_their_segment(lan: Set) -> None:
    vtep = Controlled(lan.one)
    for _ in range(3):
        vtep("add_segment", **lan.segment())
        lan.one.overlay("vx42")
        lan.container.ip("neigh", "flush", "dev", "eth")  # the last device had another address
        lan.container.ping("10.42.0.1")
        vtep("remove_segment", 42)
        assert not lan.container.pings("10.42.0.1")
        assert lan.one.ip("link", "show", "vx42", check=False).returncode != 0
    with pytest.raises(ConfigError, match="there is no such device"):
        vtep("add_segment", **lan.segment(ports=[PORTS[0], {"kind": "packet", "dev": "none"}]))
    assert lan.one.ip("link", "show", "vx42", check=False).returncode != 0
    vtep("add_segment", vni=42, tap="vx42", remotes=[lan.two.v4])
    with pytest.raises(ConfigError, match="the port vx42 cannot become vx42, vc"):
        vtep("change_segment", 42, tap=None, ports=PORTS)
