"""The commands on a running VTEP: what they print for people and for programs, and how they fail."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from support import captures
from support.control_socket import Socket, serve
from support.hosts import wait_until
from support.peers import require_tool
from support.tree import ROOT

from vxcore import cli, config, files
from vxcore.commands.show import duration
from vxcore.control import session
from vxcore.verdict import Verdict

DOCS = ROOT / "docs"
SCHEMAS = runpy.run_path(str(DOCS / "schemas.py"))
MAC = "02:00:00:00:00:01"


class Run:
    """``vxcore`` with words, on a VTEP that carries nothing."""

    def __init__(self, served: Socket, capsys: pytest.CaptureFixture[str]) -> None:
        self.served, self.vtep, self._capsys = served, served.vtep, capsys

    def __call__(self, *words: str, code: int = 0) -> str:
        """What it prints; with another exit code, what it says on stderr, one line."""
        assert cli.main([*words, "--control", str(self.served.path)]) == code
        out, err = self.printed()
        if code:
            assert (out, err.count("\n")) == ("", 1)
        return err if code else out

    def printed(self) -> tuple[str, str]:
        """By the command; without what the VTEP, in the same process, logs."""
        out, err = self._capsys.readouterr()
        return out, "".join(line for line in err.splitlines(True) if not line.startswith("vxcore: user "))

    def json(self, *words: str) -> Any:
        """What it prints with --json, which is as the page of schemas has it."""
        said = json.loads(self(*words, "--json"))
        name = " ".join(words[:2]) if " ".join(words[:2]) in SCHEMAS["OUTPUTS"] else words[0]
        check(name, said)
        return said


def check(command: str, said: Any) -> None:
    document = SCHEMAS["document"]()
    schema = {"$defs": document["$defs"], **document["commands"][command]}
    jsonschema.Draft202012Validator(schema).validate(said)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    with serve(reload=lambda: None) as served:
        yield Run(served, capsys)


def lines(text: str) -> list[str]:
    return text.splitlines()


# Show


def test_an_overview_is_a_screenful(run: Run) -> None:
    run.vtep.learn(42, 0x020000000009, "192.0.2.2")
    run.vtep.lanes[0].dropped.update({Verdict.UNKNOWN_VNI: 7, Verdict.SOURCE_REFUSED: 9})
    run.vtep.add_segments([{"vni": 100 + n, "tap": f"vx{100 + n}"} for n in range(30)])
    shown = lines(run("show"))
    assert re.fullmatch(rf"vxcore \S+, process {os.getpid()}, up \d+ s, /etc/vxcore\.toml", shown[0])
    said = dict(re.fullmatch(r"  (\w+) +(.*)", line).groups() for line in shown[1:9])  # type: ignore[union-attr]
    assert said == {
        "underlay": "udp, 192.0.2.1, port 4789",
        "lanes": "1",
        "received": "0 packets, 0 bytes",
        "sent": "0 packets, 0 bytes",
        "addresses": "1, 1 of them learned",
        "remotes": "1, 0 of them learned",
        "offloads": "all on",
        "dropped": "source_refused 9, unknown_vni 7 (vxcore show drops)",
    }
    assert shown[10].split() == ["VNI", "PORT", "REMOTES", "MTU", "LEARNED", "RECEIVED", "SENT"]
    assert shown[11].split() == ["42", "tap", "vx42", "192.0.2.2", "1450", "1", "0", "0"]
    assert shown[-1] == "and 23 more (vxcore show segment)"
    assert len(shown) <= 24
    assert max(map(len, shown)) <= 80
    assert run.json("show")["drops"] == {"source_refused": 9, "unknown_vni": 7}


def test_every_table_has_rows_for_people_and_for_programs(run: Run) -> None:
    run.vtep.add_fdb(42, MAC, "192.0.2.3")
    run.vtep.add_fdb(42, "02:00:00:00:00:02", "192.0.2.3", kind="control", sequence=4)
    run.vtep.learn(42, 0x020000000003, "192.0.2.2")
    run.vtep.add_remote("192.0.2.9", vnis=[42, "100-199"])
    run.vtep.set_neighbour(42, "fd42::7", MAC, router=True)
    run.vtep.lanes[0].dropped[Verdict.UNKNOWN_VNI] = 7
    found = re.sub(r"age \d", "age 0", run("show", "fdb"))
    assert found == (
        f"{MAC} dst 192.0.2.3 vni 42 static\n"
        "02:00:00:00:00:02 dst 192.0.2.3 vni 42 control sequence 4\n"
        "02:00:00:00:00:03 dst 192.0.2.2 vni 42 learned age 0\n"
    )
    run.vtep.lanes[0].carried = np.array([7, 700, 8, 800], np.uint64).tobytes()
    assert lines(run("show", "remote")) == [
        "REMOTE     VNIS        WHY    USES  RECEIVED  SENT",
        "192.0.2.2  all         used      1         7     8",
        "192.0.2.3  all         used      2         0     0",
        "192.0.2.9  42,100-199  added     0         0     0",
    ]
    assert run("show", "neighbour") == f"fd42::7 lladdr {MAC} vni 42 router\n"
    assert lines(run("show", "lane")) == ["LANE  CPU  WAKEUPS  BURSTS", "0     any        0       0"]
    drops = lines(run("show", "drops"))
    assert drops[1].split() == ["unknown_vni", *Verdict.UNKNOWN_VNI.text.split(), "7"]
    assert drops[-1] == f"  unknown_vni: {Verdict.UNKNOWN_VNI.remedy}"
    assert "udp_gso        on" in lines(run("show", "offload"))
    for what, n in (("segment", 1), ("fdb", 3), ("remote", 3), ("neighbour", 1), ("lane", 1), ("drops", 1)):
        assert len(run.json("show", what)) == n
    assert run.json("show", "segment")[0]["settings"] == {"vni": 42, "tap": "vx42", "remotes": ["192.0.2.2"]}
    assert {row["state"] for row in run.json("show", "offload")} == {"on"}


def test_tables_that_are_empty(run: Run) -> None:
    for what in ("fdb", "neighbour"):
        assert run("show", what) == ""
        assert run.json("show", what) == []
    assert run("show", "drops") == "nothing was dropped\n"


@pytest.mark.parametrize(
    ("words", "n"),
    [
        (("show", "fdb", "--vni", "42"), 3),
        (("show", "fdb", "--vni", "43"), 1),
        (("show", "fdb", "--remote", "192.0.2.3"), 2),
        (("show", "fdb", "--mac", MAC, "--vni", "42"), 1),
        (("show", "fdb", "--kind", "learned"), 1),
        (("fdb", "show"), 4),
        (("fdb", "show", "vni", "42", "dst", "192.0.2.3"), 1),
        (("fdb", "show", MAC), 2),
        (("fdb", "show", "static"), 2),
        (("fdb", "show", MAC, "vni", "43", "static"), 1),
        (("show", "segment", "--vni", "43"), 1),
        (("segment", "show"), 2),
        (("segment", "show", "0x2b"), 1),
        (("remote", "show"), 2),
        (("remote", "show", "192.0.2.3"), 1),
        (("show", "remote", "--remote", "192.0.2.3"), 1),
        (("neighbour", "show", "--vni", "42"), 0),
        (("neighbour", "show", "vni", "42"), 0),
        (("show", "fdb", "vni", "42", "dst", "192.0.2.3"), 1),
        (("show", "fdb", MAC, "vni", "43", "static"), 1),
        (("show", "segment", "43"), 1),
        (("show", "remote", "192.0.2.3"), 1),
    ],
)
def test_rows_are_chosen_by_what_they_have(run: Run, words: tuple[str, ...], n: int) -> None:
    run.vtep.add_segment(vni=43, tap="vx43")
    run.vtep.add_fdb([42, 43], [0x020000000001] * 2, "192.0.2.3")
    run.vtep.learn(42, 0x020000000003, "192.0.2.2")
    run.vtep.add_fdb(42, "02:00:00:00:00:02", "192.0.2.2", kind="sticky")
    assert len(run.json(*words)) == n


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("fdb", "fdb show"),
        ("fdb --json", "fdb show --json"),
        ("fdb list", "fdb show"),
        ("segment", "segment show"),
        ("neigh ls vni 42", "neighbour show vni 42"),
        ("show segments", "show segment"),
        ("show lanes", "show lane"),
        ("show drop", "show drops"),
        ("show neigh", "show neighbour"),
    ],
)
def test_what_fingers_type_that_know_ip_is_understood(run: Run, typed: str, meant: str) -> None:
    run.vtep.add_fdb(42, MAC, "192.0.2.3")
    run.vtep.set_neighbour(42, "fd42::7", MAC)
    assert run(*typed.split()) == run(*meant.split()) != ""


def test_del_may_be_written_out(run: Run) -> None:
    run("fdb", "add", MAC, "dst", "192.0.2.3", "vni", "42")
    run("fdb", "delete", MAC, "vni", "42")
    run("segment", "change", "42", "--ageing", "9")
    assert run("fdb") == ""
    assert run.vtep.settings.segments[0].ageing == 9


@pytest.mark.parametrize("words", ["help fdb add", "fdb add --help"])
def test_help_may_be_asked_for_as_a_command(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words.split())
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("usage: vxcore fdb add ")


def test_a_collector_is_shown_by_what_it_collects(capsys: pytest.CaptureFixture[str]) -> None:
    with serve({"collect": [{"vnis": ["100-199"], "write": "/tmp/x"}]}) as served:
        run = Run(served, capsys)
        assert lines(run("show"))[-1].split()[:3] == ["100-199", "pcapng", "/tmp/x"]
        assert run.json("show", "segment")[0]["collects"] == "100-199"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.4, "0 s"), (61, "1 min 1 s"), (3600, "1 h"), (100_000, "1 d 3 h"), (86_405, "1 d 5 s")],
)
def test_times_are_shown_by_their_largest_units(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_a_reader_that_has_had_enough_is_no_mistake(run: Run) -> None:
    run.vtep.add_fdb(42, [0x020000000001 + n for n in range(20_000)], "192.0.2.2")
    command = [sys.executable, "-m", "vxcore", "show", "fdb", "--control", str(run.served.path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_nor_is_it_of_what_is_in_a_capture(tmp_path: Path) -> None:
    file = tmp_path / "x.pcap"
    file.write_bytes(captures.pcap([bytes(60)]))
    script = f"{sys.executable} -m vxcore inspect {file} | true; echo $PIPESTATUS"
    done = subprocess.run(["bash", "-c", script], check=False, cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_rates_may_be_of_a_longer_time_than_a_client_may_be_silent(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "IDLE_S", 0.2)
    assert "vx42" in run("top", "--once", "--interval", "1")


# Changes


def test_segments_are_added_changed_and_removed(run: Run) -> None:
    assert (
        run("segment", "add", "--vni", "43", "--tap", "vx43", "--remote", "192.0.2.2", "--ageing", "9") == ""
    )
    policy = ("--unknown-unicast", "100/20", "--broadcast", "drop", "--source", "192.0.2.0/24")
    assert run.json("segment", "add", "--vni", "44", "--port", "packet=c0", *policy) == {"changed": 1}
    assert run("segment", "set", "43", "--nolearning", "--set", "source=any", "--set", "ageing=60") == ""
    _, one, two = run.vtep.settings.segments
    assert (one.ageing, one.learning, one.source, len(one.remotes)) == (60, False, "any", 1)
    assert (two.overlays[0].kind, two.unknown_unicast, two.broadcast) == (
        "packet",
        config.Rate(rate=100, burst=20),
        "drop",
    )
    run("segment", "set", "43", "--learning", "--unset", "ageing", "--unset", "remotes")
    one = run.vtep.settings.segments[1]
    assert (one.ageing, one.learning, one.source, one.remotes) == (300, True, "any", ())
    assert run.json("segment", "del", "43", "44") == {"changed": 2}
    assert [segment.vni for segment in run.vtep.settings.segments] == [42]


def test_entries_and_flood_sets_are_changed_as_bridge_does(run: Run) -> None:
    run("fdb", "add", MAC, "dst", "192.0.2.3", "vni", "42")
    run(
        "fdb",
        "replace",
        MAC,
        "vni",
        "42",
        "sticky",
        "sequence",
        "7",
        "dst",
        "192.0.2.4",
    )
    assert run("fdb", "show") == f"{MAC} dst 192.0.2.3 vni 42 static\n"  # which a control plane leaves alone
    assert "there is an entry already" in run("fdb", "add", MAC, "dst", "192.0.2.4", "vni", "42", code=2)
    assert run("fdb", "replace", MAC, "dst", "192.0.2.4", "vni", "42") == ""
    assert run.json("fdb", "del", MAC, "vni", "42") == {"changed": 1}
    flood = ("00:00:00:00:00:00", "dst", "192.0.2.5", "vni", "42")
    run("fdb", "add", *flood)
    assert run.json("segment", "show")[0]["remotes"] == ["192.0.2.2", "192.0.2.5"]
    assert run.json("fdb", "del", *flood) == {"changed": 1}
    assert "not in the flood set" in run("fdb", "del", *flood, code=2)
    run.vtep.learn(42, 0x020000000003, "192.0.2.2")
    assert run("fdb", "flush", "dst", "192.0.2.2") == "1 entries forgotten\n"
    for words in (("vni", "42"), ("dev", "vx42"), ("all",)):
        assert run.json("fdb", "flush", *words) == {"changed": 0}


def test_several_may_be_flushed_at_once(run: Run) -> None:
    run.vtep.add_segments([{"vni": vni, "tap": f"vx{vni}", "remotes": ["192.0.2.2"]} for vni in (43, 44)])
    for vni in (42, 43, 44):
        run.vtep.learn(vni, 0x020000000009, "192.0.2.2")
    assert run("fdb", "flush", "vni", "42", "vni", "43") == "2 entries forgotten\n"
    assert [row["vni"] for row in run.json("fdb", "show")] == [44]


def test_what_changes_nothing_says_so(run: Run) -> None:
    run("fdb", "add", MAC, "dst", "192.0.2.3", "vni", "42", "control", "sequence", "7")
    words = (MAC, "dst", "192.0.2.4", "vni", "42", "control", "sequence", "6")
    assert run("fdb", "replace", *words) == "nothing has changed: what is there stays\n"
    assert run.json("fdb", "replace", *words) == {"changed": 0}


def test_remotes_and_neighbours_come_and_go(run: Run) -> None:
    run("remote", "add", "192.0.2.9", "vni", "42,100-199")
    run("remote", "set", "192.0.2.9", "vni", "7")
    assert run.json("remote", "show", "192.0.2.9")[0]["vnis"] == ["7"]
    run("remote", "set", "192.0.2.9")
    assert run.json("remote", "show", "192.0.2.9")[0]["vnis"] is None
    assert run.json("remote", "del", "192.0.2.9") == {"changed": 1}
    run("neighbour", "add", "10.42.0.7", "lladdr", MAC, "vni", "42")
    run("neighbour", "add", "10.42.0.7", "lladdr", "02:00:00:00:00:02", "vni", "42", "router")
    assert run("neighbour", "show") == "10.42.0.7 lladdr 02:00:00:00:00:02 vni 42 router\n"
    assert run.json("neighbour", "del", "10.42.0.7", "vni", "42") == {"changed": 1}
    assert run("neighbour", "show") == ""


def test_a_file_is_read_again(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("reload") == "reloaded: 1 segments\n"
    assert run.json("reload") == {"segments": 1}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("show", "fbd"), 2, "invalid choice: 'fbd'; did you mean fdb?"),
        (("sohw",), 2, "invalid choice: 'sohw'; did you mean show?"),
        (("fdb", "ad"), 2, "invalid choice: 'ad'; did you mean add?"),
        (("show", "lane", "7"), 2, "'7' has no meaning here; no words are"),
        (("show", "fdb", "vni"), 2, "vni: its value is missing"),
        (("show", "fdb", "vni", "42", "--vni", "43"), 2, "--vni: said twice, by 42 too; once is right"),
        (
            ("segment", "set", "42", "--agein", "3"),
            2,
            "--agein 3; did you mean --ageing? (see vxcore segment set --help)",
        ),
        (("show", "lane", "--vni", "42"), 2, "--vni: not about lane, but about segment, fdb, neighbour"),
        (("show", "--mac", MAC), 2, "--mac: not about the overview, but about fdb, neighbour"),
        (("segment", "add", "--vni", "42", "--tap", "x"), 2, "VNI 42: vni: "),
        (
            ("segment", "add", "--vni", "77777777", "--tap", "x"),
            2,
            "--vni 77777777: an integer from 0 to 16777215",
        ),
        (
            ("segment", "add", "--vni", "1", "--tap", "x", "--broadcast", "often"),
            2,
            '--broadcast often: "flood", "drop"',
        ),
        (("segment", "set", "42", "--set", "agein=4"), 2, "did you mean ageing?"),
        (("segment", "set", "42", "--set", "ageing"), 2, "--set ageing: KEY=VALUE such as"),
        (("segment", "set", "42", "--set", "vni=43"), 2, "--set vni=43: the VNI names the segment"),
        (
            ("segment", "add", "--vni", "44", "--tap", "x", "--set", "vni=45"),
            2,
            "--set vni=45: the VNI names the segment",
        ),
        (("segment", "set", "42", "--tap", "other"), 2, "VNI 42: the port vx42 cannot become other"),
        (("segment", "del", "7"), 2, "VNI 7: there is no such segment"),
        (("fdb", "add"), 2, "mac: missing; the words are MAC, dst REMOTE, vni VNI, sequence SEQUENCE"),
        (("fdb", "del"), 2, "mac: missing; the words are MAC, vni VNI, dst REMOTE"),
        (("remote", "add"), 2, "address: missing; the words are ADDRESS, vni VNIS"),
        (("neigh", "add"), 2, "address: missing; the words are ADDRESS, lladdr MAC, vni VNI, router"),
        (("trace", "--verdict", "unknwn_vni"), 2, "there is no such verdict; did you mean unknown_vni?"),
        (("fdb", "add", MAC), 2, "dst: missing; the words are MAC, dst REMOTE, vni VNI, sequence SEQUENCE"),
        (
            ("fdb", "add", MAC, "dts", "192.0.2.3", "vni", "42"),
            2,
            "'dts' has no meaning here; did you mean dst?",
        ),
        (("fdb", "add", MAC, "dst"), 2, "dst: its value is missing"),
        (("fdb", "add", MAC, "dst", "192.0.2.3", "vni", "x"), 2, 'entries[0].vni: "x" is not allowed'),
        (
            ("fdb", "add", "zz", "dst", "192.0.2.3", "vni", "42"),
            2,
            'entries[0].mac: "zz" is not a MAC address',
        ),
        (("fdb", "del", MAC, "vni", "42"), 2, MAC),
        (("fdb", "add", MAC, "dst", "192.0.2.3", "dst", "192.0.2.4", "vni", "42"), 2, "dst: given twice"),
        (("fdb", "add", MAC, "dst", "192.0.2.3", "vni", "42", "vni", "43"), 2, "vni: given twice"),
        (
            ("fdb", "add", MAC, "dst", "192.0.2.3", "vni", "42", "static", "control"),
            2,
            "control: cannot be with static",
        ),
        (("fdb", "add", MAC, "dst", "192.0.2.3", "vni", "42", "sticky", "sticky"), 2, "sticky: given twice"),
        (("fdb", "show", "learned", "static"), 2, "static: cannot be with learned"),
        (("fdb", "flush", "all", "all"), 2, "all: given twice"),
        (("remote", "add", "192.0.2.9", "vni", "42", "vni", "43"), 2, "vni: given twice"),
        (("fdb", "del", MAC, "dst", "192.0.2.3", "vni", "42"), 2, "leave it out"),
        (("fdb", "del", "00:00:00:00:00:00", "vni", "42"), 2, "dst: missing"),
        (("fdb", "flush", "vni"), 2, "vni: its value is missing"),
        (("fdb", "flush", "device", "x"), 2, "'device' has no meaning here; did you mean dev?"),
        (("remote", "add", "192.0.2.9", "vni", "many"), 2, 'vnis[0]: "many" is no VNI'),
        (("remote", "del", "192.0.2.2"), 2, "it is in the flood set of VNI 42"),
        (("monitor", "lerned"), 2, "there is no such kind; known are learned, moved"),
        (("save", "/nosuch/x.toml"), 1, "/nosuch"),
        (("completion", "tcsh"), 2, "invalid choice: 'tcsh'"),
    ],
)
def test_a_mistake_is_one_line(
    run: Run, words: tuple[str, ...], code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run.vtep.running()
    monkeypatch.setenv("VXCORE_CONTROL", str(run.served.path))
    assert cli.main(list(words)) == code
    out, err = run.printed()
    assert out == ""
    assert said in err
    assert err.startswith("vxcore: error: ")
    assert err.count("\n") == 1
    assert run.vtep.running() == before


def test_without_a_vtep_it_says_where_it_looked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", "--control", str(tmp_path / "x.sock")]) == 1
    assert capsys.readouterr().err == (
        f"vxcore: error: {tmp_path}/x.sock: no vxcore answers here; does one run?"
        " (--control PATH asks another)\n"
    )


def test_the_environment_names_the_vtep(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VXCORE_CONTROL", str(run.served.path))
    assert cli.main(["show", "lane"]) == 0


# Save


def test_what_is_saved_replaces_the_file_at_once_and_keeps_its_mode(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "vx.toml"
    file.write_text("old")
    file.chmod(0o640)
    link = tmp_path / "link.toml"
    link.symlink_to(file)
    printed = run("save")
    assert run("save", str(link)) == ""
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o640
    assert file.read_text() == printed
    assert config.load(file).segments == run.vtep.settings.segments
    assert run.json("save") == {"file": None, "text": printed}
    assert run.json("save", str(tmp_path / "new.toml"))["file"] == str(tmp_path / "new.toml")
    assert (tmp_path / "new.toml").stat().st_mode & 0o777 == 0o644


@pytest.mark.usefixtures("root")
def test_a_device_stays_one_and_a_file_its_owners(run: Run, tmp_path: Path) -> None:
    null, file = tmp_path / "null", tmp_path / "vx.toml"
    os.mknod(null, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    file.touch()
    os.chown(file, 4711, 4712)
    for path in (null, file):
        run("save", str(path))
    assert null.is_char_device()
    assert (file.stat().st_uid, file.stat().st_gid) == (4711, 4712)


def test_a_file_that_cannot_be_written_stays_as_it_was(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "vx.toml"
    file.write_text("old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    assert "No space left on device" in run("save", str(file), code=1)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


# Monitor


def test_events_are_a_line_each(run: Run) -> None:
    def monitor(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "vxcore", "monitor", *words, "--control", str(run.served.path)]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    with monitor("moved", "learned") as people, monitor("--json") as program:
        wait_until(lambda: len(run.vtep.events._subscribers) == 2, "both listen")
        run.vtep.learn(42, 0x020000000009, "192.0.2.2")
        assert people.stdout is not None
        assert program.stdout is not None
        line = people.stdout.readline()
        assert re.fullmatch(r"\d\d:\d\d:\d\d learned 02:00:00:00:00:09 dst 192\.0\.2\.2 vni 42\n", line), line
        told = json.loads(program.stdout.readline())
        check("monitor", told)
        assert told["event"]["mac"] == "02:00:00:00:00:09"
        check("monitor, when events were dropped", {"dropped": 3})
        people.kill()
        program.kill()


def test_a_monitor_ends_when_nobody_reads_it(run: Run) -> None:
    command = [sys.executable, "-m", "vxcore", "monitor", "--control", str(run.served.path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_until(lambda: run.vtep.events._subscribers, "it listens")
        assert process.stdout is not None
        process.stdout.close()
        run.vtep.learn(42, 0x020000000009, "192.0.2.2")
        try:
            assert process.wait(10) == 0
        finally:
            process.kill()
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_a_monitor_ends_with_its_vtep() -> None:
    with serve() as served:
        command = [sys.executable, "-m", "vxcore", "monitor", "--control", str(served.path)]
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        wait_until(lambda: served.vtep.events._subscribers, "it listens")
    with process:
        assert "the VTEP has hung up" in process.communicate(timeout=20)[1]
    assert process.returncode == 1


# Completion and the pages


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_takes_the_completion(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    text = capsys.readouterr().out
    for word in ("segment", "fdb", "unknown-unicast", "monitor"):
        assert word in text
    program = shutil.which(shell)
    if program is None:
        return  # what it says is the library's affair
    file = tmp_path / shell
    file.write_text(text)
    done = subprocess.run([program, "-n", str(file)], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_bash_completes_commands_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["completion", "bash"])
    file = tmp_path / "vxcore"
    file.write_text(capsys.readouterr().out)

    def completed(*words: str) -> set[str]:
        line = " ".join(f'"{word}"' for word in words)
        program = (
            f"source {file}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1};"
            " _shtab_vxcore; printf '%s\\n' \"${COMPREPLY[@]}\""
        )
        done = subprocess.run(["bash", "-c", program], check=False, capture_output=True, text=True)
        return set(done.stdout.split())

    assert {"show", "segment", "fdb", "save"} <= completed("vxcore", "s") | completed("vxcore", "fd")
    assert completed("vxcore", "show", "f") == {"fdb"}
    assert completed("vxcore", "fdb", "fl") == {"flush"}
    assert "--unknown-unicast" in completed("vxcore", "segment", "set", "--un")
    for words in (("run",), ("capture", "-w"), ("show", "--control"), ("decap",)):
        assert completed("vxcore", *words, str(file)[:-1]) == {str(file)}
    assert str(tmp_path) in completed("vxcore", "collect", "-w", str(tmp_path)[:-1])


def test_fish_completes_commands_options_and_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fish = require_tool("fish")
    cli.main(["completion", "fish"])
    file = tmp_path / "vxcore.fish"
    file.write_text(capsys.readouterr().out)

    def completed(line: str) -> set[str]:
        program = f"source {file}; cd {tmp_path}; complete -C '{line}'"
        done = subprocess.run(
            [fish, "--no-config", "-c", program], check=False, capture_output=True, text=True
        )
        return {each.split("\t")[0] for each in done.stdout.splitlines()}

    assert completed("vxcore sh") == {"show"}
    assert {"add", "del", "flush", "replace", "show"} <= completed("vxcore fdb ")
    assert completed("vxcore trace --way ") == {"in", "out"}
    assert completed("vxcore run vx") == {"vxcore.fish"}


@pytest.mark.parametrize(
    ("writer", "page"), [("schemas.py", "json-schemas.json"), ("manpage.py", "vxcore.1")]
)
def test_the_page_is_what_the_code_says(writer: str, page: str) -> None:
    assert (DOCS / page).read_text() == runpy.run_path(str(DOCS / writer))["page"](), "run `make docs`"


def test_every_command_with_json_has_a_schema() -> None:
    asking = {
        each.name
        for each in cli.COMMANDS
        if {"--json", "--control"} <= {name for argument in each.arguments for name in argument.names}
    } | {"gen send", "gen receive"}
    named = {name if name in asking else name.split()[0] for name in SCHEMAS["OUTPUTS"] if "," not in name}
    assert named == asking


def test_the_manual_page_has_every_command_and_is_good_roff() -> None:
    text = (DOCS / "vxcore.1").read_text()
    for each in cli.COMMANDS:
        assert f".SS vxcore {each.name}\n" in text
    groff = shutil.which("groff")
    if groff:
        command = [groff, "-man", "-Tutf8", "-ww", "-z", str(DOCS / "vxcore.1")]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
