"""The control socket: what it answers, and what clients cannot do to it."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.control_socket import Raw, Socket, serve
from support.hosts import wait_until
from support.tree import ROOT

from vxcore import __version__
from vxcore.config import Control
from vxcore.control import MAX_LINE, PROTOCOL, server, session, socket_file
from vxcore.control.client import Client, ControlError
from vxcore.control.protocol import CODES, REQUESTS
from vxcore.control.requests import _HANDLERS, ROWS, Operated
from vxcore.control.server import serving
from vxcore.control.socket_file import default_path
from vxcore.errors import ConfigError, TableFullError, UnsupportedError, VxcoreError

PAGE = ROOT / "docs" / "control-socket.md"


@pytest.fixture
def served() -> Iterator[Socket]:
    with serve() as made:
        yield made


@pytest.fixture
def raw(served: Socket) -> Iterator[Raw]:
    """A client that has been greeted."""
    with served.raw() as client:
        assert client.read() == {"vxcore": __version__, "protocol": PROTOCOL, "pid": os.getpid()}
        yield client


# What is said


def test_a_reply_carries_the_requests_id(raw: Raw) -> None:
    for ident in (7, "seven", None, [1, {"a": 2}]):
        reply = raw.ask("lane.list", ident)
        assert reply["id"] == ident
        assert reply["ok"]["rows"] == [{"lane": 0, "cpu": None, "counters": {"wakeups": 0, "bursts": 0}}]


@pytest.mark.parametrize(
    ("do", "given", "said"),
    [
        ("fdb.lst", {}, 'do: "fdb.lst": there is no such request; did you mean fdb.list?'),
        ("segment.list", {"vnii": 4}, "vnii: unknown key; did you mean vni?"),
        ("segment.list", {"vni": "42"}, 'vni: "42" is not allowed; an integer from 0 to 16777215'),
        ("segment.list", {"vni": 7}, "VNI 7: there is no such segment"),
        ("segment.add", {"segments": []}, "segments: "),
        (
            "segment.add",
            {"segments": [{"vni": 1, "tapp": "x"}]},
            "segments[0].tapp: unknown key; did you mean tap?",
        ),
        ("segment.add", {"segments": [{"vni": 1}]}, "VNI 1: tap: missing"),
        ("segment.add", {"segments": [{"vni": 42, "tap": "x"}]}, "VNI 42"),
        ("segment.change", {"vni": 42, "set": {"vni": 43}}, "vni: it cannot change"),
        ("segment.change", {"vni": 42, "set": {"agein": 43}}, "agein: unknown key; did you mean ageing?"),
        ("segment.change", {"vni": 42, "unset": ["agein"]}, "agein: unknown key"),
        ("segment.change", {"vni": 7, "set": {}}, "VNI 7: there is no such segment"),
        ("segment.remove", {}, "vnis: missing; a list of VNIs"),
        ("segment.flood", {"vni": 42, "remove": ["192.0.2.9"]}, "remote 192.0.2.9 is not in the flood set"),
        ("segment.flood", {"vni": 42, "add": ["192.0.2.1"]}, "is a local address"),
        ("fdb.list", {"mac": "01:00:00:00:00:01"}, "mac: "),
        ("fdb.list", {"kind": "odd"}, "one of learned, frozen, static, control, sticky"),
        ("fdb.list", {"remote": "192.0.2.9"}, "remote 192.0.2.9: there is no such remote"),
        ("fdb.add", {"entries": [{"vni": 42, "mac": "zz", "remote": "192.0.2.2"}]}, "entries[0].mac: "),
        (
            "fdb.add",
            {"entries": [{"vni": 42, "mac": "02:00:00:00:00:01", "remote": "192.0.2.2", "sequence": 4}]},
            "a static entry has no sequence number",
        ),
        ("fdb.remove", {"entries": [{"vni": 42, "mac": "02:00:00:00:00:01"}]}, "02:00:00:00:00:01"),
        (
            "remote.remove",
            {"addresses": ["192.0.2.2"]},
            "it is in the flood set of VNI 42; remove that first",
        ),
        ("remote.change", {"address": "192.0.2.2", "vnis": [7]}, "VNI 42 names remote 192.0.2.2"),
        ("neighbour.remove", {"entries": [{"vni": 42, "address": "10.0.0.1"}]}, "10.0.0.1"),
        ("monitor", {"kinds": ["lerned"]}, "event 'lerned': there is no such kind"),
    ],
)
def test_a_mistake_is_named_and_changes_nothing(
    served: Socket, raw: Raw, do: str, given: dict[str, Any], said: str
) -> None:
    before = served.vtep.running()
    reply = raw.ask(do, 5, **given)
    assert (reply["id"], reply["error"]["code"]) == (5, "config"), reply
    assert said in reply["error"]["message"]
    assert served.vtep.running() == before
    assert "ok" in raw.ask("overview")  # and the connection goes on


def test_bulk_requests_apply_whole_or_not_at_all(served: Socket, raw: Raw) -> None:
    def entry(n: int, vni: int = 42) -> dict[str, Any]:
        return {"vni": vni, "mac": f"02:00:00:00:01:{n:02x}", "remote": "192.0.2.7"}

    assert raw.ask("fdb.add", entries=[entry(1), entry(2)])["ok"] == {"changed": 2}
    assert "error" in raw.ask("fdb.add", entries=[entry(3), entry(1)])
    assert "error" in raw.ask("fdb.replace", entries=[entry(3), entry(4, vni=7)])
    keys = [{"vni": 42, "mac": entry(n)["mac"]} for n in (1, 3)]
    assert "error" in raw.ask("fdb.remove", entries=keys)
    assert len(served.vtep.snapshot("fdb")) == 2
    assert [str(remote["address"]) for remote in raw.ask("remote.list")["ok"]["rows"]] == [
        "192.0.2.2",
        "192.0.2.7",
    ]


def test_what_another_outranks_stays_and_is_said(raw: Raw) -> None:
    entry = {"vni": 42, "mac": "02:00:00:00:00:01", "remote": "192.0.2.7", "kind": "control", "sequence": 4}
    assert raw.ask("fdb.add", entries=[entry])["ok"] == {"changed": 1}
    assert raw.ask("fdb.replace", entries=[{**entry, "remote": "192.0.2.8", "sequence": 3}])["ok"] == {
        "changed": 0
    }


def test_a_table_that_is_full_and_what_cannot_be_done_have_their_codes() -> None:
    with (
        serve({"segment": [{"vni": 42, "tap": "vx42"}], "tables": {"entries": 4}}) as served,
        served.raw() as raw,
    ):
        raw.read()
        entries = [{"vni": 42, "mac": f"02:00:00:00:01:{n:02x}", "remote": "192.0.2.7"} for n in range(200)]
        assert raw.ask("fdb.add", entries=entries)["error"]["code"] == "full"
        assert raw.ask("reload")["error"]["code"] == "unsupported"
        with Client(str(served.path)) as client:
            for do, given, kind in (
                ("fdb.add", {"entries": entries}, TableFullError),
                ("reload", {}, UnsupportedError),
                ("segment.remove", {"vnis": [7]}, ConfigError),
            ):
                with pytest.raises(kind):
                    client.ask(do, **given)


def test_the_file_is_read_again_and_what_is_wrong_with_it_is_said() -> None:
    mistakes: list[Exception] = []

    def reload() -> None:
        if mistakes:
            raise mistakes.pop()

    with serve(reload=reload) as served, Client(str(served.path)) as client:
        assert client.ask("reload") == {"segments": 1}
        mistakes.append(ConfigError("x.toml:3: vni: missing"))
        with pytest.raises(ConfigError, match=r"x\.toml:3: vni: missing"):
            client.ask("reload")
        mistakes.append(OSError(5, "no such disk"))
        with pytest.raises(ControlError, match="no such disk"):
            client.ask("reload")


def test_a_defect_of_ours_is_an_answer_and_in_the_log(
    served: Socket, raw: Raw, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(_HANDLERS, "overview", lambda *_: 1 / 0)
    assert raw.ask("overview")["error"] == {"code": "internal", "message": "division by zero"}
    assert "ZeroDivisionError" in caplog.text
    assert "ok" in raw.ask("lane.list")


def test_long_lists_come_in_pieces_while_others_are_answered(served: Socket) -> None:
    n = 20 * ROWS
    macs = 0x020000000000 + 1
    served.vtep.change_segment(42, maxaddress=0)
    served.vtep.add_fdb(42, [macs + i for i in range(n)], "192.0.2.2")
    with served.raw() as slow, served.raw() as other:
        assert slow.read()
        assert other.read()
        slow.socket.sendall(b'{"do":"fdb.list"}\n')  # and does not read
        started = time.monotonic()
        for _ in range(20):
            assert "ok" in other.ask("overview")
        assert time.monotonic() - started < 10
        pages = [slow.read()]
        while pages[-1].get("more"):
            pages.append(slow.read())
    rows = [row for page in pages for row in page["ok"]["rows"]]
    assert len(pages) == 20
    assert [row["mac"] for row in rows] == sorted({row["mac"] for row in rows})
    assert len(rows) == n


def test_rows_of_any_length_come_in_lines_that_are_not_too_long(served: Socket) -> None:
    addresses = [f"198.18.{n >> 8}.{n & 255}" for n in range(4000)]
    served.vtep.add_segments(
        [{"vni": 100 + n, "tap": f"vx{100 + n}", "remotes": addresses} for n in range(20)]
    )
    with served.raw() as raw:
        raw.read()
        raw.socket.sendall(b'{"id":"%b","do":"segment.list"}\n' % (b"x" * (MAX_LINE // 2 - 100)))
        rows, more = [], True
        while more:
            line = raw.lines.readline()
            assert len(line) <= MAX_LINE
            reply = json.loads(line)
            rows += reply["ok"]["rows"]
            more = reply.get("more", False)
    assert [row["vni"] for row in rows] == [42, *range(100, 120)]
    assert all(row["remotes"] == addresses for row in rows[1:])


def test_a_saved_state_of_any_length_arrives(served: Socket) -> None:
    served.vtep.add_fdb(42, [0x020000000001 + i for i in range(6000)], "192.0.2.2")
    with Client(str(served.path)) as client:
        pieces = [piece["text"] for piece in client.pages("save")]
    assert len(pieces) > 2
    assert "".join(pieces).count("mac = ") == 6000


# Events


def test_events_are_told_as_they_happen(served: Socket) -> None:
    with served.raw() as raw:
        raw.read()
        assert raw.ask("monitor", kinds=["learned", "remote_added"]) == {"id": 1, "ok": {}}
        served.vtep.learn(42, 0x020000000009, "192.0.2.2")
        event = raw.read()["event"]
        assert event.pop("time") == pytest.approx(time.time(), abs=30)
        assert event == {
            "kind": "learned",
            "vni": 42,
            "mac": "02:00:00:00:00:09",
            "remote": "192.0.2.2",
            "was": None,
            "plane": None,
        }
        served.vtep.add_remote("192.0.2.33")
        assert raw.read()["event"]["remote"] == "192.0.2.33"
    wait_until(lambda: not served.vtep.events._subscribers, "who has gone is told nothing")


def test_a_client_that_does_not_keep_up_is_told_how_much_it_missed(
    served: Socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "QUEUE_LEN", 10)
    with served.raw() as raw:
        raw.read()
        raw.ask("monitor", kinds=["remote_added"])
        n_told = n_dropped = 0
        for n in range(3000):
            served.vtep.add_remote(ip_address("198.18.0.0") + 1 + n)
        while n_told + n_dropped < 3000:
            line = raw.read()
            n_told += "event" in line
            n_dropped += line.get("dropped", 0)
    assert n_told + n_dropped == 3000
    assert n_dropped


# What clients cannot do


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"\n", "malformed"),
        (b"show\n", "malformed"),
        (b"\xff\xfe\x00\n", "malformed"),
        (b"[]\n", "malformed"),
        (b"{}\n", "malformed"),
        (b'{"do": 3}\n', "malformed"),
        (b'{"do": "overview", "with": []}\n', "malformed"),
        (b'{"do": "overview", "extra": 1}\n', "malformed"),
        (b"[" * 100_000 + b"\n", "malformed"),
        (b'{"do":"\\ud800"}\n', "malformed"),
        (b'{"do":"overview","id":' + b"[" * 50_000 + b"]" * 50_000 + b"}\n", "malformed"),
        (b"GET / HTTP/1.1\r\n\r\n", "malformed"),
        (b'{"do": "' + b"x" * MAX_LINE + b'"}\n', "too_long"),
        (b"x" * (3 * MAX_LINE), "too_long"),
    ],
    ids=lambda value: repr(value[:20]) if isinstance(value, bytes) else value,
)
def test_nonsense_ends_the_connection_and_nothing_else(
    served: Socket, raw: Raw, line: bytes, code: str
) -> None:
    reply = raw.say(line)
    assert (reply["id"], reply["error"]["code"]) == (None, code)
    assert raw.read() is None
    with Client(str(served.path)) as client:
        assert client.ask("overview")["segments"] == 1


@settings(max_examples=150, deadline=None)
@given(
    do=st.sampled_from(sorted(set(REQUESTS) - {"monitor", "packets"})) | st.text(max_size=20),
    given=st.dictionaries(
        st.sampled_from(["vni", "vnis", "entries", "segments", "mac", "set", "unset", "address", "limit"])
        | st.text(max_size=5),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["vni", "mac", "remote", "tap"]) | st.text(max_size=3), inner
                )
            ),
            max_leaves=6,
        ),
        max_size=4,
    ),
)
def test_whatever_is_asked_there_is_one_answer_and_no_defect(
    fuzzed: Socket, do: str, given: dict[str, Any]
) -> None:
    with fuzzed.raw() as raw:
        raw.read()
        reply = raw.ask(do, "x", **given)
        assert reply["id"] == "x"
        assert reply.get("error", {}).get("code") != "internal", reply


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Socket]:
    with serve() as made:
        yield made


def test_who_says_nothing_and_who_never_ends_a_line_is_let_go(
    served: Socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "IDLE_S", 0.3)
    with served.raw() as silent, served.raw() as slow:
        assert silent.read()
        assert slow.read()
        slow.socket.sendall(b'{"do":')
        for client in (silent, slow):
            assert client.read()["error"]["code"] == "idle"
            assert client.read() is None


def test_who_does_not_read_is_let_go(served: Socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "SLOW_S", 0.3)
    served.vtep.add_fdb(42, [0x020000000001 + i for i in range(30_000)], "192.0.2.2")
    with served.raw() as raw:
        raw.read()
        raw.socket.sendall(b'{"do":"fdb.list"}\n' * 20)
        time.sleep(1.0)
        n_read = 0
        while raw.read() is not None:
            n_read += 1
    assert n_read < 20 * 30  # pages of a thousand
    with Client(str(served.path)) as client:
        assert client.ask("overview")["entries"] == 30_000


def test_more_clients_than_there_is_room_for_are_told_so(served: Socket) -> None:
    crowd = [served.raw() for _ in range(server.MAX_CLIENTS)]
    assert all("protocol" in client.read() for client in crowd)
    with served.raw() as late:
        assert late.read()["error"]["code"] == "busy"
        assert late.read() is None
    for client in crowd[:10]:
        client.__exit__()

    def admitted() -> bool:
        with served.raw() as again:
            return "protocol" in again.read()

    wait_until(admitted, "there is room again")
    for client in crowd[10:]:
        assert "ok" in client.ask("overview")
        client.__exit__()


def test_only_so_many_long_lists_at_once(served: Socket) -> None:
    served.vtep.add_fdb(42, [0x020000000001 + i for i in range(30_000)], "192.0.2.2")
    clients = [served.raw() for _ in range(session.MAX_LISTS + 1)]
    for client in clients:
        client.read()
        client.socket.sendall(b'{"do":"fdb.list"}\n')
        if client is not clients[-1]:
            assert client.read()["more"]
    assert clients[-1].read()["error"]["code"] == "busy"
    assert "ok" in clients[0].read()
    for client in clients:
        client.__exit__()


def test_hammering_by_many_at_once_is_survived(served: Socket) -> None:
    """Good requests, nonsense, and connections that break off, from many threads."""
    good: list[Any] = []

    def hammer(number: int) -> None:
        for turn in range(15):
            with served.raw() as raw:
                if turn % 3 == 0:
                    raw.socket.sendall(b'{"do":"fdb.list"}\n')  # and away
                elif turn % 3 == 1:
                    raw.say(b"nonsense\n")
                else:
                    raw.read()
                    good.append(raw.ask("remote.list")["ok"])

    threads = [threading.Thread(target=hammer, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(good) == 20 * 5
    with Client(str(served.path)) as client:
        assert client.ask("overview")["segments"] == 1


def test_who_is_there_at_the_end_is_hung_up_on_and_it_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    with serve() as served:
        silent, watching, listing = (served.raw() for _ in range(3))
        for client in (silent, watching, listing):
            assert client.read()
        watching.ask("monitor")
        served.vtep.add_fdb(42, [0x020000000001 + i for i in range(20 * ROWS)], "192.0.2.2")
        assert listing.ask("fdb.list")["more"]
    for client in (silent, watching, listing):
        while client.read() is not None:
            pass
        client.__exit__()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


# Who may


def test_the_file_is_its_owners_alone_and_goes_with_the_server() -> None:
    with serve() as served:
        assert stat.S_IMODE(served.path.stat().st_mode) == 0o600
        path = served.path
    assert not path.exists()


ASK = """
import os, socket, sys
user, group, *more = map(int, sys.argv[2:])
s = socket.socket(socket.AF_UNIX)
os.setgroups(more); os.setgid(group); os.setuid(user)
s.connect(sys.argv[1]); print(s.makefile().readline())
"""


def asked_by(path: Path, user: int, group: int, *more: int) -> str:
    """What the socket says first to a process of another user."""
    command = [sys.executable, "-c", ASK, str(path), *map(str, (user, group, *more))]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.mark.usefixtures("root")
def test_another_user_may_not_use_it_whatever_the_files_mode(served: Socket) -> None:
    assert "PermissionError" in asked_by(served.path, 65534, 65534)
    served.path.chmod(0o666)
    assert json.loads(asked_by(served.path, 65534, 65534))["error"]["code"] == "denied"


@pytest.mark.usefixtures("root")
def test_the_group_may() -> None:
    group = next(
        entry for entry in Path("/etc/group").read_text().splitlines() if not entry.startswith("root:")
    )
    name, _, gid, _ = group.split(":")
    with serve(group=name) as served:
        assert stat.S_IMODE(served.path.stat().st_mode) == 0o660
        assert served.path.stat().st_gid == int(gid)
        for groups in ((int(gid),), (65533, int(gid))):  # as its own, and as one more
            assert "protocol" in asked_by(served.path, 65534, *groups)
        assert "PermissionError" in asked_by(served.path, 65534, 65533)


def test_a_group_that_there_is_not_is_a_mistake() -> None:
    with (
        pytest.raises(ConfigError, match=r"control\.group: 'nosuch': there is no such group"),
        serve(group="nosuch"),
    ):
        pass


# Where it is


def test_a_socket_that_is_left_over_is_taken_over_and_a_live_one_is_not(
    served: Socket, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"process {os.getpid()} has it; name another with --control"):
        use(served, served.path)
    left = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(left))
    use(served, left)
    assert not left.exists()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ConfigError, match="it is no socket"):
        use(served, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"
    with pytest.raises(ConfigError, match="longer than 107 bytes"):
        use(served, tmp_path / ("x" * 108))
    with pytest.raises(OSError, match=r"control socket .*: No such file or directory"):
        use(served, tmp_path / "no" / "such" / "x.sock")


def use(served: Socket, path: Path) -> None:
    with serving(Operated(served.vtep), Control(socket=str(path))), Client(str(path)) as client:
        client.ask("overview")


@pytest.mark.parametrize("ours", [True, False])
def test_what_is_left_of_namespaces_that_are_gone_is_removed_from_our_directory(
    served: Socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ours: bool
) -> None:
    if ours:
        monkeypatch.setattr(socket_file, "DIRECTORY", tmp_path)
    gone, kept = tmp_path / "netns-gone.sock", tmp_path / "other.sock"
    for path in (gone, kept):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
    (tmp_path / "netns-file.sock").write_text("not ours")
    (tmp_path / "netns-link.sock").symlink_to(kept)
    (tmp_path / "netns-directory.sock").mkdir()
    before = {path.name for path in tmp_path.iterdir()}
    with serving(Operated(served.vtep), Control(socket=str(tmp_path / "netns-live.sock"))):
        use(served, tmp_path / "netns-x.sock")
        left = {path.name for path in tmp_path.iterdir()}
        assert left == (before - {gone.name} if ours else before) | {"netns-live.sock"}


def test_what_cannot_be_removed_is_no_obstacle(
    served: Socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_file, "DIRECTORY", tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:  # connect says EPROTOTYPE
        other.bind(str(tmp_path / "netns-other.sock"))
        use(served, tmp_path / "netns-x.sock")
    assert (tmp_path / "netns-other.sock").is_socket()


def test_the_path_that_nobody_chose_is_one_for_each_namespace_and_may_be_missing(
    served: Socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = tmp_path / "netns"
    assert default_path(tmp_path, names) == tmp_path / "control.sock"
    names.mkdir()
    (names / "red").write_text("")
    (names / "blue").symlink_to(f"/proc/{os.getpid()}/ns/net")
    assert default_path(tmp_path, names) == tmp_path / "netns-blue.sock"
    monkeypatch.setattr(server, "default_path", lambda: served.path)
    with serving(Operated(served.vtep), Control()):
        pass
    assert f"going on without control socket {served.path}: process {os.getpid()} has it" in caplog.text
    with serving(Operated(served.vtep), Control(socket="none")):
        pass


def test_of_several_that_start_at_once_at_one_path_one_has_it(served: Socket, tmp_path: Path) -> None:
    path, had = tmp_path / "one.sock", []
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    barrier, over = threading.Barrier(8), threading.Event()

    def start() -> None:
        barrier.wait()
        try:
            with socket_file.listening(path, None):
                had.append(True)
                over.wait(20)
        except ConfigError:
            had.append(False)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(had) == 8, "all have tried")
    over.set()
    for thread in threads:
        thread.join()
    assert sum(had) == 1
    assert not path.exists()


# The client


def test_the_client_says_who_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vxcore.control.client.GREETING_S", 0.2)
    path = tmp_path / "x.sock"
    with pytest.raises(ControlError, match="no vxcore answers here"):
        Client(str(path))
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(path))
        mute.listen()
        with pytest.raises(ControlError, match=rf"process {os.getpid()} has this socket"):
            Client(str(path))


@pytest.mark.parametrize(
    ("greeting", "said"),
    [
        (b'{"vxcore":"9","protocol":2,"pid":1}\n', "vxcore 9 there speaks version 2"),
        (b"", "has hung up"),
        (
            b'{"id":null,"error":{"code":"denied","message":"user 7 may not use this socket"}}\n',
            "user 7 may not",
        ),
    ],
)
def test_the_client_does_not_go_on_with_what_it_does_not_know(
    tmp_path: Path, greeting: bytes, said: str
) -> None:
    path = tmp_path / "x.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()

        def greet() -> None:
            sock, _ = other.accept()
            with sock:
                sock.sendall(greeting)

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(VxcoreError, match=said):
            Client(str(path))
        thread.join()


def test_the_client_starts_without_numpy_and_msgspec() -> None:
    code = "import sys, vxcore.control.client; print({'numpy', 'msgspec', 'asyncio'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n"


# The page


def test_every_request_does_something_but_the_one_that_is_the_sessions() -> None:
    assert set(_HANDLERS) == set(REQUESTS) - {"monitor", "packets", "takeover"}


def test_the_page_has_every_request_with_its_fields_and_every_code() -> None:
    text = PAGE.read_text()
    rows = dict(re.findall(r"^\| `([a-z.]+)` \|([^|]*)\|", text, re.MULTILINE))
    wanted = {
        name: [field.encode_name for field in msgspec.structs.fields(request.takes)]
        for name, request in REQUESTS.items()
    }
    assert {
        name: re.findall(r"`(\w+)`", fields) for name, fields in rows.items() if name in REQUESTS
    } == wanted
    assert {code for code in CODES if f"| `{code}` | {CODES[code]} |" in text} == set(CODES)
