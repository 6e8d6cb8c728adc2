"""What the commands share that ask a running VTEP: where it is, and how what it says is printed.

Place in the house: among the commands, above control's client.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from vxcore.commands import ReaderGoneError, argument
from vxcore.control.client import Client

CONTROL = argument(
    "--control",
    metavar="PATH",
    help="the control socket of the VTEP ($VXCORE_CONTROL, or that of this network namespace)",
)
JSON = argument("--json", action="store_true", help="as JSON, for programs")
ASKING = (CONTROL, JSON)
_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"


def connect(arguments: argparse.Namespace) -> Client:
    """The VTEP that a command is about."""
    return Client(arguments.control)


def say(lines: Iterable[str]) -> None:
    """Print lines; raises ReaderGoneError, which ends the command, when nobody reads them any more."""
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.stdout.flush()  # what nobody reads does not go where this may lead later
        raise ReaderGoneError from None


def say_table(lines: Iterator[str]) -> None:
    """Print a table, its titles bold on a terminal."""
    bold = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    titles = next(lines)
    say([f"{_BOLD}{titles}{_PLAIN}" if bold else titles])
    say(lines)


def say_text(lines: Iterable[str], indent: int | None = None) -> None:
    """Print sentences; what is too long for a terminal goes on below, at a word."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    say(piece for line in lines for piece in folded(line, columns, indent))


def folded(line: str, columns: int, indent: int | None = None) -> list[str]:
    """A line in pieces that fit, unless a word does not; all but the first are `indent` in, or further."""
    if not columns or len(line) <= columns:
        return [line]
    further = len(line) - len(line.lstrip()) + 2 if indent is None else indent
    return textwrap.wrap(
        line, columns, subsequent_indent=" " * further, break_long_words=False, break_on_hyphens=False
    )


def say_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    say([json.dumps(value)])


def say_rows(rows: Iterator[dict[str, Any]]) -> None:
    """Print a list, however long, as JSON, a row a line."""
    say(_array(rows))


def _array(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    line = "["
    for position, row in enumerate(rows):
        if position:
            yield f"{line},"
            line = ""
        line += json.dumps(row)
    yield f"{line}]"
