"""What loads the data path: the compiled traffic module, in threads, on sockets of some namespace.

Place in the house: above topology, below the measures. traffic.pyx is built here, once.
"""

from __future__ import annotations

import os
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from types import TracebackType
from typing import Any

import numpy as np
import pyximport
from support.hosts import Host

from benchmarks.datapath.topology import inside
from vxcore import wire

_SOL_PACKET, _PACKET_QDISC_BYPASS = 263, 20  # linux/socket.h, linux/if_packet.h
_ETH_P_ALL = 0x0003
_TIMEOUT_S = 0.2
DATAGRAM = bytes(8) + bytes(range(24))


@cache
def traffic() -> Any:
    """The compiled module; what root builds is not left where its owner could not delete it."""
    with tempfile.TemporaryDirectory(prefix="vxcore-traffic-") as directory:
        hook = pyximport.install(language_level=3, build_dir=directory)
        try:
            from benchmarks.datapath import traffic as module
        finally:
            pyximport.uninstall(*hook)
    return module


# Small packets

INNER_LEN = 64
_HEADERS_LEN = 14 + 20 + 8


def frames_of(n_flows: int, macs: tuple[str, str]) -> list[bytes]:
    """UDP frames of 64 bytes with right checksums, one for each flow, to and from these MAC addresses."""
    ethernet = bytes.fromhex("".join(macs).replace(":", "")) + b"\x08\x00"
    return [ethernet + _udp_packet(n) for n in range(n_flows)]


def _udp_packet(number: int) -> bytes:
    source, destination = bytes([10, 42, 0, 1]), bytes([10, 42, 0, 2])
    payload = struct.pack("!I", number).ljust(INNER_LEN - _HEADERS_LEN, b"x")
    length = 8 + len(payload)
    ports = struct.pack("!HHH", 1024 + number, 5001, length)
    pseudo = wire.pseudo_header(source, destination, 17, length)
    udp = ports + struct.pack("!H", wire.internet_checksum(pseudo + ports + bytes(2) + payload) or 0xFFFF)
    ip = struct.pack("!BBHHHBB", 0x45, 0, 20 + length, 0, 0x4000, 64, 17)
    check = wire.internet_checksum(ip + bytes(2) + source + destination)
    return ip + struct.pack("!H", check) + source + destination + udp + payload


@contextmanager
def packet_socket(host: Host, device: str, protocol: int = _ETH_P_ALL) -> Iterator[socket.socket]:
    """Of one device; protocol 0 sends only."""

    def opened() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
        sock.bind((device, protocol))
        return sock

    with inside(host, opened) as sock:
        yield sock


class Blast(AbstractContextManager["Blast"]):
    """Frames sent from a device in a thread, on one CPU, until `stop` or the context's end."""

    def __init__(self, host: Host, device: str, frames: list[bytes], cpu: int, rate: float = 0.0) -> None:
        traffic()  # built before the clock of whoever waits for frames runs
        self._stop = bytearray(1)
        self._pool = ThreadPoolExecutor(1)
        self._result = self._pool.submit(self._run, host, device, frames, cpu, rate)

    def _run(self, host: Host, device: str, frames: list[bytes], cpu: int, rate: float) -> tuple[int, int]:
        os.sched_setaffinity(0, {cpu})
        with packet_socket(host, device, 0) as sock:
            sock.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
            return tuple(traffic().blast(sock.fileno(), frames, rate, self._stop))

    def stop(self) -> tuple[int, int]:
        """End it; frames offered, and of these refused by the device."""
        self._stop[0] = 1
        self._pool.shutdown()
        return self._result.result()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop[0] = 1
        self._pool.shutdown()


# Round trips


@contextmanager
def echo_server(host: Host, address: str) -> Iterator[int]:
    """Answers datagrams, in a thread; gives its port."""
    stop = bytearray(1)
    with inside(host, lambda: _udp_socket(address)) as sock:
        thread = threading.Thread(target=traffic().echo, args=(sock.fileno(), stop))
        thread.start()
        try:
            yield sock.getsockname()[1]
        finally:
            stop[0] = 1
            thread.join()


def round_trips(host: Host, target: tuple[str, int], n: int, seconds: float) -> np.ndarray[Any, Any]:
    """Nanoseconds of up to n round trips within `seconds`; -1 for one that was lost."""
    out = bytearray(8 * n)
    with inside(host, lambda: _udp_socket("")) as sock:
        sock.connect(target)
        n_sent = traffic().round_trips(sock.fileno(), bytearray(DATAGRAM), out, seconds)
    return np.frombuffer(out, np.int64, n_sent)


def _udp_socket(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 0))
    # SO_RCVTIMEO and no settimeout: the descriptor itself must block, for compiled code.
    timeout = struct.pack("ll", 0, int(_TIMEOUT_S * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
    return sock


# What crosses


class Sizes:
    """Counts the packets that a packet socket gets, and finds the largest, until `stop`."""

    def __init__(self, sock: socket.socket) -> None:
        self.n_packets = self.largest = 0
        self._sock = sock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self._sock.settimeout(_TIMEOUT_S / 4)
        while not self._stop.is_set():
            self._take(bytearray(1))

    def _take(self, buffer: bytearray) -> None:
        try:
            length, sender = self._sock.recvfrom_into(buffer, 1, socket.MSG_TRUNC)
        except TimeoutError:
            return
        if sender[2] != socket.PACKET_OUTGOING:
            self.n_packets += 1
            self.largest = max(self.largest, length)

    def stop(self) -> None:
        """End it; the counts are final."""
        self._stop.set()
        self._thread.join()
