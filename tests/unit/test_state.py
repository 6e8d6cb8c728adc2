"""What was learned outlives a restart: in a file that is read whole or not at all."""

from __future__ import annotations

import logging
import os
import time
from contextlib import ExitStack
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vxcore import config, state
from vxcore._fast.table import Reader, Tables
from vxcore.errors import ConfigError
from vxcore.fdb import Fdb, now_s
from vxcore.journal import Journal
from vxcore.remotes import Remotes, packed
from vxcore.segments import Policy, Segments
from vxcore.state import Keeper, Learned, Memory, StateError

A, B, STRANGER, SIX = (ip_address(text) for text in ("192.0.2.1", "192.0.2.2", "203.0.113.9", "2001:db8::1"))
MACS = np.array([0x020000000001, 0x020000000002, 0x020000000003], np.uint64)


class Vtep:
    """The tables of a VTEP with two segments, and a reader as a lane has it."""

    def __init__(self, *, room: int = 100, learned_remotes: int = 10, **policy: Any) -> None:
        self.journal = Journal(Tables(4, 16, 64, room))
        self.remotes = Remotes(self.journal, max_learned=learned_remotes)
        self.segments = Segments(self.journal, self.remotes)
        self.fdb = Fdb(self.journal, self.remotes, self.segments)
        self.memory = Memory(self.journal, self.remotes, self.fdb)
        self.segments.add(42, 0, [A, B, SIX], Policy(**policy))
        self.segments.add(43, 1, [A], Policy(**policy))
        self.reader = Reader(self.journal.tables)

    def learn(self, vni: int, macs: Any, remote: Any, age: int = 0) -> None:
        number = self.remotes.number(remote)
        self.reader.enter()
        self.reader.fdb_learn(self.segments.number(vni), macs, number, (now_s() - age) & 0xFFFFFFFF)
        self.reader.leave()

    def known(self) -> dict[tuple[int, int], str]:
        """Who is where."""
        rows = self.fdb.snapshot()
        return {(int(r["vni"]), int(r["mac"])): str(self.remotes.address(int(r["remote"]))) for r in rows}

    def ages(self) -> dict[int, int]:
        return {int(r["mac"]): int(now_s() - r["seen_s"]) & 0xFFFFF for r in self.fdb.snapshot()}


def filled(**options: Any) -> Vtep:
    vtep = Vtep(**options)
    vtep.learn(42, MACS[:1], A)
    vtep.learn(42, MACS[1:], SIX, age=100)
    vtep.learn(43, MACS[:1], A)
    return vtep


KNOWN = {(42, 0x020000000001): str(A), (43, 0x020000000001): str(A)} | {
    (42, int(mac)): str(SIX) for mac in MACS[1:]
}


def test_what_was_learned_is_there_again_and_as_old(tmp_path: Path) -> None:
    path = str(tmp_path / "learned")
    state.write(path, filled().memory.take())
    fresh = Vtep()
    assert fresh.memory.put(state.read(path)) == 4
    assert fresh.known() == KNOWN
    assert 100 <= fresh.ages()[int(MACS[2])] < 160
    assert fresh.ages()[int(MACS[0])] < 60


def test_the_time_between_counts_as_age() -> None:
    taken = filled(ageing=300).memory.take()
    fresh = Vtep(ageing=300)
    assert fresh.memory.put(taken._replace(saved_s=taken.saved_s - 250)) == 2
    assert set(fresh.known()) == {(42, int(MACS[0])), (43, int(MACS[0]))}
    assert Vtep(ageing=300).memory.put(taken._replace(saved_s=taken.saved_s - 400)) == 0
    assert Vtep(ageing=0).memory.put(taken._replace(saved_s=taken.saved_s - 400)) == 4
    assert Vtep().memory.put(taken._replace(saved_s=taken.saved_s + 10_000)) == 4, "the clock was set back"


def test_an_address_heard_from_meanwhile_is_new_and_not_as_old_as_can_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vtep = filled()
    before = now_s()
    snapshot = vtep.fdb.snapshot

    def later() -> Any:
        vtep.learn(42, MACS[:1], A)
        return snapshot()

    monkeypatch.setattr(vtep.fdb, "snapshot", later)
    clock = iter([before, before + 1])
    monkeypatch.setattr(state, "now_s", lambda: next(clock))
    assert vtep.memory.take().rows["age_s"].max() < 200


def test_settings_say_what_still_holds() -> None:
    taken = filled().memory.take()
    assert Vtep(learning=False).memory.put(taken) == 0
    fewer = Vtep()
    fewer.segments.change(42, remotes=[A])
    assert fewer.memory.put(taken) == 2
    assert set(fewer.known().values()) == {str(A)}
    gone = Vtep()
    gone.segments.remove([43])
    assert gone.memory.put(taken) == 3
    listed = Vtep()
    listed.remotes.add(A, vnis=[(43, 43)])
    assert listed.memory.put(taken) == 3
    assert (42, int(MACS[0])) not in listed.known()


def test_set_entries_stay() -> None:
    fresh = Vtep()
    fresh.fdb.add(42, MACS[:1], fresh.remotes.number(B))
    fresh.memory.put(filled().memory.take())
    assert fresh.known()[42, int(MACS[0])] == str(B)


def test_what_was_set_is_not_kept() -> None:
    vtep = Vtep()
    vtep.fdb.add(42, MACS, vtep.remotes.number(B))
    assert len(vtep.memory.take().rows) == 0


