"""What the requests of the control socket do: each a call of ``vxcore.Vtep``, or rows made of what it says.

Place in the house: in control, above protocol, below session. A function for each request of the list; it
takes the VTEP and what was asked, checked, and returns the reply, or yields the pieces of a long one.
"""

from __future__ import annotations

import os
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from socket import socket
from typing import Any, TypeVar

import msgspec
import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from vxcore import config, trace
from vxcore._version import __version__
from vxcore.addresses import mac_text
from vxcore.config import Segment
from vxcore.control import MAX_LINE
from vxcore.control.protocol import (
    REQUESTS,
    Asked,
    Done,
    DropRow,
    FdbFlush,
    FdbRemove,
    FdbRow,
    FdbSet,
    ForetellIn,
    ForetellOut,
    LaneRow,
    NeighbourRemove,
    NeighbourRow,
    NeighbourSet,
    OfEntry,
    OffloadRow,
    OfNeighbour,
    OfRemote,
    OfRoute,
    OfSegment,
    Overview,
    Packet,
    PlaneRow,
    Reloaded,
    RemoteRemove,
    RemoteRow,
    RemoteSet,
    RouteRow,
    Rows,
    Seen,
    SegmentAdd,
    SegmentChange,
    SegmentFlood,
    SegmentRemove,
    SegmentRow,
    Text,
    Told,
    Trouble,
)
from vxcore.engine import COUNTED
from vxcore.errors import ConfigError, UnsupportedError
from vxcore.fdb import KIND_NAMES, SEEN_BITS, now_s
from vxcore.plane_status import Status
from vxcore.problem import from_msgspec
from vxcore.remotes import IPAddress, unpacked
from vxcore.told import Member, Row
from vxcore.toml_writer import dumps, plain
from vxcore.verdict import Verdict
from vxcore.vtep import Vtep
from vxcore.watches import Sight

ROWS = 1000
"""In one reply."""
_PAGE_LEN = MAX_LINE // 2  # the other half is the id's, which comes back
_TEXT_LEN = 1 << 17
_LEARNED = ("learned", "frozen")

T = TypeVar("T")
Answer = Told | Iterator[Told]
Handler = Callable[["Operated", Any], Answer]


@dataclass(frozen=True)
class Operated:
    """The VTEP that a control socket is about, and what its process knows."""

    vtep: Vtep
    reload: Callable[[], None] | None = None
    """Apply the settings file again, or raise; None: there is no file."""
    file: str | None = None
    planes: Callable[[], Iterable[Status]] = tuple
    """How the control planes are."""
    hand_over: Callable[[socket, socket, int], None] | None = None
    """Give the VTEP to a process: its connection, the socket that listens, its pid. Returns if it failed."""
    stays: str = "this VTEP is a part of a program, and stays there"
    """Why it cannot be given."""
    started: float = field(default_factory=time.monotonic)


_HANDLERS: dict[str, Handler] = {}


def handles(name: str) -> Callable[[Handler], Handler]:
    """Make a function what a request does."""

    def register(handler: Handler) -> Handler:
        _HANDLERS[name] = handler
        return handler

    return register


def asked(name: str, given: dict[str, Any]) -> Asked:
    """What a request of the list takes, checked; raises ConfigError, naming the field that is wrong."""
    takes = REQUESTS[name].takes
    try:
        return msgspec.convert(given, takes, dec_hook=config.decode)  # type: ignore[return-value]
    except msgspec.ValidationError as error:
        raise ConfigError(config.explain(from_msgspec(error, takes), given)) from None


def answer(operated: Operated, name: str, given: Asked) -> Answer:
    """Do it; raises what the VTEP raises, and then nothing has changed."""
    return _HANDLERS[name](operated, given)


def _pages(rows: Iterable[Told]) -> Iterator[Told]:
    """A list in pieces of up to so many rows and bytes; at least one, which may be empty."""
    page: list[msgspec.Raw] = []
    n_bytes = 0
    for row in rows:
        encoded = msgspec.json.encode(row, enc_hook=str)
        if page and (len(page) == ROWS or n_bytes + len(encoded) > _PAGE_LEN):
            yield Rows(rows=page)
            page, n_bytes = [], 0
        page.append(msgspec.Raw(encoded))
        n_bytes += len(encoded) + 1
    yield Rows(rows=page)


