"""Super-frames, lying headers and damaged frames against pages that must not be touched.

Place in the house: run by tests/unit/test_hostile_offload.py as a process of its own, since a touched page is
SIGSEGV. ``python -m support.guarded_offload CASE`` prints how many frames passed; CASE ``overread`` reads
one byte too many on purpose, to prove that the page is there.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import random
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress

from support.offload import ACK, ETH, PSH, TCP, UDP, partial
from support.senders import TWISTS, Sender
from vxcore import flow_hash
from vxcore._fast.gro import joined
from vxcore._fast.gso import finished
from vxcore._fast.packet_overlay import sent
from vxcore.verdict import Verdict

DELIVERED, BAD_OFFLOAD = Verdict.DELIVERED, Verdict.BAD_OFFLOAD
PAGE = mmap.PAGESIZE
ROOM = 4 * PAGE
LIBC = ctypes.CDLL(None, use_errno=True)
BYTES = (0, 1, 4, 5, 6, 17, 0x2C, 0x45, 0x4F, 0x50, 0xF0, 0x7F, 0x80, 0xFF)
WORDS = (0, 1, 13, 14, 34, 54, 100, 1448, 32767, 65534, 65535)


class Guarded:
    """Memory between two pages that cannot be touched."""

    def __init__(self) -> None:
        self.map = mmap.mmap(-1, ROOM + 2 * PAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        for at in (0, PAGE + ROOM):
            if LIBC.mprotect(ctypes.c_void_p(start + at), ctypes.c_size_t(PAGE), 0):
                raise OSError(ctypes.get_errno(), "mprotect")

    def views(self, frame: bytes) -> Iterator[memoryview]:
        """The frame, as it begins just behind the lower page, and as it ends just before the upper one."""
        for at in (PAGE, PAGE + ROOM - len(frame)):
            view = memoryview(self.map)[at : at + len(frame)]
            view[:] = frame
            yield view


def frames() -> list[bytes]:
    """Of every kind that segmentation and coalescing look at, with all that may be odd about one."""
    made = []
    for version, proto in itertools.product((4, 6), (TCP, UDP)):
        for options in (b"", b"\1\1\x08\x0a" + bytes(8), b"\1" * 40):
            plain = Sender(version, proto, options=options).send(bytes(range(100)), ACK | PSH)
            made += [twist(plain) for twist in TWISTS.values()]
    routing = bytes((UDP, 2, 4, 1)) + bytes(20)
    made.append(Sender(6, UDP, extensions=routing, extension=43).send(bytes(100)))
    return made


def damaged(frame: bytes, dice: random.Random) -> bytes:
    """Cut somewhere, behind the Ethernet header, and up to three bytes of the headers changed."""
    changed = bytearray(frame if dice.randrange(2) else frame[: dice.randrange(ETH, len(frame) + 1)])
    for _ in range(dice.randrange(4)):
        changed[dice.randrange(min(80, len(changed)))] = dice.choice((*BYTES, dice.randrange(256)))
    return bytes(changed)


def header(frame: bytes, dice: random.Random) -> bytes:
    """A virtio-net header, of which nothing may be true."""
    words = [dice.choice((*WORDS, dice.randrange(len(frame) + 2))) for _ in range(4)]
    return struct.pack(
        "=BBHHHH", dice.randrange(4), dice.choice((0, 1, 3, 4, 5, 0x81, 0x84, 0x21, 0xFF)), *words
    )


def all_finished(guarded: Guarded) -> int:
    n_frames, dice = 0, random.Random(1)
    for _ in range(150):
        for frame in frames():
            for view in guarded.views(damaged(frame, dice)):
                finished(view, header(frame, dice))
                n_frames += 1
    return n_frames


def all_joined(guarded: Guarded) -> int:
    """Alone at both pages, and as the second of a run, whose first frame is in order."""
    n_frames, dice, others = 0, random.Random(2), frames()
    for _ in range(150):
        for frame in others:
            first = dice.choice((frame, partial(Sender().send(bytes(100)))))
            for view in guarded.views(damaged(frame, dice)):
                joined([view], mtu=dice.choice((68, 110, 1450)))
                joined([first, view, first])
                n_frames += 1
    return n_frames


def all_sent(guarded: Guarded) -> int:
    """By packet sockets without virtio-net headers: in one part, and in two that are put together."""
    n_frames, dice = 0, random.Random(3)
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for end in (sender, receiver):
        end.setblocking(False)
    for _ in range(75):
        for frame in frames():
            for view in guarded.views(damaged(frame, dice)):
                cut = dice.randrange(1, len(view))
                said = header(frame, dice)
                counted = sent(
                    [([view], said, 1), ([view[:cut], view[cut:]], said, 1)], sender.fileno(), vnet=False
                )
                assert set(counted) <= {DELIVERED, BAD_OFFLOAD}, counted
                n_frames += 2
                drain(receiver)
    return n_frames


def drain(sock: socket.socket) -> None:
    with suppress(BlockingIOError):
        while sock.recv(1 << 17):
            pass


def overread(guarded: Guarded) -> int:
    """One byte more than there is below the upper page: this call does not return."""
    *_, view = guarded.views(frames()[0])
    start = ctypes.addressof(ctypes.c_char.from_buffer(view))
    return flow_hash((ctypes.c_char * 14).from_address(start + len(view) - 13))


CASES = {"finished": all_finished, "joined": all_joined, "sent": all_sent, "overread": overread}

if __name__ == "__main__":
    print(CASES[sys.argv[1]](Guarded()))
