"""Makes docs/performance.md of what was measured; `--run` measures suites first.

Place in the house: above the bench_*.py of SUITES, which it runs under pytest-benchmark, and
above datapath, whose report makes a section of the same page. What a run says of itself is kept in
results/SUITE.json; the page is made of these files alone, and a test holds it equal to them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from benchmarks import ROOT
from benchmarks.datapath import machine, report
from benchmarks.datapath import results as datapath
from benchmarks.datapath.report import paragraph, row

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
# The files of each suite, and the packages that take part.
SUITES = {
    "codec": (("codec",), ("numpy", "scapy")),
    "tables": (("tables", "control", "live"), ("numpy",)),
    "capture": (("capture",), ("dpkt", "scapy")),
}
HEAD = "# Performance\n"


class Machine(Struct, frozen=True, kw_only=True):
    """Where a run took place, and what disturbed it."""

    cpu: str
    n_cpus: int
    kernel: str
    distribution: str
    python: str
    tools: tuple[str, ...]
    foreign_share: float
    steal_share: float


class Case(Struct, frozen=True, kw_only=True):
    """One case: the median of its rounds, and what it says of itself (bench_*.py names the keys)."""

    rounds: int
    median_s: float
    info: dict[str, float]


class Run(Struct, frozen=True, kw_only=True):
    """One run of one suite."""

    format: Literal["vxcore-bench/1"] = "vxcore-bench/1"
    command: str
    date: str
    commit: str
    machine: Machine
    cases: dict[str, Case]


# Measuring


def measure(suite: str, commit: str) -> Run:
    """Run the files of a suite; CalledProcessError when a case failed."""
    meter, started = machine.Meter(), datetime.now(UTC)
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told.json"
        files = [f"benchmarks/bench_{name}.py" for name in SUITES[suite][0]]
        command = [sys.executable, "-m", "pytest", "-q", *files]
        subprocess.run([*command, f"--benchmark-json={told}"], check=True, cwd=ROOT)
        cases = json.loads(told.read_bytes())["benchmarks"]
    foreign, steal = meter.shares()
    where = _machine(suite, foreign, steal)
    return Run(
        command=f"make performance ARGS={suite}",
        date=started.isoformat(timespec="minutes"),
        commit=commit,
        machine=where,
        cases={case["name"].removeprefix("test_"): _case(case) for case in cases},
    )


def _case(told: dict[str, dict[str, float]]) -> Case:
    stats = told["stats"]
    return Case(rounds=int(stats["rounds"]), median_s=stats["median"], info=told["extra_info"])


def _machine(suite: str, foreign: float, steal: float) -> Machine:
    tools = [f"{name} {version(name)}" for name in SUITES[suite][1]]
    if suite == "capture":
        tools.append(machine.version_of("editcap", "--version").rstrip("."))
    return Machine(
        cpu=machine.cpu_name(),
        n_cpus=os.cpu_count() or 1,
        kernel=platform.release(),
        distribution=machine.distribution(),
        python=platform.python_version(),
        tools=tuple(tools),
        foreign_share=round(foreign, 3),
        steal_share=round(steal, 3),
    )


def keep(run: Run, path: Path) -> None:
    """As JSON that people can read too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")


# The sections


def section(suite: str, run: Run) -> str:
    """A suite's whole section, marks included."""
    lines = {"codec": _codec, "tables": _tables, "capture": _capture}[suite](run)
    return "\n".join([*_marks(suite)[:1], *lines, *_marks(suite)[1:]]) + "\n"


def _marks(suite: str) -> tuple[str, str]:
    return f"<!-- {suite}: made by `make docs`, do not edit -->", f"<!-- {suite}: end -->"


def _about(run: Run) -> list[str]:
    where = run.machine
    return paragraph(
        f"{where.cpu}, {where.n_cpus} CPUs, Linux {where.kernel}, {where.distribution}, "
        f"Python {where.python}, {', '.join(where.tools)}. Commit {run.commit}, {run.date}, "
        f"`{run.command}`, one core. Meanwhile other processes took {where.foreign_share:.0%} of the "
        f"machine's CPU time, and the hypervisor {where.steal_share:.0%}."
    )


