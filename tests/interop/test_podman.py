"""Real podman with the plugin as its network, by the examples of docs/cni: segment, way out, ports."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import peers
from support.hosts import Lan, VtepProcess, wait_until
from support.rooms import Room, image, program
from support.tree import ROOT

pytestmark = pytest.mark.usefixtures("root", "nothing_is_left")
REFERENCE = Path("/usr/lib/cni")
PLUGIN = f"""#!{sys.executable}
import sys
from vxcore.cni.plugin import main
sys.exit(main())
"""
CONF = """\
[network]
network_backend = "cni"
cni_plugin_dirs = ["{0}/bin", "{1}"]
network_config_dir = "{0}/net.d"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
conmon_path = ["{2}"]
"""


class Podman:
    """podman in a room, with the networks of docs/cni, for a VTEP whose control socket is in `folder`."""

    def __init__(self, room: Room, folder: Path) -> None:
        self._room, self._folder = room, folder
        (folder / "bin").mkdir()
        (folder / "bin" / "vxcore-cni").write_text(PLUGIN)
        (folder / "bin" / "vxcore-cni").chmod(0o755)
        (folder / "net.d").mkdir()
        for example in (ROOT / "docs" / "cni").glob("*.conflist"):
            network = json.loads(example.read_text())
            network["plugins"][0]["control"] = str(folder / "control.sock")
            network["plugins"][0]["ipam"]["dataDir"] = str(folder / "ipam")
            (folder / "net.d" / example.name).write_text(json.dumps(network))
        (folder / "containers.conf").write_text(CONF.format(folder, REFERENCE, program("conmon")))
        policy = folder / ".config" / "containers" / "policy.json"
        policy.parent.mkdir(parents=True)
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        (folder / "image.tar").write_bytes(image())
        self("import", str(folder / "image.tar"), "busybox")

    def __call__(self, *words: str) -> str:
        """What a command prints. Fails if it does."""
        own = ("env", f"CONTAINERS_CONF={self._folder}/containers.conf", f"HOME={self._folder}")
        where = ("--root", str(self._folder / "root"), "--runroot", "/run/podman", "--storage-driver", "vfs")
        done = self._room.command(*own, program("podman"), *where, *words)
        assert done.returncode == 0, f"podman {' '.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(2) as made:
        yield made


@pytest.fixture
def podman(lan: Lan, tmp_path: Path) -> Iterator[Podman]:
    for name in ("podman", "conmon", "runc", "busybox"):
        program(name)
    if not (REFERENCE / "host-local").exists():
        peers.missing("the CNI plugin host-local is not there; `make test` installs it")
    one, other = lan.hosts
    control = ("--control", str(tmp_path / "control.sock"))
    remotes = ("--local", one.v4, "--remote", other.v4, "--tap", "vx42")
    VtepProcess(one, "up", "--vni", "42", *remotes, *control)
    room = Room(one)
    try:
        yield Podman(room, tmp_path)
    finally:
        room.close()


def test_podman_attaches_containers_by_the_plugin(lan: Lan, podman: Podman) -> None:
    one, other = lan.hosts
    other.kernel_vxlan([one])
    other.ip("address", "add", "10.9.0.12/16", "dev", "vx42")
    assert "blue" in podman("network", "ls")
    podman("run", "-d", "--name", "c1", "--network", "blue", "localhost/busybox", "sleep", "600")
    assert "10.9.1.10/16" in podman("exec", "c1", "ip", "address", "show", "eth0")
    podman("exec", "c1", "ping", "-c", "3", "-W", "10", "10.9.0.12")
    other.ping("10.9.1.10")
    podman("rm", "-f", "-t", "0", "c1")
    assert "vxc" not in one.ip("link").stdout.replace("vxcore", "")


def test_podman_publishes_ports_by_a_plugin_behind_it(lan: Lan, podman: Podman) -> None:
    """The other host has no part in the segment here: it reaches the container by the host's address."""
    one, other = lan.hosts
    where = ("--network", "published", "-p", "8080:80", "--name", "web")
    podman("run", "-d", *where, "localhost/busybox", "httpd", "-f", "-h", "/etc")
    podman("exec", "web", "sh", "-c", "echo published > /etc/page")
    url = f"http://{one.v4}:8080/page"
    wait_until(lambda: other.run("curl", "-s", url, check=False).stdout == "published\n", "the port answers")
    podman("exec", "web", "ping", "-c", "1", "-W", "10", other.v4)  # the way out
    podman("rm", "-f", "-t", "0", "web")
    assert "vxcni" not in one.run("nft", "list", "tables").stdout
    assert "8080" not in one.run("iptables-save").stdout
