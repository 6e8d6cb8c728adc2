"""The commands gen send and gen receive: test traffic with numbers and times in it, and what comes of it.

Place in the house: among the commands, above vxcore.gen, which does the work.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from vxcore.commands import GROUPS, SYSTEM_ERROR, argument, at_least, between, command, number
from vxcore.commands.asking import JSON, say, say_json
from vxcore.errors import ConfigError

if TYPE_CHECKING:
    from vxcore.gen import Received, Sent
    from vxcore.gen.report import Latency

GROUPS["gen"] = "generate traffic, and measure what comes of it"
_LONGEST_S = 1e6
_MOST = 1 << 62  # packets: more than can be counted to


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= _LONGEST_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; seconds above 0")
    return value


_CLOCK = argument(
    "--clock",
    choices=("monotonic", "realtime"),
    default="monotonic",
    help="of the stamps, on both sides; two machines need realtime, kept alike by PTP or NTP (monotonic)",
)
_DURATION = argument("--duration", type=_seconds, metavar="S", help="end after so many seconds")
_DSTPORT = argument(
    "--dstport", type=between(1, 65535), default=4789, metavar="PORT", help="UDP port of VXLAN (4789)"
)


@command(
    "send numbered and stamped frames, as hosts or as VTEPs with hosts behind them",
    "vxcore gen send --to 192.0.2.2 --vnis 42 --rate 10k --duration 10\n"
    "vxcore gen send --to 192.0.2.2 --vnis 42,100-199 --source-vteps 10.9.0.0/22 --size imix --rate 1Gbit\n"
    "vxcore gen send --into vx42 --vnis 42 --macs 1022 --reverse     # to the hosts of the second",
    argument("--to", metavar="IP", help="a VTEP, which gets the frames in VXLAN packets"),
    argument("--into", metavar="DEV", help="or an interface of the overlay, which gets them as they are"),
    argument(
        "--vnis", metavar="LIST", help="VNIs such as 42,100-199; with --into the one whose hosts these are"
    ),
    argument("--macs", type=number, metavar="N", help="hosts in each VNI (1, or as many as --source-vteps)"),
    argument("--flows", type=number, default=1, metavar="N", help="flows of each host, UDP source ports (1)"),
    argument(
        "--size",
        default="64",
        metavar="N|imix|FILE",
        help="bytes of a frame; 64, 590 and 1514 as 7:4:1; or the lengths in a capture file (64)",
    ),
    argument(
        "--rate", default="max", metavar="RATE", help="packets in a second (10k) or bits (100Mbit) (max)"
    ),
    argument(
        "--burst", type=between(1, 64), default=0, metavar="N", help="most packets at once (those of 250 us)"
    ),
    argument("--count", type=between(1, _MOST), default=0, metavar="N", help="end after so many packets"),
    _DURATION,
    argument(
        "--source-vteps",
        metavar="PREFIX",
        help="send in the name of all these addresses, and answer for them (this host alone)",
    ),
    argument("--dev", metavar="DEV", help="the underlay's device (that of the route)"),
    _DSTPORT,
    argument("--reverse", action="store_true", help="to the hosts, not from them"),
    argument("--to-mac", metavar="MAC", help="where the hosts send to (an address that nobody has)"),
    argument("--seed", type=number, default=0, metavar="N", help="of the hosts' addresses (0)"),
    _CLOCK,
    JSON,
    name="gen send",
)
def send(arguments: argparse.Namespace) -> int:
    """Exit code 0, also when it is interrupted; 1 when nothing went out."""
    if (arguments.to is None) == (arguments.into is None):
        raise ConfigError("gen send: give --to and a VTEP, or --into and an interface")
    _check_way(arguments)
    from vxcore.gen import Sender

    names = ("to", "into", "source_vteps", "dev", "dstport", "rate", "burst", "clock")
    plan = {name: _integer(arguments, name) for name in ("macs", "flows", "seed")}
    plan |= {name: getattr(arguments, name) for name in ("vnis", "size", "reverse", "to_mac")}
    options: dict[str, Any] = {name: value for name, value in plan.items() if value is not None}
    ways: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    with ExitStack() as stack:
        with _named():
            sender = stack.enter_context(Sender(**ways, **options))
        _until_stopped(lambda: sender.run(arguments.count, arguments.duration or 0.0), sender.stop)
        report = sender.report()
    _print(report, arguments, _sent_lines)
    return 0 if report.packets else SYSTEM_ERROR


def _check_way(arguments: argparse.Namespace) -> None:
    """What goes with the one way out and not with the other."""
    if arguments.to is not None:
        if arguments.vnis is None:
            raise ConfigError("--vnis: missing; a VNI such as 42, or several such as 42,100-199")
        return
    for name in ("source_vteps", "dev"):
        if getattr(arguments, name) is not None:
            raise ConfigError(
                f"--{name.replace('_', '-')}: only with --to; frames into an interface have no VTEP"
            )
    if arguments.vnis is not None and not arguments.vnis.isdecimal():
        raise ConfigError(f"--vnis {arguments.vnis}: one VNI with --into, for an interface is of one")


def _integer(arguments: argparse.Namespace, name: str) -> int | None:
    value = getattr(arguments, name)
    if value is not None and not isinstance(value, int):
        raise ConfigError(f"--{name} {value}: an integer")
    return value


@command(
    "receive what gen send has sent: loss, order, copies, damage and latency",
    "vxcore gen receive vx42 --idle 1\n"
    "vxcore gen receive eth0 --tunnel --duration 10 --json     # on the underlay, in VXLAN packets",
    argument("device", metavar="DEV", help="an interface"),
    argument("--tunnel", action="store_true", help="look for frames in VXLAN packets, as on the underlay"),
    _DSTPORT,
    argument(
        "--count", type=between(1, _MOST), default=0, metavar="N", help="end after so many stamped frames"
    ),
    _DURATION,
    argument("--idle", type=_seconds, metavar="S", help="end when for so long none has come after the first"),
    argument("--top", type=at_least(0), default=10, metavar="N", help="streams shown, the worst first (10)"),
    argument(
        "--max-streams",
        type=between(1, 1 << 20),
        default=65536,
        metavar="N",
        help="streams that are told apart (65536)",
    ),
    _CLOCK,
    JSON,
    name="gen receive",
)
def receive(arguments: argparse.Namespace) -> int:
    """Exit code 0, also when it is interrupted; 1 when no frame with a stamp came."""
    from vxcore.gen import Receiver

    with ExitStack() as stack:
        with _named(""):
            receiver = stack.enter_context(
                Receiver(
                    arguments.device,
                    tunnel=arguments.tunnel,
                    dstport=arguments.dstport,
                    max_streams=arguments.max_streams,
                    clock=arguments.clock,
                )
            )
        _ready(arguments.device)
        limits = (arguments.count, arguments.duration or 0.0, arguments.idle or 0.0)
        _until_stopped(lambda: receiver.run(*limits), receiver.stop)
        report = receiver.report(arguments.top)
    _print(report, arguments, _received_lines)
    return 0 if report.packets else SYSTEM_ERROR


def _ready(device: str) -> None:
    """For whoever starts a sender next; what is printed is the report."""
    import logging

    logging.getLogger("vxcore").info("receiving on %s", device)


@contextmanager
def _named(prefix: str = "--") -> Iterator[None]:
    """What is wrong begins with its key; here that is an option."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{prefix}{error}") from None


