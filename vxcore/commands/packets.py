"""The commands trace and capture: packets of a running VTEP as its lanes see them.

Place in the house: among the commands, above asking. They cost the VTEP nothing when nobody runs them.
"""

from __future__ import annotations

import argparse
import os
import struct
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, BinaryIO

from vxcore.addresses import parse_mac, parse_unicast
from vxcore.commands import argument, at_least, between, command, meant, number
from vxcore.commands.asking import CONTROL, JSON, connect, say_json, say_text
from vxcore.control.client import Client
from vxcore.errors import ConfigError
from vxcore.pcapng import ETHERNET, RAW_IP, PcapngWriter
from vxcore.sizes import Size
from vxcore.verdict import Verdict

Packet = dict[str, Any]
_HEADER_LEN = 8  # VXLAN's, in front of the frame of a packet that comes in
_MAX_VNI = 0xFF_FFFF
_FLOOD_S = 5.0  # how long a flood set that was asked for is taken for true
_MAX_LEN = 65_535
_BLOCK_LEN = 64  # of a record, beside packet and comment

_VNI = argument("--vni", type=number, metavar="N", help="only of this VNI")
_MAC = argument("--mac", metavar="MAC", help="only from or to this inner address")
_IP = argument("--ip", metavar="IP", help="only with this address, inner or outer")
_VERDICT = argument(
    "--verdict", action="append", metavar="NAME", help="only with this verdict; may be repeated"
)
_WAY = argument("--way", choices=("out", "in"), help="only from overlay to underlay (out), or back (in)")
_DROPPED = argument("--dropped", action="store_true", help="only what was not delivered")
_COUNT = argument("-c", "--count", type=at_least(1), metavar="N", help="end after N packets")
_FILTER = argument(
    "--filter", metavar="EXPR", help="only inner frames that match, as tcpdump has it: 'tcp port 80'"
)


def _wanted(arguments: argparse.Namespace) -> dict[str, Any]:
    """What to ask of the VTEP itself; the less, the less it loses."""
    verdicts = {_verdict(name) for name in arguments.verdict or []}
    return {
        "vni": arguments.vni,
        "mac": arguments.mac,
        "ways": [arguments.way] if arguments.way else None,
        "dropped_only": arguments.dropped or bool(verdicts and "delivered" not in verdicts) or None,
    }


def _frame(packet: Packet) -> bytes:
    """The inner frame, as far as it is there."""
    data = b64decode(packet["data"])
    return data if packet["way"] == "out" else data[_HEADER_LEN:]


def _frame_len(packet: Packet) -> int:
    """How long the inner frame was."""
    return int(packet["length"]) - (0 if packet["way"] == "out" else _HEADER_LEN)


