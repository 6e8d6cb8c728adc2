"""The command top: a running VTEP's rates, second by second, on a terminal.

Place in the house: among the commands, above asking. What is counted is asked for; rates are differences,
made here. rich draws it.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from vxcore.commands import argument, at_least, command
from vxcore.commands.asking import CONTROL, connect
from vxcore.control.client import Client
from vxcore.errors import ConfigError

Row = dict[str, Any]
_HISTORY = 60
_MOST_KEYS = 64
_SPARKS = "▁▂▃▄▅▆▇█"
_HEAD_LINES = 9  # what stands above the table, with its titles
_KEYS = "s segments  r remotes  l lanes  d drops  < > sort  / filter  p pause  q quit"
_VIEWS = {"s": "segments", "r": "remotes", "l": "lanes", "d": "drops"}
_SORTS = {"segments": 3, "remotes": 2, "lanes": 2, "drops": 1}  # at first
_TITLES: dict[str, tuple[str, ...]] = {
    "segments": ("VNI", "port", "learned", "rx p/s", "tx p/s", "rx b/s", "tx b/s"),
    "remotes": ("remote", "uses", "rx p/s", "tx p/s", "rx b/s", "tx b/s"),
    "lanes": ("lane", "CPU", "bursts/s", "wakeups/s"),
    "drops": ("reason", "per s", "in all", "what it means"),
}
_TEXTS = ("VNI", "port", "remote", "reason", "what it means")
_CARRIED = ("rx_packets", "tx_packets", "rx_bytes", "tx_bytes")
_DRAWN = _CARRIED[:2]


@command(
    "show rates of segments, remotes and lanes, and drops, second by second",
    "vxcore top\nvxcore top --interval 5\nvxcore top --once     # for a log: one screen, and the end",
    argument("--interval", type=at_least(1), default=1, metavar="S", help="seconds between looks (1)"),
    argument("--once", action="store_true", help="print one screen after one interval, and end"),
    CONTROL,
)
def top(arguments: argparse.Namespace) -> int:
    """Until q is pressed."""
    if not arguments.once and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError("top needs a terminal; --once prints one screen anywhere")

    def look() -> Look:
        """By a connection of its own: the VTEP hangs up on who asks nothing for long."""
        with connect(arguments) as vtep:
            return Look.at(vtep)

    screen = Screen()
    screen.take(look())
    if arguments.once:
        time.sleep(arguments.interval)
        screen.take(look())
        _print(screen)
    else:
        _live(screen, look, arguments.interval)
    return 0


# What is there


@dataclass(frozen=True)
class Look:
    """What the VTEP had counted at one time."""

    time: float
    overview: Row
    segments: dict[str, Row]
    remotes: dict[str, Row]
    lanes: dict[str, Row]
    drops: dict[str, Row]

    @classmethod
    def at(cls, vtep: Client) -> Look:
        """Ask for all of it."""
        segments = {str(row["collects"] or row["vni"]): row for row in vtep.rows("segment.list")}
        remotes = {row["address"]: row for row in vtep.rows("remote.list")}
        lanes = {str(row["lane"]): row for row in vtep.rows("lane.list")}
        drops = {row["reason"]: row for row in vtep.rows("drop.list")}
        return cls(time.monotonic(), vtep.ask("overview"), segments, remotes, lanes, drops)


@dataclass
class Screen:
    """What is shown, and how: the two latest looks, the rates before, and what keys have chosen."""

    view: str = "segments"
    sort: int = 3
    wanted: str = ""
    typing: bool = False
    paused: bool = False
    looks: deque[Look] = field(default_factory=lambda: deque(maxlen=2))
    rates: dict[str, deque[float]] = field(
        default_factory=lambda: {name: deque(maxlen=_HISTORY) for name in _DRAWN}
    )

    def take(self, look: Look) -> None:
        """Look on."""
        if self.paused:
            return
        self.looks.append(look)
        if len(self.looks) > 1:
            for name, history in self.rates.items():
                history.append(self._rate(lambda look, name=name: look.overview[name]))  # type: ignore[misc]

    def press(self, key: str) -> bool:
        """What a key does; whether it ends."""
        if self.typing:
            self._type(key)
        elif key in _VIEWS:
            self.view = _VIEWS[key]
            self.sort = _SORTS[self.view]
        elif key in "<>":
            step = 1 if key == ">" else -1
            self.sort = (self.sort + step) % len(_TITLES[self.view])
        elif key == "/":
            self.typing, self.wanted = True, ""
        elif key == "p":
            self.paused = not self.paused
        return key == "q" and not self.typing

    def _type(self, key: str) -> None:
        if key in "\r\n\x1b":
            self.typing = False
        elif key in "\x7f\b":
            self.wanted = self.wanted[:-1]
        elif key.isprintable():
            self.wanted += key

    def _rate(self, count: Callable[[Look], float]) -> float:
        """Of a second; 0 as long as there is one look, and of what has begun anew."""
        if len(self.looks) < 2:
            return 0.0
        before, now = self.looks
        return max(0.0, count(now) - count(before)) / max(now.time - before.time, 1e-9)

    def _of(self, table: str, key: str, name: str) -> float:
        def count(look: Look) -> float:
            row = getattr(look, table).get(key, {})
            return float(row.get("counters", row).get(name, 0))

        return self._rate(count)

    def rows(self) -> list[tuple[Any, ...]]:
        """The table's, those that are wanted, the largest first in the column chosen."""
        look = self.looks[-1]
        made = {
            "segments": self._segments,
            "remotes": self._remotes,
            "lanes": self._lanes,
            "drops": self._drops,
        }
        found = [
            row for row in made[self.view](look) if self.wanted.lower() in " ".join(map(str, row)).lower()
        ]
        numbers = all(isinstance(row[self.sort], (int, float)) for row in found)
        return sorted(
            found, key=lambda row: row[self.sort] if numbers else str(row[self.sort]), reverse=numbers
        )

    def _segments(self, look: Look) -> Iterator[tuple[Any, ...]]:
        for key, row in look.segments.items():
            vni = row["vni"] if row["vni"] is not None else key
            yield vni, row["dev"], row["learned"], *self._carried("segments", key)

    def _remotes(self, look: Look) -> Iterator[tuple[Any, ...]]:
        for key, row in look.remotes.items():
            yield key, row["uses"], *self._carried("remotes", key)

    def _carried(self, table: str, key: str) -> tuple[float, ...]:
        """Packets and bits in a second, in and out."""
        rates = [self._of(table, key, name) for name in _CARRIED]
        return *rates[:2], *(8 * rate for rate in rates[2:])

    def _lanes(self, look: Look) -> Iterator[tuple[Any, ...]]:
        for key, row in look.lanes.items():
            cpu = "any" if row["cpu"] is None else row["cpu"]
            yield row["lane"], cpu, self._of("lanes", key, "bursts"), self._of("lanes", key, "wakeups")

    def _drops(self, look: Look) -> Iterator[tuple[Any, ...]]:
        for key, row in look.drops.items():
            yield key, self._of("drops", key, "packets"), row["packets"], row["text"]