# Asking


@handles("overview")
def _overview(operated: Operated, _: Asked) -> Answer:
    vtep = operated.vtep
    counters, remotes = vtep.counters(), vtep.snapshot("remotes")
    settings = vtep.settings
    fdb = counters["fdb"]
    offloads = {name: state for name, state in counters["offloads"].items() if state != "on"}
    totals = {name: sum(row[name] for row in counters["segments"]) for name in COUNTED}
    return Overview(
        version=__version__,
        pid=os.getpid(),
        uptime_s=round(time.monotonic() - operated.started, 3),
        file=operated.file,
        underlay=settings.underlay.kind,
        local=tuple(map(str, vtep.locals)),
        dstport=settings.underlay.dstport,
        lanes=settings.lanes.count,
        segments=len(settings.segments),
        collectors=len(settings.collects),
        remotes=len(remotes),
        learned_remotes=int(remotes["learned"].sum()),
        entries=fdb["entries"],
        learned_entries=int(vtep.snapshot("segments")["n_learned"].sum()),
        **totals,
        drops=counters["drops"],
        fdb={name: n for name, n in fdb.items() if name != "entries"},
        events=counters["events"],
        offloads=offloads,
    )


_NOTHING = [0] * len(COUNTED)


@handles("segment.list")
def _segment_list(operated: Operated, given: OfSegment) -> Answer:
    vtep = operated.vtep
    known = {segment.vni: segment for segment in vtep.settings.segments}
    counted = {row["vni"]: row for row in vtep.counters()["segments"]}
    learned = dict(vtep.snapshot("segments")[["vni", "n_learned"]].tolist())
    described = [row for row in vtep.describe() if given.vni is None or row["vni"] == given.vni]
    if given.vni is not None and not described:
        raise ConfigError(f"VNI {given.vni}: there is no such segment")
    return _pages(
        _segment_row(row, known.get(row["vni"]), counted[row["vni"]], learned.get(row["vni"], 0))
        for row in described[: given.limit]
        if row["vni"] in counted  # it was not added just now
    )


def _segment_row(
    row: dict[str, Any], segment: Segment | None, counted: dict[str, Any], learned: int
) -> SegmentRow:
    collects = bool(row.get("collects"))
    settings = plain(structs.replace(segment, fdb=(), neighbours=())) if segment else {}
    return SegmentRow(
        vni=None if collects else row["vni"],
        collects=row["vni"] if collects else None,
        port=row["port"],
        dev=row["dev"],
        mtu=row["mtu"],
        remotes=tuple(row["remotes"]),
        learned=learned,
        **{name: counted[name] for name in COUNTED},
        settings=settings,
    )


@handles("fdb.list")
def _fdb_list(operated: Operated, given: OfEntry) -> Answer:
    vtep = operated.vtep
    rows = vtep.snapshot("fdb")
    if given.kind is not None and given.kind not in KIND_NAMES.values():
        raise ConfigError(f"kind {given.kind!r}: one of {', '.join(KIND_NAMES.values())}")
    if given.vni is not None:
        rows = rows[rows["vni"] == given.vni]
    if given.mac is not None:
        rows = rows[rows["mac"] == given.mac.number]
    if given.remote is not None:
        rows = rows[rows["remote"] == vtep.remote(given.remote)]
    if given.kind is not None:
        rows = rows[[KIND_NAMES[number] == given.kind for number in rows["kind"].tolist()]]
    return _pages(_fdb_rows(vtep, rows[np.lexsort((rows["mac"], rows["vni"]))]))


def _fdb_rows(vtep: Vtep, rows: NDArray[Any]) -> Iterator[FdbRow]:
    remotes, devices, now = _remote_texts(vtep), vtep.devices(), now_s()
    columns = ("vni", "kind", "mac", "remote", "port", "sequence", "seen_s")
    for start in range(0, len(rows), ROWS):
        part = rows[start : start + ROWS]
        for vni, kind, mac, remote, port, sequence, seen in zip(
            *(part[name].tolist() for name in columns), strict=True
        ):
            name = KIND_NAMES[kind]
            yield FdbRow(
                vni=vni,
                mac=mac_text(mac),
                kind=name,
                remote=remotes.get(remote),
                dev=devices.get(port),
                sequence=sequence,
                age_s=(now - seen) & SEEN_BITS if name in _LEARNED else None,
            )


