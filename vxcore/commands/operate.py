"""The commands that change a running VTEP, save what it is, and tell what happens in it.

Place in the house: among the commands, above asking, words and show. They are shaped as `ip` and `bridge`
are.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from vxcore.commands import ALIASES, GROUPS, argument, command, number
from vxcore.commands.asking import ASKING, CONTROL, JSON, connect, say, say_json
from vxcore.commands.show import show_table
from vxcore.commands.vtep import SEGMENT
from vxcore.commands.words import Grammar
from vxcore.errors import ConfigError
from vxcore.files import replacing

GROUPS |= {
    "segment": "segments of a running VTEP: add, remove, change, show them",
    "fdb": "the forwarding table of a running VTEP, as `bridge fdb` has it",
    "remote": "remotes of a running VTEP, beside those that segments and entries name",
    "neighbour": "neighbours whose requests a running VTEP answers, as `ip neighbour` has them",
}
ALIASES |= {"neighbor": "neighbour", "neigh": "neighbour"}


def _change(arguments: argparse.Namespace, do: str, **given: Any) -> int:
    """Ask for a change; as `ip`, say nothing when it is done."""
    with connect(arguments) as vtep:
        done = vtep.ask(do, **given)
    if arguments.json:
        say_json(done)
    elif not done["changed"]:
        say(["nothing has changed: what is there stays"])
    return 0


# Segments

_VNI = argument("vni", type=number, metavar="VNI", help="VXLAN network identifier")
_KEYS = argument(
    "--set",
    dest="keys",
    action="append",
    metavar="KEY=VALUE",
    help="any key of [[segment]], its value as in a file; may be repeated",
)


@command(
    "add a segment, with the options of `vxcore up`",
    "vxcore segment add --vni 43 --tap vx43 --remote 192.0.2.2 --remote 192.0.2.3",
    argument("--vni", type=number, required=True, metavar="N", help="VXLAN network identifier"),
    *SEGMENT,
    _KEYS,
    *ASKING,
    name="segment add",
)
def segment_add(arguments: argparse.Namespace) -> int:
    """Other segments do not notice."""
    from vxcore.config import segment_from_arguments

    return _change(arguments, "segment.add", segments=[segment_from_arguments(vars(arguments))])


@command(
    "change a segment; what is not named stays as it is",
    "vxcore segment set 42 --ageing 60 --unknown-unicast drop\n"
    "vxcore segment set 42 --set source='[\"192.0.2.0/24\"]' --unset group",
    _VNI,
    *SEGMENT,
    argument("--learning", action="store_true", default=None, help="learn addresses"),
    _KEYS,
    argument("--unset", action="append", metavar="KEY", help="back to its default; may be repeated"),
    *ASKING,
    name="segment set",
)
def segment_set(arguments: argparse.Namespace) -> int:
    """Its port stays."""
    from vxcore.config import segment_from_arguments

    given = segment_from_arguments(vars(arguments))
    vni = given.pop("vni")
    return _change(arguments, "segment.change", vni=vni, set=given, unset=arguments.unset)


@command(
    "remove segments, with their entries",
    "vxcore segment del 43",
    argument("vnis", type=number, nargs="+", metavar="VNI", help="VXLAN network identifier"),
    *ASKING,
    name="segment del",
)
def segment_del(arguments: argparse.Namespace) -> int:
    """All of them, or none."""
    return _change(arguments, "segment.remove", vnis=arguments.vnis)


@command(
    "show segments, with counters",
    "vxcore segment show 42",
    argument("words", nargs="*", metavar="VNI", help="only this one"),
    *ASKING,
    name="segment show",
)
def segment_show(arguments: argparse.Namespace) -> int:
    """As `vxcore show segment`."""
    return show_table(arguments, "segment")


# The forwarding table

FLOOD = "00:00:00:00:00:00"
"""As with the kernel's device, the address whose entries are the flood set."""
_KINDS = {kind: {"kind": kind} for kind in ("static", "control", "sticky")}
_ENTRY = Grammar(
    "mac",
    {"dst": "remote", "vni": "vni", "sequence": "sequence"},
    _KINDS,
    needed=("mac", "remote", "vni"),
)
_ENTRY_KEY = Grammar("mac", {"vni": "vni", "dst": "remote"}, {}, needed=("mac", "vni"))
_FLUSHED = Grammar(
    "", {"vni": "vnis", "dst": "remotes", "dev": "devices"}, {"all": {"all": True}}, collects=True
)
_ENTRY_WORDS = argument(
    "words",
    nargs="*",
    metavar="WORD",
    help=f"MAC dst IP vni N [static|control|sticky] [sequence N]; {FLOOD} is the flood set",
)


def _set_entry(arguments: argparse.Namespace, do: str) -> int:
    entry = _ENTRY.read(arguments.words)
    if entry["mac"] == FLOOD:
        return _change(arguments, "segment.flood", vni=entry["vni"], add=[entry["remote"]])
    return _change(arguments, do, entries=[entry])


