"""Makes docs/performance.md of docs/performance.json, the kept result, and the other pages (`make docs`).

Place in the house: above results, report, and datapath's report, which makes a section of the same page. The
pages are made of the result alone; a test holds them equal to that.
"""

from __future__ import annotations

import json

import msgspec

from benchmarks import ROOT, results
from benchmarks import report as plotted
from benchmarks.compare import Comparison
from benchmarks.datapath import report
from benchmarks.datapath.report import paragraph, row
from benchmarks.results import Measurement, Result, Suite, is_noisy_ratio, ratio

RESULT = ROOT / "docs" / "performance.json"
PAGE = ROOT / "docs" / "performance.md"
HTML = ROOT / "docs" / "performance.html"
SCHEMA = ROOT / "benchmarks" / "schema.json"
HEAD = """# Performance

Made from [performance.json](performance.json) by `make docs`; [performance.html](performance.html) shows the
same with plots, and [benchmarks.md](benchmarks.md) says how to measure on your machine, and how to read it.
"""
NOISY = "too noisy to tell"


# The sections


def section(suite: str, run: Suite) -> str:
    """A suite's whole section."""
    return "\n".join(SECTIONS[suite](run))


def _about(run: Suite, others: str = "other processes") -> list[str]:
    where = run.environment
    tools, how = ", ".join(where.tools.values()), ", a quick run" if run.quick else ""
    return paragraph(
        f"{where.cpu}, {where.n_cpus} CPUs, Linux {where.kernel}, {where.distribution}, "
        f"Python {where.python}, {tools}. Commit {where.commit}, {run.date}, "
        f"`{run.command}`{how}, one core. Meanwhile {others} took {where.foreign_share:.0%} of the "
        f"machine's CPU time, and the hypervisor {where.steal_share:.0%}."
    )


class Figures:
    """Those of one suite, as cells of a table: empty where nothing was measured."""

    def __init__(self, run: Suite) -> None:
        self.found = run.found()

    def of(self, name: str, shown: str = "{:,.0f}", detail: str = "", scale: float = 1.0) -> str:
        """A median, or one of its details."""
        each = self.found.get(name)
        if each is None or (detail and detail not in each.details):
            return ""
        return (
            NOISY if each.noisy else shown.format(scale * (each.details[detail] if detail else each.median))
        )

    def ratio(self, name: str, other: str, shown: str = "**{:.2f}x**") -> str:
        """Of two that took turns."""
        one, beside = self.found.get(name), self.found.get(other)
        if one is None or beside is None:
            return ""
        return NOISY if is_noisy_ratio(one, beside) else shown.format(ratio(one, beside))

    def pair(self, name: str, other: str) -> str:
        """A median with that of the other behind it."""
        one, beside = self.of(name, "{:.1f}"), self.of(other, "{:.1f}")
        return f"{one} ({beside})" if one and beside and NOISY not in (one, beside) else ""


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
# What is measured, its name in the suite, who it is, beside whom, and the most that the ratio is to be.
ROWS = (
    ("encap, 256 frames, warm", "encap", "vxcore", "memcpy", 3.0),
    ("", "encap", "vxcore", "inlined memcpy", None),
    ("decap, 256 frames, warm", "decap", "vxcore", "memcpy", 3.0),
    ("", "decap", "vxcore", "inlined memcpy", None),
    ("encap, 262,144 frames, cold", "encap_cold", "vxcore", "memcpy", 2.0),
    ("", "encap_cold", "vxcore", "inlined memcpy", 2.0),
    ("decap, 262,144 frames, cold", "decap_cold", "vxcore", "memcpy", 2.0),
    ("", "decap_cold", "vxcore", "inlined memcpy", 2.0),
    (
        "encap, 4,096 frames over 4,096 tunnels",
        "encap_mixed",
        "vxcore, 4,096 tunnels",
        "vxcore, one tunnel",
        1.5,
    ),
    ("list of bytes in and out, encap", "list_in_list_out/encap", "vxcore", "a copy in C", 4.0),
    ("list of bytes in and out, decap", "list_in_list_out/decap", "vxcore", "a copy in C", 4.0),
)
OTHERS = {
    "vxcore": "vxcore",
    "struct": "a codec by hand, with `struct`",
    "dpkt": "dpkt",
    "scapy": "Scapy",
}