class _Sieve:
    """What is asked of packets beyond what the VTEP can be asked."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from vxcore.bpf import Filter

        self._filter = Filter(arguments.filter) if arguments.filter else None
        self._verdicts = {_verdict(name) for name in arguments.verdict or []}
        self._address = parse_unicast(arguments.ip) if arguments.ip else None

    def passes(self, packet: Packet) -> bool:
        if self._verdicts and packet["verdict"] not in self._verdicts:
            return False
        frame = _frame(packet)
        if self._address is not None and self._address not in _addresses(packet, frame):
            return False
        return self._filter is None or self._filter.matches(frame, max(len(frame), _frame_len(packet)))


def _verdict(name: str) -> str:
    if name.upper() not in Verdict.__members__:
        near = meant(name.lower(), map(str.lower, Verdict.__members__))
        raise ConfigError(
            f"--verdict {name}: there is no such verdict; {near or 'docs/verdicts.md has them all'}"
        )
    return name.lower()


def _addresses(packet: Packet, frame: bytes) -> list[Any]:
    """Inner and outer."""
    from vxcore import wire

    inner = wire.dissect(frame) if len(frame) >= wire.ETH_LEN else None
    known = [ip_address(each) for each in inner.addresses] if inner and inner.version else []
    return known + [ip_address(packet[name]) for name in ("remote", "source") if packet[name]]


# Trace


@command(
    "tell what happens to packets in a running VTEP, step by step, until interrupted",
    "vxcore trace --vni 42 --mac 02:00:00:00:00:07\n"
    "vxcore trace --dropped --count 10\n"
    "vxcore trace --verdict source_refused --ip 192.0.2.9 --json\n"
    "vxcore trace --simulate --vni 42 --dst 02:00:00:00:00:07\n"
    "vxcore trace --simulate --vni 42 --from 192.0.2.9 --pcap odd.pcap",
    _VNI,
    _MAC,
    _IP,
    _VERDICT,
    _WAY,
    _DROPPED,
    _FILTER,
    _COUNT,
    argument("--simulate", action="store_true", help="say what would happen to a packet, and send nothing"),
    argument("--from", dest="source", metavar="IP", help="simulate: it comes from this VTEP (the overlay)"),
    argument("--tos", type=between(0, 255), default=0, metavar="N", help="simulate: outer TOS (0)"),
    argument("--dst", metavar="MAC", help="simulate: destination of the inner frame (broadcast)"),
    argument("--src", metavar="MAC", help="simulate: its source (02:00:00:00:00:01)"),
    argument("--size", type=between(14, 65_535), default=60, metavar="N", help="simulate: its bytes (60)"),
    argument("--pcap", metavar="FILE", help="simulate: the inner frames of a capture instead"),
    CONTROL,
    JSON,
)
def trace(arguments: argparse.Namespace) -> int:
    """Packets as they go through, or as they would."""
    if arguments.simulate:
        return _simulate(arguments)
    sieve, left = _Sieve(arguments), arguments.count or -1
    with connect(arguments) as vtep:
        for told in vtep.stream("packets", **_given(_wanted(arguments)), steps=True):
            packet = told.get("packet")
            if packet is not None and not sieve.passes(packet):
                continue
            say_json(told) if arguments.json else say_text(_lines(told))
            left -= packet is not None
            if left == 0:
                break
    return 0


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _lines(told: dict[str, Any]) -> list[str]:
    if "dropped" in told:
        return [f"({told['dropped']} packets more were not shown: they were too many)"]
    packet = told["packet"]
    return [packet["headline"], *(f"    {step}" for step in packet["steps"])]


def _simulate(arguments: argparse.Namespace) -> int:
    if arguments.vni is None:
        raise ConfigError("--simulate: --vni says in which segment")
    if not isinstance(arguments.vni, int) or not 0 <= arguments.vni <= _MAX_VNI:
        raise ConfigError(f"--vni {arguments.vni}: an integer from 0 to {_MAX_VNI}")
    with connect(arguments) as vtep:
        for frame in _frames(arguments):
            told = _foretold(vtep, arguments, frame)
            say_json(told) if arguments.json else say_text(_lines(told)[1:])
    return 0


def _frames(arguments: argparse.Namespace) -> Iterable[bytes]:
    if arguments.pcap:
        from vxcore.capture import read_pcap

        return read_pcap(arguments.pcap).to_frames()
    destination = parse_mac(arguments.dst or "ff:ff:ff:ff:ff:ff")
    source = parse_mac(arguments.src or "02:00:00:00:00:01")
    return [(destination + source + b"\x88\xb5").ljust(arguments.size, b"\0")]


def _foretold(vtep: Client, arguments: argparse.Namespace, frame: bytes) -> dict[str, Any]:
    if arguments.source is None:
        return vtep.ask("foretell.out", vni=arguments.vni, data=b64encode(frame).decode())
    data = b64encode(_header(arguments.vni) + frame).decode()
    return vtep.ask("foretell.in", source=arguments.source, tos=arguments.tos, data=data)


def _header(vni: int) -> bytes:
    """VXLAN's (RFC 7348 section 5)."""
    return b"\x08\0\0\0" + vni.to_bytes(3, "big") + b"\0"


# Capture


