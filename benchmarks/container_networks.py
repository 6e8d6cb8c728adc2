"""Networks of containers over two hosts with Docker: vxcore's, Docker's own overlay, and a bridge with vxlan.

Place in the house: above topology, below bench_containers.py. Each has UDP port and subnet of its own, so
that all can be there at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from shutil import which

from support.docker import PROGRAMS, Docker, dockers
from support.hosts import Host, wait_until
from support.peers import require_root
from support.rooms import PATH

from benchmarks.datapath.topology import Stage, add_underlay_address
from benchmarks.peers import INSTALL, AbsentError

_MTU = 1450
_READY_S = 60


class Network(ABC):
    """A network over both hosts, and a container of it on each."""

    name: str
    subnet: int
    """10.SUBNET.0.0/16."""

    def __init__(self, dockers: list[Docker]) -> None:
        self.dockers = dockers

    @abstractmethod
    def up(self) -> None:
        """From hosts on which Docker runs to a network that both have."""

    @abstractmethod
    def _down(self) -> None:
        """Delete the network, and what it needs."""

    def run(self) -> None:
        """A container on each host, until one reaches the other."""
        for docker in self.dockers:
            where = f"--network {self.name} --ip {self.address(docker)}"
            docker(f"run -d --name {self._container(docker)} {where} busybox sleep infinity")
        one, other = self.dockers
        wait_until(
            lambda: one.pings(self._container(one), self.address(other)),
            f"{self.name} carries frames",
            _READY_S,
        )

    def down(self) -> None:
        """Delete containers and network, as a user does."""
        for docker in self.dockers:
            docker(f"rm -f {self._container(docker)}")
        self._down()

    def inside(self) -> list[Host]:
        """The network namespaces of the containers, by names."""
        return [docker.namespace_of(self._container(docker)) for docker in self.dockers]

    def _container(self, docker: Docker) -> str:
        return f"{self.name}{docker.host.number}"

    def address(self, docker: Docker) -> str:
        """Of the container on a host."""
        return f"10.{self.subnet}.0.{10 + docker.host.number}"

    @property
    def _range(self) -> str:
        return f"--subnet 10.{self.subnet}.0.0/16"


class Vxcore(Network):
    """By vxcore's network driver."""

    name, subnet = "vxcore", 9

    def up(self) -> None:
        hosts = ",".join(docker.host.v4 for docker in self.dockers)
        for docker in self.dockers:
            docker.start_vxcore("--dstport", "4791")
            docker(f"network create -d vxcore {self._range} -o vxcore.peers={hosts} {self.name}")

    def _down(self) -> None:
        for docker in self.dockers:
            docker(f"network rm {self.name}")
            assert docker.vxcore is not None
            docker.vxcore.stop()


class Overlay(Network):
    """By a swarm of both hosts; Docker 20.10 has no other way to its own overlay."""

    name, subnet = "overlay", 10

    def up(self) -> None:
        manager, worker = self.dockers
        first = manager.host.v4
        manager(f"swarm init --advertise-addr {first} --listen-addr {first}:2377")
        token = manager("swarm join-token -q worker")
        worker(f"swarm join --token {token} --advertise-addr {worker.host.v4} {first}:2377")
        manager(f"network create -d overlay --attachable {self._range} {self.name}")

    def run(self) -> None:
        """As others; its swarm does not always carry frames, and then it is absent."""
        try:
            super().run()
        except AssertionError as error:
            self.down()
            raise AbsentError(f"Docker's overlay: {error}") from None

    def _down(self) -> None:
        manager, worker = self.dockers
        manager(f"network rm {self.name}")
        for docker in (worker, manager):
            docker("swarm leave --force")


class Kernel(Network):
    """By hand: Docker's bridge on each host, and the kernel's vxlan device in it."""

    name, subnet = "kernel", 11
    _vxlan = ("type", "vxlan", "id", "11", "dstport", "4790")

    def up(self) -> None:
        for docker, other in (self.dockers, self.dockers[::-1]):
            bridge = f"-o com.docker.network.bridge.name=plain -o com.docker.network.driver.mtu={_MTU}"
            gateway = f"--gateway 10.{self.subnet}.0.{docker.host.number}"
            docker(f"network create {self._range} {gateway} {bridge} {self.name}")
            ends = ("local", docker.host.v4, "remote", other.host.v4)
            docker.host.ip("link", "add", "vxplain", "mtu", str(_MTU), *self._vxlan, *ends)
            docker.host.ip("link", "set", "vxplain", "master", "plain", "up")

    def _down(self) -> None:
        for docker in self.dockers:
            docker.host.ip("link", "delete", "vxplain")
            docker(f"network rm {self.name}")


NETWORKS: tuple[type[Network], ...] = (Vxcore, Overlay, Kernel)


# Where they are


@contextmanager
def two_hosts(mode: str) -> Iterator[tuple[Stage, list[Docker]]]:
    """Hosts with Docker, joined in one of the MODES. Raises AbsentError without Docker."""
    require_root()
    for name in PROGRAMS:
        if which(name, path=PATH) is None:
            raise AbsentError(f"{name} is not there; {INSTALL}")
    with Stage() as stage:
        hosts = [stage.host(1), stage.host(2)]
        stage.link(hosts[0], "eth", hosts[1], "eth", mode)
        for host in hosts:
            add_underlay_address(host)
        with dockers(hosts, stage.directory, "--live-restore=false") as made:  # for swarms
            yield stage, made


# What is there


def things(docker: Docker) -> dict[str, set[str]]:
    """What networks make on a host, by kind; of files those of Docker's networks and of vxcore's."""
    rules = docker.command("iptables-save").stdout + docker.command("ip6tables-save").stdout
    folders = [str(docker.folder / "docker" / name) for name in ("network", "swarm")]
    kept = docker.command("find", *folders, "/run/docker/plugins", "-type", "f").stdout.splitlines()
    return {
        "devices": {line.split()[0] for line in docker.command("ip", "-br", "link").stdout.splitlines()},
        "rules": {line for line in rules.splitlines() if line.startswith("-A")},
        "namespaces": set(docker.command("ls", "/run/docker/netns").stdout.split()),
        "files": {*kept, *map(str, docker.folder.glob("*.json"))},
    }
