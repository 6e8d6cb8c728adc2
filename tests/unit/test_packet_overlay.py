"""What packet sockets are sent of frames with work left to do: the kernel's part, or all of it done here."""

from __future__ import annotations

import errno
import itertools
import socket
import struct
from collections.abc import Iterator

import pytest
from support import offload, scripted
from support.offload import ACK, ETH, FIN, TCP, TCPV4, TCPV6, UDP, UDP_L4
from support.scripted import Scripted
from support.senders import Sender

from vxcore._fast.packet_overlay import sent
from vxcore.verdict import Verdict

PLAIN = bytes(10)
KINDS = list(itertools.product((4, 6), (TCP, UDP)))


class Wire:
    """Two ends of what keeps frames apart; the sender is a lane's."""

    def __init__(self) -> None:
        self.sender, self.receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in (self.sender, self.receiver):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
            end.setblocking(False)

    def send(self, frames: list[tuple[list[bytes], bytes, int]], **options: bool) -> dict[str, int]:
        buffers = [([bytearray(part) for part in parts], said, n) for parts, said, n in frames]
        counted = sent(buffers, self.sender.fileno(), **options)
        return {Verdict(number).name.lower(): n for number, n in counted.items()}

    def frames(self) -> list[bytes]:
        got = []
        try:
            while True:
                got.append(self.receiver.recv(1 << 17))
        except BlockingIOError:
            return got


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.sender.close()
    made.receiver.close()


def undone(frame: bytes, size: int = 0) -> bytes:
    """The virtio-net header of a frame with a partial checksum; with a size, of a super-frame."""
    of = offload.parts(frame)
    assert of is not None
    start = ETH + len(of.ip)
    kind = UDP_L4 if of.proto == UDP else TCPV4 if of.version == 4 else TCPV6
    words = (kind, start + len(of.l4), size) if size else (0, 0, 0)
    return struct.pack("=BBHHHH", 1, *words, start, 16 if of.proto == TCP else 6)


def superframe(version: int, proto: int) -> bytes:
    payload = bytes(n * 7 % 256 for n in range(10_300))
    return offload.partial(Sender(version, proto).send(payload, ACK | FIN))


@pytest.mark.parametrize(("version", "proto"), KINDS)
def test_a_super_frame_goes_whole_with_its_header(wire: Wire, version: int, proto: int) -> None:
    frame = superframe(version, proto)
    said = undone(frame, 1000)
    assert wire.send([([frame], said, 11)]) == {"delivered": 11}
    assert wire.frames() == [said + frame]


@pytest.mark.parametrize(("version", "proto"), KINDS)
@pytest.mark.parametrize("n_parts", [1, 2, 7])
def test_without_headers_it_is_cut(wire: Wire, version: int, proto: int, n_parts: int) -> None:
    frame = superframe(version, proto)
    starts = [0, *(200 + 1000 * n for n in range(n_parts - 1)), len(frame)]
    parts = [frame[a:b] for a, b in itertools.pairwise(starts)]
    assert wire.send([(parts, undone(frame, 1000), 11)], vnet=False) == {"delivered": 11}
    assert wire.frames() == offload.cut(frame, 1000)


def test_where_the_kernel_does_not_know_udp_runs_these_alone_are_cut(wire: Wire) -> None:
    tcp, udp = superframe(4, TCP), superframe(4, UDP)
    wire.send([([tcp], undone(tcp, 1000), 11), ([udp], undone(udp, 1000), 11)], uso=False)
    assert wire.frames() == [
        undone(tcp, 1000) + tcp,
        *(PLAIN + piece for piece in offload.cut(udp, 1000)),
    ]


@pytest.mark.parametrize(("version", "proto"), KINDS)
def test_a_partial_checksum_is_finished_without_headers(wire: Wire, version: int, proto: int) -> None:
    whole = Sender(version, proto).send(bytes(77))
    frame = offload.partial(whole)
    for parts in ([frame], [frame[:60], frame[60:]]):
        assert wire.send([(parts, undone(frame), 1)], vnet=False) == {"delivered": 1}
        assert wire.frames() == [whole]
    assert wire.send([([frame], undone(frame), 1)]) == {"delivered": 1}
    assert wire.frames() == [undone(frame) + frame]


def test_frames_keep_their_order_whatever_is_to_be_done(wire: Wire) -> None:
    sender = Sender()
    singles = [sender.send(bytes([n % 251]) * 50) for n in range(300)]
    frames = [([frame], PLAIN, 1) for frame in singles]
    wanted = list(singles)
    for at in (299, 200, 100, 3, 0):
        frame = superframe(6, TCP)
        frames.insert(at, ([frame], undone(frame, 5000), 3))
        wanted[at:at] = offload.cut(frame, 5000)
    got = []
    for n in range(0, len(frames), 50):  # the socket pair holds so many
        assert set(wire.send(frames[n : n + 50], vnet=False)) == {"delivered"}
        got += wire.frames()
    assert got == wanted


