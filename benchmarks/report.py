"""One HTML page of a result, with plots and every figure; it needs nothing but itself, and prints well.

Place in the house: above plots and results, beside page, below command.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from html import escape
from pathlib import Path

from benchmarks import intervals, plots
from benchmarks.results import Measurement, Result, Suite, grouped

STYLE = Path(__file__).with_name("report.css").read_text()
NAMES = {
    "kernel": "kernel vxlan",
    "ovs": "Open vSwitch, userspace",
    "veth": "no VTEP (veth)",
    "overlay": "Docker's overlay",
    "scapy": "Scapy",
    "struct": "struct, by hand",
    "dict": "a dict",
}
"""Who is called by a word; others are called as in the result."""
STYLES = ("vxcore", "kernel", "ovs", "scapy", "dpkt", "veth", "struct")
"""The style of a plot by who it shows: the place of the first that its name begins with."""
_OTHERS = {
    "memcpy": 1,
    "inlined memcpy": 5,
    "cat": 4,
    "editcap": 2,
    "a copy": 4,
    "dict": 2,
    "overlay": 2,
    "python": 4,
    "numpy": 5,
}


TITLES = {
    "codec": "Codec",
    "tables": "Tables",
    "capture": "Capture files",
    "datapath": "Data path",
    "scale": "Scale",
    "containers": "Containers",
    "startup": "Start-up",
    "instructions": "Instructions",
}
"""By suite."""


def called(who: str) -> str:
    """``kernel:vxcore`` -> ``kernel vxlan to vxcore``."""
    left, _, right = who.partition(":")
    left, right = NAMES.get(left, left), NAMES.get(right, right)
    return left if right in ("", left) else f"{left} to {right}"


def style_of(who: str) -> int:
    """Of its bars and lines; 0 is vxcore's."""
    found = [n for n, name in enumerate(STYLES) if who.startswith(name)]
    return found[0] if found else next((n for name, n in _OTHERS.items() if who.startswith(name)), 3)


# What is drawn


@dataclass(frozen=True)
class Bars:
    """Who stands beside whom: a group of bars for each case that matches."""

    title: str
    cases: dict[str, str]
    """Patterns of cases, and what stands above the group."""
    log: bool = False
    note: str = ""

    def draw(self, run: Suite) -> str:
        groups = {
            heading: [_bar(each) for each in run.measurements if fnmatch(each.case, pattern)]
            for pattern, heading in self.cases.items()
        }
        groups = {heading: each for heading, each in groups.items() if each}
        units = [
            f"{each.unit}, {'less' if each.better == 'lower' else 'more'} is better"
            for each in run.measurements
            if any(fnmatch(each.case, pattern) for pattern in self.cases)
        ]
        return plots.bars(self.title, units[0], groups, self.log) if groups else ""


def _bar(each: Measurement) -> plots.Bar:
    low, high = intervals.of_median(grouped(each.samples))
    told = None if each.noisy else each.median
    note = f"too noisy to tell: {', '.join(each.noisy)}" if each.noisy else ""
    return plots.Bar(called(each.who), told, low, high, style_of(each.who), note)


@dataclass(frozen=True)
class Lines:
    """How something grows: cases PREFIX/SIZE, a line for each who."""

    title: str
    prefix: str
    across: str
    log: bool = False
    note: str = ""

    def draw(self, run: Suite) -> str:
        points: dict[str, list[plots.Point]] = {}
        shown = [
            each for each in run.measurements if each.case.startswith(f"{self.prefix}/") and not each.noisy
        ]
        for each in shown:
            size = float(each.case.removeprefix(f"{self.prefix}/").replace(",", ""))
            low, high = intervals.of_median(grouped(each.samples))
            points.setdefault(each.who, []).append(plots.Point(size, each.median, low, high))
        lines = [plots.Line(called(who), tuple(sorted(of)), style_of(who)) for who, of in points.items()]
        if not lines:
            return _too_noisy(run, f"{self.prefix}/*", self.title)
        unit = f"{shown[0].unit}, {'less' if shown[0].better == 'lower' else 'more'} is better"
        return plots.lines(self.title, self.across, unit, lines, self.log)