def _remote_texts(vtep: Vtep) -> dict[int, str]:
    rows = vtep.snapshot("remotes")
    numbers = rows["remote"].tolist()
    return {n: str(unpacked(bytes(address))) for n, address in zip(numbers, rows["address"], strict=True)}


@handles("remote.list")
def _remote_list(operated: Operated, given: OfRemote) -> Answer:
    vtep = operated.vtep
    rows = vtep.snapshot("remotes")
    if given.remote is not None:
        rows = rows[rows["remote"] == vtep.remote(given.remote)]
    lists = {remote.address: remote.vnis for remote in vtep.listed_remotes()}
    traffic = vtep.remote_traffic()
    carried = dict(zip(traffic.remote.tolist(), traffic.counts.tolist(), strict=True))
    return _pages(_remote_row(row, lists, carried.get(int(row["remote"]), _NOTHING)) for row in rows)


def _remote_row(row: Any, lists: dict[IPAddress, Any], carried: list[int]) -> RemoteRow:
    address = unpacked(bytes(row["address"]))
    return RemoteRow(
        address=str(address),
        uses=int(row["uses"]),
        named=bool(row["named"]),
        learned=bool(row["learned"]),
        vnis=lists.get(address),
        spoke=bool(row["spoke"]),
        **dict(zip(COUNTED, carried, strict=True)),
    )


@handles("neighbour.list")
def _neighbour_list(operated: Operated, given: OfNeighbour) -> Answer:
    rows = operated.vtep.snapshot("neighbours")
    if given.vni is not None:
        rows = rows[rows["vni"] == given.vni]
    if given.mac is not None:
        rows = rows[rows["mac"] == given.mac.number]
    return _pages(
        NeighbourRow(
            vni=int(row["vni"]),
            address=str(unpacked(bytes(row["address"]))),
            mac=mac_text(int(row["mac"])),
            router=bool(row["router"]),
        )
        for row in np.sort(rows, order=["vni", "address"])
    )


_N_TROUBLES = 100


@handles("plane.list")
def _plane_list(operated: Operated, _: Asked) -> Answer:
    return _pages(
        PlaneRow(
            **each._asdict()
            | {
                "n_troubles": len(each.troubles),
                "troubles": tuple(Trouble(**trouble._asdict()) for trouble in each.troubles[:_N_TROUBLES]),
            }
        )
        for each in operated.planes()
    )


@handles("route.list")
def _route_list(operated: Operated, given: OfRoute) -> Answer:
    return _pages(
        _route_row(row)
        for row in operated.vtep.told_rows()
        if given.vni in (None, row.route.vni)
        and given.mac in (None, getattr(row.route, "mac", None))
        and given.remote in (None, row.route.vtep)
    )


def _route_row(row: Row) -> RouteRow:
    route = row.route
    said: dict[str, Any] = {
        "plane": row.source,
        "vni": route.vni,
        "vtep": str(route.vtep),
        "state": row.state,
    }
    if isinstance(route, Member):
        return RouteRow(
            **said, route="member", mac=None, addresses=(), sequence=0, sticky=False, router=False
        )
    return RouteRow(
        **said,
        route="endpoint",
        mac=route.mac,
        addresses=tuple(map(str, route.addresses)),
        sequence=route.sequence,
        sticky=route.sticky,
        router=route.router,
    )


@handles("lane.list")
def _lane_list(operated: Operated, _: Asked) -> Answer:
    cpus = operated.vtep.settings.lanes.cpus
    return _pages(
        LaneRow(lane=number, cpu=cpus[number % len(cpus)] if cpus else None, counters=counters)
        for number, counters in enumerate(operated.vtep.counters()["lanes"])
    )