READING = (
    "Frames of 64 bytes, each of another flow, through an IPv4 tunnel: flow hash, source port, lengths and "
    "IPv4 checksum on the way out; all checks on the way in, and VNI, source, port and TOS as arrays. Ratios "
    "are medians of the quotients round by round, for both sides ran in turn; times are medians (cold: of "
    "CPU time), the call from Python included, with those of the other side behind them. Every case checked "
    "its bytes. *memcpy* copies the 50 bytes of header and nothing else: called, for headers of tunnels "
    "differ in length; in "
    "*inlined memcpy*, the length is a constant of the compiler: a dozen instructions a packet, where the "
    "codec's loops have about 85, at 4.5 a cycle. *A copy in C* makes a list of new bytes objects in a "
    "compiled loop."
)
# What is measured, its name in the suite, beside what, and the most that the ratio is to be.
ROWS = (
    ("encap, 256 frames, warm", "encap_vxcore", "memcpy", 3.0),
    ("", "encap_vxcore", "inlined memcpy", None),
    ("decap, 256 frames, warm", "decap_vxcore", "memcpy", 3.0),
    ("", "decap_vxcore", "inlined memcpy", None),
    ("encap, 262,144 frames, cold", "encap_cold", "memcpy", 2.0),
    ("", "encap_cold", "inlined memcpy", 2.0),
    ("decap, 262,144 frames, cold", "decap_cold", "memcpy", 2.0),
    ("", "decap_cold", "inlined memcpy", 2.0),
    ("encap, 4,096 frames over 4,096 tunnels", "encap_mixed", "one tunnel", 1.5),
    ("list of bytes in and out, encap", "list_in_list_out[encap]", "a copy in C", 4.0),
    ("list of bytes in and out, decap", "list_in_list_out[decap]", "a copy in C", 4.0),
)


def _codec(run: Run) -> list[str]:
    lines = ["## Codec", "", *_about(run), *paragraph(READING)]
    lines += [row("", "beside", "aim", "ratio", "ns a packet"), row("---", "---", "---:", "---:", "---:")]
    for what, name, beside, aim in ROWS:
        info = run.cases[name].info
        ratio, ns, other = (info[key] for key in (f"ratio to {beside}", "ns", f"ns of {beside}"))
        wanted = f"at most {aim:g}" if aim else ""
        lines.append(row(what, beside, wanted, f"**{ratio:.2f}x**", f"{ns:.1f} ({other:.1f})"))
    speed = run.cases["checksum"].info["GB/s"]
    return [
        *lines,
        "",
        *paragraph(
            f"The UDP checksum of 1,450 bytes: **{speed:.0f} GB/s** (aim: at least 10), with vectors as wide "
            "as the processor has them, chosen when it is loaded."
        ),
        *paragraph("Beside what one writes without vxcore, the same 256 frames (ns a packet):"),
        row("", "encap", "decap"),
        row("---", "---:", "---:"),
        *(_others(run, name, text) for name, text in OTHERS.items()),
        "",
    ]


OTHERS = {"vxcore": "vxcore", "struct": "a codec by hand, with `struct`", "scapy": "Scapy"}


def _others(run: Run, name: str, text: str) -> str:
    cells = []
    for way in ("encap", "decap"):
        ns, ours = (run.cases[f"{way}_{who}"].info["ns"] for who in (name, "vxcore"))
        cells.append(f"**{ns / ours:,.0f}x** {ns:,.0f}")
    return row(text, *cells)


TABLES = (
    "What lanes look up and Python changes: segments, forwarding table (FDB), flood sets. Times are medians; "
    "memory is resident, of a process of its own. Lookups are of random keys, in batches of 256, and their "
    "time includes the call from Python for each 2,000 batches. *While a lane forwards*: a VTEP process gets "
    "{rate:,.0f} frames a second from its TAP, of which {lost:.0f} of {offered:,.0f} were lost. *Beside "
    "changes*: the lookups of one thread while another flushes, ages and replaces a million entries."
)


def _tables(run: Run) -> list[str]:
    live = run.cases["updates_while_forwarding"].info
    lines = ["## Tables", "", *_about(run)]
    lines += paragraph(TABLES.format(rate=10_000, lost=live["lost"], offered=live["offered"]))
    lines += [row("", "aim", "measured", "beside it"), row("---", "---:", "---:", "---:")]
    return [*lines, *(row(*each) for each in _table_rows(run)), ""]


