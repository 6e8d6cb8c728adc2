"""Send or check pseudo-random bytes: `serve|send tcp|udp HOST BYTES [PORT]`

Place in the house: a program that tests run inside a namespace. Both ends make the same bytes from
the same seed, so every byte is compared and none is sent twice. UDP sends a window and waits for its
answers; a datagram that is not answered in time fails the transfer.
"""

from __future__ import annotations

import random
import socket
import sys

TIMEOUT_S = 30.0
WINDOW = 32
MAX_DATAGRAM = 1400


def content(n_bytes: int) -> bytes:
    """What is sent: the same at both ends."""
    return random.Random(7348).randbytes(n_bytes)


def open_socket(host: str, kind: str) -> socket.socket:
    """A socket of the address's family and the wanted kind that gives up after a while."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    sock.settimeout(TIMEOUT_S)
    return sock


def datagrams(data: bytes) -> list[bytes]:
    """The data cut into numbered pieces of every length up to the largest."""
    pieces, at, length = [], 0, 0
    while at < len(data):
        length = length % MAX_DATAGRAM + 1
        pieces.append(len(pieces).to_bytes(4, "big") + data[at : at + length])
        at += length
    return pieces


def serve_tcp(sock: socket.socket, data: bytes) -> None:
    """Receive to the end and compare."""
    sock.listen(1)
    connection, _ = sock.accept()
    connection.settimeout(TIMEOUT_S)
    received = bytearray()
    while chunk := connection.recv(1 << 20):
        received += chunk
    assert received == data, f"{len(received)} bytes of {len(data)} came, or others than were sent"


def serve_udp(sock: socket.socket, data: bytes) -> None:
    """Compare each datagram with what its number says, and answer with its number."""
    expected = datagrams(data)
    missing = set(range(len(expected)))
    while missing:
        piece, sender = sock.recvfrom(65536)
        number = int.from_bytes(piece[:4], "big")
        assert piece == expected[number], f"datagram {number} is not what was sent"
        missing.discard(number)
        sock.sendto(piece[:4], sender)


def send_tcp(sock: socket.socket, data: bytes) -> None:
    """Send everything and close."""
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def send_udp(sock: socket.socket, data: bytes) -> None:
    """Send window by window; every datagram must be answered."""
    pieces = datagrams(data)
    for start in range(0, len(pieces), WINDOW):
        window = pieces[start : start + WINDOW]
        for piece in window:
            sock.send(piece)
        answers = {sock.recv(65536) for _ in window}
        assert answers == {piece[:4] for piece in window}


def main(role: str, kind: str, host: str, n_bytes: str, port: str = "0") -> None:
    """Play one role to its end; a failed comparison is the exit code."""
    sock = open_socket(host, kind)
    data = content(int(n_bytes))
    if role == "serve":
        sock.bind((host, 0))
        if kind == "tcp":
            sock.listen(1)
        print(sock.getsockname()[1], flush=True)
        (serve_tcp if kind == "tcp" else serve_udp)(sock, data)
    else:
        sock.connect((host, int(port)))
        (send_tcp if kind == "tcp" else send_udp)(sock, data)


if __name__ == "__main__":
    main(*sys.argv[1:])
