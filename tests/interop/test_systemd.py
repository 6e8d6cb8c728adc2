"""The unit of docs/systemd: systemd takes it, and a VTEP does all its work within what it allows."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.hosts import Lan, VtepProcess, wait_until
from support.peers import require_tool
from support.tree import ROOT

UNIT = ROOT / "docs" / "systemd" / "vxcore@.service"
DROP_INS = sorted(UNIT.with_name("vxcore@.service.d").glob("*.conf.example"))
SANDBOX = (sys.executable, str(ROOT / "tests" / "support" / "sandbox.py"), str(UNIT))
FILE = """\
[underlay]
local = "192.0.2.1"
kind = "{kind}"
dev = "eth"

[metrics]

[control]
socket = "none"

[lanes]
count = 2
cpus = [0]

[[segment]]
vni = 42
tap = "vx42"
remotes = ["192.0.2.2"]
"""
SECOND = """
[[segment]]
vni = 43
tap = "vx43"
remotes = ["192.0.2.2"]
"""


def verify(tmp_path: Path, text: str) -> subprocess.CompletedProcess[str]:
    unit = tmp_path / "vxcore@.service"
    unit.write_text(text.replace("/usr/local/bin/vxcore", "/bin/true"))
    words = [require_tool("systemd-analyze"), "verify", str(unit)]
    return subprocess.run(words, check=False, capture_output=True, text=True)


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    run = verify(tmp_path, UNIT.read_text())
    assert (run.returncode, run.stdout + run.stderr) == (0, "")


def test_systemd_takes_the_socket_unit(tmp_path: Path) -> None:
    verify(tmp_path, UNIT.read_text())
    socket = tmp_path / "vxcore@.socket"
    socket.write_text(UNIT.with_suffix(".socket").read_text())
    words = [require_tool("systemd-analyze"), "verify", str(socket)]
    run = subprocess.run(words, check=False, capture_output=True, text=True)
    assert (run.returncode, run.stdout + run.stderr) == (0, "")


@pytest.mark.parametrize("drop_in", DROP_INS, ids=lambda path: path.name)
def test_systemd_takes_the_unit_with_each_drop_in(drop_in: Path, tmp_path: Path) -> None:
    run = verify(tmp_path, UNIT.read_text().partition("[Install]")[0] + drop_in.read_text())
    assert (run.returncode, run.stdout + run.stderr) == (0, "")


def test_systemd_finds_it_well_shut_in(tmp_path: Path) -> None:
    unit = tmp_path / "vxcore@.service"
    unit.write_text(UNIT.read_text())
    words = [require_tool("systemd-analyze"), "security", "--offline=yes", "--threshold=25", str(unit)]
    run = subprocess.run(words, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture
def lan(root: None) -> Iterator[Lan]:
    for tool in ("setpriv", "systemd-analyze"):
        require_tool(tool)
    with Lan(2) as lan:
        yield lan


TRIED = """
import ctypes, os, socket, sys
def tried(what):
    try:
        what()
    except OSError as error:
        return type(error).__name__ + " " + str(error.errno)
    return "done"
def call(name, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)
print(tried(lambda: call("unshare", 0x40000000)))
print(tried(lambda: call("mount", b"none", b"/mnt", b"tmpfs", 0, None)))
print(tried(lambda: socket.socket(44, socket.SOCK_RAW)))
print(tried(lambda: open("/etc/vxcore-was-here", "w")))
print(tried(lambda: open("/proc/sys/net/ipv4/ip_forward", "w")))
print(tried(lambda: os.open("/dev/net/tun", os.O_RDWR)))
print(os.getresuid())
print([line.split()[1] for line in open("/proc/self/status") if line.startswith(("CapEff", "CapBnd"))])
"""


def test_the_sandbox_of_this_test_holds(lan: Lan) -> None:
    said = lan.hosts[0].run(*SANDBOX, sys.executable, "-c", TRIED).stdout.splitlines()
    assert said[:2] == ["PermissionError 1"] * 2
    assert said[2] == "OSError 97"
    assert said[3].endswith((" 30", " 13"))  # read-only, or not ours
    assert said[4].endswith((" 30", " 13"))
    assert said[5] == "done"
    assert said[6] == "(65534, 65534, 65534)"
    assert said[7] == "['0000000000003000', '0000000000003000']"  # CAP_NET_ADMIN, CAP_NET_RAW


@pytest.mark.parametrize("kind", ["udp", "packet"])
def test_a_vtep_does_its_work_within_the_unit(lan: Lan, public_file: Path, kind: str) -> None:
    one, two = lan.hosts
    public_file.write_text(FILE.format(kind=kind))
    two.kernel_vxlan([one])
    vtep = VtepProcess(one, "run", str(public_file), before=SANDBOX)
    one.overlay("vx42")
    one.ping("10.42.0.2")
    one.transfer(two, "10.42.0.2", "tcp", 5_000_000)
    reload(vtep, public_file, FILE.format(kind=kind) + SECOND)
    assert one.mtu("vx43") == 1450
    reload(vtep, public_file, FILE.format(kind=kind))
    wait_until(lambda: "vx43" not in one.ip("link").stdout, "the device is gone")
    script = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9464/metrics').read().decode())"
    assert "process_resident_memory_bytes" in one.run(sys.executable, "-c", script).stdout
    one.ping("10.42.0.2")
    assert vtep.counters()["offloads"]["udp_gso"] == "on"
    log = vtep.stop()
    assert "error" not in log
    assert "warning" not in log


def reload(vtep: VtepProcess, file: Path, text: str) -> None:
    file.write_text(text)
    vtep.process.send_signal(signal.SIGHUP)
    assert vtep.process.stdout is not None
    assert vtep.process.stdout.readline() == "reloaded\n"
