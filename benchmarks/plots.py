"""Plots as SVG: bars, lines over sizes, and ranges of percentiles; text, no more, so that a page holds them.

Place in the house: low among the benchmarks, knows nobody; report says what is drawn. Colours are classes,
which the page's style sheet fills (Okabe and Ito's, told apart by people who see fewer colours; light, dark
and print), and never alone: each bar has its name beside it, each line its own mark and its name at its end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH = 760
_LEFT, _RIGHT, _TOP = 240, 150, 14
_ROW, _BAR, _GAP = 24, 15, 14
_HEIGHT, _BOTTOM = 300, 46
_LINE_LEFT = 66
_LABEL = 15
_CHARACTER = 7.2
MARKS = ("circle", "square", "triangle", "diamond", "cross")


@dataclass(frozen=True)
class Bar:
    """One bar; without a value it says why instead."""

    label: str
    value: float | None
    low: float
    high: float
    style: int
    note: str = ""


class Point(NamedTuple):
    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """Points from left to right."""

    label: str
    points: tuple[Point, ...]
    style: int


@dataclass(frozen=True)
class Range:
    """Marks on one line: name -> value."""

    label: str
    values: dict[str, float]
    note: str = ""


class Axis:
    """From values to places, linear or logarithmic."""

    def __init__(self, values: Sequence[float], start: float, end: float, log: bool) -> None:
        self.log = log and min(values) > 0
        self.start, self.end = start, end
        if self.log:
            low, high = min(values), max(values)
            self.low, self.high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
            self.high = self.high if self.high > self.low else 10 * self.low
            n = round(math.log10(self.high / self.low))
            step = max(1, math.ceil(n / 5))
            self.ticks = [self.low * 10.0**power for power in range(0, n + 1, step)]
        else:
            step = _step(max([*values, 0]) or 1.0)
            self.low, self.high = 0.0, step * math.ceil((max([*values, 0]) or 1.0) / step)
            self.ticks = [step * n for n in range(round(self.high / step) + 1)]

    def at(self, value: float) -> float:
        """Where a value stands; what is outside stands at the edge."""
        value = min(max(value, self.low), self.high)
        share = (
            math.log(value / self.low) / math.log(self.high / self.low)
            if self.log
            else (value - self.low) / (self.high - self.low)
        )
        return self.start + share * (self.end - self.start)


def _step(high: float) -> float:
    """Such that four to ten of it reach `high`: 1, 2 or 5 times a power of ten."""
    rough = high / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * n for n in (1, 2, 5, 10) if power * n >= rough)


def number(value: float) -> str:
    """With three digits that count."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.1e}"


def _text(x: float, y: float, text: str, anchor: str = "start", name: str = "") -> str:
    kind = f' class="{name}"' if name else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(text)}</text>'


def _rule(x1: float, y1: float, x2: float, y2: float, name: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{name}"/>'


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img"><title>{escape(title)}</title>\n{body}\n</svg>'
    )


# Bars


def bars(title: str, unit: str, groups: dict[str, list[Bar]], log: bool = False) -> str:
    """Horizontal ones, in groups with a heading each (an empty one: none)."""
    values = [end for each in groups.values() for bar in each if bar.value for end in (bar.value, bar.high)]
    low = [bar.low for each in groups.values() for bar in each if bar.value and bar.low > 0]
    axis = Axis([*values, *low] or [1.0], _LEFT, WIDTH - _RIGHT, log)
    parts, y = [], float(_TOP)
    for heading, each in groups.items():
        if heading:
            parts.append(_text(6, y + 12, heading, name="heading"))
            y += _ROW
        for bar in each:
            parts += _bar(bar, y, axis)
            y += _ROW
        y += _GAP
    return _svg(title, y + 40, [*_scale(axis, unit, y), *parts])


def _scale(axis: Axis, unit: str, y: float) -> list[str]:
    """Ticks below, with lines up through the plot."""
    parts = []
    for tick in axis.ticks:
        parts.append(_rule(axis.at(tick), _TOP, axis.at(tick), y, "grid"))
        parts.append(_text(axis.at(tick), y + 15, number(tick), "middle", "tick"))
    parts.append(_text((axis.start + axis.end) / 2, y + 33, unit, "middle", "unit"))
    return parts


def _bar(bar: Bar, y: float, axis: Axis) -> list[str]:
    parts = [_text(_LEFT - 8, y + 12, bar.label, "end")]
    if bar.value is None:
        return [*parts, _text(_LEFT + 6, y + 12, bar.note, name="note")]
    end = axis.at(bar.value)
    box = f'x="{_LEFT}" y="{y}" width="{max(end - _LEFT, 1):.1f}" height="{_BAR}"'
    parts.append(f'<rect {box} class="fill{bar.style}"/>')
    if bar.style:
        parts.append(f'<rect {box} fill="url(#hatch{bar.style})"/>')
    reach = end
    if bar.high > bar.low:
        middle = y + _BAR / 2
        parts.append(_rule(axis.at(bar.low), middle, axis.at(bar.high), middle, "whisker"))
        reach = max(end, axis.at(bar.high))
    return [*parts, _text(reach + 6, y + 12, f"{number(bar.value)}{bar.note}", name="value")]


