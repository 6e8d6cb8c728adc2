"""The wire in readable Python: VXLAN (RFC 7348) encapsulated and decapsulated one packet at a time.

Place in the house: above errors, verdict and addresses; the oracle that tests hold the compiled codec
to, the checker of its settings, and the page to read first. Clear before quick.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address
from struct import pack, unpack_from
from typing import Literal

from vxcore.addresses import IPAddress, parse_mac
from vxcore.errors import ConfigError
from vxcore.verdict import Verdict

VXLAN_PORT = 4789  # RFC 7348 section 8
GPE_PORT = 4790  # draft-ietf-nvo3-vxlan-gpe
SOURCE_PORTS = (49152, 65535)  # RFC 7348 section 5: the dynamic range of RFC 6335

ETH_LEN = 14
TAG_LEN = 4  # IEEE 802.1Q
IPV4_LEN = 20  # RFC 791
IPV6_LEN = 40  # RFC 8200
UDP_LEN = 8  # RFC 768
VXLAN_LEN = 8  # RFC 7348 section 5
MAX_VNI = 2**24 - 1
MAX_VLAN = 4094  # 4095 is reserved

ETHERTYPE_IPV4, ETHERTYPE_IPV6 = 0x0800, 0x86DD
TAG_ETHERTYPES = {0x8100, 0x88A8, 0x9100}  # 802.1Q, 802.1ad, and QinQ before there was 802.1ad
MAX_TAGS = 2
TCP, UDP, DCCP, SCTP, UDPLITE = 6, 17, 33, 132, 136
HAVE_PORTS = {TCP, UDP, DCCP, SCTP, UDPLITE}
HOP_BY_HOP, ROUTING, FRAGMENT_HEADER, AH, DESTINATION_OPTIONS = 0, 43, 44, 51, 60
EXTENSIONS = {HOP_BY_HOP, ROUTING, AH, DESTINATION_OPTIONS}
MAX_EXTENSIONS = 8

VNI_FLAG = 0x08  # I
DF = 0x4000
NOT_ECT, ECT0, ECT1, CE = 0b00, 0b10, 0b01, 0b11  # RFC 3168

# Group policy: Linux's per-packet word (VXLAN_GBP in if_link.h) and draft-smith-vxlan-group-policy.
GBP_ID, GBP_DONT_LEARN, GBP_APPLIED = 0xFFFF, 0x400000, 0x080000
GBP_FLAG, GBP_HEADER_D, GBP_HEADER_A = 0x80, 0x40, 0x08

# VXLAN-GPE flags and next protocols
GPE_VERSION_BITS, GPE_P, GPE_O = 0x30, 0x04, 0x01
GPE_IPV4, GPE_IPV6, GPE_ETHERNET = 1, 2, 3


class Layer(IntEnum):
    """Where a packet starts: at an outer Ethernet or IP header, or at VXLAN as a UDP socket has it."""

    ETHERNET = 0
    IP = 1
    UDP_PAYLOAD = 2


# Settings


@dataclass(frozen=True, kw_only=True)
class TunnelSpec:
    """One VTEP's way to another. Raises ConfigError that names the argument and what is allowed.

    `local` and `remote` are addresses of one family; `src_port` is a range, or one fixed port;
    `tos` is the DSCP's six bits in place (the ECN bits always come from the inner packet);
    `udp_checksum` None means none over IPv4 (RFC 7348 section 5) and computed over IPv6 (RFC 8200);
    `ecn` is RFC 6040's normal mode or Linux's, which turns CE into ECT(0); `flow_label` goes into an
    IPv6 header; `ethernet` is (destination, source) of an outer Ethernet header and `outer_vlan` its
    802.1Q tag; `inner_vlan` says what becomes of a tagged frame (section 6.1).
    """

    local: IPAddress
    remote: IPAddress
    vni: int
    dst_port: int = VXLAN_PORT
    src_port: int | tuple[int, int] = SOURCE_PORTS
    ttl: int | Literal["inherit"] = 64
    tos: int | Literal["inherit"] = 0
    df: Literal["unset", "set", "inherit"] = "unset"
    udp_checksum: bool | None = None
    ecn: Literal["rfc6040", "linux"] = "rfc6040"
    flow_label: int | Literal["hash"] = "hash"
    ethernet: tuple[bytes, bytes] | None = None
    outer_vlan: int | None = None
    inner_vlan: Literal["drop", "strip", "pass"] = "drop"
    gbp: bool = False
    symmetric: bool = False

    def __post_init__(self) -> None:
        for name in ("local", "remote"):
            object.__setattr__(self, name, _address(name, getattr(self, name)))
        if self.local.version != self.remote.version:
            raise ConfigError(f"remote {self.remote} is not of local {self.local}'s family")
        if self.ethernet is not None:
            object.__setattr__(self, "ethernet", _macs(self.ethernet))
        elif self.outer_vlan is not None:
            raise ConfigError(f"outer_vlan {self.outer_vlan} without ethernet; give both or neither")
        for name, low, high, word in _TUNNEL_RANGES:
            _check_range(name, getattr(self, name), low, high, word)
        for name, words in _TUNNEL_WORDS.items():
            _check_word(name, getattr(self, name), words)
        _check_ports(self.src_port)

    @property
    def computes_checksum(self) -> bool:
        """Whether UDP checksums are computed."""
        return self.local.version == 6 if self.udp_checksum is None else self.udp_checksum


@dataclass(frozen=True, kw_only=True)
class DecapRules:
    """What is acceptable on receipt. Raises ConfigError that names the argument and what is allowed.

    `udp_checksum`: "verify" drops a wrong one and accepts zero (over IPv6 only if `zero_checksum6`
    is "accept", RFC 6935), "require" drops zero too, "ignore" looks at neither this nor the IPv4
    header's. `gbp` and `gpe` give their header bits a meaning; otherwise these are reserved.
    `truncated` "deliver" accepts a packet that ends before its IP header says, as a capture with a
    snap length holds it: what is there of the inner frame is delivered, its UDP checksum unverified.
    """

    ports: tuple[int, ...] = (VXLAN_PORT,)
    reserved: Literal["ignore", "strict"] = "ignore"
    udp_checksum: Literal["verify", "ignore", "require"] = "verify"
    zero_checksum6: Literal["drop", "accept"] = "drop"
    ecn: Literal["rfc6040", "ignore"] = "rfc6040"
    inner_vlan: Literal["drop", "strip", "pass"] = "drop"
    gbp: bool = False
    gpe: bool = False
    truncated: Literal["drop", "deliver"] = "drop"

    def __post_init__(self) -> None:
        for port in self.ports:
            _check_range("ports", port, 1, 65535, None)
        for name, words in _RULE_WORDS.items():
            _check_word(name, getattr(self, name), words)


@dataclass(frozen=True)
class VlanSpec:
    """Which VNI each VLAN is, as a gateway between both maps them (RFC 7348 section 6).

    `vnis` maps a VLAN id (IEEE 802.1Q) to its VNI, each VNI once; VLAN 0 stands for frames without a
    tag. Raises ConfigError that names the pair and what is allowed.
    """

    vnis: Mapping[int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "vnis", dict(self.vnis))
        for vlan, vni in self.vnis.items():
            _check_range("VLAN", vlan, 0, MAX_VLAN, None)
            _check_range(f"the VNI of VLAN {vlan}:", vni, 0, MAX_VNI, None)
            if self.vlans[vni] != vlan:
                raise ConfigError(f"VNI {vni} is given to VLANs {vlan} and {self.vlans[vni]}; each VNI once")

    @cached_property
    def vlans(self) -> dict[int, int]:
        """The same map the other way: VNI -> VLAN."""
        return {vni: vlan for vlan, vni in self.vnis.items()}


_TUNNEL_RANGES: list[tuple[str, int, int, str | None]] = [
    ("vni", 0, MAX_VNI, None),
    ("dst_port", 1, 65535, None),
    ("ttl", 1, 255, "inherit"),
    ("tos", 0, 255, "inherit"),
    ("flow_label", 0, 0xFFFFF, "hash"),
    ("outer_vlan", 0, MAX_VLAN, ""),
]
_TUNNEL_WORDS = {
    "df": ("unset", "set", "inherit"),
    "ecn": ("rfc6040", "linux"),
    "inner_vlan": ("drop", "strip", "pass"),
    "udp_checksum": (None, True, False),
    "gbp": (True, False),
    "symmetric": (True, False),
}
_RULE_WORDS = {
    "reserved": ("ignore", "strict"),
    "udp_checksum": ("verify", "ignore", "require"),
    "zero_checksum6": ("drop", "accept"),
    "ecn": ("rfc6040", "ignore"),
    "inner_vlan": ("drop", "strip", "pass"),
    "gbp": (True, False),
    "gpe": (True, False),
    "truncated": ("drop", "deliver"),
}


def _address(name: str, value: object) -> IPAddress:
    try:
        return ip_address(value)  # type: ignore[arg-type]
    except ValueError:
        raise ConfigError(f"{name} {value!r} is not an IP address; an IPv4 or IPv6 address") from None


def _macs(pair: object) -> tuple[bytes, bytes]:
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise ConfigError(f"ethernet {pair!r} is not a pair; (destination MAC, source MAC)")
    first, second = (parse_mac(mac) if isinstance(mac, str) else bytes(mac) for mac in pair)
    if len(first) != 6 or len(second) != 6:
        raise ConfigError(f"ethernet {pair!r}: a MAC address has 6 bytes")
    return first, second


def _check_range(name: str, value: object, low: int, high: int, word: str | None) -> None:
    if (word is not None and value == word) or (word == "" and value is None):
        return
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        other = f' or "{word}"' if word else ""
        raise ConfigError(f"{name} {value!r} is not allowed; an integer from {low} to {high}{other}")


def _check_word(name: str, value: object, words: tuple[object, ...]) -> None:
    if value not in words:
        raise ConfigError(f"{name} {value!r} is not allowed; one of {', '.join(map(repr, words))}")


def _check_ports(ports: object) -> None:
    first, last = ports if isinstance(ports, tuple) and len(ports) == 2 else (ports, ports)
    for port in (first, last):
        _check_range("src_port", port, 1, 65535, None)
    if isinstance(first, int) and isinstance(last, int) and first > last:
        raise ConfigError(f"src_port {first}-{last} is an empty range; the first must not be above the last")


# Checksums


def internet_checksum(data: bytes) -> int:
    """RFC 1071: the complement of the one's complement sum; an odd last byte is padded with zero."""
    total = sum(word for (word,) in _words(data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _words(data: bytes) -> Iterator[tuple[int]]:
    padded = data + bytes(len(data) % 2)
    return (unpack_from("!H", padded, at) for at in range(0, len(padded), 2))


def pseudo_header(source: bytes, destination: bytes, protocol: int, length: int) -> bytes:
    """What TCP and UDP checksums cover besides the segment (RFC 768, RFC 8200 section 8.1)."""
    return source + destination + pack("!IHH", length, 0, protocol)


# The inner frame


@dataclass
class Inner:
    """What encapsulation and delivery ask of an inner frame."""

    ip_off: int = 0
    version: int = 0
    protocol: int = 0
    tos: int = 0
    ttl: int = 0
    l4_off: int = 0
    l4_len: int = 0
    addresses: tuple[bytes, bytes] = (b"", b"")
    ports: tuple[int, int] = (0, 0)


def dissect(frame: bytes) -> Inner:
    """Walk an inner frame of at least 14 bytes, as far as it is whole."""
    off, n_tags = ETH_LEN - 2, 0
    (ethertype,) = unpack_from("!H", frame, off)
    while ethertype in TAG_ETHERTYPES and n_tags < MAX_TAGS and off + TAG_LEN + 2 <= len(frame):
        off += TAG_LEN
        n_tags += 1
        (ethertype,) = unpack_from("!H", frame, off)
    off += 2
    inner = Inner(ip_off=off)
    if ethertype == ETHERTYPE_IPV4 and len(frame) >= off + IPV4_LEN and 0x45 <= frame[off] <= 0x4F:
        _dissect_ipv4(frame, inner)
    elif ethertype == ETHERTYPE_IPV6 and len(frame) >= off + IPV6_LEN and frame[off] >> 4 == 6:
        _dissect_ipv6(frame, inner)
    else:
        return Inner(addresses=(frame[0:6], frame[6:12]), protocol=ethertype)
    if inner.l4_off and inner.protocol in HAVE_PORTS and inner.l4_off + 4 <= len(frame):
        inner.ports = unpack_from("!HH", frame, inner.l4_off)
    return inner


def _dissect_ipv4(frame: bytes, inner: Inner) -> None:
    ip = frame[inner.ip_off :]
    header_len, (total_len,) = (ip[0] & 15) * 4, unpack_from("!H", ip, 2)
    inner.version, inner.tos, inner.ttl, inner.protocol = 4, ip[1], ip[8], ip[9]
    inner.addresses = ip[12:16], ip[16:20]
    is_fragment = unpack_from("!H", ip, 6)[0] & 0x3FFF  # MF or an offset: only the first has ports
    if not is_fragment and header_len <= total_len and header_len <= len(ip):
        inner.l4_off, inner.l4_len = inner.ip_off + header_len, total_len - header_len


def _dissect_ipv6(frame: bytes, inner: Inner) -> None:
    ip = frame[inner.ip_off :]
    first, payload_len = unpack_from("!HxxH", ip)
    inner.version, inner.tos, inner.protocol, inner.ttl = 6, first >> 4 & 0xFF, ip[6], ip[7]
    inner.addresses = ip[8:24], ip[24:40]
    off, end = inner.ip_off + IPV6_LEN, inner.ip_off + IPV6_LEN + payload_len
    for n_headers in range(MAX_EXTENSIONS + 1):
        if inner.protocol not in EXTENSIONS:
            break
        if n_headers == MAX_EXTENSIONS or off + 8 > len(frame):
            return
        length = _extension_len(inner.protocol, frame[off + 1])
        inner.protocol = frame[off]
        off += length
    if inner.protocol == FRAGMENT_HEADER:
        if off + 8 <= len(frame):
            inner.protocol = frame[off]
    elif off <= end and off <= len(frame):
        inner.l4_off, inner.l4_len = off, end - off


def _extension_len(protocol: int, length_field: int) -> int:
    """RFC 8200 section 4: units of 8 bytes without the first; AH (RFC 4302): of 4 without two."""
    return (length_field + 2) * 4 if protocol == AH else (length_field + 1) * 8


# The flow hash. Words are big-endian values of fields; K are the first digits of pi's fraction, odd.
K0, K1, K2, K3 = 0x243F6A8885A308D3, 0x13198A2E03707345, 0xA4093822299F31D1, 0x082EFA98EC4E6C89


def mix(a: int, b: int) -> int:
    """Both halves of the 128-bit product of two 64-bit words, folded by exclusive or."""
    product = a * b
    return (product ^ product >> 64) & 0xFFFF_FFFF_FFFF_FFFF


def flow_hash(frame: bytes, symmetric: bool = False) -> int:
    """32 bits that are the same for all frames of a flow: ``mix(mix(a ^ K0, b ^ K1) ^ K2, K3) >> 32``.

    IPv4: a is source and destination, b is protocol, source port and destination port. IPv6: the
    same with each address mixed down to a word first. Otherwise a is the destination MAC, b the
    source MAC and the EtherType. Ports are 0 in fragments and where there are none. With `symmetric`
    the smaller (address, port) comes first, so that both directions have one hash.
    """
    inner = dissect(frame)
    (first, second), (sport, dport) = inner.addresses, inner.ports
    if symmetric and (first, sport) > (second, dport):
        first, second, sport, dport = second, first, dport, sport
    b = inner.protocol << 32 | sport << 16 | dport
    if inner.version == 4:
        a = int.from_bytes(first + second, "big")
    elif inner.version == 6:
        a = mix(_word(first) ^ K0, _word(first[8:]) ^ K1)
        a = (a + (mix(_word(second) ^ K2, _word(second[8:]) ^ K3) ^ K2)) & 0xFFFF_FFFF_FFFF_FFFF
    else:
        a = int.from_bytes(first, "big")
        b = int.from_bytes(second, "big") << 16 | inner.protocol
    return mix(mix(a ^ K0, b ^ K1) ^ K2, K3) >> 32


def _word(data: bytes) -> int:
    return int.from_bytes(data[:8], "big")


def complete_checksum(frame: bytes) -> bytes:
    """The frame with a TCP or UDP checksum finished that a sender with checksum offload left partial.

    Such a field holds the bare pseudo-header sum; any other is left alone.
    """
    inner = dissect(frame)
    segment = frame[inner.l4_off : inner.l4_off + inner.l4_len]
    field_off = {TCP: 16, UDP: 6}.get(inner.protocol)
    shortest = {TCP: 20, UDP: 8}.get(inner.protocol, 0)
    if not inner.l4_off or field_off is None or not shortest <= inner.l4_len <= len(segment):
        return frame
    pseudo = pseudo_header(*inner.addresses, inner.protocol, inner.l4_len)
    at = inner.l4_off + field_off
    if unpack_from("!H", frame, at)[0] != ~internet_checksum(pseudo) & 0xFFFF:
        return frame
    check = internet_checksum(segment)  # the field itself stands for the pseudo-header
    if check == 0 and inner.protocol == UDP:
        check = 0xFFFF  # RFC 768: zero means no checksum
    return frame[:at] + pack("!H", check) + frame[at + 2 :]


# VLAN <-> VNI


def untag(frame: bytes, spec: VlanSpec) -> tuple[Verdict, int, bytes]:
    """What a gateway does in front of encapsulation: take the outermost tag off and tell its VNI.

    A frame without a tag, or with a priority tag (VLAN 0), belongs to VLAN 0. Returns the verdict, the
    VNI (0 unless delivered) and the frame, unchanged unless delivered.
    """
    if len(frame) < ETH_LEN or (_tagged(frame) and len(frame) < ETH_LEN + TAG_LEN):
        return Verdict.INNER_TOO_SHORT, 0, frame
    vlan = unpack_from("!H", frame, ETH_LEN)[0] & 0xFFF if _tagged(frame) else 0
    if vlan not in spec.vnis:
        return Verdict.UNKNOWN_VLAN, 0, frame
    return Verdict.DELIVERED, spec.vnis[vlan], frame[:12] + frame[16:] if _tagged(frame) else frame


def tag(frame: bytes, vni: int, spec: VlanSpec) -> tuple[Verdict, bytes]:
    """What a gateway does behind decapsulation: put the tag of the VNI's VLAN in the frame.

    VLAN 0 means no tag. Returns the verdict and the frame, unchanged unless delivered.
    """
    if vni not in spec.vlans:
        return Verdict.UNKNOWN_VNI, frame
    if len(frame) < ETH_LEN:
        return Verdict.INNER_TOO_SHORT, frame
    vlan = spec.vlans[vni]
    return Verdict.DELIVERED, frame[:12] + pack("!HH", 0x8100, vlan) + frame[12:] if vlan else frame


# Encapsulation


def encapsulate(
    frame: bytes, tunnel: TunnelSpec, *, layer: Layer | None = None, ip_id: int = 0, gbp: int = 0
) -> tuple[Verdict, bytes]:
    """One frame with its outer headers, from `layer` on; default: all that the tunnel has.

    `ip_id` is the IPv4 identification, 0 where DF is set (RFC 6864 section 4.1); `gbp` the group
    policy word. Returns the verdict and the packet, which is empty unless delivered.
    """
    if len(frame) < ETH_LEN:
        return Verdict.INNER_TOO_SHORT, b""
    if _tagged(frame) and tunnel.inner_vlan != "pass":
        if tunnel.inner_vlan == "drop" or len(frame) < ETH_LEN + TAG_LEN:
            return Verdict.INNER_VLAN, b""
        frame = frame[:12] + frame[16:]
    if len(frame) + VXLAN_LEN + UDP_LEN + (IPV4_LEN if tunnel.local.version == 4 else 0) > 65535:
        return Verdict.TOO_BIG, b""
    inner = dissect(frame)
    packet = _vxlan_header(tunnel, gbp) + frame
    if layer == Layer.UDP_PAYLOAD:
        return Verdict.DELIVERED, packet
    hashed = flow_hash(frame, tunnel.symmetric)
    packet = _udp_header(tunnel, hashed, packet) + packet
    packet = _ip_header(tunnel, inner, frame, hashed, len(packet), ip_id) + packet
    if tunnel.ethernet and layer != Layer.IP:
        packet = _ethernet_header(tunnel) + packet
    return Verdict.DELIVERED, packet


def _tagged(frame: bytes) -> bool:
    return unpack_from("!H", frame, 12)[0] in TAG_ETHERTYPES


def source_port(tunnel: TunnelSpec, hashed: int) -> int:
    """The hash, scaled to the range of source ports (RFC 7348 section 5)."""
    ports = tunnel.src_port
    first, last = ports if isinstance(ports, tuple) else (ports, ports)
    return first + (hashed * (last - first + 1) >> 32)


def _vxlan_header(tunnel: TunnelSpec, gbp: int) -> bytes:
    flags, middle = VNI_FLAG, 0
    if tunnel.gbp and gbp:
        flags |= GBP_FLAG
        middle = gbp & GBP_ID
        middle |= (GBP_HEADER_D << 16 if gbp & GBP_DONT_LEARN else 0) | (
            GBP_HEADER_A << 16 if gbp & GBP_APPLIED else 0
        )
    return pack("!II", flags << 24 | middle, tunnel.vni << 8)


def _udp_header(tunnel: TunnelSpec, hashed: int, payload: bytes) -> bytes:
    length = UDP_LEN + len(payload)
    header = pack("!HHHH", source_port(tunnel, hashed), tunnel.dst_port, length, 0)
    if not tunnel.computes_checksum:
        return header
    pseudo = pseudo_header(tunnel.local.packed, tunnel.remote.packed, UDP, length)
    check = internet_checksum(pseudo + header + payload) or 0xFFFF  # RFC 768: zero means none
    return header[:6] + pack("!H", check)


def _ip_header(tunnel: TunnelSpec, inner: Inner, frame: bytes, hashed: int, length: int, ip_id: int) -> bytes:
    dscp = inner.tos if tunnel.tos == "inherit" else tunnel.tos
    ecn = ECT0 if tunnel.ecn == "linux" and inner.tos & 3 == CE else inner.tos & 3
    tos = dscp & 0xFC | ecn
    ttl = (inner.ttl if inner.version else 64) if tunnel.ttl == "inherit" else tunnel.ttl
    if tunnel.local.version == 6:
        label = hashed & 0xFFFFF if tunnel.flow_label == "hash" else tunnel.flow_label
        start = pack("!IHBB", 6 << 28 | tos << 20 | label, length, UDP, ttl)
        return start + tunnel.local.packed + tunnel.remote.packed
    df = tunnel.df == "set"
    if tunnel.df == "inherit" and inner.version == 4:
        df = bool(unpack_from("!H", frame, inner.ip_off + 6)[0] & DF)
    total = IPV4_LEN + length
    header = pack("!BBHHHBBH", 0x45, tos, total, 0 if df else ip_id, DF if df else 0, ttl, UDP, 0)
    header += tunnel.local.packed + tunnel.remote.packed
    return header[:10] + pack("!H", internet_checksum(header)) + header[12:]


def _ethernet_header(tunnel: TunnelSpec) -> bytes:
    destination, source = tunnel.ethernet or (b"", b"")
    tag = b"" if tunnel.outer_vlan is None else pack("!HH", 0x8100, tunnel.outer_vlan)
    ethertype = ETHERTYPE_IPV4 if tunnel.local.version == 4 else ETHERTYPE_IPV6
    return destination + source + tag + pack("!H", ethertype)


# Decapsulation


@dataclass(frozen=True, kw_only=True)
class Decapsulated:
    """What decapsulation made of a packet; `frame` is empty unless `verdict` is DELIVERED.

    `protocol` is 0 for an Ethernet frame, 4 or 6 for a bare IP packet (VXLAN-GPE).
    """

    verdict: Verdict
    frame: bytes = b""
    vni: int = 0
    source: IPAddress | None = None
    source_port: int = 0
    tos: int = 0
    gbp: int = 0
    protocol: int = 0


class _RefusedError(Exception):
    """Ends the walk with a verdict."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.text)
        self.verdict = verdict


@dataclass
class _Walk:
    """How far a packet's headers were understood; `rest` starts behind the last of them."""

    rest: bytes
    rules: DecapRules
    ip_payload: bytes = b""
    next: int = 0
    addresses: tuple[bytes, bytes] = (b"", b"")
    known: dict[str, object] = field(default_factory=dict)
    missing: int = 0

    def need(self, n_bytes: int) -> None:
        if len(self.rest) < n_bytes:
            raise _RefusedError(Verdict.TRUNCATED)

    def need_packet(self, n_bytes: int) -> None:
        """Need as much as the IP header says, or note how much is missing where that is allowed."""
        self.missing = max(0, n_bytes - len(self.rest))
        if self.missing and self.rules.truncated == "drop":
            raise _RefusedError(Verdict.TRUNCATED)


def decapsulate(
    packet: bytes, rules: DecapRules | None = None, *, layer: Layer = Layer.ETHERNET, outer_tos: int = 0
) -> Decapsulated:
    """What is in a packet that starts at `layer`; never raises, whatever the bytes.

    Checks from the outside in, and the first that fails gives the verdict: Ethernet and its tags, the
    IP header, its fragment fields and extension headers, the protocol, the UDP lengths, the port, the
    UDP checksum, the VXLAN header (length, I flag, reserved bits, GPE), the inner frame's length, its
    VLAN tag, ECN. What was learned before a failure is in the result. `outer_tos` is for UDP_PAYLOAD,
    where no header tells it.
    """
    walk = _Walk(packet, rules or DecapRules())
    walk.known["tos"] = outer_tos if layer == Layer.UDP_PAYLOAD else 0
    try:
        if layer != Layer.UDP_PAYLOAD:
            _outer(walk, layer)
        _vxlan(walk)
        _inner(walk)
    except _RefusedError as refused:
        return Decapsulated(verdict=refused.verdict, **walk.known)  # type: ignore[arg-type]
    return Decapsulated(verdict=Verdict.DELIVERED, frame=walk.rest, **walk.known)  # type: ignore[arg-type]


def _outer(walk: _Walk, layer: Layer) -> None:
    version = _ethernet(walk) if layer == Layer.ETHERNET else None
    walk.need(1)
    if version == 6 or (version is None and walk.rest[0] >> 4 == 6):
        _ipv6(walk)
    else:
        _ipv4(walk)
    if walk.next != UDP:
        raise _RefusedError(Verdict.NOT_UDP)
    _udp(walk)


def _ethernet(walk: _Walk) -> int:
    walk.need(ETH_LEN)
    (ethertype,) = unpack_from("!H", walk.rest, 12)
    walk.rest = walk.rest[ETH_LEN:]
    for _ in range(MAX_TAGS):
        if ethertype in TAG_ETHERTYPES:
            walk.need(TAG_LEN)
            (ethertype,) = unpack_from("!H", walk.rest, 2)
            walk.rest = walk.rest[TAG_LEN:]
    if ethertype not in (ETHERTYPE_IPV4, ETHERTYPE_IPV6):
        raise _RefusedError(Verdict.NOT_IP)
    return 4 if ethertype == ETHERTYPE_IPV4 else 6


def _ipv4(walk: _Walk) -> None:
    walk.need(IPV4_LEN)
    ip = walk.rest
    header_len, (total_len,) = (ip[0] & 15) * 4, unpack_from("!H", ip, 2)
    if ip[0] >> 4 != 4 or header_len < IPV4_LEN or total_len < header_len:
        raise _RefusedError(Verdict.BAD_IP_HEADER)
    walk.need_packet(total_len)
    walk.need(header_len)
    if walk.rules.udp_checksum != "ignore" and internet_checksum(ip[:header_len]):
        raise _RefusedError(Verdict.IP_CHECKSUM)
    walk.known |= {"source": IPv4Address(ip[12:16]), "tos": ip[1]}
    walk.addresses, walk.next = (ip[12:16], ip[16:20]), ip[9]
    walk.rest = ip[header_len:total_len]  # behind it is Ethernet's padding
    if unpack_from("!H", ip, 6)[0] & 0x3FFF:
        raise _RefusedError(Verdict.FRAGMENT)


def _ipv6(walk: _Walk) -> None:
    walk.need(IPV6_LEN)
    ip = walk.rest
    if ip[0] >> 4 != 6:
        raise _RefusedError(Verdict.BAD_IP_HEADER)
    first, payload_len = unpack_from("!HxxH", ip)
    walk.need_packet(IPV6_LEN + payload_len)
    walk.known |= {"source": IPv6Address(ip[8:24]), "tos": first >> 4 & 0xFF}
    walk.addresses, walk.next = (ip[8:24], ip[24:40]), ip[6]
    walk.rest = ip[IPV6_LEN : IPV6_LEN + payload_len]
    for _ in range(MAX_EXTENSIONS):
        if walk.next in EXTENSIONS or walk.next == FRAGMENT_HEADER:
            _extension(walk)


def _extension(walk: _Walk) -> None:
    walk.need(8)
    length = 8
    if walk.next == FRAGMENT_HEADER:
        # Offset 0 and no more to come: an atomic fragment is a whole packet (RFC 6946).
        if unpack_from("!H", walk.rest, 2)[0] & 0xFFF9:
            raise _RefusedError(Verdict.FRAGMENT)
    else:
        length = _extension_len(walk.next, walk.rest[1])
    walk.need(length)
    walk.next, walk.rest = walk.rest[0], walk.rest[length:]


def _udp(walk: _Walk) -> None:
    walk.need(UDP_LEN)
    port, to_port, length, check = unpack_from("!HHHH", walk.rest)
    walk.known["source_port"] = port
    if not UDP_LEN <= length <= len(walk.rest) + walk.missing:
        raise _RefusedError(Verdict.BAD_UDP_LENGTH)
    if to_port not in walk.rules.ports:
        raise _RefusedError(Verdict.OTHER_PORT)
    _check_udp(walk, walk.rest[:length], length, check)
    walk.rest = walk.rest[UDP_LEN:length]


def _check_udp(walk: _Walk, segment: bytes, length: int, check: int) -> None:
    rules = walk.rules
    if rules.udp_checksum == "ignore":
        return
    if check == 0:
        over_ipv6 = len(walk.addresses[0]) == 16
        if rules.udp_checksum == "require" or (over_ipv6 and rules.zero_checksum6 == "drop"):
            raise _RefusedError(Verdict.ZERO_CHECKSUM)
    elif len(segment) == length and internet_checksum(pseudo_header(*walk.addresses, UDP, length) + segment):
        raise _RefusedError(Verdict.UDP_CHECKSUM)


def _vxlan(walk: _Walk) -> None:
    walk.need(VXLAN_LEN)
    first, second = unpack_from("!II", walk.rest)
    flags = first >> 24
    if not flags & VNI_FLAG:
        raise _RefusedError(Verdict.NO_VNI_FLAG)
    walk.known["vni"] = second >> 8
    if walk.rules.reserved == "strict" and (first & ~_meant_bits(flags, walk.rules) or second & 0xFF):
        raise _RefusedError(Verdict.RESERVED_BITS)
    walk.rest = walk.rest[VXLAN_LEN:]
    if walk.rules.gbp and flags & GBP_FLAG:
        walk.known["gbp"] = _gbp_word(first)
    if walk.rules.gpe:
        walk.known["protocol"] = _gpe_protocol(flags, first & 0xFF)


def _meant_bits(flags: int, rules: DecapRules) -> int:
    """The bits of the header's first word that have a meaning."""
    meant = VNI_FLAG << 24
    if rules.gbp:
        meant |= GBP_FLAG << 24
        if flags & GBP_FLAG:
            meant |= (GBP_HEADER_D | GBP_HEADER_A) << 16 | GBP_ID
    if rules.gpe:
        meant |= 0x3F0000FF  # Ver I P B O, and the next protocol
    return meant


def _gbp_word(first: int) -> int:
    applied = first >> 16
    return (
        first & GBP_ID
        | (GBP_DONT_LEARN if applied & GBP_HEADER_D else 0)
        | (GBP_APPLIED if applied & GBP_HEADER_A else 0)
    )


def _gpe_protocol(flags: int, next_protocol: int) -> int:
    """0 for Ethernet, 4 or 6 for a bare IP packet; others are refused."""
    if flags & GPE_VERSION_BITS:
        raise _RefusedError(Verdict.GPE_VERSION)
    if flags & GPE_O:
        raise _RefusedError(Verdict.GPE_OAM)
    if not flags & GPE_P or next_protocol == GPE_ETHERNET:
        return 0
    if next_protocol not in (GPE_IPV4, GPE_IPV6):
        raise _RefusedError(Verdict.GPE_PROTOCOL)
    return 4 if next_protocol == GPE_IPV4 else 6


def _inner(walk: _Walk) -> None:
    protocol = walk.known.get("protocol", 0)
    if len(walk.rest) < {0: ETH_LEN, 4: IPV4_LEN, 6: IPV6_LEN}[protocol]:  # type: ignore[index]
        raise _RefusedError(Verdict.INNER_TOO_SHORT)
    if protocol == 0:
        _inner_vlan(walk)
        inner = dissect(walk.rest)
    else:
        inner = _bare_ip(walk.rest, 4 if protocol == 4 else 6)
    if walk.rules.ecn == "rfc6040":
        walk.rest = _ecn(walk.rest, inner, walk.known["tos"])  # type: ignore[arg-type]


def _bare_ip(packet: bytes, version: int) -> Inner:
    if packet[0] >> 4 != version:
        return Inner()
    tos = packet[1] if version == 4 else unpack_from("!H", packet)[0] >> 4 & 0xFF
    return Inner(version=version, tos=tos)


def _inner_vlan(walk: _Walk) -> None:
    if not _tagged(walk.rest) or walk.rules.inner_vlan == "pass":
        return
    if walk.rules.inner_vlan == "drop" or len(walk.rest) < ETH_LEN + TAG_LEN:
        raise _RefusedError(Verdict.INNER_VLAN)
    walk.rest = walk.rest[:12] + walk.rest[16:]


def merged_ecn(inner: int, outer: int) -> int | None:
    """The ECN bits to deliver (RFC 6040 section 4.2, figure 4); None means drop."""
    if inner == NOT_ECT:
        return None if outer == CE else NOT_ECT
    if outer == CE or inner == CE:
        return CE
    return ECT1 if outer == ECT1 else inner


def _ecn(packet: bytes, inner: Inner, outer_tos: int) -> bytes:
    if inner.version == 0:
        return packet
    merged = merged_ecn(inner.tos & 3, outer_tos & 3)
    if merged is None:
        raise _RefusedError(Verdict.ECN)
    tos = inner.tos & 0xFC | merged
    return packet if tos == inner.tos else _with_tos(packet, inner, tos)


def _with_tos(packet: bytes, inner: Inner, tos: int) -> bytes:
    at = inner.ip_off
    (old,) = unpack_from("!H", packet, at)
    if inner.version == 6:
        return packet[:at] + pack("!H", old & 0xF00F | tos << 4) + packet[at + 2 :]
    new = old & 0xFF00 | tos
    (check,) = unpack_from("!H", packet, at + 10)
    # RFC 1624 equation 3: an update keeps a wrong checksum wrong, where a new one would hide it.
    check = internet_checksum(pack("!HHH", ~check & 0xFFFF, ~old & 0xFFFF, new))
    return packet[:at] + pack("!H", new) + packet[at + 2 : at + 10] + pack("!H", check) + packet[at + 12 :]


def address_from_16(packed: bytes) -> IPAddress | None:
    """The address in 16 bytes as batches keep it: IPv4 as ::ffff:a.b.c.d, all zeros for none."""
    address = IPv6Address(packed)
    return address.ipv4_mapped or (address if any(packed) else None)
