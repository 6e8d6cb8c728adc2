"""The gateway between VLANs and VNIs, against wire.py and Scapy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.vxlan import VXLAN

from vxcore import PacketBatch, Rules, Tunnel, TunnelSet, Verdict, VlanMap, decap, encap, wire
from vxcore.errors import ConfigError

ETHER = Ether(src="02:00:00:00:00:0a", dst="02:00:00:00:00:0b")
PAIRS = {10: 5010, 20: 0, 4094: 0xFFFFFF, 0: 5000}
ETHERTYPES = st.sampled_from([0x8100, 0x88A8, 0x9100, 0x0800])
vids = st.sampled_from([0, 1, 10, 20, 4094, 4095])
frames = st.builds(
    lambda ethertype, priority, vid, rest: (
        bytes(range(12)) + ethertype.to_bytes(2, "big") + (priority << 13 | vid).to_bytes(2, "big") + rest
    ),
    ETHERTYPES,
    st.integers(0, 7),
    vids,
    st.binary(max_size=40),
) | st.binary(max_size=20)


@settings(max_examples=300, deadline=None)
@given(frames, st.sampled_from([PAIRS, {10: 7}, {0: 9}, {}]))
def test_untag_is_what_wire_says(frame: bytes, pairs: dict[int, int]) -> None:
    batch = PacketBatch.from_frames([frame])
    place = VlanMap(pairs).untag(batch)
    verdict, vni, untagged = wire.untag(frame, wire.VlanSpec(pairs))
    assert (batch.verdict[0], batch.vni[0], batch.to_frames()) == (verdict, vni, [untagged])
    assert verdict != Verdict.DELIVERED or list(pairs.values())[place[0]] == vni


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=40), st.sampled_from([0, 7, 5000, 5010, 0xFFFFFF]), st.sampled_from([PAIRS, {10: 7}])
)
def test_tag_is_what_wire_says(frame: bytes, vni: int, pairs: dict[int, int]) -> None:
    batch = PacketBatch.from_frames([frame])
    batch.vni[0] = vni
    verdict, tagged = wire.tag(frame, vni, wire.VlanSpec(pairs))
    assert VlanMap(pairs).tag(batch) == (verdict == Verdict.DELIVERED)
    assert (batch.verdict[0], batch.to_frames()) == (verdict, [tagged])


def test_a_trunk_through_a_tunnel_per_vlan_and_back() -> None:
    vlans = VlanMap({10: 5010, 20: 5020, 0: 5000})
    tunnels = TunnelSet(
        [
            Tunnel(local="192.0.2.1", remote=f"192.0.2.{9 + n}", vni=vni)
            for n, vni in enumerate(vlans.spec.vnis.values())
        ]
    )
    payload = IP(src="10.0.0.1", dst="10.0.0.2") / UDP() / bytes(30)
    sent = [
        bytes(ETHER / Dot1Q(vlan=10) / payload),
        bytes(ETHER / Dot1Q(vlan=20) / payload),
        bytes(ETHER / payload),
        bytes(ETHER / Dot1Q(vlan=30) / payload),
    ]
    batch = PacketBatch.from_frames(sent)
    assert encap(batch, tunnels, vlans.untag(batch)) == 3
    assert batch.verdict.tolist() == [0, 0, 0, Verdict.UNKNOWN_VLAN]
    packets = [IP(packet) for packet in batch.to_frames(Verdict.DELIVERED)]
    assert [(packet.dst, packet[VXLAN].vni) for packet in packets] == [
        ("192.0.2.9", 5010),
        ("192.0.2.10", 5020),
        ("192.0.2.11", 5000),
    ]
    assert not any(Dot1Q in packet for packet in packets)
    assert decap(batch, layer=wire.Layer.IP) == 3
    assert vlans.tag(batch) == 3
    assert batch.to_frames(Verdict.DELIVERED) == sent[:3]


def test_only_the_outermost_tag_is_the_maps() -> None:
    frame = bytes(ETHER / Dot1Q(vlan=10) / Dot1Q(vlan=99) / IP() / UDP())
    batch = PacketBatch.from_frames([frame])
    VlanMap(PAIRS).untag(batch)
    assert Ether(batch.to_frames()[0])[Dot1Q].vlan == 99


def test_all_vlans_at_once_find_their_way_back() -> None:
    vnis = np.random.default_rng(1).permutation(1 << 24)[:4095].tolist()
    vlans = VlanMap(dict(enumerate(vnis)))
    assert len(vlans) == 4095
    batch = PacketBatch.from_frames([bytes(60)] * 4095)
    batch.vni[:] = vnis
    assert vlans.tag(batch) == 4095
    assert [int.from_bytes(frame[14:16], "big") for frame in batch.to_frames()[1:]] == list(range(1, 4095))
    places = vlans.untag(batch)
    assert places.tolist() == list(range(4095))
    assert batch.vni.tolist() == vnis


def test_what_has_a_verdict_is_passed_over_and_a_wild_slot_is_named() -> None:
    batch = PacketBatch.from_frames([bytes(60)] * 3)
    batch.verdict[0] = Verdict.ECN
    batch.offset[1] = 10**6
    vlans = VlanMap({0: 7})
    vlans.untag(batch)
    assert batch.verdict.tolist() == [Verdict.ECN, Verdict.BAD_SLOT, 0]
    assert batch.vni.tolist() == [0, 0, 7]
    batch.verdict[1] = 0
    assert vlans.tag(batch) == 1
    assert batch.verdict.tolist() == [Verdict.ECN, Verdict.BAD_SLOT, 0]


def test_a_tag_needs_headroom() -> None:
    batch = PacketBatch.from_frames([bytes(60)])
    batch.offset[0], batch.vni[0] = 3, 7
    assert VlanMap({10: 7}).tag(batch) == 0
    assert batch.verdict[0] == Verdict.NO_HEADROOM


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ({4095: 1}, "VLAN 4095 is not allowed; an integer from 0 to 4094"),
        ({"x": 1}, "VLAN 'x' is not allowed"),
        ({10: 1 << 24}, "the VNI of VLAN 10: 16777216 is not allowed; an integer from 0 to 16777215"),
        ({10: 7, 20: 7}, "VNI 7 is given to VLANs 10 and 20; each VNI once"),
    ],
)
def test_a_wrong_map_is_refused(pairs: dict[Any, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VlanMap(pairs)


def test_a_tagged_frame_from_the_tunnel_is_not_tagged_again_unless_let_through() -> None:
    packet = wire.encapsulate(
        bytes(ETHER / Dot1Q(vlan=9) / IP()),
        wire.TunnelSpec(local="192.0.2.1", remote="192.0.2.2", vni=5010, inner_vlan="pass"),  # type: ignore[arg-type]
    )[1]
    batch = PacketBatch.from_frames([packet])
    assert decap(batch, Rules(inner_vlan="drop"), wire.Layer.IP) == 0
    assert VlanMap(PAIRS).tag(batch) == 0
    assert batch.verdict[0] == Verdict.INNER_VLAN