@handles("drop.list")
def _drop_list(operated: Operated, _: Asked) -> Answer:
    drops = sorted(operated.vtep.counters()["drops"].items(), key=lambda drop: (-drop[1], drop[0]))
    verdicts = {name: Verdict[name.upper()] for name, _ in drops}
    return _pages(
        DropRow(reason=name, packets=n, text=verdicts[name].text, remedy=verdicts[name].remedy)
        for name, n in drops
    )


@handles("offload.list")
def _offload_list(operated: Operated, _: Asked) -> Answer:
    return _pages(OffloadRow(offload=name, state=state) for name, state in operated.vtep.offloads().items())


@handles("save")
def _save(operated: Operated, _: Asked) -> Answer:
    text = dumps(operated.vtep.running())
    return (Text(text=text[start : start + _TEXT_LEN]) for start in range(0, len(text), _TEXT_LEN))


# Packets


@handles("foretell.out")
def _foretell_out(operated: Operated, given: ForetellOut) -> Answer:
    return Seen(packet=packet(operated.vtep.foretell_out(given.vni, given.data), steps=True, foretold=True))


@handles("foretell.in")
def _foretell_in(operated: Operated, given: ForetellIn) -> Answer:
    sight = operated.vtep.foretell_in(given.data, given.source, source_port=given.source_port, tos=given.tos)
    return Seen(packet=packet(sight, steps=True, foretold=True))


def packet(sight: Sight, steps: bool, foretold: bool = False) -> Packet:
    """A packet as clients get it."""
    return Packet(
        time_ns=sight.time_ns,
        way=sight.way,
        verdict=sight.verdict.name.lower(),
        lane=sight.lane,
        vni=sight.vni,
        device=sight.device,
        remote=None if sight.remote is None else str(sight.remote),
        source=None if sight.source is None else str(sight.source),
        source_port=sight.source_port,
        tos=sight.tos,
        gso_size=sight.gso_size,
        learned=sight.learned,
        length=sight.length,
        data=b64encode(sight.data).decode(),
        headline=trace.headline(sight) if steps else "",
        steps=tuple(trace.steps(sight, foretold)) if steps else (),
    )


# Changing


@handles("segment.add")
def _segment_add(operated: Operated, given: SegmentAdd) -> Answer:
    _may_speak(operated.vtep, ((each.vni, address) for each in given.segments for address in _named_by(each)))
    operated.vtep.add_segments(given.segments)
    return Done(changed=len(given.segments))


@handles("segment.change")
def _segment_change(operated: Operated, given: SegmentChange) -> Answer:
    if "vni" in given.set or "vni" in given.unset:
        raise ConfigError("vni: it cannot change; remove the segment, and add another")
    options = {**given.set, **_defaults(given.unset)}
    named = _named_by(config.segment({"vni": given.vni, **options}))
    _may_speak(operated.vtep, ((given.vni, address) for address in named))
    operated.vtep.change_segment(given.vni, **options)
    return Done(changed=1)


def _defaults(names: Iterable[str]) -> dict[str, Any]:
    known = {field.name: field.default for field in structs.fields(Segment)}
    for name in names:
        if name not in known:
            raise ConfigError(f"{name}: unknown key; known are {', '.join(known)}")
    return {name: known[name] for name in names}


@handles("segment.flood")
def _segment_flood(operated: Operated, given: SegmentFlood) -> Answer:
    _may_speak(operated.vtep, ((given.vni, address) for address in given.add))
    operated.vtep.change_flood(given.vni, add=given.add, remove=given.remove)
    return Done(changed=len(given.add) + len(given.remove))


@handles("segment.remove")
def _segment_remove(operated: Operated, given: SegmentRemove) -> Answer:
    operated.vtep.remove_segments(given.vnis)
    return Done(changed=len(set(given.vnis)))


@handles("fdb.add")
def _fdb_add(operated: Operated, given: FdbSet) -> Answer:
    return _set_entries(operated.vtep, given, operated.vtep.add_fdb)


@handles("fdb.replace")
def _fdb_replace(operated: Operated, given: FdbSet) -> Answer:
    return _set_entries(operated.vtep, given, operated.vtep.set_fdb)


def _set_entries(vtep: Vtep, given: FdbSet, change: Callable[..., int]) -> Answer:
    n = 0
    with vtep.journal.change():
        _may_speak(vtep, ((entry.vni, entry.remote) for entry in given.entries))
        for entry in given.entries:
            n += change(entry.vni, entry.mac, entry.remote, kind=entry.kind, sequence=entry.sequence)
    return Done(changed=n)