@pytest.mark.parametrize(
    "said",
    [
        struct.pack("=BBHHHH", 1, 0, 0, 0, 20000, 16),
        struct.pack("=BBHHHH", 1, 0, 0, 0, 34, 20000),
        struct.pack("=BBHHHH", 1, 0, 0, 0, 65535, 65535),
        struct.pack("=BBHHHH", 1, TCPV6, 54, 1000, 34, 16),
        struct.pack("=BBHHHH", 1, UDP_L4, 54, 1000, 34, 16),
        struct.pack("=BBHHHH", 1, TCPV4, 54, 0, 34, 16),
        struct.pack("=BBHHHH", 0, 0x7F, 54, 1000, 34, 16),
    ],
)
def test_what_contradicts_itself_is_counted_and_what_follows_is_sent(wire: Wire, said: bytes) -> None:
    frame, after = superframe(4, TCP), Sender().send(b"after")
    counted = wire.send([([frame], said, 4), ([after], PLAIN, 1)], vnet=False)
    assert counted == {"bad_offload": 4, "delivered": 1}
    assert wire.frames() == [after]


def test_a_full_queue_is_counted(wire: Wire) -> None:
    wire.sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
    frames = [([Sender().send(bytes(1000))], PLAIN, 1)] * 400
    counted = wire.send(frames)
    assert counted["delivered"] + counted["overlay_full"] == 400
    assert len(wire.frames()) == counted["delivered"]


# -- system calls that fail, or take a part -------------------------------------------------------


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scripted]:
    with Scripted(scripted.build(tmp_path_factory.mktemp("syscalls"))) as process:
        yield process


def burst() -> tuple[list[tuple[list[str], str, int]], list[bytes], list[bytes]]:
    """Single frames and super-frames of each kind in turn; what goes out whole, and what of cut ones."""
    frames, whole, cut = [], [], []
    for n in range(30):
        single = Sender(number=1).send(bytes([n]) * 60)
        frames.append(([single.hex()], PLAIN.hex(), 1))
        whole.append(PLAIN + single)
        cut.append(PLAIN + single)
        frame = superframe(*KINDS[n % 4])
        said = undone(frame, 1000)
        frames.append(([frame[:1100].hex(), frame[1100:].hex()], said.hex(), 11))
        whole.append(said + frame)
        cut += [PLAIN + piece for piece in offload.cut(frame, 1000)]
    return frames, whole, cut


FRAMES, WHOLE, CUT = burst()
N_PACKETS = 30 * 12


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [1] * 100,
        [2, 1] * 60,
        [-errno.EINTR, 1] * 100,
        [-errno.EAGAIN, -errno.EAGAIN, 3] * 50,
        [-errno.ENOBUFS, -errno.ENOBUFS, 2] * 50,
        [-errno.EAGAIN, -errno.EINTR, -errno.ENOBUFS, 1] * 90,
    ],
)
def test_what_passes_is_tried_again(calls: Scripted, steps: list[int]) -> None:
    answer = calls.ask(overlay=FRAMES, steps=steps)
    assert [bytes.fromhex(text) for text in answer["messages"]] == WHOLE
    assert answer["drops"] == {"delivered": N_PACKETS}


@pytest.mark.parametrize("error", [errno.EIO, errno.EINVAL, errno.EMSGSIZE])
@pytest.mark.parametrize("steps", [[], [1] * 900, [-errno.EINTR, 0, 0, 0, 0] * 200])
def test_a_kernel_that_cannot_cut_gets_single_frames(calls: Scripted, error: int, steps: list[int]) -> None:
    answer = calls.ask(overlay=FRAMES, refuse=error, steps=steps)
    assert [bytes.fromhex(text) for text in answer["messages"]] == CUT
    assert answer["drops"] == {"delivered": N_PACKETS}


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (errno.ENOBUFS, "overlay_full"),
        (errno.EAGAIN, "overlay_full"),
        (errno.ENETDOWN, "overlay_down"),
        (errno.ENXIO, "overlay_down"),
        (errno.ENODEV, "overlay_down"),
        (errno.EPERM, "overlay_refused"),
    ],
)
def test_what_does_not_pass_is_counted(calls: Scripted, error: int, verdict: str) -> None:
    answer = calls.ask(overlay=FRAMES, steps=[-error] * 5000)
    assert (answer["messages"], answer["drops"]) == ([], {verdict: N_PACKETS})


def test_an_error_concerns_the_first_message_alone(calls: Scripted) -> None:
    answer = calls.ask(overlay=FRAMES, steps=[3, -errno.EPERM, 0])
    assert [bytes.fromhex(text) for text in answer["messages"]] == WHOLE[:3] + WHOLE[4:]
    assert answer["drops"] == {"delivered": N_PACKETS - 11, "overlay_refused": 11}
