"""Suites that are tests of bench_*.py: pytest runs them in a process of its own, as often as is wanted.

Place in the house: above tally, beside datapath, below suites; conftest.py is its other end.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import structs

from benchmarks import ROOT, peers
from benchmarks.measuring import N_SAMPLES
from benchmarks.options import Options
from benchmarks.results import Missing, Sample
from benchmarks.tally import Tally

Say = Callable[[str], None]
_LOG_LINES = 15
_FEW = 8  # so many cases are taken for a whole suite


class SessionError(Exception):
    """pytest itself could not run; the message has the end of what it said."""


@dataclass(frozen=True)
class Session:
    """One suite of bench_*.py."""

    name: str
    about: str
    files: tuple[str, ...]
    """`codec` is bench_codec.py."""
    takes_part: tuple[str, ...]
    """Names of peers.VERSIONS."""
    quick_s: float
    full_s: float
    """About how long one process takes on a quiet machine."""
    processes: int
    """How many processes a full run has: what differs between them is part of the spread."""

    def cases(self, options: Options) -> list[str]:
        """What patterns choose from."""
        found: list[str] = []
        with self._pytest([], options, "--collect-only") as lines:
            for told in lines:
                found += told.get("chosen", [])
        return found

    def seconds(self, patterns: Sequence[str], options: Options) -> float:
        """About how long it takes."""
        whole = self.quick_s if options.quick else self.full_s
        share = min(1.0, len(patterns) / _FEW) if patterns else 1.0
        return whole * share * self._n_processes(options)

    def _n_processes(self, options: Options) -> int:
        return options.rounds or (1 if options.quick else self.processes)

    def measure(self, patterns: Sequence[str], options: Options, tally: Tally, say: Say) -> None:
        """Run what matches a pattern (none: all)."""
        for process in range(self._n_processes(options)):
            with self._pytest(patterns, options) as lines:
                for told in lines:
                    _take(told, process, tally, say)

    def tools(self) -> dict[str, str]:
        """Versions of who takes part."""
        return peers.versions(self.takes_part)

    def offloads(self) -> dict[str, dict[str, str]]:
        """None that matters."""
        return {}

    @contextmanager
    def _pytest(
        self, patterns: Sequence[str], options: Options, *words: str
    ) -> Iterator[Iterator[dict[str, Any]]]:
        """What a run tells, while it runs."""
        for needed in ("pytest", "pytest_benchmark", "pytest_timeout"):
            if importlib.util.find_spec(needed) is None:
                raise SessionError(f"{self.name}: {needed} is not installed; {peers.INSTALL}")
        receiver, sender = os.pipe()
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=600"]
        command += [f"benchmarks/bench_{file}.py" for file in self.files]
        command += [*words, f"--tell={sender}", *(["--quick"] if options.quick else [])]
        command += [f"--case={pattern}" for pattern in patterns]
        with tempfile.TemporaryFile() as log, os.fdopen(receiver, "rb") as lines:
            try:
                process = subprocess.Popen(
                    command, cwd=ROOT, env=_environment(), pass_fds=[sender], stdout=log, stderr=log
                )
            finally:
                os.close(sender)
            try:
                yield (msgspec.json.decode(line) for line in lines)
                if process.wait() not in (0, 1, 5):  # all passed, some failed (which was told), none chosen
                    raise SessionError(f"{self.name}: pytest ended with {process.returncode}: {_end(log)}")
            finally:
                process.terminate()
                process.wait()


def _environment() -> dict[str, str]:
    """Without what pytest-xdist says to its workers, for in one pytest-benchmark measures nothing."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST_")}


def _end(log: Any) -> str:
    log.seek(0)
    return " ".join(log.read().decode(errors="replace").split("\n")[-_LOG_LINES:]).strip()


def _take(told: dict[str, Any], process: int, tally: Tally, say: Say) -> None:
    """Put into the tally what one line says."""
    if "began" in told:
        say(told["began"])
    elif "missing" in told:
        missing = msgspec.convert(told["missing"], Missing)
        tally.miss(missing.name, missing.reason, missing.kind)
    elif "measured" in told:
        measured = told["measured"]
        samples = msgspec.convert(measured["samples"], list[Sample])
        first = process * N_SAMPLES  # the processes of one session are those of no other
        samples = [structs.replace(sample, process=first + sample.process) for sample in samples]
        tally.add(measured["name"], measured["unit"], measured["better"], samples, measured["verified"])
