"""The control socket from a service manager: taken if it is one, refused if it is something else."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.control_socket import Raw
from support.hosts import wait_until
from support.peers import require_tool
from support.tree import ROOT

from vxcore.control.client import Client

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from vxcore import config, daemon, logs
from vxcore.errors import ConfigError

def vtep(settings):
    from support.dry_vtep import DryVtep  # with signals blocked, for numpy starts threads
    return DryVtep(settings)

logs.to_stderr()
settings = config.from_mapping({"underlay": {"local": "192.0.2.1"}, "control": {"socket": sys.argv[2]}})
try:
    sys.exit(daemon.serve(settings, vtep))
except ConfigError as error:
    sys.exit(str(error))
"""
START = 'export LISTEN_PID=$$ LISTEN_FDS={n} LISTEN_FDNAMES={names}; exec "$@" {fds}'


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vxa") as directory:
        yield Path(directory, "given.sock")


def command(where: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM, str(ROOT / "tests"), where]


def start(
    *given: socket.socket, name: str = "control", where: str = "/nosuch/ours.sock"
) -> subprocess.Popen[str]:
    """A VTEP, with sockets passed on as sd_listen_fds(3) has them."""
    names = ":".join(name for _ in given)
    moves = " ".join(f"{3 + n}<&{each.fileno()}" for n, each in enumerate(given))
    script = START.format(n=len(given), names=names, fds=moves)
    return subprocess.Popen(
        ["bash", "-c", script, "bash", *command(where)],
        cwd=ROOT,
        text=True,
        stderr=subprocess.PIPE,
        pass_fds=[each.fileno() for each in given],
    )


def ends_with(process: subprocess.Popen[str], words: str) -> None:
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert words in err


def test_a_client_that_came_before_is_answered_and_the_file_stays(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listens:
        listens.bind(str(path))
        listens.listen()
        for _ in range(2):  # the second begins with the socket that the first has left
            with Raw(path) as early, start(listens) as process:
                assert early.read()["pid"] == process.pid
                assert early.ask("overview")["ok"]["pid"] == process.pid
                with Client(str(path)) as client:
                    assert client.ask("overview")["pid"] == process.pid
                process.terminate()
                assert process.wait(timeout=30) == 0
        assert path.is_socket()


def test_another_processes_sockets_are_not_ours(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listens:
        listens.bind(str(path))
        listens.listen()
        environment = {**os.environ, "LISTEN_PID": "1", "LISTEN_FDS": "1"}
        ours = path.with_name("ours.sock")
        with subprocess.Popen(command(str(ours)), cwd=ROOT, env=environment) as process:
            wait_until(ours.is_socket, "it listens at its own")
            process.terminate()
            assert process.wait(timeout=30) == 0
        assert not ours.exists()


@pytest.mark.parametrize(
    ("kind", "listen", "name"),
    [
        (socket.AF_UNIX, True, "metrics"),
        (socket.AF_UNIX, False, "control"),
        (socket.AF_INET, True, "control"),
    ],
)
def test_what_is_no_control_socket_is_refused(kind: int, listen: bool, name: str) -> None:
    with socket.socket(kind) as given:
        if listen:
            given.bind("" if kind == socket.AF_UNIX else ("127.0.0.1", 0))
            given.listen()
        ends_with(start(given, name=name), f"a socket '{name}': a Unix stream socket that listens")


def test_more_than_one_is_refused_and_so_is_one_that_is_not_wanted(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as given:
        given.bind(str(path))
        given.listen()
        ends_with(start(given, given), "the service manager gives 2 sockets; one is right: control")
        ends_with(start(given, where="none"), 'control.socket: "none", and the service manager gives one')


def test_systemds_own_tool_starts_it_with_the_first_client(path: Path) -> None:
    tool = require_tool("systemd-socket-activate")
    words = [tool, "-l", str(path), "--fdname=control", *command("/nosuch/ours.sock")]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        wait_until(path.is_socket, "it listens")
        with Client(str(path)) as client:
            assert client.ask("overview")["pid"] == process.pid
        process.terminate()
        assert process.wait(timeout=30) == 0
