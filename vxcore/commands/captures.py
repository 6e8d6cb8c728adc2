"""The commands that read and write capture files: decap, encap, inspect.

Place in the house: among the commands, above capture.
"""

from __future__ import annotations

import argparse

from vxcore.commands import argument, at_least, between, command, number
from vxcore.commands.asking import say

_PORT = argument(
    "--port",
    type=between(1, 65535),
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
        type=between(0, 0xFFFFFF),
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
        type=between(1, 16),
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
    argument("--vni", type=number, required=True, metavar="N", help="VXLAN network identifier"),
    argument("--local", required=True, metavar="IP", help="outer source address"),
    argument("--remote", required=True, metavar="IP", help="outer destination address"),
    argument("--dstport", type=number, default=4789, metavar="PORT", help="UDP destination port (4789)"),
    argument(
        "--srcport",
        type=number,
        nargs=2,
        default=(49152, 65535),
        metavar=("MIN", "MAX"),
        help="source ports (49152 65535)",
    ),
    argument("--ttl", type=number, default=64, metavar="N|inherit", help="outer TTL (64)"),
    argument("--tos", type=number, default=0, metavar="N|inherit", help="outer TOS or traffic class (0)"),
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
    argument("--outer-vlan", type=number, metavar="ID", help="802.1Q tag of the outer Ethernet header"),
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
    argument("--top", type=at_least(0), default=10, metavar="N", help="rows of each table (10)"),
    _PORT,
    _CHECKSUM,
    _GPE,
)
def inspect(arguments: argparse.Namespace) -> int:
    """VNIs, VTEPs, flows, verdicts, source ports."""
    from vxcore.capture import inspect as implementation

    return implementation.main(arguments, say)
