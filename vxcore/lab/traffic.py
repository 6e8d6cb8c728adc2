"""The lab's own ping and TCP load: plain sockets, opened in the namespaces where they belong.

Place in the house: beside hosts, knows sockets only. What arrives is checked, not only counted.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable
from ipaddress import ip_address
from typing import NamedTuple, TypeVar

from vxcore.lab.hosts import LabError

T = TypeVar("T")
Inside = Callable[[Callable[[], T]], T]

_ECHO = {4: (8, 0), 6: (128, 129)}  # request and reply: RFC 792, RFC 4443
_WAIT_S = 2.0
_ANSWER_LEN = 65536
_BLOCK = os.urandom(1 << 18)


class PingResult(NamedTuple):
    """Round trips in milliseconds of the answered requests."""

    n_sent: int
    times_ms: list[float]

    def __str__(self) -> str:
        lost = self.n_sent - len(self.times_ms)
        if not self.times_ms:
            return f"ping: {lost} of {self.n_sent} lost"
        low, high = min(self.times_ms), max(self.times_ms)
        mean = sum(self.times_ms) / len(self.times_ms)
        return f"ping: {lost} of {self.n_sent} lost, {low:.2f} {mean:.2f} {high:.2f} ms (min avg max)"


def ping(target: str, count: int = 5, n_bytes: int = 56) -> PingResult:
    """Echo requests to `target`, one after another, each waited for up to two seconds."""
    version = ip_address(target).version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    times = []
    with socket.socket(family, socket.SOCK_RAW, protocol) as sock:
        for sequence in range(count):
            took = _echo(sock, target, version, sequence, os.urandom(n_bytes))
            if took is not None:
                times.append(took)
    return PingResult(count, times)


def _echo(sock: socket.socket, target: str, version: int, sequence: int, payload: bytes) -> float | None:
    request, reply = _ECHO[version]
    identifier = os.getpid() & 0xFFFF
    tail = struct.pack("!HH", identifier, sequence) + payload
    started = time.perf_counter()
    try:
        sock.sendto(bytes([request, 0]) + _checksum(request, tail, version) + tail, (target, 0))
    except OSError:
        return None  # no route, or nobody answers for the address: as lost as a packet can be
    return _await(sock, reply, tail, version, started)


def _await(sock: socket.socket, reply: int, tail: bytes, version: int, started: float) -> float | None:
    while (left := started + _WAIT_S - time.perf_counter()) > 0:
        sock.settimeout(left)
        try:
            packet = sock.recv(_ANSWER_LEN)
        except OSError:
            return None
        message = packet[(packet[0] & 15) * 4 :] if version == 4 else packet  # IPv4 comes with its header
        if message[0] == reply and message[4:] == tail:
            return (time.perf_counter() - started) * 1000
    return None


def _checksum(kind: int, tail: bytes, version: int) -> bytes:
    if version == 6:
        return bytes(2)  # the kernel's to fill (RFC 3542 section 3.1)
    data = bytes([kind, 0, 0, 0]) + tail + bytes(len(tail) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF)


class TcpResult(NamedTuple):
    """Bytes that arrived as they were sent, and the seconds that took."""

    n_bytes: int
    seconds: float

    def __str__(self) -> str:
        gigabits = self.n_bytes * 8 / self.seconds / 1e9
        return f"TCP: {gigabits:.2f} Gb/s, {self.n_bytes / 1e6:.0f} MB arrived unchanged"


def tcp(sender: Inside[None], receiver: Inside[socket.socket], target: str, seconds: float) -> TcpResult:
    """Push random bytes from one place to another for a while; LabError if they arrive changed."""
    listener = receiver(lambda: _listen(target))
    port = listener.getsockname()[1]
    received: list[tuple[int, int]] = []
    taking = threading.Thread(target=lambda: received.append(_take(listener)), daemon=True)
    taking.start()
    sent: list[tuple[int, int]] = []
    started = time.perf_counter()
    sender(lambda: sent.append(_push(target, port, seconds)))
    taking.join(seconds + _WAIT_S * 5)
    took = time.perf_counter() - started
    if received != sent:
        raise LabError(f"TCP to {target}: sent (bytes, CRC-32) {sent}, received {received}")
    return TcpResult(sent[0][0], took)


def _listen(address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family)


def _take(listener: socket.socket) -> tuple[int, int]:
    n_bytes, crc, buffer = 0, 0, memoryview(bytearray(1 << 20))
    with listener:
        connection, _ = listener.accept()
        with connection:
            while n := connection.recv_into(buffer):
                n_bytes, crc = n_bytes + n, zlib.crc32(buffer[:n], crc)
    return n_bytes, crc


def _push(address: str, port: int, seconds: float) -> tuple[int, int]:
    n_bytes, crc, end = 0, 0, time.monotonic() + seconds
    with socket.create_connection((address, port), timeout=_WAIT_S * 5) as connection:
        while time.monotonic() < end:
            connection.sendall(_BLOCK)
            n_bytes, crc = n_bytes + len(_BLOCK), zlib.crc32(_BLOCK, crc)
    return n_bytes, crc