def _until_stopped(run: Callable[[], None], stop: Callable[[], None]) -> None:
    """Run in a thread; the first interrupt or SIGTERM ends it well, for what was counted is wanted."""
    before = {number: signal.signal(number, lambda *_: stop()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(run).result()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# What is printed


def _print(report: Any, arguments: argparse.Namespace, lines: Callable[[Any], Iterator[str]]) -> None:
    if arguments.json:
        from msgspec import to_builtins

        say_json(to_builtins(report))
    else:
        say(lines(report))


def _sent_lines(sent: Sent) -> Iterator[str]:
    vteps = f" from {sent.vteps} VTEPs" if sent.vteps > 1 else ""
    yield (
        f"{sent.packets} packets in {sent.seconds:.3f} s{vteps}: {sent.packets_per_s:.0f} packets/s,"
        f" {sent.bits_per_s / 1e6:.1f} Mbit/s"
    )
    sizes = sent.sizes
    spread = f", to {sizes.most}, mean {sizes.mean}" if sizes.least != sizes.most else ""
    yield f"{sent.streams} streams of run {sent.run}; frames of {sizes.least} bytes{spread}"
    if sent.refused:
        yield f"{sent.refused} packets refused by the device or the kernel"
    if sent.answers is not None:
        back = sent.answers
        yield f"came back: {back.asked} requests for link addresses, answered; {back.packets} VXLAN packets"


def _received_lines(got: Received) -> Iterator[str]:
    yield (
        f"{got.packets} frames of {got.streams} streams in {got.seconds:.3f} s:"
        f" {got.packets_per_s:.0f} frames/s, {got.bits_per_s / 1e6:.1f} Mbit/s"
    )
    expected = got.packets - got.duplicated + got.lost
    share = f" ({100 * got.lost / expected:.3g} %)" if got.lost else ""
    yield (
        f"lost {got.lost}{share}, duplicated {got.duplicated}, reordered {got.reordered}, late {got.late},"
        f" corrupted {got.corrupted}"
    )
    for n, what in (
        (got.before, "numbers below the first that came: sent before this receiver began, or lost"),
        (got.overruns, "packets lost here: this receiver was too slow"),
        (got.untracked, "frames of streams beyond --max-streams: not told apart"),
        (got.early, "frames from the future: the clocks differ (--clock)"),
    ):
        if n:
            yield f"{n} {what}"
    if got.latency is not None:
        yield _latency_line(got.latency)
    yield from _stream_lines(got)


def _latency_line(latency: Latency) -> str:
    names = ("least", "median", "p90", "p99", "p999", "most")
    times = "  ".join(f"{name} {getattr(latency, name) / 1e3:.1f}" for name in names)
    return f"latency in us: {times}"


def _stream_lines(got: Received) -> Iterator[str]:
    from vxcore.columns import columns

    if not got.rows:
        return
    yield ""
    titles = ["RUN/STREAM", "VNI", "FRAMES", "LOST", "DUPLICATED", "REORDERED", "MEAN us"]
    rows = [
        [
            f"{row.run}/{row.stream}",
            "" if row.vni is None else str(row.vni),
            *map(str, (row.packets, row.lost, row.duplicated, row.reordered)),
            f"{row.latency_mean / 1e3:.1f}",
        ]
        for row in got.rows
    ]
    yield from columns(titles, rows)
    if got.streams > len(got.rows):
        yield f"and {got.streams - len(got.rows)} more (--top)"
