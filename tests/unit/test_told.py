"""What control planes say becomes flood sets, FDB entries and neighbours, beside what is set by hand.

Place in the house: a VTEP without devices; what lanes would look up is read from the tables.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import msgspec
import pytest
from support.dry_vtep import DryVtep

from vxcore._fast.table import KINDS
from vxcore.addresses import MacAddress, mac_text
from vxcore.remotes import packed, unpacked
from vxcore.told import Endpoint, Member, as_words, from_words

VNI = 42
ONE, TWO, THREE = "192.0.2.11", "192.0.2.12", "192.0.2.13"
MAC, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02"
HOST = "10.9.0.1"
HAND = "192.0.2.2"


def member(vtep: str, vni: int = VNI) -> Member:
    return Member(vni, ip_address(vtep))


def endpoint(vtep: str, mac: str = MAC, *addresses: str, vni: int = VNI, **more: Any) -> Endpoint:
    known = tuple(map(ip_address, addresses))
    return Endpoint(vni=vni, mac=MacAddress(mac), vtep=ip_address(vtep), addresses=known, **more)


@pytest.fixture
def vtep() -> Iterator[DryVtep]:
    settings = {"segment": [{"vni": VNI, "tap": "vx42", "remotes": [HAND], "neighbours": []}]}
    with DryVtep(settings) as made:
        yield made


def flood(vtep: DryVtep, vni: int = VNI) -> set[str]:
    return {str(address) for address in vtep.segments.flood(vni)}


def fdb(vtep: DryVtep, vni: int = VNI) -> dict[str, tuple[str, str, int]]:
    """By MAC address: remote, kind, sequence number."""
    kinds = {number: name for name, number in KINDS.items()}
    return {
        mac_text(int(row["mac"])): (
            str(vtep.remotes.address(int(row["remote"]))),
            kinds[int(row["kind"])],
            int(row["sequence"]),
        )
        for row in vtep.snapshot("fdb")
        if row["vni"] == vni
    }


def answers(vtep: DryVtep, vni: int = VNI) -> dict[str, str]:
    rows = vtep.snapshot("neighbours")
    return {
        str(unpacked(bytes(row["address"]))): mac_text(int(row["mac"])) for row in rows if row["vni"] == vni
    }


def tables(vtep: DryVtep, vni: int = VNI) -> tuple[set[str], dict[str, tuple[str, str, int]], dict[str, str]]:
    return flood(vtep, vni), fdb(vtep, vni), answers(vtep, vni)


def states(vtep: DryVtep) -> dict[tuple[str, str], str]:
    return {(row.source, str(row.route.vtep)): row.state for row in vtep.told_rows()}


def test_those_who_take_part_get_what_is_flooded(vtep: DryVtep) -> None:
    vtep.tell("etcd", add=[member(ONE), member(TWO)])
    assert flood(vtep) == {HAND, ONE, TWO}
    assert vtep.describe()[0]["remotes"] == [HAND, ONE, TWO]
    vtep.tell("etcd", remove=[member(ONE)])
    assert flood(vtep) == {HAND, TWO}


def test_who_is_said_twice_stays_until_nobody_says_it(vtep: DryVtep) -> None:
    vtep.tell("etcd", add=[member(ONE), member(HAND)])
    vtep.tell("evpn", add=[member(ONE)])
    vtep.tell("etcd", remove=[member(ONE), member(HAND)])
    assert flood(vtep) == {HAND, ONE}
    vtep.tell("evpn", remove=[member(ONE)])
    assert flood(vtep) == {HAND}


def test_an_endpoint_is_an_entry_and_answers(vtep: DryVtep) -> None:
    vtep.tell("etcd", add=[endpoint(ONE, MAC, HOST, "fd00::1", sequence=3)])
    assert fdb(vtep) == {MAC: (ONE, "control", 3)}
    assert answers(vtep) == {HOST: MAC, "fd00::1": MAC}
    vtep.tell("etcd", add=[endpoint(ONE, MAC, "fd00::2", sticky=True)])
    assert fdb(vtep) == {MAC: (ONE, "sticky", 0)}
    assert answers(vtep) == {"fd00::2": MAC}
    vtep.tell("etcd", remove=[endpoint(ONE)])
    assert (fdb(vtep), answers(vtep)) == ({}, {})
    assert vtep.snapshot("remotes")["address"].tolist() == [list(packed(ip_address(HAND)))]


@pytest.mark.parametrize(
    ("first", "second", "believed"),
    [
        ({}, {"sequence": 1}, TWO),
        ({"sequence": 2}, {"sequence": 1}, ONE),
        ({"sticky": True}, {"sequence": 9}, ONE),
        ({}, {"sticky": True}, TWO),
        ({"sequence": 1}, {"sequence": 1}, ONE),
    ],
)
def test_of_two_that_name_one_address_one_is_believed(
    vtep: DryVtep, first: dict[str, Any], second: dict[str, Any], believed: str
) -> None:
    claims = [endpoint(ONE, MAC, HOST, **first), endpoint(TWO, MAC, HOST, **second)]
    for each in reversed(claims):
        vtep.tell("etcd", add=[each])
    assert fdb(vtep)[MAC][0] == believed
    assert states(vtep) == {("etcd", who): "used" if who == believed else "outranked" for who in (ONE, TWO)}
    (winner,) = [each for each in claims if str(each.vtep) == believed]
    vtep.tell("etcd", remove=[winner])
    assert fdb(vtep)[MAC][0] == ({ONE, TWO} - {believed}).pop()
    assert answers(vtep) == {HOST: MAC}


def test_an_address_of_two_hosts_goes_to_the_other_when_one_leaves(vtep: DryVtep) -> None:
    vtep.tell("etcd", add=[endpoint(ONE, MAC, HOST), endpoint(TWO, OTHER, HOST, sequence=1)])
    assert answers(vtep) == {HOST: OTHER}
    vtep.tell("etcd", remove=[endpoint(TWO, OTHER)])
    assert answers(vtep) == {HOST: MAC}


def test_a_segment_that_comes_later_has_what_was_said_before(vtep: DryVtep) -> None:
    vtep.tell("etcd", add=[member(ONE, 7), endpoint(ONE, MAC, HOST, vni=7)])
    assert states(vtep) == {("etcd", ONE): "no segment"}
    vtep.add_segment(vni=7, tap="vx7")
    assert (flood(vtep, 7), fdb(vtep, 7), answers(vtep, 7)) == (
        {ONE},
        {MAC: (ONE, "control", 0)},
        {HOST: MAC},
    )
    vtep.remove_segment(7)
    vtep.add_segment(vni=7, tap="vx7")
    assert (flood(vtep, 7), fdb(vtep, 7), answers(vtep, 7)) == (
        {ONE},
        {MAC: (ONE, "control", 0)},
        {HOST: MAC},
    )
    vtep.tell_all("etcd", [])
    assert tables(vtep, 7) == (set(), {}, {})


def test_a_segment_that_is_changed_keeps_them(vtep: DryVtep) -> None:
    vtep.tell("etcd", add=[member(ONE), endpoint(ONE, MAC, HOST)])
    vtep.change_segment(VNI, remotes=[THREE], ageing=60)
    assert flood(vtep) == {THREE, ONE}
    assert fdb(vtep) == {MAC: (ONE, "control", 0)}


def test_all_that_is_said_replaces_what_was_said(vtep: DryVtep) -> None:
    vtep.tell("evpn", add=[member(THREE)])
    vtep.tell_all("etcd", [member(ONE), endpoint(ONE), endpoint(ONE, OTHER)])
    vtep.tell_all("etcd", [member(TWO), endpoint(TWO), endpoint(ONE, OTHER)])
    assert flood(vtep) == {HAND, TWO, THREE}
    assert fdb(vtep) == {MAC: (TWO, "control", 0), OTHER: (ONE, "control", 0)}


def test_what_is_set_by_hand_stays(vtep: DryVtep) -> None:
    vtep.set_fdb(VNI, MAC, THREE)
    vtep.set_neighbour(VNI, HOST, OTHER)
    vtep.tell("etcd", add=[endpoint(ONE, MAC, HOST)])
    assert (fdb(vtep), answers(vtep)) == ({MAC: (THREE, "static", 0)}, {HOST: OTHER})
    vtep.tell("etcd", remove=[endpoint(ONE)])
    assert (fdb(vtep), answers(vtep)) == ({MAC: (THREE, "static", 0)}, {HOST: OTHER})


def test_what_is_set_by_hand_over_it_stays_when_it_is_withdrawn(vtep: DryVtep) -> None:
    vtep.tell("etcd", add=[endpoint(ONE, MAC, HOST)])
    vtep.set_fdb(VNI, MAC, THREE)
    vtep.set_neighbour(VNI, HOST, OTHER)
    vtep.tell("etcd", remove=[endpoint(ONE)])
    assert (fdb(vtep), answers(vtep)) == ({MAC: (THREE, "static", 0)}, {HOST: OTHER})


def test_what_cannot_be_is_named_and_the_rest_is_used(
    vtep: DryVtep, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "vxcore"):
        vtep.tell(
            "etcd", add=[member("192.0.2.1"), member("2001:db8::1"), member(ONE), endpoint("2001:db8::1")]
        )
        vtep.tell("etcd", add=[member("2001:db8::1")])
    assert (flood(vtep), fdb(vtep)) == ({HAND, ONE}, {})
    assert [record.getMessage().count("2001:db8::1") for record in caplog.records].count(1) == 1
    assert "no local address is IPv6" in states(vtep)["etcd", "2001:db8::1"]
    assert "a local address" in states(vtep)["etcd", "192.0.2.1"]


def test_of_what_is_not_said_any_more_nothing_is_kept(vtep: DryVtep) -> None:
    told, before = vtep.told, sizes(vtep)
    for n in range(1200):
        mac = f"02:00:00:01:{n >> 8:02x}:{n & 255:02x}"
        routes = [member(f"2001:db8::{n:x}", 1000 + n), endpoint(ONE, mac, f"10.1.{n >> 8}.{n & 255}")]
        routes += [member(f"2001:db8::{n:x}"), endpoint(ONE, mac, vni=5000 + n)]
        vtep.tell("etcd", add=routes)
        vtep.tell("etcd", remove=routes)
    refused = len(told._named)
    assert refused <= 1000
    assert sizes(vtep) == before | {"_named": refused, "_refused": refused}
    assert tables(vtep) == ({HAND}, {}, {})


def sizes(vtep: DryVtep) -> dict[str, int]:
    """How many things it knows, by the names of where."""
    return {name: len(value) for name, value in vars(vtep.told).items() if isinstance(value, dict)}


def test_when_a_table_is_full_what_has_room_is_used(caplog: pytest.LogCaptureFixture) -> None:
    settings = {"tables": {"remotes": 2}, "segment": [{"vni": VNI, "tap": "vx42"}]}
    with DryVtep(settings) as vtep:
        vtep.tell(
            "etcd", add=[endpoint(ONE, MAC), endpoint(TWO, OTHER), endpoint(THREE, "02:00:00:00:00:03")]
        )
        assert len(fdb(vtep)) == 2
        assert "not used" in caplog.text


def test_when_a_flood_set_is_full_who_is_gone_is_out_and_others_have_the_room() -> None:
    many = [member(f"198.51.100.{n}") for n in range(1, 20)]
    with DryVtep(
        {"tables": {"remotes": 4}, "segment": [{"vni": VNI, "tap": "vx42", "remotes": [HAND]}]}
    ) as vtep:
        vtep.tell("etcd", add=[member(ONE), member(TWO), *many])
        assert flood(vtep) == {HAND, ONE, TWO, "198.51.100.1"}
        assert [row.state for row in vtep.told_rows()] == 3 * ["used"] + 18 * ["no room"]
        vtep.tell("etcd", remove=[member(ONE)])
        assert flood(vtep) == {HAND, TWO, "198.51.100.1", "198.51.100.2"}
        vtep.change_segment(VNI, ageing=60)
        assert flood(vtep) == {HAND, TWO, "198.51.100.1", "198.51.100.2"}
        assert vtep.describe()[0]["remotes"] == [HAND, TWO, "198.51.100.1", "198.51.100.2"]
        vtep.tell("etcd", add=[member(THREE)], remove=many)
        assert flood(vtep) == {HAND, TWO, THREE}


def test_it_is_not_saved(vtep: DryVtep) -> None:
    before = vtep.running()
    vtep.tell("etcd", add=[member(ONE), endpoint(ONE, MAC, HOST), endpoint(TWO, OTHER, sticky=True)])
    assert vtep.running() == before
    vtep.set_fdb(VNI, MAC, THREE)
    (segment,) = vtep.running().segments
    assert [(str(each.mac), each.kind) for each in segment.fdb] == [(MAC, "static")]


def test_routes_are_words_and_routes_again() -> None:
    routes = [member(ONE), endpoint("2001:db8::1", MAC, HOST, sequence=7, sticky=True, router=True)]
    words = as_words(routes)
    assert from_words(msgspec.json.decode(msgspec.json.encode(words))) == routes
    with pytest.raises(msgspec.ValidationError):
        from_words([{"type": "Member", "vni": 1, "vtep": "here"}])
