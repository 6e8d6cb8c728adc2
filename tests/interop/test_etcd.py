"""Hosts that find each other by etcd, a real one: what one has, the others can reach, without flooding."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.etcd import SHORT_S, Etcd, Site, end_vteps, endpoint, hosts_with_etcd, keys_of
from support.hosts import Host, Lan, run, wait_until

pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lan, Etcd]]:
    with hosts_with_etcd(tmp_path_factory.mktemp("etcd")) as made:
        yield made


@pytest.fixture
def lan(shared: tuple[Lan, Etcd]) -> Iterator[Lan]:
    yield shared[0]
    end_vteps(shared[0])


@pytest.fixture
def etcd(shared: tuple[Lan, Etcd], request: pytest.FixtureRequest) -> Etcd:
    """With keys of its own for each test."""
    shared[1].prefix = f"/{request.function.__name__}"
    return shared[1]


def test_hosts_reach_each_other_without_a_static_peer_and_without_flooding(
    lan: Lan, etcd: Etcd, tmp_path: Path
) -> None:
    one, two, three = (Site(host, tmp_path, etcd) for host in lan.hosts[:3])
    for site, others in ((one, (2, 3)), (two, (1, 3)), (three, (1, 2))):
        site.hears_of(*others)
    assert etcd.there() == keys_of(1) | keys_of(2) | keys_of(3)
    value = etcd.all()[endpoint(2)]
    assert value["vtep"] == "192.0.2.2"
    assert value["addresses"][:2] == ["10.42.0.2", "fd42::2"]
    before = three.vtep.counters()["segments"][0]["rx_packets"]
    one.host.ping("10.42.0.2")
    two.host.ping("fd42::1")
    assert three.vtep.counters()["segments"][0]["rx_packets"] == before  # ARP is answered where it is asked
    assert one.vtep.counters()["segments"][0]["tx_packets"] > 0
    assert one.plane["announced"] == 2  # a member and an endpoint
    two.vtep.stop()  # cleanly, and is gone at once
    one.hears_of(3)
    assert etcd.there() == keys_of(1) | keys_of(3)


def test_what_changes_on_a_host_is_known_to_others(lan: Lan, etcd: Etcd, tmp_path: Path) -> None:
    one, two = (Site(host, tmp_path, etcd) for host in lan.hosts[:2])
    one.hears_of(2)
    two.host.ip("address", "del", "10.42.0.2/24", "dev", "vx42")
    two.host.ip("address", "add", "10.42.0.77/24", "dev", "vx42")
    wait_until(lambda: "10.42.0.77" in etcd.all()[endpoint(2)]["addresses"], "the new address")
    assert "10.42.0.2" not in etcd.all()[endpoint(2)]["addresses"]
    wait_until(lambda: "10.42.0.77" in str(one.show("route")), "is heard")
    one.host.ping("10.42.0.77")
    added = ("segment", "add", "--vni", "43", "--tap", "vx43")
    two.command(*added)
    wait_until(lambda: "segments/43/192.0.2.2" in etcd.there(), "the new segment")
    wait_until(lambda: one.show("route", "vni", "43"), "it is heard")
    assert {row["state"] for row in one.show("route", "vni", "43")} == {"no segment"}
    one.command(*added)
    assert [row["remotes"] for row in one.show("segment", "vni", "43")] == [["192.0.2.2"]]
    two.host.ip("link", "set", "vx42", "down")
    wait_until(lambda: endpoint(2) not in etcd.there(), "an endpoint is gone")


def test_of_two_hosts_with_one_mac_address_the_first_has_it(lan: Lan, etcd: Etcd, tmp_path: Path) -> None:
    one = Site(lan.hosts[0], tmp_path, etcd)
    wait_until(lambda: endpoint(1) in etcd.there(), "the first has it")
    two = Site(lan.hosts[1], tmp_path, etcd)
    two.host.ip("link", "set", "vx42", "address", one.mac)
    wait_until(lambda: two.troubles() == {endpoint(1): "192.0.2.1 has it"}, "the second says so")
    assert etcd.all()[endpoint(1)]["vtep"] == "192.0.2.1"
    one.vtep.stop()
    wait_until(lambda: etcd.all().get(endpoint(1), {}).get("vtep") == "192.0.2.2", "then the second has it")
    assert two.troubles() == {}
    logged = two.vtep.stop()
    assert f"{endpoint(1)} is not announced: 192.0.2.1 has it" in logged


def test_of_two_hosts_with_one_address_the_first_is_announced(lan: Lan, etcd: Etcd, tmp_path: Path) -> None:
    one = Site(lan.hosts[0], tmp_path, etcd, lease=SHORT_S)
    wait_until(lambda: etcd.there() == keys_of(1), "the first is announced")
    with second_address(lan.hosts[1], "192.0.2.1"):
        two = Site(lan.hosts[1], tmp_path, etcd, local="192.0.2.1")
        wait_until(lambda: "vteps/192.0.2.1" in two.troubles(), "the second says so")
        assert two.plane["announced"] == 0
        assert etcd.there() == keys_of(1)
        one.kill()
        wait_until(lambda: endpoint(2) in etcd.there(), "after the first's lease the second is announced")
        assert two.troubles() == {}


@contextmanager
def second_address(host: Host, address: str) -> Iterator[None]:
    """Which another host has."""
    host.ip("address", "add", f"{address}/32", "dev", "lo")
    try:
        yield
    finally:
        host.ip("address", "del", f"{address}/32", "dev", "lo")


JUNK: dict[str, bytes] = {
    "endpoints/42/02:00:00:00:42:99": b"no JSON",
    "endpoints/42/02:00:00:00:42:98": b'{"vtep": "239.1.1.1"}',
    "endpoints/42/03:00:00:00:42:99": b'{"vtep": "192.0.2.9"}',
    "endpoints/16777216/02:00:00:00:42:99": b'{"vtep": "192.0.2.9"}',
    "endpoints/42/02:00:00:00:42:97": b'{"vtep": "192.0.2.9", "sequence": -1}',
    "segments/42/192.0.2.999": b"{}",
    "segments/042/192.0.2.9": b"{}",
    "segments/42/192.0.2.9/x": b"{}",
    "vteps/192.0.2.9": b"[]",
    "something else": b"\xff",
}


def test_what_means_nothing_is_named_and_ignored(lan: Lan, etcd: Etcd, tmp_path: Path) -> None:
    one, _ = (Site(host, tmp_path, etcd) for host in lan.hosts[:2])
    one.hears_of(2)
    for key, value in JUNK.items():
        etcd.put(key, value)
    etcd.put(endpoint(1), b"not ours")  # in the place of what host 1 has announced
    wait_until(lambda: set(one.troubles()) == set(JUNK), "all are named, and its own is back")
    etcd.delete(endpoint(2))
    wait_until(lambda: endpoint(2) in etcd.there(), "what is deleted comes back")
    etcd.put("endpoints/42/02:00:00:00:42:96", {"vtep": "192.0.2.9", "of": "a later version"})
    wait_until(
        lambda: "02:00:00:00:42:96" in str(one.show("route")), "keys that are not known are passed over"
    )
    one.host.ping("10.42.0.2")
    for key in JUNK:
        etcd.delete(key)
    wait_until(lambda: one.troubles() == {}, "and forgotten")


def test_an_upgrade_does_not_leave_the_store(lan: Lan, etcd: Etcd, tmp_path: Path) -> None:
    one, two = (Site(host, tmp_path, etcd) for host in lan.hosts[:2])
    one.hears_of(2)
    before = etcd.revisions()
    done = json.loads(two.command("upgrade", "--json"))
    two.becomes("connected")
    two.hears_of(1)
    assert etcd.revisions() == before  # no key was written again
    two.host.ip("address", "add", "10.42.0.80/24", "dev", "vx42")
    wait_until(lambda: "10.42.0.80" in etcd.all()[endpoint(2)]["addresses"], "the new process announces")
    one.host.ping("10.42.0.80")
    run("kill", str(done["pid"]))
    one.hears_of()


def test_metrics_say_how_it_is_of_a_process_that_is_confined(lan: Lan, etcd: Etcd, tmp_path: Path) -> None:
    one = Site(lan.hosts[0], tmp_path, etcd, extra="[metrics]\n[process]")
    two = Site(lan.hosts[1], tmp_path, etcd)
    one.hears_of(2)

    def metrics() -> str:
        return one.host.run("curl", "-s", "http://127.0.0.1:9464/metrics").stdout

    wait_until(lambda: 'vxcore_plane_announced{plane="etcd"} 2.0' in metrics(), "what it announces")
    assert 'vxcore_plane_connected{plane="etcd"} 1.0' in metrics()
    assert 'vxcore_plane_heard{plane="etcd"} 2.0' in metrics()
    two.vtep.stop(signal.SIGINT)
    etcd.kill()
    wait_until(lambda: 'vxcore_plane_connected{plane="etcd"} 0.0' in metrics(), "it is not connected")
    assert 'vxcore_plane_done_total{plane="etcd",what="splits"} 1.0' in metrics()
