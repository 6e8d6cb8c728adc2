"""Settings of a VTEP: from TOML or from command-line arguments to validated, frozen values.

Place in the house: above addresses, problem and toml_lines; known by faults, ports, engine, daemon and cli.
The structs below are the one list of settings: their names are the keys of the file, their types
and limits are what is checked, and the messages are made from both.
"""

from __future__ import annotations

import os
import re
import tomllib
from abc import ABCMeta
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NoReturn

import msgspec
from msgspec import Meta, Struct, structs

from vxcore.addresses import (
    GROUP_FORM,
    IP_FORM,
    LISTEN_FORM,
    MAC_FORM,
    PREFIX_FORM,
    TARGET_FORM,
    VNIS_FORM,
    AddressError,
    Listen,
    MacAddress,
    Target,
    VniRange,
    parse_group,
    parse_prefix,
    parse_unicast,
)
from vxcore.errors import ConfigError
from vxcore.problem import MISSING, NOT_ALLOWED, Problem, found, from_msgspec, shown, written
from vxcore.sizes import SIZE_FORM, Size
from vxcore.toml_lines import Path, key_lines, line_of

if TYPE_CHECKING:
    from vxcore.addresses import IPAddress as IPAddress  # control's protocol takes it from here

    IPGroup = IPAddress
    IPNetwork = IPv4Network | IPv6Network
else:  # as one class, for msgspec takes no union of two that it does not know
    IPAddress = ABCMeta("IPAddress", (), {})
    IPAddress.register(IPv4Address)
    IPAddress.register(IPv6Address)
    IPGroup = ABCMeta("IPGroup", (), {})
    IPGroup.register(IPv4Address)
    IPGroup.register(IPv6Address)
    IPNetwork = ABCMeta("IPNetwork", (), {})
    IPNetwork.register(IPv4Network)
    IPNetwork.register(IPv6Network)

ADDRESS_TYPES = (IPv4Address, IPv6Address)
_PORT = Meta(ge=1, le=65535)
_BYTE = Meta(ge=0, le=255)
_VLAN = Meta(ge=1, le=4094)
_UINT32 = Meta(ge=0, le=0xFFFF_FFFF)
_AGEING = Meta(ge=0, le=524_287)  # what the forwarding table can tell apart, six days
# Printable ASCII without what the kernel refuses in a device name (dev_valid_name: / : and white
# space, "." and "..") and without %, which TUNSETIFF takes for a numbering pattern.
_DEVICE_NAME = Meta(
    pattern=r"\A(?!\.{1,2}\Z)[!-$&-.0-9;-~]{1,15}\Z",
    description="a device name of 1 to 15 ASCII characters without / : % and white space",
)
_ADDRESSES = Meta(description=f"a list, each {IP_FORM}")
_MAX_PORTS = 8  # of a segment, as in vx_table.h
_PORT_FORM = 'a table such as { kind = "packet", dev = "veth0" }'
_PORTS = Meta(description=f'a list of 2 to {_MAX_PORTS} tables such as {{ kind = "packet", dev = "veth0" }}')
_PREFIXES = Meta(description=f'"peers", "any", or a list, each {PREFIX_FORM}')
_VNIS = Meta(description=f"a list, each {VNIS_FORM}")
_COLLECTED = Meta(description=f'"all", or a list, each {VNIS_FORM}')
_SOURCES = Meta(description=f'"any", or a list, each {PREFIX_FORM}')
_FILE = Meta(pattern=r"\A[^\x00]*[^\x00/]\Z", description="a file")
_DIRECTORY = Meta(pattern=r"\A[^\x00]+\Z", description="a directory")
_SOCKET = Meta(
    pattern=r"\A(?:none|[^\x00]*/[^\x00]+)\Z",
    description='a path with a /, such as "/run/vxcore/blue.sock", or "none"',
)
_PLUGIN = Meta(
    pattern=r"\A/[^\x00]*[^\x00/]\Z", description='a path such as "/run/docker/plugins/vxcore.sock"'
)
_URL = Meta(
    pattern=r"\Ahttps?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?/?\Z",
    description='a URL such as "http://192.0.2.10:2379"',
)
_URLS = Meta(min_length=1, description='a list of URLs such as "http://192.0.2.10:2379"')
_PREFIX = Meta(
    pattern=r"\A(?:/[A-Za-z0-9._-]+)+\Z", description='a path without a / at its end, such as "/vxcore"'
)
_SPEAKER = Meta(
    pattern=r"\A(?:(?:[0-9.]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}|unix:/[^\x00]+)\Z",
    description='an IP address and a port such as "127.0.0.1:50051", or "unix:/run/gobgpd.sock"',
)
_TARGETS = Meta(min_length=1, description=f"a list, each {TARGET_FORM}")
_MACS = Meta(description=f"a list, each {MAC_FORM}")
_USER_NAME = Meta(pattern=r"\A[^\x00]+\Z", description="the name of a user of etcd's")
_GROUP = Meta(pattern=r"\A[^\x00]+\Z", description="the name of a group of users")
_FLOODED = Meta(description='"flood", "drop", or a table with the keys rate and burst')
_ASKED = Meta(description='"flood", "drop", "ask", or a table with the keys rate and burst')
_DSTPORTS = Meta(min_length=1, max_length=8, description="a list of 1 to 8 ports, each from 1 to 65535")
_SOURCE_PORTS = 16
_TABLES = {"segments": "segment", "remotes": "remote", "collects": "collect"}  # as the file has them
_MAX_PREFIXES = 64  # as in table.pyx
_MAX_DSTPORTS = 64  # a filter of packet sockets jumps over no more than 255 instructions


class Rate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many frames a segment floods: `rate` a second, and up to `burst` at once."""

    rate: Annotated[int, Meta(ge=1, le=1_000_000_000)]
    burst: Annotated[int, Meta(ge=1, le=1_000_000)] = 32


Flooded = Literal["flood", "drop"] | Rate


class FdbEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A forwarding entry: frames for `mac` go to `remote`."""

    mac: Annotated[MacAddress, Meta(description=MAC_FORM)]
    remote: Annotated[IPAddress, Meta(description=IP_FORM)]
    kind: Literal["static", "control", "sticky"] = "static"
    """Set by hand, or by a control plane (RFC 7432 sections 15 and 15.2)."""
    sequence: Annotated[int, _UINT32] = 0
    """How often the control plane saw the address move; of a static entry 0."""


