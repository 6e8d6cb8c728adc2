"""The command ``vxcore``: arguments, exit codes, and what the user reads when it fails.

Place in the house: the outermost, beside lab. A command is one function under @command, which holds
its arguments and an example; it imports what it needs when it runs, so that ``vxcore --help``
answers without numpy. Values are checked where settings are (config.py), not here.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from vxcore._version import __version__
from vxcore.errors import ConfigError, VxcoreError

log = logging.getLogger("vxcore")

USER_ERROR = 2  # as argparse has it
SYSTEM_ERROR = 1
INTERRUPTED = 130  # as shells have it: 128 + SIGINT

Run = Callable[[argparse.Namespace], int]


class Argument(NamedTuple):
    """What ArgumentParser.add_argument takes."""

    names: tuple[str, ...]
    options: dict[str, Any]


class Command(NamedTuple):
    """One command of vxcore."""

    name: str
    summary: str
    example: str
    arguments: tuple[Argument, ...]
    run: Run


COMMANDS: list[Command] = []


def command(summary: str, example: str, *arguments: Argument) -> Callable[[Run], Run]:
    """Make a function a command of its name; it takes the parsed arguments and returns the exit code."""

    def register(run: Run) -> Run:
        COMMANDS.append(Command(run.__name__, summary, example, arguments, run))
        return run

    return register


def argument(*names: str, **options: Any) -> Argument:
    """An argument of a command, as ArgumentParser.add_argument takes it."""
    return Argument(names, options)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code (0 done, 2 the user's mistake, 1 the system's)."""
    try:
        arguments = _parser().parse_args(argv)
        _log_to_stderr(arguments.verbose)
        run: Run = arguments.run
        return run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    except ConfigError as error:
        return _fail(error, str(error), USER_ERROR)
    except OSError as error:
        return _fail(error, _system_message(error), SYSTEM_ERROR)
    except VxcoreError as error:
        return _fail(error, str(error), SYSTEM_ERROR)
    except Exception as error:  # a defect of ours; even so, one line
        return _fail(error, f"internal error (-v shows where): {error!r}", SYSTEM_ERROR)


def _fail(error: Exception, message: str, code: int) -> int:
    """Say on stderr what is wrong, in one line; with -v also where it was raised."""
    log.debug("raised here:", exc_info=error)
    print("vxcore: error:", " ".join(message.split("\n")), file=sys.stderr)
    return code


def _system_message(error: OSError) -> str:
    """What the system said, without Python's ``[Errno 98]``."""
    if not error.strerror:
        return str(error) or type(error).__name__
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


# Logging


class _LineFormatter(logging.Formatter):
    """``vxcore: message``, with the level unless it is what one expects."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        return f"vxcore: {level}{super().format(record)}"


def _log_to_stderr(verbose: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_LineFormatter())
    log.handlers[:] = [handler]  # replaced, for a process may call main more than once
    log.setLevel(logging.DEBUG if verbose else logging.INFO)


# Arguments


class _Parser(argparse.ArgumentParser):
    """Reports a mistake as all of vxcore does: one line, by main."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vxcore",
        description="A userspace VXLAN engine: Ethernet frames between hosts over IP.",
        epilog="vxcore COMMAND --help shows the arguments of a command and an example.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"vxcore {__version__}")
    _add_verbose(parser, default=False)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for each in COMMANDS:
        _add_command(subparsers, each)
    return parser


