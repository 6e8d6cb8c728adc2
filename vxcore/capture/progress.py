"""How far a long file has been read, in one line on a terminal.

Place in the house: above source, under the commands on captures. Nothing is shown where nobody
looks: when standard error is no terminal, and for what is done before a person would wonder.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from vxcore.capture.source import Capture, Source
from vxcore.sizes import amount

_FIRST_S = 0.5
_EVERY_S = 0.1
_BAR = 24
_CLEAR = "\r\x1b[K"


class Progress:
    """A line that is written again and again; ``clear`` takes it away."""

    def __init__(self, source: Source, stream: TextIO | None = None) -> None:
        self._source = source
        self._stream = stream or sys.stderr
        self._started = time.monotonic()
        self._due = self._started + _FIRST_S if self._stream.isatty() else float("inf")
        self._shown = False

    def update(self) -> None:
        """Write the line anew if it is time to."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + _EVERY_S
        self._shown = True
        self._stream.write(_CLEAR + self.line(now - self._started))
        self._stream.flush()

    def line(self, seconds: float) -> str:
        """What is shown after so many seconds."""
        position, size = self._source.position, self._source.size
        rate = position / seconds if seconds else 0.0
        shown = f"{amount(position)}, {amount(rate)}/s"
        if not size:
            return shown
        part = min(position / size, 1.0)
        bar = "#" * int(part * _BAR)
        left = f", {(size - position) / rate:.0f} s left" if rate and position < size else ""
        return f"[{bar:<{_BAR}}] {part:4.0%} of {amount(size)}, {amount(rate)}/s{left}"

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            self._stream.write(_CLEAR)
            self._stream.flush()


@contextmanager
def _showing(source: Source) -> Iterator[Progress]:
    progress = Progress(source)
    try:
        yield progress
    finally:
        progress.clear()


def blocks(capture: Capture) -> Iterator[None]:
    """Read a capture block by block, showing how far; the Reader's batch then is the next."""
    with capture.source.interruptible(), _showing(capture.source) as progress:
        while capture.reader.read():
            yield
            progress.update()
