"""Members and endpoints as BGP has them, EVPN routes of types 3 and 2, and back.

Place in the house: in planes.evpn, above messages. RFC 7432 for the routes, RFC 8365 for VXLAN: labels are
VNIs, next hops are VTEPs. What comes was written by a stranger: what cannot be used raises RouteError with
one of few reasons, by which they are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from vxcore import config
from vxcore.addresses import AddressError, MacAddress, Target, parse_unicast
from vxcore.config import IPAddress
from vxcore.planes.evpn.messages import Message, make, pack, unpack
from vxcore.told import Endpoint, Member, Route

_L2VPN, _EVPN = 25, 70
FAMILY = make("Family", afi=_L2VPN, safi=_EVPN)
_MAC_ROUTE = "EVPNMACIPAdvertisementRoute"
_MEMBER_ROUTE = "EVPNInclusiveMulticastEthernetTagRoute"
_RDS = ("RouteDistinguisherTwoOctetASN", "RouteDistinguisherIPAddress", "RouteDistinguisherFourOctetASN")
_TARGETS = ("TwoOctetAsSpecificExtended", "IPv4AddressSpecificExtended", "FourOctetAsSpecificExtended")
_ROUTE_TARGET = 0x02  # RFC 4360 section 4
_VXLAN = 8  # RFC 8365 section 11
_INGRESS_REPLICATION = 6  # RFC 6514 section 5
_INCOMPLETE = 2  # the origin of what no routing protocol says
_EVPN_COMMUNITY, _ND, _ROUTER, _OVERRIDE = 0x06, 0x08, 0x01, 0x02  # RFC 9047 section 2
_NO_ADDRESS = "<nil>"
_MAX_SHORT = 0xFFFF
_MAX_VNI = 0xFF_FFFF


REASONS = {
    "other_type": "neither of type 2 nor of type 3",
    "multihoming": "an Ethernet segment",
    "ethernet_tag": "an Ethernet tag: several broadcast domains in one VNI",
    "encapsulation": "an encapsulation that is not VXLAN",
    "tunnel": "a PMSI tunnel that is no ingress replication",
    "vni": "no VNI",
    "vtep": "a next hop that is no host",
    "mac": "a MAC address that is no host's",
    "address": "an IP address that is no host's",
    "malformed": "not as the speaker's API has it",
}
"""Why routes are not used, by the names under which they are counted."""


class RouteError(Exception):
    """A route is not used: the name of one of `REASONS`."""

    def __init__(self, name: str) -> None:
        super().__init__(REASONS[name])
        self.name = name


class Key(NamedTuple):
    """What makes a route this one and no other (RFC 7432 sections 7.2 and 7.3)."""

    rd: str
    mac: str
    """Empty: it is of type 3."""
    address: str

    @property
    def title(self) -> str:
        """As the troubles name it."""
        return " ".join(filter(None, (self.rd, self.mac, self.address)))


class Speech:
    """How this host says things: the speaker's `asn`, and what the settings say of single VNIs."""

    def __init__(self, settings: config.Evpn, asn: int, router_id: str) -> None:
        self._segments = {each.vni: each for each in settings.segments}
        self._asn, self._router_id = settings.asn or asn, router_id
        self._numbers: dict[int, int] = {}

    # What we say

    def paths(self, route: Route) -> Iterator[tuple[Key, Message]]:
        """The paths that announce it."""
        rd = self._rd(route.vni)
        if isinstance(route, Member):
            yield Key(rd, "", str(route.vtep)), self._member_path(rd, route)
            return
        for address in route.addresses or (None,):
            text = "" if address is None else str(address)
            yield Key(rd, route.mac, text), self._endpoint_path(rd, route, address)

    def _member_path(self, rd: str, route: Member) -> Message:
        nlri = pack(_MEMBER_ROUTE, rd=_packed_rd(rd), ip_address=str(route.vtep))
        tunnel = {"type": _INGRESS_REPLICATION, "label": route.vni, "id": route.vtep.packed}
        communities = [*self._exports(route.vni), pack("EncapExtended", tunnel_type=_VXLAN)]
        return _path(nlri, route.vtep, communities, pack("PmsiTunnelAttribute", **tunnel))

    def _endpoint_path(self, rd: str, route: Endpoint, address: IPAddress | None) -> Message:
        nlri = pack(
            _MAC_ROUTE,
            rd=_packed_rd(rd),
            esi=make("EthernetSegmentIdentifier", value=bytes(9)),
            mac_address=str(route.mac),
            ip_address="" if address is None else str(address),
            labels=[route.vni],
        )
        communities = [*self._exports(route.vni), pack("EncapExtended", tunnel_type=_VXLAN)]
        if route.sequence or route.sticky:
            mobility = {"is_sticky": route.sticky, "sequence_num": route.sequence}
            communities.append(pack("MacMobilityExtended", **mobility))
        if route.router:
            communities.append(pack("DefaultGatewayExtended"))
        if route.router and isinstance(address, IPv6Address):
            said = bytes([_ND, _ROUTER | _OVERRIDE, 0, 0, 0, 0, 0])
            communities.append(pack("UnknownExtended", type=_EVPN_COMMUNITY, value=said))
        return _path(nlri, route.vtep, communities)

    def _rd(self, vni: int) -> str:
        """That of a VNI: given, or the router id and a number, the VNI if that is small."""
        given = self._segments.get(vni)
        if given is not None and given.rd is not None:
            return given.rd
        if vni not in self._numbers:
            taken, number = set(self._numbers.values()), vni & _MAX_SHORT
            while number in taken:
                number = (number + 1) & _MAX_SHORT
            self._numbers[vni] = number
        return f"{self._router_id}:{self._numbers[vni]}"

    def _exports(self, vni: int) -> Iterator[Message]:
        given = self._segments.get(vni)
        own = Target(f"{self._asn & _MAX_SHORT}:{vni}")  # two bytes, that the VNI may have four
        for target in (given and given.exports) or (own,):
            yield _packed_target(target)

    # What we hear

    def takes(self, vni: int, targets: Iterable[Target]) -> bool:
        """Whether what has these route targets is for that VNI here."""
        given = self._segments.get(vni)
        if given is not None and given.imports is not None:
            return not set(given.imports).isdisjoint(targets)
        return any(isinstance(admin, int) and number == vni for admin, number in (t.ends for t in targets))


