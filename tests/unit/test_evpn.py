"""EVPN without a speaker: what routes say, what becomes of addresses that move, and what is known of both."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from importlib import import_module
from ipaddress import ip_address
from typing import Any, cast

import pytest

pytest.importorskip("grpclib")

from msgspec import structs
from support.dry_vtep import DryVtep

from vxcore import config
from vxcore.addresses import AddressError, MacAddress, Target
from vxcore.errors import ConfigError, MissingExtraError
from vxcore.planes.evpn.book import Book
from vxcore.planes.evpn.evpn import Evpn
from vxcore.planes.evpn.messages import Message, make, pack, unpack
from vxcore.planes.evpn.mobility import Mobility
from vxcore.planes.evpn.routes import REASONS, Key, RouteError, Speech, key_of, read, withdrawn
from vxcore.planes.evpn.speaker import Speaker
from vxcore.told import Endpoint, Member, Route, Station

VTEP, OTHER = ip_address("192.0.2.1"), ip_address("192.0.2.2")
MAC = MacAddress("02:00:00:00:00:01")
IP4, IP6 = ip_address("10.42.0.1"), ip_address("fd42::1")
SPEECH = Speech(config.Evpn(), 65000, "192.0.2.1")


def endpoint(vtep: Any = VTEP, **options: Any) -> Endpoint:
    return Endpoint(vni=42, mac=MAC, vtep=vtep, **options)


def paths(route: Route, speech: Speech = SPEECH) -> list[Message]:
    return [path for _, path in speech.paths(route)]


def attributes(path: Message) -> dict[str, Message]:
    return dict(map(unpack, path.pattrs))


def without(path: Message, name: str) -> Message:
    """The path without an attribute."""
    kept = [each for each in path.pattrs if not each.type_url.endswith(name)]
    return make("Path", nlri=path.nlri, pattrs=kept, family=path.family)


@pytest.mark.parametrize(
    "route",
    [
        Member(42, VTEP),
        Member(0xFF_FFFF, ip_address("2001:db8::1")),
        endpoint(),
        endpoint(addresses=(IP4,), sequence=7),
        endpoint(addresses=(IP6,), sticky=True),
        endpoint(addresses=(IP6,), router=True, sequence=0xFFFF_FFFF, sticky=True),
        endpoint(ip_address("2001:db8::1"), addresses=(IP4,), router=True),
    ],
    ids=str,
)
def test_a_route_is_a_path_and_a_route_again(route: Route) -> None:
    (path,) = paths(route)
    assert read(path).route == route
    assert read(path).targets == (f"65000:{route.vni}",)
    assert key_of(path) == next(key for key, _ in SPEECH.paths(route))
    assert withdrawn(path).is_withdraw
    assert "ExtendedCommunitiesAttribute" not in attributes(withdrawn(path))
    assert not path.is_withdraw


def test_each_address_has_a_path_of_its_own() -> None:
    both = paths(endpoint(addresses=(IP4, IP6)))
    assert [key_of(path).address for path in both] == ["10.42.0.1", "fd42::1"]


def test_labels_are_vnis_and_tunnels_lead_to_the_vtep() -> None:
    said = attributes(paths(Member(42, VTEP))[0])
    tunnel = said["PmsiTunnelAttribute"]
    assert (tunnel.type, tunnel.label, bytes(tunnel.id)) == (6, 42, VTEP.packed)
    assert list(said["MpReachNLRIAttribute"].next_hops) == ["192.0.2.1"]
    _, nlri = unpack(paths(endpoint())[0].nlri)
    assert list(nlri.labels) == [42]
    kinds = [unpack(each)[0] for each in said["ExtendedCommunitiesAttribute"].communities]
    assert kinds == ["TwoOctetAsSpecificExtended", "EncapExtended"]


def test_route_distinguishers_are_unique_on_a_host() -> None:
    speech = Speech(config.Evpn(), 65000, "192.0.2.1")
    rds = [next(key.rd for key, _ in speech.paths(Member(vni, VTEP))) for vni in (42, 0x1_0000 + 42, 42, 43)]
    assert rds == ["192.0.2.1:42", "192.0.2.1:43", "192.0.2.1:42", "192.0.2.1:44"]


def test_what_settings_say_of_a_vni_is_said() -> None:
    given = config.EvpnSegment(
        vni=42, rd=Target("7:1"), exports=(Target("192.0.2.9:8"), Target("4200000000:9"), Target("5:70000"))
    )
    speech = Speech(config.Evpn(segments=(given,)), 65000, "192.0.2.1")
    ((key, path),) = speech.paths(endpoint())
    assert key.rd == key_of(path).rd == "7:1"
    assert read(path).targets == ("192.0.2.9:8", "4200000000:9", "5:70000")


def test_of_a_long_as_number_the_lower_half_is_in_targets() -> None:
    (path,) = paths(Member(0x12_3456, VTEP), Speech(config.Evpn(), 0x1_0001, "192.0.2.1"))
    assert read(path).targets == (f"1:{0x12_3456}",)


@pytest.mark.parametrize(
    ("imports", "targets", "takes"),
    [
        (None, ["65000:42"], True),
        (None, ["1:1", "7:42"], True),  # other ASes have numbers of their own
        (None, ["65000:43"], False),
        (None, ["192.0.2.1:42"], False),
        (None, [], False),
        (["1:2", "3:4"], ["3:4"], True),
        (["1:2"], ["65000:42"], False),
    ],
)
def test_what_is_imported(imports: list[str] | None, targets: list[str], *, takes: bool) -> None:
    given = config.EvpnSegment(vni=42, imports=imports and tuple(map(Target, imports)))
    speech = Speech(config.Evpn(segments=(given,)), 65000, "192.0.2.1")
    assert speech.takes(42, list(map(Target, targets))) is takes


def mac_path(**fields: Any) -> Message:
    """A path of type 2 whose NLRI has other fields."""
    (path,) = paths(endpoint())
    kind, nlri = unpack(path.nlri)
    given = {"rd": nlri.rd, "mac_address": str(MAC), "labels": [42]} | fields
    return make("Path", nlri=pack(kind, **given), pattrs=path.pattrs)


def other_tunnel() -> Message:
    (path,) = paths(Member(42, VTEP))
    kept = without(path, "PmsiTunnelAttribute")
    kept.pattrs.append(pack("PmsiTunnelAttribute", type=1, label=42))
    return kept


def of_mpls() -> Message:
    kept = without(paths(endpoint())[0], "ExtendedCommunitiesAttribute")
    kept.pattrs.append(
        pack("ExtendedCommunitiesAttribute", communities=[pack("EncapExtended", tunnel_type=10)])
    )
    return kept


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("other_type", make("Path", nlri=pack("DefaultGatewayExtended"))),
        ("other_type", make("Path")),
        ("multihoming", mac_path(esi=make("EthernetSegmentIdentifier", type=1, value=bytes(9)))),
        ("multihoming", mac_path(esi=make("EthernetSegmentIdentifier", value=bytes(8) + b"\1"))),
        ("ethernet_tag", mac_path(ethernet_tag=1)),
        ("encapsulation", of_mpls()),
        ("tunnel", other_tunnel()),
        ("tunnel", without(paths(Member(42, VTEP))[0], "PmsiTunnelAttribute")),
        ("vni", mac_path(labels=[])),
        ("vni", mac_path(labels=[0])),
        ("vni", mac_path(labels=[0x100_0000])),
        ("vtep", without(paths(endpoint())[0], "MpReachNLRIAttribute")),
        ("mac", mac_path(mac_address="ff:ff:ff:ff:ff:ff")),
        ("mac", mac_path(mac_address="")),
        ("address", mac_path(ip_address="224.0.0.1")),
        ("address", mac_path(ip_address="nonsense")),
        ("malformed", mac_path(rd=pack("DefaultGatewayExtended"))),
        (
            "malformed",
            make("Path", nlri=make("Any", type_url="x/EVPNMACIPAdvertisementRoute", value=b"\xff")),
        ),
    ],
)
def test_what_cannot_be_used_has_a_reason(name: str, path: Message) -> None:
    with pytest.raises(RouteError) as caught:
        (key_of(path), read(path))
    assert caught.value.name == name
    assert str(caught.value) == REASONS[name]
    counts: Counter[str] = Counter()
    book = Book([], counts)
    assert book.update([path], SPEECH) == ([], [])
    assert counts == {f"ignored_{name}": 1}
    assert [trouble.why for trouble in book.ignored] == [REASONS[name]]
    book.update([withdrawn(path)], SPEECH)
    assert book.ignored == []


def test_a_neighbour_that_says_that_it_is_a_router_is_one() -> None:
    (path,) = paths(endpoint(addresses=(IP6,)))
    said = attributes(path)["ExtendedCommunitiesAttribute"]
    assert not read(path).route.router
    for value, router in ((b"\x08\x01\0\0\0\0\0", True), (b"\x08\x02\0\0\0\0\0", False), (b"\x08", False)):
        more = [*said.communities, pack("UnknownExtended", type=6, value=value)]
        kept = without(path, "ExtendedCommunitiesAttribute")
        kept.pattrs.append(pack("ExtendedCommunitiesAttribute", communities=more))
        assert read(kept).route.router is router


# What is known


def test_an_endpoint_has_the_addresses_of_all_its_routes() -> None:
    book = Book([VTEP], Counter())
    one, two = paths(endpoint(OTHER, addresses=(IP6, IP4), sequence=3))
    assert book.update([one], SPEECH).add == [endpoint(OTHER, addresses=(IP6,), sequence=3)]
    both = endpoint(OTHER, addresses=(IP4, IP6), sequence=3)
    assert book.update([two], SPEECH) == ([both], [])
    assert book.heard((42, MAC)) == both
    assert book.update([two], SPEECH) == ([], [])  # nothing new
    assert book.update([withdrawn(one)], SPEECH).add == [endpoint(OTHER, addresses=(IP4,), sequence=3)]
    assert book.update([withdrawn(two)], SPEECH) == ([], [endpoint(OTHER, addresses=(IP4,), sequence=3)])
    assert book.heard((42, MAC)) is None


def test_what_this_vtep_has_said_is_no_news() -> None:
    book = Book([VTEP], Counter())
    assert book.update(paths(endpoint()) + paths(Member(42, VTEP)), SPEECH) == ([], [])
    assert [route for _, route in book.own.values()] == [endpoint(), Member(42, VTEP)]
    book.update([withdrawn(paths(endpoint())[0])], SPEECH)
    assert len(book.own) == 1


def test_what_is_not_imported_is_counted() -> None:
    counts: Counter[str] = Counter()
    book = Book([], counts)
    given = config.Evpn(segments=(config.EvpnSegment(vni=42, imports=(Target("9:9"),)),))
    assert book.update(paths(Member(42, OTHER)), Speech(given, 65000, "192.0.2.1")) == ([], [])
    assert (counts, book.ignored) == ({"not_imported": 1}, [])


def test_the_whole_is_what_is_there_and_nothing_else() -> None:
    book = Book([VTEP], Counter())
    book.update(paths(endpoint(OTHER)) + paths(Member(43, OTHER)), SPEECH)
    assert book.replace(paths(Member(42, OTHER)) + paths(endpoint()), SPEECH) == [Member(42, OTHER)]
    assert book.heard((42, MAC)) is None
    assert list(book.own) == [Key("192.0.2.1:42", MAC, "")]


def test_of_very_many_that_are_ignored_the_last_are_named() -> None:
    counts: Counter[str] = Counter()
    book = Book([], counts)
    for number in range(1, 1503):  # one route of BGP's, ever again with another label: those are not its key
        book.update([mac_path(labels=[number], ethernet_tag=1)], SPEECH)
    assert counts["ignored_ethernet_tag"] == 1502
    assert len(book.ignored) == 1000


class Heeding:
    """A speaker that notes what it is told."""

    def __init__(self) -> None:
        self.gone: list[Key] = []

    async def say(self, paths: list[Message]) -> None:
        self.gone += [key_of(path) for path in paths if path.is_withdraw]


def test_at_the_end_what_the_process_before_had_said_is_taken_back_too() -> None:
    with DryVtep() as vtep:
        evpn, speaker = Evpn(vtep, config.Evpn(), tuple), Heeding()
        evpn._book.update(paths(endpoint()) + paths(Member(42, VTEP)), SPEECH)
        evpn._said = {Member(42, VTEP): dict(SPEECH.paths(Member(42, VTEP)))}
        for _ in range(2):  # the second time there is nothing left
            asyncio.run(evpn._withdraw_all(cast("Speaker", speaker)))
    assert sorted(speaker.gone) == [Key("192.0.2.1:42", "", "192.0.2.1"), Key("192.0.2.1:42", MAC, "")]


# Addresses that move


class Moving:
    """The station of `MAC`, here and elsewhere."""

    def __init__(self, moves: int = 3) -> None:
        self.now = 0.0
        self.mobility = Mobility(moves, 180.0, lambda: self.now)
        self.elsewhere: Endpoint | None = None

    def heard(self, station: Station) -> Endpoint | None:
        assert station == (42, MAC)
        return self.elsewhere

    def here(self, *, may_begin: bool = True, **options: Any) -> Endpoint | None:
        """What is announced while it is here."""
        said = list(self.mobility.announced([endpoint(**options)], self.heard, may_begin=may_begin))
        return said[0] if said else None

    def gone(self) -> None:
        assert list(self.mobility.announced([], self.heard, may_begin=True)) == []

    @property
    def trouble(self) -> str:
        (trouble,) = self.mobility.troubles
        assert trouble.what == f"{MAC} vni 42"
        return trouble.why


def test_an_address_that_nobody_had_begins_at_0_and_one_that_moves_is_one_ahead() -> None:
    it = Moving()
    assert it.here() == endpoint()
    it.elsewhere = endpoint(OTHER, sequence=1)  # somebody has it now, and it still seems to be here
    assert it.here() is None
    assert it.trouble == "VTEP 192.0.2.2 has it now, with sequence 1"
    it.gone()
    assert it.mobility.troubles == []
    assert it.here() == endpoint(sequence=2)
    assert it.mobility.troubles == []


def test_of_two_with_one_sequence_the_lower_vtep_has_it() -> None:
    it = Moving()
    it.here()
    it.elsewhere = endpoint(ip_address("192.0.2.0"))
    assert it.here() is None
    it.elsewhere = endpoint(OTHER)
    assert it.here() == endpoint()


def test_who_has_it_no_more_leaves_it_to_us() -> None:
    it = Moving()
    it.here()
    it.elsewhere = endpoint(OTHER, sequence=5)
    assert it.here() is None
    it.elsewhere = None
    assert it.here() == endpoint()


def test_what_does_not_move_is_not_taken_and_not_given() -> None:
    it = Moving()
    it.elsewhere = endpoint(OTHER, sticky=True)
    assert it.here() is None
    assert it.trouble == "VTEP 192.0.2.2 has it, and says that it does not move"
    assert it.here(sticky=True) == endpoint(sticky=True, sequence=1)  # both say so: a fault, the last has it
    it = Moving()
    assert it.here(sticky=True) == endpoint(sticky=True)
    it.elsewhere = endpoint(OTHER, sequence=9)
    assert it.here(sticky=True) == endpoint(sticky=True)


def test_what_moves_too_often_is_left_to_others_for_a_while() -> None:
    it = Moving(moves=3)
    for turn in range(3):
        it.elsewhere = endpoint(OTHER, sequence=2 * turn)
        assert it.here() == endpoint(sequence=2 * turn + 1)
        it.gone()
        it.now += 10
    assert it.here() is None
    assert it.trouble == "VTEP 192.0.2.2 has it, too: it moves too often"
    it.now += 180
    assert it.here() == endpoint(sequence=5)
    it = Moving(moves=0)
    it.elsewhere = endpoint(OTHER)
    for _ in range(20):
        assert it.here() == endpoint(sequence=1)
        it.gone()


def test_of_moves_that_are_long_past_nothing_is_kept() -> None:
    mobility = Mobility(3, clock=iter(range(1000)).__next__, window_s=9)
    for number in range(100):
        one = structs.replace(endpoint(), mac=MacAddress(f"02:00:00:00:00:{number:02x}"))
        elsewhere = structs.replace(one, vtep=OTHER)
        assert list(mobility.announced([one], lambda _, best=elsewhere: best, may_begin=True))
    assert len(mobility._times) <= 10


def test_the_last_sequence_is_not_passed() -> None:
    it = Moving()
    it.elsewhere = endpoint(OTHER, sequence=0xFFFF_FFFF)
    assert it.here() == endpoint(sequence=0xFFFF_FFFF)


def test_at_first_nothing_new_is_announced_but_what_was_stays() -> None:
    it = Moving()
    assert it.here(may_begin=False) is None
    assert it.here() == endpoint()
    assert it.here(may_begin=False) == endpoint()


def test_what_the_process_before_has_announced_goes_on() -> None:
    it = Moving()
    it.mobility.remember(endpoint(sequence=4))
    it.elsewhere = endpoint(OTHER, sequence=3)
    assert it.here() == endpoint(sequence=4)
    it = Moving()
    it.mobility.remember(endpoint(sequence=4))
    it.elsewhere = endpoint(OTHER, sequence=5)
    assert it.here() == endpoint(sequence=6)


# Settings


@pytest.mark.parametrize(
    "text", ["65000:42", "0:0", "65535:4294967295", "4294967295:65535", "192.0.2.1:65535"]
)
def test_targets(text: str) -> None:
    assert str(Target(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "42", "65536:65536", "4294967296:1", "1:4294967296", "192.0.2.1:65536", "192.0.2.256:1", "a:b"],
)
def test_what_is_no_target(text: str) -> None:
    with pytest.raises(AddressError, match=r"route target|number"):
        Target(text)


@pytest.mark.parametrize(
    ("evpn", "message"),
    [
        ({"api": "localhost"}, 'evpn.api: "localhost" is not allowed; an IP address and a port'),
        ({"api": "192.0.2.1:70000"}, "no such port"),
        ({"router_id": "::1"}, "is not IPv4"),
        ({"router_id": "2001:db8::1"}, "is not IPv4"),
        ({"segment": [{"vni": 1}, {"vni": 1}]}, r"evpn.segment\[1\].vni: 1 is there twice"),
        ({"segment": [{"vni": 1, "imports": []}]}, "a list, each a route target"),
        ({"segment": [{"vni": 1, "rd": "1:2:3"}]}, r"evpn.segment\[0\].rd: .* is not a route target"),
        ({"segment": [{"vni": 1, "sticky": ["01:00:00:00:00:00"]}]}, "is a group address"),
        ({"asn": 0}, "evpn.asn: 0 is not allowed"),
    ],
)
def test_settings_that_are_wrong_are_named(evpn: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.from_mapping({"underlay": {"local": "192.0.2.1"}, "evpn": evpn})


def test_what_settings_say_of_a_vni_that_they_do_not_name_is_nothing() -> None:
    assert config.Evpn().of(7) == config.EvpnSegment(vni=7)
    assert structs.replace(config.Evpn(), asn=7).asn == 7


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("vxcore.planes.evpn", "grpclib"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "grpclib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vxcore\[evpn\]'"):
        import_module("vxcore.planes.evpn.evpn")
