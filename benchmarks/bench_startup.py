"""How long commands and imports take to start, beside Python, Scapy and `ip link add ... type vxlan`.

Place in the house: suite `startup` of `vxcore bench`. Each is a process of its own, from its start to its
end, or, of a VTEP, until it says that it is ready: its TAP is up and its lanes run. What is compared takes
turns.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.hosts import run
from support.peers import require_root

from benchmarks import peers
from benchmarks.datapath.topology import Stage, add_underlay_address
from benchmarks.measuring import Call, Case, in_turn

ROUNDS, QUICK_ROUNDS = 20, 3
RUN_CNI = "import sys; from vxcore.cni.plugin import main; sys.exit(main())"
REFERENCE = Path("/usr/lib/cni/bridge")
SETTINGS = """
[underlay]
local = "{local}"
[[segment]]
vni = 42
tap = "vx42"
remotes = ["192.0.2.99"]
"""


def measure(case: Case, benchmark: Any, sides: dict[str, Call]) -> None:
    rounds = QUICK_ROUNDS if case.quick else ROUNDS
    for who, times in in_turn(benchmark, sides, rounds).items():
        case.add(who, [1000 * seconds for seconds in times], "ms", "the exit code", apart=True)


def python(*words: str) -> Call:
    """Run this Python to its end, which must be good."""
    return lambda: subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.benchmark(group="start of a command")
def test_command(benchmark: Any, case: Case) -> None:
    sides = {
        "vxcore --help": python("-m", "vxcore", "--help"),
        "vxcore --version": python("-m", "vxcore", "--version"),
        "python -c pass": python("-c", "pass"),
    }
    measure(case, benchmark, sides)


@pytest.mark.benchmark(group="import")
def test_import(benchmark: Any, case: Case) -> None:
    """All that `vxcore` makes public is imported when it is used, so the codec is used."""
    sides = {
        "vxcore": python("-c", "import vxcore"),
        "vxcore, and a batch": python("-c", "from vxcore import PacketBatch, encap"),
        "numpy": python("-c", "import numpy"),
    }
    for who, module in (("scapy", "scapy.all"), ("dpkt", "dpkt")):
        with case.may_lack(who):
            peers.package(who)
            sides[who] = python("-c", f"import {module}")
    measure(case, benchmark, sides)


@pytest.mark.benchmark(group="a CNI plugin, asked for its version")
def test_cni(benchmark: Any, case: Case) -> None:
    """A plugin is started for each container that comes or goes; Go's are compiled."""
    sides: dict[str, Call] = {"vxcore-cni": cni(sys.executable, "-c", RUN_CNI)}
    with case.may_lack("bridge"):
        if not REFERENCE.exists():
            raise peers.AbsentError(f"{REFERENCE} is not there; {peers.INSTALL}")
        sides["bridge"] = cni(str(REFERENCE))
    measure(case, benchmark, sides)


def cni(*words: str) -> Call:
    """Run a CNI plugin to its end, which must be good."""
    environment = {**os.environ, "CNI_COMMAND": "VERSION"}
    given = b'{"cniVersion": "1.0.0"}'
    return lambda: subprocess.run(words, check=True, env=environment, input=given, stdout=subprocess.DEVNULL)


@pytest.mark.benchmark(group="a VTEP, until it forwards")
def test_vtep(benchmark: Any, case: Case) -> None:
    require_root()
    with Stage() as stage:
        host, other = stage.host(1), stage.host(2)
        stage.link(host, "eth", other, "eth", "wire")
        add_underlay_address(host)
        file = stage.directory / "vx.toml"
        file.write_text(SETTINGS.format(local=host.v4))

        def kernel() -> None:
            words = (
                "link",
                "add",
                "kernel42",
                "type",
                "vxlan",
                "id",
                "42",
                "local",
                host.v4,
                "dstport",
                "4790",
            )
            host.ip(*words)
            host.ip("link", "set", "kernel42", "up")

        try:
            kernel()
        except AssertionError as error:
            raise peers.AbsentError(f"the kernel's vxlan device is not there: {error}") from None
        started: list[subprocess.Popen[str]] = []
        sides = {"vxcore run": lambda: started.append(ready(host, str(file))), "kernel": kernel}
        measure_started(case, benchmark, sides, lambda: ended(host, started))


def ready(host: Any, file: str) -> subprocess.Popen[str]:
    """A VTEP that has said so."""
    process: subprocess.Popen[str] = host.start(sys.executable, "-m", "vxcore", "run", file)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("ready "), line + process.communicate(timeout=15)[1]
    return process


def ended(host: Any, started: list[subprocess.Popen[str]]) -> None:
    """What the last turn has left is gone."""
    for process in started:
        process.terminate()
        process.communicate(timeout=15)
    started.clear()
    run("ip", "-n", host.namespace, "link", "delete", "kernel42", check=False)


def measure_started(case: Case, benchmark: Any, sides: dict[str, Call], end: Call) -> None:
    rounds = QUICK_ROUNDS if case.quick else ROUNDS
    try:
        for who, times in in_turn(benchmark, sides, rounds, end).items():
            case.add(who, [1000 * seconds for seconds in times], "ms", "that it is ready", apart=True)
    finally:
        end()