@dataclass(frozen=True)
class Percentiles:
    """Median, p99 and p99.9 of one case, a row for each who."""

    title: str
    case: str
    note: str = "A logarithmic scale."

    def draw(self, run: Suite) -> str:
        rows = [_percentiles(each) for each in run.measurements if each.case == self.case]
        return plots.ranges(self.title, "us, less is better", rows) if rows else ""


def _percentiles(each: Measurement) -> plots.Range:
    if each.noisy:
        note = f"too noisy to tell: {', '.join(each.noisy)}"
        return plots.Range(called(each.who), {}, note)
    values = {"p50": each.median, "p99": each.details["p99_us"], "p99.9": each.details["p999_us"]}
    return plots.Range(called(each.who), values)


def _too_noisy(run: Suite, pattern: str, title: str) -> str:
    """A plot of which there is nothing to show but why."""
    found = [_bar(each) for each in run.measurements if fnmatch(each.case, pattern)]
    return plots.bars(title, "", {"": found}) if found else ""


Figure = Bars | Lines | Percentiles
FIGURES: dict[str, tuple[Figure, ...]] = {
    "codec": (
        Bars("256 frames of 64 bytes, warm", {"encap": "encap", "decap": "decap"}),
        Bars(
            "Beside what one writes in Python",
            {"python/encap": "encap", "python/decap": "decap"},
            log=True,
            note="A logarithmic scale.",
        ),
        Lines("Throughput by frame size, lists of bytes in and out", "size", "bytes of a frame", log=True),
        Bars("Frames that no cache holds", {"encap_cold": "encap", "decap_cold": "decap"}),
    ),
    "tables": (
        Lines("A lookup in the forwarding table, by its size", "lookup", "entries", log=True),
        Bars("100,000 entries: fill and dump", {"fill_and_dump": ""}, log=True),
    ),
    "capture": (
        Bars("VXLAN off a capture file", {"decap": ""}),
        Bars("The same by libraries, on a small file", {"decap_by_libraries": ""}, log=True),
    ),
    "datapath": (
        Bars(
            "TCP between two VTEPs",
            {
                "tcp/offload/1": "one flow, super-frames cross",
                "tcp/offload/8": "eight flows, super-frames cross",
                "tcp/wire/1": "one flow, MTU-sized packets cross",
                "tcp/wire/8": "eight flows, MTU-sized packets cross",
                "tcp/nic/1": "one flow, MTU-sized packets cross and are joined on receipt",
            },
        ),
        Bars(
            "Small packets through one VTEP, of one core",
            {
                "pps/encap/1": "encap, one flow",
                "pps/encap/1000": "encap, 1,000 flows",
                "pps/decap/1": "decap, one flow",
                "pps/decap/1000": "decap, 1,000 flows",
            },
        ),
        Percentiles("Round trips through two idle VTEPs", "latency/idle"),
        Percentiles("Round trips beside one TCP flow", "latency/load"),
    ),
    "scale": (
        Lines("A packet out, by remotes, each with an entry", "remotes", "remotes"),
        Lines("A packet out, by entries of the FDB", "entries", "entries"),
        Lines("A packet in, by segments, each a VLAN of one interface", "segments", "segments"),
        Bars(
            "TCP by lanes, eight flows, MTU-sized packets",
            {f"lanes/{n}": f"{n} lane{'s'[: n > 1]}" for n in (1, 2, 4, 8, 16)},
        ),
    ),
    "containers": (
        Bars(
            "TCP between containers of two hosts",
            {
                "tcp/offload/1": "one flow, super-frames cross",
                "tcp/wire/1": "one flow, MTU-sized packets cross",
                "tcp/wire/8": "eight flows, MTU-sized packets cross",
            },
        ),
        Bars("From Docker running to containers that reach each other", {"set_up": ""}),
        Bars("Round trips between containers of two hosts", {"round_trip/wire": ""}),
    ),
    "startup": (
        Bars(
            "From the start of a process to its end",
            {
                "command": "a command",
                "import": "an import",
                "cni": "a CNI plugin",
                "vtep": "a VTEP, until it forwards",
            },
        ),
    ),
    "instructions": (Bars("Instructions for a packet, in batches of 256", {"packet": ""}),),
}
"""By suite."""


