"""Real Docker on two hosts, with vxcore as its network driver: what ends, is killed, and comes back."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
from support.docker import BLUE, Docker, blue
from support.hosts import wait_until

from vxcore.docker.protocol import GENERIC

pytestmark = pytest.mark.usefixtures("root", "no_docker_network_is_left")


class Stream:
    """A TCP connection from c1 to c2, on which c1 says a number ten times a second."""

    def __init__(self, one: Docker, other: Docker) -> None:
        self._other = other
        other("exec -d c2 sh -c 'sleep 300 | nc -l -p 5001 > /tmp/heard'")
        wait_until(lambda: ":5001" in other.sh("c2", "netstat -tln"), "nc listens")
        counting = "i=0; while sleep 0.1; do echo $i; i=$((i + 1)); done | nc 10.9.0.12 5001"
        one(f"exec -d c1 sh -c '{counting}'")
        self.goes_on()

    def goes_on(self) -> None:
        """More arrives, and nothing is missing."""
        before = len(self._heard())
        wait_until(lambda: len(self._heard()) > before + 3, "more numbers arrive", 60)
        heard = self._heard()
        assert heard == [str(n) for n in range(len(heard))]

    def _heard(self) -> list[str]:
        return self._other.sh("c2", "cat /tmp/heard").splitlines()


def restart(docker: Docker, signal_: signal.Signals) -> None:
    """End vxcore, and start it anew."""
    assert docker.vxcore is not None
    docker.vxcore.process.send_signal(signal_)
    docker.vxcore.process.communicate()
    docker.start_vxcore(n_segments=len(docker.networks()))


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGKILL])
def test_containers_keep_network_and_connections_when_vxcore_restarts(
    docker_hosts: list[Docker], signal_: signal.Signals
) -> None:
    one, other = docker_hosts
    blue(docker_hosts)
    stream = Stream(one, other)
    restart(one, signal_)
    stream.goes_on()
    restart(other, signal_)
    stream.goes_on()
    one("run -d --name c3 --network blue --ip 10.9.0.13 busybox sleep infinity")
    other.ping("c2", "10.9.0.13")


def test_containers_keep_network_and_connections_when_docker_restarts(docker_hosts: list[Docker]) -> None:
    one, other = docker_hosts
    blue(docker_hosts)
    stream = Stream(one, other)
    one.stop_daemon()
    one.start_daemon()
    stream.goes_on()
    one.ping("c1", "10.9.0.12")


def test_docker_starts_without_vxcore(docker_hosts: list[Docker]) -> None:
    one, _ = docker_hosts
    blue(docker_hosts)
    assert one.vxcore is not None
    one("rm -f c1")
    one.stop_daemon()
    one.vxcore.stop()
    one.start_daemon()
    assert "blue" in one("network ls")
    one.start_vxcore(n_segments=1)
    one("run -d --name c1 --network blue --ip 10.9.0.11 busybox sleep infinity")
    one.ping("c1", "10.9.0.12")


def test_containers_return_when_docker_is_back_before_vxcore(docker_hosts: list[Docker]) -> None:
    """All of a host was killed; Docker looks for vxcore for 15 seconds before it gives containers up."""
    one, other = docker_hosts
    blue(docker_hosts, "--restart always")
    one.lose()
    one.start_daemon(wait=False)
    one.start_vxcore(n_segments=1)
    one.wait_for_daemon()
    wait_until(lambda: one.inspect("container", "c1")["State"]["Running"], "c1 is back", 60)
    other.ping("c2", "10.9.0.11")
    assert len(one.networks()[0]["endpoints"]) == 1


def test_a_network_that_docker_has_forgotten_can_be_deleted(docker_hosts: list[Docker]) -> None:
    """As docs/containers.md has it: Docker ended while it made the network, or lost its files."""
    one, _ = docker_hosts
    lost = "a" * 64
    assert say(one, "CreateNetwork", {"NetworkID": lost, "Options": {GENERIC: {"vxcore.vni": "42"}}}) == {}
    assert f"42 is the VNI of network {lost[:12]}" in one.refuses(BLUE)
    assert say(one, "DeleteNetwork", {"NetworkID": lost}) == {}
    one(BLUE)


def say(docker: Docker, method: str, body: dict[str, Any]) -> Any:
    """What the driver answers to a request of a user's own."""
    where = ("--unix-socket", "/run/docker/plugins/vxcore.sock", f"http://vxcore/NetworkDriver.{method}")
    return json.loads(docker.command("curl", "-s", "-d", json.dumps(body), *where).stdout)


def test_a_killed_container_leaves_nothing(docker_hosts: list[Docker]) -> None:
    one, _ = docker_hosts
    blue(docker_hosts)
    pid = one.inspect("container", "c1")["State"]["Pid"]
    one.command("kill", "-9", str(pid))
    wait_until(lambda: not one.networks()[0]["endpoints"], "its endpoint is gone")
    assert one.devices() == {"vxd42"}
    one("start c1")
    one.ping("c1", "10.9.0.12")


def test_containers_come_to_a_network_and_leave_it(docker_hosts: list[Docker]) -> None:
    one, _ = docker_hosts
    blue(docker_hosts)
    one("network disconnect blue c1")
    assert one.devices() == {"vxd42"}
    one("network connect --ip 10.9.0.21 blue c1")
    one.ping("c1", "10.9.0.12")


def test_what_was_left_behind_is_deleted_at_the_start(docker_hosts: list[Docker]) -> None:
    one, _ = docker_hosts
    one(BLUE)
    state = one.folder / "networks.json"
    kept = state.read_text()
    assert one.vxcore is not None
    one.vxcore.stop()
    state.unlink()
    one.start_vxcore()
    assert one.devices() == set()
    one.vxcore.stop()
    state.write_text(kept)  # as Docker knows it
    one.start_vxcore(n_segments=1)
    assert one.devices() == {"vxd42"}
