"""One end of traffic in a namespace: answers a JSON command a line, `[name, {arguments}]`.

Place in the house: a program that interop tests run once in each namespace; `Agent` is their side of it.
Content is pseudo-random from a seed that both ends know, so each byte is compared where it arrives.
"""

from __future__ import annotations

import json
import random
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Any

TIMEOUT_S = 20.0
SO_RCVBUFFORCE, SO_SNDBUFFORCE = 33, 32
UDP_SEGMENT, UDP_GRO = 103, 104
ETH_P_ALL = 3
OUTGOING = socket.PACKET_OUTGOING  # type: ignore[attr-defined]
MARKER = b"\xff" * 6 + b"\x02" + bytes(5) + b"\x88\xb5" + bytes(46)  # IEEE 802's EtherType for experiments
WINDOW = 50


def socket_for(host: str, kind: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    sock.settimeout(TIMEOUT_S)
    return sock


def datagrams(sizes: list[int], seed: int) -> list[bytes]:
    dice = random.Random(seed)
    return [dice.randbytes(size) for size in sizes]


def pieces(message: tuple[bytes, list[Any], int, Any]) -> Iterator[bytes]:
    """Of a message that the kernel joined, the datagrams."""
    data, control, _, _ = message
    sizes = [struct.unpack("=i", value)[0] for _, kind, value in control if kind == UDP_GRO]
    step = sizes[0] if sizes else len(data)
    return (data[at : at + step] for at in range(0, len(data), step or 1)) if data else iter([b""])


class Commands:
    """What can be asked for; each returns what is answered."""

    def __init__(self) -> None:
        self.sock: socket.socket

    def listen(self, kind: str, host: str, gro: bool = False) -> int:
        self.sock = socket_for(host, kind)
        self.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        self.sock.bind((host, 0))
        if kind == "tcp":
            self.sock.listen(1)
        if gro:
            self.sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        return int(self.sock.getsockname()[1])

    def receive_stream(self, n_bytes: int, seed: int) -> str:
        connection, _ = self.sock.accept()
        connection.settimeout(TIMEOUT_S)
        received = bytearray()
        while chunk := connection.recv(1 << 20):
            received += chunk
        connection.close()
        self.sock.close()
        same = received == random.Random(seed).randbytes(n_bytes)
        return "ok" if same else f"{len(received)} bytes of {n_bytes} came, or others than were sent"

    def send_stream(self, host: str, port: int, n_bytes: int, seed: int, longest: int) -> str:
        """In writes of up to `longest` bytes, each of which goes out at once."""
        dice, data, at = random.Random(seed + 1), random.Random(seed).randbytes(n_bytes), 0
        with socket_for(host, "tcp") as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect((host, port))
            while at < n_bytes:
                size = dice.randint(1, longest)
                sock.sendall(data[at : at + size])
                at += size
        return "ok"

    def receive_datagrams(self, sizes: list[int], seed: int) -> str:
        """All of them, whole, in order; each window is acknowledged."""
        expected = datagrams(sizes, seed)
        for n, wanted in enumerate(self._datagrams(len(expected))):
            if wanted != expected[n]:
                return f"datagram {n}: {len(wanted)} bytes, or others than the {sizes[n]} sent"
        self.sock.close()
        return "ok"

    def _datagrams(self, n: int) -> Iterator[bytes]:
        got = 0
        while got < n:
            message = self.sock.recvmsg(1 << 17, 256)
            for piece in pieces(message):
                yield piece
                got += 1
                if got % WINDOW == 0 or got == n:
                    self.sock.sendto(b"!", message[3])

    def send_datagrams(self, host: str, port: int, sizes: list[int], seed: int, uso: bool) -> str:
        """One by one, or in runs of equal size, the last shorter, that the kernel or a NIC cuts."""
        all_of = datagrams(sizes, seed)
        with socket_for(host, "udp") as sock:
            sock.connect((host, port))
            for at in range(0, len(all_of), WINDOW):
                self._send(sock, all_of[at : at + WINDOW], uso)
                sock.recv(1)
        return "ok"

    def _send(self, sock: socket.socket, window: list[bytes], uso: bool) -> None:
        at = 0
        while at < len(window):
            end = at + 1
            while uso and end < len(window) and len(window[end]) == len(window[at]) > 0:
                end += 1
            if uso and end < len(window) and 0 < len(window[end]) < len(window[at]):
                end += 1
            size = struct.pack("=H", len(window[at]) if end - at > 1 else 0)
            control = [(socket.IPPROTO_UDP, UDP_SEGMENT, size)] if end - at > 1 else []
            sock.sendmsg(window[at:end], control)
            at = end

    def open_frames(self, device: str) -> str:
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.sock.bind((device, ETH_P_ALL))
        self.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        self.sock.settimeout(TIMEOUT_S)
        return "ok"

    def send_frames(self, frames: list[str]) -> str:
        for frame in frames:
            self.sock.send(bytes.fromhex(frame))
        self.sock.send(MARKER)
        return "ok"

    def receive_frames(self, source: str, n: int) -> list[str]:
        """Those from one MAC address until a marker came, which may overtake, and n others, or no more."""
        frames: list[str] = []
        marked = False
        while not marked or len(frames) < n:
            try:
                frame, address = self.sock.recvfrom(1 << 17)
            except TimeoutError:
                break
            marked = marked or frame == MARKER
            if address[2] != OUTGOING and frame[6:12].hex() == source:
                frames.append(frame.hex())
        return frames

    def send_flows(self, host: str, port: int, n_flows: int, n_each: int) -> str:
        """Numbered datagrams of many flows in turn, at a pace that the receiver sets."""
        flows = [socket_for(host, "udp") for _ in range(n_flows)]
        for sock in flows:
            sock.connect((host, port))
        for n in range(n_each):
            for number, sock in enumerate(flows):
                sock.send(struct.pack("!II", number, n) + bytes(100))
            if n % 8 == 7 or n == n_each - 1:
                flows[0].recv(1)
        return "ok"

    def receive_flows(self, n_flows: int, n_each: int) -> str:
        following = [0] * n_flows
        while min(following) < n_each:
            data, sender = self.sock.recvfrom(2048)
            number, n = struct.unpack_from("!II", data)
            if n != following[number]:
                return f"flow {number}: {n} came where {following[number]} was due"
            following[number] += 1
            if number == 0:
                first = sender
            due = min(following)
            if due == max(following) and (due % 8 == 0 or due == n_each):
                self.sock.sendto(b"!", first)
        return "ok"


def main() -> None:
    commands = Commands()
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = getattr(commands, name)(**arguments)
        except OSError as error:
            answer = f"{name}: {error}"
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