def _table_rows(run: Run) -> list[tuple[str, str, str, str]]:
    """What is measured, what was aimed at, the figure, and that of others."""

    def of(name: str, key: str) -> float:
        return run.cases[name].info[key]

    def seconds(name: str) -> float:
        return run.cases[name].median_s

    def dict_lookup(n: str) -> str:
        return f"{of(f'lookup_dict[{n}]', 'ns_per_packet'):.0f} ns, a dict"

    vnis, heavy = "all_vnis", "entries_weigh[10000000]"
    fills = (f"{seconds(name):.2f} s, {who}" for name, who in (("kernel", "the kernel"), ("dict", "a dict")))
    return [
        ("load all 16,777,216 VNIs, a remote each", "10 s", f"**{of(vnis, 'seconds'):.1f} s**", ""),
        ("the whole process then", "1,000 MB", f"**{of(vnis, 'peak') / 1e6:,.0f} MB**", ""),
        (
            "the same through `vxcore.segments`",
            "10 s",
            f"**{of('all_vnis_by_segments', 'seconds'):.1f} s**",
            "",
        ),
        ("memory of 10,000,000 FDB entries", "400 MB", f"**{of(heavy, 'grown') / 1e6:,.0f} MB**", ""),
        (
            "look up among 1,000",
            "",
            f"**{of('lookup[1,000]', 'ns_per_packet'):.0f} ns**",
            dict_lookup("1,000"),
        ),
        (
            "look up among 1,000,000",
            "30 ns",
            f"**{of('lookup[1,000,000]', 'ns_per_packet'):.0f} ns**",
            dict_lookup("1,000,000"),
        ),
        ("look up among 10,000,000", "60 ns", f"**{of('lookup[10,000,000]', 'ns_per_packet'):.0f} ns**", ""),
        ("replace 1,000,000 in one call", "1 M/s", f"**{of('replace', 'per_second') / 1e6:.1f} M/s**", ""),
        ("through `vxcore.fdb`", "1 M/s", f"**{of('replace_by_fdb', 'per_second') / 1e6:.1f} M/s**", ""),
        (
            "by calls of 20,000 while a lane forwards",
            "1 M/s",
            f"**{of('updates_while_forwarding', 'per_second') / 1e6:.1f} M/s**",
            "",
        ),
        ("one entry, by a call of its own", "", f"**{seconds('replace_one') * 1e6:.0f} µs**", ""),
        ("flush 1,000,000 learned entries", "1 ms", f"**{seconds('flush') * 1e6:.0f} µs**", ""),
        ("a lane's turn of ageing, 8,192 buckets", "1 ms", f"**{seconds('sweep') * 1e6:.0f} µs**", ""),
        (
            "a batch of lookups beside changes",
            "1 ms",
            f"**{seconds('no_pause') * 1e6:.0f} µs**, slowest {of('no_pause', 'slowest_us'):.0f}",
            "",
        ),
        ("change a flood set of 1,024 remotes", "", f"**{seconds('flood_set') * 1e6:.0f} µs**", ""),
        (
            "send a frame to 1,024 remotes, CPU time of each",
            "",
            f"**{of('flood', 'ns_per_copy'):,.0f} ns**",
            "",
        ),
        (
            "fill an FDB with 100,000 entries and dump it",
            "",
            f"**{seconds('vxcore'):.3f} s**",
            "; ".join(fills),
        ),
    ]


FILES = (
    "`vxcore decap` of a pcap of {size:,.0f} MB from the page cache, run as a user runs it, with its start. "
    "Half of its frames are small and most of its bytes in large ones. Speed is megabytes per second of CPU "
    "time, user and system, for other processes disturb the clock more; all run in one thread. **1.00x** is "
    "`cat` of the same file to a new file. All files are in /dev/shm, where the pages that a new file gets "
    "cost the kernel more than anything else here: beside them stands a file that keeps its pages. dpkt and "
    "Scapy took a sample of {sample:g} MB, which their seconds for a gigabyte are extrapolated from. Every "
    "case checked the packets it wrote. The aim was 1,000 MB/s where the file is no limit."
)
COMMANDS = {
    "vxcore_to_dev_null": "vxcore decap to /dev/null",
    "vxcore_into_pages_that_are_there": "vxcore decap into pages that are there",
    "cat_of_the_same[there]": "cat into pages that are there",
    "vxcore_to_a_file": "vxcore decap to a new file",
    "cat_of_the_same[new]": "cat to a new file",
    "editcap_chop": "editcap -C 50 to a new file: 50 bytes off whatever is there",
    "dpkt": "dpkt, sample",
    "scapy": "Scapy, sample",
    "inspect": "vxcore inspect",
}


def _capture(run: Run) -> list[str]:
    cases, unit = run.cases, run.cases["cat_of_the_same[new]"].info["CPU s/GB"]
    size, sample = (cases[name].info["MB"] for name in ("vxcore_to_a_file", "scapy"))
    lines = ["## Capture files", "", *_about(run), *paragraph(FILES.format(size=size, sample=sample))]
    lines += [
        row("", "speed", "MB/CPU s", "CPU s/GB", "MB/s by the clock"),
        row("---", "---:", "---:", "---:", "---:"),
    ]
    for name, text in COMMANDS.items():
        clock, cpu = cases[name].info["MB/s"], cases[name].info["CPU s/GB"]
        ratio = f"**{unit / cpu:.2f}x**" if unit / cpu > 0.01 else f"**1/{cpu / unit:,.0f}x**"
        lines.append(row(text, ratio, f"{1000 / cpu:,.0f}", f"{cpu:,.3g}", f"{clock:,.4g}"))
    return [*lines, ""]


# The page


def page() -> str:
    """The whole page, of the results that are kept."""
    text = HEAD
    for suite in SUITES:
        path = RESULTS / f"{suite}.json"
        if path.exists():
            text += "\n" + section(suite, msgspec.json.decode(path.read_bytes(), type=Run))
    path = RESULTS / "datapath.json"
    return report.placed(text, report.section(datapath.read(path))) if path.exists() else text


def main() -> None:
    """Measure what is asked for, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.performance", description=__doc__)
    parser.add_argument("--run", nargs="*", choices=SUITES, default=[], metavar="SUITE")
    options = parser.parse_args()
    commit = machine.commit()  # before results change the tree
    for suite in options.run:
        keep(measure(suite, commit), RESULTS / f"{suite}.json")
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
