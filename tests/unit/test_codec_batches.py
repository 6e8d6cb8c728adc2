"""Batches in which every kind of packet stands beside every other, against the readable codec (wire.py).

The codec looks at chunks of packets; here what is common, what is not, what was judged before and what lies
outside its slot come in any order, number and company.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from vxcore import wire
from vxcore._fast.batch import PacketBatch
from vxcore._fast.codec import Rules, Tunnel, TunnelSet, decap, encap
from vxcore.verdict import Verdict

MACS = ("02:00:00:00:00:02", "02:00:00:00:00:01")
ETHER = Ether(src="02:00:00:00:00:0a", dst="02:00:00:00:00:0b")
V4, V6 = {"src": "10.0.0.1", "dst": "10.0.0.2"}, {"src": "fd00::1", "dst": "fd00::2"}
PLAIN = [
    ETHER / IP(**V4) / UDP(sport=7, dport=9) / (b"x" * 22),
    ETHER / IP(**V4, tos=0xB8, ttl=3) / TCP(sport=7, dport=80) / (b"y" * 30),
]
RARE = [
    ETHER / IP(**V4, tos=2) / TCP(sport=7, dport=80),
    ETHER / IP(**V4, tos=3) / UDP(sport=7, dport=9) / (b"x" * 22),
    ETHER / IP(**V4, len=19) / UDP(sport=7, dport=9) / (b"x" * 22),
    ETHER / IP(**V4, len=32) / UDP(sport=7, dport=9) / (b"x" * 22),
    ETHER / IP(**V4, flags="MF") / UDP() / (b"x" * 22),
    ETHER / IP(**V4, frag=3) / (b"x" * 22),
    ETHER / IP(**V4, options=b"\1\1\1\0") / UDP() / (b"x" * 22),
    ETHER / IP(**V4) / ICMP() / (b"x" * 22),
    ETHER / IPv6(**V6) / UDP() / (b"x" * 22),
    ETHER / Dot1Q(vlan=5) / IP(**V4) / UDP(),
    ETHER / ARP(hwsrc=ETHER.src, psrc="10.0.0.1"),
    Ether(src=ETHER.src, dst=ETHER.dst, type=0x8847) / (b"m" * 40),
    Raw(bytes(13)),
    Raw(bytes(14)),
]
FRAMES = [bytes(frame) for frame in PLAIN + RARE]
# Most are plain: whole chunks of them, and chunks with one that is not, are what is to be met.
frames = st.sampled_from(FRAMES[: len(PLAIN)] * 12 + FRAMES)
TUNNELS = [
    Tunnel(local="192.0.2.1", remote="192.0.2.2", vni=1, df="set", ethernet=MACS),
    Tunnel(local="192.0.2.1", remote="192.0.2.3", vni=2, ethernet=MACS, tos=0x20, ttl=9, src_port=(5, 900)),
    Tunnel(local="192.0.2.1", remote="192.0.2.4", vni=3, ethernet=MACS, df="set", inner_vlan="pass"),
    Tunnel(
        local="192.0.2.1", remote="192.0.2.5", vni=0xFFFFFF, ethernet=MACS, udp_checksum=True, df="inherit"
    ),
    Tunnel(local="192.0.2.1", remote="192.0.2.6", vni=4, ethernet=MACS, ttl="inherit", tos="inherit"),
    Tunnel(local="2001:db8::1", remote="2001:db8::2", vni=5, ethernet=MACS),
]
HOSTILE = [(0, 60), (128, 5000), (0xFFFFFFFF, 1), (10**6, 0), (0xFFFFFFC0, 200)]
harm = st.dictionaries(st.integers(0, 69), st.sampled_from(["judged", *HOSTILE]), max_size=2)
layers = st.sampled_from([wire.Layer.ETHERNET, wire.Layer.IP, wire.Layer.UDP_PAYLOAD])


PASSING = wire.DecapRules(zero_checksum6="accept", inner_vlan="pass")


def harmed(packets: list[bytes], harm: dict[int, Any]) -> PacketBatch:
    """A batch of the packets in which some are judged already, and some lie elsewhere."""
    batch = PacketBatch.from_frames(packets)
    for i, what in harm.items():
        if i < len(packets) and what == "judged":
            batch.verdict[i] = Verdict.TOO_BIG
        elif i < len(packets):
            batch.offset[i], batch.length[i] = what
    return batch


def is_df(packet: bytes, layer: wire.Layer) -> bool:
    at = 14 if layer == wire.Layer.ETHERNET else 0
    return bool(struct.unpack_from("!H", packet, at + 6)[0] & 0x4000)


def expected_of_encap(
    packets: list[bytes], picks: list[int], layer: wire.Layer
) -> list[tuple[Verdict, bytes, int]]:
    """Verdict, packet and VNI of each, the packets of a tunnel numbered as they come."""
    numbers = dict.fromkeys(range(len(TUNNELS)), 0)
    expected = []
    for frame, pick in zip(packets, picks, strict=True):
        if pick >= len(TUNNELS):
            expected.append((Verdict.BAD_TUNNEL, b"", 0))
            continue
        spec = TUNNELS[pick].spec
        verdict, packet = wire.encapsulate(frame, spec, layer=layer, ip_id=numbers[pick])
        expected.append((verdict, packet, spec.vni))
        counted = packet and spec.local.version == 4 and layer != wire.Layer.UDP_PAYLOAD
        if counted and not is_df(packet, layer):
            numbers[pick] += 1
    return expected


def check(batch: PacketBatch, given: list[bytes], harm: dict[int, Any], i: int, delivered: bytes) -> None:
    """Packet i, which was not harmed, is what it should be, or what it was."""
    if delivered:
        assert bytes(batch[i]) == delivered
    else:
        assert len(batch[i]) in (len(given[i]), len(given[i]) - 4)  # a stripped tag is gone


@settings(max_examples=300, deadline=None)
@given(st.lists(frames, min_size=1, max_size=70), st.data(), harm, layers, st.booleans())
def test_encap_of_anything_beside_anything(
    given: list[bytes], data: Any, harm: dict[int, Any], layer: wire.Layer, one: bool
) -> None:
    some = st.lists(st.integers(0, len(TUNNELS)), min_size=len(given), max_size=len(given))
    # Fresh ones, for a tunnel's packets are numbered on from call to call.
    fresh = [Tunnel(**told(tunnel)) for tunnel in TUNNELS]
    picks = [data.draw(st.integers(0, len(TUNNELS) - 1))] * len(given) if one else data.draw(some)
    for i in harm:
        picks[i : i + 1] = picks[i : i + 1] and [0]  # DF is set: what is harmed is not numbered
    batch = harmed(given, harm)
    if one and len(set(picks)) == 1:
        done = encap(batch, fresh[picks[0]], layer=layer)
    else:
        done = encap(batch, TunnelSet(fresh), np.array(picks, np.uint32), layer)
    assert done == np.count_nonzero(batch.verdict == 0)
    for i, (verdict, packet, vni) in enumerate(expected_of_encap(given, picks, layer)):
        if i in harm:
            assert batch.verdict[i] in (Verdict.TOO_BIG, Verdict.BAD_SLOT, Verdict.NO_HEADROOM)
            continue
        assert (i, Verdict(batch.verdict[i])) == (i, verdict)
        check(batch, given, harm, i, packet)
        if packet:
            assert batch.vni[i] == vni
            source = wire.decapsulate(packet, PASSING, layer=layer)
            if layer != wire.Layer.UDP_PAYLOAD:
                assert (batch.source_port[i], batch.tos[i]) == (source.source_port, source.tos)


def told(tunnel: Tunnel) -> dict[str, Any]:
    """The arguments that make such a tunnel."""
    return {name: getattr(tunnel.spec, name) for name in tunnel.spec.__dataclass_fields__}


RULES = [
    {},
    {"reserved": "strict", "udp_checksum": "require"},
    {"ports": (8472, 4789), "ecn": "ignore"},
    {"udp_checksum": "ignore", "inner_vlan": "pass"},
    {"gbp": True, "gpe": True, "inner_vlan": "strip", "zero_checksum6": "accept"},
]


def damaged(packet: bytes, at: int, bits: int) -> bytes:
    """The packet with some bits of one byte turned over; none when it is too short."""
    return packet if at >= len(packet) else packet[:at] + bytes([packet[at] ^ bits]) + packet[at + 1 :]


packets = st.builds(
    lambda frame, tunnel, layer, at, bits: damaged(
        wire.encapsulate(frame, tunnel.spec, layer=layer)[1], at, bits
    ),
    frames,
    st.sampled_from(TUNNELS[:1] * 8 + TUNNELS),
    st.just(wire.Layer.ETHERNET),
    st.integers(12, 64),
    st.sampled_from([0] * 20 + [1, 2, 3, 8, 0x10, 0x40, 0x80, 0xFF]),
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(packets, min_size=1, max_size=70),
    harm,
    st.sampled_from([wire.Layer.ETHERNET, wire.Layer.IP]),
    st.sampled_from(RULES),
)
def test_decap_of_anything_beside_anything(
    given: list[bytes], harm: dict[int, Any], layer: wire.Layer, options: dict[str, Any]
) -> None:
    if layer == wire.Layer.IP:
        given = [packet[14:] for packet in given]
    rules = Rules(**options)
    batch = harmed(given, harm)
    before = batch.offset.copy()
    assert decap(batch, rules, layer) == np.count_nonzero(batch.verdict == 0)
    for i, packet in enumerate(given):
        if i in harm:
            assert batch.verdict[i] in (Verdict.TOO_BIG, Verdict.BAD_SLOT) or harm[i] in HOSTILE
            continue
        wanted = wire.decapsulate(packet, rules.spec, layer=layer)
        assert (i, Verdict(batch.verdict[i])) == (i, wanted.verdict)
        if wanted.verdict == Verdict.DELIVERED:
            assert bytes(batch[i]) == wanted.frame
            assert wire.address_from_16(bytes(batch.source[i])) == wanted.source
            told = (batch.vni[i], batch.source_port[i], batch.tos[i], batch.gbp[i], batch.protocol[i])
            assert told == (wanted.vni, wanted.source_port, wanted.tos, wanted.gbp, wanted.protocol)
        else:
            assert batch.offset[i] == before[i]


@pytest.mark.parametrize("n", [15, 16, 17, 32, 33])
@pytest.mark.parametrize("at", [0, 7, 14])
def test_one_that_is_not_common_costs_the_others_nothing(n: int, at: int) -> None:
    for rare in FRAMES[len(PLAIN) :]:
        given = [FRAMES[0]] * n
        given[at] = rare
        batch = PacketBatch.from_frames(given)
        encap(batch, TUNNELS[0])
        rest = [bytes(batch[i]) for i in range(n) if i != at]
        assert set(rest) == {wire.encapsulate(FRAMES[0], TUNNELS[0].spec)[1]}
        assert batch.verdict[at] == wire.encapsulate(rare, TUNNELS[0].spec)[0]
