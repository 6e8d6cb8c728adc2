"""The tables beside a model in plain Python: whatever is done to both, both say the same.

Place in the house: Hypothesis makes up the story. Few VNIs, addresses and remotes, so that they meet;
two of the VNIs differ in their high bits only.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vxcore._fast.table import KINDS, PORT, Reader, Tables

VNIS = [7, 8, 0x010007]
MACS = [0x020000000000 + n for n in range(1, 6)]
ADDRESSES = [bytes(15) + bytes([n]) for n in range(9, 3, -1)]
AGEING_S, MAX_MOVES, WINDOW_S = 10, 3, 25

vnis, macs = st.sampled_from(VNIS), st.sampled_from(MACS)
kinds = st.sampled_from(["static", "control", "sticky"])


@dataclass(frozen=True)
class Entry:
    kind: str
    target: int
    number: int  # when it was seen, or its sequence number
    void: bool = False  # flushed, and there until it is swept

    @property
    def is_set(self) -> bool:
        return self.kind in ("static", "control", "sticky")


@dataclass
class Segment:
    flood: set[int]
    max_learned: int
    entries: dict[int, Entry] = field(default_factory=dict)

    def n_learned(self) -> int:
        return sum(not entry.is_set for entry in self.entries.values())


class Model:
    """What the tables should do, an entry at a time."""

    def __init__(self) -> None:
        self.segments: dict[int, Segment] = {}
        self.remotes: dict[int, bytes] = {}
        self.peers: set[tuple[int, int]] = set()  # VNI, remote
        self.windows: dict[tuple[int, int], tuple[int, int]] = {}  # since when, how many moves
        self.now = 1000

    def counts(self, entry: Entry) -> bool:
        return entry.is_set or not (entry.void or self.now - entry.number >= AGEING_S)

    def find(self, vni: int, mac: int) -> int:
        entry = self.segments[vni].entries.get(mac)
        return entry.target if entry and self.counts(entry) else -1

    def learn(self, vni: int, mac: int, target: int) -> None:
        segment, fresh = self.segments[vni], Entry("learned", target, self.now)
        entry = segment.entries.get(mac)
        if entry is None:
            if not segment.max_learned or segment.n_learned() < segment.max_learned:
                segment.entries[mac] = fresh
        elif not entry.is_set:
            segment.entries[mac] = self.learn_again(vni, mac, entry, fresh)

    def learn_again(self, vni: int, mac: int, entry: Entry, fresh: Entry) -> Entry:
        if not self.counts(entry):
            return fresh
        if entry.target == fresh.target:
            return replace(entry, number=self.now)
        ours = PORT & (entry.target | fresh.target)
        held = entry.target & PORT and self.is_restless(vni, mac)
        if entry.kind == "frozen" and (not ours or held):
            return entry
        if self.note_move(vni, mac) < MAX_MOVES:
            return fresh
        # An address that is here and elsewhere by turns is held here.
        target = entry.target if ours and not fresh.target & PORT else fresh.target
        return replace(fresh, kind="frozen", target=target)

    def notice(self, vni: int, mac: int, target: int) -> str:
        """A frame to more than one host, where what is behind our port is not kept."""
        entry = self.segments[vni].entries.get(mac)
        if entry is None or not self.counts(entry) or entry.is_set:
            return "well"
        after = self.learn_again(vni, mac, entry, Entry("learned", target, self.now))
        self.segments[vni].entries[mac] = after
        if after.kind != "frozen" or not self.is_restless(vni, mac):
            return "well"
        return "looping" if after.target == target else "elsewhere"

    def is_restless(self, vni: int, mac: int) -> bool:
        since, _ = self.windows.get((vni, mac), (-WINDOW_S, 0))
        return self.now - since < WINDOW_S

    def note_move(self, vni: int, mac: int) -> int:
        since, moves = self.windows.get((vni, mac), (self.now, 0))
        if self.now - since >= WINDOW_S:
            since, moves = self.now, 0
        self.windows[vni, mac] = since, moves + 1
        return moves + 1

    def outranks(self, new: Entry, old: Entry) -> bool:
        """RFC 7432 sections 15 and 15.2, and a static entry above all."""
        if not old.is_set or new.kind == "static":
            return True
        if old.kind == "static" or new.target == old.target:
            return old.kind != "static"
        if (new.kind, old.kind) == ("control", "sticky"):
            return False
        if new.number != old.number or new.kind != old.kind:
            return (new.number, new.kind == "sticky") > (old.number, old.kind == "sticky")
        if PORT & (new.target | old.target):
            return False
        return self.remotes[new.target] < self.remotes[old.target]

    def set(self, vni: int, mac: int, entry: Entry) -> bool:
        old = self.segments[vni].entries.get(mac)
        if old is not None and not self.outranks(entry, old):
            return False
        self.segments[vni].entries[mac] = entry
        return True

    def flush(self, vni: int | None, target: int | None) -> None:
        """A flushed segment counts its entries no more; of others they stay until swept."""
        for number, segment in self.segments.items():
            for mac, entry in list(segment.entries.items()):
                if entry.is_set:
                    continue
                if number == vni:
                    del segment.entries[mac]
                elif entry.target == target:
                    segment.entries[mac] = replace(entry, void=True)

    def sweep(self) -> None:
        for segment in self.segments.values():
            segment.entries = {mac: entry for mac, entry in segment.entries.items() if self.counts(entry)}

    def forget_remote(self, remote: int) -> None:
        del self.remotes[remote]
        self.peers = {pair for pair in self.peers if pair[1] != remote}
        for segment in self.segments.values():
            segment.entries = {mac: entry for mac, entry in segment.entries.items() if entry.target != remote}


class TablesAndModel(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.model = Model()
        self.tables = Tables(len(VNIS), 4, 12, 40, max_moves=MAX_MOVES, moves_window_s=WINDOW_S)
        self.reader = Reader(self.tables)
        for vni in VNIS:
            self.put_segment(vni, set(), 0)

    # Segments, remotes, peers

    def number(self, vni: int) -> int:
        self.reader.enter()
        number = self.reader.find_segment(vni)
        self.reader.leave()
        return number

    def put_segment(self, vni: int, flood: set[int], max_learned: int) -> None:
        options = {"learning": True, "ageing_s": AGEING_S, "max_learned": max_learned}
        self.tables.add_segment(vni, 0, flood, **options)
        self.model.segments[vni] = Segment(flood, max_learned)

    @rule(vni=vnis, max_learned=st.sampled_from([0, 1, 3]), data=st.data())
    def add_or_remove_segment(self, vni: int, max_learned: int, data: st.DataObject) -> None:
        if vni in self.model.segments:
            self.tables.remove_segments(self.number(vni))
            del self.model.segments[vni]
            self.model.peers = {pair for pair in self.model.peers if pair[0] != vni}
        else:
            self.put_segment(vni, self.some_remotes(data), max_learned)

    def some_remotes(self, data: st.DataObject) -> set[int]:
        return {remote for remote in sorted(self.model.remotes) if data.draw(st.booleans())}

    @rule(vni=vnis, data=st.data())
    def change_flood(self, vni: int, data: st.DataObject) -> None:
        if vni in self.model.segments:
            self.model.segments[vni].flood = flood = self.some_remotes(data)
            self.tables.change_segment(self.number(vni), flood=flood)

    @rule(address=st.sampled_from(ADDRESSES))
    def add_remote(self, address: bytes) -> None:
        if len(self.model.remotes) < 4 and address not in self.model.remotes.values():
            remote = self.tables.add_remote(address, bytes(28))
            assert remote not in self.model.remotes
            self.model.remotes[remote] = address

    @precondition(lambda self: self.model.remotes)
    @rule(data=st.data())
    def remove_remote(self, data: st.DataObject) -> None:
        remote = data.draw(st.sampled_from(sorted(self.model.remotes)))
        if not any(remote in segment.flood for segment in self.model.segments.values()):
            self.tables.remove_remotes(remote)
            self.model.forget_remote(remote)

    @precondition(lambda self: self.model.remotes)
    @rule(vni=vnis, data=st.data())
    def add_or_remove_peer(self, vni: int, data: st.DataObject) -> None:
        if vni in self.model.segments:
            pair = (vni, data.draw(st.sampled_from(sorted(self.model.remotes))))
            change = self.tables.remove_peers if pair in self.model.peers else self.tables.add_peers
            change([(self.number(vni), pair[1])])
            self.model.peers ^= {pair}

    # Entries

    def target(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from([*sorted(self.model.remotes), PORT | 1, PORT | 2]))

    @rule(vni=vnis, mac=macs, data=st.data())
    def learn(self, vni: int, mac: int, data: st.DataObject) -> None:
        if vni in self.model.segments:
            target, segment = self.target(data), self.number(vni)
            self.reader.enter()
            self.reader.fdb_learn(segment, mac, target, self.model.now)
            self.reader.leave()
            self.model.learn(vni, mac, target)

    @rule(vni=vnis, mac=macs, port=st.sampled_from([1, 2]))
    def notice(self, vni: int, mac: int, port: int) -> None:
        if vni in self.model.segments:
            segment = self.number(vni)
            self.reader.enter()
            seen = self.reader.fdb_notice(segment, mac, PORT | port, self.model.now)
            self.reader.leave()
            assert seen == self.model.notice(vni, mac, PORT | port)

    @rule(vni=vnis, mac=macs, kind=kinds, sequence=st.integers(0, 3), data=st.data())
    def put(self, vni: int, mac: int, kind: str, sequence: int, data: st.DataObject) -> None:
        if vni in self.model.segments:
            target, sequence = self.target(data), 0 if kind == "static" else sequence
            applied = self.tables.fdb_replace(vni, mac, target, kind=kind, sequence=sequence)
            assert applied == self.model.set(vni, mac, Entry(kind, target, sequence))

    @rule(vni=vnis, mac=macs)
    def delete(self, vni: int, mac: int) -> None:
        if vni in self.model.segments:
            there = self.model.segments[vni].entries.pop(mac, None)
            n_deleted = self.tables.fdb_delete(vni, mac, missing_ok=True)
            assert n_deleted or not there
            # What was flushed with its segment is gone for all but the sweep.
            assert not n_deleted or there or self.tables.generation > 1

    @rule(vni=vnis)
    def flush_segment(self, vni: int) -> None:
        if vni in self.model.segments:
            self.tables.flush(vni=vni)
            self.model.flush(vni, None)

    @rule(data=st.data())
    def flush_target(self, data: st.DataObject) -> None:
        target = self.target(data)
        self.tables.flush(**({"port": target & ~PORT} if target & PORT else {"remote": target}))
        self.model.flush(None, target)

    @rule(seconds=st.integers(1, 6))
    def wait(self, seconds: int) -> None:
        self.model.now += seconds

    @rule(whole=st.booleans())
    def sweep(self, whole: bool) -> None:
        if whole:
            self.tables.sweep(self.model.now)
        else:
            self.reader.enter()
            self.reader.fdb_sweep(1000, self.model.now)
            self.reader.leave()
        self.model.sweep()

    @rule(vni=vnis, data=st.data())
    def change_much_and_fail(self, vni: int, data: st.DataObject) -> None:
        target = self.target(data)
        try:
            with self.tables.transaction():
                for number in self.tables.segments()["segment"].tolist():
                    self.tables.fdb_delete(self.tables.vni_of(number), MACS[:3], missing_ok=True)
                    self.tables.fdb_replace(self.tables.vni_of(number), MACS, target)
                    self.tables.flush(vni=self.tables.vni_of(number), port=1)
                    self.tables.remove_segments(number)
                self.tables.set_peers([])
                raise KeyError
        except KeyError:
            pass

    # What both must say

    @invariant()
    def lookups_agree(self) -> None:
        self.reader.enter()
        for vni, segment in self.model.segments.items():
            number = self.reader.find_segment(vni)
            found = self.reader.fdb_find(number, MACS, self.model.now).tolist()
            assert found == [self.model.find(vni, mac) for mac in MACS]
            assert self.reader.flood(number) == sorted(segment.flood)
            senders = {remote for remote in self.model.remotes if self.reader.is_peer(number, remote)}
            assert senders == segment.flood | {remote for of, remote in self.model.peers if of == vni}
        for vni in set(VNIS) - set(self.model.segments):
            assert self.reader.find_segment(vni) == -1
        found = {address: self.reader.find_remote(address) for address in ADDRESSES}
        assert {number: address for address, number in found.items() if number >= 0} == self.model.remotes
        self.reader.leave()

    @invariant()
    def snapshots_agree(self) -> None:
        rows = self.tables.fdb(self.model.now)
        told = {(row["vni"], row["mac"], row["kind"]): self.told(row) for row in rows}
        assert len(told) == len(rows), "an entry is told twice"
        assert told == {
            (vni, mac, KINDS[entry.kind]): (entry.target, entry.number)
            for vni, segment in self.model.segments.items()
            for mac, entry in segment.entries.items()
            if self.model.counts(entry)
        }
        counts = {row["vni"]: row["n_learned"] for row in self.tables.segments()}
        assert counts == {vni: segment.n_learned() for vni, segment in self.model.segments.items()}

    def told(self, row: Any) -> tuple[int, int]:
        target = PORT | int(row["port"]) if row["remote"] < 0 else int(row["remote"])
        learned = row["kind"] in (KINDS["learned"], KINDS["frozen"])
        return target, int(np.where(learned, row["seen_s"], row["sequence"]))


TestTablesAndModel = TablesAndModel.TestCase
TestTablesAndModel.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
