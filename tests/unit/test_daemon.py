"""The life of a VTEP process, with a VTEP that carries nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.hosts import wait_until
from support.tree import ROOT

from vxcore.notify import ServiceManager

Process = subprocess.Popen[str]
PROGRAM = """
import msgspec, signal, sys, time
from pathlib import Path
from vxcore import config, daemon, logs

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which may have been ignored, under nohup, say

class Fake:
    failure = None
    def __init__(self, settings):
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        assert {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1} <= blocked
    def __enter__(self):
        if "fails" in sys.argv:
            self.failure = OSError(19, "overlay port of VNI 42: gone")
        return self
    def __exit__(self, *why):
        Path(sys.argv[1]).write_text("closed")
    def describe(self):
        return [{"vni": 42, "port": "tap", "dev": "vx42", "mtu": 1450, "remotes": ["192.0.2.2", "192.0.2.3"]}]
    def turns(self):
        self.asked_turns = getattr(self, "asked_turns", 0) + ("stands" not in sys.argv)
        return [self.asked_turns, 7 * self.asked_turns]
    def lane_drops(self):
        return {}
    def offloads(self):
        self.asked = getattr(self, "asked", 0) + 1
        return {"udp_gso": "on" if self.asked == 1 else "refused"}
    def counters(self):
        names = {"vni": 42, "port": "tap", "dev": "vx42"}
        one = {**names, "rx_packets": 1, "rx_bytes": 60, "tx_packets": 2, "tx_bytes": 120}
        return {"segments": [one], "drops": {"unknown_vni": 3}, "fdb": {}, "lanes": []}

    def apply(self, settings):
        if settings.segments == ("wrong",):
            raise ValueError("VNI 42: wrong")

def reload():
    words = Path(sys.argv[1] + ".toml").read_text()
    if words == "unreadable":
        raise OSError(5, "no such disk")
    return msgspec.structs.replace(settings, segments=(words,), log=config.Log(format="json"))

logs.to_stderr()
settings = config.from_mapping({"underlay": {"local": "192.0.2.1"}, "control": {"socket": "none"}})
sys.exit(daemon.serve(settings, Fake, reload if "reloads" in sys.argv else None))
"""


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    return tmp_path / "closed"


def start(closed: Path, *words: str, environment: dict[str, str] | None = None, **ways: Any) -> Process:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(closed), *words],
        cwd=ROOT,
        env=environment,
        text=True,
        **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | ways),
    )


@pytest.mark.parametrize("way", ["stdout", "stderr"])
def test_a_full_disk_behind_what_it_says_ends_nothing(closed: Path, way: str) -> None:
    with Path("/dev/full").open("w") as full, start(closed, **{way: full}) as process:
        if way == "stdout":
            assert process.stderr is not None
            assert any(
                "stdout cannot be written: No space left on device: ready" in x for x in process.stderr
            )
        else:
            assert process.stdout is not None
            process.stdout.readline()
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_it_says_ready_counts_when_asked_and_ends_when_told(closed: Path, sent: signal.Signals) -> None:
    with start(closed) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready == "ready vni 42 tap vx42 mtu 1450 remotes 192.0.2.2,192.0.2.3\n"
        process.send_signal(signal.SIGUSR1)
        assert json.loads(process.stdout.readline())["drops"] == {"unknown_vni": 3}
        process.send_signal(sent)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "received 1 packets (60 bytes), sent 2 packets (120 bytes); dropped: unknown_vni 3" in err
    assert err.count("offload udp_gso: refused\n") == 1  # a change is told, and told once
    assert closed.read_text() == "closed"


def test_a_failed_lane_ends_it_with_code_1(closed: Path) -> None:
    with start(closed, "fails") as process:
        _, err = process.communicate(timeout=10)
    assert process.returncode == 1
    assert "overlay port of VNI 42: gone" in err
    assert closed.exists()


def test_it_outlives_its_reader(closed: Path) -> None:
    with start(closed) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        process.send_signal(signal.SIGUSR1)
        assert process.stderr is not None
        assert any("nobody reads stdout" in line for line in process.stderr)
        os.kill(process.pid, signal.SIGTERM)
        wait_until(lambda: process.poll() is not None, "it has ended")
    assert process.returncode == 0


def test_it_reads_its_settings_again_and_a_mistake_in_them_changes_nothing(closed: Path) -> None:
    with start(closed, "reloads") as process:
        assert process.stdout is not None
        process.stdout.readline()
        file = closed.with_name("closed.toml")
        for words, answer in (
            ("right", "reloaded"),
            ("wrong", "not reloaded"),
            ("unreadable", "not reloaded"),
        ):
            file.write_text(words)
            process.send_signal(signal.SIGHUP)
            assert process.stdout.readline() == f"{answer}\n"
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 0
    told = [json.loads(line)["message"] for line in err.splitlines() if line.startswith("{")]
    assert "reloaded: 1 segments" in told  # the format of the log as the file has it now
    assert "not reloaded, nothing has changed: VNI 42: wrong" in told
    assert "not reloaded, nothing has changed: no such disk" in told


def test_without_a_file_sighup_ends_it_as_it_ends_any_process(closed: Path) -> None:
    with start(closed) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=10)
    assert process.returncode == -signal.SIGHUP


# A service manager


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(10)
        yield sock


def managed(closed: Path, manager: socket.socket, *words: str, **more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "NOTIFY_SOCKET": str(manager.getsockname()), **more}
    return start(closed, *words, environment=environment)


def told(manager: socket.socket) -> dict[str, str]:
    """The next message, the watchdog's left out."""
    while True:
        message = manager.recv(4096).decode()
        if message != "WATCHDOG=1":
            return dict(line.split("=", 1) for line in message.splitlines())


