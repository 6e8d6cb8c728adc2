"""The messages of GoBGP's API that we use, as classes of protobuf's.

Place in the house: lowest of planes.evpn. Names and numbers are those of GoBGP 3 (`api/gobgp.proto` and
`api/attribute.proto`); fields that we neither set nor read are left out, which the format allows. Made when
this is imported, so that there is no generated code that belongs to one version of protobuf.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]

_PACKAGE = "apipb"
_RD = "1 uint32 admin, 2 uint32 assigned"
_OF_AS = "1 bool is_transitive, 2 uint32 sub_type, 3 uint32 asn, 4 uint32 local_admin"
_OF_ADDRESS = "1 bool is_transitive, 2 uint32 sub_type, 3 string address, 4 uint32 local_admin"
# Number, kind and name of each field; a * is before the kind of those that repeat. Enumerations are int32,
# and Any is Google's, both the same on the wire.
_FIELDS = {
    "Any": "1 string type_url, 2 bytes value",
    "Empty": "",
    "Family": "1 int32 afi, 2 int32 safi",
    # Requests and replies
    "GetBgpRequest": "",
    "GetBgpResponse": "1 Global bgp",
    "Global": "1 uint32 asn, 2 string router_id",
    "ListPeerRequest": "1 string address",
    "ListPeerResponse": "1 Peer peer",
    "ListPathRequest": "1 int32 table_type, 3 Family family",
    "ListPathResponse": "1 Destination destination",
    "Destination": "1 string prefix, 2 *Path paths",
    "WatchEventRequest": "2 WatchedTable table",
    "WatchedTable": "1 *WatchFilter filters",
    "WatchFilter": "1 int32 type, 2 bool init",
    "WatchEventResponse": "3 TableEvent table",
    "TableEvent": "2 *Path paths",
    "AddPathStreamRequest": "1 int32 table_type, 3 *Path paths",
    # Neighbours of the speaker
    "Peer": "2 PeerConf conf, 5 PeerState state, 10 *AfiSafi afi_safis",
    "PeerConf": "4 string neighbor_address, 15 bool admin_down",
    "PeerState": "5 string neighbor_address, 13 int32 session_state",
    "AfiSafi": "1 MpGracefulRestart mp_graceful_restart, 2 AfiSafiConfig config",
    "AfiSafiConfig": "1 Family family, 2 bool enabled",
    "MpGracefulRestart": "2 MpGracefulRestartState state",
    "MpGracefulRestartState": "2 bool received, 4 bool end_of_rib_received",
    # Routes
    "Path": "1 Any nlri, 2 *Any pattrs, 5 bool is_withdraw, 9 Family family",
    "EVPNMACIPAdvertisementRoute": (
        "1 Any rd, 2 EthernetSegmentIdentifier esi, 3 uint32 ethernet_tag, 4 string mac_address, "
        "5 string ip_address, 6 *uint32 labels"
    ),
    "EVPNInclusiveMulticastEthernetTagRoute": "1 Any rd, 2 uint32 ethernet_tag, 3 string ip_address",
    "EthernetSegmentIdentifier": "1 uint32 type, 2 bytes value",
    "RouteDistinguisherTwoOctetASN": _RD,
    "RouteDistinguisherIPAddress": "1 string admin, 2 uint32 assigned",
    "RouteDistinguisherFourOctetASN": _RD,
    # Path attributes
    "OriginAttribute": "1 uint32 origin",
    "MpReachNLRIAttribute": "1 Family family, 2 *string next_hops, 3 *Any nlris",
    "ExtendedCommunitiesAttribute": "1 *Any communities",
    "PmsiTunnelAttribute": "1 uint32 flags, 2 uint32 type, 3 uint32 label, 4 bytes id",
    # Extended communities
    "TwoOctetAsSpecificExtended": _OF_AS,
    "FourOctetAsSpecificExtended": _OF_AS,
    "IPv4AddressSpecificExtended": _OF_ADDRESS,
    "EncapExtended": "1 uint32 tunnel_type",
    "MacMobilityExtended": "1 bool is_sticky, 2 uint32 sequence_num",
    "DefaultGatewayExtended": "",
    "UnknownExtended": "1 uint32 type, 2 bytes value",
}
_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "int32": _FIELD.TYPE_INT32,
    "uint32": _FIELD.TYPE_UINT32,
    "bool": _FIELD.TYPE_BOOL,
    "string": _FIELD.TYPE_STRING,
    "bytes": _FIELD.TYPE_BYTES,
}

Message = Any
"""One of these messages: protobuf makes their classes while it runs."""


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="vxcore/gobgp.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for words in filter(None, fields.split(", ")):
            _add_field(message, *words.split())
    pool = descriptor_pool.DescriptorPool()  # our own: somebody else may have GoBGP's
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _FIELDS
    }


def _add_field(message: Any, number: str, kind: str, name: str) -> None:
    repeats, kind = kind.startswith("*"), kind.removeprefix("*")
    field = message.field.add(name=name, number=int(number))
    field.label = _FIELD.LABEL_REPEATED if repeats else _FIELD.LABEL_OPTIONAL
    field.type = _SCALARS.get(kind, _FIELD.TYPE_MESSAGE)
    if kind not in _SCALARS:
        field.type_name = f".{_PACKAGE}.{kind}"


_CLASSES = _classes()


def kind_of(name: str) -> type[Message]:
    """The class of the messages of that name."""
    return _CLASSES[name]  # type: ignore[no-any-return]


def make(name: str, **fields: Any) -> Message:
    """A message."""
    return _CLASSES[name](**fields)


def pack(name: str, **fields: Any) -> Message:
    """A message inside an Any, which says its name."""
    value = make(name, **fields).SerializeToString()
    return make("Any", type_url=f"type.googleapis.com/{_PACKAGE}.{name}", value=value)


def unpack(packed: Message) -> tuple[str, Message]:
    """Name and message of an Any; of one that we have no use for the message is empty.

    Raises ``google.protobuf.message.DecodeError`` for bytes that are no such message.
    """
    name = packed.type_url.rpartition(".")[2]
    return name, _CLASSES.get(name, _CLASSES["Empty"]).FromString(packed.value)
