"""Shows how far a run is: a bar on a terminal, lines elsewhere; on standard error, both.

Place in the house: below runner, knows nobody. rich draws the bar.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from rich import progress
from rich.console import Console


class Progress(AbstractContextManager["Progress"]):
    """Of a run that takes about `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._console = Console(stderr=True, highlight=False)
        columns = (
            progress.TextColumn("{task.description:<52.52}"),
            progress.BarColumn(20),
            progress.TimeElapsedColumn(),
            progress.TextColumn("of about {task.fields[whole]}"),
        )
        self._bar = progress.Progress(*columns, console=self._console, transient=True)
        self._task = self._bar.add_task("", total=seconds, whole=minutes(seconds))
        self._suite, self._from, self._until, self._started = "", 0.0, 0.0, 0.0

    def suite(self, name: str, seconds: float) -> None:
        """A suite begins; it takes about so long, whatever those before it took."""
        self._suite, self._started = name, time.monotonic()
        self._from, self._until = self._until, self._until + seconds

    def case(self, name: str) -> None:
        """A case begins."""
        full = f"{self._suite}/{name}"
        if self._console.is_terminal:
            done = self._from + time.monotonic() - self._started
            self._bar.update(self._task, description=full, completed=min(done, self._until))
        else:
            self._console.print(full)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


def minutes(seconds: float) -> str:
    """Such as ``1:05``."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
