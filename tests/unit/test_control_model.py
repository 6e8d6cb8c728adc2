"""Remotes, segments and FDB against a plain-Python model of them, with a lane that looks after each step."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vxcore._fast.table import Reader, Tables
from vxcore.errors import ConfigError
from vxcore.fdb import Fdb
from vxcore.journal import Journal
from vxcore.remotes import Remotes, packed, unpacked
from vxcore.segments import Policy, Segments

ADDRESSES = [ip_address(text) for text in ("192.0.2.1", "192.0.2.2", "198.51.100.1", "2001:db8::1")]
VNIS = [7, 8, 0xFFFFFF]
MACS = [0x020000000001, 0x020000000002, 0x020000000003]
SOURCES: list[Any] = ["peers", "any", (ip_network("192.0.2.0/30"), ip_network("2001:db8::/32"))]
LISTS: list[Any] = [None, [(7, 8)], [(0, 6), (0xFFFFFF, 0xFFFFFF)], []]

some = st.lists(st.sampled_from(ADDRESSES), max_size=4)
one = st.sampled_from(ADDRESSES)
vni = st.sampled_from(VNIS)
mac = st.sampled_from(MACS)


class Model:
    """What there is to be."""

    def __init__(self) -> None:
        self.floods: dict[int, set[Any]] = {}
        self.sources: dict[int, Any] = {}
        self.entries: dict[tuple[int, int], Any] = {}
        self.named: dict[Any, Any] = {}

    def uses(self, address: Any) -> int:
        in_floods = sum(address in flood for flood in self.floods.values())
        return in_floods + list(self.entries.values()).count(address)

    def remotes(self) -> set[Any]:
        return {address for address in ADDRESSES if address in self.named or self.uses(address)}

    def takes(self, vni: int, address: Any) -> bool:
        ranges = self.named.get(address)
        if ranges is not None and not any(low <= vni <= high for low, high in ranges):
            return False
        peers = self.floods[vni] | {a for (v, _), a in self.entries.items() if v == vni}
        source = self.sources[vni]
        return (
            address in peers
            or source == "any"
            or (source != "peers" and any(address in net for net in source))
        )


class Control(RuleBasedStateMachine):
    """Each rule changes both; the invariants compare all that can be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = Tables(3, 5, 32, 64)
        self.journal = Journal(self.tables)
        self.remotes = Remotes(self.journal)
        self.segments = Segments(self.journal, self.remotes)
        self.fdb = Fdb(self.journal, self.remotes, self.segments)
        self.reader = Reader(self.tables)
        self.model = Model()

    # What can be done

    def refused(self, change: Any, *arguments: Any, **options: Any) -> None:
        """It raises; the invariants show that it did nothing."""
        try:
            change(*arguments, **options)
        except ConfigError:
            return
        raise AssertionError(f"{change} took {arguments} {options}")

    @rule(vni=vni, flood=some, source=st.sampled_from(SOURCES))
    def add_segment(self, vni: int, flood: list[Any], source: Any) -> None:
        if vni in self.model.floods:
            self.refused(self.segments.add, vni, 0, flood)
            return
        self.segments.add(vni, 0, flood, Policy(source=source))
        self.model.floods[vni], self.model.sources[vni] = set(flood), source

    @rule(vni=vni, flood=some, source=st.sampled_from(SOURCES))
    def change_segment(self, vni: int, flood: list[Any], source: Any) -> None:
        if vni not in self.model.floods:
            self.refused(self.segments.change, vni, remotes=flood)
            return
        self.segments.change(vni, remotes=flood, policy=Policy(source=source))
        self.model.floods[vni], self.model.sources[vni] = set(flood), source

    @rule(vnis=st.lists(vni, unique=True, min_size=1))
    def remove_segments(self, vnis: list[int]) -> None:
        if not set(vnis) <= set(self.model.floods):
            self.refused(self.segments.remove, vnis)
            return
        self.segments.remove(vnis)
        for each in vnis:
            del self.model.floods[each], self.model.sources[each]
        self.model.entries = {key: a for key, a in self.model.entries.items() if key[0] not in vnis}

    @rule(address=one, vnis=st.sampled_from(LISTS))
    def name_remote(self, address: Any, vnis: Any) -> None:
        if address in self.model.named:
            self.refused(self.remotes.add, address)
            self.remotes.change(address, vnis=vnis)
        else:
            self.remotes.add(address, vnis=vnis)
        self.model.named[address] = vnis

    @rule(addresses=st.lists(one, unique=True, min_size=1))
    def remove_remotes(self, addresses: list[Any]) -> None:
        if any(address not in self.model.remotes() or self.model.uses(address) for address in addresses):
            self.refused(self.remotes.remove, addresses)
            return
        self.remotes.remove(addresses)
        for address in addresses:
            del self.model.named[address]

    @precondition(lambda self: self.model.floods)
    @rule(vnis=st.lists(vni, min_size=1, max_size=3), macs=st.lists(mac, min_size=3, max_size=3), address=one)
    def set_entries(self, vnis: list[int], macs: list[int], address: Any) -> None:
        def change() -> None:
            with self.journal.change():
                self.fdb.replace(vnis, macs[: len(vnis)], self.remotes.require(address))

        if not set(vnis) <= set(self.model.floods):
            self.refused(change)
            return
        change()
        for key in zip(vnis, macs, strict=False):
            self.model.entries[key] = address

    @rule(vni=vni, macs=st.lists(mac, min_size=1, unique=True))
    def delete_entries(self, vni: int, macs: list[int]) -> None:
        if any((vni, each) not in self.model.entries for each in macs):
            self.refused(self.fdb.delete, vni, macs)
            return
        self.fdb.delete(vni, macs)
        for each in macs:
            del self.model.entries[vni, each]

    @rule(
        steps=st.lists(st.sampled_from(["add", "flood", "name", "entry", "remove"]), max_size=5), address=one
    )
    def much_that_fails_at_its_end(self, steps: list[str], address: Any) -> None:
        floods = list(self.model.floods)
        free = [each for each in VNIS if each not in floods]

        def change() -> None:
            with self.journal.change():
                for step in dict.fromkeys(steps):
                    self._do(step, address, floods, free)
                self.segments.remove([99])

        self.refused(change)

    def _do(self, step: str, address: Any, floods: list[int], free: list[int]) -> None:
        if step == "add" and free:
            self.segments.add(free.pop(), 0, [address], Policy(source="any"))
        elif step == "flood" and floods:
            self.segments.change(floods[0], remotes=[address], policy=Policy(source="any"))
        elif step == "name" and address not in self.model.named:
            self.remotes.add(address, vnis=[(8, 8)])
        elif step == "entry" and floods:
            self.fdb.replace(floods[0], MACS, self.remotes.require(address))
        elif step == "remove" and floods:
            self.segments.remove([floods.pop()])

    # What must be so

    @invariant()
    def remotes_are_those_that_somebody_names(self) -> None:
        rows = self.remotes.snapshot()
        seen = {unpacked(bytes(row["address"])): int(row["uses"]) for row in rows}
        assert seen == {address: self.model.uses(address) for address in self.model.remotes()}
        named = {unpacked(bytes(row["address"])) for row in rows if row["named"]}
        assert named == set(self.model.named)

    @invariant()
    def flood_sets_are_what_was_set(self) -> None:
        assert {vni: set(self.segments.flood(vni)) for vni in self.model.floods} == self.model.floods
        assert set(self.segments.snapshot()["vni"].tolist()) == set(self.model.floods)

    @invariant()
    def a_lane_finds_the_entries_and_no_others(self) -> None:
        self.reader.enter()
        for vni in self.model.floods:
            found = self.reader.fdb_find(self.reader.find_segment(vni), MACS, 0).tolist()
            at = [self.remotes.address(number) if number >= 0 else None for number in found]
            assert at == [self.model.entries.get((vni, each)) for each in MACS]
        self.reader.leave()
        assert len(self.fdb.snapshot()) == len(self.model.entries)

    @invariant()
    def a_lane_takes_packets_from_whom_it_should(self) -> None:
        self.reader.enter()
        for vni in self.model.floods:
            segment = self.reader.find_segment(vni)
            for address in ADDRESSES:
                assert self.lane_takes(segment, address) == self.model.takes(vni, address), (vni, address)
        self.reader.leave()

    def lane_takes(self, segment: int, address: Any) -> bool:
        """In the order in which lane.pyx asks."""
        remote = self.reader.find_remote(packed(address))
        if remote >= 0 and not self.reader.may_speak(segment, remote):
            return False
        peer = remote >= 0 and self.reader.is_peer(segment, remote)
        return peer or self.reader.is_welcome(segment, packed(address))


Control.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestControl = Control.TestCase
