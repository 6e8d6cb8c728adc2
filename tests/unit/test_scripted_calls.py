"""The lane when system calls fail, take a part, or bring what no honest peer would send."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import offload, scripted
from support.offload import ETH, TCP, TCPV4, UDP, UDP_L4
from support.scripted import VNI, Scripted
from support.senders import Sender

PLAIN = bytes(10)


def vxlan(frame: bytes, vni: int = VNI) -> bytes:
    return b"\x08\0\0\0" + vni.to_bytes(3, "big") + b"\0" + frame


def vnet(kind: int, size: int, frame: bytes) -> bytes:
    of = offload.parts(frame)
    assert of is not None
    start = ETH + len(of.ip)
    words = (start + len(of.l4), size, start, 16 if of.proto == TCP else 6)
    return bytes((1, kind)) + b"".join(word.to_bytes(2, "little") for word in words)


def superframe(sender: Sender, payload: bytes, size: int = 1000) -> bytes:
    """As a TAP would hand it over, its virtio-net header in front."""
    frame = offload.partial(sender.send(payload))
    return vnet(TCPV4 if sender.proto == TCP else UDP_L4, size, frame) + frame


@pytest.fixture(scope="module")
def lane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scripted]:
    with Scripted(scripted.build(tmp_path_factory.mktemp("syscalls"))) as process:
        yield process


def burst() -> tuple[list[bytes], list[bytes]]:
    """Frames from hosts: single ones and super-frames of three flows in turn; and what is to be sent."""
    flows = [Sender(number=1), Sender(number=2, proto=UDP), Sender(number=3)]
    frames, wanted = [], []
    for n in range(8):
        for sender in flows:
            frames.append(superframe(sender, bytes([n]) * 3500))
            single = sender.send(bytes([n]) * 100)
            frames.append(PLAIN + single)
            wanted += [*offload.cut(frames[-2][10:], 1000), single]
    return frames, [vxlan(frame) for frame in wanted]


FRAMES, WANTED = burst()
HEX = [frame.hex() for frame in FRAMES]
N_BYTES = sum(len(packet) - 8 for packet in WANTED)
NOTHING = dict.fromkeys(("rx_packets", "rx_bytes", "tx_packets", "tx_bytes"), 0)
SENT = {**NOTHING, "tx_packets": len(WANTED), "tx_bytes": N_BYTES}  # to a remote


def packets(answer: dict[str, Any]) -> list[bytes]:
    """What went out, the runs cut as the kernel cuts them."""
    out = []
    for _, size, text in answer["messages"]:
        data = bytes.fromhex(text)
        out += [data[at : at + (size or len(data))] for at in range(0, len(data), size or len(data))]
    return out


def by_flow(sent: list[bytes]) -> dict[bytes, list[bytes]]:
    flows: dict[bytes, list[bytes]] = {}
    for packet in sent:
        flows.setdefault(packet[8 + 26 : 8 + 38], []).append(packet)
    return flows


def test_runs_go_out_as_few_messages(lane: Scripted) -> None:
    answer = lane.ask(frames=HEX)
    assert by_flow(packets(answer)) == by_flow(WANTED)
    assert [size for _, size, _ in answer["messages"]].count(0) == 24
    assert len(answer["messages"]) == 48
    assert (answer["drops"], answer["gso_error"]) == ({}, 0)
    assert answer["counters"]["tx_packets"] == len(WANTED)
    assert answer["counters"]["tx_bytes"] == N_BYTES


def singles(sizes: list[int], ports: int = 1) -> tuple[list[str], list[bytes]]:
    """Small datagrams of flows in turn, as a TAP hands them over; and what is to be sent."""
    flows = [Sender(number=1 + n, proto=UDP) for n in range(ports)]
    frames = [flows[n % ports].send(bytes([n % 256]) * size) for n, size in enumerate(sizes)]
    return [(PLAIN + frame).hex() for frame in frames], [vxlan(frame) for frame in frames]


def test_single_frames_of_one_size_go_out_as_one_run(lane: Scripted) -> None:
    frames, wanted = singles([100] * 60 + [40, 100, 100, 200])
    answer = lane.ask(waiting=frames)
    size = len(wanted[0])
    assert [(step, len(text) // 2) for _, step, text in answer["messages"]] == [
        (size, 60 * size + len(wanted[60])),  # a shorter one may be the last
        (size, 2 * size),
        (0, len(wanted[-1])),
    ]
    assert packets(answer) == wanted
    assert answer["counters"]["tx_packets"] == len(wanted)
    assert answer["counters"]["tx_bytes"] == sum(len(packet) - 8 for packet in wanted)


def test_a_run_of_single_frames_has_at_most_63(lane: Scripted) -> None:
    frames, wanted = singles([10] * 150)
    answer = lane.ask(waiting=frames)
    assert packets(answer) == wanted
    assert max(len(text) // 2 // (size or 1) for _, size, text in answer["messages"]) == 63


@pytest.mark.parametrize("error", [errno.EIO, errno.EINVAL])
def test_a_refused_run_of_single_frames_goes_out_singly(lane: Scripted, error: int) -> None:
    frames, wanted = singles([100] * 50)
    answer = lane.ask(waiting=frames, refuse=error)
    assert packets(answer) == wanted
    assert (answer["drops"], answer["gso_error"]) == ({}, error)


@pytest.mark.parametrize("error", [errno.EMSGSIZE, errno.EINVAL])  # since Linux 6.14, and before
def test_of_a_run_that_is_too_long_for_the_way_what_fits_is_sent(lane: Scripted, error: int) -> None:
    frames, wanted = singles([900] * 5 + [100])
    answer = lane.ask(waiting=frames, refuse=error, longest=700)
    assert packets(answer) == wanted[-1:]
    assert (answer["drops"], answer["gso_error"]) == ({"too_big": 5}, 0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([10, 10, 10, 200, 900]), min_size=1, max_size=150),
    st.integers(1, 5),
    st.lists(st.sampled_from([0, 1, 2, -errno.EINTR, -errno.EAGAIN, -errno.ENOBUFS]), max_size=20),
)
def test_single_frames_of_any_sizes_arrive_in_order(
    lane: Scripted, sizes: list[int], ports: int, steps: list[int]
) -> None:
    frames, wanted = singles(sizes, ports)
    answer = lane.ask(waiting=frames, steps=[taken for step in steps for taken in (step, 1)])
    assert by_flow(packets(answer)) == by_flow(wanted)
    assert answer["counters"]["tx_packets"] == len(wanted)


@pytest.mark.parametrize(
    "steps",
    [
        [1] * 100,
        [2, 1] * 60,
        [-errno.EINTR, 1] * 100,
        [-errno.EINTR] * 50,
        [-errno.EAGAIN, 3] * 50,
        [-errno.ENOBUFS, -errno.ENOBUFS, 2] * 50,
        [-errno.EAGAIN, -errno.EINTR, -errno.ENOBUFS, 1] * 90,
    ],
)
@pytest.mark.parametrize("gso", [True, False])
def test_what_passes_is_tried_again(lane: Scripted, steps: list[int], gso: bool) -> None:
    answer = lane.ask(frames=HEX, steps=steps, gso=gso)
    assert by_flow(packets(answer)) == by_flow(WANTED)
    assert answer["drops"] == {}
    assert answer["remotes"] == [SENT, NOTHING]


@pytest.mark.parametrize("error", [errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM])
def test_what_does_not_pass_is_counted_and_the_lane_goes_on(lane: Scripted, error: int) -> None:
    answer = lane.ask(frames=HEX, steps=[-error] * 5000)
    assert answer["drops"] == {"underlay_full": len(WANTED)}
    assert answer["messages"] == []
    assert answer["calls"] < 48 * 6
    assert answer["remotes"] == [NOTHING, NOTHING]


@pytest.mark.parametrize("error", [errno.EIO, errno.EINVAL])
@pytest.mark.parametrize("steps", [[], [1] * 500, [-errno.EINTR, -errno.ENOBUFS, 0, 0, 0, 0] * 50])
def test_a_kernel_that_cannot_cut_gets_single_packets(lane: Scripted, error: int, steps: list[int]) -> None:
    answer = lane.ask(frames=HEX, refuse=error, steps=steps)
    assert by_flow(packets(answer)) == by_flow(WANTED)
    assert {size for _, size, _ in answer["messages"]} == {0}
    assert (answer["drops"], answer["gso_error"]) == ({}, error)
    assert answer["counters"]["tx_packets"] == len(WANTED)
    assert answer["remotes"] == [SENT, NOTHING]


def test_once_refused_runs_are_not_tried_again(lane: Scripted) -> None:
    """In the burst after: a first one of a single frame has its own calls."""
    sender = Sender()
    first = superframe(sender, bytes(3000))
    answer = lane.ask(frames=[first.hex()], refuse=errno.EIO)
    assert answer["calls"] == 1 + 3
    many = [superframe(sender, bytes(3000)).hex() for _ in range(100)]
    answer = lane.ask(frames=many, refuse=errno.EIO)
    assert len(answer["messages"]) == 300
    assert answer["calls"] < 300


def test_a_run_too_long_for_the_way_does_not_turn_runs_off(lane: Scripted) -> None:
    """Linux before 6.14 says EINVAL to it, and the last of the pieces may fit where no other does."""
    long, short = Sender(number=1), Sender(number=2)
    frames = [superframe(long, bytes(3100), 1448), superframe(short, bytes(3000), 500)]
    answer = lane.ask(frames=[frame.hex() for frame in frames], refuse=errno.EINVAL, longest=700)
    assert answer["drops"] == {"too_big": 2}
    assert answer["gso_error"] == 0
    last = vxlan(offload.cut(frames[0][10:], 1448)[-1])
    assert by_flow(packets(answer)) == by_flow([last, *map(vxlan, offload.cut(frames[1][10:], 500))])
    assert sorted(size for _, size, _ in answer["messages"]) == [0, 8 + ETH + 40 + 500]


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (errno.EMSGSIZE, "too_big"),
        (errno.EPERM, "underlay_refused"),
        (errno.ENETUNREACH, "underlay_refused"),
        (errno.EHOSTUNREACH, "underlay_refused"),
    ],
)
def test_an_error_concerns_the_first_message_alone(lane: Scripted, error: int, verdict: str) -> None:
    answer = lane.ask(frames=HEX, steps=[1, -error, 0])
    assert list(answer["drops"]) == [verdict]
    n_lost = answer["drops"][verdict]
    assert n_lost in (1, 4)  # a single packet, or a run
    sent = packets(answer)
    assert len(sent) == len(WANTED) - n_lost
    assert set(sent) < set(WANTED)
    assert answer["counters"]["tx_packets"] == len(sent)


passing = [-errno.EINTR, -errno.EAGAIN, -errno.ENOBUFS]
refusing = [-errno.EIO, -errno.EINVAL, -errno.EMSGSIZE, -errno.EPERM]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, 1, 2, 3, *passing, *refusing]), max_size=120),
    st.sampled_from([0, errno.EIO]),
)
def test_whatever_calls_return_nothing_is_sent_twice_or_out_of_order(
    lane: Scripted, steps: list[int], refuse: int
) -> None:
    answer = lane.ask(frames=HEX, steps=steps, refuse=refuse)
    sent = packets(answer)
    for key, packets_of_flow in by_flow(sent).items():
        left = iter(by_flow(WANTED)[key])
        assert all(packet in left for packet in packets_of_flow)
    assert len(sent) + sum(answer["drops"].values()) == len(WANTED)
    assert answer["counters"]["tx_packets"] == len(sent)
    assert answer["counters"]["tx_bytes"] == sum(len(packet) - 8 for packet in sent)


# -- what hosts and peers may send --------------------------------------------------------------------


def test_what_a_host_says_falsely_is_counted_and_what_follows_is_sent(lane: Scripted) -> None:
    frame = Sender().send(bytes(3000))
    lies = [
        vnet(UDP_L4, 1000, frame),
        vnet(4, 1000, frame),
        vnet(3, 1000, frame),
        vnet(TCPV4, 0, frame),
        vnet(TCPV4, 65535, frame),
        b"\x01\0" + b"\0\0\0\0\xff\xff\0\0",
        b"\x01\0" + b"\0\0\0\0\x22\0\xff\xff",
    ]
    good = PLAIN + Sender(number=2).send(b"good")
    answer = lane.ask(frames=[raw.hex() for lie in lies for raw in (lie + frame, good)])
    assert answer["drops"] == {"bad_offload": len(lies)}
    assert packets(answer) == [vxlan(good[10:])] * len(lies)


@pytest.mark.parametrize("n_bytes", [1, 9, 10, 23])
def test_a_short_read_from_a_tap_is_counted(lane: Scripted, n_bytes: int) -> None:
    answer = lane.ask(frames=[bytes(n_bytes).hex()] * 3)
    assert (answer["drops"], answer["messages"]) == ({"inner_too_short": 3}, [])


def received(answer: dict[str, Any]) -> list[bytes]:
    """What hosts got, as a network without offloads would carry it."""
    out = []
    for text in answer["received"]:
        raw = bytes.fromhex(text)
        words = [int.from_bytes(raw[at : at + 2], "little") for at in range(2, 10, 2)]
        names = ("hdr_len", "gso_size", "csum_start", "csum_offset")
        out += offload.expanded(
            raw[10:], {"flags": raw[0], "gso_type": raw[1], **dict(zip(names, words, strict=True))}
        )
    return out


def run_of(sender: Sender, n: int = 20) -> list[bytes]:
    return [sender.send(bytes([i]) * 500) for i in range(n)]


def test_datagrams_that_came_joined_reach_the_host_joined(lane: Scripted) -> None:
    for proto in (TCP, UDP):
        frames = run_of(Sender(proto=proto))
        data = b"".join(map(vxlan, frames))
        answer = lane.ask(datagrams=[(data.hex(), len(vxlan(frames[0])))])
        assert received(answer) == frames
        assert len(answer["received"]) == 1
        assert answer["counters"]["rx_packets"] == 20
        carried = {**NOTHING, "rx_packets": 20, "rx_bytes": sum(map(len, frames))}
        assert answer["remotes"] == [NOTHING, carried]


def test_what_comes_from_nobody_that_is_known_is_no_remotes(lane: Scripted) -> None:
    frame = vxlan(Sender().send(b"1"))
    answer = lane.ask(datagrams=[(frame.hex(), 0)], stranger=True, policy={"any_source": True})
    assert answer["counters"]["rx_packets"] == 1
    assert answer["remotes"] == [NOTHING, NOTHING]


@pytest.mark.parametrize("options", [{}, {"join_udp": False}, {"superframes": False}])
@pytest.mark.parametrize("size", [1, 10, 22, 100, 1400])
@pytest.mark.parametrize("version", [4, 6])
def test_a_udp_super_frame_in_one_packet_is_not_taken_for_joined_packets(
    lane: Scripted, options: dict[str, bool], size: int, version: int
) -> None:
    """Or VXLAN headers are looked for in what an application sent.

    A kernel peer on this machine sends such, and recvmmsg tells the size of the inner segments.
    """
    trap = vxlan(Sender(number=9).send(b"trap"), VNI + 1)
    sender = Sender(version, UDP)
    before = sender.send(bytes(90))
    frame = sender.send((bytes(size) + trap.ljust(size, b"\0")) * 10)
    after = sender.send(bytes(90))
    giant = (vxlan(offload.partial(frame)).hex(), size)
    one, other = ((vxlan(single).hex(), 0) for single in (before, after))
    answer = lane.ask(datagrams=[one, giant, other], **options)
    assert received(answer) == [before, *offload.cut(frame, size), after]
    assert answer["drops"] == {}


@pytest.mark.parametrize(
    ("data", "step", "drops"),
    [
        (b"", 0, {"truncated": 1}),
        (b"\x08", 0, {"truncated": 1}),
        (vxlan(bytes(13)), 0, {"inner_too_short": 1}),
        (vxlan(bytes(60)) * 3, 0xFFFFFFFF, {}),
        (vxlan(bytes(60)) * 3, 1, {"truncated": 204}),
        (vxlan(bytes(60)) * 3, 68, {}),
        (vxlan(bytes(60)) * 3 + b"\0", 68, {"truncated": 1}),
        (vxlan(bytes(60)) + bytes(20), 68, {"no_vni_flag": 1}),
        (vxlan(bytes(60)) + vxlan(bytes(60), 7), 68, {"unknown_vni": 1}),
    ],
)
def test_each_of_joined_packets_has_its_verdict(
    lane: Scripted, data: bytes, step: int, drops: dict[str, int]
) -> None:
    answer = lane.ask(datagrams=[(data.hex(), step)])
    assert answer["drops"] == drops


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4),
            st.integers(0, 600),
            st.sampled_from([0, 1, 7, 22, 100, 550, 562]),
        ),
        max_size=8,
    )
)
def test_damaged_datagrams_end_in_a_verdict_each(lane: Scripted, shapes: list[Any]) -> None:
    kinds = [run_of(Sender(version, proto), 3) for version in (4, 6) for proto in (TCP, UDP)]
    datagrams, n_packets = [], 0
    for kind, damage, cut, step in shapes:
        data = bytearray(b"".join(map(vxlan, kinds[kind])))
        for at, value in damage:
            data[at] = value
        del data[len(data) - cut :]
        datagrams.append((data.hex(), step))
        n_packets += -(-len(data) // step) if step else 1
    answer = lane.ask(datagrams=datagrams)
    # What is refused only when it is cut was accepted before; a super-frame is one packet, whatever the step.
    drops = {**answer["drops"]}
    drops.pop("bad_offload", None)
    n_verdicts = answer["counters"]["rx_packets"] + sum(drops.values())
    assert len(datagrams) <= n_verdicts <= n_packets
