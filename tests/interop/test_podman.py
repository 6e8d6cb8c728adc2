"""Real podman with the plugin as its network: a container and the kernel's vxlan device reach each other."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import peers
from support.hosts import Lan, VtepProcess
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
    """podman in a room, with the network blue of docs/cni, for a VTEP whose control socket is in `folder`."""

    def __init__(self, room: Room, folder: Path) -> None:
        self._room, self._folder = room, folder
        (folder / "bin").mkdir()
        (folder / "bin" / "vxcore-cni").write_text(PLUGIN)
        (folder / "bin" / "vxcore-cni").chmod(0o755)
        blue = json.loads((ROOT / "docs" / "cni" / "blue.conflist").read_text())
        blue["plugins"][0]["control"] = str(folder / "control.sock")
        blue["plugins"][0]["ipam"]["dataDir"] = str(folder / "ipam")
        (folder / "net.d").mkdir()
        (folder / "net.d" / "blue.conflist").write_text(json.dumps(blue))
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
    room = Room(lan.hosts[0])
    try:
        yield Podman(room, tmp_path)
    finally:
        room.close()


def test_podman_attaches_containers_by_the_plugin(lan: Lan, podman: Podman, tmp_path: Path) -> None:
    one, other = lan.hosts
    control = ("--control", str(tmp_path / "control.sock"))
    remotes = ("--local", one.v4, "--remote", other.v4, "--tap", "vx42")
    VtepProcess(one, "up", "--vni", "42", *remotes, *control)
    other.kernel_vxlan([one])
    other.ip("address", "add", "10.9.0.12/16", "dev", "vx42")
    assert "blue" in podman("network", "ls")
    podman("run", "-d", "--name", "c1", "--network", "blue", "localhost/busybox", "sleep", "600")
    assert "10.9.1.10/16" in podman("exec", "c1", "ip", "address", "show", "eth0")
    podman("exec", "c1", "ping", "-c", "3", "-W", "10", "10.9.0.12")
    other.ping("10.9.1.10")
    podman("rm", "-f", "-t", "0", "c1")
    assert "vxc" not in one.ip("link").stdout.replace("vxcore", "")
