"""The command completion: what a shell needs to complete the others.

Place in the house: among the commands; it is given the parser, which is made from the list of them.
"""

from __future__ import annotations

import argparse

from vxcore.commands import argument, command
from vxcore.commands.asking import say

SHELLS = ("bash", "zsh", "fish")


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

    say([shtab.complete(arguments.whole, arguments.shell)])
    return 0
