"""`vxcore lab` works, says what it did, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from support.hosts import run, wait_until

from vxcore.cli import main

pytestmark = pytest.mark.usefixtures("root")
LAB = [sys.executable, "-m", "vxcore", "lab", "--seconds", "1"]


def left_by(pid: int) -> list[str]:
    """Namespaces that a lab of this process has not removed."""
    names = run("ip", "netns", "list").stdout.split()
    return [name for name in names if name.startswith(f"vxlab{pid}-")]


def run_lab(*options: str) -> str:
    process = subprocess.Popen([*LAB, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, out + err
    assert left_by(process.pid) == []
    return out


def test_two_hosts_and_the_four_modes() -> None:
    out = run_lab()
    for shown in ("ip netns add", "vxcore up --vni 42", "VXLAN          flags 0x08", "VNI 42", "inner ICMP"):
        assert shown in out
    for mode in ("host", "bridge", "container", "none", "none + TAP"):
        assert f"mode {mode} " in out
    assert out.count("arrived unchanged") == 6
    assert "Everything worked" in out


@pytest.mark.parametrize("options", [["--peer", "kernel"], ["--ipv6"], ["--ipv6", "--peer", "kernel"]])
def test_other_peers_and_families(options: list[str]) -> None:
    out = run_lab(*options)
    assert ("type vxlan" in out) == ("kernel" in options)
    assert ("2001:db8::1" in out) == ("--ipv6" in options)


def test_three_hosts() -> None:
    out = run_lab("--hosts", "3", "--no-modes")
    assert "host 3 -> 10.42.0.2" in out
    assert "mode" not in out


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_lab_cleans_up(sent: signal.Signals) -> None:
    with subprocess.Popen(LAB, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert any("vxcore up" in line for line in process.stdout)
        wait_until(lambda: left_by(process.pid), "the lab has namespaces")
        process.send_signal(sent)
        process.stdout.read()
    assert process.returncode == 130
    assert left_by(process.pid) == []


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["lab"]) == 1
    assert capsys.readouterr().err == (
        "vxcore: error: vxcore lab makes network namespaces, which needs root: sudo vxcore lab\n"
    )
