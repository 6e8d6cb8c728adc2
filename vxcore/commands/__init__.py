"""What a command of ``vxcore`` is, and the one list of them.

Place in the house: below cli, which parses and runs them; one module for each group of commands. A command is
one function under @command, which holds its arguments and examples; it imports what it needs when it runs, so
that ``vxcore --help`` answers without numpy. Values are checked where settings are (config.py), not here.
The help, the completion of shells and the man page are made from the list.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

USER_ERROR = 2  # as argparse has it
SYSTEM_ERROR = 1
INTERRUPTED = 130  # as shells have it: 128 + SIGINT

Run = Callable[[argparse.Namespace], int]


class ReaderGoneError(Exception):
    """Whoever reads what is printed, `head` say, has had enough: no mistake, and nothing more to do."""


class Argument(NamedTuple):
    """What ArgumentParser.add_argument takes."""

    names: tuple[str, ...]
    options: dict[str, Any]


class Command(NamedTuple):
    """One command of vxcore; of a name of two words, the first is its group's."""

    name: str
    summary: str
    examples: str
    arguments: tuple[Argument, ...]
    run: Run


COMMANDS: list[Command] = []
GROUPS: dict[str, str] = {}
"""What the commands of a group are for."""
ALIASES: dict[str, str] = {}
"""Of other names of groups, the name."""
DEFAULTS: dict[str, str] = {}
"""The command meant where a group stands alone, or before what is none of its commands; else `show`."""


def command(
    summary: str, examples: str, *arguments: Argument, name: str | None = None
) -> Callable[[Run], Run]:
    """Make a function a command of its name; it takes the parsed arguments and returns the exit code.

    `examples` are lines.
    """

    def register(run: Run) -> Run:
        COMMANDS.append(Command(name or run.__name__, summary, examples, arguments, run))
        return run

    return register


def argument(*names: str, **options: Any) -> Argument:
    """An argument of a command, as ArgumentParser.add_argument takes it."""
    return Argument(names, options)


def meant(word: str, known: Iterable[str]) -> str | None:
    """Asks whether it was that of the known words which is most like a misspelt one; None: none is."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {near[0]}?" if near else None


def number(text: str) -> int | str:
    """An integer if it is one (0x10 too); other words go on to config.py, which says what is allowed."""
    try:
        return int(text, 0)
    except ValueError:
        return text


def at_least(low: int) -> Callable[[str], int]:
    """The type of an argument that is an integer from `low` up."""

    def parse(text: str) -> int:
        value = number(text)
        if not isinstance(value, int) or value < low:
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed; an integer from {low} up")
        return value

    return parse


def between(low: int, high: int) -> Callable[[str], int]:
    """The type of an argument that is an integer from `low` to `high`."""

    def parse(text: str) -> int:
        value = number(text)
        if not isinstance(value, int) or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed; an integer from {low} to {high}")
        return value

    return parse


def amount(text: str) -> float:
    """The type of an argument that is a number of seconds, say, and not less than 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; a number from 0 up, such as 0.5")
    return value
