"""Open packet sockets: their filters, rings and fanout groups.

Place in the house: above ports, below engine. Set-up only, as in ports. A packet socket takes its
packets before the host's IP stack and its firewall, and beside them: so a UDP socket that reads
nothing keeps our port, or the stack would answer each packet with an ICMP error.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import socket
import struct
from collections.abc import Collection
from contextlib import ExitStack
from typing import NamedTuple

from vxcore.config import Offload, Underlay
from vxcore.errors import ConfigError, UnsupportedError
from vxcore.parts import Part, descriptors, sockets
from vxcore.ports import Instruction, IPAddress, attach_filter, port_keeper, set_buffer
from vxcore.wire import ETH_LEN, IPV6_LEN

log = logging.getLogger("vxcore")

# linux/if_packet.h
SOL_PACKET = 263
_RX_RING, _STATISTICS, _COPY_THRESH, _VERSION, _RESERVE, _VNET_HDR, _FANOUT = 5, 6, 7, 10, 12, 15, 18
_TPACKET_V2 = 1
_FANOUT_HASH, _FANOUT_UNIQUE_ID = 0, 0x2000
_SO_RCVBUFFORCE = 33

_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD
_SLOT_ROOM = 256  # port.pxd
_SLOT_HEAD = 80 + _SLOT_ROOM + 16  # what the kernel puts in front of a packet, at the most
_RING_BYTES = 8 << 20
_BLOCK_BYTES = 1 << 20
_LARGEST_USUAL = 1514 + 4
_MOST_GROUPS = 256  # nine instructions each over IPv6; a filter has up to 4096 (BPF_MAXINSNS)


class RingSize(NamedTuple):
    """Of a ring: bytes of a slot and of a block, and the number of blocks."""

    slot_len: int
    block_len: int
    n_blocks: int

    @classmethod
    def fit_for(cls, largest: int) -> RingSize:
        """Slots for packets of that size, of an odd multiple of 64 bytes so that they spread over a cache."""
        slot_len = (_SLOT_HEAD + largest + 63 | 64) & ~63
        block_len = max(_BLOCK_BYTES, -(-slot_len // mmap.PAGESIZE) * mmap.PAGESIZE)
        return cls(slot_len, block_len, _RING_BYTES // block_len)

    @property
    def blocks(self) -> tuple[int, int]:
        """Their number, and the bytes of each."""
        return self.n_blocks, self.block_len

    def request(self) -> bytes:
        """A struct tpacket_req."""
        n_slots = self.n_blocks * (self.block_len // self.slot_len)
        return struct.pack("=4I", self.block_len, self.n_blocks, self.slot_len, n_slots)


class PacketUnderlay:
    """The packet sockets of one local address: a receiver with a ring and a sender for each lane.

    Receivers see every interface, or `dev` alone, as a UDP socket would; several share a fanout
    group, by which packets of one flow stay with one of them. Raises UnsupportedError when the kernel
    lacks what is needed, OSError or ConfigError as UdpUnderlay does.
    """

    def __init__(
        self,
        settings: Underlay,
        local: IPAddress,
        n_lanes: int = 1,
        offload: Offload | None = None,
        handed: Part | None = None,
    ) -> None:
        self.local = local
        self.ring = RingSize.fit_for(_LARGEST_USUAL)
        self.receivers: list[socket.socket] = []
        self.senders: list[socket.socket] = []
        self._dropped, self._settings = 0, settings
        self._offload = offload or Offload()
        self.gso = self._offload.udp_gso
        if handed is not None:
            self._keeper, *socks = sockets(handed.fds)
            self.receivers, self.senders = socks[:n_lanes], socks[n_lanes:]
            self.ring = RingSize(*handed.facts["ring"])
            return
        with ExitStack() as undo:
            self._keeper = self._keep(settings.dstport)
            undo.callback(self.close)
            for _ in range(n_lanes):
                self.receivers.append(self._receiver(settings))
                self.senders.append(packet_socket())
            share(self.receivers)
            undo.pop_all()

    def part(self) -> Part:
        """What another process goes on with."""
        return Part(descriptors([self._keeper, *self.receivers, *self.senders]), {"ring": self.ring})

    def _keep(self, port: int) -> socket.socket:
        return port_keeper(self._settings, self.local, port, joins=self._offload.udp_gro)

    def _receiver(self, settings: Underlay) -> socket.socket:
        protocol = _ETH_P_IP if self.local.version == 4 else _ETH_P_IPV6
        sock = packet_socket(protocol)
        try:
            if settings.dev:
                sock.bind((settings.dev, protocol))
            attach_filter(sock, our_packets(self.local, {settings.dstport}))
            set_ring(sock, self.ring)
        except BaseException:
            sock.close()
            raise
        return sock

    def listen(self, port: int) -> tuple[list[socket.socket], list[socket.socket]]:
        """What ``take`` needs for one more port: a socket that holds it. Lanes have nothing more to read."""
        return [self._keep(port)], []

    def take(self, ports: Collection[int], groups: Collection[IPAddress]) -> None:
        """Take what is sent to these ports and groups (those of our family) as well, and to no others.

        Raises ConfigError for more than a filter holds.
        """
        ours = sorted(group.packed for group in groups if group.version == self.local.version)
        if len(ours) > _MOST_GROUPS:
            raise ConfigError(f"{len(ours)} groups; at most {_MOST_GROUPS} with packet sockets")
        for sock in self.receivers:
            attach_filter(sock, our_packets(self.local, {self._settings.dstport, *ports}, ours))

    def overruns(self) -> int:
        """Packets that the kernel dropped because our rings were full."""
        self._dropped += sum(ring_drops(sock) for sock in self.receivers)
        return self._dropped

    def close(self) -> None:
        for sock in [*self.receivers, *self.senders]:
            sock.close()
        self.receivers.clear()
        self.senders.clear()
        self._keeper.close()


def packet_socket(protocol: int = 0, vnet: bool = True) -> socket.socket:
    """A packet socket on all devices, with or without a virtio-net header in front of each packet.

    Protocol 0: it receives none.
    """
    try:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    except PermissionError as error:
        text = "no permission to open a packet socket; root or CAP_NET_RAW is needed"
        raise PermissionError(error.errno, text) from None
    except OSError as error:
        raise UnsupportedError(f"packet sockets: {error.strerror}; the kernel lacks AF_PACKET") from None
    sock.setblocking(False)
    try:
        sock.setsockopt(SOL_PACKET, _VNET_HDR, int(vnet))
    except OSError as error:
        sock.close()
        raise UnsupportedError(f"packet sockets: PACKET_VNET_HDR: {error.strerror}") from None
    return sock


def set_ring(sock: socket.socket, size: RingSize) -> None:
    """Set the ring up; the kernel forgets what was queued before, when there was no filter."""
    set_buffer(sock, _SO_RCVBUFFORCE, socket.SO_RCVBUF)
    try:
        sock.setsockopt(SOL_PACKET, _VERSION, _TPACKET_V2)
        sock.setsockopt(SOL_PACKET, _RESERVE, _SLOT_ROOM)
        sock.setsockopt(SOL_PACKET, _COPY_THRESH, 1)
        sock.setsockopt(SOL_PACKET, _RX_RING, size.request())
    except OSError as error:
        code = error.errno or errno.EIO
        if code == errno.ENOMEM:
            raise OSError(code, f"packet socket: no memory for a ring of {_RING_BYTES} bytes") from None
        raise UnsupportedError(f"packet socket: its ring: {os.strerror(code)}") from None


def share(sockets: list[socket.socket], flags: int = 0) -> None:
    """Put them in one fanout group, which spreads flows over them; the kernel chooses its number.

    `flags` are the kernel's PACKET_FANOUT_FLAG_*. What shares cannot be bound to another device.
    """
    if len(sockets) < 2:
        return
    kind = _FANOUT_HASH | flags
    sockets[0].setsockopt(SOL_PACKET, _FANOUT, (kind | _FANOUT_UNIQUE_ID) << 16)
    group = sockets[0].getsockopt(SOL_PACKET, _FANOUT) & 0xFFFF
    for sock in sockets[1:]:
        sock.setsockopt(SOL_PACKET, _FANOUT, kind << 16 | group)


def ring_drops(sock: socket.socket) -> int:
    """Since the last call, for the kernel counts anew after each."""
    _, drops = struct.unpack("=II", sock.getsockopt(SOL_PACKET, _STATISTICS, 8))
    return int(drops)


# Filters: classic BPF (linux/filter.h, linux/bpf_common.h) over a packet, Ethernet first

LD_W, LD_H, _LD_B, _LD_H_X = 0x20, 0x28, 0x30, 0x48
_LDX, _LDX_IHL, _TAX = 0x01, 0xB1, 0x07
_ADD, _AND, _LSH, MOD, RET = 0x04, 0x54, 0x64, 0x94, 0x06
JA, JEQ, _JSET = 0x05, 0x15, 0x45
_PACKET_TYPE = 0xFFFFF000 + 4  # SKF_AD_OFF + SKF_AD_PKTTYPE
_PACKET_HOST, _PACKET_MULTICAST, _PACKET_OUTGOING = 0, 2, 4
WHOLE = 0x40000

_SOURCE, _DESTINATION = {4: ETH_LEN + 12, 6: ETH_LEN + 8}, {4: ETH_LEN + 16, 6: ETH_LEN + 24}
_IPV4_FRAGMENT, _IPV4_PROTOCOL = ETH_LEN + 6, ETH_LEN + 9
_IPV6_NEXT, _IPV6_PAYLOAD = ETH_LEN + 6, ETH_LEN + IPV6_LEN
_UDP_DESTINATION = ETH_LEN + 2  # behind an IP header of X bytes

# A label, or an instruction: code and operand, and of a jump the labels it goes to if true and if
# false ("": the next instruction).
Line = str | tuple[int, int] | tuple[int, int, str, str]


def received() -> list[Instruction]:
    """Lets in all that a device receives, and nothing that it sends."""
    lines: list[Line] = [(LD_W, _PACKET_TYPE), (JEQ, _PACKET_OUTGOING, "drop", ""), (RET, WHOLE)]
    return assemble([*lines, "drop", (RET, 0)])


def our_packets(
    local: IPAddress, ports: Collection[int], groups: Collection[bytes] = ()
) -> list[Instruction]:
    """Lets in what this host would deliver to UDP sockets with these ports and this address or a group's.

    The groups are packed and of the same family. Of a datagram in fragments the first comes in, to be
    counted; the others name no port, and are left to the host's stack. Over IPv6 one extension header may
    stand in front of UDP.
    """
    return assemble(
        [
            *((LD_W, _PACKET_TYPE), (JEQ, _PACKET_HOST, "", "no host")),
            *((JA, 0, "host", ""), "no host", *_to_groups(local.packed, groups)),
            *("host", *equal(_DESTINATION[local.version], local.packed, "drop")),
            *("ours", *(_udp_on_ipv4() if local.version == 4 else _udp_on_ipv6())),
            *("udp", (_LD_H_X, _UDP_DESTINATION)),
            *((JEQ, port, "take", "") for port in sorted(ports)),
            *("drop", (RET, 0), "take", (RET, WHOLE)),
        ]
    )


def _to_groups(local: bytes, groups: Collection[bytes]) -> list[Line]:
    """Multicast to one of the groups, and neither from us nor (RFC 1122 section 3.2.1.3) from a group."""
    version = 4 if len(local) == 4 else 6
    prefix, mask = (0xE0, 0xF0) if version == 4 else (0xFF, 0xFF)
    lines: list[Line] = [(JEQ, _PACKET_MULTICAST, "", "bad")]
    lines += [(_LD_B, _SOURCE[version]), (_AND, mask), (JEQ, prefix, "bad", "")]
    lines += [*equal(_SOURCE[version], local, "foreign"), "bad", (RET, 0), "foreign"]
    for n, group in enumerate(groups):
        lines += [*equal(_DESTINATION[version], group, f"not {n}"), (JA, 0, "ours", ""), f"not {n}"]
    return [*lines, (RET, 0)]


def equal(at: int, address: bytes, other: str) -> list[Line]:
    """Go on if an address stands there, else to a label."""
    lines: list[Line] = []
    for n, word in enumerate(struct.unpack(f"!{len(address) // 4}I", address)):
        lines += [(LD_W, at + 4 * n), (JEQ, word, "", other)]
    return lines


def _udp_on_ipv4() -> list[Line]:
    """UDP, but not a fragment behind the first; X is where the UDP header stands."""
    return [
        *((_LD_B, _IPV4_PROTOCOL), (JEQ, socket.IPPROTO_UDP, "", "drop")),
        *((LD_H, _IPV4_FRAGMENT), (_JSET, 0x1FFF, "drop", "")),
        (_LDX_IHL, ETH_LEN),
    ]


def _udp_on_ipv6() -> list[Line]:
    return [
        *((_LDX, IPV6_LEN), (_LD_B, _IPV6_NEXT), (JEQ, socket.IPPROTO_UDP, "udp", "")),
        *((JEQ, socket.IPPROTO_FRAGMENT, "fragment", ""), (JEQ, socket.IPPROTO_HOPOPTS, "extension", "")),
        *((JEQ, socket.IPPROTO_ROUTING, "extension", ""), (JEQ, socket.IPPROTO_DSTOPTS, "", "drop")),
        *("extension", (_LD_B, _IPV6_PAYLOAD), (JEQ, socket.IPPROTO_UDP, "", "drop")),
        *((_LD_B, _IPV6_PAYLOAD + 1), (_ADD, 1), (_LSH, 3), (_ADD, IPV6_LEN), (_TAX, 0)),
        *((JA, 0, "udp", ""), "fragment"),
        *((_LD_B, _IPV6_PAYLOAD), (JEQ, socket.IPPROTO_UDP, "", "drop")),
        *((LD_H, _IPV6_PAYLOAD + 2), (_JSET, 0xFFF8, "drop", ""), (_LDX, IPV6_LEN + 8)),
    ]


def assemble(lines: list[Line]) -> list[Instruction]:
    """Turn labels into distances."""
    labels: dict[str, int] = {}
    instructions: list[tuple[int, int] | tuple[int, int, str, str]] = []
    for line in lines:
        if isinstance(line, str):
            labels[line] = len(instructions)
        else:
            instructions.append(line)
    return [_resolve(n, line, labels) for n, line in enumerate(instructions)]


def _resolve(
    here: int, line: tuple[int, int] | tuple[int, int, str, str], labels: dict[str, int]
) -> Instruction:
    if len(line) == 2:
        return line[0], 0, 0, line[1]
    code, operand, *targets = line
    true, false = (labels[target] - here - 1 if target else 0 for target in targets)
    return (code, 0, 0, true) if code == JA else (code, true, false, operand)