def test_a_vtep_that_was_let_in_becomes_a_remote_again_where_it_still_is(caplog: Any) -> None:
    before = Vtep(source="any")
    with before.journal.change():
        before.remotes.learn(STRANGER)
    before.learn(42, MACS, STRANGER)
    taken = before.memory.take()
    for policy, n in (
        (Policy(source="any"), 3),
        (Policy(source=(ip_network("203.0.113.0/24"),)), 3),
        (Policy(), 0),
    ):
        fresh = Vtep(**policy._asdict())
        assert fresh.memory.put(taken) == n
        assert (fresh.remotes.number(STRANGER) is None) == (n == 0)
    full = Vtep(source="any", learned_remotes=0)
    assert full.memory.put(taken) == 0
    assert "no more may be" in caplog.text


def test_no_more_than_there_is_room_for() -> None:
    taken = filled().memory.take()
    fresh = Vtep(maxaddress=1)
    assert fresh.memory.put(taken) == 2
    assert len(fresh.known()) == 2


# The file


def damaged(path: Path) -> list[bytes]:
    whole = path.read_bytes()
    name, header, body = whole.split(b"\n", 2)
    return [
        b"",
        b"something else\n" + whole,
        name,
        whole[:-1],
        whole[: len(whole) // 2],
        whole + b"x",
        b"\n".join([b"vxcore learned 2", header, body]),
        b"\n".join([b"vxcore learned \xff", header, body]),
        b"\n".join([name, b"{}", body]),
        b"\n".join([name, header.replace(b'"remotes":2', b'"remotes":-2'), body]),
        b"\n".join([name, header, body[:-1] + bytes([body[-1] ^ 1])]),
    ]


def test_a_damaged_file_is_refused_and_kept_aside(tmp_path: Path, caplog: Any) -> None:
    path = tmp_path / "learned"
    state.write(str(path), filled().memory.take())
    for content in damaged(path):
        path.write_bytes(content)
        with pytest.raises(StateError):
            state.read(str(path))
        fresh = Vtep()
        Keeper(fresh.memory, str(path), 60).restore()
        assert not path.exists()
        assert Path(f"{path}.refused").read_bytes() == content
        assert fresh.known() == {}
    assert "its format is 2, and this vxcore knows 1; kept as" in caplog.text


def test_an_entry_of_a_remote_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "learned")
    taken = filled().memory.take()
    rows = taken.rows.copy()
    rows["remote"][0] = 7
    state.write(path, taken._replace(rows=rows))
    with pytest.raises(StateError, match="names a remote that it does not have"):
        state.read(path)


@given(st.binary(max_size=200), st.integers(0, 400))
def test_no_content_does_harm(tail: bytes, at: int) -> None:
    directory = Path(os.environ.get("TMPDIR", "/tmp")) / f"vxcore-state-{os.getpid()}"
    directory.mkdir(exist_ok=True)
    path = directory / "learned"
    try:
        state.write(str(path), Learned(np.zeros((1, 16), np.uint8), np.zeros(2, state.ROW), 0))
        path.write_bytes(path.read_bytes()[:at] + tail)
        whole = path.read_bytes()
        try:
            state.read(str(path))
        except StateError:
            return
        state.write(str(path), Learned(np.zeros((1, 16), np.uint8), np.zeros(2, state.ROW), 0))
        assert path.read_bytes() == whole
    finally:
        path.unlink(missing_ok=True)
        directory.rmdir()


def test_addresses_that_nobody_can_have_are_not_learned() -> None:
    vtep = Vtep(source="any")
    addresses = np.array([list(packed(ip_address("224.0.0.1"))), [0] * 16], np.uint8)
    rows = np.array([(0x010000000001, 42, 0, 0), (0, 42, 1, 0), (int(MACS[0]), 9999, 1, 0)], state.ROW)
    vtep.memory.put(Learned(addresses, rows, int(time.time())))
    assert vtep.known() == {}


def test_it_is_written_in_time_and_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "learned"
    vtep = filled()
    with ExitStack() as undo:
        Keeper(vtep.memory, str(path), 0.01).start(undo)
        deadline = time.monotonic() + 10
        while not path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        vtep.learn(43, MACS[2:], A)
    assert len(state.read(str(path)).rows) == 5
    assert [file.name for file in tmp_path.iterdir()] == ["learned"]


def test_a_file_that_cannot_be_written_is_told_of_once(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "vxcore")
    path = tmp_path / "missing" / "learned"
    keeper = Keeper(filled().memory, str(path), 60)
    keeper.restore()
    keeper.save()
    keeper.save()
    assert caplog.text.count("cannot be written: No such file or directory") == 1
    path.parent.mkdir()
    keeper.save()
    assert caplog.text.count("is written again") == 1
    assert len(state.read(str(path)).rows) == 4


def test_a_disk_that_fills_up_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "learned"
    keeper = Keeper(filled().memory, str(path), 60)
    keeper.save()
    before = path.read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    keeper.save()
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["learned"]


# Settings


def test_the_setting() -> None:
    settings = config.from_mapping({"underlay": {"local": "192.0.2.1"}, "state": {"file": "/var/lib/x"}})
    assert settings.state == config.State(file="/var/lib/x", interval=60)
    with pytest.raises(ConfigError, match=r"state\.file"):
        config.from_mapping({"underlay": {"local": "192.0.2.1"}, "state": {"file": "/var/lib/"}})
