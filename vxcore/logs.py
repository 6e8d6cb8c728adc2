"""What people read: log lines on standard error, as text or JSON, and not without end.

Place in the house: above config, of which it loads nothing, for every command begins here; below daemon and
cli. Modules log to the logger "vxcore"; how its lines look, which of them are shown and how many is
decided here alone. What scripts read goes to stdout and is the business of who prints it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from vxcore.config import Log

log = logging.getLogger("vxcore")

_WINDOW_S = 1.0
# What journald takes a level from, in front of a line (sd-daemon(3)).
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def to_stderr(verbose: bool = False) -> None:
    """Log to what is standard error now, as text and without limit; `verbose` shows the level "debug" too."""
    log.handlers[:] = [_Handler(verbose)]  # replaced, for a process may call this more than once
    log.setLevel(logging.DEBUG if verbose else logging.INFO)


def configure(settings: Log) -> None:
    """Log as `settings` say, from the next line on; what the command line wanted to see stays visible."""
    for handler in log.handlers:
        if isinstance(handler, _Handler):
            handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
            handler.limiter = Limiter(settings.rate)
            level = (
                logging.DEBUG if handler.verbose else logging.getLevelNamesMapping()[settings.level.upper()]
            )
            log.setLevel(level)


def tell_left_out() -> None:
    """Say how many lines were left out in the second that is over; to be called about once a second."""
    for handler in log.handlers:
        if isinstance(handler, _Handler):
            handler.tell_left_out()


class TextFormatter(logging.Formatter):
    """``vxcore: message``, with the level unless it is what one expects; for journald with its number."""

    def __init__(self) -> None:
        super().__init__()
        self._for_journal = _is_journal()

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        text = f"vxcore: {level}{super().format(record)}"
        if not self._for_journal:
            return text
        priority = f"<{_PRIORITIES[record.levelno]}>"
        return priority + text.replace("\n", f"\n{priority}")


class JsonFormatter(logging.Formatter):
    """An object on one line: time (UTC), level, message, module, thread; exception and repeated if any."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": when.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "module": record.module,
            "thread": record.threadName,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line | getattr(record, "more", {}), ensure_ascii=False)


def _is_journal() -> bool:
    """Whether standard error leads to journald, which says so in the environment."""
    try:
        stream = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stream.st_dev}:{stream.st_ino}"


class _Seen(NamedTuple):
    """Lines of one kind within a second."""

    since: float
    shown: int
    left_out: int
    last: logging.LogRecord


class Limiter:
    """Lets `rate` lines of a kind pass in a second (0: all), and counts the others.

    A kind is a place in our source, so there are not more of them than it has.
    """

    def __init__(self, rate: int = 0) -> None:
        self._rate = rate
        self._seen: dict[tuple[str, int], _Seen] = {}

    def admits(self, record: logging.LogRecord, now: float) -> bool:
        """Whether the line is to be shown."""
        if not self._rate:
            return True
        kind = record.pathname, record.lineno
        seen = self._seen.get(kind)
        if seen is None or now >= seen.since + _WINDOW_S:
            seen = _Seen(now, 0, 0, record)
        shown = seen.shown < self._rate
        left_out = seen.left_out + (not shown)
        self._seen[kind] = _Seen(seen.since, seen.shown + shown, left_out, record)
        return shown

    def take_left_out(self, now: float) -> list[logging.LogRecord]:
        """A line in the place of those that were left out, for each kind whose second is over."""
        over = [kind for kind, seen in self._seen.items() if now >= seen.since + _WINDOW_S]
        return [_more(seen) for seen in map(self._seen.pop, over) if seen.left_out]


def _more(seen: _Seen) -> logging.LogRecord:
    last = seen.last
    text = f"{seen.left_out} more like it: {last.getMessage()}"
    record = logging.LogRecord(last.name, last.levelno, last.pathname, last.lineno, text, None, None)
    record.more = {"repeated": seen.left_out}
    return record


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes what the limiter admits. `emit` is called by one thread at a time."""

    def __init__(self, verbose: bool) -> None:
        super().__init__()
        self.verbose = verbose
        self.limiter = Limiter()
        self.setFormatter(TextFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        self._tell(now)
        if self.limiter.admits(record, now):
            super().emit(record)

    def tell_left_out(self) -> None:
        self.acquire()
        try:
            self._tell(time.monotonic())
        finally:
            self.release()

    def _tell(self, now: float) -> None:
        for record in self.limiter.take_left_out(now):
            super().emit(record)