class _Outer:
    """Makes the packets on the underlay anew: headers, with addresses and ports as the VTEP has them.

    Not known are the source port that a frame is sent from, which is the hash of its flow here, its TOS, TTL,
    and the IPv4 identification. Others change flood sets meanwhile: they are asked for again.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        with connect(arguments) as vtep:
            overview = vtep.ask("overview")
        self._port = int(overview["dstport"])
        self._locals = {address.version: address for address in map(ip_address, overview["local"])}
        self._segments: dict[int, tuple[float, Packet]] = {}

    def packets(self, packet: Packet) -> Iterator[tuple[bytes, int]]:
        """From the IP header on, and how long it was; several for a frame that is flooded."""
        data = b64decode(packet["data"])
        if packet["way"] == "in":
            source = ip_address(packet["source"])
            ports = packet["source_port"], self._dstport(packet["vni"])
            yield self._packet(source, self._locals[source.version], ports, packet, data, packet["length"])
            return
        vni = packet["vni"]
        remotes = [packet["remote"]] if packet["remote"] else self._segment(vni).get("remotes", [])
        ports = _source_port(data), self._dstport(vni)
        for remote in map(ip_address, remotes if packet["verdict"] == "delivered" else ()):
            local, length = self._locals[remote.version], packet["length"] + _HEADER_LEN
            yield self._packet(local, remote, ports, packet, _header(vni) + data, length)

    def _segment(self, vni: int) -> Packet:
        """What the VTEP says of a segment; nothing, if it is gone."""
        asked, row = self._segments.get(vni, (-_FLOOD_S, {}))
        if time.monotonic() - asked >= _FLOOD_S:
            with connect(self._arguments) as vtep:
                try:
                    row = next(vtep.rows("segment.list", vni=vni))
                except ConfigError:
                    row = {}
            self._segments[vni] = time.monotonic(), row
        return row

    def _dstport(self, vni: int) -> int:
        return int(self._segment(vni).get("settings", {}).get("dstport", self._port))

    def _packet(
        self, source: Any, destination: Any, ports: tuple[int, int], packet: Packet, data: bytes, length: int
    ) -> tuple[bytes, int]:
        from vxcore import wire

        tos, udp_len = packet["tos"], min(8 + length, 65_535)
        udp = struct.pack("!HHHH", *ports, udp_len, 0)
        if source.version == 6:
            head = struct.pack("!IHBB", 6 << 28 | tos << 20, udp_len, wire.UDP, 64)
            if len(data) == length:
                pseudo = wire.pseudo_header(source.packed, destination.packed, wire.UDP, udp_len)
                udp = udp[:6] + struct.pack("!H", wire.internet_checksum(pseudo + udp + data) or 0xFFFF)
            return head + source.packed + destination.packed + udp + data, 40 + 8 + length
        total = min(20 + 8 + length, 65_535)
        head = struct.pack("!BBHHHBBH", 0x45, tos, total, 0, 0, 64, wire.UDP, 0)
        head += source.packed + destination.packed
        check = struct.pack("!H", wire.internet_checksum(head))
        return head[:10] + check + head[12:] + udp + data, 20 + 8 + length


def _source_port(frame: bytes) -> int:
    from vxcore import wire

    if len(frame) < wire.ETH_LEN:
        return wire.SOURCE_PORTS[0]
    first, last = wire.SOURCE_PORTS
    return first + (wire.flow_hash(frame) * (last - first + 1) >> 32)


class _File:
    """A capture that grows, and ends when it has what was wanted."""

    def __init__(self, file: BinaryIO, arguments: argparse.Namespace, outer: _Outer | None) -> None:
        self._writer, self._snap_len = PcapngWriter(file, arguments.snaplen), arguments.snaplen
        self._inner, self._outer = arguments.side != "outer", outer
        self._count, self._most = arguments.count, arguments.max_size
        self._interfaces: dict[tuple[str, int], int] = {}
        self.n_packets = 0

    def full(self) -> bool:
        return bool(self.n_packets == self._count)

    def write(self, packet: Packet) -> bool:
        """Whether there was room."""
        comment, found = _comment(packet), []
        if self._inner and _frame(packet):
            device = packet["device"] or "no device"
            found.append((device, ETHERNET, _frame(packet), _frame_len(packet)))
        if self._outer:
            found += [("underlay", RAW_IP, *outer) for outer in self._outer.packets(packet)]
        room = sum(_BLOCK_LEN + 4 + len(comment) + len(data[: self._snap_len]) for _, _, data, _ in found)
        room += sum(
            _BLOCK_LEN + len(name) for name, link, _, _ in found if (name, link) not in self._interfaces
        )
        if self._most is not None and self._writer.n_bytes + room > self._most:
            return False
        for name, link, data, length in found:
            self._put(name, link, packet, data[: self._snap_len], length, comment)
        self.n_packets += 1
        return True

    def _put(self, name: str, link: int, packet: Packet, data: bytes, length: int, comment: str) -> None:
        if (name, link) not in self._interfaces:
            self._interfaces[name, link] = self._writer.interface(name, link)
        self._writer.packet(self._interfaces[name, link], packet["time_ns"], data, length, comment)


def _comment(packet: Packet) -> str:
    words = [f"{packet['way']} vni={packet['vni']} {packet['verdict']} lane={packet['lane']}"]
    words += [f"remote={packet['remote']}"] if packet["remote"] else []
    words += [f"source={packet['source']}"] if packet["source"] and not packet["remote"] else []
    return " ".join(words)


@command(
    "write packets of a running VTEP into a pcapng file, each with what became of it",
    "vxcore capture -w vtep.pcapng --vni 42 --count 1000\n"
    "vxcore capture -w - --side outer | wireshark -k -i -\n"
    "vxcore capture -w drops.pcapng --dropped --filter 'icmp or arp' --max-size 100MiB",
    argument(
        "-w", dest="write", required=True, metavar="FILE", help="the file to write; - for standard output"
    ),
    argument(
        "--side",
        choices=("inner", "outer", "both"),
        default="inner",
        help="inner frames; packets as on the underlay, their outer headers made anew; or both (inner)",
    ),
    _VNI,
    _MAC,
    _IP,
    _VERDICT,
    _WAY,
    _DROPPED,
    _FILTER,
    argument(
        "-s",
        "--snaplen",
        type=between(14, 65_535),
        default=65_535,
        metavar="N",
        help="bytes kept of each (all)",
    ),
    _COUNT,
    argument("--max-size", type=Size, metavar="SIZE", help="end before the file is larger, such as 100MiB"),
    CONTROL,
)
def capture(arguments: argparse.Namespace) -> int:
    """What the file or its reader is too slow for is counted, and told in the end."""
    lost = 0
    with ExitStack() as stack:
        sieve, vtep = _Sieve(arguments), stack.enter_context(connect(arguments))
        outer = None if arguments.side == "inner" else _Outer(arguments)
        # Whoever filters wants to see all of a packet, and headers go with what is kept.
        snap_len = _MAX_LEN if arguments.filter else min(arguments.snaplen + _HEADER_LEN, _MAX_LEN)
        stream = vtep.stream("packets", **_given(_wanted(arguments)), snap_len=snap_len)
        out = stack.enter_context(_opened(arguments.write))
        file = _File(out, arguments, outer)
        stack.callback(lambda: _end(arguments.write, file.n_packets, lost))
        with suppress(KeyboardInterrupt, BrokenPipeError):  # whoever looks has seen enough
            while not file.full():
                told = next(stream)
                lost += told.get("dropped", 0)
                if "packet" in told and sieve.passes(told["packet"]) and not file.write(told["packet"]):
                    break
    return 0


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        if sys.stdout.isatty():
            raise ConfigError("-w -: standard output is a terminal; pipe it, as into `wireshark -k -i -`")
        yield sys.stdout.buffer
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # a reader may have gone
        return
    with Path(name).open("wb") as file:
        yield file


def _end(name: str, n_packets: int, lost: int) -> None:
    missed = f"; {lost} more were not captured: they were too many" if lost else ""
    where = "" if name == "-" else f" to {name}"
    print(f"vxcore: {n_packets} packets written{where}{missed}", file=sys.stderr)