def _codec(run: Suite) -> list[str]:
    figures = Figures(run)
    lines = ["## Codec", "", *_about(run), *paragraph(READING)]
    lines += [row("", "beside", "aim", "ratio", "ns a packet"), row("---", "---", "---:", "---:", "---:")]
    for what, case, who, beside, aim in ROWS:
        names = f"{case}/{who}", f"{case}/{beside}"
        wanted = f"at most {aim:g}" if aim else ""
        lines.append(
            row(what, beside.removeprefix("vxcore, "), wanted, figures.ratio(*names), figures.pair(*names))
        )
    speed = figures.of("checksum/vxcore", "**{:.0f} GB/s**")
    return [
        *lines,
        "",
        *paragraph(
            f"The UDP checksum of 1,450 bytes: {speed} (aim: at least 10), with vectors as wide as "
            "the processor has them, chosen when it is loaded."
        ),
        *paragraph("Beside what one writes without vxcore, the same 256 frames (ns a packet):"),
        row("", "encap", "decap"),
        row("---", "---:", "---:"),
        *(
            _others(figures, who, text)
            for who, text in OTHERS.items()
            if f"python/encap/{who}" in figures.found
        ),
        "",
        *_sizes(figures),
    ]


def _others(figures: Figures, who: str, text: str) -> str:
    cells = []
    for way in ("encap", "decap"):
        times = figures.ratio(f"python/{way}/{who}", f"python/{way}/vxcore", "**{:,.0f}x**")
        alone = figures.of(f"python/{way}/{who}")
        cells.append(times if alone == NOISY else f"{times} {alone}".strip())
    return row(text, *cells)


def _sizes(figures: Figures) -> list[str]:
    sizes = [each.case.partition("/")[2] for each in figures.found.values() if each.case.startswith("size/")]
    if not sizes:
        return []
    names = {"vxcore": "vxcore", "struct": OTHERS["struct"], "a copy in C": "a copy in C, and no header"}
    sizes = list(dict.fromkeys(sizes))
    rows = [
        row(text, *(figures.of(f"size/{size}/{who}", "{:.2f}") for size in sizes))
        for who, text in names.items()
    ]
    return [
        *paragraph("Lists of bytes in and out through encap, by frame size (GB/s):"),
        row("", *(f"{int(size):,}" for size in sizes)),
        row("---", *["---:"] * len(sizes)),
        *rows,
        "",
    ]


TABLES = (
    "What lanes look up and Python changes: segments, forwarding table (FDB), flood sets. Times are medians; "
    "memory is resident, of a process of its own. Lookups are of random keys, in batches of 256, and their "
    "time includes the call from Python for each 2,000 batches. *While a lane forwards*: a VTEP process gets "
    "{rate:,.0f} frames a second from its TAP, of which {lost:.0f} of {offered:,.0f} were lost. *Beside "
    "changes*: the lookups of one thread while another flushes, ages and replaces a million entries."
)


def _tables(run: Suite) -> list[str]:
    figures = Figures(run)
    live = run.found().get("updates_while_forwarding/vxcore")
    lost, offered = (live.details["lost"], live.details["offered"]) if live else (0, 0)
    lines = ["## Tables", "", *_about(run)]
    lines += paragraph(TABLES.format(rate=10_000, lost=lost, offered=offered))
    lines += [row("", "aim", "measured", "beside it"), row("---", "---:", "---:", "---:")]
    for what, aim, measured, beside in _table_rows(figures):
        lines.append(row(what, aim, f"**{measured}**" if measured else "", beside))
    return [*lines, ""]