def _add_command(subparsers: argparse._SubParsersAction[_Parser], each: Command) -> None:
    parser = subparsers.add_parser(
        each.name,
        help=each.summary,
        description=f"{each.summary[0].upper()}{each.summary[1:]}.",
        epilog=f"example:\n  {each.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for names, options in each.arguments:
        parser.add_argument(*names, **options)
    _add_verbose(parser, default=argparse.SUPPRESS)
    parser.set_defaults(run=each.run)


def _add_verbose(parser: argparse.ArgumentParser, default: Any) -> None:
    """-v is good before and after the command; the later parser must not undo the first."""
    parser.add_argument(
        "-v", "--verbose", action="store_true", default=default, help="log more, for debugging"
    )


def _number(text: str) -> int | str:
    """An integer if it is one (0x10 too); other words go on to config.py, which says what is allowed."""
    try:
        return int(text, 0)
    except ValueError:
        return text


def _at_least(low: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = _number(text)
        if not isinstance(value, int) or value < low:
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed; an integer from {low} up")
        return value

    return parse


def _between(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = _number(text)
        if not isinstance(value, int) or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed; an integer from {low} to {high}")
        return value

    return parse


# The commands


@command(
    "carry the frames of one segment until interrupted",
    "vxcore up --vni 42 --local 192.0.2.1 --remote 192.0.2.2 --tap vx42",
    argument("--vni", type=_number, required=True, metavar="N", help="VXLAN network identifier"),
    argument("--tap", metavar="NAME", help="TAP device, created if it does not exist"),
    argument(
        "--port",
        metavar="KIND=DEV",
        help="instead of --tap: packet=DEV or xdp=DEV, packet sockets or AF_XDP on an interface that exists",
    ),
    argument("--local", action="append", metavar="IP", help="our underlay address; once for each IP family"),
    argument(
        "--remote",
        dest="remotes",
        action="append",
        metavar="IP",
        help="a VTEP that gets broadcast, multicast and unknown frames; may be repeated",
    ),
    argument("--group", metavar="GROUP", help="an IP multicast group, joined on --dev, that gets them"),
    argument("--fdb", action="append", metavar="MAC=IP", help="static forwarding entry; may be repeated"),
    argument(
        "--neighbour",
        dest="neighbours",
        action="append",
        metavar="IP=MAC",
        help="answer ARP and neighbour requests for this address here; may be repeated",
    ),
    argument("--nolearning", dest="learning", action="store_false", default=None, help="learn no addresses"),
    argument(
        "--ageing", type=_number, metavar="S", help="seconds a learned address lives (300; 0: for ever)"
    ),
    argument("--maxaddress", type=_number, metavar="N", help="limit of learned addresses (0: none)"),
    argument("--mtu", type=_number, metavar="N", help="of the TAP device (derived from the route)"),
    argument("--dstport", type=_number, metavar="PORT", help="UDP destination port (4789)"),
    argument("--srcport", type=_number, nargs=2, metavar=("MIN", "MAX"), help="source ports (49152 65535)"),
    argument("--source-ports", type=_number, metavar="N", help="how many of them are used (16)"),
    argument("--ttl", type=_number, metavar="N|inherit", help="outer TTL (0: the route's default)"),
    argument("--tos", type=_number, metavar="N|inherit", help="outer TOS or traffic class (0)"),
    argument("--df", metavar="set|unset", help="don't-fragment flag over IPv4 (unset)"),
    argument("--udpcsum", action="store_true", default=None, help="compute UDP checksums over IPv4"),
    argument("--udp6zerocsumtx", action="store_true", default=None, help="send none over IPv6"),
    argument("--udp6zerocsumrx", action="store_true", default=None, help="require none over IPv6"),
    argument("--dev", metavar="DEV", help="bind the underlay sockets to this device"),
    argument(
        "--underlay",
        dest="kind",
        metavar="KIND",
        help="what the underlay port is: udp, packet, xdp, tap (udp)",
    ),
    argument("--via", metavar="NAME", help="device of an underlay port of kind tap (vxu0)"),
    argument("--lanes", dest="count", type=_number, metavar="N", help="threads that carry packets (1)"),
    argument("--cpus", type=_number, nargs="+", metavar="CPU", help="CPUs that lanes are pinned to, in turn"),
    argument("--busy-poll", type=_number, metavar="US", help="look this long for more before sleeping (0)"),
    argument("--no-offload", action="append", metavar="NAME", help="do without an offload; may be repeated"),
)
def up(arguments: argparse.Namespace) -> int:
    """A VTEP with one segment, from options alone."""
    from vxcore import config, daemon

    return daemon.serve(config.from_arguments(vars(arguments)))


@command(
    "receive the frames of many VNIs into files or a device, and send nothing",
    "vxcore collect --local 192.0.2.1 -w /var/captures --rotate 1GiB --keep 10",
    argument("--local", action="append", metavar="IP", help="our underlay address; once for each IP family"),
    argument("--dstport", type=_number, metavar="PORT", help="UDP destination port (4789)"),
    argument(
        "--vni",
        dest="vnis",
        action="append",
        metavar="LIST",
        help="VNIs and ranges such as 1-100,4096; may be repeated (all)",
    ),
    argument(
        "--source",
        action="append",
        metavar="PREFIX",
        help="take packets from these addresses only; may be repeated (any)",
    ),
    argument(
        "-w",
        dest="write",
        metavar="DIR",
        help="write pcapng files here, made if missing; each record's comment says its VNI and VTEP",
    ),
    argument("--rotate", metavar="SIZE", help="begin a new file before one is larger, such as 1GiB"),
    argument("--rotate-seconds", type=_number, metavar="S", help="begin a new file after so long"),
    argument("--keep", type=_number, metavar="N", help="delete all but the newest N complete files"),
    argument("--snaplen", type=_number, metavar="N", help="write no more than N bytes of a frame"),
    argument("--tap", metavar="NAME", help="instead of -w: a TAP device, created if it does not exist"),
    argument("--port", metavar="KIND=DEV", help="instead of -w: packet=DEV, an interface that exists"),
    argument("--udp6zerocsumrx", action="store_true", default=None, help="require no checksums over IPv6"),
    argument("--dev", metavar="DEV", help="bind the underlay sockets to this device"),
    argument("--underlay", dest="kind", metavar="KIND", help="what the underlay port is: udp, packet (udp)"),
    argument("--lanes", dest="count", type=_number, metavar="N", help="threads that carry packets (1)"),
    argument("--cpus", type=_number, nargs="+", metavar="CPU", help="CPUs that lanes are pinned to, in turn"),
    argument("--busy-poll", type=_number, metavar="US", help="look this long for more before sleeping (0)"),
    argument("--no-offload", action="append", metavar="NAME", help="do without an offload; may be repeated"),
)
def collect(arguments: argparse.Namespace) -> int:
    """The far end of a traffic mirror."""
    from vxcore import config, daemon

    return daemon.serve(config.collector_from_arguments(vars(arguments)))


@command(
    "carry the frames of the segments in a TOML file until interrupted",
    "vxcore run /etc/vxcore.toml",
    argument(
        "file",
        metavar="FILE.toml",
        help="an [underlay] table and one [[segment]] table or more; on SIGHUP it is read again",
    ),
)
def run(arguments: argparse.Namespace) -> int:
    """A VTEP with the segments of a file."""
    from vxcore import config, daemon

    return daemon.serve(config.load(arguments.file), reload=lambda: config.load(arguments.file))


@command(
    "say what is wrong with a TOML file, without root",
    "vxcore check /etc/vxcore.toml",
    argument("file", metavar="FILE.toml", help="as of `vxcore run`"),
)
def check(arguments: argparse.Namespace) -> int:
    """All mistakes of a file, one a line."""
    from vxcore.faults import faults

    found = faults(arguments.file)
    for line in found or [f"{arguments.file}: nothing is wrong"]:
        print(line)
    return USER_ERROR if found else 0


@command(
    "show it on this machine: hosts in network namespaces with a VTEP in each",
    "vxcore lab --hosts 3 --peer kernel",
    argument("--hosts", type=_at_least(2), default=2, metavar="N", help="number of hosts (2)"),
    argument(
        "--peer", choices=("vxcore", "kernel"), default="vxcore", help="what the last host runs (vxcore)"
    ),
    argument("--ipv6", action="store_true", help="IPv6 underlay"),
    argument("--seconds", type=_at_least(1), default=2, metavar="S", help="length of the TCP load (2)"),
    argument("--no-modes", action="store_true", help="leave out the four container network modes"),
)
def lab(arguments: argparse.Namespace) -> int:
    """Hosts on this machine, and what was measured between them."""
    from vxcore import lab as implementation

    return implementation.main(arguments)


_PORT = argument(
    "--port",
    type=_between(1, 65535),
    action="append",
    metavar="N",
    help="UDP destination port of VXLAN (4789; 8472 is old Linux's and flannel's); may be repeated",
)
_CHECKSUM = argument(
    "--checksum",
    choices=("ignore", "verify", "require"),
    default="ignore",
    help="outer checksums: a capture on a sender has them unfinished, so they are not looked at (ignore)",
)
_GPE = argument("--gpe", action="store_true", help="VXLAN-GPE: heed its next protocol, for bare IP inside")
_FORMAT = argument(
    "--format", choices=("pcap", "pcapng"), help="of what is written (as OUT is called, or else as IN is)"
)
_COMMENT = argument("--comment", metavar="TEXT", help="to be stored in a pcapng")
_IN = argument("input", metavar="IN", help="pcap or pcapng, also gzip or zstd; - for standard input")


@command(
    "take VXLAN off the packets of a capture file",
    "vxcore decap mirror.pcap inner.pcap --vni 42",
    _IN,
    argument("output", metavar="OUT", nargs="?", help="capture to write; - for standard output"),
    argument(
        "--vni",
        type=_between(0, 0xFFFFFF),
        action="append",
        metavar="N",
        help="only frames of this VNI (the innermost that is taken off); may be repeated",
    ),
    argument(
        "--split-by-vni", metavar="DIR", help="instead of OUT: a new directory with a file for each VNI"
    ),
    argument("--keep-other", action="store_true", help="write what is not VXLAN, too, as it is (dropped)"),
    argument(
        "--depth",
        type=_between(1, 16),
        default=1,
        metavar="N",
        help="take off up to N VXLAN headers, one in the other (1)",
    ),
    _PORT,
    _CHECKSUM,
    _GPE,
    _FORMAT,
    _COMMENT,
)
def decap(arguments: argparse.Namespace) -> int:
    """The inner frames of a capture; GENEVE around VXLAN is taken off, too."""
    from vxcore.capture import decap as implementation

    return implementation.main(arguments)


@command(
    "put VXLAN around the frames of a capture file",
    "vxcore encap inner.pcap outer.pcap --vni 42 --local 192.0.2.1 --remote 192.0.2.2",
    _IN,
    argument("output", metavar="OUT", help="capture to write; - for standard output"),
    argument("--vni", type=_number, required=True, metavar="N", help="VXLAN network identifier"),
    argument("--local", required=True, metavar="IP", help="outer source address"),
    argument("--remote", required=True, metavar="IP", help="outer destination address"),
    argument("--dstport", type=_number, default=4789, metavar="PORT", help="UDP destination port (4789)"),
    argument(
        "--srcport",
        type=_number,
        nargs=2,
        default=(49152, 65535),
        metavar=("MIN", "MAX"),
        help="source ports (49152 65535)",
    ),
    argument("--ttl", type=_number, default=64, metavar="N|inherit", help="outer TTL (64)"),
    argument("--tos", type=_number, default=0, metavar="N|inherit", help="outer TOS or traffic class (0)"),
    argument(
        "--df", choices=("set", "unset", "inherit"), default="unset", help="don't-fragment over IPv4 (unset)"
    ),
    argument("--udpcsum", action="store_true", help="compute UDP checksums over IPv4, too"),
    argument(
        "--ethernet",
        nargs=2,
        metavar=("DST", "SRC"),
        help="MAC addresses of an outer Ethernet header (none: packets start with IP, LINKTYPE_RAW)",
    ),
    argument("--outer-vlan", type=_number, metavar="ID", help="802.1Q tag of the outer Ethernet header"),
    argument(
        "--inner-vlan",
        choices=("drop", "strip", "pass"),
        default="pass",
        help="what becomes of frames with a VLAN tag (pass)",
    ),
    _FORMAT,
    _COMMENT,
)
def encap(arguments: argparse.Namespace) -> int:
    """The frames of a capture in VXLAN."""
    from vxcore.capture import encap as implementation

    return implementation.main(arguments)


@command(
    "summarise the VXLAN traffic in a capture file",
    "vxcore inspect mirror.pcap --top 5",
    argument("file", metavar="FILE", help="pcap or pcapng, also gzip or zstd; - for standard input"),
    argument("--json", action="store_true", help="as JSON instead of a table"),
    argument("--top", type=_at_least(0), default=10, metavar="N", help="rows of each table (10)"),
    _PORT,
    _CHECKSUM,
    _GPE,
)
def inspect(arguments: argparse.Namespace) -> int:
    """VNIs, VTEPs, flows, verdicts, source ports."""
    from vxcore.capture import inspect as implementation

    return implementation.main(arguments)
