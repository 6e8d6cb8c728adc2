"""The sending loop over sockets that need no privileges: what goes out, at what pace, and what is refused."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator

import pytest

from vxcore import PacketBatch, Tunnel, wire
from vxcore._fast.generator import Transmitter
from vxcore.gen import Checker, Plan, received


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connected sender and a receiver with room for a thousand datagrams, over loopback."""
    with socket.socket(type=socket.SOCK_DGRAM) as sender, socket.socket(type=socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        receiver.setblocking(False)
        sender.connect(receiver.getsockname())
        yield sender, receiver


def arrived(sock: socket.socket) -> list[bytes]:
    frames = []
    try:
        while True:
            frames.append(sock.recv(10_000))
    except BlockingIOError:
        return frames


def without_time(frame: bytes) -> bytes:
    return frame[:40] + frame[42:58] + frame[64:]


def test_what_goes_out_are_the_plans_frames_in_order(ends: tuple[socket.socket, socket.socket]) -> None:
    plan = Plan(macs=3, flows=2, size="imix", run=1)
    transmitter = Transmitter(plan.generator(), ends[0].fileno())
    transmitter.run(count=100)
    frames = arrived(ends[1])
    batch, checker = PacketBatch(100), Checker()
    plan.generator().fill(batch)
    assert [without_time(frame) for frame in frames] == [without_time(frame) for frame in batch.to_frames()]
    assert all(checker.take_frame(frame) for frame in frames)
    assert received(checker).early == 0
    assert (transmitter.sent, transmitter.refused, transmitter.error) == (100, 0, 0)
    assert transmitter.sent_bytes == sum(map(len, frames))


@pytest.mark.parametrize(("kind", "front", "extra"), [(1, 0, 0), (4, 42, 42)])
def test_packets_are_whole_or_what_a_udp_socket_takes(
    ends: tuple[socket.socket, socket.socket], kind: int, front: int, extra: int
) -> None:
    ethernet = ("02:00:00:00:00:02", "02:00:00:00:00:01")
    tunnel = Tunnel(local="192.0.2.1", remote="192.0.2.2", vni=0, ethernet=ethernet)
    generator = Plan(vnis="42,43").generator([tunnel])
    transmitter = Transmitter(generator, ends[0].fileno(), kind)
    transmitter.run(count=10)
    packets = arrived(ends[1])
    layer = wire.Layer.UDP_PAYLOAD if front else wire.Layer.ETHERNET
    assert [wire.decapsulate(packet, layer=layer).vni for packet in packets] == [42, 43] * 5
    assert {len(packet) for packet in packets} == {114 - front}
    assert transmitter.sent_bytes == 10 * 114 == sum(map(len, packets)) + 10 * extra


def test_what_the_socket_refuses_is_counted_and_passed_over() -> None:
    full, _nobody_reads = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with full, _nobody_reads:
        full.setblocking(False)
        transmitter = Transmitter(Plan().generator(), full.fileno())
        transmitter.run(count=2000)
        assert 0 < transmitter.sent < 2000
        assert transmitter.sent + transmitter.refused == 2000
        assert transmitter.error == 0


def test_a_socket_that_is_gone_ends_it() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one:
        other.close()
        transmitter = Transmitter(Plan().generator(), one.fileno())
        transmitter.run(count=100)
        assert transmitter.sent == 0
        assert transmitter.refused < 100, "it does not try them all"
        assert transmitter.error in (errno.EPIPE, errno.ENOTCONN, errno.ECONNRESET)


@pytest.mark.parametrize(("rate", "bits", "most"), [(2000.0, False, 2000.0), (1e6, True, 1e6 / 8 / 64)])
def test_the_pace_is_kept_within_a_burst(
    ends: tuple[socket.socket, socket.socket], rate: float, bits: bool, most: float
) -> None:
    transmitter = Transmitter(Plan().generator(), ends[0].fileno(), rate=rate, bits=bits, burst=1)
    transmitter.run(seconds=0.2)
    seconds = (transmitter.ended_ns - transmitter.started_ns) / 1e9
    assert seconds >= 0.2
    assert 0 < transmitter.sent <= most * seconds + 1


def test_who_was_held_up_does_not_catch_up_on_all_of_it(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """A rate that no machine reaches: the debt stays a tenth of a second's, and the run comes to its end."""
    transmitter = Transmitter(Plan().generator(), ends[0].fileno(), rate=1e12)
    transmitter.run(count=1000)
    assert transmitter.sent + transmitter.refused == 1000


def test_stop_ends_a_run_from_another_thread(ends: tuple[socket.socket, socket.socket]) -> None:
    transmitter = Transmitter(Plan().generator(), ends[0].fileno(), rate=1000.0)
    thread = threading.Thread(target=transmitter.run)
    thread.start()
    while not transmitter.sent:
        thread.join(0.01)
    transmitter.stop()
    thread.join(60)
    assert not thread.is_alive()
    sent = transmitter.sent
    transmitter.run(count=5)
    assert transmitter.sent == sent, "it cannot begin again"


def test_what_is_not_possible_is_refused() -> None:
    generator = Plan().generator()
    with pytest.raises(ValueError, match="no tunnels"):
        Transmitter(generator, 0, 1)
    for wrong in ({"rate": -1.0}, {"rate": float("nan")}, {"burst": 65}, {"kind": 7}):
        with pytest.raises(ValueError, match=r"not possible|no tunnels"):
            Transmitter(generator, 0, **wrong)  # type: ignore[arg-type]
