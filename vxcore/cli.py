"""The command ``vxcore``: its parser, exit codes, and what the user reads when it fails.

Place in the house: the outermost, above commands, which holds what there is to run: importing a module of it
makes its commands known.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from vxcore import commands, logs
from vxcore._version import __version__
from vxcore.commands import (
    INTERRUPTED,
    SYSTEM_ERROR,
    USER_ERROR,
    bench,
    captures,
    gen,
    operate,
    packets,
    ping,
    shell,
    show,
    top,
    upgrade,
    vtep,
)
from vxcore.errors import ConfigError, VxcoreError

log = logging.getLogger("vxcore")

_MODULES = (vtep, captures, show, top, operate, upgrade, packets, ping, gen, bench, shell)
_ORDER = [module.__name__ for module in _MODULES]
COMMANDS = sorted(commands.COMMANDS, key=lambda each: _ORDER.index(each.run.__module__))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code (0 done, 2 the user's mistake, 1 the system's)."""
    logs.to_stderr()
    try:
        arguments = parser().parse_args(argv)
        logs.to_stderr(arguments.verbose)
        run: commands.Run = arguments.run
        return run(arguments)
    except commands.ReaderGoneError:
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except ConfigError as error:
        return _fail(error, str(error), USER_ERROR)
    except OSError as error:
        return _fail(error, _system_message(error), SYSTEM_ERROR)
    except VxcoreError as error:
        return _fail(error, str(error), SYSTEM_ERROR)
    except Exception as error:  # a defect of ours; even so, one line
        return _fail(error, f"internal error (-v shows where): {error!r}", SYSTEM_ERROR)


def _fail(error: Exception, message: str, code: int) -> int:
    """Say on stderr what is wrong, in one line; with -v also where it was raised."""
    log.debug("raised here:", exc_info=error)
    log.error("%s", " ".join(message.split("\n")))
    return code


def _system_message(error: OSError) -> str:
    """What the system said, without Python's ``[Errno 98]``."""
    if not error.strerror:
        return str(error) or type(error).__name__
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


# Arguments

_ALSO = {"delete": "del", "list": "show", "ls": "show", "change": "set", "help": "--help"}
"""What fingers that know `ip` and `bridge` type for commands of a group."""


class Parser(argparse.ArgumentParser):
    """Reports a mistake as all of vxcore does: one line, by main; and says what may have been meant."""

    default: str | None = None
    """The command that is meant where a group stands alone, or before options."""
    known: Collection[str] | None = None
    """Where it is meant before other words, too: the commands that there are."""
    also: Mapping[str, str] = {}
    """Other words that are taken for commands."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see {self.prog} --help)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        if self.default is not None and self._means_default(words):
            words.insert(0, self.default)
        words[:1] = [self.also.get(word, word) for word in words[:1]]
        return super().parse_known_args(words, namespace)

    def _means_default(self, words: list[str]) -> bool:
        if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
            return True
        return self.known is not None and words[0] not in {*self.known, *self.also, "-h", "--help"}

    def actions(self) -> Iterator[argparse.Action]:
        """All arguments, and those of the commands."""
        for action in self._actions:
            yield action
            for each in action.choices.values() if isinstance(action.choices, dict) else ():
                yield from each.actions()

    def parse_args(self, args: Any = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]
        arguments: argparse.Namespace
        arguments, unknown = self.parse_known_args(args, namespace)
        if unknown:
            chosen: Parser = arguments.chosen
            near = commands.meant(unknown[0], chosen._option_string_actions)
            chosen.error("; ".join(filter(None, [f"unrecognized arguments: {' '.join(unknown)}", near])))
        return arguments

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            meant = commands.meant(str(value), known) or f"known are {', '.join(known)}"
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}; {meant}")


def parser() -> Parser:
    """The parser of the whole command line."""
    made = Parser(
        prog="vxcore",
        description="A userspace VXLAN engine: Ethernet frames between hosts over IP.",
        epilog="vxcore COMMAND --help shows the arguments of a command and an example.",
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=f"vxcore {__version__}")
    _add_verbose(made, default=False)
    made.also = commands.ALIASES
    top = made.add_subparsers(title="commands", metavar="COMMAND", required=True)
    groups: dict[str, argparse._SubParsersAction[Parser]] = {}
    for each in COMMANDS:
        group, _, name = each.name.rpartition(" ")
        if group and group not in groups:
            groups[group] = _add_group(top, group)
        command = _add_command(groups[group] if group else top, name, each)
        command.set_defaults(run=each.run, chosen=command, whole=made)
    return made


def _add_group(into: argparse._SubParsersAction[Parser], name: str) -> argparse._SubParsersAction[Parser]:
    summary = commands.GROUPS[name]
    made = into.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"vxcore {name} COMMAND --help shows the arguments of a command and an example.",
        allow_abbrev=False,
    )
    made.also = _ALSO
    made_commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True)
    if name in commands.DEFAULTS:
        made.default, made.known = commands.DEFAULTS[name], made_commands.choices
    elif any(each.name == f"{name} show" for each in COMMANDS):
        made.default = "show"  # which need not be said for `ip` either
    return made_commands


def _add_command(into: argparse._SubParsersAction[Parser], name: str, each: commands.Command) -> Parser:
    made = into.add_parser(
        name,
        help=each.summary,
        description=f"{each.summary[0].upper()}{each.summary[1:]}.",
        epilog="example:\n" + "".join(f"  {line}\n" for line in each.examples.splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for names, options in each.arguments:
        made.add_argument(*names, **options)
    _add_verbose(made, default=argparse.SUPPRESS)
    return made


def _add_verbose(made: argparse.ArgumentParser, default: Any) -> None:
    """-v is good before and after the command; the later parser must not undo the first."""
    made.add_argument("-v", "--verbose", action="store_true", default=default, help="log more, for debugging")