@handles("fdb.remove")
def _fdb_remove(operated: Operated, given: FdbRemove) -> Answer:
    with operated.vtep.journal.change():
        return Done(changed=sum(operated.vtep.remove_fdb(entry.vni, entry.mac) for entry in given.entries))


@handles("fdb.flush")
def _fdb_flush(operated: Operated, given: FdbFlush) -> Answer:
    vtep = operated.vtep
    before = len(vtep.snapshot("fdb"))
    vnis = [segment.vni for segment in vtep.settings.segments] if given.all else given.vnis
    vtep.flush(vnis=vnis, remotes=given.remotes, devices=given.devices)
    return Done(changed=max(0, before - len(vtep.snapshot("fdb"))))


@handles("remote.add")
def _remote_add(operated: Operated, given: RemoteSet) -> Answer:
    _lets_speak(operated.vtep, given)
    operated.vtep.add_remote(**structs.asdict(given))
    return Done(changed=1)


@handles("remote.change")
def _remote_change(operated: Operated, given: RemoteSet) -> Answer:
    _lets_speak(operated.vtep, given)
    operated.vtep.change_remote(**structs.asdict(given))
    return Done(changed=1)


@handles("remote.remove")
def _remote_remove(operated: Operated, given: RemoteRemove) -> Answer:
    operated.vtep.remove_remotes(given.addresses)
    return Done(changed=len(set(given.addresses)))


@handles("neighbour.set")
def _neighbour_set(operated: Operated, given: NeighbourSet) -> Answer:
    with operated.vtep.journal.change():
        for entry in given.entries:
            operated.vtep.set_neighbour(entry.vni, entry.address, entry.mac, router=entry.router)
    return Done(changed=len(given.entries))


@handles("neighbour.remove")
def _neighbour_remove(operated: Operated, given: NeighbourRemove) -> Answer:
    with operated.vtep.journal.change():
        for entry in given.entries:
            operated.vtep.remove_neighbour(entry.vni, entry.address)
    return Done(changed=len(given.entries))


@handles("reload")
def _reload(operated: Operated, _: Asked) -> Answer:
    if operated.reload is None:
        raise UnsupportedError("there is no file to read again: this VTEP was started by options alone")
    operated.reload()
    return Reloaded(segments=len(operated.vtep.settings.segments))


# What a file could not say, and so a request must not: a remote that is named where it may not speak.


def _named_by(segment: Segment) -> list[IPAddress]:
    return [*segment.remotes, *(entry.remote for entry in segment.fdb)]


def _may_speak(vtep: Vtep, named: Iterable[tuple[int, IPAddress]]) -> None:
    lists = {remote.address: remote.vnis for remote in vtep.listed_remotes()}
    for vni, address in named:
        vnis = lists.get(address)
        if vnis is not None and not _holds(vnis, vni):
            raise ConfigError(f"remote {address} may not speak in VNI {vni}; add the VNI to its `vnis`")


def _lets_speak(vtep: Vtep, remote: RemoteSet) -> None:
    if remote.vnis is None:
        return
    for vni in sorted(_naming(vtep, remote.address)):
        if not _holds(remote.vnis, vni):
            text = f"VNI {vni} names remote {remote.address}, which could not speak in it"
            raise ConfigError(f"{text}; add the VNI to `vnis`, or remove the remote there first")


def _naming(vtep: Vtep, address: IPAddress) -> set[int]:
    """The VNIs whose flood sets or set entries name a remote."""
    vnis = {segment.vni for segment in vtep.settings.segments if address in segment.remotes}
    number = vtep.remotes.number(address)
    if number is None:
        return vnis
    rows = vtep.snapshot("fdb")
    learned = [kind for kind, name in KIND_NAMES.items() if name in _LEARNED]
    return vnis | set(rows["vni"][(rows["remote"] == number) & ~np.isin(rows["kind"], learned)].tolist())


def _holds(vnis: Iterable[Any], vni: int) -> bool:
    return any(first <= vni <= last for first, last in (each.ends for each in vnis))
