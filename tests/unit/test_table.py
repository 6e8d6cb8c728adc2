"""The tables: what Python changes, what a lane sees of it and when, and what it learns."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from vxcore._fast.table import KINDS, PORT, Reader, Tables
from vxcore.errors import TableFullError

MAC = 0x020000000000
NOW = 5000
POLICY: dict[str, Any] = {"learning": True, "ageing_s": 300, "max_learned": 0}


def mapped(last: int) -> bytes:
    return bytes(10) + b"\xff\xff\xc0\x00" + last.to_bytes(2, "big")


class Lane:
    """A reader that enters for each question, as a lane does for each batch."""

    def __init__(self, tables: Tables) -> None:
        self.reader = Reader(tables)

    def find(self, macs: Any = MAC, segment: int = 0, now_s: int = NOW) -> list[int]:
        self.reader.enter()
        targets = self.reader.fdb_find(segment, macs, now_s).tolist()
        self.reader.leave()
        return targets

    def learn(self, macs: Any = MAC, target: Any = 0, segment: int = 0, now_s: int = NOW) -> None:
        self.reader.enter()
        self.reader.fdb_learn(segment, macs, target, now_s)
        self.reader.leave()

    def sweep(self, now_s: int = NOW) -> None:
        self.reader.enter()
        self.reader.fdb_sweep(1_000_000, now_s)
        self.reader.leave()


def small(n_remotes: int = 4, **options: Any) -> tuple[Tables, Lane]:
    """VNI 7 with remote 0 in its flood set, and VNI 8 with all."""
    tables = Tables(8, 64, 200, **options)
    for n in range(n_remotes):
        tables.add_remote(mapped(n), bytes(16))
    tables.add_segment(7, 0, [0], **POLICY)
    tables.add_segment(8, 1, range(n_remotes), **POLICY)
    return tables, Lane(tables)


def everything(tables: Tables) -> list[bytes]:
    """All but the FDB, to be compared."""
    return [part.tobytes() for part in (tables.segments(), tables.remotes(), tables.peers())]


def counted(tables: Tables) -> dict[str, int]:
    """The counters that are not 0."""
    return {name: count for name, count in tables.fdb_counters().items() if count}


# Filling


def test_static_entries_come_back() -> None:
    tables = Tables(1, 1, 1)
    remote = tables.add_remote(mapped(2), bytes(16))
    tables.add_segment(0xABCDEF, 0, [remote], learning=True, ageing_s=300, max_learned=0)
    macs = [MAC + n for n in range(20_000)]
    for mac in macs:
        tables.add_static(0xABCDEF, mac, remote)
    tables.add_static(0xABCDEF, macs[0], remote)
    rows = tables.fdb_rows()
    assert sorted(rows) == [(0xABCDEF, mac, remote, True) for mac in macs]
    assert tables.fdb_counters()["entries"] == len(macs)


def test_segments_and_remotes_beyond_the_room_are_refused() -> None:
    tables = Tables(1, 1, 1)
    tables.add_remote(mapped(2), bytes(16))
    with pytest.raises(ValueError, match="more than 1 remotes"):
        tables.add_remote(mapped(3), bytes(16))
    with pytest.raises(ValueError, match="more than 1 segments or 1 flood members"):
        tables.add_segment(1, 0, [0, 0, 1], learning=True, ageing_s=1, max_learned=0)
    assert (len(tables.remotes()), len(tables.segments())) == (1, 0)


@pytest.mark.parametrize("n_entries", [16, 1000, 100_000])
def test_a_table_holds_all_it_was_made_for_and_then_says_so(n_entries: int) -> None:
    tables, lane = small(max_entries=n_entries)
    macs = np.random.default_rng(3).permutation(n_entries + 1).astype(np.uint64) + np.uint64(MAC)
    tables.fdb_add(7, macs[:-1], 0)
    with pytest.raises(TableFullError, match="no room in the forwarding table for 0200"):
        tables.add_static(7, int(macs[-1]), 0)
    lane.learn(macs[-1:])
    assert lane.find(macs) == [0] * n_entries + [-1]
    assert counted(tables) == {"entries": n_entries, "overflow": 1}


def test_addresses_one_after_the_other_find_room_under_any_seed() -> None:
    macs = np.arange(1000, dtype=np.uint64) + np.uint64(MAC)
    for _ in range(1000):  # each with a seed of its own
        tables, _lane = small(max_entries=1000)
        assert tables.fdb_add(7, macs, 0) == 1000


def test_what_was_deleted_makes_room_at_once() -> None:
    tables, _ = small(max_entries=1000)
    macs = np.arange(1000, dtype=np.uint64) + np.uint64(MAC)
    for _round in range(5):
        assert tables.fdb_add(7, macs, 1) == 1000
        assert tables.fdb_delete(7, macs) == 1000
    assert counted(tables) == {}


# Looking up


def test_every_vni_finds_its_own_segment() -> None:
    tables = Tables(3, 1, 0)
    vnis = [0, 0xABCDEF, 0xFFFFFF]
    numbers = tables.add_segments(vnis, np.empty((3, 0), np.uint32))
    reader = Reader(tables)
    reader.enter()
    assert [reader.find_segment(vni) for vni in vnis] == numbers.tolist() == [0, 1, 2]
    assert [reader.find_segment(vni) for vni in (1, 0xABCDEE, 0x1000000 - 2)] == [-1] * 3
    assert [tables.vni_of(n) for n in range(3)] == vnis


def test_vnis_that_share_their_low_bits_do_not_share_addresses() -> None:
    tables = Tables(2, 2, 0)
    tables.add_remote(mapped(0), bytes(16))
    tables.add_remote(mapped(1), bytes(16))
    tables.add_segments([0x010005, 0x020005], np.empty((2, 0), np.uint32))
    lane = Lane(tables)
    macs = np.arange(500, dtype=np.uint64) + np.uint64(MAC)
    lane.learn(macs, 0, segment=0)
    assert lane.find(macs, segment=1) == [-1] * 500
    lane.learn(macs, 1, segment=1)
    assert lane.find(macs, segment=0) == [0] * 500


def test_remotes_are_found_by_address_while_some_come_and_go() -> None:
    tables = Tables(1, 500, 1)
    numbers = {n: tables.add_remote(mapped(n), bytes(16)) for n in range(400)}
    tables.remove_remotes([numbers.pop(n) for n in range(0, 400, 3)])
    numbers |= {n: tables.add_remote(mapped(n), bytes(28)) for n in range(400, 500)}
    reader = Reader(tables)
    reader.enter()
    found = {n: reader.find_remote(mapped(n)) for n in range(600)}
    assert {n: number for n, number in found.items() if number >= 0} == numbers
    assert len(set(numbers.values())) == len(numbers) == len(tables.remotes())
    assert all(reader.remote(number) == mapped(n) for n, number in numbers.items())


@pytest.mark.parametrize("n", [0, 1, 2, 3, 8, 9, 64])
def test_a_flood_set_and_its_members_as_sources(n: int) -> None:
    tables = Tables(1, 200, 64)
    remotes = [tables.add_remote(mapped(k), bytes(16)) for k in range(130)]
    members = remotes[1 : 2 * n + 1 : 2]
    tables.add_segment(7, 0, reversed(members), **POLICY)
    reader = Reader(tables)
    reader.enter()
    assert reader.flood(0) == tables.flood(0).tolist() == members
    assert [remote for remote in remotes if reader.is_peer(0, remote)] == members


def test_who_may_send() -> None:
    tables, lane = small()

    def peers() -> list[int]:
        lane.reader.enter()
        senders = [remote for remote in range(4) if lane.reader.is_peer(0, remote)]
        lane.reader.leave()
        return senders

    assert peers() == [0]
    tables.set_peers([(0, 2), (1, 3)])
    assert peers() == [0, 2]
    tables.add_peers([(0, 3), (0, 2)])
    assert peers() == [0, 2, 3]
    assert tables.peers().tolist() == [[0, 2], [0, 3], [1, 3]]
    tables.remove_peers([(0, 2), (0, 1)])
    assert peers() == [0, 3]
    tables.change_segment(0, any_source=True)
    assert peers() == [0, 1, 2, 3]
    tables.change_segment(0, any_source=False)
    assert peers() == [0, 3]


def test_a_new_segment_or_remote_inherits_no_peer() -> None:
    tables = Tables(2, 2, 0)
    for n in range(2):
        tables.add_remote(mapped(n), bytes(16))
        tables.add_segment(n, 0, [], **POLICY)
    tables.add_peers([(0, 0), (0, 1), (1, 0), (1, 1)])
    tables.remove_segments(0)
    tables.remove_remotes(1)
    assert tables.peers().tolist() == [[1, 0]]
    assert tables.add_segment(5, 0, [], **POLICY) == 0
    assert tables.add_remote(mapped(9), bytes(16)) == 1
    assert tables.peers().tolist() == [[1, 0]]


# Learning


def test_learning_refreshing_and_ageing() -> None:
    tables, lane = small()
    lane.learn(target=1)
    lane.learn(target=1, now_s=NOW + 200)
    assert lane.find(now_s=NOW + 499) == [1]
    assert lane.find(now_s=NOW + 500) == [-1]
    lane.sweep(NOW + 499)
    assert counted(tables) == {"entries": 1, "learned": 1}
    lane.sweep(NOW + 500)
    assert counted(tables) == {"learned": 1, "aged": 1}


def test_looking_up_does_not_keep_an_address_alive() -> None:
    _, lane = small()
    lane.learn(target=1)
    for second in range(0, 300, 10):
        assert lane.find(now_s=NOW + second) == [1]
    assert lane.find(now_s=NOW + 300) == [-1]


def test_without_ageing_an_address_stays() -> None:
    tables, lane = small()
    tables.change_segment(0, ageing_s=0)
    lane.learn(target=1)
    assert lane.find(now_s=NOW + 400_000) == [1]


def test_a_lane_whose_clock_is_behind_neither_ages_nor_ages_back() -> None:
    _, lane = small()
    lane.learn(target=1, now_s=NOW + 1)
    assert lane.find(now_s=NOW) == [1]
    lane.learn(target=1, now_s=NOW)
    assert lane.find(now_s=NOW + 300) == [1]


@pytest.mark.parametrize("mac", [0, 0xFFFFFFFFFFFF, 0x01005E000001, 0x333300000001])
def test_zero_and_group_addresses_are_not_learned(mac: int) -> None:
    tables, lane = small()
    lane.learn(mac)
    assert lane.find(mac) == [-1]
    assert counted(tables) == {}


def test_a_segment_learns_no_more_than_it_may_and_keeps_what_it_has() -> None:
    tables, lane = small()
    tables.change_segment(0, max_learned=10)
    macs = np.arange(15, dtype=np.uint64) + np.uint64(MAC)
    lane.learn(macs, 1)
    assert lane.find(macs) == [1] * 10 + [-1] * 5
    assert tables.segments()["n_learned"].tolist() == [10, 0]
    lane.learn(macs, 2, segment=1)
    assert counted(tables) == {"entries": 25, "learned": 25, "overflow": 5}
    lane.sweep(NOW + 300)
    lane.learn(macs[10:], 1, now_s=NOW + 300)
    assert lane.find(macs, now_s=NOW + 300) == [-1] * 10 + [1] * 5


def test_an_address_moves_and_after_five_moves_stays() -> None:
    tables, lane = small()
    for n in range(8):
        lane.learn(target=n % 4, now_s=NOW + n)
    assert lane.find(now_s=NOW + 8) == [1]  # the fifth move brought it there
    assert tables.fdb()["kind"].tolist() == [KINDS["frozen"]]
    assert counted(tables) == {"entries": 1, "learned": 1, "moves": 5, "frozen": 1, "held": 2}
    lane.learn(target=1, now_s=NOW + 200)
    assert lane.find(now_s=NOW + 499) == [1]
    lane.learn(target=3, now_s=NOW + 500)  # silent for the ageing time: as if it were new
    assert lane.find(now_s=NOW + 500) == [3]


def test_moves_count_within_their_window_only() -> None:
    tables, lane = small(max_moves=3, moves_window_s=10)
    for n in range(40):
        lane.learn(target=n % 2, now_s=NOW + 6 * n)
    assert counted(tables) == {"entries": 1, "learned": 1, "moves": 39}


def test_moves_are_not_held_against_each_other() -> None:
    tables, lane = small(max_moves=3)
    for target in (0, 1, 2):
        for n in range(2000):
            lane.learn(MAC + n, target)
    assert counted(tables) == {"entries": 2000, "learned": 2000, "moves": 4000}


def test_with_no_limit_an_address_moves_for_ever() -> None:
    tables, lane = small(max_moves=0)
    for n in range(300):
        lane.learn(target=n % 2)
    assert counted(tables) == {"entries": 1, "learned": 1, "moves": 299}


@pytest.mark.parametrize("kind", ["static", "control", "sticky"])
def test_what_was_set_is_not_hijacked(kind: str) -> None:
    tables, lane = small()
    tables.fdb_replace(7, MAC, 2, kind=kind)
    lane.learn(target=3)
    lane.learn(target=2)
    assert lane.find(now_s=NOW + 100_000) == [2]
    lane.sweep(NOW + 100_000)
    assert counted(tables) == {"entries": 1, "refused": 1}


# Setting


def test_control_plane_entries_by_their_sequence_numbers() -> None:
    tables, lane = small()
    steps = [
        ({"kind": "control", "sequence": 5}, 2, 1, 2),
        ({"kind": "control", "sequence": 4}, 3, 0, 2),  # older news
        ({"kind": "control", "sequence": 5}, 3, 0, 2),  # a tie: the lower address stays
        ({"kind": "control", "sequence": 5}, 1, 1, 1),  # and wins
        ({"kind": "control", "sequence": 3}, 1, 1, 1),  # what a remote says of itself is news
        ({"kind": "sticky", "sequence": 3}, 2, 1, 2),
        ({"kind": "control", "sequence": 9}, 3, 0, 2),  # RFC 7432 section 15.2
        ({"kind": "sticky", "sequence": 9}, 3, 1, 3),
        ({"kind": "static"}, 0, 1, 0),
        ({"kind": "sticky", "sequence": 99}, 3, 0, 0),
    ]
    for options, remote, applied, there in steps:
        assert tables.fdb_replace(7, MAC, remote, **options) == applied, options
        assert lane.find() == [there], options


def test_a_control_plane_entry_replaces_what_was_learned() -> None:
    tables, lane = small()
    lane.learn(target=3)
    assert tables.fdb_add(7, MAC, 1, kind="control", sequence=77) == 1
    assert tables.segments()["n_learned"].tolist() == [0, 0]
    assert tables.fdb()[["kind", "sequence"]].tolist() == [(KINDS["control"], 77)]


def test_bulk_in_every_form() -> None:
    tables, lane = small()
    octets = np.array([[2, 0, 0, 0, 0, n] for n in range(1, 4)], np.uint8)
    assert tables.fdb_add([7, 7, 8], octets, [0, PORT | 5, 2]) == 3
    assert lane.find([MAC + 1, MAC + 2, MAC + 3]) == [0, PORT | 5, -1]
    assert lane.find(octets[2:], segment=1) == [2]
    rows = np.sort(tables.fdb(), order="mac")
    assert rows[["vni", "mac", "remote", "port"]].tolist() == [
        (7, MAC + 1, 0, -1),
        (7, MAC + 2, -1, 5),
        (8, MAC + 3, 2, -1),
    ]
    assert tables.fdb_delete([7, 8, 8], octets, missing_ok=True) == 2
    assert tables.fdb()["mac"].tolist() == [MAC + 2]


WRONG_ROWS = {
    "VNI 9, 02:00:00:00:00:02: there is no segment of this VNI": {"vni": [7, 9]},
    "VNI 7, 00:00:00:00:00:00: not the address of one station": {"mac": [MAC + 1, 0]},
    "VNI 7, 01:00:5e:00:00:01: not the address of one station": {"mac": [MAC + 1, 0x01005E000001]},
    "VNI 7, .*: it has more than 48 bits": {"mac": [MAC + 1, 1 << 50]},
    "VNI 7, 02:00:00:00:00:02: there is no remote 4": {"remote": [1, 4]},
    "VNI 7, 02:00:00:00:00:02: there is no overlay port 65536": {"remote": [1, PORT | 65536]},
    "remote: -1 to 1 do not fit uint32": {"remote": [1, -1]},
    "vni: 3 rows, not 2": {"vni": [7, 7, 7]},
    "kind 'dynamic': one of static, control, sticky is right": {"kind": "dynamic"},
    "a static entry has no sequence number": {"sequence": 4},
}


@pytest.mark.parametrize("message", WRONG_ROWS)
def test_one_wrong_row_and_none_is_applied(message: str) -> None:
    tables, _ = small()
    rows: dict[str, Any] = {"vni": [7, 7], "mac": [MAC + 1, MAC + 2], "remote": [1, 1], **WRONG_ROWS[message]}
    with pytest.raises(ValueError, match=message):
        tables.fdb_replace(rows.pop("vni"), rows.pop("mac"), rows.pop("remote"), **rows)
    assert counted(tables) == {}


def test_adding_what_is_there_and_deleting_what_is_not_undoes_the_rest() -> None:
    tables, lane = small()
    lane.learn([MAC + 1, MAC + 2], 3)
    tables.fdb_add(7, MAC + 5, 2)
    before = sorted(tables.fdb().tolist())
    with pytest.raises(ValueError, match="VNI 7, 02:00:00:00:00:05: there is an entry already"):
        tables.fdb_add(7, [MAC + 1, MAC + 9, MAC + 5, MAC + 10], 0)
    with pytest.raises(ValueError, match="VNI 7, 02:00:00:00:00:09: there is no such entry"):
        tables.fdb_delete(7, [MAC + 1, MAC + 5, MAC + 9])
    assert sorted(tables.fdb().tolist()) == before
    assert tables.segments()["n_learned"].tolist() == [2, 0]


# Flushing


@pytest.mark.parametrize(
    ("what", "left"),
    [
        ({"vni": 7}, {(8, 0), (8, 1), (8, PORT | 3)}),
        ({"remote": [1, 2]}, {(7, 0), (8, 0), (7, PORT | 3), (8, PORT | 3)}),
        ({"port": 3}, {(7, 0), (7, 1), (8, 0), (8, 1)}),
        ({"port": 4}, {(7, 0), (7, 1), (7, PORT | 3), (8, 0), (8, 1), (8, PORT | 3)}),
    ],
)
def test_a_flush_takes_what_it_names_and_is_complete_at_once(what: Any, left: set[tuple[int, int]]) -> None:
    tables, lane = small()
    for segment, vni in ((0, 7), (1, 8)):
        lane.learn([MAC, MAC + 1, MAC + 2], [0, 1, PORT | 3], segment=segment)
        tables.fdb_add(vni, MAC + 9, 1)
    tables.flush(**what)
    found = {
        (7 + segment, target) for segment in (0, 1) for target in lane.find([MAC, MAC + 1, MAC + 2], segment)
    }
    assert found - {(7, -1), (8, -1)} == left
    rows = tables.fdb()
    assert len(rows) == len(left) + 2, "a static entry is not flushed"
    lane.sweep()
    assert counted(tables)["entries"] == len(left) + 2
    n_learned = [sum(vni == of for of, _ in left) for vni in (7, 8)]
    assert tables.segments()["n_learned"].tolist() == n_learned


def test_a_flushed_segment_learns_anew_at_once_even_when_it_was_full() -> None:
    tables, lane = small()
    tables.change_segment(0, max_learned=3)
    lane.learn([MAC, MAC + 1, MAC + 2], 1)
    tables.flush(vni=7)
    lane.learn([MAC + 2, MAC + 3, MAC + 4, MAC + 5], 2)
    assert lane.find([MAC, MAC + 1, MAC + 2, MAC + 3, MAC + 4, MAC + 5]) == [-1, -1, 2, 2, 2, -1]
    lane.sweep()
    assert tables.segments()["n_learned"].tolist() == [3, 0]


def test_flushes_without_number_bring_nothing_back() -> None:
    tables, lane = small()
    lane.learn([MAC, MAC + 1], 1)
    lane.learn(MAC, 1, segment=1)
    tables.flush(vni=7)
    lane.learn(MAC + 2, 2)
    for _ in range(5000):  # generations come round at 4,096
        tables.flush(port=9)
    assert lane.find([MAC, MAC + 1, MAC + 2]) == [-1, -1, 2]
    assert lane.find(segment=1) == [1]
    lane.learn(MAC + 3, 3)
    assert tables.segments()["n_learned"].tolist() == [2, 1]


# Removing


def test_a_vni_that_comes_back_remembers_nothing() -> None:
    tables, lane = small()
    lane.learn(MAC, 1)
    tables.fdb_add(7, MAC + 1, 2)
    tables.remove_segments(0)
    assert tables.add_segment(7, 0, [0], **POLICY) == 0
    assert lane.find([MAC, MAC + 1]) == [-1, -1]
    lane.learn(MAC + 2, 3)
    assert tables.segments()["n_learned"].tolist() == [1, 0]
    assert tables.fdb_rows() == [(7, MAC + 2, 3, False)]


def test_what_pointed_to_a_remote_that_is_removed_floods() -> None:
    tables, lane = small()
    tables.change_segment(1, flood=[0])
    lane.learn([MAC, MAC + 1], [2, 3])
    tables.fdb_add(7, [MAC + 2, MAC + 3], [2, 3])
    tables.remove_remotes([2])
    assert lane.find([MAC, MAC + 1, MAC + 2, MAC + 3]) == [-1, 3, -1, 3]
    assert tables.add_remote(mapped(99), bytes(16)) == 2
    assert lane.find([MAC, MAC + 1, MAC + 2, MAC + 3]) == [-1, 3, -1, 3]


def test_a_remote_that_is_flooded_to_is_not_removed() -> None:
    tables, _ = small()
    with pytest.raises(ValueError, match="remote 3 is in the flood set of VNI 8"):
        tables.remove_remotes([3])
    with pytest.raises(ValueError, match="there is no remote 4"):
        tables.remove_remotes([4])
    assert len(tables.remotes()) == 4


def test_a_remote_gets_another_address() -> None:
    tables, lane = small()
    lane.learn(MAC, 1)
    tables.replace_remote(1, mapped(77), bytes(28))
    with pytest.raises(ValueError, match="is there already"):
        tables.replace_remote(1, mapped(2), bytes(16))
    lane.reader.enter()
    assert [lane.reader.find_remote(mapped(n)) for n in (1, 77, 2)] == [-1, 1, 2]
    assert lane.find() == [1]


@pytest.mark.parametrize(
    ("message", "arguments", "options"),
    [
        ("VNI 8 is there already", ([9, 8], [0, 0]), {}),
        ("VNI 9 is there already", ([9, 9], [0, 0]), {}),
        ("VNI 16777216: at most 16777215", ([9, 1 << 24], [0, 0]), {}),
        ("VNI 10: there is no remote 5 for its flood set", ([9, 10], [0, 5]), {}),
        ("VNI 10: a remote is in its flood set twice", ([9, 10], [[0, 1], [1, 1]]), {}),
        ("flood: shape", ([9, 10], [0]), {}),
        ("VNI 9: ageing_s 524288; 0 to 524287 is right", ([9, 10], [0, 0]), {"ageing_s": 524_288}),
        ("VNI 10: overlay port 65536", ([9, 10], [0, 0]), {"port": [0, 65536]}),
        ("more than 8 segments", (range(9, 16), [0] * 7), {}),
    ],
)
def test_segments_are_added_all_or_none(message: str, arguments: Any, options: Any) -> None:
    tables, lane = small()
    with pytest.raises(ValueError, match=message):
        tables.add_segments(*arguments, **options)
    assert tables.segments()["vni"].tolist() == [7, 8]
    lane.reader.enter()
    assert lane.reader.find_segment(9) == -1
    lane.reader.leave()
    assert tables.add_segments([9, 10], [0, 1]).tolist() == [2, 3]


# Batches and transactions


def test_a_lane_sees_a_change_whole_from_its_next_batch_on() -> None:
    tables, lane = small()
    reader = lane.reader
    reader.enter()
    with tables.transaction():
        remote = tables.add_remote(mapped(50), bytes(16))
        tables.change_segment(0, flood=[remote, 1])
        tables.add_segment(9, 0, [remote], **POLICY)
        tables.add_peers([(1, remote)])
        tables.fdb_add(7, MAC, remote)
        assert (reader.find_segment(9), reader.flood(0)) == (-1, [0])
    assert (reader.find_segment(9), reader.flood(0), reader.find_remote(mapped(50))) == (-1, [0], -1)
    assert reader.fdb_find(0, MAC, NOW).tolist() == [-1], "an entry whose remote this batch does not know"
    reader.enter()
    assert (reader.find_segment(9), reader.flood(0), reader.find_remote(mapped(50))) == (
        2,
        [1, remote],
        remote,
    )
    assert reader.fdb_find(0, MAC, NOW).tolist() == [remote]


def test_a_transaction_that_fails_leaves_everything_as_it_was() -> None:
    tables, lane = small()
    lane.learn([MAC, MAC + 1], [1, 2])
    tables.fdb_add(7, MAC + 2, 3)
    tables.add_peers([(0, 3)])
    before = everything(tables)
    entries = sorted(tables.fdb().tolist())

    def change_and_fail() -> None:
        with tables.transaction():
            tables.fdb_delete(7, [MAC, MAC + 2])
            tables.fdb_replace(7, [MAC + 1, MAC + 2], 0)
            tables.remove_segments(0)
            tables.add_segment(99, 0, range(4), **POLICY)
            tables.set_peers([])
            tables.add_remote(mapped(88), bytes(16))
            tables.flush(remote=1)
            raise KeyError

    with pytest.raises(KeyError):
        change_and_fail()
    assert everything(tables) == before
    assert sorted(tables.fdb().tolist()) == entries
    assert tables.add_segment(99, 0, range(4), **POLICY) == 2


def test_a_transaction_in_which_something_failed_does_not_half_apply() -> None:
    tables, _ = small()

    def forgiving() -> None:
        with tables.transaction():
            tables.fdb_add(7, MAC, 1)
            with pytest.raises(ValueError, match="no segment"):
                tables.fdb_add(99, MAC, 1)

    with pytest.raises(RuntimeError, match="nothing was applied"):
        forgiving()
    assert counted(tables) == {}


def test_a_vni_with_set_entries_is_not_replaced_in_one_transaction() -> None:
    tables, _ = small()
    tables.fdb_add(7, MAC, 1)

    def replace() -> None:
        with tables.transaction():
            tables.remove_segments(0)
            tables.add_segment(7, 0, [0], **POLICY)

    with pytest.raises(ValueError, match="VNI 7 is there already"):
        replace()
    assert len(tables.fdb()) == 1


def test_a_lane_that_sleeps_holds_up_nobody() -> None:
    tables, lane = small()
    lane.find()
    tables.change_segment(1, flood=[])
    tables.remove_remotes([3])  # waits for the lanes' batches to end
    assert len(tables.remotes()) == 3


def test_a_change_that_has_to_wait_for_a_batch_goes_on_when_it_ends() -> None:
    tables, lane = small()
    tables.change_segment(1, flood=[])
    lane.reader.enter()
    writer = threading.Thread(target=tables.remove_remotes, args=([3],))
    writer.start()
    writer.join(0.05)
    assert writer.is_alive()
    lane.reader.enter()
    writer.join(30)
    assert not writer.is_alive()


def test_readers_are_limited_and_their_places_come_back() -> None:
    tables, _ = small()
    readers = [Reader(tables) for _ in range(126)]
    with pytest.raises(ValueError, match="more than 127 readers"):
        Reader(tables)
    readers.pop()
    Reader(tables)


def test_a_reader_that_has_not_entered_sees_nothing() -> None:
    _, lane = small()
    with pytest.raises(ValueError, match="not entered"):
        lane.reader.find_segment(7)
    lane.reader.enter()
    with pytest.raises(ValueError, match="segment 8 of 8"):
        lane.reader.flood(8)


# While lanes are at it


def test_threads_that_learn_at_once_learn_all_and_nothing_twice() -> None:
    tables, lane = small(max_entries=20_000, max_moves=0)
    macs = np.arange(20_000, dtype=np.uint64) + np.uint64(MAC)
    orders = [np.random.default_rng(n).permutation(macs) for n in range(4)]
    lanes = [threading.Thread(target=Lane(tables).learn, args=(order, n)) for n, order in enumerate(orders)]
    for thread in lanes:
        thread.start()
    for thread in lanes:
        thread.join()
    lane.learn(macs, 0)  # where two withdrew in favour of each other
    assert sorted(tables.fdb()["mac"].tolist()) == macs.tolist()
    assert tables.segments()["n_learned"].tolist() == [20_000, 0]
    assert -1 not in lane.find(macs)
