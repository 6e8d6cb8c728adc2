"""Hosts that find each other by BGP: vxcore by GoBGP, and FRR with the kernel's vxlan device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support.evpn import HERE, MOVED, STAYS, STILL, THERE, Pair
from support.hosts import namespaces_of_this_process, wait_until

pytestmark = pytest.mark.usefixtures("root")

SETTINGS = f'[[evpn.segment]]\nvni = 42\nsticky = ["{STAYS}"]\ngateways = ["{STAYS}"]\n'


@pytest.fixture(scope="module")
def made(root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(stack, tmp_path_factory.mktemp("pair"), SETTINGS)
    assert namespaces_of_this_process() == []


@pytest.fixture
def pair(made: Pair) -> Pair:
    """The guests are who they are, and have been heard of."""
    made.here.has(HERE)
    made.there.has(THERE)
    made.here.speaks()
    made.there.speaks()
    made.meet()
    return made


def test_guests_of_vxcore_and_of_frr_reach_each_other_without_flooding_or_learning(pair: Pair) -> None:
    here, there = pair.here.inside, pair.there.inside
    here.ping(pair.there.v4)
    there.ping(pair.here.v4)
    here.transfer(there, pair.there.v4, "tcp", 2_000_000)
    there.transfer(here, pair.here.v4, "tcp", 2_000_000)
    (row,) = [row for row in pair.site.show("fdb") if row["mac"] == THERE]
    assert (row["remote"], row["kind"]) == ("192.0.2.2", "control")
    assert [row["remotes"] for row in pair.site.show("segment")] == [["192.0.2.2"]]
    assert pair.frr.mac(HERE)["remoteVtep"] == "192.0.2.1"
    assert pair.frr("show bgp l2vpn evpn route json")["numPrefix"] >= 4
    assert (pair.site.plane["state"], pair.site.plane["troubles"]) == ("connected", [])


def test_a_mac_address_moves_to_vxcore_and_back(pair: Pair) -> None:
    pair.there.has(MOVED)
    pair.there.speaks()
    pair.site.hears(MOVED, sequence=0)
    pair.there.has(THERE)
    pair.here.has(MOVED)  # now it is here; the bridge there has not forgotten it
    pair.here.speaks()
    wait_until(lambda: pair.frr.sends_to(MOVED) == "192.0.2.1", "FRR hears that it has moved")
    assert pair.frr.mac(MOVED)["remoteSequence"] == 1
    pair.site.hears_nothing_of(MOVED)
    pair.there.inside.ping(pair.here.v4)
    pair.here.has(HERE)
    pair.there.has(MOVED)
    pair.there.speaks()
    pair.site.hears(MOVED, vtep="192.0.2.2", sequence=2)
    assert pair.frr.mac(MOVED)["type"] == "local"
    pair.here.inside.ping(pair.there.v4)


def test_sticky_addresses_and_gateways_are_said_and_heard(pair: Pair) -> None:
    pair.here.has(STAYS)
    pair.here.speaks()
    wait_until(lambda: pair.frr.sends_to(STAYS) == "192.0.2.1", "FRR hears of the gateway")
    heard = pair.frr.mac(STAYS)
    assert (heard["stickyMac"], heard["remoteGatewayMac"]) == (True, True)
    entry = ("fdb", "add", STILL, "dev", "c12", "master", "static", "sticky")
    pair.frr.host.run("bridge", *entry)
    pair.site.hears(STILL, sticky=True, vtep="192.0.2.2")
    pair.here.has(STILL)
    pair.here.speaks()
    wait_until(lambda: f"{STILL} vni 42" in pair.site.troubles(), "the conflict is named")
    assert "192.0.2.2 has it, and says that it does not move" in pair.site.troubles()[f"{STILL} vni 42"]
    assert not [line for line in pair.gobgp.routes() if STILL in line and "192.0.2.1:42" in line]


def test_ip_addresses_are_said_both_ways_and_asked_for_nowhere(pair: Pair) -> None:
    for host, mac, address in ((pair.site.host, HERE, "10.42.0.11"), (pair.frr.host, THERE, "10.42.0.12")):
        host.ip("address", "add", f"10.42.0.{host.number}/24", "dev", "br42")
        host.ping(address)  # its kernel knows the guest behind it now
        assert mac in host.ip("neighbour", "show", address).stdout
    pair.site.hears(THERE, addresses=["10.42.0.12"])
    wait_until(lambda: pair.frr.mac(HERE).get("neighbors") != "none", "FRR hears of the address")
    wait_until(lambda: "10.42.0.11" in pair.frr.host.ip("neighbour").stdout, "and its kernel")
    assert {row["address"]: row["mac"] for row in pair.site.show("neighbour")}["10.42.0.12"] == THERE
    answered = pair.site.vtep.drops("answered")
    pair.here.inside.ip("neighbour", "flush", "all")
    pair.here.inside.ping(pair.there.v4)
    assert pair.site.vtep.drops("answered") > answered


def test_a_vtep_that_stops_is_gone_at_once(pair: Pair) -> None:
    pair.site.vtep.stop()
    wait_until(lambda: pair.frr.sends_to(HERE) is None, "FRR has heard that the guest is gone")
    wait_until(lambda: pair.frr.sends_to("00:00:00:00:00:00") is None, "and the VTEP")
    pair.site.start()
    pair.meet()
