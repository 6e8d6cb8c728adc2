"""Packets against pages that must not be touched: whoever reads outside a packet ends this process.

Place in the house: run by tests/unit/test_guard_pages.py as a process of its own, since a touched
page is SIGSEGV. ``python guarded.py CASE`` prints how many packets passed; CASE ``overread`` reads one
byte too many on purpose, to prove that the page is there.
"""

from __future__ import annotations

import ctypes
import mmap
import random
import sys
from collections.abc import Iterator
from itertools import product

import numpy as np

from vxcore import Layer, PacketBatch, Rules, Tunnel, VlanMap, decap, encap, flow_hash, wire
from vxcore._fast.xdp_underlay import opened

PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)
ENDS = {
    4: {"local": "192.0.2.1", "remote": "192.0.2.2"},
    6: {"local": "2001:db8::1", "remote": "2001:db8::2"},
}
MACS = ("02:00:00:00:00:02", "02:00:00:00:00:01")
RULES = [
    Rules(
        udp_checksum=check, zero_checksum6="accept", inner_vlan=vlan, gbp=True, gpe=gpe, truncated=truncated
    )
    for check, vlan, gpe, truncated in product(
        ("verify", "ignore"), ("drop", "strip", "pass"), (False, True), ("drop", "deliver")
    )
]


class Guarded:
    """A batch of one slot, in which one page before and one behind the packet cannot be touched."""

    def __init__(self) -> None:
        self.batch = PacketBatch(1, frame_size=8 * PAGE)
        self.batch.count = 1
        start = self.batch.data.ctypes.data
        self.low = -start % PAGE + PAGE  # where the lower guard page ends
        self.high = self.low + 4 * PAGE  # where the upper one starts
        for at in (self.low - PAGE, self.high):
            if LIBC.mprotect(ctypes.c_void_p(start + at), ctypes.c_size_t(PAGE), 0):
                raise OSError(ctypes.get_errno(), "mprotect")

    def put(self, packet: bytes, at: int) -> PacketBatch:
        """Lay the packet at a byte of the batch's memory and forget the last one."""
        batch = self.batch
        batch.data[at : at + len(packet)] = np.frombuffer(packet, np.uint8)
        batch.offset[0], batch.length[0], batch.verdict[0] = at, len(packet), 0
        return batch

    def places(self, packet: bytes) -> Iterator[int]:
        """Where a packet begins just behind the lower page, and where it ends just before the upper."""
        yield self.low
        yield self.high - len(packet)

    def view(self, packet: bytes, at: int) -> memoryview:
        self.put(packet, at)
        return memoryview(self.batch.data)[at : at + len(packet)]


def inner_frames() -> list[bytes]:
    """Frames that take every path of the dissector."""
    ends = bytes.fromhex("02000000000b02000000000a")
    ipv4 = bytes.fromhex("4503003c00010000401100000a0000010a000002")
    options = b"\x48" + ipv4[1:] + bytes(12)
    fragment = ipv4[:6] + b"\x20\x01" + ipv4[8:]
    ports = bytes.fromhex("0400003500280000") + bytes(32)
    ipv6 = bytes.fromhex("61200000002800ff") + bytes(range(32))
    hop_by_hop = b"\x3c\0" + bytes(6)
    routing, ah, piece = b"\x11\0" + bytes(6), b"\x33\x01" + bytes(10), b"\x11\0\0\1" + bytes(4)
    ip = [
        b"\x08\0" + ipv4 + ports,
        b"\x08\0" + options + ports,
        b"\x08\0" + fragment + ports,
        b"\x86\xdd" + ipv6 + hop_by_hop + routing + ports,
        b"\x86\xdd" + ipv6[:6] + b"\x33" + ipv6[7:] + ah + routing + ports,
        b"\x86\xdd" + ipv6[:6] + b"\x2c" + ipv6[7:] + piece + ports,
        b"\x86\xdd" + ipv6[:6] + b"\0" + ipv6[7:] + (b"\0\0" + bytes(6)) * 9,
        b"\x08\x06" + bytes(28),
    ]
    tags = [b"", b"\x81\0\0\x0a", b"\x88\xa8\0\x14\x81\0\0\x0a", b"\x91\0\0\1" * 3]
    return [ends + tag + packet for tag, packet in product(tags, ip)]


