"""The command show: what a running VTEP is and has, as tables or as JSON.

Place in the house: among the commands, above asking and words.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from vxcore.columns import columns
from vxcore.commands import argument, command, number
from vxcore.commands.asking import ASKING, connect, say, say_json, say_rows, say_table, say_text
from vxcore.commands.words import Grammar
from vxcore.errors import ConfigError
from vxcore.sizes import amount

_N_SEGMENTS = 8
_N_DROPS = 5
Row = dict[str, Any]
Rows = Iterator[Row]


class Table(NamedTuple):
    """Something that can be shown: the request, what a row must have, and its lines for people."""

    request: str
    filters: tuple[str, ...]
    show: Callable[[Rows], None]
    words: Grammar = Grammar("", {}, {})
    """How rows are chosen in the words of `ip` and `bridge`."""


def table_name(word: str) -> str:
    """The table that a word is for: one or many, and as `ip` is used to be told."""
    word = {"neigh": "neighbour", "neighbor": "neighbour", "drop": "drops"}.get(word, word)
    return word.removesuffix("s") if word != "drops" else word


@command(
    "show what a running VTEP is and has",
    "vxcore show                       # an overview\n"
    "vxcore show segment --json\n"
    "vxcore show fdb vni 42 dst 192.0.2.2\n"
    "ip netns exec blue vxcore show drops",
    argument(
        "what",
        nargs="?",
        type=table_name,
        choices=("segment", "fdb", "remote", "neighbour", "lane", "drops", "offload", "plane", "route"),
        help="segment, fdb, remote, neighbour, lane, drops, offload, plane or route (an overview)",
        metavar="WHAT",
    ),
    argument(
        "words",
        nargs="*",
        metavar="WORD",
        help="only rows of: vni N, dst IP, MAC, a kind, as `fdb show` has it",
    ),
    argument("--vni", type=number, metavar="N", help="segment, fdb, neighbour, route: only of this VNI"),
    argument("--mac", metavar="MAC", help="fdb, neighbour, route: only of this address"),
    argument("--remote", metavar="IP", help="fdb, remote, route: only of this remote"),
    argument("--kind", metavar="KIND", help="fdb: only of this kind, such as learned or static"),
    *ASKING,
)
def show(arguments: argparse.Namespace) -> int:
    """An overview, or one of the tables."""
    filters = {name: getattr(arguments, name) for name in ("vni", "mac", "remote", "kind")}
    return show_table(arguments, arguments.what, **filters)


def show_table(arguments: argparse.Namespace, what: str | None, **filters: Any) -> int:
    """Show a table, of which rows must have what `filters` and the words say; None: the overview."""
    given = {name: value for name, value in filters.items() if value is not None}
    said = TABLES[what].words.read(arguments.words) if what is not None else {}
    for name in said.keys() & given.keys():
        raise ConfigError(f"--{name}: said twice, by {said[name]} too; once is right")
    given |= said
    for name in given:
        if what is None or name not in TABLES[what].filters:
            known = ", ".join(each for each, table in TABLES.items() if name in table.filters)
            raise ConfigError(f"--{name}: not about {what or 'the overview'}, but about {known}")
    with connect(arguments) as vtep:
        if what is None:
            overview, segments = vtep.ask("overview"), list(vtep.rows("segment.list", limit=_N_SEGMENTS))
            say_json(overview) if arguments.json else _overview(overview, segments)
            return 0
        rows = vtep.rows(TABLES[what].request, **given)
        say_rows(rows) if arguments.json else TABLES[what].show(rows)
    return 0


# The overview


def _overview(vtep: Row, segments: list[Row]) -> None:
    """A screenful."""
    say(_summary(vtep))
    say_table(_segment_lines(segments))
    n_more = vtep["segments"] + vtep["collectors"] - len(segments)
    if n_more > 0:
        say([f"and {n_more} more (vxcore show segment)"])


def _summary(vtep: Row) -> Iterator[str]:
    started = f", {vtep['file']}" if vtep["file"] else ""
    yield f"vxcore {vtep['version']}, process {vtep['pid']}, up {duration(vtep['uptime_s'])}{started}"
    yield f"  underlay   {vtep['underlay']}, {' and '.join(vtep['local'])}, port {vtep['dstport']}"
    yield f"  lanes      {vtep['lanes']}"
    yield f"  received   {vtep['rx_packets']} packets, {amount(vtep['rx_bytes'])}"
    yield f"  sent       {vtep['tx_packets']} packets, {amount(vtep['tx_bytes'])}"
    yield f"  addresses  {vtep['entries']}, {vtep['learned_entries']} of them learned"
    yield f"  remotes    {vtep['remotes']}, {vtep['learned_remotes']} of them learned"
    yield f"  offloads   {_offloads(vtep['offloads'])}"
    yield f"  dropped    {_drops(vtep['drops'])}"
    yield ""


def _offloads(states: dict[str, str]) -> str:
    return "; ".join(f"{name} {state}" for name, state in states.items()) or "all on"


def _drops(drops: dict[str, int]) -> str:
    worst = sorted(drops.items(), key=lambda drop: -drop[1])
    said = ", ".join(f"{name} {n}" for name, n in worst[:_N_DROPS])
    more = f" and {len(worst) - _N_DROPS} reasons more" if len(worst) > _N_DROPS else ""
    return f"{said}{more} (vxcore show drops)" if said else "nothing"


def duration(seconds: float) -> str:
    """A time for a person, in its two largest units: ``3 h 12 min``."""
    left, parts = int(seconds), []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        n, left = divmod(left, size)
        if n:
            parts.append(f"{n} {unit}")
    return " ".join(parts[:2]) or "0 s"


# The tables


def _segments(rows: Rows) -> None:
    say_table(_segment_lines(rows))


def _segment_lines(rows: Iterable[Row]) -> Iterator[str]:
    titles = ["VNI", "PORT", "REMOTES", "MTU", "LEARNED", "RECEIVED", "SENT"]
    return columns(titles, [_segment(row) for row in rows], n_left=3)


def _segment(row: Row) -> list[str]:
    vni = row["collects"] if row["vni"] is None else str(row["vni"])
    remotes = row["remotes"]
    shown = ", ".join(remotes[:2]) + (f" and {len(remotes) - 2} more" if len(remotes) > 2 else "")
    port = f"{row['port']} {row['dev']}"
    counts = [str(row[name]) for name in ("mtu", "learned", "rx_packets", "tx_packets")]
    return [vni, port, shown or "none", *counts]


def _fdb(rows: Rows) -> None:
    """As `bridge fdb show` has them, a line each, for there may be a million."""
    say(_entry(row) for row in rows)


def _entry(row: Row) -> str:
    where = f"dst {row['remote']}" if row["remote"] is not None else f"dev {row['dev']}"
    sequence = f" sequence {row['sequence']}" if row["sequence"] else ""
    age = f" age {row['age_s']}" if row["age_s"] is not None else ""
    return f"{row['mac']} {where} vni {row['vni']} {row['kind']}{sequence}{age}"


def _remotes(rows: Rows) -> None:
    titles = ["REMOTE", "VNIS", "WHY", "USES", "RECEIVED", "SENT"]
    say_table(columns(titles, [_remote(row) for row in rows], n_left=3))


def _remote(row: Row) -> list[str]:
    vnis = "all" if row["vnis"] is None else ",".join(row["vnis"]) or "none"
    reasons = (("added", row["named"]), ("learned", row["learned"]), ("spoke", row["spoke"]))
    why = [word for word, holds in reasons if holds]
    counts = [str(row[name]) for name in ("uses", "rx_packets", "tx_packets")]
    return [row["address"], vnis, ", ".join(why) or "used", *counts]


def _neighbours(rows: Rows) -> None:
    say(
        f"{row['address']} lladdr {row['mac']} vni {row['vni']}{' router' if row['router'] else ''}"
        for row in rows
    )


def _lanes(rows: Rows) -> None:
    lanes = list(rows)
    names = list(lanes[0]["counters"])
    titles = ["LANE", "CPU", *(name.upper() for name in names)]
    cells = [
        [str(lane["lane"]), "any" if lane["cpu"] is None else str(lane["cpu"])]
        + [str(lane["counters"][name]) for name in names]
        for lane in lanes
    ]
    say_table(columns(titles, cells))


def _dropped(rows: Rows) -> None:
    drops = list(rows)
    if not drops:
        say(["nothing was dropped"])
        return
    lines = [[row["reason"], row["text"], str(row["packets"])] for row in drops]
    say_table(columns(["REASON", "MEANING", "PACKETS"], lines, n_left=2))
    say_text(["", "what to do:", *(f"  {row['reason']}: {row['remedy']}" for row in drops)])


def _offload(rows: Rows) -> None:
    lines = [[row["offload"], row["state"]] for row in rows]
    say_table(columns(["OFFLOAD", "STATE"], lines, n_left=2))


def _planes(rows: Rows) -> None:
    planes = list(rows)
    if not planes:
        say(["there is no control plane"])
        return
    titles = ["PLANE", "STATE", "FOR", "WITH", "HEARD", "ANNOUNCED", "TROUBLES"]
    counts = ("heard", "announced", "n_troubles")
    lines = [
        [row["plane"], row["state"], duration(row["since_s"]), row["peer"], *(str(row[n]) for n in counts)]
        for row in planes
    ]
    say_table(columns(titles, lines, n_left=4))
    say_text([line for row in planes for line in _plane_notes(row)])


def _plane_notes(row: Row) -> Iterator[str]:
    if row["reason"]:
        yield f"{row['plane']}: {row['reason']}"
    for trouble in row["troubles"]:
        yield f"{row['plane']}: {trouble['what']}: {trouble['why']}"
    n_more = row["n_troubles"] - len(row["troubles"])
    if n_more:
        yield f"{row['plane']}: and {n_more} more"


def _routes(rows: Rows) -> None:
    say(_route(row) for row in rows)


def _route(row: Row) -> str:
    where = f"{row['mac']} dst {row['vtep']}" if row["mac"] is not None else f"member {row['vtep']}"
    addresses = "".join(f" ip {address}" for address in row["addresses"])
    sequence = f" sequence {row['sequence']}" if row["sequence"] else ""
    flags = "".join(f" {flag}" for flag in ("sticky", "router") if row[flag])
    return f"{where} vni {row['vni']}{addresses}{sequence}{flags} {row['plane']} {row['state']}"


_KINDS = {kind: {"kind": kind} for kind in ("learned", "frozen", "static", "control", "sticky")}
TABLES = {
    "segment": Table("segment.list", ("vni",), _segments, Grammar("vni", {"vni": "vni"}, {})),
    "fdb": Table(
        "fdb.list",
        ("vni", "mac", "remote", "kind"),
        _fdb,
        Grammar("mac", {"vni": "vni", "dst": "remote"}, _KINDS),
    ),
    "remote": Table("remote.list", ("remote",), _remotes, Grammar("remote", {"dst": "remote"}, {})),
    "neighbour": Table(
        "neighbour.list", ("vni", "mac"), _neighbours, Grammar("", {"vni": "vni", "lladdr": "mac"}, {})
    ),
    "plane": Table("plane.list", (), _planes),
    "route": Table(
        "route.list",
        ("vni", "mac", "remote"),
        _routes,
        Grammar("mac", {"vni": "vni", "dst": "remote"}, {}),
    ),
    "lane": Table("lane.list", (), _lanes),
    "drops": Table("drop.list", (), _dropped),
    "offload": Table("offload.list", (), _offload),
}
