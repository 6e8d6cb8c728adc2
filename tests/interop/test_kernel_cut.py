"""Segmentation beside the kernel's own: the same frames, byte for byte."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from support.hosts import Lan
from support.offload import ACK, DF, ETH, FIN, PSH, TCP, UDP, partial, parts
from support.peers import require_tool
from support.senders import Sender, with_options

from vxcore._fast.gso import finished

pytestmark = pytest.mark.usefixtures("root")
CUT = Path(__file__).parents[1] / "support" / "kernel_cut.py"
ECE, CWR, URG = 0x40, 0x80, 0x20


def superframes() -> list[tuple[bytes, int]]:
    """Frames and the size of their payloads."""
    cases = []
    payload = bytes(range(251)) * 40
    for version, proto, fragment in product((4, 6), (TCP, UDP), (DF, 0)):
        options = {"fragment": fragment, "ident": 0xFFFC, "sequence": 0xFFFFF000, "tos": 0x2D}
        for flags in (ACK, ACK | FIN | PSH, ACK | CWR | ECE, ACK | URG | CWR | PSH):
            sender = Sender(version, proto, urgent=9, **options)  # type: ignore[arg-type]
            cases.append((sender.send(payload, flags), 1000))
        sender = Sender(version, proto, options=b"\1\1\x08\x0a" + bytes(range(8)), **options)  # type: ignore[arg-type]
        cases += [(sender.send(payload[: 1448 * 3]), 1448), (sender.send(payload[:1001]), 1000)]
        cases += [(sender.send(payload[:100]), 1), (with_options(sender.send(payload)), 1300)]
    return cases


def header_of(frame: bytes, size: int) -> bytes:
    of = parts(frame)
    assert of is not None
    start = ETH + len(of.ip)
    kind = 5 if of.proto == UDP else 1 if of.version == 4 else 4
    if of.proto == TCP and of.l4[13] & CWR:
        kind |= 0x80
    words = (start + len(of.l4), size, start, 16 if of.proto == TCP else 6)
    return bytes((1, kind)) + b"".join(word.to_bytes(2, sys.byteorder) for word in words)


def test_the_kernel_cuts_the_same_pieces() -> None:
    require_tool("ethtool")
    cases = [(partial(frame), header_of(frame, size)) for frame, size in superframes()]
    with Lan(1) as lan:
        line = ["ip", "netns", "exec", lan.hosts[0].namespace, sys.executable, str(CUT)]
        text = json.dumps([(frame.hex(), header.hex()) for frame, header in cases])
        done = subprocess.run(line, check=False, input=text, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for (frame, header), pieces in zip(cases, json.loads(done.stdout), strict=True):
        ours = finished(bytearray(frame), header)
        assert ours == [bytes.fromhex(piece) for piece in pieces], (frame[:80].hex(), header.hex())
