"""What becomes of hosts and of their traffic when etcd, a host, or the way between them is lost."""

from __future__ import annotations

import json
import select
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.etcd import EXPIRED_S, SHORT_S, Etcd, Site, end_vteps, endpoint, hosts_with_etcd, keys_of
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


def test_a_host_that_is_killed_is_gone_after_its_lease_and_comes_back(
    lan: Lan, etcd: Etcd, tmp_path: Path
) -> None:
    one, two = (Site(host, tmp_path, etcd, lease=SHORT_S) for host in lan.hosts[:2])
    one.hears_of(2)
    two.kill()
    wait_until(lambda: etcd.there() == keys_of(1), "its keys are gone", EXPIRED_S)
    one.hears_of()
    two.start()
    one.hears_of(2)
    two.host.ping("10.42.0.1")


def test_a_process_that_comes_back_within_the_lease_goes_on_with_its_keys(
    lan: Lan, etcd: Etcd, tmp_path: Path
) -> None:
    one, two = (Site(host, tmp_path, etcd) for host in lan.hosts[:2])
    one.hears_of(2)
    two.host.ip("link", "set", "vx42", "address", two.mac)
    before = etcd.leases()
    two.kill()
    two.start()
    two.hears_of(1)
    assert etcd.leases()["vteps/192.0.2.2"] == before["vteps/192.0.2.2"]
    one.hears_of(2)
    assert two.troubles() == {}


def test_etcd_is_lost_and_traffic_goes_on(lan: Lan, etcd: Etcd, tmp_path: Path) -> None:
    one, two = (Site(host, tmp_path, etcd) for host in lan.hosts[:2])
    one.hears_of(2)
    two.hears_of(1)
    monitor = one.host.start(sys.executable, "-m", "vxcore", "monitor", "--json", "--control", one.control)
    assert monitor.stdout is not None
    wait_until(lambda: is_told_to(monitor.stdout, one), "the monitor tells what happens")
    etcd.kill()
    one.becomes("stale")
    two.becomes("stale")
    assert one.plane["reason"]
    one.host.ping("10.42.0.2")
    two.host.ip("address", "add", "10.42.0.78/24", "dev", "vx42")  # meanwhile
    etcd.start()
    one.becomes("connected")
    wait_until(lambda: "10.42.0.78" in etcd.all()[endpoint(2)]["addresses"], "what has changed meanwhile")
    wait_until(lambda: "10.42.0.78" in str(one.show("route")), "is heard")
    events = (json.loads(line)["event"] for line in monitor.stdout)
    kinds = (event["kind"] for event in events if event["plane"] == "etcd")
    assert (next(kinds), next(kinds)) == ("plane_stale", "plane_connected")
    assert one.plane["counts"]["splits"] >= 1
    assert one.plane["counts"]["whole_reads"] == 1  # it went on where it was
    logged = one.vtep.stop()
    assert "traffic goes on by what was known" in logged


def is_told_to(reader: Any, site: Site) -> bool:
    """Let something happen, and see whether it is told."""
    site.command("remote", "add", "192.0.2.99")
    site.command("remote", "del", "192.0.2.99")
    return bool(select.select([reader], [], [], 0.1)[0])


def test_a_store_that_was_compacted_is_read_again(lan: Lan, etcd: Etcd, tmp_path: Path) -> None:
    one, two = (Site(host, tmp_path, etcd, lease=SHORT_S) for host in lan.hosts[:2])
    one.hears_of(2)
    with Apart(lan, one.host):
        one.becomes("stale")
        two.host.ip("address", "add", "10.42.0.79/24", "dev", "vx42")
        wait_until(lambda: "10.42.0.79" in etcd.all()[endpoint(2)]["addresses"], "the new address")
        etcd.put("x", {})
        etcd.compact()
    one.becomes("connected")
    wait_until(lambda: "10.42.0.79" in str(one.show("route")), "host 1 hears what it has missed")
    assert one.plane["counts"]["whole_reads"] == 2


def test_a_host_that_is_apart_is_gone_for_others_after_its_lease_and_is_back(
    lan: Lan, etcd: Etcd, tmp_path: Path
) -> None:
    one, two = (Site(host, tmp_path, etcd, lease=SHORT_S) for host in lan.hosts[:2])
    two.hears_of(1)
    with Apart(lan, one.host):
        wait_until(lambda: etcd.there() == keys_of(2), "its keys are gone", EXPIRED_S)
        two.hears_of()
        one.becomes("stale")
        assert one.heard() == {two.mac}  # it goes on by what it knew
    one.becomes("connected")
    two.hears_of(1)
    one.host.ping("10.42.0.2")


class Apart:
    """A host's cable is out."""

    def __init__(self, lan: Lan, host: Host) -> None:
        self._lan, self._port = lan, f"p{host.number}"

    def __enter__(self) -> None:
        run("ip", "-n", self._lan.switch, "link", "set", self._port, "down")

    def __exit__(self, *_: object) -> None:
        run("ip", "-n", self._lan.switch, "link", "set", self._port, "up")


def test_a_store_that_comes_later_is_waited_for(lan: Lan, etcd: Etcd, tmp_path: Path) -> None:
    etcd.kill()
    one = Site(lan.hosts[0], tmp_path, etcd, "http://192.0.2.200:2379", etcd.url)
    assert one.plane["state"] == "connecting"
    etcd.start()
    one.becomes("connected")
    assert one.plane["peer"] == etcd.url
    wait_until(lambda: etcd.there() == keys_of(1), "it is announced")


def test_a_member_of_a_cluster_is_lost_and_the_hosts_go_to_another(tmp_path: Path) -> None:
    with Lan(4) as lan, ExitStack() as stack:
        names = {f"m{host.number}": host for host in lan.hosts[1:]}
        cluster = ",".join(f"{name}=http://{host.v4}:2380" for name, host in names.items())
        made = [Etcd(host, tmp_path / name, name=name, cluster=cluster) for name, host in names.items()]
        for member in made:
            stack.callback(member.kill)
            member.start(wait=False)
        for member in made:
            member.answers()
        urls = [member.url for member in made]
        one = Site(lan.hosts[0], tmp_path, made[0], *urls, lease=SHORT_S)
        two = Site(lan.hosts[1], tmp_path, made[2], *reversed(urls), lease=SHORT_S)
        one.hears_of(2)
        assert one.plane["peer"] == urls[0]
        made[0].kill()
        wait_until(lambda: one.plane["peer"] in urls[1:], "it goes to another one")
        one.becomes("connected")
        two.host.ip("address", "add", "10.42.0.81/24", "dev", "vx42")
        wait_until(lambda: "10.42.0.81" in str(one.show("route")), "what is told to another is heard")
        made[1].kill()  # and there is no majority
        one.becomes("stale")
        one.host.ping("10.42.0.81")
        made[0].start(wait=False)
        one.becomes("connected")
        one.hears_of(2)
