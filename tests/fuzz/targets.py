"""What is fuzzed: each target takes any bytes, and fails where compiled code and wire.py disagree.

Place in the house: driven with coverage feedback by campaign.py and without by test_fuzz.py, which
replays the corpus. The first bytes of an input choose the settings, the rest is the packet or file.
Under ASan the memory around the packet is poisoned, so that reading one byte of it ends the process.
"""

from __future__ import annotations

import ctypes
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np

from vxcore import (
    PacketBatch,
    Rules,
    Tunnel,
    Verdict,
    VlanMap,
    complete_checksum,
    decap,
    encap,
    flow_hash,
    wire,
)
from vxcore._fast.checker import Checker
from vxcore._fast.pcap import Reader
from vxcore._fast.stamp import stamp_of
from vxcore.errors import CaptureError

MAX_PACKET = 66_000
LOADED = ctypes.CDLL(None)
POISON = getattr(LOADED, "__asan_poison_memory_region", None)
UNPOISON = getattr(LOADED, "__asan_unpoison_memory_region", None)


@contextmanager
def poisoned(memory: np.ndarray, *ranges: tuple[int, int]) -> Iterator[None]:
    """Under ASan, let nobody touch these byte ranges of `memory` meanwhile."""
    if POISON is None or UNPOISON is None:
        yield
        return
    spans = [
        (ctypes.c_void_p(memory.ctypes.data + first), ctypes.c_size_t(end - first)) for first, end in ranges
    ]
    for span in spans:
        POISON(*span)
    try:
        yield
    finally:
        for span in spans:
            UNPOISON(*span)


BATCH = PacketBatch(1, frame_size=MAX_PACKET)
BATCH.count = 1
START = int(BATCH.offset[0])
END = len(BATCH.data)


def put(packet: bytes) -> None:
    """Make the packet the only one of the batch, as a new batch would have it."""
    BATCH.reset()
    BATCH.count = 1
    BATCH.data[START : START + len(packet)] = np.frombuffer(packet, np.uint8)
    BATCH.length[0] = len(packet)