# The page


def page(result: Result) -> str:
    """The whole page."""
    body = "\n".join(part for name, run in result.suites.items() for part in _suite(name, run))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>vxcore, measured</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{plots.hatches()}\n"
        f"<h1>vxcore, measured</h1>\n{READING}\n{_contents(result)}\n{body}\n</body>\n</html>\n"
    )


READING = """<p>Bars and marks are medians; the thin line through one is the interval in which the median lies
with a confidence of 95%. What is compared was measured in turn, A B A B, and what crossed or came out was
checked. Where other processes, the hypervisor or the spread of samples leave no figure worth telling, that is
said instead.</p>"""


def _contents(result: Result) -> str:
    links = " ".join(f'<a href="#{name}">{TITLES.get(name, name)}</a>' for name in result.suites)
    return f"<nav>{links}</nav>"


def _suite(name: str, run: Suite) -> Iterator[str]:
    yield f'<section id="{name}">\n<h2>{TITLES.get(name, name)}</h2>'
    yield _environment(run)
    for figure in FIGURES.get(name, ()):
        drawn = figure.draw(run)
        if drawn:
            note = f"<p>{escape(figure.note)}</p>" if figure.note else ""
            yield f"<figure>\n<figcaption>{escape(figure.title)}</figcaption>\n{note}{drawn}\n</figure>"
    yield _all(run)
    if run.missing:
        rows = "".join(f"<li>{escape(each.name)}: {escape(each.reason)}</li>" for each in run.missing)
        yield f"<p>Not measured:</p>\n<ul>{rows}</ul>"
    yield "</section>"


def _environment(run: Suite) -> str:
    where = run.environment
    quick = ", a quick one" if run.quick else ""
    rows = {
        "run": f"{run.date}, {run.seconds:.0f} s{quick}: {run.command}",
        "commit": where.commit,
        "machine": f"{where.cpu}, {where.n_cpus} CPUs, allowed: {where.pinning or 'all'}, "
        f"governor: {where.governor or 'not told'}",
        "system": f"Linux {where.kernel}, {where.distribution}, Python {where.python}",
        "compiled": f"{where.compiler} {where.flags}".strip(),
        "with": ", ".join(version for version in where.tools.values() if version),
        "disturbed": f"other processes took {where.foreign_share:.1%} of the CPU time, the hypervisor "
        f"{where.steal_share:.1%}; load average before: {where.load_average[0]:.2f}",
    }
    cells = "".join(f"<tr><th>{name}</th><td>{escape(text)}</td></tr>" for name, text in rows.items() if text)
    head = f"{run.date[:10]}, commit {where.commit}, {where.cpu}, {where.n_cpus} CPUs"
    return f"<details><summary>{escape(head)}</summary><table>{cells}</table></details>"


def _all(run: Suite) -> str:
    """Every measurement, as a table."""
    rows = "\n".join(_row(each) for each in run.measurements)
    head = "".join(
        f"<th>{title}</th>" for title in ("case", "who", "median", "unit", "95% from", "to", "n", "checked")
    )
    return (
        f"<details><summary>All {len(run.measurements)} measurements</summary>\n"
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></details>"
    )


def _row(each: Measurement) -> str:
    low, high = intervals.of_median(grouped(each.samples))
    told = "too noisy" if each.noisy else plots.number(each.median)
    figures = (told, each.unit, plots.number(low), plots.number(high), str(len(each.samples)))
    cells = "".join(f'<td class="n">{escape(cell)}</td>' for cell in figures)
    ends = f"<td>{escape(each.case)}</td><td>{escape(called(each.who))}</td>"
    return f"<tr>{ends}{cells}<td>{escape(each.verified)}</td></tr>"
