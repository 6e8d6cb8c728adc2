"""The compiled codec against the readable one (wire.py), on whatever Hypothesis thinks of."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from vxcore import wire
from vxcore._fast.batch import PacketBatch
from vxcore._fast.codec import Rules, Tunnel, TunnelSet, decap, decap_frame, encap, encap_frame
from vxcore.verdict import Verdict

V4 = {"local": "192.0.2.1", "remote": "192.0.2.2"}
V6 = {"local": "2001:db8::1", "remote": "2001:db8::2"}
ETHER = Ether(src="02:00:00:00:00:0a", dst="02:00:00:00:00:0b")
ARP_FRAME = ARP(hwsrc=ETHER.src, psrc="10.0.0.1", pdst="10.0.0.2")
MACS = ("02:00:00:00:00:02", "02:00:00:00:00:01")

frames = st.one_of(
    st.binary(min_size=0, max_size=100),
    st.builds(
        lambda tags, ip, l4, payload: bytes(build(tags, ip, l4, payload)),
        st.integers(0, 3),
        st.sampled_from(
            [
                IP(src="10.0.0.1", dst="10.0.0.2", tos=3),
                IP(src="10.0.0.9", dst="10.0.0.2", tos=0x2D, flags="DF", ttl=3),
                IP(src="10.0.0.9", dst="10.0.0.2", flags="MF"),
                IPv6(src="fd00::1", dst="fd00::2", tc=2),
                IPv6(src="fd00::3", dst="fd00::2", tc=0x2C, hlim=1)
                / IPv6ExtHdrDestOpt()
                / IPv6ExtHdrHopByHop(),
                IPv6(src="fd00::3", dst="fd00::2") / IPv6ExtHdrFragment(m=1),
                ARP_FRAME,
            ]
        ),
        st.sampled_from([TCP(sport=1, dport=2), UDP(sport=3, dport=4), ICMP(), Raw(b"")]),
        st.binary(max_size=64),
    ),
)
tunnel_options = st.fixed_dictionaries(
    {},
    optional={
        "dst_port": st.sampled_from([4789, 8472, 1]),
        "src_port": st.sampled_from([(49152, 65535), (1, 65535), (5, 6), 7]),
        "ttl": st.sampled_from([1, 64, 255, "inherit"]),
        "tos": st.sampled_from([0, 0x20, 0xFC, "inherit"]),
        "df": st.sampled_from(["set", "unset", "inherit"]),
        "udp_checksum": st.sampled_from([None, True, False]),
        "ecn": st.sampled_from(["rfc6040", "linux"]),
        "flow_label": st.sampled_from(["hash", 0, 0xFFFFF]),
        "ethernet": st.sampled_from([None, MACS]),
        "inner_vlan": st.sampled_from(["drop", "strip", "pass"]),
        "gbp": st.booleans(),
        "symmetric": st.booleans(),
    },
)
rule_options = st.fixed_dictionaries(
    {},
    optional={
        "ports": st.sampled_from([(4789,), (4789, 8472), (1,)]),
        "reserved": st.sampled_from(["ignore", "strict"]),
        "udp_checksum": st.sampled_from(["verify", "ignore", "require"]),
        "zero_checksum6": st.sampled_from(["drop", "accept"]),
        "ecn": st.sampled_from(["rfc6040", "ignore"]),
        "inner_vlan": st.sampled_from(["drop", "strip", "pass"]),
        "gbp": st.booleans(),
        "gpe": st.booleans(),
        "truncated": st.sampled_from(["drop", "deliver"]),
    },
)
ends = st.sampled_from([V4, V6])
vnis = st.sampled_from([0, 1, 42, 0xABCDEF, 0xFFFFFF])
gbps = st.sampled_from([0, 1, 0xFFFF, 0x400001, 0x480000])


def build(tags: int, ip: Packet, l4: Packet, payload: bytes) -> Packet:
    frame: Packet = ETHER
    for tag in range(tags):
        frame = frame / Dot1Q(vlan=tag)
    return frame / ip if isinstance(ip, ARP) else frame / ip / l4 / payload


@settings(max_examples=600, deadline=None)
@given(frames, ends, vnis, tunnel_options, gbps, st.sampled_from([None, *wire.Layer]))
def test_encap_is_what_wire_says(
    frame: bytes, end: dict[str, str], vni: int, options: dict[str, Any], gbp: int, layer: wire.Layer | None
) -> None:
    if layer == wire.Layer.ETHERNET:
        options = {**options, "ethernet": MACS}
    tunnel = Tunnel(**end, vni=vni, **options)
    assert encap_frame(frame, tunnel, layer, gbp) == wire.encapsulate(
        frame, tunnel.spec, layer=layer, gbp=gbp
    )


@settings(max_examples=1000, deadline=None)
@given(
    frames,
    ends,
    vnis,
    tunnel_options,
    rule_options,
    gbps,
    st.lists(st.tuples(st.integers(0, 90), st.integers(1, 255)), max_size=3),
    st.integers(0, 40),
)
def test_decap_is_what_wire_says_of_packets_with_damage(
    frame: bytes,
    end: dict[str, str],
    vni: int,
    options: dict[str, Any],
    rules: dict[str, Any],
    gbp: int,
    damage: list[tuple[int, int]],
    cut: int,
) -> None:
    spec = wire.TunnelSpec(**end, vni=vni, **{**options, "inner_vlan": "pass"})  # type: ignore[arg-type]
    packet = bytearray(wire.encapsulate(frame.ljust(14, b"\0"), spec, gbp=gbp)[1])
    for at, flipped in damage:
        packet[at % len(packet)] ^= flipped
    whole = bytes(packet[: len(packet) - cut] if cut % 4 == 0 else packet)
    layer = wire.Layer.ETHERNET if spec.ethernet else wire.Layer.IP
    assert decap_frame(whole, Rules(**rules), layer) == wire.decapsulate(
        whole, wire.DecapRules(**rules), layer=layer
    )


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80), rule_options, st.integers(0, 255), st.sampled_from(wire.Layer))
def test_decap_of_noise_is_what_wire_says(
    noise: bytes, rules: dict[str, Any], tos: int, layer: wire.Layer
) -> None:
    expected = wire.decapsulate(noise, wire.DecapRules(**rules), layer=layer, outer_tos=tos)
    if layer == wire.Layer.UDP_PAYLOAD:
        assert decap_frame(noise, Rules(**rules), layer, tos) == expected
    else:
        assert decap_frame(noise, Rules(**rules), layer) == expected


@pytest.mark.parametrize("end", [V4, V6], ids=["v4", "v6"])
@pytest.mark.parametrize("checksum", [False, True])
def test_every_truncation_and_every_length(end: dict[str, str], checksum: bool) -> None:
    tunnel = Tunnel(**end, vni=7, df="set", udp_checksum=checksum, ethernet=MACS)
    for n_bytes in (14, 15, 60, 61, 1500, 9001, 65000):
        frame = bytes(range(256)) * 255
        verdict, packet = encap_frame(frame[:n_bytes], tunnel)
        assert (verdict, packet) == wire.encapsulate(frame[:n_bytes], tunnel.spec)
    packet = encap_frame(frame[:40], tunnel)[1]
    rules = {"zero_checksum6": "accept"}
    for length in range(len(packet)):
        cut = decap_frame(packet[:length], Rules(**rules))
        assert cut == wire.decapsulate(packet[:length], wire.DecapRules(**rules))
        assert cut.verdict != Verdict.DELIVERED


@pytest.mark.parametrize("end", [V4, V6], ids=["v4", "v6"])
@pytest.mark.parametrize("checksum", [False, True])
def test_what_a_snap_length_left_is_delivered_on_request(end: dict[str, str], checksum: bool) -> None:
    frame = bytes(range(100))
    tunnel = Tunnel(**end, vni=7, udp_checksum=checksum, ethernet=MACS)
    packet = encap_frame(frame, tunnel)[1]
    header_len = len(packet) - len(frame)
    options = {"zero_checksum6": "accept", "truncated": "deliver"}
    for length in range(len(packet)):
        cut = decap_frame(packet[:length], Rules(**options))
        assert cut == wire.decapsulate(packet[:length], wire.DecapRules(**options))
        assert cut.frame == (packet[header_len:length] if length >= header_len + 14 else b"")
        assert (cut.verdict == Verdict.DELIVERED) == bool(cut.frame)


@pytest.mark.parametrize("bit", [bit for bit in range(64) if bit // 8 not in (4, 5, 6)])
@pytest.mark.parametrize(
    "rules", [{}, {"reserved": "strict"}, {"reserved": "strict", "gbp": True}, {"gpe": True}]
)
def test_every_bit_that_is_not_the_vni(bit: int, rules: dict[str, Any]) -> None:
    header = struct.pack("!II", 0x08000000, 42 << 8)
    flipped = (int.from_bytes(header, "big") ^ 1 << (63 - bit)).to_bytes(8, "big")
    packet = flipped + bytes(60)
    assert decap_frame(packet, Rules(**rules), wire.Layer.UDP_PAYLOAD) == wire.decapsulate(
        packet, wire.DecapRules(**rules), layer=wire.Layer.UDP_PAYLOAD
    )


def test_mixed_tunnels_take_each_their_own() -> None:
    tunnels = [Tunnel(**(V4 if n % 2 else V6), vni=n, ethernet=MACS) for n in range(100)]
    frame = bytes(ETHER / IP() / UDP() / (b"x" * 30))
    batch = PacketBatch.from_frames([frame] * 300)
    index = np.arange(300, dtype=np.uint32) % 100
    index[7] = 100
    assert encap(batch, TunnelSet(tunnels), index) == 299
    assert batch.verdict[7] == Verdict.BAD_TUNNEL
    batch.verdict[:] = 0
    assert decap(batch) == 299
    assert np.delete(batch.vni, 7).tolist() == np.delete(index, 7).tolist()
    assert set(batch.to_frames(Verdict.DELIVERED)) == {frame}


def test_what_has_a_verdict_is_passed_over() -> None:
    batch = PacketBatch.from_frames([bytes(60)] * 3)
    batch.verdict[1] = Verdict.TOO_BIG
    assert encap(batch, Tunnel(**V4, vni=1)) == 2
    assert batch.length.tolist() == [96, 60, 96]
    assert batch.verdict.tolist() == [0, Verdict.TOO_BIG, 0]


@pytest.mark.parametrize(("offset", "length"), [(0, 60), (128, 5000), (0xFFFFFFFF, 1), (10**6, 0)])
def test_a_packet_outside_its_slot_is_not_touched(offset: int, length: int) -> None:
    batch = PacketBatch.from_frames([bytes(60)] * 2)
    batch.offset[1], batch.length[1] = offset, length
    wanted = Verdict.NO_HEADROOM if offset == 0 else Verdict.BAD_SLOT
    if offset == 0:
        batch.offset[1], batch.length[1] = 192, 60  # the slot's own start: no headroom at all
    assert encap(batch, Tunnel(**V4, vni=1)) == 1
    assert batch.verdict[1] == wanted


def test_headers_of_many_flows_spread_over_the_port_range() -> None:
    flows = [
        bytes(ETHER / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=n, dport=53)) for n in range(1, 2049)
    ]
    batch = PacketBatch.from_frames(flows)
    assert encap(batch, Tunnel(**V4, vni=1)) == len(flows)
    assert len(set(batch.source_port.tolist())) > 1850
    assert batch.source_port.min() >= 49152


def test_metadata_of_a_delivered_packet() -> None:
    packet = encap_frame(bytes(60), Tunnel(**V4, vni=0xABCDEF, tos=0x20, gbp=True), gbp=0x480007)[1]
    batch = PacketBatch.from_frames([packet])
    assert decap(batch, Rules(gbp=True), wire.Layer.IP) == 1
    assert batch.vni[0] == 0xABCDEF
    assert batch.source[0].tolist() == [*[0] * 10, 0xFF, 0xFF, 192, 0, 2, 1]
    assert (batch.tos[0], batch.gbp[0]) == (0x20, 0x480007)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b, t: encap(b, "no tunnel"), "a Tunnel or a TunnelSet is needed"),
        (lambda b, t: encap(b, TunnelSet([t])), "needs an index"),
        (lambda b, t: encap(b, TunnelSet([t]), np.zeros(5, np.uint32)), "index has 5 elements, the batch 1"),
        (lambda b, t: encap(b, t, layer=wire.Layer.ETHERNET), "no ethernet addresses"),
        (lambda b, t: decap(b, layer=3), "none of ETHERNET"),
    ],
)
def test_wrong_calls_are_refused_before_anything_is_touched(call: Any, message: str) -> None:
    batch = PacketBatch.from_frames([bytes(60)])
    with pytest.raises((TypeError, ValueError), match=message):
        call(batch, Tunnel(**V4, vni=1))
    assert batch.to_frames() == [bytes(60)]