def _table_rows(figures: Figures) -> list[tuple[str, str, str, str]]:
    """What is measured, what was aimed at, the figure, and that of others."""
    of, ours, heavy = figures.of, "all_vnis/vxcore", "entries_weigh/10000000/vxcore"
    slowest = of("no_pause/vxcore", ", slowest {:.0f}", "slowest_us")
    fills = [
        of("fill_and_dump/kernel", "{:.2f} s, the kernel"),
        of("fill_and_dump/dict", "{:.2f} s, a dict"),
    ]
    return [
        ("load all 16,777,216 VNIs, a remote each", "10 s", of(ours, "{:.1f} s"), ""),
        ("the whole process then", "1,000 MB", of(ours, "{:,.0f} MB", "peak_mb"), ""),
        ("the same through `vxcore.segments`", "10 s", of("all_vnis_by_segments/vxcore", "{:.1f} s"), ""),
        ("memory of 10,000,000 FDB entries", "400 MB", of(heavy, "{:,.0f} MB"), ""),
        *(_lookup(figures, n, aim) for n, aim in LOOKUPS.items() if f"lookup/{n}/vxcore" in figures.found),
        ("replace 1,000,000 in one call", "1 M/s", of("replace/vxcore", "{:.1f} M/s"), ""),
        ("through `vxcore.fdb`", "1 M/s", of("replace_by_fdb/vxcore", "{:.1f} M/s"), ""),
        (
            "by calls of 20,000 while a lane forwards",
            "1 M/s",
            of("updates_while_forwarding/vxcore", "{:.1f} M/s"),
            "",
        ),
        ("one entry, by a call of its own", "", of("replace_one/vxcore", "{:.0f} µs"), ""),
        ("flush 1,000,000 learned entries", "1 ms", of("flush/vxcore", "{:.0f} µs"), ""),
        ("a lane's turn of ageing, 8,192 buckets", "1 ms", of("sweep/vxcore", "{:.0f} µs"), ""),
        ("a batch of lookups beside changes", "1 ms", of("no_pause/vxcore", "{:.0f} µs") + slowest, ""),
        ("change a flood set of 1,024 remotes", "", of("flood_set/vxcore", "{:.0f} µs"), ""),
        ("send a frame to 1,024 remotes, CPU time of each", "", of("flood/vxcore", "{:,.0f} ns"), ""),
        (
            "fill an FDB with 100,000 entries and dump it",
            "",
            of("fill_and_dump/vxcore", "{:.3f} s"),
            "; ".join(filter(None, fills)),
        ),
    ]


LOOKUPS = {"1,000": "", "10,000": "", "100,000": "", "1,000,000": "30 ns", "10,000,000": "60 ns"}


def _lookup(figures: Figures, n: str, aim: str) -> tuple[str, str, str, str]:
    other = figures.of(f"lookup/{n}/dict", "{:.0f} ns, a dict")
    return f"look up among {n}", aim, figures.of(f"lookup/{n}/vxcore", "{:.0f} ns"), other


FILES = (
    "`vxcore decap` of a pcap of {size:,.0f} MB from the page cache, run as a user runs it, with its start. "
    "Half of its frames are small and most of its bytes in large ones. Speed is megabytes per second of CPU "
    "time, user and system, for other processes disturb the clock more; all run in one thread. **1.00x** is "
    "`cat` of the same file to a new file. All files are in /dev/shm, where the pages that a new file gets "
    "cost the kernel more than anything else here: beside them stands a file that keeps its pages. dpkt and "
    "Scapy took a sample of 2 MB, which their seconds for a gigabyte are extrapolated from. Every "
    "case checked the packets it wrote. The aim was 1,000 MB/s where the file is no limit."
)
COMMANDS = {
    "decap/vxcore to nowhere": "vxcore decap to /dev/null",
    "decap/vxcore into pages that are there": "vxcore decap into pages that are there",
    "decap/cat into pages that are there": "cat into pages that are there",
    "decap/vxcore to a new file": "vxcore decap to a new file",
    "decap/cat to a new file": "cat to a new file",
    "decap/editcap to a new file": "editcap -C 50 to a new file: 50 bytes off whatever is there",
    "decap_by_libraries/dpkt": "dpkt, sample",
    "decap_by_libraries/scapy": "Scapy, sample",
    "inspect/vxcore": "vxcore inspect",
}