def test_a_service_manager_is_told_of_the_whole_life(closed: Path, manager: socket.socket) -> None:
    file = closed.with_name("closed.toml")
    with managed(closed, manager, "reloads") as process:
        assert told(manager) == {"READY": "1", "STATUS": "1 segments, 2 lanes"}
        file.write_text("wrong")
        before = time.monotonic_ns() // 1000
        process.send_signal(signal.SIGHUP)
        reloading = told(manager)
        assert reloading.pop("RELOADING") == "1"
        assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        status = "1 segments, 2 lanes; not reloaded: VNI 42: wrong"
        assert told(manager) == {"READY": "1", "STATUS": status}
        file.write_text("right")
        process.send_signal(signal.SIGHUP)
        assert told(manager)["RELOADING"] == "1"
        assert told(manager) == {"READY": "1", "STATUS": "1 segments, 2 lanes"}
        process.send_signal(signal.SIGTERM)
        assert told(manager) == {"STOPPING": "1", "STATUS": "stopping"}
        process.communicate(timeout=10)
    assert process.returncode == 0


def test_it_says_why_it_ends(closed: Path, manager: socket.socket) -> None:
    with managed(closed, manager, "fails") as process:
        assert told(manager)["READY"] == "1"
        assert told(manager) == {"STOPPING": "1", "STATUS": "overlay port of VNI 42: gone"}
        process.communicate(timeout=10)
    assert process.returncode == 1


def test_the_watchdog_is_fed_while_lanes_turn_and_waits_longer_for_a_reload(
    closed: Path, manager: socket.socket
) -> None:
    with managed(closed, manager, "reloads", WATCHDOG_USEC="10000000") as process:
        assert told(manager)["WATCHDOG_USEC"] == "10000000"
        assert [manager.recv(100) for _ in range(2)] == [b"WATCHDOG=1"] * 2
        closed.with_name("closed.toml").write_text("right")
        process.send_signal(signal.SIGHUP)
        assert int(told(manager)["WATCHDOG_USEC"]) == 600_000_000
        assert told(manager)["WATCHDOG_USEC"] == "10000000"
        process.terminate()
        process.communicate(timeout=10)


def test_the_watchdog_hears_nothing_of_a_lane_that_stands(closed: Path, manager: socket.socket) -> None:
    with managed(closed, manager, "stands", WATCHDOG_USEC="10000000") as process:
        assert told(manager)["READY"] == "1"
        assert manager.recv(100) == b"WATCHDOG=1"  # there is nothing yet to compare with
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(3):  # each turns the loop
            process.send_signal(signal.SIGUSR1)
            process.stdout.readline()
        process.terminate()
        assert told(manager)["STOPPING"] == "1"
        process.communicate(timeout=10)


@pytest.mark.parametrize("more", [{"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": ""}])
def test_a_watchdog_that_is_not_meant_for_us_is_not_fed(more: dict[str, str]) -> None:
    environment = {"NOTIFY_SOCKET": "/nosuch", "WATCHDOG_USEC": "10000000", **more}
    assert ServiceManager(environment).watchdog_usec == 0
    assert ServiceManager({"WATCHDOG_USEC": "1"}).watchdog_usec == 0


def test_an_abstract_address_and_one_that_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    name = f"vxcore-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{name}")
        sock.settimeout(10)
        ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).ready("two\nlines")
        assert sock.recv(100) == b"READY=1\nSTATUS=two lines"
    ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).alive()
    assert "the service manager was not told WATCHDOG=1" in caplog.text
