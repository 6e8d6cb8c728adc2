"""Real Docker on three hosts with vxcore as its network driver: who reaches whom, and a host that is lost."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from support.docker import Docker, blue, docker_lan, nothing_left, peers_option
from support.hosts import Lan, wait_until

pytestmark = pytest.mark.usefixtures("root")
N_HOSTS = 3
RED = f"network create -d vxcore --subnet 10.8.0.0/16 -o vxcore.vni=43 {peers_option(N_HOSTS)} red"


@pytest.fixture(scope="module")
def lan() -> Lan:
    """It is made with Docker on its hosts."""
    return Lan(N_HOSTS)


@pytest.fixture(scope="module")
def hosts(lan: Lan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Docker]]:
    """On each a container in blue and one in red; at the end nothing of them is left."""
    with docker_lan(lan, tmp_path_factory.mktemp("docker")) as made, nothing_left(made):
        blue(made, "--restart always -p 8809:80")
        for n, docker in enumerate(made, 1):
            docker(RED)
            docker(
                f"run -d --name r{n} --network red --ip 10.8.0.{10 + n} --cap-add NET_ADMIN busybox sleep 600"
            )
            serve(docker, n)
        yield made


def serve(docker: Docker, n: int) -> None:
    """A web page of the host's own, in the container that publishes a port."""
    docker.sh(f"c{n}", f"echo host {n} > /www/index.html; httpd -h /www")


def others(made: list[Docker]) -> Iterator[tuple[int, Docker, int, Docker]]:
    """Each host with each other one, and their numbers."""
    for (n, one), (m, other) in itertools.permutations(enumerate(made, 1), 2):
        yield n, one, m, other


def test_containers_of_all_hosts_reach_each_other(hosts: list[Docker]) -> None:
    for n, one, m, _ in others(hosts):
        one.ping(f"c{n}", f"10.9.0.{10 + m}")
        one.ping(f"r{n}", f"10.8.0.{10 + m}")


def test_every_byte_arrives_from_each_host_at_the_next(hosts: list[Docker]) -> None:
    for n, one in enumerate(hosts, 1):
        m = n % N_HOSTS + 1
        one.push(f"c{n}", hosts[m - 1], f"c{m}", f"10.9.0.{10 + m}", 1_000_000)


def test_one_network_does_not_hear_another_on_any_host(hosts: list[Docker]) -> None:
    one = hosts[0]
    one.sh("r1", "ip address add 10.9.0.77/16 dev eth0")  # it pretends to be in blue
    assert not any(one.pings("r1", f"10.9.0.{10 + n}") for n in range(1, N_HOSTS + 1))
    one.sh("r1", "ip address delete 10.9.0.77/16 dev eth0")
    one.ping("r1", "10.8.0.13")


def finds(docker: Docker, container: str, name: str) -> bool:
    """Whether Docker's DNS has an answer; what it does not know it asks others, which takes long."""
    return "Name:" in docker.sh(container, f"timeout 1 nslookup {name} 127.0.0.11 || true")


def test_docker_finds_names_among_the_containers_of_one_host(hosts: list[Docker]) -> None:
    one, other, _ = hosts
    one("run -d --name shop --network blue busybox sleep infinity")
    one.ping("shop", "c1")
    assert finds(one, "c1", "shop")
    assert not finds(one, "r1", "shop")  # it is in another network
    assert not finds(other, "c2", "shop")


def test_what_one_host_publishes_all_others_reach(hosts: list[Docker]) -> None:
    for _, one, m, other in others(hosts):
        assert one.fetches(f"http://{other.host.v4}:8809/") == f"host {m}\n"


def test_a_host_is_lost_and_comes_back(lan: Lan, hosts: list[Docker]) -> None:
    """The others go on meanwhile; its containers return by themselves, to the same addresses."""
    one, other, lost = hosts
    lost.lose()
    lan.lose(lost.host)
    one.push("c1", other, "c2", "10.9.0.12", 1_000_000)
    assert not one.pings("c1", "10.9.0.13")
    lan.plug(lost.host)
    lost.start_vxcore(n_segments=2)
    lost.start_daemon()
    wait_until(lambda: lost.inspect("container", "c3")["State"]["Running"], "c3 is back", 60)
    for client, name in ((one, "c1"), (other, "c2")):
        client.ping(name, "10.9.0.13", count=3)
    lost.ping("c3", "10.9.0.11")
    serve(lost, 3)
    assert one.fetches(f"http://{lost.host.v4}:8809/") == "host 3\n"
    one.push("c1", lost, "c3", "10.9.0.13", 1_000_000)
    held = [list(network["endpoints"].values()) for network in lost.networks()]
    assert [len(endpoints) for endpoints in held] == [1, 0]  # of those that ran before none is left
    assert lost.devices() == {"vxd42", "vxd43"}
