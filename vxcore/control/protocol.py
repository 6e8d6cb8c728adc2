"""What is said over the control socket: requests, replies, and the rows that lists are made of.

Place in the house: lowest of control, above config. REQUESTS is the one list; what is checked, the page
docs/control-socket.md and the JSON schemas are held against it.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta, Struct

from vxcore.addresses import IP_FORM, MAC_FORM, MacAddress
from vxcore.config import FdbEntry, IPAddress, Neighbour, Remote, Segment
from vxcore.errors import ConfigError, TableFullError, UnsupportedError, VxcoreError

Vni = Annotated[int, Meta(ge=0, le=0xFF_FFFF)]
Mac = Annotated[MacAddress, Meta(description=MAC_FORM)]
Ip = Annotated[IPAddress, Meta(description=IP_FORM)]
_VNI_LIST = Meta(description="a list of VNIs")
_ADDRESSES = Meta(description=f"a list, each {IP_FORM}")
_WORDS = Meta(description="a list of names")
_ENTRIES = Meta(description="a list of tables", min_length=1)
_BASE64 = Meta(description="bytes in base64")
_KEYS = Meta(description="a table of the keys of [[segment]]")


class Asked(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a request is about; of a list, what its rows must have."""


class Told(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a reply says."""


# Requests


class Nothing(Asked, frozen=True):
    """There is nothing to say."""


class OfSegment(Asked, frozen=True):
    """Which segments, and how many at most."""

    vni: Vni | None = None
    limit: Annotated[int, Meta(ge=0, le=1 << 20)] | None = None


class SegmentAdd(Asked, frozen=True):
    """Segments to add, all or none."""

    segments: Annotated[tuple[Segment, ...], _ENTRIES]


class SegmentChange(Asked, frozen=True):
    """Keys of a segment that get other values, and keys that get their defaults."""

    vni: Vni
    set: Annotated[dict[str, Any], _KEYS] = {}  # msgspec copies it
    unset: Annotated[tuple[str, ...], _WORDS] = ()


class SegmentFlood(Asked, frozen=True):
    """Remotes that come into the flood set, or leave it."""

    vni: Vni
    add: Annotated[tuple[Ip, ...], _ADDRESSES] = ()
    remove: Annotated[tuple[Ip, ...], _ADDRESSES] = ()


class SegmentRemove(Asked, frozen=True):
    """Segments to remove, all or none."""

    vnis: Annotated[tuple[Vni, ...], _VNI_LIST]


class OfEntry(Asked, frozen=True):
    """Which FDB entries."""

    vni: Vni | None = None
    mac: Mac | None = None
    remote: Ip | None = None
    kind: Annotated[str, Meta(description='a kind such as "learned" or "static"')] | None = None


class Entry(FdbEntry, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An FDB entry, as `fdb` of ``[[segment]]`` has it, and its VNI."""

    vni: Vni


class FdbSet(Asked, frozen=True):
    """Entries to set, all or none."""

    entries: Annotated[tuple[Entry, ...], _ENTRIES]


class EntryKey(Asked, frozen=True):
    """Names an FDB entry."""

    vni: Vni
    mac: Mac


class FdbRemove(Asked, frozen=True):
    """Entries to remove, all or none."""

    entries: Annotated[tuple[EntryKey, ...], _ENTRIES]


class FdbFlush(Asked, frozen=True):
    """Whose learned entries are to be forgotten: those of any of these."""

    vnis: Annotated[tuple[Vni, ...], _VNI_LIST] = ()
    remotes: Annotated[tuple[Ip, ...], _ADDRESSES] = ()
    devices: Annotated[tuple[str, ...], _WORDS] = ()
    all: bool = False


class OfRemote(Asked, frozen=True):
    """Which remotes."""

    remote: Ip | None = None


class RemoteSet(Remote, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A remote, as ``[[remote]]`` has it."""


class RemoteRemove(Asked, frozen=True):
    """Remotes to remove, all or none."""

    addresses: Annotated[tuple[Ip, ...], _ADDRESSES]


class OfNeighbour(Asked, frozen=True):
    """Which neighbours."""

    vni: Vni | None = None
    mac: Mac | None = None


class NeighbourEntry(Neighbour, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A neighbour, as `neighbours` of ``[[segment]]`` has it, and its VNI."""

    vni: Vni


class NeighbourSet(Asked, frozen=True):
    """Neighbours to set, all or none, in the place of what is there."""

    entries: Annotated[tuple[NeighbourEntry, ...], _ENTRIES]


class NeighbourKey(Asked, frozen=True):
    """Names a neighbour."""

    vni: Vni
    address: Ip


class NeighbourRemove(Asked, frozen=True):
    """Neighbours to remove, all or none."""

    entries: Annotated[tuple[NeighbourKey, ...], _ENTRIES]


class Monitor(Asked, frozen=True):
    """Which events; none: all."""

    kinds: Annotated[tuple[str, ...], _WORDS] = ()


class PacketsWanted(Asked, frozen=True):
    """Which packets, and how much of each; up to four clients may ask at a time."""

    vni: Vni | None = None
    mac: Mac | None = None
    """Source or destination of the inner frame."""
    ways: Annotated[tuple[Literal["out", "in"], ...], _WORDS] = ("out", "in")
    """From overlay to underlay, and back."""
    snap_len: Annotated[int, Meta(ge=0, le=65_535)] = 65_535
    dropped_only: bool = False
    steps: bool = False
    """Whether to say what happened to each."""


class Takeover(Asked, frozen=True):
    """Which versions of the handover the process that asks knows (`vxcore.handover`)."""

    versions: Annotated[tuple[int, ...], Meta(description="a list of numbers", min_length=1)]


class ForetellOut(Asked, frozen=True):
    """A frame as it would come from the overlay port of a segment."""

    vni: Vni
    data: Annotated[bytes, _BASE64]


class ForetellIn(Asked, frozen=True):
    """A packet as it would come from the underlay, from its VXLAN header on."""

    source: Ip
    data: Annotated[bytes, _BASE64]
    source_port: Annotated[int, Meta(ge=0, le=65_535)] = 0
    tos: Annotated[int, Meta(ge=0, le=255)] = 0


# Replies


class Done(Told, frozen=True):
    """It is done, to so many."""

    changed: int


class Overview(Told, frozen=True):
    """The VTEP as a whole; counters are since its start."""

    version: str
    pid: int
    uptime_s: float
    file: str | None
    """What `reload` reads; null: it was started by options alone."""
    underlay: str
    """The kind of its port."""
    local: tuple[str, ...]
    dstport: int
    lanes: int
    segments: int
    collectors: int
    remotes: int
    learned_remotes: int
    entries: int
    """Of the FDB."""
    learned_entries: int
    rx_packets: int
    rx_bytes: int
    tx_packets: int
    tx_bytes: int
    drops: dict[str, int]
    """By verdict."""
    fdb: dict[str, int]
    """What became of addresses: learned, moves, frozen, held, refused, overflow, aged, flushed."""
    events: dict[str, int]
    offloads: dict[str, str]
    """Those that are not on."""


class SegmentRow(Told, frozen=True):
    """A segment, or a collector: then `vni` is null."""

    vni: int | None
    collects: str | None
    """The VNIs of a collector."""
    port: str
    """The kind of its port."""
    dev: str
    mtu: int
    remotes: tuple[str, ...]
    """The flood set."""
    learned: int
    """Entries that are learned now."""
    rx_packets: int
    rx_bytes: int
    tx_packets: int
    tx_bytes: int
    settings: dict[str, Any]
    """The keys of its table that do not have their defaults, without `fdb` and `neighbours`."""


class FdbRow(Told, frozen=True):
    """An FDB entry."""

    vni: int
    mac: str
    kind: str
    """learned, frozen (learned, and moved too often), static, control, sticky."""
    remote: str | None
    dev: str | None
    """In the place of a remote: the port that it is behind."""
    sequence: int
    age_s: int | None
    """Since a learned one was heard from."""


class RemoteRow(Told, frozen=True):
    """A remote."""

    address: str
    uses: int
    """Flood sets and set FDB entries that name it."""
    named: bool
    """It was added by itself, and stays without them."""
    learned: bool
    """It is there because frames came from it."""
    vnis: tuple[str, ...] | None
    """Those that it may speak in; null: all."""
    spoke: bool
    """What it sends to other spokes goes on to them from here."""
    rx_packets: int
    """Frames accepted from it, since it is a remote; in collectors they are nobody's."""
    rx_bytes: int
    tx_packets: int
    """Frames sent to it."""
    tx_bytes: int


class NeighbourRow(Told, frozen=True):
    """A neighbour: requests for its address are answered here."""

    vni: int
    address: str
    mac: str
    router: bool


class OfRoute(Asked, frozen=True):
    """Which routes."""

    vni: Vni | None = None
    mac: Mac | None = None
    remote: Ip | None = None


class Trouble(Told, frozen=True):
    """Something of a control plane's that is not used, or not announced, by its name there, and why."""

    what: str
    why: str


class PlaneRow(Told, frozen=True):
    """A control plane."""

    plane: str
    state: str
    """connecting (nothing is known yet), connected, stale (known from before the connection was lost)."""
    since_s: float
    """For how long it has been so."""
    peer: str
    """Whom it speaks with, or spoke with last."""
    reason: str
    """Why it is not connected."""
    heard: int
    """What others say, `show route` has it."""
    announced: int
    """What others can hear of this host."""
    n_troubles: int
    troubles: tuple[Trouble, ...]
    """The first of them."""
    counts: dict[str, int]
    """What it has done so far."""


class RouteRow(Told, frozen=True):
    """What a control plane says of another VTEP."""

    plane: str
    route: str
    """member: it takes part in the segment; endpoint: a MAC address is behind it."""
    vni: int
    vtep: str
    mac: str | None
    addresses: tuple[str, ...]
    sequence: int
    sticky: bool
    router: bool
    state: str
    """used, outranked, no segment, no room, or why it cannot be."""


class LaneRow(Told, frozen=True):
    """A thread that carries packets."""

    lane: int
    cpu: int | None
    """The one it is pinned to."""
    counters: dict[str, int]


class DropRow(Told, frozen=True):
    """A reason for which packets were dropped."""

    reason: str
    packets: int
    text: str
    remedy: str


class OffloadRow(Told, frozen=True):
    """An offload, and "on", "off", or why there is none."""

    offload: str
    state: str


class Reloaded(Told, frozen=True):
    """The file was read again, and applied."""

    segments: int
    """How many there are now."""


class HandsOver(Told, frozen=True):
    """From here on the connection is that of a handover."""

    version: int


class Text(Told, frozen=True):
    """A piece of a TOML file."""

    text: str


class Event(Told, frozen=True):
    """Something that happened (`vxcore.events.Event`); what its kind does not have is null."""

    time: float
    """In seconds since 1970."""
    kind: str
    vni: int | None
    mac: str | None
    remote: str | None
    was: str | None
    plane: str | None


class Happened(Told, frozen=True):
    """A line of a stream of events."""

    event: Event


class Packet(Told, frozen=True):
    """A packet, and what became of it (`vxcore.watches.Sight`)."""

    time_ns: int
    """Since 1970; of one that was only foretold, when that was."""
    way: str
    """out: from overlay to underlay; in: back."""
    verdict: str
    lane: int
    vni: int
    device: str | None
    """The overlay port."""
    remote: str | None
    """Where it is from or for; null: a stranger, or all of the flood set."""
    source: str | None
    """Outer address; of those that come in, as the next two."""
    source_port: int
    tos: int
    gso_size: int
    """Of the pieces of a super-frame; 0: it is none."""
    learned: str | None
    length: int
    """In bytes, before `data` was cut."""
    data: str
    """In base64: an inner frame, or, of those that come in, from the VXLAN header on."""
    headline: str
    steps: tuple[str, ...]


class Seen(Told, frozen=True):
    """A line of a stream of packets."""

    packet: Packet


class Dropped(Told, frozen=True):
    """A line of a stream of events or packets: how many more there were than the client has read."""

    dropped: int


R = TypeVar("R")


class Rows(Told, Generic[R], frozen=True):
    """Some of a list."""

    rows: list[R]


# What the commands ping and upgrade print


class Full(Told, frozen=True):
    """Whether something of so many bytes arrives."""

    bytes: int
    arrives: bool


class Host(Told, frozen=True):
    """A host of a segment; of times, null is a request that was not answered."""

    vni: int
    target: str
    mac: str | None
    remote: str | None
    overlay_ms: list[float | None]
    underlay_ms: list[float | None]
    full: Full


class Reached(Told, frozen=True):
    """A VTEP on the underlay."""

    target: str
    is_remote: bool
    underlay_ms: list[float | None]
    full: Full


class Upgraded(Told, frozen=True):
    """A VTEP is in another process now, `pid`; for so long nobody has forwarded."""

    pid: int
    was: int
    stood_ms: float
    handed: dict[str, int]
    """How many descriptors of each part."""


# The list


class Request(NamedTuple):
    """What a request takes, and what its reply says."""

    takes: type[Struct]
    gives: Any
    summary: str
    changes: bool = False
    """Something, so that it is logged."""


REQUESTS: dict[str, Request] = {
    "overview": Request(Nothing, Overview, "the VTEP as a whole"),
    "segment.list": Request(OfSegment, Rows[SegmentRow], "segments and collectors, with counters"),
    "segment.add": Request(SegmentAdd, Done, "add segments", True),
    "segment.change": Request(SegmentChange, Done, "change keys of a segment", True),
    "segment.flood": Request(SegmentFlood, Done, "change the flood set of a segment", True),
    "segment.remove": Request(SegmentRemove, Done, "remove segments", True),
    "fdb.list": Request(OfEntry, Rows[FdbRow], "FDB entries, learned ones too"),
    "fdb.add": Request(FdbSet, Done, "set entries that are not set yet", True),
    "fdb.replace": Request(FdbSet, Done, "set entries, in the place of what is there", True),
    "fdb.remove": Request(FdbRemove, Done, "remove entries of any kind", True),
    "fdb.flush": Request(FdbFlush, Done, "forget learned entries", True),
    "remote.list": Request(OfRemote, Rows[RemoteRow], "remotes"),
    "remote.add": Request(RemoteSet, Done, "add a remote that stays", True),
    "remote.change": Request(RemoteSet, Done, "let a remote speak in other VNIs", True),
    "remote.remove": Request(RemoteRemove, Done, "remove remotes, and what was learned from them", True),
    "neighbour.list": Request(OfNeighbour, Rows[NeighbourRow], "neighbours"),
    "neighbour.set": Request(NeighbourSet, Done, "set neighbours", True),
    "neighbour.remove": Request(NeighbourRemove, Done, "remove neighbours", True),
    "plane.list": Request(Nothing, Rows[PlaneRow], "control planes"),
    "route.list": Request(OfRoute, Rows[RouteRow], "what control planes say of other VTEPs"),
    "lane.list": Request(Nothing, Rows[LaneRow], "lanes"),
    "drop.list": Request(Nothing, Rows[DropRow], "reasons for drops, the most frequent first"),
    "offload.list": Request(Nothing, Rows[OffloadRow], "offloads"),
    "reload": Request(Nothing, Reloaded, "read the settings file again, as on SIGHUP", True),
    "save": Request(Nothing, Text, "the running state as a TOML file, in pieces"),
    "packets": Request(PacketsWanted, Nothing, "turn the connection into a stream of packets"),
    "foretell.out": Request(ForetellOut, Seen, "what would become of a frame from an overlay port"),
    "foretell.in": Request(ForetellIn, Seen, "what would become of a packet from the underlay"),
    "takeover": Request(Takeover, HandsOver, "give the VTEP to the process that asks, as user or root", True),
    "monitor": Request(Monitor, Nothing, "turn the connection into a stream of events"),
}


class Message(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of a client."""

    do: str
    id: Any = None
    """Comes back with the reply."""
    given: dict[str, Any] = msgspec.field(default_factory=dict, name="with")


class Greeting(Struct, frozen=True, kw_only=True):
    """The first line of the server."""

    vxcore: str
    protocol: int
    pid: int


class Reply(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the server; of several for one request, all but the last have `more`."""

    id: Any
    ok: Any
    more: bool = False


class Fault(Struct, frozen=True, kw_only=True):
    """Why a request failed: a word for programs, and a line for people."""

    code: str
    message: str


class Refusal(Struct, frozen=True, kw_only=True):
    """The reply to a request that failed, or, without an `id`, the last line before the server hangs up."""

    id: Any
    error: Fault


CODES = {
    "config": "what is asked for is wrong, and nothing has changed",
    "full": "a table has no room, and nothing has changed",
    "unsupported": "this VTEP, or this kernel, cannot do it",
    "system": "the system refused something, and nothing has changed",
    "internal": "a defect of vxcore's; its log has more",
    "malformed": "the line is no JSON object with `do`; the server hangs up",
    "too_long": "the line is longer than 1 MiB; the server hangs up",
    "denied": "the client's user may not use the socket; the server hangs up",
    "busy": "too many clients, or long lists at once; the server hangs up",
    "idle": "nothing was asked for a minute; the server hangs up",
}


def fault_of(error: Exception) -> Fault:
    """What to say of an exception."""
    kinds: tuple[tuple[type[Exception], str], ...] = (
        (ConfigError, "config"),
        (TableFullError, "full"),
        (UnsupportedError, "unsupported"),
        (OSError, "system"),
        (VxcoreError, "system"),
    )
    code = next((code for kind, code in kinds if isinstance(error, kind)), "internal")
    said = getattr(error, "strerror", None) or str(error) or repr(error)
    return Fault(code=code, message=" ".join(said.splitlines()))