class Heard(NamedTuple):
    """A route of another VTEP, and whether we would take it."""

    route: Route
    targets: tuple[Target, ...]


def key_of(path: Message) -> Key:
    """The key of a path. Raises RouteError."""
    name, nlri = _unpacked(path.nlri)
    if name not in (_MAC_ROUTE, _MEMBER_ROUTE):
        raise RouteError("other_type")
    if nlri.ethernet_tag:
        raise RouteError("ethernet_tag")
    mac = nlri.mac_address.lower() if name == _MAC_ROUTE else ""
    return Key(_rd_text(nlri.rd), mac, _address_text(nlri))


def read(path: Message) -> Heard:
    """What a path says. Raises RouteError."""
    name, nlri = _unpacked(path.nlri)
    attributes = dict(map(_unpacked, path.pattrs))
    reach = attributes.get("MpReachNLRIAttribute")
    if reach is None or not reach.next_hops:
        raise RouteError("vtep")
    vtep = _address(reach.next_hops[0], "vtep")
    said = attributes.get("ExtendedCommunitiesAttribute")
    communities = [] if said is None else [_unpacked(each) for each in said.communities]
    _check_encapsulation(communities)
    targets = tuple(_targets(communities))
    if name == _MEMBER_ROUTE:
        return Heard(_member(attributes.get("PmsiTunnelAttribute"), vtep), targets)
    return Heard(_endpoint(nlri, vtep, communities), targets)


def _member(tunnel: Message | None, vtep: IPAddress) -> Member:
    if tunnel is None:
        raise RouteError("tunnel")
    if tunnel.type != _INGRESS_REPLICATION:
        raise RouteError("tunnel")
    if len(tunnel.id) in (4, 16):
        vtep = _address(str(ip_address(tunnel.id)), "vtep")
    return Member(_vni(tunnel.label), vtep)


def _endpoint(nlri: Message, vtep: IPAddress, communities: list[tuple[str, Message]]) -> Endpoint:
    if nlri.esi.type or any(nlri.esi.value):
        raise RouteError("multihoming")
    try:
        mac = MacAddress(nlri.mac_address)
    except AddressError:
        raise RouteError("mac") from None
    text = _address_text(nlri)
    addresses = (_address(text, "address"),) if text else ()
    mobility = next((each for name, each in communities if name == "MacMobilityExtended"), None)
    return Endpoint(
        vni=_vni(nlri.labels[0] if nlri.labels else 0),
        mac=mac,
        vtep=vtep,
        addresses=addresses,
        sequence=mobility.sequence_num if mobility else 0,
        sticky=mobility.is_sticky if mobility else False,
        router=any(map(_names_router, communities)),
    )


