"""Senders of TCP and UDP frames, well-behaved and otherwise.

Place in the house: what the tests of segmentation and coalescing put in; frames are bytes, built by the
readable reference beside it (offload.py), so that ten thousand of them cost seconds.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from support import offload
from support.offload import ACK, DF, ETH, TCP, UDP, Parts

MACS = bytes.fromhex("02000000000b02000000000a")


@dataclass
class Sender:
    """One flow: what stays alike in its headers, and where it is."""

    version: int = 4
    proto: int = TCP
    number: int = 1  # in the addresses and ports: flows of two numbers are two flows
    tos: int = 0
    ttl: int = 64
    fragment: int = DF
    ident: int = 0
    ident_step: int = 1
    sequence: int = 1
    acknowledged: int = 77
    window: int = 512
    urgent: int = 0
    options: bytes = b""
    extensions: bytes = b""  # of IPv6; their first byte is to name the transport
    extension: int = 0
    macs: bytes = field(default=MACS)

    def ip(self) -> bytes:
        if self.version == 4:
            addresses = bytes((10, 0, 0, self.number)) + b"\x0a\0\0\x02"
            head = struct.pack(
                "!BBHHHBBH", 0x45, self.tos, 0, self.ident, self.fragment, self.ttl, self.proto, 0
            )
            return head + addresses
        word = 6 << 28 | self.tos << 20 | self.number
        proto = self.extension if self.extensions else self.proto
        source = b"\xfd" + bytes(14) + bytes((self.number,))
        return struct.pack("!IHBB", word, 0, proto, self.ttl) + source + b"\xfd" + bytes(15) + self.extensions

    def l4(self, flags: int) -> bytes:
        ports = struct.pack("!HH", 1000 + self.number, 80)
        if self.proto == UDP:
            return ports + bytes(4)
        words = (self.sequence, self.acknowledged, (20 + len(self.options)) << 10 | flags, self.window)
        return ports + struct.pack("!IIHHHH", *words, 0, self.urgent) + self.options

    def send(self, payload: bytes, flags: int = ACK) -> bytes:
        """The next frame of the flow; `flags` may have the bit above the eight, AccECN's."""
        kind = b"\x08\x00" if self.version == 4 else b"\x86\xdd"
        whole = Parts(self.macs + kind, self.ip(), self.proto, self.l4(flags), payload)
        self.sequence = (self.sequence + len(payload)) & 0xFFFFFFFF
        self.ident = (self.ident + self.ident_step) & 0xFFFF
        return whole.frame()


def is_ipv4(frame: bytes) -> bool:
    return frame[12:ETH] == b"\x08\x00"


def flipped(frame: bytes, at: int, bits: int = 0xFF) -> bytes:
    changed = bytearray(frame)
    changed[at] ^= bits
    return bytes(changed)


def l4_off(frame: bytes) -> int:
    return ETH + (20 if is_ipv4(frame) else 40)


def fragment_of(frame: bytes) -> bytes:
    """A first fragment that claims to have others."""
    if is_ipv4(frame):
        return mended(frame[: ETH + 6] + b"\x20\x00" + frame[ETH + 8 :])
    piece = frame[20:21] + b"\0\0\1" + bytes(4)
    return mended(frame[: ETH + 6] + b"\x2c" + frame[ETH + 7 : 54] + piece + frame[54:])


def with_options(frame: bytes) -> bytes:
    """IPv4 with a no-operation option, IPv6 with an empty destination options header."""
    if is_ipv4(frame):
        return mended(frame[:ETH] + b"\x46" + frame[ETH + 1 : 34] + b"\1\1\1\0" + frame[34:])
    proto = frame[ETH + 6 : ETH + 7]
    return mended(frame[: ETH + 6] + b"\x3c" + frame[ETH + 7 : 54] + proto + b"\0\1\4\0\0\0\0" + frame[54:])


def mended(frame: bytes) -> bytes:
    """With the IP header's length and checksum right."""
    ip = bytearray(frame[ETH:])
    if not is_ipv4(frame):
        ip[4:6] = (len(ip) - 40).to_bytes(2, "big")
    else:
        end = (ip[0] & 15) * 4
        ip[2:4], ip[10:12] = len(ip).to_bytes(2, "big"), bytes(2)
        ip[10:12] = (offload.total(bytes(ip[:end])) ^ 0xFFFF).to_bytes(2, "big")
    return frame[:ETH] + bytes(ip)


def unchecked(frame: bytes) -> bytes:
    """UDP without a checksum; TCP with a wrong one."""
    at = l4_off(frame) + (6 if frame[ETH + (9 if is_ipv4(frame) else 6)] == UDP else 16)
    return frame[:at] + bytes(2) + frame[at + 2 :]


# What may be wrong or unusual with one frame of a flow. Each keeps the flow's addresses and ports, if any.
TWISTS: dict[str, Callable[[bytes], bytes]] = {
    "as it is": lambda frame: frame,
    "checksum partial": offload.partial,
    "payload damaged": lambda frame: flipped(frame, len(frame) - 1),
    "IP header damaged": lambda frame: flipped(frame, ETH + (8 if is_ipv4(frame) else 4), 1),
    "padded": lambda frame: frame + bytes(6),
    "cut short": lambda frame: frame[:-1],
    "a fragment": fragment_of,
    "IP options": with_options,
    "other MAC": lambda frame: flipped(frame, 11, 1),
    "no checksum": unchecked,
    "not IP": lambda frame: frame[:12] + b"\x08\x06" + frame[ETH:],
    "ICMP": lambda frame: mended(flipped(frame, ETH + (9 if is_ipv4(frame) else 6), 0x10)),
}