def outer_packets() -> list[bytes]:
    """Packets that take every path of decapsulation, some with lengths that claim more than there is."""
    packets = []
    for version, checksum, frame in product((4, 6), (False, True), inner_frames()[:20:3]):
        spec = wire.TunnelSpec(
            **ENDS[version], vni=7, udp_checksum=checksum, ethernet=MACS, inner_vlan="pass"
        )  # type: ignore[arg-type]
        packets.append(wire.encapsulate(frame, spec, gbp=1)[1])
    tagged = [packet[:12] + b"\x88\xa8\0\1\x81\0\0\2" + packet[12:] for packet in packets[::5]]
    options = [packet[:14] + b"\x4f" + packet[15:34] + bytes(40) + packet[34:] for packet in packets[:4]]
    extended = [packet[:20] + b"\0" + packet[21:54] + b"\x3c\0" + bytes(6) for packet in packets[-4:]]
    extended += [packet[:20] + b"\x33" + packet[21:54] + b"\x11\xff" + packet[54:] for packet in packets[-4:]]
    return packets + tagged + options + extended


def damaged(packet: bytes, dice: random.Random) -> bytes:
    """The packet with up to three bytes changed."""
    changed = bytearray(packet)
    for _ in range(dice.randrange(4) if packet else 0):
        changed[dice.randrange(len(changed))] = dice.choice(
            (0, 1, 0x45, 0x7F, 0x80, 0xFF, dice.randrange(256))
        )
    return bytes(changed)


def all_decap(guarded: Guarded) -> int:
    """Every truncation of every packet, from every layer, at both pages; and damaged ones."""
    n_packets, dice = 0, random.Random(1)
    for packet in outer_packets():
        for length, rules in product(range(len(packet) + 1), RULES):
            cut = damaged(packet[:length], dice) if dice.randrange(2) else packet[:length]
            for at in guarded.places(cut):
                decap(guarded.put(cut, at), rules)
                decap(guarded.put(cut[14:], at + 14), rules, Layer.IP)
                decap(guarded.put(cut[-8:], at + len(cut[:-8])), rules, Layer.UDP_PAYLOAD)
                n_packets += 3
    return n_packets


TUNNELS = [
    Tunnel(**ENDS[version], vni=7, ethernet=MACS, udp_checksum=checksum, inner_vlan=vlan, **inherit)
    for version, checksum, vlan in product((4, 6), (False, True), ("strip", "pass"))
    for inherit in ({}, {"tos": "inherit", "ttl": "inherit", "df": "inherit", "symmetric": True})
]


def all_encap(guarded: Guarded) -> int:
    """Every truncation of every frame, its end at the upper page; the headroom is ours to write."""
    n_packets = 0
    for frame in inner_frames():
        for length in range(len(frame) + 1):
            for tunnel in TUNNELS:
                encap(guarded.put(frame[:length], guarded.high - length), tunnel)
                n_packets += 1
    return n_packets


def all_flows(guarded: Guarded) -> int:
    """The hash, at both pages; a VLAN map, whose tag goes in the headroom, at the upper one."""
    n_packets, vlans = 0, VlanMap({10: 0, 20: 1, 0: 2})
    for frame in inner_frames():
        for length in range(len(frame) + 1):
            cut = frame[:length]
            for at in guarded.places(cut):
                vlans.untag(guarded.put(cut, at))
                if length >= 14:
                    flow_hash(guarded.view(cut, at), symmetric=at == guarded.low)
                n_packets += 1
            vlans.tag(guarded.put(cut, guarded.high - length))
    return n_packets


def all_opened(guarded: Guarded) -> int:
    """What an AF_XDP underlay makes of them, which may finish a checksum where it is."""
    n_packets, dice, rules = 0, random.Random(2), Rules()
    for packet in outer_packets():
        for length in range(1, len(packet) + 1):
            cut = damaged(packet[:length], dice) if dice.randrange(2) else packet[:length]
            for at in guarded.places(cut):
                opened(guarded.view(cut, at), rules)
                n_packets += 1
    return n_packets


def overread(guarded: Guarded) -> int:
    """Claim one byte more than there is below the upper page: this call does not return."""
    packet = outer_packets()[0]
    batch = guarded.put(packet[14:40], guarded.high - 26)
    batch.length[0] = 27
    return encap(batch, Tunnel(**ENDS[4], vni=7, udp_checksum=True))


CASES = {
    "decap": all_decap,
    "encap": all_encap,
    "flows": all_flows,
    "opened": all_opened,
    "overread": overread,
}

if __name__ == "__main__":
    print(CASES[sys.argv[1]](Guarded()))
