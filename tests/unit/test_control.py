"""The tables' authority: remotes, segments and the FDB as a control plane changes them, all or nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Any

import numpy as np
import pytest
from support.dry_vtep import DryVtep

from vxcore import Vtep
from vxcore._fast.table import KINDS, Reader, Tables
from vxcore.errors import ConfigError, TableFullError
from vxcore.fdb import Fdb
from vxcore.journal import Journal
from vxcore.remotes import Remotes, packed, sockaddr, unpacked
from vxcore.segments import Policy, Rate, Segments

A, B, C, SIX = (ip_address(text) for text in ("192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"))
MAC = 0x020000000001
NOW = 5000


class Control:
    """All of it, and a reader as a lane has it."""

    def __init__(self, max_entries: int = 200) -> None:
        self.tables = Tables(8, 16, 64, max_entries)
        self.journal = Journal(self.tables)
        self.changes: list[tuple[str, str]] = []
        self.remotes = Remotes(self.journal, on_change=lambda what, _, a: self.changes.append((what, str(a))))
        self.segments = Segments(self.journal, self.remotes)
        self.fdb = Fdb(self.journal, self.remotes, self.segments)
        self.reader = Reader(self.tables)

    def state(self) -> dict[str, Any]:
        """Everything that can be seen."""
        entries = sorted(self.fdb.snapshot().tolist())
        rows = {name: getattr(self, name).snapshot().tobytes() for name in ("remotes", "segments")}
        return {"fdb": entries, "peers": self.tables.peers().tolist(), **rows}

    def ask(self, question: Callable[[Reader], Any]) -> Any:
        self.reader.enter()
        try:
            return question(self.reader)
        finally:
            self.reader.leave()

    def takes_from(self, vni: int, address: Any) -> bool:
        """Whether a lane would take a packet."""
        segment = self.tables.find_segment(vni)
        number = self.remotes.number(address)

        def question(reader: Reader) -> bool:
            if number is not None:
                if not reader.may_speak(segment, number):
                    return False
                if reader.is_peer(segment, number):
                    return True
            return reader.is_welcome(segment, packed(address))

        return bool(self.ask(question))


@pytest.fixture
def control() -> Control:
    made = Control()
    made.segments.add(7, 0, [A, B])
    return made


# Remotes


@pytest.mark.parametrize("address", [A, SIX])
def test_addresses_survive_packing(address: Any) -> None:
    assert unpacked(packed(address)) == address
    assert len(sockaddr(address, 4789)) == (16 if address.version == 4 else 28)


def test_a_remote_lives_as_long_as_somebody_names_it(control: Control) -> None:
    assert control.changes == [("added", str(A)), ("added", str(B))]
    control.segments.add(8, 1, [B, C])
    control.segments.remove([7])
    assert control.remotes.number(A) is None
    assert control.remotes.number(B) is not None
    control.segments.change(8, remotes=[C])
    assert control.remotes.number(B) is None
    assert control.changes[2:] == [("added", str(C)), ("removed", str(A)), ("removed", str(B))]


def test_a_remote_that_a_user_added_stays_until_it_is_removed(control: Control) -> None:
    control.remotes.add(A)
    number = control.remotes.add(C)
    control.segments.change(7, remotes=[])
    assert control.remotes.number(B) is None
    assert control.remotes.number(C) == number
    control.remotes.remove([A, C])
    assert len(control.remotes.snapshot()) == 0


def test_a_remote_in_use_is_not_removed_and_its_user_is_named(control: Control) -> None:
    control.remotes.add(C)
    before = control.state()
    with pytest.raises(ConfigError, match=r"remote 192\.0\.2\.2: it is in the flood set of VNI 7"):
        control.remotes.remove([C, B])
    assert control.state() == before
    control.fdb.add(7, MAC, control.remotes.require(C))
    with pytest.raises(ConfigError, match=r"192\.0\.2\.3: 1 FDB entries name it"):
        control.remotes.remove([C])


def test_a_remote_is_added_once(control: Control) -> None:
    control.remotes.add(C)
    with pytest.raises(ConfigError, match=r"remote 192\.0\.2\.3: it is there already"):
        control.remotes.add(C)
    with pytest.raises(ConfigError, match="no such remote"):
        control.remotes.change(SIX, vnis=None)


def test_a_remote_speaks_only_in_the_vnis_on_its_list(control: Control) -> None:
    control.segments.add(8, 1, [A], Policy(source="any"))
    control.remotes.add(B, vnis=[(9, 20), (8, 8)])
    assert [control.takes_from(vni, B) for vni in (7, 8)] == [False, True]
    control.segments.add(9, 2, [B])  # on the list already
    assert control.takes_from(9, B)
    control.remotes.change(B, vnis=[(7, 7)])
    assert [control.takes_from(vni, B) for vni in (7, 8, 9)] == [True, False, False]
    control.remotes.change(B, vnis=None)
    assert all(control.takes_from(vni, B) for vni in (7, 8, 9))
    assert control.takes_from(7, A)


def test_what_was_heard_of_is_forgotten_when_the_fdb_does_not_name_it(control: Control) -> None:
    number = control.remotes.learn(C)
    control.ask(lambda reader: reader.fdb_learn(0, MAC, number, NOW))
    control.remotes.forget(control.tables.fdb(NOW)["remote"])
    assert control.remotes.number(C) == number
    assert control.remotes.snapshot()["learned"].tolist() == [False, False, True]
    control.remotes.forget(control.tables.fdb(NOW + 300)["remote"])  # aged
    assert control.remotes.number(C) is None


# Segments


def test_a_segment_is_added_once_and_an_unknown_one_is_named(control: Control) -> None:
    before = control.state()
    with pytest.raises(ConfigError, match="VNI 7: it is there already"):
        control.segments.add(7, 1, [C])
    with pytest.raises(ConfigError, match="VNI 9: there is no such segment"):
        control.segments.remove([7, 9])
    assert control.state() == before
    assert control.segments.flood(7) == [A, B]


def test_segments_come_in_bulk_and_hold_their_remotes(control: Control) -> None:
    with control.journal.change():
        numbers = [control.remotes.require(address) for address in (A, C)]
        control.segments.add_many([100, 101, 102], np.array([numbers] * 3, np.uint32), [1, 2, 3])
    assert control.segments.flood(102) == [A, C]
    uses = {row["remote"]: row["uses"] for row in control.remotes.snapshot()}
    assert (uses[numbers[0]], uses[numbers[1]]) == (4, 3)
    before = control.state()
    with pytest.raises(ConfigError, match="VNI 7 is there already"):
        control.segments.add_many([103, 7], np.array(numbers, np.uint32))
    assert control.state() == before
    control.segments.remove(np.array([100, 101, 102]))
    assert control.remotes.number(C) is None


@pytest.mark.parametrize(
    ("source", "taken"),
    [
        ("peers", [A, B]),
        ("any", [A, B, C, SIX]),
        ((ip_network("192.0.2.3/32"),), [A, B, C]),
        ((ip_network("192.0.2.0/30"), ip_network("2001:db8::/33")), [A, B, C, SIX]),
        ((ip_network("2001:db8:8000::/33"), ip_network("192.0.3.0/24")), [A, B]),
        ((ip_network("::/0"),), [A, B, C, SIX]),
        ((ip_network("0.0.0.0/0"),), [A, B, C]),
    ],
)
def test_a_segment_takes_packets_from_whom_its_policy_says(control: Control, source: Any, taken: Any) -> None:
    control.segments.change(7, policy=Policy(source=source))
    assert [address for address in (A, B, C, SIX) if control.takes_from(7, address)] == taken
    control.segments.change(7, policy=Policy())
    assert [address for address in (A, B, C, SIX) if control.takes_from(7, address)] == [A, B]


def test_a_policy_goes_with_its_segment(control: Control) -> None:
    limits = Policy(source=(ip_network("10.0.0.0/8"),), broadcast=Rate(10, 5), multicast="drop")
    number = control.segments.add(8, 1, [], limits)
    assert control.tables.policy(number)["rates"] == (10, 0, None)
    control.segments.remove([8])
    assert control.segments.add(9, 1, []) == number  # the number is used again
    assert control.tables.policy(number)["rates"] == (None, None, None)
    assert not control.takes_from(9, ip_address("10.0.0.1"))


def much_and_then_a_mistake(control: Control) -> None:
    with control.journal.change():
        control.segments.change(7, remotes=[C], policy=Policy(source="any", maxaddress=3))
        control.fdb.delete(7, MAC)
        control.segments.add(8, 1, [SIX], Policy(source=(ip_network("10.0.0.0/8"),)))
        control.remotes.add(ip_address("10.0.0.9"), vnis=[(8, 8)])
        control.fdb.replace(8, [MAC, MAC + 1], control.remotes.require(SIX))
        control.segments.add(7, 2, [])


def test_a_change_that_fails_leaves_nothing_of_itself(control: Control) -> None:
    control.fdb.add(7, MAC, 0)
    before, changes = control.state(), list(control.changes)
    with pytest.raises(ConfigError, match="VNI 7"):
        much_and_then_a_mistake(control)
    assert control.state() == before
    assert control.changes == changes
    control.segments.remove([7])
    assert len(control.remotes.snapshot()) == 0


# The forwarding table


def kinds(control: Control) -> dict[int, int]:
    return {int(row["mac"]): int(row["kind"]) for row in control.fdb.snapshot()}


def test_entries_come_one_by_one_and_in_bulk(control: Control) -> None:
    macs = np.arange(MAC, MAC + 6, dtype=np.uint64)
    octets = macs.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 2:]
    assert control.fdb.add(7, macs[:2], 0) == 2
    assert control.fdb.add([7, 7], octets[2:4], [0, 1]) == 2
    assert control.fdb.replace(7, int(macs[0]), 1, kind="control", sequence=5) == 0  # static stays
    assert control.fdb.add(7, octets[4:], 1, kind="sticky", sequence=[1, 2]) == 2
    assert sorted(set(kinds(control).values())) == [KINDS["static"], KINDS["sticky"]]
    assert control.fdb.delete(7, macs) == 6
    assert len(control.fdb.snapshot()) == 0


@pytest.mark.parametrize(
    ("vni", "mac", "remote", "said"),
    [
        ([7, 8], [MAC, MAC + 1], 0, "VNI 8, 02:00:00:00:00:02: there is no segment of this VNI"),
        (7, [MAC, 0x010000000000], 0, "VNI 7, 01:00:00:00:00:00: not the address of one station"),
        (7, [MAC, MAC + 1], [0, 9], "VNI 7, 02:00:00:00:00:02: there is no remote 9"),
        (7, [MAC, 1 << 48], 0, "it has more than 48 bits"),
        (7, [MAC, MAC + 9], 0, "VNI 7, 02:00:00:00:00:0a: there is an entry already"),
        ([7], [MAC, MAC + 1], 0, "vni: 1 rows, not 2"),
    ],
)
def test_of_a_bulk_that_is_wrong_nothing_applies(
    control: Control, vni: Any, mac: Any, remote: Any, said: str
) -> None:
    control.fdb.add(7, MAC + 9, 1)
    before = control.state()
    with pytest.raises(ConfigError, match=said):
        control.fdb.add(vni, np.array(mac, np.uint64), remote)
    assert control.state() == before


def test_what_finds_no_room_leaves_the_others_alone() -> None:
    control = Control(max_entries=4)
    control.segments.add(7, 0, [A])
    with pytest.raises(TableFullError, match="in VNI 7"):
        control.fdb.add(7, np.arange(MAC, MAC + 9, dtype=np.uint64), 0)
    assert len(control.fdb.snapshot()) == 0
    assert control.remotes.uses(0) == 1


def test_a_segment_takes_packets_from_whom_entries_name(control: Control) -> None:
    number = control.remotes.add(C)
    assert not control.takes_from(7, C)
    control.fdb.add(7, [MAC, MAC + 1], number)
    control.fdb.replace(7, MAC, number)  # the same again
    control.fdb.delete(7, MAC)
    assert control.takes_from(7, C)
    control.fdb.replace(7, MAC + 1, 0)
    assert not control.takes_from(7, C)
    assert control.takes_from(7, A)


def test_a_segments_entries_go_with_it_and_hold_no_remote(control: Control) -> None:
    with control.journal.change():
        control.fdb.add(7, [MAC, MAC + 1], control.remotes.require(C))
    assert control.takes_from(7, C)
    control.segments.remove([7])
    assert len(control.remotes.snapshot()) == 0
    control.segments.add(7, 0, [])
    assert not control.takes_from(7, C)
    assert len(control.fdb.snapshot()) == 0


def test_a_mac_that_moves_is_decided_by_its_sequence_number(control: Control) -> None:
    """RFC 7432 section 15: the higher number wins; a sticky one stays."""
    assert control.fdb.replace(7, MAC, 0, kind="control", sequence=1) == 1
    assert control.fdb.replace(7, MAC, 1, kind="control", sequence=0) == 0
    assert control.fdb.replace(7, MAC, 1, kind="control", sequence=2) == 1
    assert control.fdb.replace(7, MAC, 0, kind="sticky", sequence=3) == 1
    assert control.fdb.replace(7, MAC, 1, kind="control", sequence=9) == 0
    (row,) = control.fdb.snapshot()
    assert (row["remote"], row["sequence"], row["kind"]) == (0, 3, KINDS["sticky"])


def test_changes_from_several_threads_take_turns(control: Control) -> None:
    def churn(vni: int, address: Any) -> None:
        for n in range(100):
            with control.journal.change():
                control.segments.add(vni, vni, [address])
                control.fdb.add(vni, MAC + n, control.remotes.require(address))
            control.segments.remove([vni])

    threads = [threading.Thread(target=churn, args=(vni, address)) for vni, address in ((8, C), (9, SIX))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert control.segments.snapshot()["vni"].tolist() == [7]
    assert control.remotes.snapshot()["uses"].tolist() == [1, 1]


def test_a_vtep_that_does_not_run_says_so() -> None:
    vtep = Vtep({"underlay": {"local": "192.0.2.1"}})
    for call in (
        lambda: vtep.add_segment(vni=42, tap="vx42"),
        lambda: vtep.add_remote("192.0.2.2"),
        lambda: vtep.add_fdb(42, MAC, "192.0.2.2"),
        lambda: vtep.snapshot("fdb"),
        vtep.subscribe,
    ):
        with pytest.raises(RuntimeError, match="this VTEP does not run; use it inside `with Vtep"):
            call()


def test_a_vtep_refuses_settings_that_are_wrong() -> None:
    with pytest.raises(ConfigError, match=r"underlay\.local: missing"):
        Vtep({})
    with pytest.raises(ConfigError, match=r'segment\[0\]\.source: "all" is not allowed; "peers", "any"'):
        Vtep({"underlay": {"local": A}, "segment": [{"vni": 1, "tap": "a", "source": "all"}]})


def test_a_change_is_done_when_every_lane_sees_it() -> None:
    with DryVtep({"segment": [{"vni": 42, "tap": "vx42"}]}) as vtep:
        reader = Reader(vtep.tables)
        reader.enter()
        change = threading.Thread(target=vtep.add_segment, kwargs={"vni": 43, "tap": "vx43"})
        change.start()
        try:
            change.join(0.3)
            assert change.is_alive()
            assert reader.find_segment(43) < 0
        finally:
            reader.leave()
            change.join(10)
        assert not change.is_alive()
