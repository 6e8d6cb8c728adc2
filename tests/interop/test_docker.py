"""Real Docker on two hosts, with vxcore as its network driver: what its users do, and what is refused."""

from __future__ import annotations

import pytest
from support.docker import BLUE, PEERS, Docker, blue

pytestmark = pytest.mark.usefixtures("root", "no_docker_network_is_left")


def test_containers_of_two_hosts_reach_each_other(docker_hosts: list[Docker]) -> None:
    one, other = docker_hosts
    blue(docker_hosts)
    one.ping("c1", "10.9.0.12", count=3)
    one.push("c1", other, "c2", "10.9.0.12", 5_000_000)


def test_containers_of_one_host_reach_each_other_and_know_their_names(docker_hosts: list[Docker]) -> None:
    one, _ = docker_hosts
    one(BLUE)
    one("run -d --name web --network blue --network-alias shop busybox httpd -f -h /www")
    one("run -d --name c1 --network blue busybox sleep infinity")
    one.sh("web", "echo it is web > /www/index.html")
    assert one.sh("c1", "wget -qO- http://web/ && wget -qO- http://shop/") == "it is web\nit is web"


def test_networks_do_not_hear_each_other(docker_hosts: list[Docker]) -> None:
    one, other = docker_hosts
    blue(docker_hosts)
    for docker in docker_hosts:
        n = docker.host.number
        docker(f"network create -d vxcore --subnet 10.8.0.0/16 -o vxcore.vni=43 {PEERS} red")
        docker(f"run -d --name r{n} --network red --ip 10.8.0.{10 + n} --cap-add NET_ADMIN busybox sleep 600")
    one.ping("r1", "10.8.0.12")
    one.sh("r1", "ip address add 10.9.0.77/16 dev eth0")  # it pretends to be in blue
    assert not one.pings("r1", "10.9.0.12")
    assert not one.pings("r1", "10.9.0.11")
    other.ping("c2", "10.9.0.11")


def test_a_container_in_two_networks(docker_hosts: list[Docker]) -> None:
    one, other = docker_hosts
    blue(docker_hosts)
    for docker in docker_hosts:
        docker(f"network create -d vxcore --subnet 10.8.0.0/16 -o vxcore.vni=43 {PEERS} red")
    one("network connect --ip 10.8.0.11 red c1")
    other("run -d --name r2 --network red --ip 10.8.0.12 busybox sleep infinity")
    one.ping("c1", "10.8.0.12")
    one.ping("c1", "10.9.0.12")
    shown = one.inspect("container", "c1")["NetworkSettings"]["Networks"]
    assert {name: each["IPAddress"] for name, each in shown.items()} == {
        "blue": "10.9.0.11",
        "red": "10.8.0.11",
    }
    one("network disconnect red c1")
    assert not one.pings("c1", "10.8.0.12")
    one.ping("c1", "10.9.0.12")


def test_the_way_out_and_published_ports(docker_hosts: list[Docker]) -> None:
    one, other = docker_hosts
    blue(docker_hosts, "-p 8809:80")
    one.ping("c1", other.host.v4)  # another host, by NAT
    one("exec -d c1 httpd -f -h /www")
    one.sh("c1", "echo published > /www/index.html")
    for client, server in ((other, one.host.v4), (one, "127.0.0.1")):
        assert client.fetches(f"http://{server}:8809/") == "published\n"


def test_an_internal_network_has_no_way_out(docker_hosts: list[Docker]) -> None:
    for docker in docker_hosts:
        n = docker.host.number
        docker(BLUE.replace("blue", "--internal blue"))
        docker(f"run -d --name c{n} --network blue --ip 10.9.0.{10 + n} busybox sleep infinity")
    one, other = docker_hosts
    one.ping("c1", "10.9.0.12")
    assert "default" not in one.sh("c1", "ip route")
    assert not one.pings("c1", other.host.v4)


def test_addresses_of_both_families_and_what_the_user_chooses(docker_hosts: list[Docker]) -> None:
    for docker in docker_hosts:
        n = docker.host.number
        docker(BLUE.replace("blue", "--ipv6 --subnet fd09::/64 -o vxcore.mtu=1400 blue"))
        chosen = f"--ip 10.9.0.{10 + n} --ip6 fd09::{10 + n} --mac-address 02:00:00:00:00:{n:02x}"
        docker(f"run -d --name c{n} --network blue {chosen} busybox sleep infinity")
    one, _ = docker_hosts
    one.ping("c1", "fd09::12")
    one.ping("c1", "10.9.0.12")
    device = one.sh("c1", "ip link show eth0")
    assert "02:00:00:00:00:01" in device
    assert "mtu 1400" in device
    (told,) = one.inspect("network", "blue")["Containers"].values()
    assert (told["MacAddress"], told["IPv4Address"], told["IPv6Address"]) == (
        "02:00:00:00:00:01",
        "10.9.0.11/16",
        "fd09::11/64",
    )


def test_what_docker_shows_of_a_network(docker_hosts: list[Docker]) -> None:
    one, _ = docker_hosts
    one(BLUE)
    shown = one.inspect("network", "blue")
    assert (shown["Driver"], shown["Scope"], shown["Internal"]) == ("vxcore", "local", False)
    assert shown["Options"] == {"vxcore.vni": "42", "vxcore.peers": "192.0.2.1,192.0.2.2"}
    assert shown["IPAM"]["Config"] == [{"Subnet": "10.9.0.0/16"}]
    (network,) = one.networks()
    assert (network["vni"], network["peers"]) == (42, ["192.0.2.2"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("-o vxcore.vni=42", "vxcore.vni: 42 is the VNI of network"),
        ("-o encrypted", "encrypted: vxcore does not encrypt"),
        ("-o vxcore.vnii=43", "vxcore.vnii: unknown key; did you mean vni?"),
        ("-o parent=eth0", "parent: there is no such option; known are vxcore.vni"),
        ("-o vxcore.vni=44", "vxd44: there is a device of that name"),
        ("-o vxcore.vni=45 -o vxcore.peers=2001:db8::2", "is IPv6 and no local address is"),
        ("--subnet 10.9.1.0/24", "Pool overlaps with other one"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(
    docker_hosts: list[Docker], options: str, said: str
) -> None:
    one, _ = docker_hosts
    one(BLUE)
    one.host.ip("link", "add", "vxd44", "type", "bridge")
    before = (one.devices(), one.networks(), one("network ls -q"))
    try:
        subnet = "" if "--subnet" in options else "--subnet 10.7.0.0/16"
        assert said in one.refuses(f"network create -d vxcore {subnet} {options} red")
        assert (one.devices(), one.networks(), one("network ls -q")) == before
    finally:
        one.host.ip("link", "delete", "vxd44")


def test_a_vni_is_chosen_when_none_is_given(docker_hosts: list[Docker]) -> None:
    one, _ = docker_hosts
    for name, subnet in (("red", "10.7.0.0/16"), ("green", "10.6.0.0/16")):
        one(f"network create -d vxcore --subnet {subnet} {name}")
    assert [network["vni"] for network in one.networks()] == [4096, 4097]
