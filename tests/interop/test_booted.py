"""The units of docs/systemd under a systemd that runs: started, crashed, stopped for too long, and asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.booted import Booted
from support.hosts import wait_until
from support.peers import require_tool
from support.tree import ROOT

UNITS = ROOT / "docs" / "systemd"
SEGMENT = '[[segment]]\nvni = {vni}\ntap = "vx{vni}"\nremotes = ["192.0.2.2"]\n'
FILE = 'underlay.local = "192.0.2.1"\nstate.file = "/var/lib/vxcore/vx/state"\nstate.interval = 1\n'
# Where this checkout and its Python are may be where a service sees nothing.
SEES = "[Service]\nProtectHome=tmpfs\nBindReadOnlyPaths={paths}\n"
VTEP, SOCKET = "vxcore@vx.service", "vxcore@vx.socket"


@pytest.fixture(scope="module")
def booted(root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    """With the units installed, and an underlay."""
    for tool in ("systemctl", "nsenter", "unshare"):
        require_tool(tool)
    paths = sorted({Path(sys.base_prefix), Path(sys.prefix), ROOT})
    with Booted(tmp_path_factory.mktemp("booted"), *paths) as machine:
        for name in ("vxcore@.service", "vxcore@.socket"):
            machine.write(f"/etc/systemd/system/{name}", (UNITS / name).read_text())
        sees = SEES.format(paths=" ".join(map(str, paths)))
        machine.write("/etc/systemd/system/vxcore@.service.d/sees.conf", sees)
        machine.write("/usr/local/bin/vxcore", f'#!/bin/sh\nexec {sys.executable} -m vxcore "$@"\n')
        machine.run("chmod", "755", "/usr/local/bin/vxcore")
        machine.write("/etc/vxcore/vx.toml", FILE + SEGMENT.format(vni=42))
        machine.run("chmod", "755", "/etc/vxcore")
        machine.run("ip", "link", "add", "eth", "type", "veth", "peer", "name", "wire")
        machine.run("ip", "address", "add", "192.0.2.1/24", "dev", "eth")
        machine.run("ip", "link", "set", "eth", "up")
        machine.run("systemctl", "daemon-reload")
        yield machine


def told(machine: Booted) -> str:
    return machine.run("journalctl", "-u", VTEP, "--no-pager", "-o", "cat").stdout


def start(machine: Booted, unit: str) -> None:
    done = machine.run("systemctl", "start", unit, check=False)
    assert done.returncode == 0, done.stderr + told(machine)


def pid_of(machine: Booted) -> int:
    return int(machine.shows(VTEP, "MainPID"))


def test_it_starts_reloads_restarts_after_a_crash_and_stops(booted: Booted) -> None:
    start(booted, VTEP)
    assert booted.shows(VTEP, "ActiveState") == "active"
    assert booted.shows(VTEP, "StatusText") == "1 segments, 1 lanes"
    assert "vx42" in booted.run("ip", "link").stdout
    first = pid_of(booted)
    status = dict(
        line.split(":\t", 1)
        for line in booted.run("cat", f"/proc/{first}/status").stdout.splitlines()
        if ":\t" in line
    )
    assert "0" not in status["Uid"].split()
    assert status["CapEff"] == "0000000000003000"  # CAP_NET_ADMIN, CAP_NET_RAW
    booted.write("/etc/vxcore/vx.toml", FILE + SEGMENT.format(vni=42) + SEGMENT.format(vni=43))
    booted.run("systemctl", "reload", VTEP)
    wait_until(lambda: "vx43" in booted.run("ip", "link").stdout, "the second device")
    booted.run("kill", "-SEGV", str(first))
    wait_until(lambda: pid_of(booted) not in (0, first), "another process")
    wait_until(lambda: booted.shows(VTEP, "ActiveState") == "active", "it is ready again")
    assert booted.shows(VTEP, "NRestarts") == "1"
    assert "vx43" in booted.run("ip", "link").stdout
    wait_until(lambda: "Fatal Python error: Segmentation fault" in told(booted), "the log says it")
    booted.run("systemctl", "stop", VTEP)
    assert booted.shows(VTEP, "ActiveState") == "inactive"
    assert "vx42" not in booted.run("ip", "link").stdout
    assert "stopped after" in told(booted)


def test_a_mistake_in_the_file_is_shown_and_not_tried_again(booted: Booted) -> None:
    booted.write("/etc/vxcore/vx.toml", FILE + SEGMENT.format(vni=-1))
    assert booted.run("systemctl", "start", VTEP, check=False).returncode != 0
    assert booted.shows(VTEP, "ActiveState") == "failed"
    assert booted.shows(VTEP, "ExecMainStatus") == "2"
    assert "vni" in told(booted)
    booted.write("/etc/vxcore/vx.toml", FILE + SEGMENT.format(vni=42))
    booted.run("systemctl", "reset-failed", VTEP)


def test_a_lane_that_stands_is_noticed_by_the_watchdog(booted: Booted) -> None:
    booted.write("/run/systemd/system/vxcore@vx.service.d/quick.conf", "[Service]\nWatchdogSec=5\n")
    booted.run("systemctl", "daemon-reload")
    start(booted, VTEP)
    first = pid_of(booted)
    booted.run("kill", "-STOP", str(first))
    wait_until(lambda: pid_of(booted) not in (0, first), "another process", 60)
    wait_until(lambda: booted.shows(VTEP, "ActiveState") == "active", "it is ready again", 60)
    booted.run("systemctl", "stop", VTEP)


def test_the_socket_unit_starts_it_with_the_first_command_and_outlives_it(booted: Booted) -> None:
    start(booted, SOCKET)
    show = ("/usr/local/bin/vxcore", "show", "--json", "--control", "/run/vxcore/vx.sock")
    assert json.loads(booted.run(*show).stdout)["pid"] == pid_of(booted)
    first = pid_of(booted)
    booted.run("systemctl", "restart", VTEP)
    assert json.loads(booted.run(*show).stdout)["pid"] == pid_of(booted) != first
    booted.run("systemctl", "stop", SOCKET, VTEP)
    assert booted.run("test", "-e", "/run/vxcore/vx.sock", check=False).returncode != 0
