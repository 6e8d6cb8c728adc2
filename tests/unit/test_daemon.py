"""The life of a VTEP process, with a VTEP that carries nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.hosts import wait_until
from support.tree import ROOT

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


def start(closed: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(closed), *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


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
