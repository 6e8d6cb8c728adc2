"""The data-path section of docs/performance.md, made from the results of one run.

Place in the house: above results alone, below page.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from fnmatch import fnmatch

from benchmarks.results import Measurement, Suite, ratio

REFERENCE = "kernel"
NAMES = {"veth": "no VTEP (veth)", "kernel": "kernel vxlan", "ovs": "Open vSwitch, userspace"}

Cell = Callable[[Measurement], str]
WIDTH = 104
NOISY = "too noisy to tell"


class Table:
    """Rows by who was measured, columns by what; a cell shows a measurement beside the reference's."""

    def __init__(self, run: Suite, columns: dict[str, str], reference: str, cell: Cell) -> None:
        self.found = {m.name: m for m in run.measurements}
        self.columns = columns
        self.reference = reference
        self.cell = cell

    def lines(self) -> list[str]:
        """In Markdown; without the columns and rows of which nothing was measured."""
        columns = {key: head for key, head in self.columns.items() if any(self._row(key))}
        if not columns:
            return []
        rows = dict.fromkeys(name.rpartition("/")[2] for key in columns for name in self._row(key))
        lines = [row("", *columns.values()), row("---", *["---:"] * len(columns))]
        return [*lines, *(row(_who(who), *(self._cell(key, who) for key in columns)) for who in rows), ""]

    def _row(self, key: str) -> list[str]:
        return [name for name in self.found if name.rpartition("/")[0] == key]

    def _cell(self, key: str, who: str) -> str:
        measured = self.found.get(f"{key}/{who}")
        if measured is None:
            return ""
        if measured.noisy:
            return NOISY
        reference = self.found.get(f"{key}/{self.reference}")
        beside = f"**{ratio(measured, reference):.2f}x** " if reference and not reference.noisy else ""
        return beside + self.cell(measured)


def row(*cells: str) -> str:
    """A line of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def _who(name: str) -> str:
    left, _, right = name.partition(":")
    left, right = NAMES.get(left, left), NAMES.get(right, right)
    return left if right in ("", left) else f"{left} to {right}"


# The tables


def _tcp(run: Suite, mode: str) -> list[str]:
    columns = {f"tcp/{mode}/{n}": f"{n} flow{'s'[: n > 1]}" for n in (1, 8)}
    lines = Table(run, columns, f"{REFERENCE}:{REFERENCE}", _gigabits).lines()
    return [f"TCP, {mode} mode (Gb/s; CPU seconds of the machine per gigabyte):", "", *lines] if lines else []


def _gigabits(m: Measurement) -> str:
    return f"{m.median:.2f} ({m.details['cpu_s_per_gigabyte']:.2f} s)"


def _pps(run: Suite) -> list[str]:
    columns = {
        f"pps/{way}/{n}": f"{way}, {n:,} flow{'s'[: n > 1]}" for way in ("encap", "decap") for n in (1, 1000)
    }
    lines = Table(run, columns, REFERENCE, _packets).lines()
    head = "Small packets (thousands per second of one core; CPU seconds of that core per million):"
    return [head, "", *lines] if lines else []


def _packets(m: Measurement) -> str:
    return f"{m.median / 1e3:,.0f} ({m.details['core_s_per_million']:.2f} s)"


def _latency(run: Suite) -> list[str]:
    columns = {"latency/idle": "idle", "latency/load": "beside one TCP flow"}
    lines = Table(run, columns, REFERENCE, _microseconds).lines()
    return ["Round trips (us: p50, p99, p99.9; the ratio is p50's):", "", *lines] if lines else []


def _microseconds(m: Measurement) -> str:
    tail = f"{m.details['p99_us']:,.0f}, {m.details['p999_us']:,.0f}"
    return f"{m.median:,.0f}, {tail}"


# The section


def section(run: Suite) -> list[str]:
    """The whole section."""
    lines = ["## Data path", "", *paragraph(_about(run)), *paragraph(READING), *_aims(run)]
    for table in (*(_tcp(run, mode) for mode in ("offload", "wire", "nic")), _pps(run), _latency(run)):
        lines += table
    return [*lines, *_doubts(run)]


def paragraph(text: str) -> list[str]:
    """Its lines, and an empty one."""
    return [*textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False), ""]


def _about(run: Suite) -> str:
    where = run.environment
    n_rounds = max((len(m.samples) for m in run.measurements), default=0)
    return (
        f"{where.cpu}, {where.n_cpus} CPUs, Linux {where.kernel}, {where.distribution}, "
        f"Python {where.python}, {', '.join(version for version in where.tools.values() if version)}. "
        f"Commit {where.commit}, "
        f"{run.date}, `{run.command}`: medians of {n_rounds} rounds, in {run.seconds / 60:.0f} minutes. "
        f"Meanwhile other processes took {where.foreign_share:.0%} of the CPU time, and the hypervisor "
        f"{where.steal_share:.0%}."
    )


READING = (
    "**1.00x** is the kernel's vxlan device. Ratios are medians of the quotients round by round, for the "
    "machine's speed drifts; trust them more than what stands behind them. Beside every figure a transfer "
    "was compared byte for byte. Hosts are network namespaces over one veth pair. "
    "*offload*: 64 KiB super-frames cross it. *wire*: all that crosses is MTU-sized, as on a wire. *nic*: so "
    "too, and the receiver's device joins packets (GRO) as NICs' drivers do. `benchmarks/datapath/` says how "
    "each figure is taken, and `vxcore bench datapath` takes them on your machine."
)


# What vxcore is to reach: what is measured (the best that matches), beside what, and how often that.
AIMS = (
    ("tcp/wire/1/vxcore*:vxcore*", "tcp/wire/1/kernel:kernel", "at least", 1.0),
    ("tcp/offload/1/vxcore*:vxcore*", "tcp/offload/1/kernel:kernel", "at least", 0.75),
    ("tcp/wire/1/vxcore*:vxcore*", "tcp/wire/1/ovs:ovs", "at least", 6.0),
    ("pps/encap/1/vxcore", "pps/encap/1/kernel", "at least", 0.7),
    ("pps/decap/1/vxcore", "pps/decap/1/kernel", "at least", 0.7),
    ("pps/encap/1/vxcore*", "pps/encap/1/kernel", "at least", 1.5),
    ("pps/decap/1/vxcore*", "pps/decap/1/kernel", "at least", 1.5),
    ("latency/idle/vxcore*", "latency/idle/kernel", "at most", 1.3),
)


def _aims(run: Suite) -> list[str]:
    rows = []
    for pattern, other, which, aim in AIMS:
        reference = [m for m in run.measurements if m.name == other]
        ratios = [
            (ratio(m, reference[0]), m.name)
            for m in run.measurements
            if reference and fnmatch(m.name, pattern) and not (m.noisy or reference[0].noisy)
        ]
        if ratios:
            best, name = max(ratios) if which == "at least" else min(ratios)
            rows.append(row(f"`{name}` / `{other}`", f"{which} {aim:g}", f"**{best:.2f}**"))
    return [row("ratio", "aim", "measured"), row("---", "---", "---:"), *rows, ""] if rows else []


def _doubts(run: Suite) -> list[str]:
    noisy = [f"{m.name} ({', '.join(m.noisy)})" for m in run.measurements if m.noisy]
    lines = paragraph(f"Too noisy to tell: {'; '.join(noisy)}.") if noisy else []
    missing = [f"- {one.name}: {one.reason}" for one in run.missing]
    return lines + (["Not measured:", "", *missing, ""] if missing else [])