def _capture(run: Suite) -> list[str]:
    cases = run.found()
    unit = cases.get("decap/cat to a new file")
    if unit is None:
        return []
    lines = ["## Capture files", "", *_about(run), *paragraph(FILES.format(size=unit.details["mb"]))]
    lines += [
        row("", "speed", "MB/CPU s", "CPU s/GB", "MB/s by the clock"),
        row("---", "---:", "---:", "---:", "---:"),
    ]
    found = {name: text for name, text in COMMANDS.items() if name in cases}
    return [*lines, *(row(text, *_speed(cases[name], unit)) for name, text in found.items()), ""]


def _speed(one: Measurement, unit: Measurement) -> list[str]:
    times, cpu = ratio(unit, one), one.median
    shown = f"**{times:.2f}x**" if times > 0.01 else f"**1/{1 / times:,.0f}x**"
    alone = [f"{1000 / cpu:,.0f}", f"{cpu:,.3g}", f"{one.details['mb_per_s']:,.4g}"]
    return [NOISY if is_noisy_ratio(unit, one) else shown, *([""] * 3 if one.noisy else alone)]


STARTS = {
    "command/vxcore --help": "`vxcore --help`",
    "command/vxcore --version": "`vxcore --version`",
    "command/python -c pass": "`python -c pass`",
    "import/vxcore": "`import vxcore`",
    "import/vxcore, and a batch": "`from vxcore import PacketBatch, encap`",
    "import/numpy": "`import numpy`",
    "import/dpkt": "`import dpkt`",
    "import/scapy": "`import scapy.all`",
    "cni/vxcore-cni": "`vxcore-cni`, `CNI_COMMAND=VERSION`",
    "cni/bridge": "the reference CNI plugin `bridge`, the same",
    "vtep/vxcore run": "`vxcore run`, until it forwards",
    "vtep/kernel": "`ip link add ... type vxlan`, and up",
}


def _startup(run: Suite) -> list[str]:
    figures = Figures(run)
    lines = [
        "## Start-up",
        "",
        *_about(run),
        *paragraph("A process from its start to its end, by the clock."),
    ]
    lines += [row("", "ms", "least", "most"), row("---", "---:", "---:", "---:")]
    for name, text in STARTS.items():
        if name in figures.found:
            each = figures.found[name]
            lines.append(row(text, figures.of(name, "**{:.0f}**"), f"{each.low:.0f}", f"{each.high:.0f}"))
    return [*lines, ""]


SCALE = (
    "Small packets of 4,096 flows through one VTEP at 100,000 a second: the time of the core that the VTEP "
    "has to itself, the kernel's work on it included, for a packet (ns). The kernel's device stands beside "
    "where `bridge` fills it in seconds. Lanes carry TCP (Gb/s, eight flows, MTU-sized packets) on the cores "
    "that iperf3 and the kernel need too."
)
GROWN = {
    "remotes": "remotes, an entry each: packets out",
    "entries": "FDB entries: packets out",
    "segments": "segments, VLANs of one interface: packets in",
    "lanes": "lanes: TCP",
}


def _scale(run: Suite) -> list[str]:
    figures = Figures(run)
    lines = ["## Scale", "", *_about(run), *paragraph(SCALE)]
    for prefix, text in GROWN.items():
        cases = sorted(
            {each.case for each in run.measurements if each.case.startswith(f"{prefix}/")}, key=_size
        )
        if not cases:
            continue
        names = dict.fromkeys(each.who for each in run.measurements if each.case in cases)
        shown = "{:.2f}" if prefix == "lanes" else "{:,.0f}"
        lines += [row(text, *(case.partition("/")[2] for case in cases)), row("---", *["---:"] * len(cases))]
        lines += [
            row(report.NAMES.get(who, who), *(figures.of(f"{case}/{who}", shown) for case in cases))
            for who in names
        ]
        lines.append("")
    return lines


