"""Capture files by name: opened, decompressed, and read into batches.

Place in the house: above the compiled reader, which knows only bytes; known by the commands that
work on captures.
"""

from __future__ import annotations

import gzip
import io
import os
import sys
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import BinaryIO, cast

from vxcore._fast.batch import PacketBatch
from vxcore._fast.pcap import Reader
from vxcore.errors import CaptureError, UnsupportedError

_GZIP_MAGIC = b"\x1f\x8b"  # RFC 1952
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # RFC 8878


def open_capture(path: str | os.PathLike[str], stack: ExitStack) -> Reader:
    """A Reader of a pcap or pcapng file, gzipped or not; ``-`` is standard input. `stack` closes it.

    Raises OSError, CaptureError, and UnsupportedError for a compression that cannot be undone.
    """
    name = os.fspath(path)
    file = stack.enter_context(nullcontext(sys.stdin.buffer) if name == "-" else _open(name))
    try:
        return Reader(_decompressed(file, stack))
    except CaptureError as error:
        raise CaptureError(f"{name}: {error}") from None


def _open(name: str) -> BinaryIO:
    return Path(name).open("rb")


def _decompressed(file: BinaryIO, stack: ExitStack) -> BinaryIO:
    start = cast("io.BufferedReader", file).peek(4)[:4]
    if start.startswith(_GZIP_MAGIC):
        return cast("BinaryIO", stack.enter_context(gzip.GzipFile(fileobj=file)))
    if start == _ZSTD_MAGIC:
        return _zstd(file, stack)
    return file


def _zstd(file: BinaryIO, stack: ExitStack) -> BinaryIO:
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]  # Python 3.14
    except ImportError:
        raise UnsupportedError("zstd needs Python 3.14; use `zstd -dc FILE |` and read -") from None
    return cast("BinaryIO", stack.enter_context(zstd.ZstdFile(file)))


def read_pcap(path: str | os.PathLike[str], limit: int | None = None, headroom: int = 128) -> PacketBatch:
    """A batch that holds the packets of a capture file, at most the first `limit`, with headroom.

    Raises OSError, and CaptureError when the file is no capture, holds no packet, or is damaged
    within the packets that were asked for.
    """
    frames: list[bytes] = []
    with ExitStack() as stack:
        reader = open_capture(path, stack)
        while (limit is None or len(frames) < limit) and reader.read():
            frames += reader.batch.to_frames()
        if reader.problem is not None and (limit is None or len(frames) < limit):
            raise CaptureError(f"{os.fspath(path)}: {reader.problem}")
    if not frames:
        raise CaptureError(f"{os.fspath(path)}: no packets")
    return PacketBatch.from_frames(frames[:limit], headroom)
