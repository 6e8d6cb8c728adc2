"""The commands that carry frames: up, collect, docker, cni, run; check, of a file; and lab.

Place in the house: among the commands, above config, daemon and lab.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vxcore.commands import USER_ERROR, argument, at_least, command, number
from vxcore.commands.asking import say, say_text

CONTROL = argument(
    "--control",
    metavar="PATH",
    help="the control socket, or none (one in /run/vxcore for each network namespace)",
)
USER = argument("--user", metavar="NAME", help="become this user, with the capabilities of ports alone")
LOG_FORMAT = argument("--log-format", metavar="text|json", help="what is written to standard error (text)")
METRICS = argument(
    "--metrics",
    nargs="?",
    const=True,
    metavar="IP:PORT",
    help="serve counters to Prometheus (127.0.0.1:9464)",
)
_LOCAL = argument(
    "--local", action="append", metavar="IP", help="our underlay address; once for each IP family"
)
_DEV = argument("--dev", metavar="DEV", help="bind the underlay sockets to this device")
_DSTPORT = argument("--dstport", type=number, metavar="PORT", help="UDP destination port (4789)")
_PROCESS = (
    argument("--lanes", dest="count", type=number, metavar="N", help="threads that carry packets (1)"),
    argument("--cpus", type=number, nargs="+", metavar="CPU", help="CPUs that lanes are pinned to, in turn"),
    argument("--busy-poll", type=number, metavar="US", help="look this long for more before sleeping (0)"),
    argument("--no-offload", action="append", metavar="NAME", help="do without an offload; may be repeated"),
    CONTROL,
    METRICS,
    LOG_FORMAT,
    USER,
)
"""The options about lanes and the process: what `up` and `collect` share."""
SEGMENT = (
    argument("--tap", metavar="NAME", help="TAP device, created if it does not exist"),
    argument("--vlan", type=number, metavar="ID", help="with --tap: the frames of this 802.1Q VLAN only"),
    argument(
        "--port",
        metavar="KIND=DEV",
        help="instead of --tap: packet=DEV or xdp=DEV, packet sockets or AF_XDP on an interface that exists",
    ),
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
    argument("--ageing", type=number, metavar="S", help="seconds a learned address lives (300; 0: for ever)"),
    argument("--maxaddress", type=number, metavar="N", help="limit of learned addresses (0: none)"),
    argument("--mtu", type=number, metavar="N", help="of the TAP device (derived from the route)"),
    argument(
        "--source",
        action="append",
        metavar="PREFIX",
        help="take packets from these addresses too; or peers, or any; may be repeated (peers)",
    ),
    argument("--broadcast", metavar="HOW", help="flood, drop, or frames a second such as 100 or 100/32"),
    argument("--multicast", metavar="HOW", help="the same of multicast frames"),
    argument("--unknown-unicast", metavar="HOW", help="and of frames for nobody known; or ask"),
    argument("--hold", type=number, metavar="MS", help="how long frames wait for what was asked"),
)
"""The options about a segment: what `up` and `segment add` share."""


@command(
    "carry the frames of one segment until interrupted",
    "vxcore up --vni 42 --local 192.0.2.1 --remote 192.0.2.2 --tap vx42",
    argument("--vni", type=number, required=True, metavar="N", help="VXLAN network identifier"),
    _LOCAL,
    *SEGMENT,
    _DSTPORT,
    argument("--srcport", type=number, nargs=2, metavar=("MIN", "MAX"), help="source ports (49152 65535)"),
    argument("--source-ports", type=number, metavar="N", help="how many of them are used (16)"),
    argument("--ttl", type=number, metavar="N|inherit", help="outer TTL (0: the route's default)"),
    argument("--tos", type=number, metavar="N|inherit", help="outer TOS or traffic class (0)"),
    argument("--df", metavar="set|unset", help="don't-fragment flag over IPv4 (unset)"),
    argument("--udpcsum", action="store_true", default=None, help="compute UDP checksums over IPv4"),
    argument("--udp6zerocsumtx", action="store_true", default=None, help="send none over IPv6"),
    argument("--udp6zerocsumrx", action="store_true", default=None, help="require none over IPv6"),
    _DEV,
    argument(
        "--underlay",
        dest="kind",
        metavar="KIND",
        help="what the underlay port is: udp, packet, xdp, tap (udp)",
    ),
    argument("--via", metavar="NAME", help="device of an underlay port of kind tap (vxu0)"),
    *_PROCESS,
)
def up(arguments: argparse.Namespace) -> int:
    """A VTEP with one segment, from options alone."""
    from vxcore import config, daemon

    return daemon.serve(config.from_arguments(vars(arguments)))


@command(
    "receive the frames of many VNIs into files or a device, and send nothing",
    "vxcore collect --local 192.0.2.1 -w /var/captures --rotate 1GiB --keep 10",
    _LOCAL,
    argument(
        "--dstport",
        dest="dstports",
        type=number,
        action="append",
        metavar="PORT",
        help="UDP port that packets come to; may be repeated (4789)",
    ),
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
    argument("--rotate-seconds", type=number, metavar="S", help="begin a new file after so long"),
    argument("--keep", type=number, metavar="N", help="delete all but the newest N complete files"),
    argument("--snaplen", type=number, metavar="N", help="write no more than N bytes of a frame"),
    argument("--tap", metavar="NAME", help="instead of -w: a TAP device, created if it does not exist"),
    argument("--port", metavar="KIND=DEV", help="instead of -w: packet=DEV, an interface that exists"),
    argument("--udp6zerocsumrx", action="store_true", default=None, help="require no checksums over IPv6"),
    _DEV,
    argument("--underlay", dest="kind", metavar="KIND", help="what the underlay port is: udp, packet (udp)"),
    *_PROCESS,
)
def collect(arguments: argparse.Namespace) -> int:
    """The far end of a traffic mirror."""
    from vxcore import config, daemon

    return daemon.serve(config.collector_from_arguments(vars(arguments)))


@command(
    "be Docker's network driver `vxcore`: each of its networks is a segment",
    "vxcore docker --local 192.0.2.1 --peer 192.0.2.2",
    _LOCAL,
    argument(
        "--peer",
        dest="peers",
        action="append",
        metavar="IP",
        help="another host, of networks that name none by -o vxcore.peers=...; may be repeated",
    ),
    argument(
        "--etcd",
        dest="urls",
        action="append",
        metavar="URL",
        help="a member of an etcd cluster, by which hosts find each other; may be repeated",
    ),
    argument("--vni", dest="vnis", metavar="FIRST-LAST", help="VNIs of networks that name none (4096-8191)"),
    argument(
        "--plugin",
        metavar="PATH",
        help="the driver's socket, and its name for Docker (/run/docker/plugins/vxcore.sock)",
    ),
    argument("--state", metavar="FILE", help="what is kept over a restart (/var/lib/vxcore/docker.json)"),
    _DSTPORT,
    _DEV,
    argument(
        "--underlay", dest="kind", metavar="KIND", help="what the underlay port is: udp, packet, xdp (udp)"
    ),
    *_PROCESS,
)
def docker(arguments: argparse.Namespace) -> int:
    """A VTEP whose segments are Docker's networks."""
    from vxcore import config, daemon

    return daemon.serve(config.docker_from_arguments(vars(arguments)))


