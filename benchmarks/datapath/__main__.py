"""`python -m benchmarks.datapath`: run the suite, or a part of it, as root.

Place in the house: the outermost. Exit code 1 when something that was chosen could not be measured, and
130 when interrupted, with nothing left behind and nothing written.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import sys
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.datapath import plan, results
from benchmarks.datapath.scale import FULL, QUICK, Scale

INTERRUPTED = 130  # as shells have it: 128 + SIGINT
DEFAULT_FILE = ROOT / "build" / "datapath.json"


def main() -> int:
    """Parse, measure, write."""
    options = _parser().parse_args()
    if options.schema:
        print(results.schema().decode())
        return 0
    chosen = plan.selected(options.only, options.against)
    if options.list:
        print("\n".join(name for _, names in chosen for name in names))
        return 0
    if not chosen:
        print(f"no measurement is called {' or '.join(options.only)}; --list shows them", file=sys.stderr)
        return 2
    if os.geteuid() != 0:
        print("root is needed for network namespaces", file=sys.stderr)
        return 2
    return _measure(chosen, options)


def _measure(chosen: list[tuple[plan.Scenario, list[str]]], options: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leave by the way that cleans up
    try:
        run = plan.run(chosen, _scale(options), options.patience, lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        return INTERRUPTED
    results.write(run, options.json)
    print(
        f"{len(run.measurements)} measured, {len(run.missing)} missing, {run.seconds:.0f} s: {options.json}"
    )
    return 1 if run.missing else 0


def _scale(options: argparse.Namespace) -> Scale:
    scale = QUICK if options.quick else FULL
    chosen = {"rounds": options.rounds, "n_probes": options.probes}
    given: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    if options.seconds is not None:
        given |= dict.fromkeys(("tcp_s", "pps_s", "latency_s"), options.seconds)
        given["probe_s"] = min(scale.probe_s, options.seconds)
    return dataclasses.replace(scale, **given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.datapath", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round (under two minutes)")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each is measured")
    parser.add_argument("--probes", type=int, metavar="N", help="how many rates of small packets are tried")
    parser.add_argument("--seconds", type=float, metavar="S", help="of each sample; below 1, TCP is 8 MiB")
    parser.add_argument(
        "--only", action="append", default=[], metavar="PATTERN", help="of names; may be repeated"
    )
    parser.add_argument(
        "--patience", type=float, default=0.0, metavar="S", help="wait so long for others to be quiet (0)"
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="TREE",
        help="another checkout, built, whose vxcore runs as vxcore@against",
    )
    parser.add_argument("--list", action="store_true", help="show the names and measure nothing")
    parser.add_argument("--json", type=Path, default=DEFAULT_FILE, metavar="FILE", help="where results go")
    parser.add_argument("--schema", action="store_true", help="show the JSON Schema of the results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
