"""Segmentation and coalescing as one would explain them: what a NIC with TSO, USO and GRO does.

Place in the house: the oracle of gso and gro, as vxcore/wire.py is the codec's. Plain bytes, one rule a
line, no thought of speed; it shares no code with what it judges.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

ETH = 14
TCP, UDP = 6, 17
FIN, PSH, ACK, CWR = 0x01, 0x08, 0x10, 0x80
DF = 0x4000
NEEDS_CSUM = 1
TCPV4, TCPV6, UDP_L4, GSO_ECN = 1, 4, 5, 0x80
EXTENSIONS = (0, 43, 60)  # hop-by-hop, routing, destination options


def total(data: bytes) -> int:
    """The Internet checksum's sum (RFC 1071), folded."""
    data += bytes(len(data) % 2)
    value = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while value > 0xFFFF:
        value = (value & 0xFFFF) + (value >> 16)
    return value


@dataclass(frozen=True)
class Parts:
    """A TCP or UDP frame taken apart: Ethernet, IP header with what follows it, transport header, payload."""

    eth: bytes
    ip: bytes
    proto: int
    l4: bytes
    payload: bytes

    @property
    def version(self) -> int:
        return self.ip[0] >> 4

    def pseudo(self) -> bytes:
        addresses = self.ip[12:20] if self.version == 4 else self.ip[8:40]
        return addresses + struct.pack("!HH", self.proto, len(self.l4) + len(self.payload))

    def frame(self) -> bytes:
        """Put together, with lengths and checksums that are right."""
        ip, l4 = bytearray(self.ip), bytearray(self.l4)
        length = len(ip) + len(l4) + len(self.payload)
        if self.version == 4:
            ip[2:4], ip[10:12] = length.to_bytes(2, "big"), bytes(2)
            ip[10:12] = (total(bytes(ip)) ^ 0xFFFF).to_bytes(2, "big")
        else:
            ip[4:6] = (length - 40).to_bytes(2, "big")
        if self.proto == UDP:
            l4[4:6] = (len(l4) + len(self.payload)).to_bytes(2, "big")
        at = 16 if self.proto == TCP else 6
        l4[at : at + 2] = bytes(2)
        check = total(self.pseudo() + bytes(l4) + self.payload) ^ 0xFFFF
        if check == 0 and self.proto == UDP:
            check = 0xFFFF  # RFC 768: zero means none
        l4[at : at + 2] = check.to_bytes(2, "big")
        return self.eth + bytes(ip) + bytes(l4) + self.payload


def parts(frame: bytes) -> Parts | None:
    """None for all but a whole TCP or UDP packet with nothing behind it."""
    kind, ip = frame[12:ETH], frame[ETH:]
    if kind == b"\x08\x00":
        length, fragment = struct.unpack_from("!2xH2xH", ip)
        if ip[0] >> 4 != 4 or fragment & 0x3FFF or length != len(ip):
            return None
        end, proto = (ip[0] & 15) * 4, ip[9]
    elif kind == b"\x86\xdd":
        if ip[0] >> 4 != 6 or int.from_bytes(ip[4:6], "big") != len(ip) - 40:
            return None
        end, proto = 40, ip[6]
        while proto in EXTENSIONS:
            end, proto = end + 8 * (ip[end + 1] + 1), ip[end]
    else:
        return None
    if proto not in (TCP, UDP):
        return None
    l4_len = (ip[end + 12] >> 4) * 4 if proto == TCP else 8
    return Parts(frame[:ETH], ip[:end], proto, ip[end : end + l4_len], ip[end + l4_len :])


def cut(frame: bytes, size: int) -> list[bytes]:
    """The frames that a NIC sends of a super-frame, for payloads of `size` bytes."""
    whole = parts(frame)
    assert whole is not None
    starts = range(0, len(whole.payload), size)
    return [one_piece(whole, n, at, size).frame() for n, at in enumerate(starts)]


def one_piece(whole: Parts, n: int, at: int, size: int) -> Parts:
    ip, l4 = bytearray(whole.ip), bytearray(whole.l4)
    if whole.version == 4:  # identifications count up
        ip[4:6] = ((int.from_bytes(ip[4:6], "big") + n) & 0xFFFF).to_bytes(2, "big")
    if whole.proto == TCP:
        l4[4:8] = ((int.from_bytes(l4[4:8], "big") + at) & 0xFFFFFFFF).to_bytes(4, "big")
        if at + size < len(whole.payload):  # the last alone ends something
            l4[13] &= ~(FIN | PSH) & 0xFF
        if n:  # RFC 3168: the first alone says that the window was reduced
            l4[13] &= ~CWR & 0xFF
    return replace(whole, ip=bytes(ip), l4=bytes(l4), payload=whole.payload[at : at + size])