# How it looks


def render(screen: Screen, width: int, height: int) -> Any:
    """The whole screen, for rich."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    look = screen.looks[-1]
    overview = look.overview
    table = Table(box=None, expand=True, pad_edge=False, header_style="bold")
    for n, title in enumerate(_TITLES[screen.view]):
        table.add_column(
            f"{title} v" if n == screen.sort else title,
            justify="left" if title in _TEXTS else "right",
            ratio=1 if title == _TITLES["drops"][-1] else None,
            no_wrap=True,
            overflow="ellipsis",
        )
    rows = screen.rows()
    room = max(1, height - _HEAD_LINES - 1)
    for row in rows[:room]:
        table.add_row(*map(_shown, row))
    hidden = len(rows) - room
    sparks_len = max(8, min(_HISTORY, width - 30))
    lines = [
        _title(overview, screen),
        f"FDB {overview['entries']} entries, {overview['learned_entries']} learned; remotes "
        f"{overview['remotes']}; segments {overview['segments']}; dropped {sum(overview['drops'].values())}",
        *(
            f"{name[:2]} {_shown(screen.rates[name][-1] if screen.rates[name] else 0.0):>8} packets/s  "
            f"{sparks(screen.rates[name], sparks_len)}"
            for name in _DRAWN
        ),
        f"filter: {screen.wanted}{'_' if screen.typing else ''}" if screen.typing or screen.wanted else _KEYS,
        "",
    ]
    foot = [f"({hidden} rows more)"] if hidden > 0 else []
    heads = [Text(line[:width], no_wrap=True, style="bold" if n == 0 else "") for n, line in enumerate(lines)]
    return Group(*heads, table, *map(Text, foot))


def _title(overview: Row, screen: Screen) -> str:
    up = time.strftime("%H:%M:%S", time.gmtime(overview["uptime_s"]))
    days = int(overview["uptime_s"] // 86400)
    age = f"{days}d {up}" if days else up
    where = f"{overview['underlay']} {', '.join(overview['local'])}"
    paused = " PAUSED" if screen.paused else ""
    return f"vxcore {overview['version']} pid {overview['pid']}, up {age}, {where}{paused}"


def _shown(value: Any) -> str:
    """Numbers in few letters: 12.3k."""
    if isinstance(value, int) or not isinstance(value, float):
        return str(value)
    for unit in ("", "k", "M", "G"):
        if value < 1000 or unit == "G":
            return f"{value:.0f}{unit}" if value >= 100 or not unit else f"{value:.1f}{unit}"
        value /= 1000
    raise AssertionError("not reached")


def sparks(values: Any, width: int) -> str:
    """The latest values as a line of bars, the highest as high as it goes."""
    shown = list(values)[-width:]
    most = max(shown, default=0.0)
    return "".join(_SPARKS[int(value / most * (len(_SPARKS) - 1)) if most else 0] for value in shown)


def _print(screen: Screen) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(render(screen, console.width, max(console.height, 24)))


def _live(screen: Screen, look: Callable[[], Look], interval: float) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    with _keys() as read, Live(console=console, screen=True, auto_refresh=False) as live:
        due = time.monotonic() + interval
        while True:
            live.update(render(screen, console.width, console.height), refresh=True)
            keys = read(max(0.0, due - time.monotonic()))
            ends = [screen.press(key) for key in keys]
            if any(ends):
                return
            if time.monotonic() >= due:
                screen.take(look())
                due = time.monotonic() + interval


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Read keys as they are pressed, without waiting for the end of a line."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def read(seconds: float) -> str:
        ready = select.select([fd], [], [], seconds)[0]
        return os.read(fd, _MOST_KEYS).decode(errors="replace") if ready else ""

    tty.setcbreak(fd)
    try:
        yield read
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
