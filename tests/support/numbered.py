"""Numbered packets and a TCP connection that lasts: `send|receive|talk|echo HOST [PORT] [RATE]`

Place in the house: a program that tests and benchmarks run inside a namespace. `send` numbers UDP packets,
RATE in a second, until its standard input is closed, and says how many there were; `receive` says its port,
and when it is told that number, which of them are missing. `talk` sends blocks to `echo` and compares what
comes back, likewise until its input is closed.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time

SO_RCVBUFFORCE = 33
BUFFER_LEN = 64 << 20
PAYLOAD = bytes(56)
BLOCK = bytes(range(256)) * 64
QUIET_S = 3.0
PATIENCE_S = 30.0


def told() -> bool:
    """Whether somebody wrote to our standard input, or closed it."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


def send(host: str, port: int, rate: int) -> None:
    """As many as are due each time, so that a pause is made up for in bursts of a millisecond's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((host, port))
        n, began = 0, time.monotonic()
        while not told():
            due = min(int((time.monotonic() - began) * rate), n + rate // 500)
            while n < due:
                sock.send(n.to_bytes(8, "big") + PAYLOAD)
                n += 1
            if n + rate // 500 <= (time.monotonic() - began) * rate:
                began = time.monotonic() - n / rate  # it was kept from running: later is late
            time.sleep(0.0005)
    print(n, flush=True)


def receive(host: str) -> None:
    """Until all are there, or nothing more comes."""
    seen, n_seen, repeated = bytearray(1 << 24), 0, 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_LEN)
        sock.bind((host, 0))
        print(sock.getsockname()[1], flush=True)
        wanted, last, ready = 0, time.monotonic(), [sock]
        while not wanted or (n_seen < wanted and (ready or time.monotonic() < last + QUIET_S)):
            watched = [sock] if wanted else [sock, sys.stdin]
            ready = select.select(watched, [], [], 0.2)[0]
            if sys.stdin in ready:
                wanted, last = int(sys.stdin.readline()), time.monotonic()
            if sock in ready:
                number = int.from_bytes(sock.recv(2048)[:8], "big")
                repeated += seen[number]
                n_seen += not seen[number]
                seen[number], last = 1, time.monotonic()
    missing = [number for number in range(wanted) if not seen[number]]
    print(json.dumps({"missing": len(missing), "first": missing[:1], "repeated": repeated}), flush=True)


def echo(host: str) -> None:
    """Of one connection."""
    with socket.create_server((host, 0)) as server:
        print(server.getsockname()[1], flush=True)
        connection, _ = server.accept()
        with connection:
            while data := connection.recv(1 << 16):
                connection.sendall(data)


def talk(host: str, port: int) -> None:
    """A block at a time; says how many came back."""
    n = 0
    with socket.create_connection((host, port), PATIENCE_S) as sock:
        while not told():
            sock.sendall(BLOCK)
            back = b""
            while len(back) < len(BLOCK):
                data = sock.recv(1 << 16)
                assert data, "the connection is broken"
                back += data
            assert back == BLOCK, "what came back is not what was sent"
            n += 1
    print(n, flush=True)


def main() -> None:
    """As the first argument says."""
    what, host, *numbers = sys.argv[1:]
    calls = {"send": send, "receive": receive, "echo": echo, "talk": talk}
    calls[what](host, *map(int, numbers))
    os._exit(0)


if __name__ == "__main__":
    main()
