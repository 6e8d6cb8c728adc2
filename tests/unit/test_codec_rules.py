"""The wire's rules one by one, with what the RFCs say as the oracle: checksums, ECN, sizes, headers."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vxcore import (
    Layer,
    PacketBatch,
    Rules,
    Tunnel,
    Verdict,
    decap,
    decap_frame,
    encap,
    encap_frame,
    flow_hash,
    wire,
)

V4 = {"local": "192.0.2.1", "remote": "192.0.2.2"}
V6 = {"local": "2001:db8::1", "remote": "2001:db8::2"}
FAMILIES = pytest.mark.parametrize("end", [V4, V6], ids=["v4", "v6"])
MACS = ("02:00:00:00:00:02", "02:00:00:00:00:01")
ETHERNET = bytes.fromhex("02000000000b02000000000a")


def ipv4_frame(tos: int = 0, ttl: int = 9, fragment: int = 0) -> bytes:
    ip = struct.pack("!BBHHHBBH8s", 0x45, tos, 28, 1, fragment, ttl, 17, 0, bytes(range(8)))
    ip = ip[:10] + struct.pack("!H", wire.internet_checksum(ip)) + ip[12:]
    return ETHERNET + b"\x08\0" + ip + struct.pack("!HHHH", 5, 6, 8, 0)


def ipv6_frame(tos: int = 0, hop_limit: int = 9) -> bytes:
    ip = struct.pack("!IHBB32s", 6 << 28 | tos << 20, 8, 17, hop_limit, bytes(range(32)))
    return ETHERNET + b"\x86\xdd" + ip + struct.pack("!HHHH", 5, 6, 8, 0)


# Checksums


def checksum_at(packet: bytes, end: dict[str, str]) -> int:
    return (20 if end is V4 else 40) + 6


@FAMILIES
@pytest.mark.parametrize("zero6", ["drop", "accept"])
@pytest.mark.parametrize("policy", ["verify", "ignore", "require"])
@pytest.mark.parametrize("sent", ["right", "wrong", "zero"])
def test_every_checksum_case(end: dict[str, str], zero6: str, policy: str, sent: str) -> None:
    packet = bytearray(encap_frame(ipv4_frame(), Tunnel(**end, vni=1, udp_checksum=True))[1])
    at = checksum_at(packet, end)
    if sent == "zero":
        packet[at : at + 2] = bytes(2)
    packet[at] ^= sent == "wrong"
    got = decap_frame(packet, Rules(udp_checksum=policy, zero_checksum6=zero6), Layer.IP)
    zero_is_refused = policy == "require" or (policy == "verify" and end is V6 and zero6 == "drop")
    refused = {
        "right": Verdict.DELIVERED,
        "wrong": Verdict.DELIVERED if policy == "ignore" else Verdict.UDP_CHECKSUM,
        "zero": Verdict.ZERO_CHECKSUM if zero_is_refused else Verdict.DELIVERED,
    }
    assert got.verdict == refused[sent]


@FAMILIES
def test_a_computed_zero_is_sent_as_ffff_and_taken(end: dict[str, str]) -> None:
    tunnel = Tunnel(**end, vni=1, udp_checksum=True, src_port=50000)
    frame = bytearray(ipv4_frame() + bytes(2))
    at = checksum_at(b"", end)
    (sum_without,) = struct.unpack_from("!H", encap_frame(frame, tunnel)[1], at)
    frame[-2:] = struct.pack("!H", sum_without)
    packet = encap_frame(frame, tunnel)[1]
    assert packet[at : at + 2] == b"\xff\xff"
    assert decap_frame(packet, Rules(udp_checksum="require"), Layer.IP).frame == frame


@FAMILIES
@pytest.mark.parametrize("asked", [None, True, False])
def test_checksums_are_computed_over_ipv6_and_not_over_ipv4_unless_told(
    end: dict[str, str], asked: bool | None
) -> None:
    packet = encap_frame(ipv4_frame(), Tunnel(**end, vni=1, udp_checksum=asked))[1]
    at = checksum_at(packet, end)
    assert (packet[at : at + 2] != b"\0\0") == (end is V6 if asked is None else asked)


@pytest.mark.parametrize("policy", ["verify", "require", "ignore"])
@pytest.mark.parametrize("at", [1, 4, 5, 8, 10, 11, *range(12, 20)])
def test_every_bit_of_the_ipv4_header_is_under_its_checksum(policy: str, at: int) -> None:
    """But those of version, lengths, fragment and protocol, whose own checks may come first."""
    whole = encap_frame(ipv4_frame(tos=2), Tunnel(**V4, vni=1))[1]
    for bit in range(8):
        packet = bytearray(whole)
        packet[at] ^= 1 << bit
        verdict = decap_frame(packet, Rules(udp_checksum=policy, ecn="ignore"), Layer.IP).verdict
        assert verdict == (Verdict.DELIVERED if policy == "ignore" else Verdict.IP_CHECKSUM)


# ECN, DSCP, TTL, DF, flow label

MERGED = {  # RFC 6040 section 4.2: rows inner, columns outer Not-ECT, ECT(1), ECT(0), CE
    0b00: [0b00, 0b00, 0b00, None],
    0b01: [0b01, 0b01, 0b01, 0b11],
    0b10: [0b10, 0b01, 0b10, 0b11],
    0b11: [0b11, 0b11, 0b11, 0b11],
}


@FAMILIES
@pytest.mark.parametrize("make", [ipv4_frame, ipv6_frame])
@pytest.mark.parametrize(("inner", "outer"), [(i, o) for i in range(4) for o in range(4)])
def test_ecn_of_both_headers_merges_as_rfc_6040_has_it(
    end: dict[str, str], make: Any, inner: int, outer: int
) -> None:
    payload = encap_frame(make(0x28 | inner), Tunnel(**end, vni=1), Layer.UDP_PAYLOAD)[1]
    got = decap_frame(payload, layer=Layer.UDP_PAYLOAD, outer_tos=0x48 | outer)
    merged = MERGED[inner][outer]
    if merged is None:
        assert got.verdict == Verdict.ECN
    else:
        assert got.frame == make(0x28 | merged)
    unmarked = decap_frame(payload, Rules(ecn="ignore"), Layer.UDP_PAYLOAD, outer)
    assert unmarked.frame == make(0x28 | inner)


@FAMILIES
@pytest.mark.parametrize("make", [ipv4_frame, ipv6_frame])
@pytest.mark.parametrize(("ecn", "ce"), [("rfc6040", 0b11), ("linux", 0b10)])
@pytest.mark.parametrize(("tos", "dscp"), [(0xB8, 0xB8), ("inherit", 0x28)])
def test_tos_and_ttl_of_the_outer_header(
    end: dict[str, str], make: Any, ecn: str, ce: int, tos: Any, dscp: int
) -> None:
    for inner in range(4):
        tunnel = Tunnel(**end, vni=1, ecn=ecn, tos=tos, ttl="inherit")
        packet = encap_frame(make(0x28 | inner), tunnel)[1]
        outer_tos, ttl = (
            (packet[1], packet[8]) if end is V4 else (packet[0] << 4 & 0xF0 | packet[1] >> 4, packet[7])
        )
        assert (outer_tos, ttl) == (dscp | (ce if inner == 3 else inner), 9)


@pytest.mark.parametrize("df", ["set", "unset", "inherit"])
@pytest.mark.parametrize("inner", [0, 0x4000])
def test_df_and_the_identification(df: str, inner: int) -> None:
    tunnel = Tunnel(**V4, vni=1, df=df)
    made = [encap_frame(ipv4_frame(fragment=inner), tunnel)[1] for _ in range(3)]
    expected = 0x4000 if df == "set" or (df == "inherit" and inner) else 0
    assert [struct.unpack_from("!H", packet, 6)[0] for packet in made] == [expected] * 3
    identifications = [struct.unpack_from("!H", packet, 4)[0] for packet in made]
    assert identifications == ([0, 0, 0] if expected else [0, 1, 2])


def test_the_flow_label_is_the_flows_hash() -> None:
    frame = ipv6_frame()
    packet = encap_frame(frame, Tunnel(**V6, vni=1))[1]
    assert int.from_bytes(packet[1:4], "big") & 0xFFFFF == flow_hash(frame) & 0xFFFFF
    packet = encap_frame(frame, Tunnel(**V6, vni=1, flow_label=0xABCDE))[1]
    assert int.from_bytes(packet[1:4], "big") & 0xFFFFF == 0xABCDE


@pytest.mark.parametrize("make", [ipv4_frame, ipv6_frame])
def test_a_symmetric_hash_is_one_for_both_directions(make: Any) -> None:
    frame = make()
    at, n = (26, 4) if make is ipv4_frame else (22, 16)
    ends, ports = frame[at + n : at + 2 * n] + frame[at : at + n], frame[at + 2 * n : at + 2 * n + 4]
    back = frame[:at] + ends + ports[2:] + ports[:2] + frame[at + 2 * n + 4 :]
    assert flow_hash(frame, symmetric=True) == flow_hash(back, symmetric=True)
    assert flow_hash(frame) != flow_hash(back)
    there, again = (encap_frame(one, Tunnel(**V4, vni=1, symmetric=True))[1] for one in (frame, back))
    assert there[20:22] == again[20:22]


# The VXLAN header


@pytest.mark.parametrize(
    ("word", "header"),
    [
        (0, "0800000000002a00"),
        (7, "8800000700002a00"),
        (0x400007, "8840000700002a00"),  # D: do not learn
        (0x080007, "8808000700002a00"),  # A: the policy was applied
        (0x48FFFF, "8848ffff00002a00"),
    ],
)
def test_group_policy_bits_stand_where_the_draft_and_linux_have_them(word: int, header: str) -> None:
    tunnel = Tunnel(**V4, vni=42, gbp=True)
    payload = encap_frame(bytes(60), tunnel, Layer.UDP_PAYLOAD, gbp=word)[1]
    assert payload[:8].hex() == header
    assert decap_frame(payload, Rules(gbp=True, reserved="strict"), Layer.UDP_PAYLOAD).gbp == word
    assert decap_frame(payload, Rules(), Layer.UDP_PAYLOAD).gbp == 0


@pytest.mark.parametrize(
    ("header", "verdict", "protocol"),
    [
        ("0800000000002a00", Verdict.DELIVERED, 0),
        ("0c00000300002a00", Verdict.DELIVERED, 0),
        ("0c00000100002a00", Verdict.DELIVERED, 4),
        ("0c00000200002a00", Verdict.DELIVERED, 6),
        ("0c00000400002a00", Verdict.GPE_PROTOCOL, 0),  # NSH
        ("0c00000000002a00", Verdict.GPE_PROTOCOL, 0),
        ("1c00000300002a00", Verdict.GPE_VERSION, 0),
        ("2c00000300002a00", Verdict.GPE_VERSION, 0),
        ("0d00000300002a00", Verdict.GPE_OAM, 0),
        ("0400000300002a00", Verdict.NO_VNI_FLAG, 0),
    ],
)
def test_gpe_is_recognised_and_otherwise_refused_under_a_name(
    header: str, verdict: Verdict, protocol: int
) -> None:
    got = decap_frame(bytes.fromhex(header) + bytes(60), Rules(gpe=True), Layer.UDP_PAYLOAD)
    assert (got.verdict, got.protocol) == (verdict, protocol)


@pytest.mark.parametrize("bit", [bit for bit in range(64) if not 32 <= bit < 56 and bit != 4])
def test_every_reserved_bit_is_ignored_or_refused_as_told(bit: int) -> None:
    header = 0x0800000000002A00 | 1 << (63 - bit)
    packet = header.to_bytes(8, "big") + bytes(60)
    assert decap_frame(packet, layer=Layer.UDP_PAYLOAD).verdict == Verdict.DELIVERED
    strict = decap_frame(packet, Rules(reserved="strict"), Layer.UDP_PAYLOAD)
    assert (strict.verdict, strict.vni) == (Verdict.RESERVED_BITS, 42)


# Sizes, ports, round trips


@FAMILIES
@pytest.mark.parametrize("checksum", [False, True])
def test_frames_of_14_bytes_to_the_largest_that_ip_carries(end: dict[str, str], checksum: bool) -> None:
    largest = 65535 - (36 if end is V4 else 16)
    sizes = [*range(14, 1600), 4096, 9001, 32768, largest - 1, largest]
    noise = bytes(range(251)) * 262
    frames = [ETHERNET + b"\x08\0" + noise[: size - 14] for size in sizes]
    batch = PacketBatch.from_frames([*frames, ETHERNET + b"\x08\0" + noise[: largest + 1 - 14]])
    assert encap(batch, Tunnel(**end, vni=0xFFFFFF, udp_checksum=checksum, ethernet=MACS)) == len(frames)
    assert batch.verdict[-1] == Verdict.TOO_BIG
    assert decap(batch, Rules(zero_checksum6="accept")) == len(frames)
    assert batch.to_frames(Verdict.DELIVERED) == frames
    assert set(batch.vni[:-1].tolist()) == {0xFFFFFF}


@pytest.mark.parametrize("src_port", [7, (7, 7), (1, 65535), (49152, 65535), (5000, 5003)])
def test_source_ports_keep_to_their_range_and_use_it(src_port: Any) -> None:
    low, high = src_port if isinstance(src_port, tuple) else (src_port, src_port)
    frames = [ipv4_frame()[:34] + struct.pack("!HHHH", n, 53, 8, 0) for n in range(1000)]
    batch = PacketBatch.from_frames(frames)
    encap(batch, Tunnel(**V4, vni=1, src_port=src_port))
    used = set(batch.source_port.tolist())
    assert low <= min(used) <= max(used) <= high
    assert len(used) > min(high - low + 1, 1000) * 0.9
    assert used == {int.from_bytes(packet[20:22], "big") for packet in batch.to_frames()}


@settings(max_examples=300, deadline=None)
@given(
    st.binary(min_size=14, max_size=200),
    st.sampled_from([V4, V6]),
    st.integers(0, 0xFFFFFF),
    st.sampled_from(Layer),
    st.sampled_from([0, 1, 0x48FFFF]),
)
def test_round_trip(frame: bytes, end: dict[str, str], vni: int, layer: Layer, gbp: int) -> None:
    tunnel = Tunnel(**end, vni=vni, ethernet=MACS, outer_vlan=7, inner_vlan="pass", gbp=True)
    packet = encap_frame(frame, tunnel, layer, gbp)[1]
    got = decap_frame(packet, Rules(inner_vlan="pass", gbp=True, reserved="strict"), layer)
    assert (got.verdict, got.frame, got.vni, got.gbp) == (Verdict.DELIVERED, frame, vni, gbp)


# VLAN tags

TAGS = {
    "none": "",
    "802.1Q": "8100e005",
    "priority": "8100e000",
    "802.1ad": "88a80005",
    "old QinQ": "91000005",
    "QinQ": "88a8000581000006",
}


def tagged(tag: str) -> bytes:
    """The IPv4 frame with tags behind its addresses."""
    return ipv4_frame()[:12] + bytes.fromhex(TAGS[tag]) + ipv4_frame()[12:]


def without_outermost(frame: bytes) -> bytes:
    return frame[:12] + frame[16:]


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("policy", ["drop", "strip", "pass"])
def test_an_inner_tag_is_dropped_stripped_or_passed_both_ways(tag: str, policy: str) -> None:
    frame, plain = tagged(tag), tag == "none"
    through = frame if plain or policy == "pass" else without_outermost(frame)
    verdict, packet = encap_frame(frame, Tunnel(**V4, vni=1, inner_vlan=policy))
    passed = encap_frame(frame, Tunnel(**V4, vni=1, inner_vlan="pass"))[1]
    received = decap_frame(passed, Rules(inner_vlan=policy), Layer.IP)
    if policy == "drop" and not plain:
        assert (verdict, packet, received.verdict) == (Verdict.INNER_VLAN, b"", Verdict.INNER_VLAN)
    else:
        assert (verdict, packet[36:]) == (Verdict.DELIVERED, through)
        assert (received.verdict, received.frame) == (Verdict.DELIVERED, through)


@FAMILIES
@pytest.mark.parametrize("tag", TAGS)
def test_outer_tags_are_passed_over_up_to_two(end: dict[str, str], tag: str) -> None:
    packet = encap_frame(ipv4_frame(), Tunnel(**end, vni=7, ethernet=MACS))[1]
    got = decap_frame(packet[:12] + bytes.fromhex(TAGS[tag]) + packet[12:])
    assert (got.verdict, got.vni, got.frame) == (Verdict.DELIVERED, 7, ipv4_frame())
    three = packet[:12] + bytes.fromhex("8100000188a8000281000003") + packet[12:]
    assert decap_frame(three).verdict == Verdict.NOT_IP


# What stands between the outer IP header and UDP


def with_options(packet: bytes, options: bytes) -> bytes:
    """An IPv4 packet with so many options more, lengths and checksum right."""
    ip = bytearray(packet[:20] + options)
    ip[0] = 0x40 | len(ip) // 4
    ip[2:4] = (len(packet) + len(options)).to_bytes(2, "big")
    ip[10:12] = bytes(2)
    ip[10:12] = wire.internet_checksum(bytes(ip)).to_bytes(2, "big")
    return bytes(ip) + packet[20:]


@pytest.mark.parametrize("n_words", range(1, 11))
def test_outer_ipv4_options_are_walked(n_words: int) -> None:
    packet = encap_frame(ipv4_frame(), Tunnel(**V4, vni=7))[1]
    got = decap_frame(with_options(packet, b"\1" * 4 * n_words), layer=Layer.IP)
    assert (got.verdict, got.vni, got.frame) == (Verdict.DELIVERED, 7, ipv4_frame())


HOP_BY_HOP, DESTINATION, ROUTING, AH, FRAGMENT, NO_NEXT = 0, 60, 43, 51, 44, 59


def with_extensions(packet: bytes, kinds: list[int]) -> bytes:
    """An IPv6 packet with headers of eight bytes, AH of sixteen, in front of its UDP."""
    extensions, following = b"", 17
    for kind in reversed(kinds):
        body = bytes([following, 2, *bytes(14)]) if kind == AH else bytes([following, 0, *bytes(6)])
        extensions, following = body + extensions, kind
    length = len(packet) - 40 + len(extensions)
    return (
        packet[:4] + length.to_bytes(2, "big") + bytes([following]) + packet[7:40] + extensions + packet[40:]
    )


@pytest.mark.parametrize(
    ("kinds", "verdict"),
    [
        ([HOP_BY_HOP], Verdict.DELIVERED),
        ([DESTINATION, ROUTING, DESTINATION], Verdict.DELIVERED),
        ([AH], Verdict.DELIVERED),
        ([FRAGMENT], Verdict.DELIVERED),  # atomic, RFC 6946
        ([HOP_BY_HOP, *[DESTINATION] * 7], Verdict.DELIVERED),
        ([HOP_BY_HOP, *[DESTINATION] * 8], Verdict.NOT_UDP),  # more than anyone sends
        ([NO_NEXT], Verdict.NOT_UDP),
    ],
)
def test_outer_ipv6_extension_headers_are_walked(kinds: list[int], verdict: Verdict) -> None:
    packet = encap_frame(ipv4_frame(), Tunnel(**V6, vni=7))[1]
    got = decap_frame(with_extensions(packet, kinds), layer=Layer.IP)
    assert got.verdict == verdict
    assert verdict != Verdict.DELIVERED or (got.vni, got.frame) == (7, ipv4_frame())