@command(
    "set an entry that is not set yet, or add to a flood set",
    "vxcore fdb add 02:00:00:00:00:01 dst 192.0.2.2 vni 42\n"
    "vxcore fdb add 02:00:00:00:00:02 dst 192.0.2.2 vni 42 control sequence 3\n"
    f"vxcore fdb add {FLOOD} dst 192.0.2.3 vni 42",
    _ENTRY_WORDS,
    *ASKING,
    name="fdb add",
)
def fdb_add(arguments: argparse.Namespace) -> int:
    """What was learned is no obstacle."""
    return _set_entry(arguments, "fdb.add")


@command(
    "set an entry, in the place of what is there",
    "vxcore fdb replace 02:00:00:00:00:01 dst 192.0.2.3 vni 42",
    _ENTRY_WORDS,
    *ASKING,
    name="fdb replace",
)
def fdb_replace(arguments: argparse.Namespace) -> int:
    """Of control entries the higher sequence number stays."""
    return _set_entry(arguments, "fdb.replace")


@command(
    "remove an entry, or a remote from a flood set",
    f"vxcore fdb del 02:00:00:00:00:01 vni 42\nvxcore fdb del {FLOOD} dst 192.0.2.3 vni 42",
    argument("words", nargs="*", metavar="WORD", help=f"MAC vni N; or {FLOOD} dst IP vni N"),
    *ASKING,
    name="fdb del",
)
def fdb_del(arguments: argparse.Namespace) -> int:
    """Of any kind, learned ones too."""
    entry = _ENTRY_KEY.read(arguments.words)
    if entry["mac"] == FLOOD:
        if "remote" not in entry:
            raise ConfigError("dst: missing; the remote that is to leave the flood set")
        return _change(arguments, "segment.flood", vni=entry["vni"], remove=[entry["remote"]])
    if "remote" in entry:
        raise ConfigError(f"dst {entry['remote']}: an address has one entry in a segment; leave it out")
    return _change(arguments, "fdb.remove", entries=[entry])


@command(
    "forget learned entries",
    "vxcore fdb flush vni 42 vni 43\nvxcore fdb flush dst 192.0.2.2\nvxcore fdb flush all",
    argument(
        "words", nargs="+", metavar="WORD", help="vni N, dst IP, dev DEV, which may be repeated; or all"
    ),
    *ASKING,
    name="fdb flush",
)
def fdb_flush(arguments: argparse.Namespace) -> int:
    """Set ones stay."""
    with connect(arguments) as vtep:
        done = vtep.ask("fdb.flush", **_FLUSHED.read(arguments.words))
    say_json(done) if arguments.json else say([f"{done['changed']} entries forgotten"])
    return 0


@command(
    "show entries, as `bridge fdb show` does",
    "vxcore fdb show vni 42 dst 192.0.2.2\nvxcore fdb show 02:00:00:00:00:01\nvxcore fdb show static",
    argument("words", nargs="*", metavar="WORD", help="only those of: MAC, vni N, dst IP, a kind"),
    *ASKING,
    name="fdb show",
)
def fdb_show(arguments: argparse.Namespace) -> int:
    """As `vxcore show fdb`."""
    return show_table(arguments, "fdb")


# Remotes

_REMOTE = Grammar("address", {"vni": "vnis"}, {"spoke": {"spoke": True}}, needed=("address",))
_REMOTE_WORDS = argument(
    "words",
    nargs="*",
    metavar="WORD",
    help="IP [vni LIST] [spoke]: the VNIs that it may speak in, 42,100-199 (all); whether it is a spoke",
)


def _set_remote(arguments: argparse.Namespace, do: str) -> int:
    remote = _REMOTE.read(arguments.words)
    vnis = str(remote["vnis"]).split(",") if "vnis" in remote else None
    return _change(arguments, do, address=remote["address"], vnis=vnis, spoke=remote.get("spoke", False))


@command(
    "add a remote that stays, whether or not something names it",
    "vxcore remote add 192.0.2.4 vni 42,100-199",
    _REMOTE_WORDS,
    *ASKING,
    name="remote add",
)
def remote_add(arguments: argparse.Namespace) -> int:
    """It is in no flood set by that."""
    return _set_remote(arguments, "remote.add")


@command(
    "let a remote speak in other VNIs",
    "vxcore remote set 192.0.2.4 vni 42\nvxcore remote set 192.0.2.4",
    _REMOTE_WORDS,
    *ASKING,
    name="remote set",
)
def remote_set(arguments: argparse.Namespace) -> int:
    """Without a list, in all."""
    return _set_remote(arguments, "remote.change")