def around(packet: bytes, headroom: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """What of the batch's memory a call has no business with."""
    return (0, START - headroom), (START + len(packet), END)


@cache
def rules(choice: int) -> Rules:
    """One of all rules, by a number."""
    every = product(
        ("verify", "ignore", "require"),
        ("drop", "accept"),
        ("drop", "strip", "pass"),
        ("rfc6040", "ignore"),
        ("ignore", "strict"),
        ("drop", "deliver"),
        (False, True),
        (False, True),
    )
    names = ("udp_checksum", "zero_checksum6", "inner_vlan", "ecn", "reserved", "truncated", "gbp", "gpe")
    options = [dict(zip(names, values, strict=True)) for values in every]
    return Rules(ports=(4789, 4790), **options[choice % len(options)])


def mended(packet: bytes, layer: wire.Layer) -> bytes:
    """The packet with a right IPv4 header checksum, which mutation alone rarely finds."""
    at = 14 if layer == wire.Layer.ETHERNET else 0
    header = packet[at : at + 20]
    if len(header) < 20 or header[0] != 0x45:
        return packet
    check = wire.internet_checksum(header[:10] + b"\0\0" + header[12:])
    return packet[: at + 10] + check.to_bytes(2, "big") + packet[at + 12 :]


def decap_target(data: bytes) -> None:
    """One packet under one set of rules."""
    if len(data) < 3 or len(data) > MAX_PACKET:
        return
    layer, chosen, packet = wire.Layer(data[0] % 3), rules(data[1] | data[0] >> 4 << 8), data[3:]
    if data[0] & 8:
        packet = mended(packet, layer)
    put(packet)
    BATCH.tos[0] = data[2]
    with poisoned(BATCH.data, *around(packet, 0)):
        done = decap(BATCH, chosen, layer)
    said = wire.decapsulate(packet, chosen.spec, layer=layer, outer_tos=data[2])
    if str(said.source) == "::":
        said = replace(said, source=None)  # a batch has no other way to say that there is none
    got = wire.Decapsulated(
        verdict=Verdict(BATCH.verdict[0]),
        frame=BATCH.to_frames()[0] if done else b"",
        vni=int(BATCH.vni[0]),
        source=wire.address_from_16(bytes(BATCH.source[0])),
        source_port=int(BATCH.source_port[0]),
        tos=int(BATCH.tos[0]),
        gbp=int(BATCH.gbp[0]),
        protocol=int(BATCH.protocol[0]),
    )
    assert got == said, (got, said)


@cache
def tunnel(choice: int) -> Tunnel:
    """One of many tunnels, by a number."""
    pairs = (("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2"))
    every = product(
        pairs,
        (None, True),
        ("drop", "strip", "pass"),
        (64, "inherit"),
        (0xB8, "inherit"),
        ("set", "unset", "inherit"),
        ("rfc6040", "linux"),
        (False, True),
    )
    chosen = list(every)
    (local, remote), checksum, vlan, ttl, tos, df, ecn, symmetric = chosen[choice % len(chosen)]
    return Tunnel(
        local=local,
        remote=remote,
        vni=0xABCDEF,
        udp_checksum=checksum,
        inner_vlan=vlan,
        ttl=ttl,
        tos=tos,
        df=df,
        ecn=ecn,
        symmetric=symmetric,
        gbp=symmetric,
    )


def encap_target(data: bytes) -> None:
    """One frame through one tunnel, and back."""
    if len(data) < 2 or len(data) > MAX_PACKET:
        return
    chosen, frame = tunnel(data[0] << 8 | data[1]), data[2:]
    put(frame)
    BATCH.gbp[0] = data[1] << 8 | 1
    with poisoned(BATCH.data, *around(frame, BATCH.headroom)):
        encap(BATCH, chosen)
    packet = BATCH.to_frames()[0] if BATCH.verdict[0] == Verdict.DELIVERED else b""
    numbered = packet and packet[0] == 0x45 and not packet[6] & 0x40
    ip_id = int.from_bytes(packet[4:6], "big") if numbered else 0
    said = wire.encapsulate(frame, chosen.spec, ip_id=ip_id, gbp=data[1] << 8 | 1)
    assert (BATCH.verdict[0], packet) == said, (Verdict(BATCH.verdict[0]), packet, said)
    if packet and chosen.spec.inner_vlan == "pass":
        assert decap(BATCH, PASS, wire.Layer.IP) == 1
        assert BATCH.to_frames() == [frame]


PASS = Rules(inner_vlan="pass")


def flow_target(data: bytes) -> None:
    """The flow hash, the completion of checksums, and the VLAN map."""
    if len(data) < 15 or len(data) > MAX_PACKET:
        return
    symmetric, frame = bool(data[0] & 1), data[1:]
    put(frame)
    with poisoned(BATCH.data, *around(frame, 0)):
        hashed = flow_hash(memoryview(BATCH.data)[START : START + len(frame)], symmetric)
        VLANS.untag(BATCH)
    assert hashed == wire.flow_hash(frame, symmetric)
    assert (BATCH.verdict[0], BATCH.vni[0], BATCH.to_frames()[0]) == wire.untag(frame, VLANS.spec)
    assert complete_checksum(frame) == wire.complete_checksum(frame)


VLANS = VlanMap({0: 7, 1: 0xFFFFFF, 0x123: 0x456})


def pcap_target(data: bytes) -> None:
    """A capture file, in blocks of a size that the first byte chooses."""
    if not data:
        return
    block_size = 64 << data[0] % 8
    try:
        reader = Reader(io.BytesIO(data[1:]), block_size, 1 + (data[0] >> 3) * 7)
    except CaptureError:
        return
    n_bytes = 0
    while reader.read():
        frames = reader.batch.to_frames()
        assert len(frames) == len(reader.time_ns) == len(reader.original_len) == len(reader.link)
        n_bytes += sum(map(len, frames))
    assert n_bytes <= len(data)
    assert reader.read() == 0


def summed(frame: bytes) -> bytes:
    """The frame with a right UDP checksum, and with that a chance that its stamp counts."""
    inner = wire.dissect(frame)
    end = inner.l4_off + inner.l4_len
    if inner.protocol != UDP or not inner.l4_off or inner.l4_len < 8 or end > len(frame):
        return frame
    udp = frame[inner.l4_off : inner.l4_off + 6] + bytes(2) + frame[inner.l4_off + 8 : end]
    pseudo = wire.pseudo_header(*inner.addresses, UDP, inner.l4_len)
    check = wire.internet_checksum(pseudo + udp) or 0xFFFF
    return frame[: inner.l4_off + 6] + check.to_bytes(2, "big") + frame[inner.l4_off + 8 :]


UDP = 17


def gen_target(data: bytes) -> None:
    """One frame, twice, as a receiver of generated frames gets it, alone or as a super-frame."""
    if len(data) < 17 or len(data) > MAX_PACKET:
        return
    piece, frame = data[1] << 8 | data[2], data[3:]
    if data[0] & 1:
        frame = summed(frame)
    put(frame)
    checker, room = Checker(max_streams=1), memoryview(BATCH.data)[START : START + len(frame)]
    with poisoned(BATCH.data, *around(frame, 0)):
        checker.take(BATCH, 0)
        once = checker.totals
        checker.take_frame(room, 0, piece=piece)
    inner = wire.dissect(frame)
    whole = inner.l4_off > 0 and inner.l4_len >= 8 and inner.l4_off + inner.l4_len <= len(frame)
    payload = frame[inner.l4_off + 8 : inner.l4_off + inner.l4_len]
    stamped = inner.protocol == UDP and whole and stamp_of(payload) is not None
    assert once["received"] + once["corrupted"] == stamped, (once, stamped)
    assert once["other"] == (not stamped), (once, stamped)
    assert len(checker.rows()) <= 1


def overread_target(data: bytes) -> None:
    """Not fuzzed: reads behind the packet on purpose, to show that it is seen."""
    put(OVERREAD)
    with poisoned(BATCH.data, *around(OVERREAD[:14], 0)):
        flow_hash(memoryview(BATCH.data)[START : START + len(OVERREAD)])


OVERREAD = bytes(12) + b"\x08\0\x45" + bytes(30)

TARGETS: dict[str, Callable[[bytes], None]] = {
    "decap": decap_target,
    "encap": encap_target,
    "flow": flow_target,
    "pcap": pcap_target,
    "gen": gen_target,
    "overread": overread_target,
}