@command(
    "be a CNI plugin, as `vxcore-cni` is: what to do is in the environment and on standard input",
    "CNI_COMMAND=VERSION vxcore cni",
)
def cni(arguments: argparse.Namespace) -> int:
    """What runtimes of containers start for each of them; `vxcore-cni` starts faster."""
    from vxcore.cni import plugin

    return plugin.main()


@command(
    "carry the frames of the segments in a TOML file until interrupted",
    "vxcore run /etc/vxcore.toml",
    argument(
        "file",
        metavar="FILE.toml",
        help="an [underlay] table and one [[segment]] table or more; on SIGHUP it is read again",
    ),
    CONTROL,
)
def run(arguments: argparse.Namespace) -> int:
    """A VTEP with the segments of a file."""
    from vxcore import config, daemon

    def load() -> config.Settings:
        return config.with_control(config.load(arguments.file), arguments.control)

    file = str(Path(arguments.file).absolute())
    return daemon.serve(load(), reload=load, file=file, control=arguments.control)


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
    "say what on this host stands in a VTEP's way, and what to do about it",
    "vxcore doctor /etc/vxcore.toml",
    argument(
        "file", nargs="?", metavar="FILE.toml", help="as of `vxcore run`; without, what concerns any VTEP"
    ),
    argument("--json", action="store_true", help="a list of objects: check, state, what, todo"),
)
def doctor(arguments: argparse.Namespace) -> int:
    """Findings on standard output; exit code 1 if any of them is "wrong"."""
    from vxcore import doctor as implementation

    findings = implementation.examine(arguments.file)
    if arguments.json:
        say([implementation.as_json(findings)])
    else:
        say_text(implementation.as_text(findings).splitlines(), implementation.INDENT)
    return implementation.exit_code(findings)


@command(
    "show it on this machine: hosts in network namespaces with a VTEP in each",
    "vxcore lab --hosts 3 --peer kernel",
    argument("--hosts", type=at_least(2), default=2, metavar="N", help="number of hosts (2)"),
    argument(
        "--peer", choices=("vxcore", "kernel"), default="vxcore", help="what the last host runs (vxcore)"
    ),
    argument("--ipv6", action="store_true", help="IPv6 underlay"),
    argument("--seconds", type=at_least(1), default=2, metavar="S", help="length of the TCP load (2)"),
    argument("--no-modes", action="store_true", help="leave out the four container network modes"),
)
def lab(arguments: argparse.Namespace) -> int:
    """Hosts on this machine, and what was measured between them."""
    from vxcore import lab as implementation

    return implementation.main(arguments)
