"""The commands help and completion: what is asked of the list of the others.

Place in the house: among the commands; they are given the parser, which is made from the list of them.
"""

from __future__ import annotations

import argparse

from vxcore.commands import argument, command
from vxcore.commands.asking import say

SHELLS = ("bash", "zsh", "fish")
_FILES, _DIRECTORY = ("FILE", "FILE.toml", "IN", "OUT", "PATH"), "DIR"
"""How arguments are called that are names of files."""


@command(
    "show the help of a command",
    "vxcore help fdb add",
    argument("words", nargs="*", metavar="COMMAND", help="the command, or the first word of several (all)"),
    name="help",
)
def show_help(arguments: argparse.Namespace) -> int:
    """As --help does, which ends here."""
    arguments.whole.parse_args([*arguments.words, "--help"])
    raise AssertionError("not reached")


@command(
    "print what a shell needs to complete the commands",
    "vxcore completion bash > /etc/bash_completion.d/vxcore\n"
    "vxcore completion zsh > /usr/share/zsh/site-functions/_vxcore\n"
    "vxcore completion fish > /etc/fish/completions/vxcore.fish",
    argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish"),
)
def completion(arguments: argparse.Namespace) -> int:
    """Made from the same list as the help."""
    import shtab

    for action in arguments.whole.actions():
        if action.metavar in _FILES:
            action.complete = shtab.FILE
        elif action.metavar == _DIRECTORY:
            action.complete = shtab.DIRECTORY
    say([shtab.complete(arguments.whole, arguments.shell)])
    return 0
