"""Packets that ask for an answer, and the sockets that send them: for `vxcore ping`.

Place in the house: above wire; known by the commands. In a segment a host is asked for its link address,
which every host answers, with a source address of our own that nobody else has. Behind the request may be
padding up to a full frame, which receivers ignore: it arrives, or no answer does. A VTEP is asked on the
underlay, by ICMP.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType
from typing import Self

from vxcore import wire

IPAddress = IPv4Address | IPv6Address
_BROADCAST = b"\xff" * 6
_ARP, _REQUEST, _REPLY = 0x0806, 1, 2  # RFC 826
_ICMP6, _SOLICITATION, _ADVERTISEMENT = 58, 135, 136  # RFC 4861
_ND_HOP_LIMIT = 255
_ALL_ETHERTYPES = 3
_SIOCGIFMTU = 0x8921  # asm-generic/sockios.h
_ECHO = {4: (8, 0), 6: (128, 129)}  # request and reply: RFC 792, RFC 4443
_DONT_FRAGMENT = {
    4: (socket.IPPROTO_IP, 10, 3),  # IP_MTU_DISCOVER, IP_PMTUDISC_PROBE; linux/in.h
    6: (socket.IPPROTO_IPV6, 62, 1),  # IPV6_DONTFRAG; linux/in6.h
}


class Asker:
    """Asks hosts of a segment for their link address, through the segment's TAP device; a context manager.

    `source` is what IPv4 hosts are told of who asks; None: a probe (RFC 5227), which says nothing. Raises
    OSError when the device is not there or the user may not.
    """

    def __init__(self, device: str, source: IPv4Address | None = None) -> None:
        self.mac = b"\x02vx" + random.randbytes(3)  # locally administered
        self._source = source
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            self._socket.bind((device, _ALL_ETHERTYPES))
        except OSError as error:
            self._socket.close()
            raise OSError(error.errno, f"{device}: {os.strerror(error.errno or 0)}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    @property
    def mtu(self) -> int:
        """Of the device now."""
        name = self._socket.getsockname()[0].encode()
        answer = fcntl.ioctl(self._socket, _SIOCGIFMTU, struct.pack("16si12x", name, 0))
        return int(struct.unpack("16xi12x", answer)[0])

    def ask(self, target: IPAddress, seconds: float, length: int = 60) -> tuple[float, bytes] | None:
        """Seconds until the answer and the link address in it, or None; with a request of `length` bytes."""
        frame = (self._arp(target) if target.version == 4 else self._solicitation(target)).ljust(
            length, b"\0"
        )
        started = time.perf_counter()
        self._socket.send(frame)
        answer = _await(self._socket, started + seconds, lambda packet: self._answer(packet, target))
        return None if answer is None else (answer[0] - started, answer[1])

    def _arp(self, target: IPv4Address) -> bytes:
        source = self._source.packed if self._source else bytes(4)
        head = struct.pack("!HHBBH", 1, wire.ETHERTYPE_IPV4, 6, 4, _REQUEST)
        request = head + self.mac + source + bytes(6) + target.packed
        return _BROADCAST + self.mac + struct.pack("!H", _ARP) + request

    def _solicitation(self, target: IPv6Address) -> bytes:
        source = link_local(self.mac).packed
        group = b"\xff\x02" + bytes(9) + b"\x01\xff" + target.packed[13:]
        body = bytes(4) + target.packed + b"\x01\x01" + self.mac
        pseudo = wire.pseudo_header(source, group, _ICMP6, 4 + len(body))
        check = wire.internet_checksum(pseudo + struct.pack("!BBH", _SOLICITATION, 0, 0) + body)
        icmp = struct.pack("!BBH", _SOLICITATION, 0, check) + body
        ip = struct.pack("!IHBB", 6 << 28, len(icmp), _ICMP6, _ND_HOP_LIMIT) + source + group
        ethernet = b"\x33\x33" + group[12:] + self.mac + struct.pack("!H", wire.ETHERTYPE_IPV6)
        return ethernet + ip + icmp

    def _answer(self, frame: bytes, target: IPAddress) -> bytes | None:
        """The link address, if a frame is the answer."""
        if frame[:6] != self.mac:
            return None
        if target.version == 4:
            is_reply = frame[12:14] == struct.pack("!H", _ARP) and frame[20:22] == struct.pack("!H", _REPLY)
            return frame[22:28] if is_reply and frame[28:32] == target.packed else None
        ip = frame[wire.ETH_LEN :]
        is_answer = len(ip) >= 64 and ip[6] == _ICMP6 and ip[40] == _ADVERTISEMENT
        if not is_answer or ip[48:64] != target.packed:
            return None
        return ip[66:72] if ip[64:66] == b"\x02\x01" else frame[6:12]


def link_local(mac: bytes) -> IPv6Address:
    """The address that a link address makes (RFC 4291, appendix A)."""
    return IPv6Address(b"\xfe\x80" + bytes(6) + bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:])


class Echo:
    """Sends ICMP echo requests to a VTEP on the underlay; a context manager.

    They are never fragmented. Raises OSError when there is no route, or the user may not.
    """

    def __init__(self, target: IPAddress) -> None:
        self._version, self._ident, self._sequence = target.version, os.getpid() & 0xFFFF, 0
        family = socket.AF_INET if target.version == 4 else socket.AF_INET6
        protocol = socket.IPPROTO_ICMP if target.version == 4 else socket.IPPROTO_ICMPV6
        with ExitStack() as undo:
            self._socket = socket.socket(family, socket.SOCK_RAW, protocol)
            undo.callback(self._socket.close)
            self._socket.setsockopt(*_DONT_FRAGMENT[target.version])
            try:
                self._socket.connect((str(target), 0))
            except OSError as error:
                raise OSError(error.errno, f"{target}: {os.strerror(error.errno or 0)}") from None
            undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def ask(self, seconds: float, length: int = 84) -> float | None:
        """Seconds until the reply, or None; with an IP packet of `length` bytes."""
        request, _ = _ECHO[self._version]
        self._sequence += 1
        payload = bytes(length - 8 - (20 if self._version == 4 else 40))
        head = struct.pack("!BBHHH", request, 0, 0, self._ident, self._sequence)
        check = wire.internet_checksum(head + payload) if self._version == 4 else 0  # of IPv6 by the kernel
        started = time.perf_counter()
        try:
            self._socket.send(head[:2] + struct.pack("!H", check) + head[4:] + payload)
        except OSError:  # too large for the device, or no route any more
            return None
        answer = _await(self._socket, started + seconds, self._answer)
        return None if answer is None else answer[0] - started

    def _answer(self, packet: bytes) -> bytes | None:
        icmp = packet[(packet[0] & 15) * 4 :] if self._version == 4 else packet
        expected = struct.pack("!HH", self._ident, self._sequence)
        return b"yes" if icmp[:1] == bytes(_ECHO[self._version][1:]) and icmp[4:8] == expected else None


def _await(
    sock: socket.socket, deadline: float, answer: Callable[[bytes], bytes | None]
) -> tuple[float, bytes] | None:
    """When the first packet came that is an answer, and what that is."""
    while True:
        left = deadline - time.perf_counter()
        if left <= 0 or not select.select([sock], [], [], left)[0]:
            return None
        found = answer(sock.recv(65_536))
        if found is not None:
            return time.perf_counter(), found
