"""What `vxcore bench` does with its arguments; vxcore/commands/bench.py holds these, and calls here.

Place in the house: the outermost of the benchmarks. Exit code 1 when something that was chosen failed; who is
absent is named, and no failure. Interrupted, nothing is left behind and nothing written.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import structs

from benchmarks import ROOT, page, results, runner, suites
from benchmarks import report as plotted
from benchmarks.compare import compared, table
from benchmarks.options import Options
from benchmarks.progress import Progress, minutes
from benchmarks.results import Measurement, Result
from vxcore.columns import columns
from vxcore.commands.asking import say
from vxcore.errors import ConfigError

DEFAULT_FILE = ROOT / "build" / "bench.json"


def run(arguments: argparse.Namespace) -> int:
    """Measure, tell, write."""
    options = Options(
        quick=arguments.quick,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        patience=arguments.patience,
        against=arguments.against,
    )
    if arguments.list:
        say(_names(arguments.words, options))
        return 0
    before = read(arguments.json) if arguments.update else Result(suites={})
    chosen = suites.chosen(arguments.words, options)
    seconds = runner.estimate(chosen, options)
    print(f"about {minutes(seconds)} minutes on a quiet machine", file=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leave by the way that cleans up
    command = shlex.join(["vxcore", *sys.argv[1:]])
    result = runner.run(chosen, options, command, Progress(seconds))
    file = arguments.json or DEFAULT_FILE
    results.write(structs.replace(result, suites={**before.suites, **result.suites}), file)
    say(_told(result))
    print(f"written to {file}; `vxcore bench report {file}` makes a page of it", file=sys.stderr)
    failed = any(missing.kind == "failed" for suite in result.suites.values() for missing in suite.missing)
    return 1 if failed else 0


def report(arguments: argparse.Namespace) -> int:
    """Write a page."""
    result = read(arguments.result)
    text = page.page(result) if arguments.markdown else plotted.page(result)
    if arguments.output is None:
        say([text.rstrip("\n")])
    else:
        arguments.output.write_text(text)
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Tell what has changed."""
    old, new = read(arguments.old), read(arguments.new)
    comparison = compared(old, new, arguments.threshold / 100)
    say([msgspec.json.encode(comparison).decode()] if arguments.json else table(comparison))
    failing = {"slower": {"slower"}, "unsure": {"slower", "cannot tell"}}.get(arguments.fail_on, set())
    return 1 if any(row.is_ours and row.verdict in failing for row in comparison.rows) else 0


def read(file: Path | None) -> Result:
    """A result from a file, whose faults are the user's."""
    if file is None:
        raise ConfigError("--update: it needs the file that --json names")
    try:
        return results.read(file)
    except FileNotFoundError:
        raise ConfigError(f"{file}: there is no such file") from None
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{file}: no result of `vxcore bench`: {error}") from None


def _names(words: list[str], options: Options) -> Iterator[str]:
    """Suites with what they are about; with words, the cases that these choose."""
    for each in suites.chosen(words, options):
        yield f"{each.suite.name}: {each.suite.about}"
        yield from (f"  {each.suite.name}/{case}" for case in each.patterns or each.suite.cases(options))


def _told(result: Result) -> Iterator[str]:
    """A line for each measurement, and one for each that is missing."""
    rows = [
        (f"{name}/{each.name}", *_figures(each))
        for name, suite in result.suites.items()
        for each in suite.measurements
    ]
    yield from columns(("case", "median", "unit", "from", "to", ""), rows)
    for name, suite in result.suites.items():
        yield from (f"{name}/{each.name}: {each.kind}: {each.reason}" for each in suite.missing)


def _figures(each: Measurement) -> tuple[str, ...]:
    low, high = (f"{value:.4g}" for value in (each.low, each.high))
    if each.noisy:
        return "", each.unit, low, high, f"too noisy to tell: {', '.join(each.noisy)}"
    return f"{each.median:.4g}", each.unit, low, high, ""