def hatches() -> str:
    """The patterns on bars of all styles but the first; a page needs them once."""
    lines = {
        1: '<path d="M0 6L6 0" class="hatch"/>',
        2: '<path d="M0 0L6 6" class="hatch"/>',
        3: '<path d="M3 0V6" class="hatch"/>',
        4: '<path d="M0 3H6" class="hatch"/>',
        5: '<circle cx="3" cy="3" r="1.1" class="dots"/>',
        6: '<path d="M0 6L6 0M0 0L6 6" class="hatch"/>',
    }
    patterns = "".join(
        f'<pattern id="hatch{n}" width="6" height="6" patternUnits="userSpaceOnUse">{line}</pattern>'
        for n, line in lines.items()
    )
    return f'<svg width="0" height="0" aria-hidden="true" class="hidden"><defs>{patterns}</defs></svg>'


# Lines


def lines(title: str, across: str, up: str, each: Sequence[Line], log: bool = False) -> str:
    """Over sizes, which stand in equal steps of their logarithm."""
    points = [point for line in each for point in line.points]
    right = WIDTH - 20 - _CHARACTER * max(len(line.label) for line in each)
    sizes = sorted({point.x for point in points})
    x = Axis([1.0], _LINE_LEFT, right, log=False)
    x.low, x.high = math.log(sizes[0]), math.log(sizes[-1]) if len(sizes) > 1 else math.log(sizes[0]) + 1
    y = Axis([end for point in points for end in (point.low, point.high)], _HEIGHT - _BOTTOM, _TOP + 16, log)
    parts = [_text(4, 12, up, name="unit")]
    for tick in y.ticks:
        parts.append(_rule(_LINE_LEFT, y.at(tick), right, y.at(tick), "grid"))
        parts.append(_text(_LINE_LEFT - 8, y.at(tick) + 4, number(tick), "end", "tick"))
    parts += _sizes(sizes, x)
    parts.append(_text((_LINE_LEFT + right) / 2, _HEIGHT - 8, across, "middle", "unit"))
    for line in each:
        parts += _line(line, x, y)
    return _svg(title, _HEIGHT, [*parts, *_labels(each, x, y)])


def _sizes(sizes: Sequence[float], x: Axis) -> list[str]:
    """Below the plot, without those for which there is no room beside a smaller one."""
    parts, free = [], -math.inf
    for size in sizes:
        text, middle = f"{size:,.0f}", x.at(math.log(size))
        half = _CHARACTER * (len(text) + 1) / 2
        if middle - half >= free:
            parts.append(_text(middle, _HEIGHT - _BOTTOM + 18, text, "middle", "tick"))
            free = middle + half
    return parts


def _line(line: Line, x: Axis, y: Axis) -> list[str]:
    places = [(x.at(math.log(point.x)), y.at(point.y), point) for point in line.points]
    path = "M" + "L".join(f"{across:.1f} {up:.1f}" for across, up, _ in places)
    parts = [f'<path d="{path}" class="line stroke{line.style}"/>']
    for across, up, point in places:
        if point.high > point.low:
            parts.append(_rule(across, y.at(point.low), across, y.at(point.high), "whisker"))
        parts.append(_mark(across, up, line.style))
    return parts


def _mark(x: float, y: float, style: int) -> str:
    """Of a shape for each style."""
    kind = MARKS[style % len(MARKS)]
    shapes = {
        "square": f"M{x - 4:.1f} {y - 4:.1f}h8v8h-8z",
        "triangle": f"M{x:.1f} {y - 5:.1f}l5 9h-10z",
        "diamond": f"M{x:.1f} {y - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5 -5.5z",
        "cross": f"M{x - 5:.1f} {y - 2:.1f}h3v-3h4v3h3v4h-3v3h-4v-3h-3z",
    }
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" class="mark fill{style}"/>'
    return f'<path d="{shapes[kind]}" class="mark fill{style}"/>'


def _labels(each: Sequence[Line], x: Axis, y: Axis) -> list[str]:
    """Names at the ends of lines, moved apart where they would lie upon each other."""
    parts, below = [], -math.inf
    for line in sorted(each, key=lambda line: y.at(line.points[-1].y)):
        last = line.points[-1]
        below = max(y.at(last.y) + 4, below + _LABEL)
        parts.append(_text(x.at(math.log(last.x)) + 11, below, line.label, name=f"text{line.style}"))
    return parts


# Ranges


def ranges(title: str, unit: str, each: Sequence[Range]) -> str:
    """A row for each, with a mark for each value, joined; a logarithmic axis, its marks explained on top."""
    names = list(dict.fromkeys(name for one in each for name in one.values))
    values = [value for one in each for value in one.values.values()]
    axis = Axis(values or [1.0], _LEFT, WIDTH - _RIGHT, log=True)
    parts, y = [], _TOP + 26.0
    for n, name in enumerate(names):
        across = _LEFT + 130 * n
        parts += [_mark(across, _TOP + 2, n), _text(across + 10, _TOP + 6, name)]
    for one in each:
        parts += _range(one, y, axis, names)
        y += _ROW
    return _svg(title, y + 46, [*_scale(axis, unit, y), *parts])


def _range(one: Range, y: float, axis: Axis, names: list[str]) -> list[str]:
    parts, middle = [_text(_LEFT - 8, y + 12, one.label, "end")], y + _BAR / 2
    if not one.values:
        return [*parts, _text(_LEFT + 6, y + 12, one.note, name="note")]
    ends = [axis.at(value) for value in one.values.values()]
    parts.append(_rule(min(ends), middle, max(ends), middle, "line joint"))
    parts += [_mark(axis.at(value), middle, names.index(name)) for name, value in one.values.items()]
    shown = " / ".join(number(value) for value in one.values.values())
    return [*parts, _text(max(ends) + 10, y + 12, shown, name="value")]
