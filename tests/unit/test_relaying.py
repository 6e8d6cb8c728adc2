"""What a lane does with frames from one spoke to others: with the preloaded calls, the sender is remote 1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support import offload, scripted
from support.offload import UDP
from support.scripted import VNI, Scripted
from support.senders import Sender

from vxcore._fast.table import PORT, Tables

PLAIN = bytes(10)
THERE, HERE = bytes.fromhex("020000000099"), bytes.fromhex("0200000000aa")


@pytest.fixture(scope="module")
def lane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scripted]:
    with Scripted(scripted.build(tmp_path_factory.mktemp("syscalls"))) as process:
        yield process


def frame(destination: bytes, n: int = 0, length: int = 50) -> bytes:
    return destination + bytes.fromhex("020000000007 88b5") + bytes([n]) * length


def vxlan(inner: bytes) -> str:
    return (b"\x08\0\0\0" + VNI.to_bytes(3, "big") + b"\0" + inner).hex()


def relayed(
    lane: Scripted, *frames: bytes, spokes: tuple[int, ...] = (0, 1), **request: Any
) -> dict[str, Any]:
    """Of frames from remote 1, THERE being at remote 0."""
    fdb = [(int.from_bytes(THERE, "big"), 0)]
    return lane.ask(datagrams=[(vxlan(each), 0) for each in frames], fdb=fdb, spokes=spokes, **request)


def sent(answer: dict[str, Any]) -> str:
    return "".join(message[2] for message in answer["messages"])


def test_what_is_for_another_spoke_goes_there_alone(lane: Scripted) -> None:
    frames = [frame(THERE, n) for n in range(9)]
    answer = relayed(lane, *frames)
    assert sent(answer) == "".join(map(vxlan, frames))
    assert answer["received"] == []
    assert answer["counters"] == {
        "rx_packets": 9,
        "tx_packets": 9,
        "rx_bytes": 9 * len(frames[0]),
        "tx_bytes": 9 * len(frames[0]),
    }


@pytest.mark.parametrize("spokes", [(), (0,), (1,)])
def test_between_others_nothing_is_relayed(lane: Scripted, spokes: tuple[int, ...]) -> None:
    frames = [frame(THERE), frame(b"\xff" * 6)]
    answer = relayed(lane, *frames, spokes=spokes)
    assert answer["messages"] == []
    assert answer["received"] == [(PLAIN + each).hex() for each in frames]


@pytest.mark.parametrize("destination", [b"\xff" * 6, b"\x01\0\x5e\0\0\xfb", HERE])
def test_what_is_for_more_than_one_goes_to_hosts_here_and_to_the_other_spokes(
    lane: Scripted, destination: bytes
) -> None:
    frames = [frame(destination, n) for n in range(5)]
    answer = relayed(lane, *frames)
    assert answer["received"] == [(PLAIN + each).hex() for each in frames]
    assert sent(answer) == "".join(map(vxlan, frames))


def test_each_of_those_that_came_joined_is_relayed(lane: Scripted) -> None:
    frames = [frame(THERE, n, 500) for n in range(8)]
    joined = "".join(map(vxlan, frames))
    answer = lane.ask(
        datagrams=[(joined, len(joined) // 2 // 8)], fdb=[(int.from_bytes(THERE, "big"), 0)], spokes=[0, 1]
    )
    assert sent(answer) == joined
    assert answer["received"] == []


def test_one_that_came_joined_with_one_for_a_host_here_spoils_neither(lane: Scripted) -> None:
    sender = Sender(4, UDP)
    local = [sender.send(bytes([n]) * 400) for n in range(4)]
    frames = [each for n in range(4) for each in (local[n], THERE + local[n][6:])]
    joined = "".join(map(vxlan, frames))
    fdb = [(int.from_bytes(THERE, "big"), 0), (int.from_bytes(local[0][:6], "big"), PORT)]
    answer = lane.ask(
        datagrams=[(joined, len(joined) // 2 // 8)], fdb=fdb, spokes=[0, 1], join_udp=False, superframes=False
    )
    assert sent(answer) == "".join(vxlan(THERE + each[6:]) for each in local)
    assert answer["received"] == [(PLAIN + each).hex() for each in local]


def test_a_checksum_that_its_sender_left_undone_is_finished(lane: Scripted) -> None:
    whole = Sender(4, UDP).send(b"x" * 300)
    whole = THERE + whole[6:]
    answer = relayed(lane, offload.partial(whole))
    assert sent(answer) == vxlan(whole)


def test_a_rate_holds_what_is_relayed_and_hosts_here_get_all(lane: Scripted) -> None:
    frames = [frame(b"\xff" * 6, n) for n in range(20)]
    answer = relayed(lane, *frames, policy={"rates": [1, None, None], "bursts": [4, 1, 1]})
    assert answer["drops"]["rate_limit"] >= 15
    assert answer["counters"]["tx_packets"] == 20 - answer["drops"]["rate_limit"]
    assert len(answer["received"]) == 20


def test_what_is_asked_for_is_not_relayed(lane: Scripted) -> None:
    answer = relayed(lane, frame(HERE), policy={"hold_ms": 1000})
    assert answer["drops"] == {"asked": 1}
    assert answer["messages"] == []
    assert answer["received"] == [(PLAIN + frame(HERE)).hex()]


def test_what_is_for_who_is_behind_our_own_port_is_not_relayed(lane: Scripted) -> None:
    first = [(PLAIN + bytes.fromhex("020000000007") + HERE + bytes.fromhex("88b5") + bytes(50)).hex()]
    answer = lane.ask(frames=first, spokes=[0, 1], afterwards=[(vxlan(frame(HERE)), 0)])
    assert answer["received"] == [(PLAIN + frame(HERE)).hex()]
    assert len(answer["messages"]) == 1  # the first alone
    assert ["learned", HERE.hex()] in answer["events"]


def test_segments_know_whether_some_of_their_flood_set_are_spokes() -> None:
    tables = Tables(4, 4, 8)
    name = bytes(16)
    for n in range(3):
        tables.add_remote(bytes(10) + b"\xff\xff" + bytes((192, 0, 2, n)), name)
    tables.mark_spoke(1, True)
    assert tables.remotes()["spoke"].tolist() == [False, True, False]
    with pytest.raises(ValueError, match="there is no remote 7"):
        tables.mark_spoke(7, True)