@command(
    "remove remotes, and what was learned from them",
    "vxcore remote del 192.0.2.4",
    argument("addresses", nargs="+", metavar="IP", help="the remote's address"),
    *ASKING,
    name="remote del",
)
def remote_del(arguments: argparse.Namespace) -> int:
    """None of which a flood set or a set entry may name."""
    return _change(arguments, "remote.remove", addresses=arguments.addresses)


@command(
    "show remotes",
    "vxcore remote show",
    argument("words", nargs="*", metavar="IP", help="only this one"),
    *ASKING,
    name="remote show",
)
def remote_show(arguments: argparse.Namespace) -> int:
    """As `vxcore show remote`."""
    return show_table(arguments, "remote")


# Neighbours

_NEIGHBOUR = Grammar(
    "address",
    {"lladdr": "mac", "vni": "vni"},
    {"router": {"router": True}},
    needed=("address", "mac", "vni"),
)
_NEIGHBOUR_KEY = Grammar("address", {"vni": "vni"}, {}, needed=("address", "vni"))


@command(
    "answer ARP and neighbour requests for an address here",
    "vxcore neighbour add 10.42.0.7 lladdr 02:00:00:00:00:07 vni 42",
    argument("words", nargs="*", metavar="WORD", help="IP lladdr MAC vni N [router]"),
    *ASKING,
    name="neighbour add",
)
def neighbour_add(arguments: argparse.Namespace) -> int:
    """In the place of what is there."""
    return _change(arguments, "neighbour.set", entries=[_NEIGHBOUR.read(arguments.words)])


@command(
    "let requests for an address go to all again",
    "vxcore neighbour del 10.42.0.7 vni 42",
    argument("words", nargs="*", metavar="WORD", help="IP vni N"),
    *ASKING,
    name="neighbour del",
)
def neighbour_del(arguments: argparse.Namespace) -> int:
    """One of them."""
    return _change(arguments, "neighbour.remove", entries=[_NEIGHBOUR_KEY.read(arguments.words)])


@command(
    "show neighbours",
    "vxcore neighbour show vni 42",
    argument("words", nargs="*", metavar="WORD", help="only those of: vni N, lladdr MAC"),
    argument("--vni", type=number, metavar="N", help="only of this VNI"),
    *ASKING,
    name="neighbour show",
)
def neighbour_show(arguments: argparse.Namespace) -> int:
    """As `vxcore show neighbour`."""
    return show_table(arguments, "neighbour", vni=arguments.vni)


# The whole


@command("let a running VTEP read its file again, as SIGHUP does", "vxcore reload", *ASKING)
def reload(arguments: argparse.Namespace) -> int:
    """Says what became of it."""
    with connect(arguments) as vtep:
        done = vtep.ask("reload")
    say_json(done) if arguments.json else say([f"reloaded: {done['segments']} segments"])
    return 0


@command(
    "write what a running VTEP is as a file for `vxcore run`",
    "vxcore save /etc/vxcore.toml\nvxcore save | diff /etc/vxcore.toml -",
    argument(
        "file", nargs="?", default="-", metavar="FILE", help="replaced when it is complete (- or none: print)"
    ),
    CONTROL,
    argument("--json", action="store_true", help="as JSON: the text, and the file that has it"),
)
def save(arguments: argparse.Namespace) -> int:
    """Segments, remotes, neighbours and set entries as they are now; not what was learned."""
    with connect(arguments) as vtep:
        text = "".join(piece["text"] for piece in vtep.pages("save"))
    if arguments.file != "-":
        with replacing(arguments.file) as file:
            file.write(text.encode())
    if arguments.json:
        say_json({"file": None if arguments.file == "-" else arguments.file, "text": text})
    elif arguments.file == "-":
        say(text.splitlines())
    return 0


@command(
    "tell what happens in a running VTEP, as it happens, until interrupted",
    "vxcore monitor\nvxcore monitor moved frozen limit --json",
    argument(
        "kinds",
        nargs="*",
        metavar="KIND",
        help="learned, moved, frozen, aged, limit, miss, remote_added, remote_removed, "
        "plane_connected, plane_stale (all)",
    ),
    CONTROL,
    JSON,
)
def monitor(arguments: argparse.Namespace) -> int:
    """What the reader is too slow for is counted."""
    with connect(arguments) as vtep:
        for told in vtep.events(arguments.kinds):
            if arguments.json:
                say_json(told)
            else:
                say([_happened(told)])
    return 0


def _happened(told: dict[str, Any]) -> str:
    if "dropped" in told:
        return f"({told['dropped']} events more were not told: they were too many)"
    event = told["event"]
    words = [time.strftime("%H:%M:%S", time.localtime(event["time"])), event["kind"]]
    words += [event["mac"]] if event["mac"] else []
    words += ["dst", event["remote"]] if event["remote"] else []
    words += [event["plane"]] if event["plane"] else []
    words += ["was", event["was"]] if event["was"] else []
    words += ["vni", str(event["vni"])] if event["vni"] is not None else []
    return " ".join(words)
