"""Capture files by name: opened, decompressed, and read into batches.

Place in the house: above the compiled reader, which knows only bytes. The commands that work on
captures are modules here (decap, encap, inspect), above the steps they share: source, strip, sink,
progress.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from vxcore._fast.batch import PacketBatch
from vxcore.capture.source import open_capture
from vxcore.errors import CaptureError


def read_pcap(path: str | os.PathLike[str], limit: int | None = None, headroom: int = 128) -> PacketBatch:
    """A batch that holds the packets of a capture file, at most the first `limit`, with headroom.

    Raises OSError, and CaptureError when the file is no capture, holds no packet, or is damaged
    within the packets that were asked for.
    """
    frames: list[bytes] = []
    with ExitStack() as stack:
        capture = open_capture(path, stack)
        while (limit is None or len(frames) < limit) and capture.reader.read():
            frames += capture.reader.batch.to_frames()
        if capture.problem is not None and (limit is None or len(frames) < limit):
            raise CaptureError(f"{os.fspath(path)}: {capture.problem}")
    if not frames:
        raise CaptureError(f"{os.fspath(path)}: no packets")
    return PacketBatch.from_frames(frames[:limit], headroom)
