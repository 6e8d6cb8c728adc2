"""The commands that give a running VTEP to another process, without a packet lost.

Place in the house: among the commands, above asking and daemon. `upgrade` starts `takeover`, which becomes
the VTEP, and waits until it is; docs/upgrade.md says what is kept.
"""

from __future__ import annotations

import argparse
import json
import select
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import Any

from vxcore.commands import ReaderGoneError, argument, command
from vxcore.commands.asking import ASKING, CONTROL, JSON, connect, say, say_json
from vxcore.errors import VxcoreError

_WAIT_S = 180.0  # more than both wait for each other, for what is ended then may have the VTEP


@command(
    "give a running VTEP to a new process of this vxcore, which loses no packet",
    "vxcore upgrade\nvxcore upgrade --command /opt/vxcore-2/bin/vxcore --json",
    argument("--command", dest="program", metavar="PATH", help="the vxcore to start (the one that this is)"),
    *ASKING,
)
def upgrade(arguments: argparse.Namespace) -> int:
    """If the new process fails, the old one goes on."""
    with connect(arguments) as vtep:  # for what is wrong with it, to be said here
        path, was = str(vtep.path), vtep.pid
    done, complaint = _taken_over(_program(arguments.program), path)
    if done is None:
        raise VxcoreError(f"not upgraded: {complaint}; {_who_has_it(arguments, was)}")
    say_json(done) if arguments.json else say(_told(done))
    return 0


@command(
    "become a running VTEP, in the place of its process, until interrupted",
    "vxcore takeover --control /run/vxcore/control.sock",
    CONTROL,
    JSON,
)
def takeover(arguments: argparse.Namespace) -> int:
    """What `upgrade` starts; by itself for those whose service manager starts processes."""
    from vxcore import daemon

    def tell(done: dict[str, Any]) -> None:
        with suppress(ReaderGoneError):  # who asked has not waited; the VTEP is here even so
            say_json(done) if arguments.json else say(_told(done))

    return daemon.take_over(arguments.control, tell)


def _program(path: str | None) -> list[str]:
    return [path] if path else [sys.executable, "-P", "-m", "vxcore"]


def _taken_over(program: list[str], path: str) -> tuple[dict[str, Any] | None, str]:
    """What a new process says when it has the VTEP; else None, and why it has not."""
    words = [*program, "takeover", "--control", path, "--json"]
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            start_new_session=True,
        )
        done = _read(_first_line(process))
        if done is None:
            process.kill()
            process.wait()
        complaints.seek(0)
        lines = complaints.read().decode(errors="replace").strip().splitlines()
    if done is None:
        return None, lines[-1].removeprefix("vxcore: error: ") if lines else f"{program[0]} said nothing"
    for line in lines:  # what it had to say before it wrote elsewhere
        print(line, file=sys.stderr)
    return done, ""


def _read(said: bytes) -> dict[str, Any] | None:
    with suppress(ValueError):
        done = json.loads(said)
        if isinstance(done, dict):
            return done
    return None


def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    """What it says when it has the VTEP, or nothing."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], _WAIT_S)[0]:
        return b""
    return process.stdout.readline()


def _who_has_it(arguments: argparse.Namespace, was: int) -> str:
    with suppress(VxcoreError, OSError), connect(arguments) as vtep:
        if vtep.pid == was:
            return f"process {was} goes on"
        return f"process {vtep.pid} has it"
    return "and nobody answers at its control socket"


def _told(done: dict[str, Any]) -> list[str]:
    n = sum(done["handed"].values())
    return [
        f"process {done['pid']} has the VTEP of process {done['was']}",
        f"nothing was forwarded for {done['stood_ms']:.1f} ms, meanwhile the kernel kept what came",
        f"{n} descriptors were handed over: {', '.join(done['handed'])}",
    ]
