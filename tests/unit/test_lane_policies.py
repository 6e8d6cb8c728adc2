"""What a lane lets in and what it floods, by the policies of a segment and a remote."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from support import offload, scripted
from support.offload import TCPV4
from support.scripted import VNI, Scripted
from support.senders import Sender

from vxcore import wire

PLAIN = bytes(10)
BROADCAST, MULTICAST, UNKNOWN = range(3)  # places in `rates` and `bursts`
DESTINATIONS = [b"\xff" * 6, b"\x01\0\x5e\0\0\xfb", b"\x02\0\0\0\0\x99"]
ZERO_NET = [(bytes(10) + b"\xff\xff" + bytes(4)).hex(), 96 + 8]  # 0.0.0.0/8: the datagrams' sender
TEN_NET = [(bytes(10) + b"\xff\xff" + bytes((10, 0, 0, 0))).hex(), 96 + 8]


@pytest.fixture(scope="module")
def lane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scripted]:
    with Scripted(scripted.build(tmp_path_factory.mktemp("syscalls"))) as process:
        yield process


def frame(destination: bytes, n: int = 0) -> bytes:
    return destination + bytes.fromhex("020000000007 88b5") + bytes([n]) * 50


def vxlan(inner: bytes, vni: int = VNI) -> str:
    return (b"\x08\0\0\0" + vni.to_bytes(3, "big") + b"\0" + inner).hex()


def floods(lane: Scripted, destination: bytes, n: int, **policy: Any) -> dict[str, Any]:
    frames = [(PLAIN + frame(destination, i)).hex() for i in range(n)]
    return lane.ask(frames=frames, policy=policy)


@pytest.mark.parametrize("kind", [BROADCAST, MULTICAST, UNKNOWN])
def test_each_kind_is_flooded_dropped_or_limited_by_itself(lane: Scripted, kind: int) -> None:
    for drop in (BROADCAST, MULTICAST, UNKNOWN):
        rates: list[int | None] = [None, None, None]
        rates[drop] = 0
        answer = floods(lane, DESTINATIONS[kind], 5, rates=rates)
        assert answer["drops"] == ({"flood_refused": 5} if drop == kind else {})
        assert answer["counters"]["tx_packets"] == (0 if drop == kind else 5)


@pytest.mark.parametrize("kind", [BROADCAST, MULTICAST, UNKNOWN])
def test_a_burst_passes_and_the_rest_is_counted(lane: Scripted, kind: int) -> None:
    rates: list[int | None] = [None, None, None]
    bursts = [1, 1, 1]
    rates[kind], bursts[kind] = 1, 4
    answer = floods(lane, DESTINATIONS[kind], 20, rates=rates, bursts=bursts)
    assert answer["drops"]["rate_limit"] in (16, 15)  # 15 if it takes more than a second
    assert answer["counters"]["tx_packets"] == 20 - answer["drops"]["rate_limit"]


def test_a_rate_that_is_kept_to_drops_nothing(lane: Scripted) -> None:
    answer = floods(lane, DESTINATIONS[UNKNOWN], 60, rates=[1, 1, 1_000_000_000], bursts=[1, 1, 60])
    assert answer["drops"] == {}


def test_known_stations_are_not_limited(lane: Scripted) -> None:
    known = frame(DESTINATIONS[UNKNOWN])
    learned = known[6:12] + known[:6] + known[12:]  # from the other side
    policy = {"rates": [0, 0, 0]}
    first = lane.ask(datagrams=[(vxlan(learned), 0)], policy=dict(policy))
    assert [event for event in first["events"] if event[0] == "learned"] == [["learned", "020000000099"]]


@pytest.mark.parametrize(("burst", "passed"), [(6, 1), (8, 2), (2, 1)])
def test_a_super_frame_counts_as_the_frames_it_is(lane: Scripted, burst: int, passed: int) -> None:
    """Four each; one that is larger than any burst passes when nothing else has."""
    sender = Sender(number=1)
    header = bytes((1, TCPV4)) + struct.pack("<4H", 54, 1000, 34, 16)  # its headers end at 54, TCP is at 34
    frames = [(header + offload.partial(sender.send(bytes(3500)))).hex() for _ in range(3)]
    answer = lane.ask(frames=frames, policy={"rates": [None, None, 1], "bursts": [1, 1, burst]})
    assert answer["drops"] == {"rate_limit": 3 - passed}
    assert answer["counters"]["tx_packets"] == 4 * passed


def test_lanes_share_a_rate(lane: Scripted) -> None:
    frames = [(PLAIN + frame(DESTINATIONS[UNKNOWN], i)).hex() for i in range(20)]
    answer = lane.ask(frames=frames, n_lanes=4, policy={"rates": [None, None, 1], "bursts": [1, 1, 12]})
    assert answer["counters"]["tx_packets"] == 3


# Who is let in


SOURCES: list[tuple[bool, dict[str, Any], str | None]] = [
    (False, {}, None),
    (True, {}, "source_refused"),
    (True, {"any_source": True}, None),
    (True, {"prefixes": [TEN_NET, ZERO_NET]}, None),
    (True, {"prefixes": [TEN_NET]}, "source_refused"),
]


@pytest.mark.parametrize(("stranger", "policy", "refused"), SOURCES)
def test_a_sender_is_let_in_by_name_or_by_policy(
    lane: Scripted, stranger: bool, policy: dict[str, Any], refused: str | None
) -> None:
    inner = frame(DESTINATIONS[BROADCAST])
    answer = lane.ask(datagrams=[(vxlan(inner), 0)] * 3, stranger=stranger, policy=policy)
    assert answer["drops"] == ({refused: 3} if refused else {})
    assert answer["received"] == ([] if refused else [(PLAIN + inner).hex()] * 3)
    told = [["stranger", "020000000007"]] if stranger and not refused else []
    assert [event for event in answer["events"] if event[0] == "stranger"] == told  # once


def test_a_remote_speaks_only_in_the_segments_on_its_list(lane: Scripted) -> None:
    datagrams = [(vxlan(frame(DESTINATIONS[BROADCAST]), vni), 0) for vni in (VNI, VNI + 1, VNI, VNI + 1)]
    answer = lane.ask(datagrams=datagrams, listed=[1], policy={"any_source": True})
    assert answer["drops"] == {"vni_refused": 2}
    assert len(answer["received"]) == 2
    assert lane.ask(datagrams=datagrams, listed=None)["drops"] == {}


def test_a_missed_address_is_told_once_a_second(lane: Scripted) -> None:
    answer = floods(lane, DESTINATIONS[UNKNOWN], 20)
    misses = [event for event in answer["events"] if event[0] == "miss"]
    assert misses[0] == ["miss", "020000000099"]
    assert len(misses) <= 2


# Unknown addresses that are asked for


def learned(number: int) -> str:
    """A frame from the other side that tells where an unknown address is."""
    return vxlan(b"\x02\0\0\0\0\x07" + DESTINATIONS[UNKNOWN] + bytes.fromhex("88b5") + bytes([number]) * 50)


def test_what_is_asked_for_is_told_and_dropped(lane: Scripted) -> None:
    answer = floods(lane, DESTINATIONS[UNKNOWN], 5, hold_ms=0)
    assert answer["drops"] == {"asked": 5}
    assert answer["counters"]["tx_packets"] == 0
    assert ["miss", "020000000099"] in answer["events"]
    assert floods(lane, DESTINATIONS[BROADCAST], 5, hold_ms=0)["drops"] == {}


def test_what_waits_is_sent_in_order_when_the_address_is_learned(lane: Scripted) -> None:
    frames = [frame(DESTINATIONS[UNKNOWN], n) for n in range(20)]
    answer = lane.ask(
        waiting=[(PLAIN + each).hex() for each in frames],
        afterwards=[(learned(1), 0)],
        policy={"hold_ms": 5000},
    )
    assert answer["drops"] == {}
    sent = [message[2] for message in answer["messages"]]
    assert "".join(sent) == "".join(vxlan(each) for each in frames)


def test_what_nobody_answers_for_is_dropped_when_its_time_is_over(lane: Scripted) -> None:
    frames = [(PLAIN + frame(DESTINATIONS[UNKNOWN], n)).hex() for n in range(7)]
    answer = lane.ask(frames=frames, policy={"hold_ms": 20}, until={"asked": 7})
    assert answer["drops"] == {"asked": 7}
    assert answer["messages"] == []


def test_no_more_wait_than_there_is_room_for(lane: Scripted) -> None:
    frames = [(PLAIN + frame(DESTINATIONS[UNKNOWN], n % 256)).hex() for n in range(300)]
    answer = lane.ask(frames=frames, policy={"hold_ms": 10_000})
    assert answer["drops"] == {"asked": 300 - 256}
    answer = lane.ask(frames=frames[:256], afterwards=[(learned(1), 0)], policy={"hold_ms": 10_000})
    assert answer["drops"] == {}
    assert answer["counters"]["tx_packets"] == 256


# Our own packets, that a route has led into the overlay

OURS = {4: IPv4Address("192.0.2.1"), 6: IPv6Address("2001:db8::1")}
OTHERS = {4: IPv4Address("192.0.2.9"), 6: IPv6Address("2001:db8::9")}


def tunnelled(source: IPv4Address | IPv6Address, port: int) -> bytes:
    remote = IPv4Address("192.0.2.2") if source.version == 4 else IPv6Address("2001:db8::2")
    macs = (DESTINATIONS[UNKNOWN], bytes.fromhex("020000000007"))
    spec = wire.TunnelSpec(local=source, remote=remote, vni=VNI, dst_port=port, ethernet=macs)
    return wire.encapsulate(frame(DESTINATIONS[BROADCAST]), spec)[1]


@pytest.mark.parametrize("version", [4, 6])
def test_a_packet_of_our_own_tunnels_is_cut_and_those_of_others_pass(lane: Scripted, version: int) -> None:
    locals_, ours = [each.packed.hex() for each in OURS.values()], [4789, 10800]
    own = [tunnelled(OURS[version], port) for port in ours]
    others = [tunnelled(OTHERS[version], 4789), tunnelled(OURS[version], 4790)]
    frames = [(PLAIN + each).hex() for each in (*own, *others)]
    answer = lane.ask(frames=frames, locals=locals_, ours=ours)
    assert answer["drops"] == {"tunnel_loop": 2}
    assert answer["counters"]["tx_packets"] == 2
    cut = [(PLAIN + each[: 14 + (20 if version == 4 else 40) + 3]).hex() for each in own]
    assert lane.ask(frames=cut, locals=locals_, ours=ours)["drops"] == {}
