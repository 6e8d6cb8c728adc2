"""Every kind of port, peer, mode and family: what hosts send arrives as it was sent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support import sites
from support.offload import ACK, ETH, FIN, PSH, TCP, UDP
from support.peers import require_tool
from support.senders import TWISTS, Sender, fragment_of, with_options
from support.sites import Pair, Sites, send_datagrams, send_stream

from vxcore import flow_hash

pytestmark = pytest.mark.usefixtures("root")
INNER = (4, 6)
# Lengths up to the MTU, in no order; more, which go as fragments; and runs of equal size for USO.
MIXED = [*range(1, 1370, 29), 1, 1372, 700, 700, 700, 0, 2]
FRAGMENTED = [5000, 1500, 9000, 1473, 30000, 2001] * 3
RUNS = [*[1000] * 45, 300, *[1372] * 30, *[10] * 48, 9, *[500] * 25]
OFF = [word for name in ("tx", "tso", "gso", "tx-udp-segmentation") for word in (name, "off")]


@pytest.fixture(scope="module", params=sites.all_pairs(), ids=str)
def pair(request: pytest.FixtureRequest) -> Iterator[Sites]:
    require_tool("ethtool")
    described: Pair = request.param
    with sites.build(described) as built:
        yield built


def test_bulk_and_small_writes_arrive_byte_for_byte(pair: Sites) -> None:
    for family in INNER:
        for one, other in pair.ends():
            send_stream(one, other, family, 6_000_000, 1 << 18)
            send_stream(one, other, family, 60_000, 200)
    assert not any(pair.drops())


def test_datagrams_keep_their_boundaries_and_order(pair: Sites) -> None:
    for family in INNER:
        for one, other in pair.ends():
            send_datagrams(one, other, family, MIXED, uso=False, gro=False)
            send_datagrams(one, other, family, FRAGMENTED, uso=False, gro=False)
            send_datagrams(one, other, family, RUNS, uso=False, gro=True)
            send_datagrams(one, other, family, RUNS, uso=True, gro=False)
            send_datagrams(one, other, family, RUNS, uso=True, gro=True)
    assert not any(pair.drops())


def odd_frames(mtu: int) -> list[bytes]:
    """Frames that no stack would send in this order, or at all."""
    kept = sorted(set(TWISTS) - {"checksum partial", "other MAC", "cut short", "not IP"})
    frames = []
    for version in INNER:
        room = mtu - (40 if version == 4 else 60)
        tcp, udp = Sender(version, TCP, number=1), Sender(version, UDP, number=2)
        tcp.options, room = b"\1\1\x08\x0a" + bytes(range(8)), room - 12
        for n in range(30):
            frames += [tcp.send(bytes([n]) * room), udp.send(bytes([n]) * (room if n % 3 else n + 1))]
        segments = [tcp.send(bytes([n]) * 100) for n in range(12)]  # out of order, repeated, and tiny
        frames += segments[::2] + segments[1::2] + segments[:3] + [tcp.send(b"x") for _ in range(5)]
        for flags in (ACK | PSH, ACK | FIN, ACK | 0x40, ACK | 0x80, ACK | 0x20, 0x02, 0x14, 0):
            frames += [tcp.send(b"y" * 300), tcp.send(b"z" * 300, flags), tcp.send(b"z" * 300)]
        for twist in kept:
            frames += [udp.send(b"a" * 90), TWISTS[twist](udp.send(b"b" * 90)), udp.send(b"c" * 90)]
            frames += [tcp.send(b"a" * 90), TWISTS[twist](tcp.send(b"b" * 90)), tcp.send(b"c" * 90)]
        frames += [
            with_options(fragment_of(udp.send(b"f" * 64))),
            udp.send(b"x" * (mtu - 28 - 20 * (version == 6))),
        ]
    assert max(map(len, frames)) == ETH + mtu
    return [unlabelled(frame) for frame in frames]


def unlabelled(frame: bytes) -> bytes:
    """Without an IPv6 flow label: the kernel would take it, with the first next header, for the flow."""
    if frame[12:15] != b"\x86\xdd\x60":
        return frame
    return frame[:15] + bytes(3) + frame[18:]


def in_flows(frames: list[str]) -> dict[int, list[str]]:
    """By what the underlay may tell apart: a fragment's flow, for one, is not that of its ports."""
    flows: dict[int, list[str]] = {}
    for frame in frames:
        flows.setdefault(flow_hash(bytes.fromhex(frame)), []).append(frame)
    return flows


def test_odd_frames_arrive_as_they_are_and_in_order(pair: Sites) -> None:
    """Between packet sockets in the containers; their veths have no offload, or the sockets would see it."""
    frames = [frame.hex() for frame in odd_frames(pair.both[0].mtu)]
    for site in pair.both:
        site.host.run("ethtool", "-K", "c0", *OFF)
        site.host.run("ethtool", "-K", "vx42", "gro", "off")  # odd frames overtake those that GRO holds
    containers = [site.agents[1] for site in pair.both]
    for one, other in (containers, containers[::-1]):
        assert (one.ask("open_frames", device="eth"), other.ask("open_frames", device="eth")) == ("ok", "ok")
        other.begin("receive_frames", source=frames[0][12:24], n=len(frames))
        assert one.ask("send_frames", frames=frames) == "ok"
        assert in_flows(other.answer()) == in_flows(frames)
    assert not any(pair.drops())


def test_many_flows_are_each_in_order(pair: Sites) -> None:
    for one, other in pair.ends():
        address = other.address(4)
        port = other.ask("listen", kind="udp", host=address)
        other.begin("receive_flows", n_flows=40, n_each=50)
        sent = one.ask("send_flows", host=address, port=port, n_flows=40, n_each=50)
        assert (sent, other.answer()) == ("ok", "ok")
    for vtep in pair.vteps:
        assert all(lane["bursts"] for lane in vtep.counters()["lanes"])


def test_tcp_recovers_from_loss(pair: Sites) -> None:
    """With timestamps and selective acknowledgements, which Linux sends of itself.

    Packets are lost in the switch, for some kinds of ports pass the hosts' own filters by.
    """
    require_tool("nft")
    percent = 5 if pair.pair.mode == "offload" else 2
    drop = f"add rule netdev t {{chain}} udp dport 4789 numgen random mod 100 < {percent} counter drop"
    pair.lan.on_switch("nft", "add table netdev t")
    try:
        for host in pair.lan.hosts:
            hook = f"{{ type filter hook ingress device p{host.number} priority 0; }}"
            pair.lan.on_switch("nft", f"add chain netdev t p{host.number} {hook}")
            pair.lan.on_switch("nft", drop.format(chain=f"p{host.number}"))
        for one, other in pair.ends():
            send_stream(one, other, 4, 1_500_000, 1 << 17)
        assert " packets 0 " not in pair.lan.on_switch("nft", "list table netdev t").stdout
    finally:
        pair.lan.on_switch("nft", "delete table netdev t")
