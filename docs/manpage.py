"""Writes docs/vxcore.1, the manual page, from the list of commands (`make docs`).

Place in the house: a tool of the documentation; a test holds the page equal to what this writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from vxcore import cli
from vxcore.commands import Argument, Command

PAGE = Path(__file__).with_name("vxcore.1")
HEAD = r"""
.\" Written by `make docs` from vxcore/commands; a change goes there.
.TH VXCORE 1 "" "vxcore" "User Commands"
.SH NAME
vxcore \- a userspace VXLAN engine
.SH SYNOPSIS
.B vxcore
[\fB\-v\fR] \fICOMMAND\fR [\fIARGUMENT\fR ...]
.SH DESCRIPTION
Ethernet frames between hosts over IP: VXLAN (RFC 7348) in user space. A VTEP is run by \fBup\fR, \fBrun\fR or
\fBcollect\fR; the commands from \fBshow\fR on ask and change one that runs, over its control socket. Those on
capture files need neither root nor a VTEP, and those of \fBgen\fR load any VTEP with test traffic. A group of
commands, as \fBfdb\fR, shows when no command is given, and takes \fBdelete\fR, \fBlist\fR, \fBchange\fR and
\fBhelp\fR as well.
.SH OPTIONS
.TP
.BR \-v ", " \-\-verbose
Log more, for debugging; before or after the command.
.TP
.B \-\-version
Print the version.
.SH COMMANDS
"""
TAIL = r"""
.SH EXIT STATUS
0: done. 1: the system refused something, no VTEP answers, or \fBbench compare\fR found what
\fB\-\-fail\-on\fR names. 2: what was asked for is wrong, and nothing has changed. 130: interrupted.
.SH ENVIRONMENT
.TP
.B VXCORE_CONTROL
The control socket that commands ask, unless \fB\-\-control\fR names another.
.TP
.B NO_COLOR
Titles of tables are not bold on a terminal, either.
.SH FILES
.TP
.I /run/vxcore/control.sock
The control socket, and
.I /run/vxcore/netns\-NAME.sock
in a network namespace that `ip netns` has named.
.SH SEE ALSO
.BR ip (8),
.BR bridge (8)
"""


def page() -> str:
    """The whole page."""
    lines = [line for each in cli.COMMANDS for line in _command(each)]
    return HEAD.lstrip("\n") + "".join(f"{line}\n" for line in lines) + TAIL.lstrip("\n")


def _command(each: Command) -> Iterator[str]:
    yield f".SS vxcore {_text(each.name)}"
    yield _text(f"{each.summary[0].upper()}{each.summary[1:]}.")
    for argument in each.arguments:
        yield ".TP"
        yield _names(argument)
        yield _text(argument.options["help"])
    yield ".PP"
    yield "Example:"
    yield ".PP"
    yield ".nf"
    yield from (_text(f"    {line}") for line in each.examples.splitlines())
    yield ".fi"


def _names(argument: Argument) -> str:
    """``--ageing S``, or of what has no name its place-holder."""
    shown = argument.options.get("metavar") or (argument.names[0] if argument.names[0][0] != "-" else "")
    values = " ".join(shown) if isinstance(shown, tuple) else shown
    if not values and "choices" in argument.options:
        values = "|".join(argument.options["choices"])
    if not argument.names[0].startswith("-"):
        return rf"\fI{_text(values)}\fR"
    names = ", ".join(rf"\fB{_text(name)}\fR" for name in argument.names)
    return rf"{names} \fI{_text(values)}\fR" if values else names


def _text(text: str) -> str:
    r"""As roff has it: ``\`` and ``-`` as they are, and no dot or quote begins a line."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return re.sub(r"^([.'])", r"\\&\1", escaped)


if __name__ == "__main__":
    PAGE.write_text(page())
