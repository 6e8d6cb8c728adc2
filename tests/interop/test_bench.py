"""`vxcore bench` from end to end, short: measured, told, written, compared, reported; and who is absent.

Place in the house: beside test_bench_datapath.py, which has the data path. No figure is looked at.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from support.hosts import run, wait_until
from support.peers import require_root, require_tool
from support.tree import ROOT

from benchmarks import page, results
from vxcore import cli

pytestmark = pytest.mark.timeout(400)  # on a busy machine
BENCH = (sys.executable, "-m", "vxcore", "bench")
WORDS = ("codec/encap", "tables/lookup/1,000", "scale/remotes/1", "startup/command")


def bench(
    *words: str, code: int = 0, cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*BENCH, *words],
        check=False,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of a quick run of some of it."""
    require_root()
    folder = tmp_path_factory.mktemp("bench")
    done = bench(*WORDS, "--quick", "--json", "result.json", cwd=folder)
    assert "about 0:" in done.stderr
    for word in WORDS:
        assert word in done.stderr  # as they begin
        assert f"{word}/vxcore" in done.stdout
    return folder / "result.json"


def test_the_result_matches_its_schema(file: Path) -> None:
    jsonschema.validate(json.loads(file.read_bytes()), json.loads(page.SCHEMA.read_bytes()))
    result = results.read(file)
    assert list(result.suites) == ["codec", "tables", "scale", "startup"]
    assert all(suite.quick and suite.seconds > 0 for suite in result.suites.values())


def test_everything_that_was_chosen_is_measured_beside_its_peers(file: Path) -> None:
    result = results.read(file)
    assert not [
        missing for suite in result.suites.values() for missing in suite.missing if missing.kind == "failed"
    ]
    found = {f"{name}/{each}" for name, suite in result.suites.items() for each in suite.found()}
    assert {"codec/encap/memcpy", "codec/encap/inlined memcpy"} <= found
    assert {"tables/lookup/1,000/dict", "startup/command/python -c pass", "scale/remotes/1/kernel"} <= found
    for suite in result.suites.values():
        assert suite.environment.commit
        assert suite.environment.kernel
        assert all(each.median > 0 and each.verified for each in suite.measurements)
    encap = result.suites["codec"].found()["encap/vxcore"]
    assert {"foreign_share", "steal_share"} <= set(encap.details)
    assert len(encap.samples) == 5  # as many of each that took turns
    assert len(result.suites["codec"].found()["encap/memcpy"].samples) == 5


def test_a_report_is_made_of_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "report", str(file)]) == 0
    assert "A packet out, by remotes" in capsys.readouterr().out
    assert cli.main(["bench", "report", "--markdown", str(file)]) == 0
    assert "## Start-up" in capsys.readouterr().out


def test_a_result_does_not_differ_from_itself(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "compare", str(file), str(file), "--fail-on", "slower"]) == 0
    assert "faster" not in capsys.readouterr().out


def test_who_is_absent_is_named_with_the_remedy_and_the_rest_is_measured(tmp_path: Path) -> None:
    (tmp_path / "hidden").mkdir()
    for package in ("scapy", "dpkt"):
        (tmp_path / "hidden" / f"{package}.py").write_text("raise ImportError")
    hidden = str(tmp_path / "hidden")
    words = ("codec/python/decap", "--quick", "--json", str(tmp_path / "result.json"))
    done = bench(*words, cwd=tmp_path, PYTHONPATH=hidden)
    assert (
        "codec/python/decap/scapy: absent: scapy is not installed; `make bench-peers` installs it"
        in done.stdout
    )
    assert "codec/python/decap/struct" in done.stdout
    suite = results.read(tmp_path / "result.json").suites["codec"]
    assert {missing.name: missing.kind for missing in suite.missing} == {
        "python/decap/scapy": "absent",
        "python/decap/dpkt": "absent",
    }


def test_what_fails_is_named_and_costs_the_exit_code(tmp_path: Path) -> None:
    broken = tmp_path / "valgrind"
    broken.write_text("#!/bin/sh\necho valgrind is broken >&2\nexit 1\n")
    broken.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    done = bench("instructions", "--json", str(tmp_path / "result.json"), code=1, PATH=path)
    assert "instructions/packet: failed: " in done.stdout
    assert "valgrind is broken" in done.stdout


def test_a_run_can_take_the_place_of_a_suite_in_a_file(file: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    kept.write_bytes(file.read_bytes())
    bench("startup/command", "--quick", "--json", str(kept), "--update")
    before, after = results.read(file), results.read(kept)
    assert list(after.suites) == list(before.suites)
    assert after.suites["codec"] == before.suites["codec"]
    assert [each.case for each in after.suites["startup"].measurements] == ["command"] * 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("codex", "codex: no suite or case is called so; did you mean codec?"),
        ("startup/comand", "did you mean startup/command?"),
        ("--update", "--update: it needs the file that --json names"),
        ("codec --update --json none.json", "none.json: there is no such file"),
        ("codec --seconds much", "'much' is not allowed; a number from 0 up"),
    ],
)
def test_a_mistake_is_one_line_and_measures_nothing(
    words: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", *words.split()]) == 2
    shown = capsys.readouterr()
    assert told in shown.err
    assert (len(shown.err.splitlines()), shown.out) == (1, "")


def test_an_interrupted_run_ends_and_leaves_nothing(tmp_path: Path) -> None:
    """The tests of a suite run in a process of their own, with namespaces of theirs."""
    require_root()
    command = [*BENCH, "scale/remotes/1", "--json", str(tmp_path / "result.json")]
    process = subprocess.Popen(command, cwd=tmp_path, text=True, stderr=subprocess.DEVNULL)
    try:
        hosts = wait_until(lambda: namespaces_below(process.pid), "namespaces of the suite", 60)
        process.terminate()
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
        process.wait()
    assert not hosts & set(run("ip", "netns", "list").stdout.split())
    assert not (tmp_path / "result.json").exists()


def namespaces_below(pid: int) -> set[str]:
    """Those that a child of a process has made."""
    named = {
        name: name.removeprefix("vxb").partition("-")[0] for name in run("ip", "netns", "list").stdout.split()
    }
    return {name for name, maker in named.items() if maker.isdigit() and parent_of(int(maker)) == pid}


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_instructions_repeat(tmp_path: Path) -> None:
    require_tool("valgrind")
    if not Path("/usr/include/valgrind/callgrind.h").exists():
        pytest.skip("valgrind's headers are not installed; `make bench-peers` installs them")
    files = [str(tmp_path / f"{n}.json") for n in range(2)]
    for name in files:
        bench("instructions", "--json", name)
    done = bench("compare", *files, "--fail-on", "unsure")
    assert "of vxcore: 8 same" in done.stdout
