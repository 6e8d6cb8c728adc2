"""The data-path benchmark runs from end to end, beside every neighbour, and leaves what its schema says.

Place in the house: beside the interop tests, with whose hosts the benchmark works. No figure is
looked at: only that each is there, was verified, and stands in the tables.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.hosts import run, wait_until
from support.peers import missing, require_root, require_tool
from support.tree import ROOT

from benchmarks import page, peers, results
from benchmarks.datapath import openvswitch

# All that measures and all who are measured, once; not what differs only by a number.
ONLY = ("datapath/tcp/wire/1/*", "datapath/pps/*/1/*", "datapath/latency/*/*")


pytestmark = pytest.mark.timeout(400)  # on a busy machine
BENCH = (sys.executable, "-m", "vxcore", "bench")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> results.Suite:
    """One run, as short as can be."""
    require_root()
    for tool in ("iperf3", "ethtool", "ip"):
        require_tool(tool)
    try:
        openvswitch.version()
    except peers.AbsentError as error:
        missing(str(error))
    return measure(tmp_path_factory.mktemp("datapath") / "results.json", *ONLY)


def measure(file: Path, *only: str, code: int = 0) -> results.Suite:
    """Run the benchmark; it must end with `code`, and leave no namespace."""
    command = [*BENCH, "--quick", "--seconds", "0.05", "--json", str(file), *only]
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE)
    try:
        shown, _ = process.communicate()
    finally:
        process.terminate()  # where the test's time was up, by the way that cleans up
        process.wait()
    assert process.returncode == code, shown
    assert f"vxb{process.pid}-" not in run("ip", "netns", "list").stdout
    return results.read(file).suites["datapath"]


def test_everything_that_was_chosen_is_measured_and_verified(measured: results.Suite) -> None:
    assert measured.missing == ()
    names = {m.name for m in measured.measurements}
    for who in ("veth:veth", "kernel:kernel", "ovs:ovs", "vxcore:vxcore", "vxcore:kernel", "kernel:vxcore"):
        assert f"tcp/wire/1/{who}" in names
    for who in ("kernel", "ovs", "vxcore"):
        assert {f"pps/encap/1/{who}", f"pps/decap/1/{who}", f"latency/load/{who}"} <= names
    assert all("alike" in m.verified and m.median > 0 for m in measured.measurements)


def test_the_environment_is_told(measured: results.Suite) -> None:
    environment = measured.environment
    assert environment.offloads["wire"]["tx-udp_tnl-segmentation"] == "off"
    assert environment.offloads["offload"]["tx-udp_tnl-segmentation"] == "on"
    assert {"iperf3", "iproute2", "Open vSwitch"} <= set(environment.tools)
    assert environment.compiler
    assert environment.pinning


def test_the_tables_show_every_measurement(measured: results.Suite) -> None:
    """As figures, or that there was too much noise for one."""
    section = page.section("datapath", measured)
    for row in ("kernel vxlan", "Open vSwitch, userspace", "vxcore", "vxcore to kernel vxlan"):
        assert f"| {row} | **" in section or f"| {row} | too noisy to tell" in section


def test_what_cannot_be_measured_is_named_and_costs_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_root()
    (tmp_path / "iperf3").write_text("#!/bin/sh\necho iperf3 is broken >&2\nexit 1\n")
    (tmp_path / "iperf3").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = measure(
        tmp_path / "results.json", "datapath/latency/load/veth", "datapath/latency/idle/kernel", code=1
    )
    assert [m.name for m in found.measurements] == ["latency/idle/kernel"]
    (missed,) = found.missing
    assert missed.name == "latency/load/veth"
    assert "iperf3 is broken" in missed.reason


def test_an_interrupted_run_ends_and_leaves_nothing(tmp_path: Path) -> None:
    """It hung: the generator's thread went on for ever."""
    require_root()
    command = [*BENCH, "--rounds", "100", "--seconds", "30", "datapath/pps/encap/1/kernel"]
    command += ["--json", str(tmp_path / "results.json")]
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE)
    try:
        hosts = f"vxb{process.pid}-"
        # The generator runs once the client has sent more packets than anything but it would.
        wait_until(lambda: packets_sent(hosts) > 10_000, "the generator runs", 60)
        process.terminate()
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
        process.communicate()
    assert hosts not in run("ip", "netns", "list").stdout
    assert not (tmp_path / "results.json").exists()


def packets_sent(hosts: str) -> int:
    """By the client of the set-up that stands now, if any."""
    listed = run("ip", "netns", "list").stdout.split()
    for client in (name for name in listed if name.startswith(hosts) and name.endswith("h3")):
        shown = run("ip", "-n", client, "-j", "-s", "link", "show", "eth", check=False).stdout
        return sum(int(link["stats64"]["tx"]["packets"]) for link in json.loads(shown or "[]"))
    return 0