def _names_router(community: tuple[str, Message]) -> bool:
    name, message = community
    if name == "UnknownExtended":
        return message.type == _EVPN_COMMUNITY and message.value[:1] == bytes([_ND]) and _flags(message)
    return name == "DefaultGatewayExtended"


def _flags(message: Message) -> bool:
    return len(message.value) > 1 and bool(message.value[1] & _ROUTER)


def _check_encapsulation(communities: list[tuple[str, Message]]) -> None:
    """Without a word of it the encapsulation is what all here have (RFC 8365 section 5.1.3)."""
    kinds = {message.tunnel_type for name, message in communities if name == "EncapExtended"}
    if kinds and _VXLAN not in kinds:
        raise RouteError("encapsulation")


def _targets(communities: list[tuple[str, Message]]) -> Iterator[Target]:
    for name, message in communities:
        if name in _TARGETS and message.is_transitive and message.sub_type == _ROUTE_TARGET:
            admin = message.address if name == "IPv4AddressSpecificExtended" else message.asn
            yield _target(f"{admin}:{message.local_admin}")


def _target(text: str) -> Target:
    try:
        return Target(text)
    except AddressError:
        raise RouteError("malformed") from None


def _address_text(nlri: Message) -> str:
    """GoBGP has a word for no address."""
    return "" if nlri.ip_address == _NO_ADDRESS else str(nlri.ip_address)


def _vni(label: int) -> int:
    if not 0 < label <= _MAX_VNI:
        raise RouteError("vni")
    return label


def _address(text: str, name: str) -> IPAddress:
    try:
        return parse_unicast(text)
    except AddressError:
        raise RouteError(name) from None


def _unpacked(packed: Message) -> tuple[str, Message]:
    try:
        return unpack(packed)
    except DecodeError:
        raise RouteError("malformed") from None


# Parts of paths


def _path(nlri: Message, vtep: IPAddress, communities: list[Message], *more: Message) -> Message:
    reach = pack("MpReachNLRIAttribute", family=FAMILY, next_hops=[str(vtep)], nlris=[nlri])
    said = pack("ExtendedCommunitiesAttribute", communities=communities)
    attributes = [pack("OriginAttribute", origin=_INCOMPLETE), reach, said, *more]
    return make("Path", nlri=nlri, pattrs=attributes, family=FAMILY)


def withdrawn(path: Message) -> Message:
    """The path that takes it back.

    Without communities: GoBGP would hold the sequence number against that of who has the address now, and
    refuse a lower one.
    """
    gone = make("Path")
    gone.CopyFrom(path)
    gone.is_withdraw = True
    kept = [each for each in path.pattrs if unpack(each)[0] != "ExtendedCommunitiesAttribute"]
    del gone.pattrs[:]
    gone.pattrs.extend(kept)
    return gone


def _packed_rd(text: str) -> Message:
    return _packed(text, _RDS, lambda admin, number: {"admin": admin, "assigned": number})


def _packed_target(text: str) -> Message:
    def fields(admin: int | str, number: int) -> dict[str, object]:
        whose = "address" if isinstance(admin, str) else "asn"
        return {"is_transitive": True, "sub_type": _ROUTE_TARGET, whose: admin, "local_admin": number}

    return _packed(text, _TARGETS, fields)


def _packed(
    text: str, kinds: tuple[str, str, str], fields: Callable[[int | str, int], dict[str, object]]
) -> Message:
    """Of the kinds those of a short AS number, of an address, and of a long AS number."""
    admin, number = Target(text).ends
    if isinstance(admin, IPv4Address):
        return pack(kinds[1], **fields(str(admin), number))
    return pack(kinds[0] if admin <= _MAX_SHORT else kinds[2], **fields(admin, number))


def _rd_text(packed: Message) -> str:
    name, rd = _unpacked(packed)
    if name not in _RDS:
        raise RouteError("malformed")
    return f"{rd.admin}:{rd.assigned}"
