"""`vxcore bench containers`, short: beside Docker's own overlay, on real Docker; and where there is none.

Place in the house: beside test_bench.py. No speed is looked at; what is left behind is.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.docker import PROGRAMS
from support.peers import require_root, require_tool
from support.rooms import program
from support.tree import ROOT

from benchmarks import container_networks, page, results
from benchmarks.peers import AbsentError

pytestmark = pytest.mark.timeout(400)  # on a busy machine
WHO = {"vxcore", "overlay", "kernel"}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> results.Suite:
    """A quick run of two of its cases."""
    require_root()
    require_tool("ethtool")
    for name in PROGRAMS:
        program(name)
    file = tmp_path_factory.mktemp("bench") / "result.json"
    cases = ("containers/set_up", "containers/round_trip/wire")
    words = (sys.executable, "-m", "vxcore", "bench", *cases, "--quick", "--json", str(file))
    done = subprocess.run(words, check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return results.read(file).suites["containers"]


def test_all_networks_are_measured(measured: results.Suite) -> None:
    wanted = {f"{case}/{who}" for case in ("set_up", "round_trip/wire") for who in WHO}
    missing = {each.name for each in measured.missing}
    assert set(measured.found()) | missing == wanted
    assert all(name.endswith("/overlay") for name in missing)  # a swarm does not always carry frames
    assert all(each.median > 0 and each.verified for each in measured.measurements)
    assert "Docker version" in measured.environment.tools["docker"]
    assert "Docker's overlay" in page.section("containers", measured)


def test_vxcore_leaves_no_more_than_dockers_own_overlay(measured: results.Suite) -> None:
    found = measured.found()
    left = {who: found[f"set_up/{who}"].details for who in WHO if f"set_up/{who}" in found}
    for kind in ("devices", "rules", "namespaces", "files") if "overlay" in left else ():
        assert left["vxcore"][f"left_{kind}"] <= left["overlay"][f"left_{kind}"], kind
    assert left["vxcore"]["left_devices"] == 1  # docker_gwbridge, which is Docker's
    assert left["kernel"]["left_devices"] == left["kernel"]["left_rules"] == 0


def test_without_docker_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    require_root()
    monkeypatch.setattr(container_networks, "PROGRAMS", ("dockerd-of-nobody",))
    with (
        pytest.raises(AbsentError, match=r"dockerd-of-nobody is not there; `make bench-peers`"),
        container_networks.two_hosts("wire"),
    ):
        pass
