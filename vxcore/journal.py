"""Journal: changes of the tables as a whole, with what Python keeps beside them.

Place in the house: above the compiled tables, below remotes, segments and fdb, which share one. The
tables undo themselves; what those three note in Python is undone here, in the reverse order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vxcore._fast.table import Tables
from vxcore.errors import ConfigError

Action = Callable[[], object]


class Journal:
    """Changes of `tables`, one at a time, from any thread."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self._lock = threading.RLock()
        self._undo: list[Action] | None = None
        self._last: list[Action] = []
        self._after: list[Action] = []

    @contextmanager
    def change(self) -> Iterator[None]:
        """All that is changed inside is seen by lanes at its end, or undone by an exception.

        Changes nest; the outermost counts, and one that failed inside fails all of it. Raises ConfigError
        for what the tables refuse, which name the entry that is wrong.
        """
        with self._lock:
            if self._undo is not None:
                with self.tables.transaction():
                    yield
                return
            self._undo, self._last, self._after = [], [], []
            try:
                with self.tables.transaction():
                    yield
                    for action in self._last:
                        action()
            except BaseException as error:
                for action in reversed(self._undo):
                    action()
                if isinstance(error, ValueError) and not isinstance(error, ConfigError):
                    raise ConfigError(str(error)) from error
                raise
            finally:
                self._undo = None
            done = self._after
        for action in done:
            action()

    def on_failure(self, action: Action) -> None:
        """Call it if the change that is going on fails."""
        assert self._undo is not None
        self._undo.append(action)

    def at_the_end(self, action: Action) -> None:
        """Call it once as the last part of the change that is going on, while it can still fail."""
        if action not in self._last:
            self._last.append(action)

    def afterwards(self, action: Action) -> None:
        """Call it when the change is done and lanes can see it."""
        self._after.append(action)