def finish(frame: bytes, start: int, offset: int) -> bytes:
    """With the checksum finished that is partial: its field holds the sum of the pseudo-header."""
    check = total(frame[start:]) ^ 0xFFFF
    at = start + offset
    return frame[:at] + (check or 0xFFFF).to_bytes(2, "big") + frame[at + 2 :]


def partial(frame: bytes) -> bytes:
    """As a sender with checksum offload leaves it."""
    of = parts(frame)
    assert of is not None
    at = len(of.eth) + len(of.ip) + (16 if of.proto == TCP else 6)
    return frame[:at] + total(of.pseudo()).to_bytes(2, "big") + frame[at + 2 :]


def expanded(frame: bytes, vnet: dict[str, int]) -> list[bytes]:
    """What a network without offloads would carry of a frame with this virtio-net header."""
    if vnet["gso_type"]:
        of = parts(frame)
        assert of is not None
        kind = UDP_L4 if of.proto == UDP else TCPV4 if of.version == 4 else TCPV6
        start, offset = len(of.eth) + len(of.ip), 16 if of.proto == TCP else 6
        assert vnet == {
            "flags": NEEDS_CSUM,
            "gso_type": kind,
            "hdr_len": start + len(of.l4),
            "gso_size": vnet["gso_size"],
            "csum_start": start,
            "csum_offset": offset,
        }
        assert frame == partial(frame)
        return cut(frame, vnet["gso_size"])
    if vnet["flags"] & NEEDS_CSUM:
        return [finish(frame, vnet["csum_start"], vnet["csum_offset"])]
    return [frame]


def join(frames: list[bytes], most: int = 64) -> list[list[bytes]]:
    """Frames of one flow, in order, grouped as GRO may: each group one super-frame, or a frame alone."""
    groups: list[list[bytes]] = []
    is_open = False
    for frame in frames:
        if is_open and len(groups[-1]) < most and continues(groups[-1], frame):
            groups[-1].append(frame)
            is_open = size_of(frame) == size_of(groups[-1][0]) and not ends(frame)
        else:
            groups.append([frame])
            is_open = joinable(frame) and not ends(frame)
    return groups


def size_of(frame: bytes) -> int:
    of = parts(frame)
    return len(of.payload) if of else 0


def ends(frame: bytes) -> bool:
    of = parts(frame)
    return of is not None and of.proto == TCP and bool(of.l4[13] & (FIN | PSH))


def joinable(frame: bytes) -> bool:
    """Plain headers, a payload, no flag but ACK, FIN and PSH, and a checksum that is there and right."""
    of = parts(frame)
    if of is None or not of.payload or len(of.ip) != (20 if of.version == 4 else 40):
        return False
    if of.proto == TCP and (of.l4[12] & 15 or of.l4[13] & ~(FIN | PSH) != ACK):
        return False
    if of.proto == UDP and of.l4[6:8] == bytes(2):
        return False
    return frame in (of.frame(), partial(of.frame()))


def continues(group: list[bytes], frame: bytes) -> bool:
    """Whether a super-frame of all would be cut into just these frames again."""
    first, of = parts(group[0]), parts(frame)
    if first is None or of is None or not joinable(frame) or len(of.payload) > len(first.payload):
        return False
    payload = b"".join(part.payload for part in map(parts, [*group, frame]) if part)
    if len(first.ip) + len(first.l4) + len(payload) > 65535:
        return False
    l4 = bytearray(first.l4)
    if first.proto == TCP:
        l4[13] |= of.l4[13] & (FIN | PSH)
    whole = replace(first, l4=bytes(l4), payload=payload).frame()
    made = cut(whole, len(first.payload))
    wanted = [part.frame() for part in map(parts, [*group, frame]) if part]
    return made == wanted or (same_identification(wanted) and anonymous(made) == anonymous(wanted))


def same_identification(frames: list[bytes]) -> bool:
    """Which a sender may give to all where DF forbids fragments (RFC 6864)."""
    return all(f[12:ETH] == b"\x08\x00" and f[18:20] == frames[0][18:20] and f[20] & 0x40 for f in frames)


def anonymous(frames: list[bytes]) -> list[bytes]:
    """The frames without their IPv4 identifications."""
    return [f[: ETH + 4] + bytes(2) + f[ETH + 6 : ETH + 10] + bytes(2) + f[ETH + 12 :] for f in frames]