CONTAINERS = (
    "Containers of two hosts on one machine, each host a network namespace with its own Docker 20.10: by "
    "vxcore's network driver, by Docker's own overlay network in a swarm, and by hand, with a bridge of "
    "Docker's and the kernel's vxlan device in it. *Set-up* is from Docker running to a container on each "
    "host and an answer to a ping (s): for vxcore its start, twice; for overlay, making the swarm. *Left "
    "behind* is what a host has more after containers, network, and swarm or vxcore have gone: "
    "`docker_gwbridge` and its rules are Docker's way out, which both have; of namespaces Docker keeps "
    "names for a while. TCP by iperf3 (Gb/s), super-frames crossing between hosts or MTU-sized packets; "
    "round trips of small datagrams (us). **1.00x** is Docker's overlay. All processes of both hosts "
    "share the machine."
)
_OF_CONTAINERS = {
    "set_up": "set-up, s",
    "tcp/offload/1": "TCP, super-frames",
    "tcp/wire/1": "TCP, one flow",
    "tcp/wire/8": "TCP, eight flows",
    "round_trip/wire": "round trip, us",
}
_LEFT = ("devices", "rules", "namespaces", "files")
NETWORKS = {"vxcore": "vxcore", "overlay": "Docker's overlay", "kernel": "bridge and kernel vxlan"}


def _containers(run: Suite) -> list[str]:
    figures = Figures(run)
    lines = ["## Containers", "", *_about(run, "other processes, Docker's among them,")]
    lines += paragraph(CONTAINERS)
    lines += [
        row("", *_OF_CONTAINERS.values(), f"left behind: {', '.join(_LEFT)}"),
        row("---", *["---:"] * (len(_OF_CONTAINERS) + 1)),
    ]
    for who, text in NETWORKS.items():
        found = figures.found.get(f"set_up/{who}")
        left = ", ".join(f"{found.details[f'left_{kind}']:.0f}" for kind in _LEFT) if found else ""
        cells = [_beside(figures, case, who) for case in _OF_CONTAINERS]
        lines += [row(text, *cells, left)] if any(cells) else []
    return [*lines, ""]


def _beside(figures: Figures, case: str, who: str) -> str:
    alone = figures.of(f"{case}/{who}", "{:.3g}")
    times = figures.ratio(f"{case}/{who}", f"{case}/overlay")
    return alone if who == "overlay" or alone == times else f"{times} {alone}".strip()


COUNTS = (
    "Instructions of one core for a packet, in batches of 256, the call from Python included, counted by "
    "callgrind: they repeat, whatever else the machine does, and are what CI compares."
)


def _size(case: str) -> int:
    return int(case.partition("/")[2].replace(",", ""))


def _instructions(run: Suite) -> list[str]:
    figures = Figures(run)
    lines = ["## Instructions", "", *_about(run), *paragraph(COUNTS), row("", "a packet"), row("---", "---:")]
    return [*lines, *(row(each.who, figures.of(each.name)) for each in run.measurements), ""]


SECTIONS = {
    "codec": _codec,
    "tables": _tables,
    "capture": _capture,
    "datapath": report.section,
    "scale": _scale,
    "containers": _containers,
    "startup": _startup,
    "instructions": _instructions,
}


# The page


def page(result: Result) -> str:
    """The whole page."""
    return "\n".join(
        [HEAD, *(section(name, result.suites[name]) for name in SECTIONS if name in result.suites)]
    )


def schema() -> str:
    """The JSON Schema of a result, and of a comparison among its definitions, as text."""
    made = results.schema()
    made["$defs"] |= msgspec.json.schema(Comparison)["$defs"]
    return json.dumps(made, indent=1) + "\n"


def main() -> None:
    """Write the pages of the kept result, and the schema of all results."""
    kept = results.read(RESULT)
    PAGE.write_text(page(kept))
    HTML.write_text(plotted.page(kept))
    SCHEMA.write_text(schema())


if __name__ == "__main__":
    main()
