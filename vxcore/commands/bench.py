"""The command bench: vxcore measured beside what people would use instead.

Place in the house: among the commands, above asking. What it runs is benchmarks/ of the source tree, which
an installed package does not have.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from types import ModuleType

from vxcore.commands import DEFAULTS, GROUPS, amount, argument, at_least, command
from vxcore.commands.asking import JSON
from vxcore.errors import ConfigError

GROUPS["bench"] = "measure vxcore beside what people would use instead; compare and show results"
DEFAULTS["bench"] = "run"
_TREE = Path(__file__).parents[2]


def _benchmarks() -> ModuleType:
    """The module of the source tree that knows how; raises ConfigError where it is not there."""
    if not (_TREE / "benchmarks" / "command.py").exists():
        raise ConfigError(
            "bench needs vxcore's source tree: in a clone of it, `make bench-peers`, "
            "then `.venv/bin/vxcore bench`"
        )
    if str(_TREE) not in sys.path:
        sys.path.insert(0, str(_TREE))
    try:
        return importlib.import_module("benchmarks.command")
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed; `make bench-peers` installs it") from None


@command(
    "run suites, or some of their cases; `run` may be left out",
    "vxcore bench                                  # everything, in under half an hour\n"
    "vxcore bench --quick                          # in two minutes, without containers\n"
    "vxcore bench codec 'datapath/tcp/*' --json result.json\n"
    "vxcore bench codec --list",
    argument(
        "words",
        nargs="*",
        metavar="SUITE",
        help="a suite, or a pattern of its cases such as 'codec/encap*' (all suites)",
    ),
    argument("--quick", action="store_true", help="fewer rounds, smaller tables and files: two minutes"),
    argument("--json", type=Path, metavar="FILE", help="where the result goes (build/bench.json)"),
    argument("--update", action="store_true", help="keep what FILE has of suites that are not run"),
    argument("--list", action="store_true", help="show the names, and measure nothing"),
    argument("--rounds", type=at_least(1), metavar="N", help="how often everything is measured"),
    argument("--seconds", type=amount, metavar="S", help="datapath: of each sample"),
    argument(
        "--patience",
        type=amount,
        default=0.0,
        metavar="S",
        help="datapath: wait so long for others to be quiet (0)",
    ),
    argument(
        "--against",
        type=Path,
        metavar="TREE",
        help="datapath: another checkout, built, that is measured in turn as vxcore@against",
    ),
    name="bench run",
)
def run(arguments: argparse.Namespace) -> int:
    """All or some of it."""
    code: int = _benchmarks().run(arguments)
    return code


@command(
    "compare two results, case by case: faster, slower, same, or it cannot be told",
    "vxcore bench compare old.json new.json\n"
    "vxcore bench compare old.json new.json --fail-on slower   # exit code 1, for CI",
    argument("old", type=Path, metavar="OLD", help="a result"),
    argument("new", type=Path, metavar="NEW", help="the result of what may have become slower"),
    argument("--threshold", type=amount, default=5.0, metavar="PERCENT", help="less is no change (5)"),
    argument(
        "--fail-on",
        choices=("slower", "unsure"),
        metavar="VERDICT",
        help="exit code 1 when vxcore is slower anywhere; unsure: or when it cannot be told",
    ),
    JSON,
    name="bench compare",
)
def compare(arguments: argparse.Namespace) -> int:
    """By confidence intervals; counted instructions to half a percent."""
    code: int = _benchmarks().compare(arguments)
    return code


@command(
    "make a page of a result: plots and every figure, or Markdown",
    "vxcore bench report result.json -o report.html\nvxcore bench report result.json --markdown -o report.md",
    argument("result", type=Path, metavar="RESULT", help="what `vxcore bench --json` wrote"),
    argument("-o", "--output", type=Path, metavar="FILE", help="where the page goes (standard output)"),
    argument("--markdown", action="store_true", help="tables in Markdown instead of HTML"),
    name="bench report",
)
def report(arguments: argparse.Namespace) -> int:
    """It needs no network and nothing beside it."""
    code: int = _benchmarks().report(arguments)
    return code
