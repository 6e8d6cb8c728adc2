"""Capture files made byte by byte, and read back by somebody else.

Place in the house: under the tests of captures; knows struct, Scapy and Wireshark's tools, and nothing
of ours, so that it can disagree with it.
"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

from scapy.utils import RawPcapNgReader, RawPcapReader

MICRO, NANO, ORDER = 0xA1B2C3D4, 0xA1B23C4D, 0x1A2B3C4D
START_S = 1_700_000_000


def pcap(frames: list[bytes], order: str = "<", nano: bool = False, link: int = 1, cut: int = 0) -> bytes:
    """A pcap, a packet a second; `cut` bytes of each were on the wire and are not in the file."""
    data = struct.pack(f"{order}IHHIIII", NANO if nano else MICRO, 2, 4, 0, 0, 65535, link)
    for n, frame in enumerate(frames):
        data += struct.pack(f"{order}IIII", START_S + n, n, len(frame), len(frame) + cut) + frame
    return data


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    """A pcapng block."""
    body = body + bytes(-len(body) % 4)
    length = struct.pack(f"{order}I", len(body) + 12)
    return struct.pack(f"{order}I", kind) + length + body + length


def section(order: str = "<") -> bytes:
    """A section header."""
    return block(0x0A0D0D0A, struct.pack(f"{order}IHHq", ORDER, 1, 0, -1), order)


def interface(order: str = "<", link: int = 1, options: bytes = b"", snap_len: int = 0) -> bytes:
    """An interface description."""
    return block(1, struct.pack(f"{order}HHI", link, 0, snap_len) + options, order)


def enhanced(frame: bytes, stamp: int, order: str = "<", number: int = 0, cut: int = 0) -> bytes:
    """An enhanced packet block."""
    words = (number, stamp >> 32, stamp & 0xFFFFFFFF, len(frame), len(frame) + cut)
    return block(6, struct.pack(f"{order}IIIII", *words) + frame, order)


def pcapng(frames: list[bytes], links: list[int] | None = None, order: str = "<", cut: int = 0) -> bytes:
    """A pcapng in nanoseconds, a packet a second, with one interface for each different link type."""
    links = links or [1] * len(frames)
    known = sorted(set(links))
    resolution = struct.pack(f"{order}HHB3xHH", 9, 1, 9, 0, 0)
    data = section(order) + b"".join(interface(order, link, resolution) for link in known)
    for n, (frame, link) in enumerate(zip(frames, links, strict=True)):
        data += enhanced(frame, (START_S + n) * 10**9 + n, order, known.index(link), cut)
    return data


def read_pcap_by_scapy(path: Path | str) -> list[tuple[bytes, int, int]]:
    """(frame, nanoseconds since 1970, length on the wire) of each packet of a pcap, as Scapy reads it."""
    with RawPcapReader(str(path)) as reader:
        unit = 1 if reader.nano else 1000
        return [(data, meta.sec * 10**9 + meta.usec * unit, meta.wirelen) for data, meta in reader]


def read_pcapng_by_scapy(path: Path | str) -> list[tuple[bytes, int, int, str]]:
    """The same of a pcapng, and the name of the interface."""
    with RawPcapNgReader(str(path)) as reader:
        return [
            (
                data,
                ((meta.tshigh << 32) + meta.tslow) * (10**9 // meta.tsresol),
                meta.wirelen,
                (meta.ifname or b"").decode(),
            )
            for data, meta in reader
        ]


def read(path: Path | str) -> list[tuple[bytes, int, int]]:
    """Frames, times and lengths on the wire, of either form."""
    if Path(path).read_bytes()[:4] == b"\n\r\r\n":
        return [packet[:3] for packet in read_pcapng_by_scapy(path)]
    return read_pcap_by_scapy(path)


def frames_of(path: Path | str) -> list[bytes]:
    """The frames alone."""
    return [frame for frame, _, _ in read(path)]


def by_tshark(tshark: str, path: Path | str, *fields: str, options: tuple[str, ...] = ()) -> list[list[str]]:
    """The fields of each packet, as tshark prints them."""
    wanted = [word for field in fields for word in ("-e", field)]
    command = [tshark, "-n", "-r", str(path), "-T", "fields", "-E", "occurrence=f", *wanted, *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [line.split("\t") for line in done.stdout.splitlines()]