class Neighbour(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose link address an IP address of the segment has: requests for it are answered here."""

    address: Annotated[IPAddress, Meta(description=IP_FORM)]
    mac: Annotated[MacAddress, Meta(description=MAC_FORM)]
    router: bool = False
    """What IPv6 hosts are told of it (RFC 4861 section 4.4)."""


class Port(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the hosts of a segment are: a network device, and how frames come from it and go to it."""

    kind: Literal["tap", "packet", "xdp"]
    """A TAP device, made if missing; packet sockets, or AF_XDP, on an interface that exists."""
    dev: Annotated[str, _DEVICE_NAME]
    vlan: Annotated[int, _VLAN] | None = None
    """The frames of this 802.1Q VLAN; None: those without a tag."""


class Segment(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One VXLAN segment and the port through which hosts here take part in it."""

    vni: Annotated[int, Meta(ge=0, le=0xFF_FFFF)]
    tap: Annotated[str, _DEVICE_NAME] | None = None
    """Short for a port of kind "tap"."""
    port: Annotated[Port, Meta(description=_PORT_FORM)] | None = None
    """This or `tap`; see `overlays`."""
    ports: Annotated[tuple[Port, ...], _PORTS] = ()
    """Several in the place of one: frames go between them, too, and their hosts are learned."""
    vlan: Annotated[int, _VLAN] | None = None
    """With `tap`: the frames of this 802.1Q VLAN; other segments may have others of the same TAP."""
    remotes: Annotated[tuple[IPAddress, ...], _ADDRESSES] = ()
    """The flood set: who gets BUM frames."""
    group: Annotated[IPGroup, Meta(description=GROUP_FORM)] | None = None
    """An IP multicast group on the underlay's `dev`: joined, and a member of the flood set."""
    dstport: Annotated[int, _PORT] | None = None
    """The UDP port of its packets, of those that we send and those that we take; None: the underlay's."""
    fdb: Annotated[tuple[FdbEntry, ...], Meta(description="a list of { mac, remote } tables")] = ()
    neighbours: Annotated[tuple[Neighbour, ...], Meta(description="a list of { address, mac } tables")] = ()
    learning: bool = True
    ageing: Annotated[int, _AGEING] = 300
    """Seconds after which a learned entry that was not heard from is forgotten; 0: never."""
    maxaddress: Annotated[int, _UINT32] = 0
    """How many entries may be learned; 0: as many as the table holds."""
    source: Annotated[Literal["peers", "any"] | tuple[IPNetwork, ...], _PREFIXES] | None = None
    """Whom packets are taken from: the flood set's and the FDB's remotes; anybody; or these prefixes too.
    None: see `admits`.
    """
    broadcast: Annotated[Flooded, _FLOODED] = "flood"
    multicast: Annotated[Flooded, _FLOODED] = "flood"
    unknown_unicast: Annotated[Literal["flood", "drop", "ask"] | Rate, _ASKED] = "flood"
    """What becomes of frames from the TAP that are for more than one host, or for nobody known; "ask": the
    event `miss` asks where the address is, and they are dropped unless `hold` is given.
    """
    hold: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    """Milliseconds that a frame waits for the answer."""
    mtu: Annotated[int, Meta(ge=68, le=65485)] | None = None
    """Of the TAP device, in bytes (65485: what fits an IPv4 packet); None: from the route."""

    @property
    def overlays(self) -> tuple[Port, ...]:
        """The port or ports, however they were given."""
        return self.ports or (self.port or Port(kind="tap", dev=self.tap or "", vlan=self.vlan),)

    @property
    def flood(self) -> tuple[IPAddress, ...]:
        """The flood set as a whole: the remotes and the group."""
        return self.remotes if self.group is None else (*self.remotes, self.group)

    @property
    def admits(self) -> str | tuple[IPNetwork, ...]:
        """`source`, or what it is when not given: who is behind a group is only known by learning."""
        if self.source is not None:
            return self.source
        return "any" if self.group is not None and self.learning else "peers"


class Collect(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A collector: what comes in many VNIs goes to one port, or into files, and nothing is ever sent."""

    vnis: Annotated[Literal["all"] | tuple[VniRange, ...], _COLLECTED] = "all"
    """None of which a segment may have; "all": those that no segment has."""
    source: Annotated[Literal["any"] | tuple[IPNetwork, ...], _SOURCES] = "any"
    """Whose packets are taken."""
    dstports: Annotated[tuple[Annotated[int, _PORT], ...], _DSTPORTS] | None = None
    """The UDP ports that they come to; None: the underlay's."""
    write: Annotated[str, _DIRECTORY] | None = None
    """The directory of pcapng files; this, or `tap` or `port`."""
    rotate: Annotated[Size, Meta(description=SIZE_FORM)] | None = None
    """A file ends before it is larger."""
    rotate_seconds: Annotated[int, Meta(ge=1, le=31_536_000)] | None = None
    """A file that has a record ends after so long."""
    keep: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    """How many complete files stay; None: all."""
    snaplen: Annotated[int, Meta(ge=14, le=262_144)] | None = None
    """Bytes of each frame that are written; None: all."""
    tap: Annotated[str, _DEVICE_NAME] | None = None
    port: Annotated[Port, Meta(description=_PORT_FORM)] | None = None

    of_files: ClassVar = ("rotate", "rotate_seconds", "keep", "snaplen")

    @property
    def overlay(self) -> Port | None:
        """The port, however it was given; None: files."""
        return self.port or (Port(kind="tap", dev=self.tap) if self.tap else None)

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """First and last VNI of each range; none for "all"."""
        return [] if self.vnis == "all" else [VniRange(each).ends for each in self.vnis]

    @property
    def title(self) -> str:
        """The VNIs as text: "all", "1-100,4096"."""
        return "all" if self.vnis == "all" else ",".join(self.vnis)


class Remote(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be said of a remote beside that segments name it."""

    address: Annotated[IPAddress, Meta(description=IP_FORM)]
    vnis: Annotated[tuple[VniRange, ...], _VNIS] | None = None
    """The VNIs that it may speak in; None: all."""
    spoke: bool = False
    """What it sends to other spokes goes on to them from here: for VTEPs that do not reach each other."""


class Tables(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much the tables hold, and how addresses that move are damped."""

    segments: Annotated[int, Meta(ge=1, le=65_536)] | None = None
    """None: 4096, or as many as there are at the start."""
    remotes: Annotated[int, Meta(ge=1, le=1 << 20)] = 65_536
    learned_remotes: Annotated[int, Meta(ge=1, le=1 << 20)] = 16_384
    """Of the remotes, those that a `source` let in without being named."""
    entries: Annotated[int, Meta(ge=1, le=1 << 28)] | None = None
    """Of the FDB, learned and set; what no longer fits is counted as overflow, and flooded. None: 65,536
    beside the static entries that there are at the start and what each `maxaddress` allows.
    """
    moves: Annotated[int, _BYTE] = 5
    """After so many moves within `moves_window` seconds an address stays where it is; 0: it never does
    (RFC 7432 section 15.1).
    """
    moves_window: Annotated[int, Meta(ge=1, le=86_400)] = 180


class Underlay(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The IP network below: our own addresses and ports, and how outer headers are filled."""

    kind: Literal["udp", "packet", "xdp", "tap"] = "udp"
    """UDP sockets; packet sockets or AF_XDP, that pass by this host's IP stack and its firewall; or a TAP
    behind which this host routes `local`.
    """
    local: Annotated[tuple[IPAddress, ...], Meta(description=f"{IP_FORM}, or a list with one of each")] = ()
    """At most one address of a family; none: chosen by the route to the first remote."""
    dstport: Annotated[int, _PORT] = 4789
    srcport: Annotated[
        tuple[Annotated[int, _PORT], Annotated[int, _PORT]],
        Meta(description="two ports from 1 to 65535, the lower one first"),
    ] = (49152, 65535)
    """First and last of the range from which source ports are taken (RFC 7348 section 5)."""
    source_ports: Annotated[int, Meta(ge=1, le=1024)] = _SOURCE_PORTS
    """How many source ports are bound; from a file or arguments no more than `srcport` has."""
    ttl: Annotated[int, _BYTE] | Literal["inherit"] = 0
    """0: the route's default; "inherit": the inner packet's."""
    tos: Annotated[int, _BYTE] | Literal["inherit"] = 0
    df: Annotated[
        Literal["unset", "set"],
        Meta(description='"unset" or "set" ("inherit" is not possible on a UDP socket)'),
    ] = "unset"
    udpcsum: bool = False
    """Compute UDP checksums over IPv4, where zero is the rule (RFC 7348 section 5)."""
    udp6zerocsumtx: bool = False
    """Send zero UDP checksums over IPv6 (RFC 6935)."""
    udp6zerocsumrx: bool = False
    """Accept zero UDP checksums over IPv6 (RFC 6935)."""
    dev: Annotated[str, _DEVICE_NAME] | None = None
    """Device that the underlay sockets are bound to."""
    via: Annotated[str, _DEVICE_NAME] = "vxu0"
    """Name of the TAP of kind "tap", which must not exist."""
    reserved: Literal["ignore", "strict"] = "ignore"
    """Reserved header bits on receipt: RFC 7348, or drop as Linux does."""
    ecn: Literal["rfc6040", "linux"] = "rfc6040"
    """Inner CE on encapsulation: copied (RFC 6040), or sent as ECT(0) as Linux does."""


class Offload(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the kernel may do for us; each is probed when opened, and false forbids it."""

    tap_tso: bool = True
    """TCP super-frames and partial checksums from and to TAP devices (TUNSETOFFLOAD)."""
    tap_uso: bool = True
    """UDP super-frames too (Linux 6.2)."""
    packet_vnet: bool = True
    """Super-frames and partial checksums from and to the interfaces of ports of kind "packet"
    (PACKET_VNET_HDR; UDP's since Linux 6.2).
    """
    udp_gso: bool = True
    """Runs of packets sent in one call and cut below us (UDP_SEGMENT, Linux 4.18)."""
    udp_gro: bool = True
    """Packets received joined (UDP_GRO, Linux 5.0)."""
    xdp_native: bool = True
    """The XDP program of AF_XDP ports is run by the device's driver, not by the kernel behind it."""
    xdp_zero_copy: bool = True
    """The device of an AF_XDP port puts packets into our memory and takes them from there."""
    join: bool = True
    """Frames of one flow join to super-frames before they reach the TAP."""


class Lanes(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The threads that carry packets."""

    count: Annotated[int, Meta(ge=1, le=64)] = 1
    cpus: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=8191)], ...],
        Meta(description="a list of CPU numbers"),
    ] = ()
    """The CPUs that lanes are pinned to, in turn; none: wherever the kernel likes."""
    busy_poll: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Microseconds to look for more packets before a lane sleeps."""


class State(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where what was learned is kept over a restart."""

    file: Annotated[str, _FILE] | None = None
    """Read at the start, and written every `interval` seconds and at the end; None: nothing is kept."""
    interval: Annotated[int, Meta(ge=1, le=86_400)] = 60


class Control(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The socket by which a running VTEP is asked and told (docs/control-socket.md)."""

    socket: Annotated[str, _SOCKET] | None = None
    """Its path; "none": there is none; None: in /run/vxcore, one for each network namespace."""
    group: Annotated[str, _GROUP] | None = None
    """Whose members may use it, beside root and the user that vxcore runs as."""


class Metrics(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Counters for Prometheus, by HTTP; without this table there are none."""

    listen: Annotated[Listen, Meta(description=LISTEN_FORM)] = Listen("127.0.0.1:9464")
    segments: Annotated[int, Meta(ge=0, le=1 << 24)] = 1000
    """How many segments have numbers of their own: those that have carried most."""
    remotes: Annotated[int, Meta(ge=0, le=1 << 20)] = 100
    """How many remotes."""


class Log(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is written to standard error."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least of what is shown; -v on the command line shows all."""
    rate: Annotated[int, Meta(ge=0, le=1_000_000)] = 10
    """Lines of one kind a second; of the others it says how many. 0: all."""


class Process(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the process gives up before it begins; without this table nothing."""

    user: Annotated[str, Meta(pattern=r"\A[a-zA-Z_][\w.-]{0,31}\Z", description="a user's name")] | None = (
        None
    )
    """Whom it becomes; None: it stays who it is, without the capabilities that no port needs."""
    filter: bool = True
    """Refuse system calls that no VTEP makes (seccomp)."""


class Docker(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Be Docker's network driver `vxcore` (docs/containers.md); without this table it is none."""

    plugin: Annotated[str, _PLUGIN] = "/run/docker/plugins/vxcore.sock"
    """The socket; Docker looks there for a driver of that name."""
    state: Annotated[str, _FILE] = "/var/lib/vxcore/docker.json"
    """The file of its networks and their containers, over a restart."""
    vnis: Annotated[VniRange, Meta(description=VNIS_FORM)] = VniRange("4096-8191")
    """Of networks that name none."""
    peers: Annotated[tuple[IPAddress, ...], _ADDRESSES] = ()
    """The other hosts, of networks that name none."""


class Etcd(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Let VTEPs tell each other by etcd who is where (docs/etcd.md); without this table they do not."""

    urls: Annotated[tuple[Annotated[str, _URL], ...], _URLS]
    """The members of the store, which are tried in turn."""
    prefix: Annotated[str, _PREFIX] = "/vxcore"
    """What all keys begin with; VTEPs with another one know nothing of these."""
    lease: Annotated[int, Meta(ge=2, le=86_400)] = 30
    """Seconds after which a VTEP that is not heard of is gone for all others."""
    timeout: Annotated[int, Meta(ge=1, le=600)] = 5
    """Seconds that a member has to answer."""
    ca: Annotated[str, _FILE] | None = None
    """Whom the members' certificates are to be from (PEM); None: whom this system trusts."""
    cert: Annotated[str, _FILE] | None = None
    """Our certificate."""
    key: Annotated[str, _FILE] | None = None
    user: Annotated[str, _USER_NAME] | None = None
    password_file: Annotated[str, _FILE] | None = None


class EvpnSegment(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What BGP says of one segment and does not by itself."""

    vni: Annotated[int, Meta(ge=0, le=0xFF_FFFF)]
    rd: Annotated[Target, Meta(description=TARGET_FORM)] | None = None
    """Its route distinguisher; None: the router id, and a number."""
    exports: Annotated[tuple[Target, ...], _TARGETS] | None = None
    """The route targets of what we announce; None: AS:VNI."""
    imports: Annotated[tuple[Target, ...], _TARGETS] | None = None
    """Of those that have one of these we take what they announce; None: any AS, and the VNI."""
    sticky: Annotated[tuple[MacAddress, ...], _MACS] = ()
    """Who of our hosts does not move (RFC 7432 section 15.2)."""
    gateways: Annotated[tuple[MacAddress, ...], _MACS] = ()
    """Who of them is a default gateway (RFC 7432 section 10.1)."""


class Evpn(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"segments": "segment"}):
    """Let VTEPs tell each other by BGP who is where (docs/evpn.md); without this table they do not."""

    api: Annotated[str, _SPEAKER] = "127.0.0.1:50051"
    """Where GoBGP's API listens."""
    asn: Annotated[int, Meta(ge=1, le=0xFFFF_FFFF)] | None = None
    """The AS number in route targets; None: the speaker's."""
    router_id: Annotated[IPAddress, Meta(description="an IPv4 address")] | None = None
    """What route distinguishers begin with; None: this VTEP's IPv4 address, or the speaker's router id."""
    restart: Annotated[int, Meta(ge=0, le=86_400)] = 120
    """Seconds that what was known stays when the speaker is back and its neighbours are not."""
    timeout: Annotated[int, Meta(ge=1, le=600)] = 5
    """Seconds that the speaker has to answer; it is asked as often whether it is there."""
    segments: Annotated[tuple[EvpnSegment, ...], Meta(description="[[evpn.segment]] tables")] = ()

    def of(self, vni: int) -> EvpnSegment:
        """What there is to say of a VNI."""
        return next((each for each in self.segments if each.vni == vni), EvpnSegment(vni=vni))


class Settings(
    Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename=_TABLES,
):
    """All of a VTEP process. `load` and `from_arguments` make valid ones; the constructor checks nothing."""

    underlay: Underlay = msgspec.field(default_factory=Underlay)
    lanes: Lanes = msgspec.field(default_factory=Lanes)
    offload: Offload = msgspec.field(default_factory=Offload)
    tables: Tables = msgspec.field(default_factory=Tables)
    state: State = msgspec.field(default_factory=State)
    control: Control = msgspec.field(default_factory=Control)
    log: Log = msgspec.field(default_factory=Log)
    process: Annotated[Process, Meta(description="a [process] table")] | None = None
    metrics: Annotated[Metrics, Meta(description="a [metrics] table")] | None = None
    docker: Annotated[Docker, Meta(description="a [docker] table")] | None = None
    etcd: Annotated[Etcd, Meta(description="an [etcd] table")] | None = None
    evpn: Annotated[Evpn, Meta(description="an [evpn] table")] | None = None
    remotes: Annotated[tuple[Remote, ...], Meta(description="[[remote]] tables")] = ()
    collects: Annotated[tuple[Collect, ...], Meta(description="[[collect]] tables")] = ()
    segments: Annotated[tuple[Segment, ...], Meta(min_length=1, description="one [[segment]] table or more")]

    def dstport_of(self, segment: Segment) -> int:
        """The UDP port of a segment's packets."""
        return segment.dstport or self.underlay.dstport

    def dstports_of(self, collect: Collect) -> tuple[int, ...]:
        """The UDP ports of a collector's packets."""
        return collect.dstports or (self.underlay.dstport,)

    @property
    def dstports(self) -> list[int]:
        """All UDP ports that packets come to, ascending."""
        own = {self.underlay.dstport, *map(self.dstport_of, self.segments)}
        return sorted(own.union(*map(self.dstports_of, self.collects)))


class Bare(Settings, frozen=True, kw_only=True, rename=_TABLES):
    """Settings of a process that may begin without a segment."""

    segments: Annotated[tuple[Segment, ...], Meta(description="[[segment]] tables")] = ()


def kind_of(data: Mapping[str, Any]) -> type[Settings]:
    """Settings, or Bare: a file that collects, serves Docker, or says ``segment = []``, needs no segment."""
    bare = data.get("collect") or "docker" in data or data.get("segment") == []
    return Bare if bare else Settings


def load(path: str | os.PathLike[str]) -> Settings:
    """The settings in a TOML file.

    Raises ConfigError with ``FILE:LINE: KEY: what is wrong; what is allowed`` for the first thing
    that is wrong, also when the file cannot be read or is no TOML.
    """
    name = os.fspath(path)
    return loads(name, read(name))


def loads(name: str, text: str) -> Settings:
    """The settings in the text of a file of that name; raises ConfigError as `load`."""
    data = parse(name, text)
    return _validated(data, lambda problem: explain_in_file(problem, data, name, text), kind_of(data))


def from_mapping(data: Mapping[str, Any]) -> Settings:
    """The settings in a mapping that is as TOML would have it, but may have no segment.

    Raises ConfigError with ``KEY: what is wrong; what is allowed``.
    """
    return _validated({"segment": [], **data}, lambda problem: explain(problem, data), Bare)


def segment(options: Mapping[str, Any]) -> Segment:
    """A segment from the keys of its table; raises ConfigError as `from_mapping`."""
    try:
        return msgspec.convert(options, Segment, dec_hook=decode)
    except msgspec.ValidationError as error:
        raise ConfigError(explain(from_msgspec(error, Segment), options)) from None


def check(settings: Settings) -> None:
    """Raise ConfigError, naming the VNI, when values that are right one by one contradict each other."""
    for problem in contradictions(settings):
        where, value = written(problem.path), settings
        if problem.path[0] == "segment":
            where = f"VNI {settings.segments[int(problem.path[1])].vni}: {written(problem.path[2:])}"
        raise ConfigError(
            f"{where}: {problem.wrong.format(shown(str(_value_at(value, problem.path))))}; {problem.allowed}"
        )


def _value_at(node: Any, path: Path) -> Any:
    """What stands in settings where `path` leads, by the names that TOML has for it."""
    for step in path:
        node = node[step] if isinstance(step, int) else getattr(node, _PLURAL.get(step, step))
    return node


_PLURAL = {table: name for name, table in _TABLES.items()}


def from_arguments(options: Mapping[str, Any]) -> Settings:
    """The settings of a VTEP with one segment, from the options of ``vxcore up``.

    `options` maps the names of settings, without their table, to values as JSON would have them;
    `fdb` is a list of ``MAC=REMOTE``, `neighbours` of ``IP=MAC``, and `port` is ``KIND=DEV``. What is None
    or no setting is passed over, so that the variables of an argparse.Namespace will do. Raises ConfigError
    with ``--OPTION VALUE: what is wrong; what is allowed``.
    """
    given = _given(options)
    data = _of_process(given) | {"segment": [_segment_table(given)]}
    return _validated(data, lambda problem: _explain_option(problem, data))


def segment_from_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a segment's table, as TOML would have them, from the options of ``vxcore segment``.

    `options` are as of `from_arguments`; beside them, `keys` is a list of ``KEY=VALUE`` for other keys.
    """
    given = _given(options)
    table = _segment_table(given) | dict(_split_key(text) for text in given.get("keys", []))
    try:
        msgspec.convert({"segment": [table]}, Bare, dec_hook=decode)
    except msgspec.ValidationError as error:
        problem = from_msgspec(error, Bare)
        raise ConfigError(_explain_option(problem, {"segment": [table]})) from None
    return table


def collector_from_arguments(options: Mapping[str, Any]) -> Settings:
    """The settings of a collector alone, from the options of ``vxcore collect``; as `from_arguments`.

    `vnis` is a list of what is separated by commas, ``["1-100,4096"]`` or ``["all"]``.
    """
    given = _given(options)
    if "vnis" in given:
        words = [word for text in given["vnis"] for word in text.split(",")]
        given["vnis"] = "all" if words == ["all"] else words
    if "port" in given:
        given["port"] = _split_port(given["port"])
    data = _of_process(given) | {"segment": [], "collect": [_settings_of(Collect, given)]}
    if "dstports" in given:  # and none else is listened to
        data["underlay"]["dstport"] = given["dstports"][0]
    return _validated(data, lambda problem: _explain_option(problem, data), Bare)


def docker_from_arguments(options: Mapping[str, Any]) -> Settings:
    """The settings of Docker's driver, without segments, from the options of ``vxcore docker``."""
    given = _given(options)
    data = _of_process(given) | {"segment": [], "docker": _settings_of(Docker, given)}
    if "urls" in given:
        data["etcd"] = {"urls": given["urls"]}
    return _validated(data, lambda problem: _explain_option(problem, data), Bare)


def with_control(settings: Settings, path: str | None) -> Settings:
    """The settings with the control socket of ``--control PATH``, if it was given."""
    if path is None:
        return settings
    try:
        control = msgspec.convert({"socket": path}, Control)
    except msgspec.ValidationError as error:
        problem = from_msgspec(error, Control)
        raise ConfigError(f"--control {_as_typed(path)}: {problem.allowed}") from None
    return structs.replace(settings, control=structs.replace(settings.control, socket=control.socket))


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _of_process(given: dict[str, Any]) -> dict[str, Any]:
    """The tables of settings that are no segment's."""
    data: dict[str, Any] = {"underlay": _settings_of(Underlay, given), "lanes": _settings_of(Lanes, given)}
    control = {"socket": given["control"]} if "control" in given else {}
    data |= {"offload": _switched_off(given.get("no_offload", [])), "control": control}
    return data | _observed(given)


def _segment_table(given: Mapping[str, Any]) -> dict[str, Any]:
    """The table of a segment from options, of which some hold several values in one word."""
    table = _settings_of(Segment, given)
    for name, split in _SPLIT.items():
        if name in table:
            table[name] = split(table[name])
    return table


def _settings_of(table: type[Struct], given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in table.__struct_fields__ if name in given}


def _observed(given: dict[str, Any]) -> dict[str, Any]:
    """The tables about watching the process. The option --metrics may come without a value: True."""
    data: dict[str, Any] = {"log": {"format": given["log_format"]}} if "log_format" in given else {}
    if "user" in given:
        data["process"] = {"user": given["user"]}
    if "metrics" in given:
        data["metrics"] = {} if given["metrics"] is True else {"listen": given["metrics"]}
    return data


# From plain data to settings


def _validated(
    data: dict[str, Any], explain: Callable[[Problem], str], kind: type[Settings] = Settings
) -> Settings:
    try:
        settings = msgspec.convert(local_as_list(data), kind, dec_hook=decode)
    except msgspec.ValidationError as error:
        raise ConfigError(explain(from_msgspec(error, kind))) from None
    settings = fit_source_ports(settings, data)
    for problem in contradictions(settings):
        raise ConfigError(explain(problem))
    return settings


def local_as_list(data: dict[str, Any]) -> dict[str, Any]:
    """One local address, the common case, may stand without brackets."""
    underlay = data.get("underlay")
    if not isinstance(underlay, dict) or not isinstance(underlay.get("local"), str):
        return data
    return {**data, "underlay": {**underlay, "local": [underlay["local"]]}}


def decode(kind: type, value: object) -> object:
    """Addresses and ranges of VNIs, for msgspec; in Python code they may be what they become."""
    if kind in (VniRange, Size) and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    parse, form = _PARSERS[kind]
    if isinstance(value, (IPv4Address, IPv6Address, IPv4Network, IPv6Network)):
        value = str(value)
    if not isinstance(value, str):
        raise AddressError(shown(value), "is not a string", form)
    return parse(value)


_PARSERS: dict[Any, tuple[Callable[[str], object], str]] = {
    MacAddress: (MacAddress, MAC_FORM),
    VniRange: (VniRange, VNIS_FORM),
    Size: (Size, SIZE_FORM),
    Listen: (Listen, LISTEN_FORM),
    Target: (Target, TARGET_FORM),
    IPAddress: (parse_unicast, IP_FORM),
    IPGroup: (parse_group, GROUP_FORM),
    IPNetwork: (parse_prefix, PREFIX_FORM),
}


def fit_source_ports(settings: Settings, data: dict[str, Any]) -> Settings:
    """A range smaller than the default number of source ports is no contradiction."""
    underlay = settings.underlay
    if "source_ports" in data.get("underlay", {}):
        return settings
    fitting = min(_SOURCE_PORTS, max(1, _range_len(underlay)))
    return structs.replace(settings, underlay=structs.replace(underlay, source_ports=fitting))


def _range_len(underlay: Underlay) -> int:
    first, last = underlay.srcport
    return last - first + 1


# What no single value shows


def contradictions(settings: Settings) -> Iterator[Problem]:
    """Everything that is wrong with settings whose single values are right."""
    yield from _underlay_contradictions(settings.underlay)
    yield from _segments_alike(settings.segments)
    for index, segment in enumerate(settings.segments):
        yield from _segment_repeats(("segment", index), segment)
        yield from _numbered(("segment", index), segment)
        yield from _port_contradictions(("segment", index), segment, settings.underlay)
        yield from _group_contradictions(("segment", index), segment, settings.underlay)
        if segment.hold is not None and segment.unknown_unicast != "ask":
            path = ("segment", index, "hold")
            yield Problem(path, "{} waits for an answer and nobody is asked", 'add unknown_unicast = "ask"')
    for index, collect in enumerate(settings.collects):
        yield from _collector_contradictions(("collect", index), collect, settings)
    yield from _beyond_tables(settings)
    yield from _too_many_ports(settings)
    yield from _remotes_alike(settings)
    yield from _unreachable_peers(settings)
    if settings.etcd is not None:
        yield from _etcd_contradictions(settings.etcd)
    if settings.evpn is not None:
        yield from _evpn_contradictions(settings.evpn)


def _etcd_contradictions(etcd: Etcd) -> Iterator[Problem]:
    for one, other in (("cert", "key"), ("user", "password_file")):
        for name, missing in ((one, other), (other, one)):
            if getattr(etcd, name) is not None and getattr(etcd, missing) is None:
                yield Problem(("etcd", name), f"{{}} and no {missing}", "both, or neither of them")
    secure = [url.startswith("https:") for url in etcd.urls]
    for index, url in enumerate(etcd.urls):
        port = url.rstrip("/").rpartition(":")[2]
        if port.isdecimal() and not 1 <= int(port) <= 65535:
            yield Problem(("etcd", "urls", index), "{} has no such port", "a port from 1 to 65535")
    for name in ("ca", "cert"):
        if getattr(etcd, name) is not None and not all(secure):
            where = ("etcd", "urls", secure.index(False))
            yield Problem(where, f"{{}} is in the clear, and there is {name}", "URLs that begin with https:")


def _evpn_contradictions(evpn: Evpn) -> Iterator[Problem]:
    port = evpn.api.rpartition(":")[2]
    if not evpn.api.startswith("unix:") and not 1 <= int(port) <= 65535:
        yield Problem(("evpn", "api"), "{} has no such port", "a port from 1 to 65535")
    for index, _ in _repeats(each.vni for each in evpn.segments):
        yield Problem(("evpn", "segment", index, "vni"), "{} is there twice", "one table for each VNI")
    if evpn.router_id is not None and evpn.router_id.version != 4:
        yield Problem(("evpn", "router_id"), "{} is not IPv4", "an IPv4 address")


def _underlay_contradictions(underlay: Underlay) -> Iterator[Problem]:
    n_ports = _range_len(underlay)
    if underlay.kind == "tap" and not underlay.local:
        yield Problem(("underlay", "local"), MISSING, f'kind "tap" needs it, {IP_FORM} of the VTEP\'s own')
    if n_ports < 1:
        yield Problem(("underlay", "srcport"), "{} is an empty range", "the first must not be above the last")
    elif underlay.source_ports > n_ports:
        path = ("underlay", "source_ports")
        yield Problem(path, "{} is more than the range srcport holds", f"an integer from 1 to {n_ports}")
    for index, _ in _repeats(address.version for address in underlay.local):
        wrong = f"{{}} is a second IPv{underlay.local[index].version} address"
        yield Problem(("underlay", "local", index), wrong, "at most one of each family")
    for index, address in enumerate(underlay.local):
        yield from _needs_device(("underlay", "local", index), address, underlay)


def _segments_alike(segments: tuple[Segment, ...]) -> Iterator[Problem]:
    for index, first in _repeats(segment.vni for segment in segments):
        wrong = f"{{}} is the VNI of segment[{first}]"
        yield Problem(("segment", index, "vni"), wrong, "each segment has its own")
    yield from _ports_alike(segments)


def _ports_alike(segments: tuple[Segment, ...]) -> Iterator[Problem]:
    """A device may be of several segments, when VLANs tell them apart."""
    kinds: dict[str, tuple[str, int]] = {}
    taken: dict[tuple[str, int | None], int] = {}
    mtus: dict[str, tuple[int, int]] = {}
    for index, n, port in _all_ports(segments):
        path, mtu = _port_path(("segment", index), segments[index], n), segments[index].mtu
        kind, other = kinds.setdefault(port.dev, (port.kind, index))
        known = (port.dev, port.vlan) in taken
        same = taken.setdefault((port.dev, port.vlan), index)
        if known and port.vlan is None:
            wrong = f"{{}} is the device of segment[{same}]"
            yield Problem(_dev_of(path), wrong, "each segment has its own, or a vlan of it")
        elif known:
            wrong = f"{{}} is the VLAN of segment[{same}] on {port.dev}"
            yield Problem((*path, "vlan"), wrong, "each segment has its own")
        elif port.kind != kind:
            wrong = f'{{}} is a port of kind "{kind}" in segment[{other}]'
            yield Problem(_dev_of(path), wrong, "one kind for all who share a device")
        elif mtu is not None and mtus.setdefault(port.dev, (mtu, index))[0] != mtu:
            first, at = mtus[port.dev]
            wrong = f"{{}} is not the {first} of segment[{at}], which has the same TAP"
            yield Problem(("segment", index, "mtu"), wrong, "one MTU for all who share a TAP")


def _all_ports(segments: tuple[Segment, ...]) -> Iterator[tuple[int, int, Port]]:
    for index, segment in enumerate(segments):
        for n, port in enumerate(segment.overlays):
            yield index, n, port


def _port_path(path: Path, segment: Segment, n: int) -> Path:
    """Where a segment's port stands; a TAP's keys are the segment's own."""
    if segment.ports:
        return (*path, "ports", n)
    return (*path, "port") if segment.port else path


def _dev_of(path: Path) -> Path:
    return (*path, "dev") if len(path) > 2 else (*path, "tap")


def _numbered(path: Path, segment: Segment) -> Iterator[Problem]:
    """Sequence numbers where there are none."""
    for index, entry in enumerate(segment.fdb):
        if entry.kind == "static" and entry.sequence:
            wrong = "{} is the sequence number of a static entry"
            yield Problem((*path, "fdb", index, "sequence"), wrong, 'kind "control" or "sticky" has one')


def _segment_repeats(path: Path, segment: Segment) -> Iterator[Problem]:
    for index, _ in _repeats(segment.remotes):
        yield Problem((*path, "remotes", index), "{} is there twice", "each remote once")
    for index, _ in _repeats(entry.mac for entry in segment.fdb):
        yield Problem((*path, "fdb", index, "mac"), "{} is there twice", "one remote for each MAC address")
    for index, _ in _repeats(entry.address for entry in segment.neighbours):
        yield Problem(
            (*path, "neighbours", index, "address"), "{} is there twice", "one MAC for each address"
        )


def _port_contradictions(path: Path, segment: Segment, underlay: Underlay) -> Iterator[Problem]:
    given = [name for name in ("tap", "port", "ports") if getattr(segment, name)]
    if len(given) > 1:
        wrong = "there is tap as well" if "tap" in given else "there is port as well"
        yield Problem((*path, given[1]), wrong, "one of the two")
    if not given:
        yield Problem((*path, "tap"), MISSING, "a segment needs it, or a port of another kind")
    if "tap" not in given and segment.vlan is not None:
        yield Problem((*path, "vlan"), "{} goes with tap", "a key vlan of the port")
    if segment.ports and not 2 <= len(segment.ports) <= _MAX_PORTS:
        wrong = f"{len(segment.ports)} of them"
        yield Problem((*path, "ports"), wrong, f"2 to {_MAX_PORTS}, or port for one")
    yield from _ports_contradictions(path, segment, underlay)


def _ports_contradictions(path: Path, segment: Segment, underlay: Underlay) -> Iterator[Problem]:
    if segment.mtu is not None and not any(port.kind == "tap" for port in segment.overlays):
        dev = segment.overlays[0].dev
        wrong = f"{{}} is for {dev}, which exists and has an MTU"
        yield Problem((*path, "mtu"), wrong, f"leave it out, and see `ip link set {dev} mtu N`")
    for n, port in enumerate(segment.overlays):
        where = _port_path(path, segment, n)
        if port.kind == "xdp" and port.vlan is not None:
            wrong = '{} and a port of kind "xdp", to which tags do not come'
            yield Problem((*where, "vlan"), wrong, 'a port of kind "tap" or "packet"')
        if port.dev and port.dev == underlay.dev:
            wrong = "{} is the device of the underlay"
            yield Problem(_dev_of(where), wrong, "the device that leads to the segment's hosts")


def _collector_contradictions(path: Path, collect: Collect, settings: Settings) -> Iterator[Problem]:
    ports = [name for name in ("write", "tap", "port") if getattr(collect, name) is not None]
    if not ports:
        yield Problem((*path, "write"), MISSING, "a collector needs it, or tap or port")
    if len(ports) > 1:
        yield Problem((*path, ports[1]), f"there is {ports[0]} as well", "one of write, tap and port")
    for name in collect.of_files if collect.write is None and ports else ():
        if getattr(collect, name) is not None:
            yield Problem((*path, name), "{} is about files", "leave it out, or give write")
    yield from _collected_alike(path, collect, settings)
    if collect.port and collect.port.vlan is not None:
        yield Problem((*path, "port", "vlan"), "{} and a collector, which keeps tags", "leave it out")
    dev = collect.overlay.dev if collect.overlay else None
    if dev and dev == settings.underlay.dev:
        where = (*path, "port", "dev") if collect.port else (*path, "tap")
        yield Problem(where, "{} is the device of the underlay", "the device that is to get the frames")


def _collected_alike(path: Path, collect: Collect, settings: Settings) -> Iterator[Problem]:
    """VNIs, devices and directories that somebody else has."""
    if collect.vnis == ():
        yield Problem((*path, "vnis"), "{} has none", _COLLECTED.description or "")
    for n, (low, high) in enumerate(collect.ranges):
        for index, segment in enumerate(settings.segments):
            if low <= segment.vni <= high:
                wrong = f"{{}} has the VNI of segment[{index}]"
                yield Problem(
                    (*path, "vnis", n), wrong, 'leave that one out, or "all": the VNIs of no segment'
                )
    yield from _ends_alike(path, collect, settings)


def _ends_alike(path: Path, collect: Collect, settings: Settings) -> Iterator[Problem]:
    devices = {port.dev for _, _, port in _all_ports(settings.segments)}
    devices |= {each.overlay.dev for each in settings.collects[: int(path[1])] if each.overlay}
    if collect.overlay and collect.overlay.dev in devices:
        where = (*path, "port", "dev") if collect.port else (*path, "tap")
        yield Problem(where, "{} is the device of another", "each has its own")
    for n, other in enumerate(settings.collects[: int(path[1])]):
        if _overlap(collect, other):
            yield Problem((*path, "vnis"), f"some are collect[{n}]'s", "each VNI to one of them")
        if collect.write is not None and collect.write == other.write:
            yield Problem((*path, "write"), "{} is the directory of another collector", "each has its own")


def _overlap(one: Collect, other: Collect) -> bool:
    if "all" in (one.vnis, other.vnis):
        return one.vnis == other.vnis
    return any(a <= d and c <= b for a, b in one.ranges for c, d in other.ranges)


def _group_contradictions(path: Path, segment: Segment, underlay: Underlay) -> Iterator[Problem]:
    if segment.group is None:
        return
    if underlay.kind not in _JOINING:
        wrong = f'{{}} cannot be joined by an underlay of kind "{underlay.kind}"'
        kinds = " or ".join(f'"{kind}"' for kind in _JOINING)
        yield Problem((*path, "group"), wrong, f"an underlay of kind {kinds}, or list the remotes")
    elif underlay.dev is None:
        yield Problem(
            (*path, "group"), "{} is a group and no device is named", "set dev, the one that it is joined on"
        )


_JOINING = ("udp", "packet")


def _beyond_tables(settings: Settings) -> Iterator[Problem]:
    """What the tables cannot hold, whatever else happens."""
    n_static = sum(len(segment.fdb) for segment in settings.segments)
    n_segments = len(settings.segments) + len(settings.collects)
    for name, n in (("segments", n_segments), ("entries", n_static)):
        limit = getattr(settings.tables, name)
        if limit is not None and n > limit:
            yield Problem(("tables", name), f"{{}} is less than the {n} here", f"{n} or more")
    tables: dict[str, Sequence[Segment | Collect]]
    tables = {"segment": settings.segments, "collect": settings.collects}
    for table, rows in tables.items():
        for index, row in enumerate(rows):
            if isinstance(row.source, tuple) and len(row.source) > _MAX_PREFIXES:
                wrong = f"there are {len(row.source)} prefixes"
                yield Problem((table, index, "source"), wrong, f"at most {_MAX_PREFIXES}")


def _too_many_ports(settings: Settings) -> Iterator[Problem]:
    rows: list[tuple[Path, set[int]]] = [(("underlay", "dstport"), {settings.underlay.dstport})]
    rows += [(("segment", n, "dstport"), {settings.dstport_of(s)}) for n, s in enumerate(settings.segments)]
    rows += [
        (("collect", n, "dstports"), {*settings.dstports_of(c)}) for n, c in enumerate(settings.collects)
    ]
    known: set[int] = set()
    for path, ports in rows:
        known |= ports
        if len(known) > _MAX_DSTPORTS:
            yield Problem(
                path, f"with {{}} there are more than {_MAX_DSTPORTS} UDP ports", "one that others have"
            )
            return


def _remotes_alike(settings: Settings) -> Iterator[Problem]:
    for index, first in _repeats(remote.address for remote in settings.remotes):
        yield Problem(("remote", index, "address"), f"{{}} is in remote[{first}]", "each remote once")
    lists = {remote.address: remote.vnis for remote in settings.remotes if remote.vnis is not None}
    for path, address in _peers(settings.segments):
        vni = settings.segments[int(path[1])].vni
        if not any(low <= vni <= high for low, high in (each.ends for each in lists.get(address, (_ALL,)))):
            yield Problem(path, f"{{}} may not speak in VNI {vni}", "add the VNI to `vnis` of the remote")


_ALL = VniRange("0-16777215")


def _unreachable_peers(settings: Settings) -> Iterator[Problem]:
    local = settings.underlay.local
    families = {address.version for address in local}
    peers = list(_all_peers(settings))
    if not local and not peers:
        yield Problem(("underlay", "local"), MISSING, f"without a remote it must be given: {IP_FORM}")
    for path, address in peers:
        if address in local:
            yield Problem(path, "{} is a local address", "a VTEP cannot be its own remote")
        if local and address.version not in families:
            wrong = f"{{}} is IPv{address.version} and no local address is"
            yield Problem(path, wrong, f"IPv{local[0].version} remotes only, or add a local address")
        yield from _needs_device(path, address, settings.underlay)


def _peers(segments: tuple[Segment, ...]) -> Iterator[tuple[Path, IPAddress]]:
    """Every address that we may send to, and where it stands."""
    for n, segment in enumerate(segments):
        for index, remote in enumerate(segment.remotes):
            yield ("segment", n, "remotes", index), remote
        if segment.group is not None:
            yield ("segment", n, "group"), segment.group
        for index, entry in enumerate(segment.fdb):
            yield ("segment", n, "fdb", index, "remote"), entry.remote


def _all_peers(settings: Settings) -> Iterator[tuple[Path, IPAddress]]:
    yield from _peers(settings.segments)
    for n, remote in enumerate(settings.remotes):
        yield ("remote", n, "address"), remote.address


def _needs_device(path: Path, address: IPAddress, underlay: Underlay) -> Iterator[Problem]:
    """IPv6 link-local addresses mean nothing without a link; for IPv4 the routing table decides."""
    if address.version == 6 and address.is_link_local and underlay.dev is None:
        yield Problem(path, "{} is link-local and no device is named", "set dev, or use a global address")


def _repeats(values: Iterable[object]) -> Iterator[tuple[int, int]]:
    """The index of each value that was there before, and the index where it was first."""
    first: dict[object, int] = {}
    for index, value in enumerate(values):
        if first.setdefault(value, index) != index:
            yield index, first[value]


# The file


def read(name: str) -> str:
    """The text of a file, or ConfigError."""
    try:
        content = FilePath(name).read_bytes()
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror}") from None
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}:{line}: not TOML: byte {error.start} is not UTF-8 text") from None


def parse(name: str, text: str) -> dict[str, Any]:
    """What TOML says, or ConfigError with the line."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        _refuse_syntax(name, text, str(error))
    except (ValueError, RecursionError) as error:  # an integer of 5000 digits, 1000 brackets
        raise ConfigError(f"{name}: not TOML that can be read: {error}") from None


def _refuse_syntax(name: str, text: str, message: str) -> NoReturn:
    """tomllib's message, with its ``(at line 3, column 7)`` in front where editors look for it."""
    what, _, where = message.removesuffix(")").rpartition(" (at ")
    position = ":".join(re.findall(r"\d+", where)) or str(len(text.splitlines()))
    raise ConfigError(f"{name}:{position}: not TOML: {what}") from None


def explain(problem: Problem, data: Mapping[str, Any]) -> str:
    """``KEY: what is wrong; what is allowed``."""
    path, value = problem.path, None
    if "{}" in problem.wrong:
        path, value = found(data, path)
    return f"{written(path)}: {problem.wrong.format(shown(value))}; {problem.allowed}"


def explain_in_file(problem: Problem, data: dict[str, Any], name: str, text: str) -> str:
    """``FILE:LINE: KEY: what is wrong; what is allowed``."""
    path = found(data, problem.path)[0] if "{}" in problem.wrong else problem.path
    line = line_of(key_lines(text), path)
    return f"{name}:{line}: {explain(problem, data)}" if line else f"{name}: {explain(problem, data)}"


# The command line

_OPTION_NAMES = {
    "remotes": "--remote",
    "peers": "--peer",
    "urls": "--etcd",
    "neighbours": "--neighbour",
    "learning": "--nolearning",
    "count": "--lanes",
    "kind": "--underlay",
    "vnis": "--vni",
    "write": "-w",
    "socket": "--control",
    "listen": "--metrics",
    "format": "--log-format",
    "dstports": "--dstport",
}


def _switched_off(names: list[str]) -> dict[str, bool]:
    for name in names:
        if name not in Offload.__struct_fields__:
            allowed = ", ".join(Offload.__struct_fields__)
            raise ConfigError(f"--no-offload {_as_typed(name)}: there is no such offload; one of {allowed}")
    return dict.fromkeys(names, False)


def _split_entry(entry: str) -> dict[str, str]:
    mac, equals, remote = entry.partition("=")
    if not equals:
        raise ConfigError(f"--fdb {entry}: MAC=REMOTE such as 02:00:00:00:00:01=192.0.2.2")
    return {"mac": mac, "remote": remote}


def _split_neighbour(entry: str) -> dict[str, str]:
    address, equals, mac = entry.partition("=")
    if not equals:
        raise ConfigError(f"--neighbour {entry}: IP=MAC such as 10.42.0.7=02:00:00:00:00:07")
    return {"address": address, "mac": mac}


def _split_port(port: str) -> dict[str, str]:
    kind, equals, dev = port.partition("=")
    if not equals:
        raise ConfigError(f"--port {_as_typed(port)}: KIND=DEV such as packet=veth0")
    return {"kind": kind, "dev": dev}


def _split_flooded(text: str) -> Any:
    """``flood``, ``drop``, or ``RATE`` or ``RATE/BURST``."""
    rate, slash, burst = text.partition("/")
    if not rate.isdecimal() or (slash and not burst.isdecimal()):
        return text
    return {"rate": int(rate)} | ({"burst": int(burst)} if slash else {})


def _split_key(text: str) -> tuple[str, Any]:
    """``KEY=VALUE``, the value as TOML has it, or a word as it is."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f'--set {_as_typed(text)}: KEY=VALUE such as ageing=60 or source=["192.0.2.0/24"]')
    if key.strip() == "vni":
        raise ConfigError(f"--set {_as_typed(text)}: the VNI names the segment, and no other can be set")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except ValueError:
        return key, value


_SPLIT: dict[str, Callable[[Any], Any]] = {
    "fdb": lambda entries: [_split_entry(entry) for entry in entries],
    "neighbours": lambda entries: [_split_neighbour(entry) for entry in entries],
    "port": _split_port,
    "source": lambda words: words[0] if words in (["peers"], ["any"]) else words,
    "broadcast": _split_flooded,
    "multicast": _split_flooded,
    "unknown_unicast": _split_flooded,
}


def _explain_option(problem: Problem, data: dict[str, Any]) -> str:
    setting = next(str(step) for step in problem.path[1:] if isinstance(step, str))
    option = _OPTION_NAMES.get(setting, "--" + setting.replace("_", "-"))
    if "{}" not in problem.wrong:
        return f"{option}: {problem.wrong}; {problem.allowed}"
    # What was one argument stays whole: a static FDB entry, a neighbour, a port.
    _, value = found(data, problem.path[: 3 if setting == "port" else 4])
    given = f"{option} {_as_typed(value)}"
    if problem.wrong == NOT_ALLOWED:
        return f"{given}: {problem.allowed}"
    return f"{given}: {problem.wrong.removeprefix('{} ')}; {problem.allowed}"


def _as_typed(value: Any) -> str:
    if isinstance(value, dict):
        return "=".join(map(str, value.values()))
    if isinstance(value, list):
        return " ".join(map(_as_typed, value))
    text = str(value)
    return text if text and text.isprintable() else shown(text)
