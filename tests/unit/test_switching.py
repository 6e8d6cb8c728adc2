"""A segment with several overlay ports: what goes between them, what leaves, what comes; and loops.

The lane is a scripted one: its ports are socket pairs, of which the test has the other ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support import offload, scripted
from support.offload import TCPV4
from support.scripted import VNI, Scripted
from support.senders import Sender

PLAIN = bytes(10)
A, B, C = (bytes.fromhex(f"02000000000{n}") for n in "abc")
GROUP, ALL = b"\x01\0\x5e\0\0\xfb", b"\xff" * 6
UNDERLAY = -1


@pytest.fixture(scope="module")
def lane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scripted]:
    with Scripted(scripted.build(tmp_path_factory.mktemp("syscalls"))) as process:
        yield process


def frame(destination: bytes, source: bytes, n: int = 0) -> bytes:
    return destination + source + b"\x88\xb5" + bytes([n]) * 50


def play(lane: Scripted, *steps: tuple[int, bytes], n_ports: int = 3, **request: Any) -> dict[str, Any]:
    """Send frames, one after the other, each by a port or from the underlay."""
    raw = [(port, (PLAIN if port != UNDERLAY else b"") + each) for port, each in steps]
    return lane.ask(steps=[], switched=[(port, each.hex()) for port, each in raw], n_ports=n_ports, **request)


def vxlan(inner: bytes) -> bytes:
    return b"\x08\0\0\0" + VNI.to_bytes(3, "big") + b"\0" + inner


def got(answer: dict[str, Any]) -> list[list[bytes]]:
    """The frames that each port was sent."""
    return [[bytes.fromhex(each)[len(PLAIN) :] for each in port] for port in answer["ports"]]


def sent(answer: dict[str, Any]) -> list[bytes]:
    """The frames that left by the underlay."""
    return [bytes.fromhex(text)[8:] for _, _, text in answer["messages"]]


@pytest.mark.parametrize("destination", [ALL, GROUP, B])
def test_what_is_for_many_or_nobody_known_goes_everywhere_but_back(
    lane: Scripted, destination: bytes
) -> None:
    given = frame(destination, A)
    answer = play(lane, (0, given))
    assert got(answer) == [[], [given], [given]]
    assert sent(answer) == [given]
    assert answer["drops"] == {}


def test_what_is_for_a_host_that_was_heard_goes_to_its_port_alone(lane: Scripted) -> None:
    hello, answer_, self_ = frame(ALL, A), frame(A, B), frame(A, C)
    answer = play(lane, (0, hello), (1, answer_), (0, self_), (UNDERLAY, vxlan(frame(B, C))))
    assert got(answer) == [[answer_], [hello, frame(B, C)], [hello]]
    assert sent(answer) == [hello]
    assert answer["drops"] == {"same_port": 1}  # C has moved to A's port, who has heard it there
    learned = {mac: kind for kind, mac in answer["events"] if kind in ("learned", "moved")}
    assert learned == {A.hex(): "learned", B.hex(): "learned", C.hex(): "moved"}


def test_from_the_underlay_to_whom_nobody_knows_it_goes_to_all_ports(lane: Scripted) -> None:
    for destination in (ALL, B):
        given = frame(destination, C)
        answer = play(lane, (UNDERLAY, vxlan(given)))
        assert got(answer) == [[given]] * 3
        assert sent(answer) == []


def test_a_host_behind_a_remote_is_sent_to_there_and_nowhere_else(lane: Scripted) -> None:
    answer = play(lane, (UNDERLAY, vxlan(frame(A, C))), (1, frame(C, B)))
    assert got(answer) == [[frame(A, C)]] * 3
    assert len(answer["messages"]) == 1


def test_what_the_segment_does_not_flood_stays_where_it_came_from(lane: Scripted) -> None:
    answer = play(lane, (0, frame(ALL, A)), policy={"rates": [0, None, None]})
    assert got(answer) == [[], [], []]
    assert answer["drops"] == {"flood_refused": 1}


def test_without_a_remote_hosts_still_reach_each_other(lane: Scripted) -> None:
    answer = play(lane, (0, frame(ALL, A)), (1, frame(A, B)), flood=[])
    assert got(answer) == [[frame(A, B)], [frame(ALL, A)], [frame(ALL, A)]]
    assert answer["drops"] == {}


def superframe(destination: bytes) -> tuple[bytes, bytes]:
    """A TCP super-frame of four frames with its virtio-net header."""
    header = bytes((1, TCPV4)) + (54).to_bytes(2, "little") + (1000).to_bytes(2, "little")
    header += (34).to_bytes(2, "little") + (16).to_bytes(2, "little")
    return header, offload.partial(Sender(macs=destination + A).send(bytes(3500)))


@pytest.mark.parametrize("destination", [B, ALL])
def test_a_super_frame_stays_one_where_the_port_takes_it_and_is_cut_elsewhere(
    lane: Scripted, destination: bytes
) -> None:
    """Port 2 takes none; what it and the underlay get says nothing else than what port 1 gets whole."""
    header, whole = superframe(destination)
    answer = lane.ask(switched=[(0, (header + whole).hex())], n_ports=3, plain_ports=[2])
    one, two = answer["ports"][1], answer["ports"][2]
    assert one == [(header + whole).hex()]
    pieces = [bytes.fromhex(text) for text in two]
    assert [piece[:10] for piece in pieces] == [PLAIN] * 4
    cut = offload.cut(whole, 1000)
    assert [piece[10:] for piece in pieces] == cut
    together = b"".join(bytes.fromhex(text) for _, _, text in answer["messages"])
    assert together == b"".join(vxlan(piece) for piece in cut)


def test_a_partial_checksum_is_finished_for_who_cannot(lane: Scripted) -> None:
    header = bytes((1, 0)) + bytes(4) + (34).to_bytes(2, "little") + (16).to_bytes(2, "little")
    right = Sender(macs=ALL + A).send(b"x" * 100)
    answer = lane.ask(switched=[(0, (header + offload.partial(right)).hex())], n_ports=3, plain_ports=[2])
    assert answer["ports"][1] == [(header + offload.partial(right)).hex()]
    assert answer["ports"][2] == [(PLAIN + right).hex()]
    assert sent(answer) == [right]


# Addresses that are here and there by turns


def bounce(n: int, port: int = 0) -> list[tuple[int, bytes]]:
    return [
        step for i in range(n) for step in ((port, frame(ALL, A, i)), (UNDERLAY, vxlan(frame(ALL, A, i))))
    ]


@pytest.mark.parametrize("n_ports", [1, 2])
def test_a_loop_is_cut_after_so_many_moves(lane: Scripted, n_ports: int) -> None:
    """Frames to more than one host come by our port and from the remote, by turns, 40 of them each way."""
    answer = play(lane, *bounce(40), n_ports=n_ports)
    assert answer["drops"]["loop"] > 50
    assert len(answer["messages"]) <= 3 + 20  # ten in a second, and it may take two of them
    assert len(answer["ports"][0]) <= 3
    assert ["loop", A.hex()] in answer["events"]
    assert [kind for kind, _ in answer["events"]].count("loop") == 1
    assert answer["fdb"] == [[A.hex(), -1, 0, "frozen"]]


def test_other_hosts_do_not_notice(lane: Scripted) -> None:
    steps = [*bounce(20), (0, frame(ALL, B)), (UNDERLAY, vxlan(frame(B, C))), (0, frame(C, B))]
    answer = play(lane, *steps, n_ports=1)
    assert sent(answer)[-2:] == [frame(ALL, B), frame(C, B)]
    assert got(answer)[0][-1] == frame(B, C)


def test_a_host_that_moves_here_once_is_found_here(lane: Scripted) -> None:
    """It says so to all; before, and elsewhere, it was behind a remote."""
    steps = [(UNDERLAY, vxlan(frame(ALL, A))), (0, frame(ALL, A)), (0, frame(A, B))]
    answer = play(lane, *steps, n_ports=1)
    assert sent(answer) == [frame(ALL, A)]
    assert answer["drops"] == {"same_port": 1}
    assert answer["fdb"] == [[A.hex(), -1, 0, "learned"]]


def test_between_two_ports_here_a_loop_is_cut_too(lane: Scripted) -> None:
    steps = [step for i in range(40) for step in ((0, frame(ALL, A, i)), (1, frame(ALL, A, i)))]
    answer = play(lane, *steps, n_ports=2)
    assert answer["drops"]["loop"] > 50
    assert sum(map(len, answer["ports"])) <= 5 + 20


def test_without_damping_nothing_is_held(lane: Scripted) -> None:
    answer = play(lane, *bounce(20), n_ports=1, max_moves=0)
    assert answer["drops"] == {}
    assert len(answer["messages"]) == len(answer["ports"][0]) == 20
