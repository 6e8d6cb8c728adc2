"""A lane whose system calls return what a test says: answers one JSON request a line.

Place in the house: a program that tests run with syscalls.c preloaded; `Scripted` is their side of it. The
overlay port's TAP is a socket pair, what is sent to the underlay the preloaded calls keep, and what they
are told to bring comes from it: no namespace, no privilege.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self

from vxcore._fast.events import KINDS, Ring
from vxcore._fast.lane import Lane
from vxcore._fast.packet_overlay import sent
from vxcore._fast.table import KINDS as ENTRY_KINDS
from vxcore._fast.table import Tables
from vxcore._fast.tap import TapPort
from vxcore._fast.udp import UdpPort
from vxcore.verdict import Verdict

VNI = 42
NAME = struct.pack("=HH", socket.AF_INET, 0x1234) + bytes((192, 0, 2, 2)) + bytes(8)
FROM_NOWHERE = bytes(10) + b"\xff\xff" + bytes(4)  # whom the preloaded recvmmsg names
DEADLINE_S = 30.0
NAMES = {number: name for name, number in KINDS.items()}
ENTRIES = {number: name for name, number in ENTRY_KINDS.items()}


def tables(request: dict[str, Any]) -> Tables:
    """VNIs 42 and 43, and the sender of all datagrams as a peer of both, or with "stranger" as nobody."""
    made = Tables(2, 2, 2, 1024, max_moves=request.get("max_moves", 5))
    made.add_remote(bytes(10) + b"\xff\xff" + NAME[4:8], NAME)
    made.add_remote(FROM_NOWHERE, NAME)
    for number in range(2):
        flood = request.get("flood", [0])
        made.add_segment(VNI + number, 0, flood, learning=True, ageing_s=300, max_learned=100)
    made.set_peers([(0, 0), (0, 1), (1, 0), (1, 1)])
    if request.get("n_ports", 1) > 1:
        made.set_ports(0, range(request["n_ports"]))
    if request.get("stranger"):
        made.remove_remotes([1])
    if "policy" in request:  # of VNI 42
        policy = request["policy"]
        prefixes = [(bytes.fromhex(address), n_bits) for address, n_bits in policy.pop("prefixes", ())]
        made.change_segment(0, any_source=policy.pop("any_source", False))
        made.set_policy(0, prefixes=prefixes, **policy)
    for remote in request.get("spokes", ()):
        made.mark_spoke(remote, True)
    for mac, remote in request.get("fdb", ()):
        made.add_static(VNI, mac, remote)
    if "listed" in request:
        made.list_remote(1, request["listed"])
    return made


def wait_for(done: Any, what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.0005)


class Preloaded:
    """What syscalls.c exports."""

    def __init__(self) -> None:
        self.calls = ctypes.CDLL(None)
        self.calls.vx_kept.restype = ctypes.POINTER(ctypes.c_uint8)

    def keep(self, steps: list[int], refuse: int, longest: int) -> None:
        self.calls.vx_keep((ctypes.c_int * len(steps))(*steps), ctypes.c_size_t(len(steps)), refuse, longest)

    def kept(self) -> tuple[list[tuple[int, int, str]], int]:
        """(descriptor, segment size, bytes as hex) of each message sent, and how many calls there were."""
        n, n_calls = ctypes.c_size_t(), ctypes.c_uint()
        start = self.calls.vx_kept(ctypes.byref(n), ctypes.byref(n_calls))
        data, at, messages = ctypes.string_at(start, n.value), 0, []
        while at < len(data):
            fd, size, length = struct.unpack_from("=III", data, at)
            messages.append((fd, size, data[at + 12 : at + 12 + length].hex()))
            at += 12 + length
        return messages, n_calls.value

    def wait(self, datagrams: list[tuple[str, int]]) -> None:
        records = b"".join(record(bytes.fromhex(text), size) for text, size in datagrams)
        self.calls.vx_wait(records, ctypes.c_size_t(len(records)))

    def wait_more(self, datagram: bytes) -> None:
        one = record(datagram, 0)
        self.calls.vx_wait_more(one, ctypes.c_size_t(len(one)))


def carried(words: bytes) -> list[dict[str, int]]:
    """What a lane has counted for each remote."""
    names = ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes")
    return [dict(zip(names, row, strict=True)) for row in struct.iter_unpack("=4Q", words)]


def record(data: bytes, size: int) -> bytes:
    return struct.pack("=II", len(data), size) + data


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of what keeps messages apart, with room for many."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
    ends[0].setblocking(False)
    return ends


def is_empty(sock: socket.socket) -> bool:
    try:
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True


def all_of(sock: socket.socket) -> list[bytes]:
    got = []
    while not is_empty(sock):
        got.append(sock.recv(1 << 17))
    return got


class Bench:
    """The lane of one request, between a socket pair and the preloaded calls."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.pairs = [pair() for _ in range(request.get("n_ports", 1))]
        self.tap, self.hosts = self.pairs[0]
        self.senders = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(4)]
        numbers = [sock.fileno() for sock in self.senders]
        runs = numbers[1::2] if request.get("gso", True) else [-1, -1]
        self.event = os.eventfd(1)
        self.port = UdpPort(
            "udp",
            receiver=self.event,
            route=self.event,
            senders=[*zip(numbers[::2], runs, strict=True)],
            family=4,
        )
        plain = request.get("plain_ports", () if request.get("superframes", True) else (0,))
        overlays = [
            TapPort(f"tap {n}", tap.fileno(), request.get("mtu", 1450), 0, n not in plain)
            for n, (tap, _) in enumerate(self.pairs)
        ]
        joins = {name: request.get(name, True) for name in ("join_tcp", "join_udp")}
        self.ring = Ring(self.event)
        self.ring.want(KINDS)
        options = {"n_lanes": request.get("n_lanes", 1), "ring": self.ring, "max_overlays": 8}
        self.tables = tables(request)
        self.lane = Lane(self.tables, [(self.port, (4,))], overlays, **joins, **options)
        self.lane.know([bytes.fromhex(each) for each in request.get("locals", ())], request.get("ours", ()))

    def play(self, preloaded: Preloaded, request: dict[str, Any]) -> None:
        thread = threading.Thread(target=self.lane.run)
        for frame in request.get("waiting", ()):  # few enough for the socket pair: one burst
            self.hosts.send(bytes.fromhex(frame))
        thread.start()
        try:
            for frame in request.get("frames", ()):
                self.hosts.send(bytes.fromhex(frame))
            wait_for(lambda: is_empty(self.tap), "the frames are taken")
            wait_for(preloaded.calls.vx_is_taken, "the datagrams are taken")
            for port, frame in request.get("switched", ()):
                self.step(preloaded, port, bytes.fromhex(frame))
            if "afterwards" in request:
                preloaded.wait(request["afterwards"])
                wait_for(preloaded.calls.vx_is_taken, "the later datagrams are taken")
            wait_for(lambda: self.drops().items() >= request.get("until", {}).items(), "the drops")
        finally:
            self.lane.stop()
            thread.join()

    def step(self, preloaded: Preloaded, port: int, frame: bytes) -> None:
        """One frame by a port, or (-1) from the underlay; the next comes when this one is taken."""
        if port < 0:
            preloaded.wait_more(frame)
            wait_for(preloaded.calls.vx_is_taken, "the datagram is taken")
        else:
            tap, hosts = self.pairs[port]
            hosts.send(frame)
            wait_for(lambda: is_empty(tap), "the frame is taken")

    def drops(self) -> dict[str, int]:
        return {Verdict(number).name.lower(): n for number, n in self.lane.drops().items()}

    def answer(self, preloaded: Preloaded) -> dict[str, Any]:
        messages, n_calls = preloaded.kept()
        names = {sock.fileno(): n for n, sock in enumerate(self.senders)}
        return {
            "messages": [(names[fd], size, text) for fd, size, text in messages],
            "calls": n_calls,
            "received": (received := [[got.hex() for got in all_of(ends[1])] for ends in self.pairs])[0],
            "ports": received,
            "fdb": [
                (f"{row['mac']:012x}", int(row["remote"]), int(row["port"]), ENTRIES[int(row["kind"])])
                for row in self.tables.fdb()
            ],
            "drops": self.drops(),
            "counters": self.lane.segment_counters(0),
            "remotes": carried(self.lane.remote_words(0, 2)),
            "gso_error": self.port.gso_error,
            "events": [(NAMES[row["kind"]], f"{row['mac']:012x}") for row in self.ring.take()],
        }

    def close(self) -> None:
        for sock in (*(end for ends in self.pairs for end in ends), *self.senders):
            sock.close()
        os.close(self.event)


def play_overlay(preloaded: Preloaded, request: dict[str, Any]) -> dict[str, Any]:
    """Frames to packet sockets; each in parts, with a virtio-net header, made of so many packets."""
    frames = [
        ([bytearray.fromhex(part) for part in parts], bytes.fromhex(said), n)
        for parts, said, n in request["overlay"]
    ]
    with socket.socket(type=socket.SOCK_DGRAM) as sender:
        counted = sent(frames, sender.fileno())
    messages, n_calls = preloaded.kept()
    drops = {Verdict(number).name.lower(): n for number, n in counted.items()}
    return {"messages": [text for _, _, text in messages], "calls": n_calls, "drops": drops}


def main() -> None:
    preloaded = Preloaded()
    for line in sys.stdin:
        request = json.loads(line)
        preloaded.keep(request.get("steps", []), request.get("refuse", 0), request.get("longest", 0))
        preloaded.wait(request.get("datagrams", []))
        if "overlay" in request:
            print(json.dumps(play_overlay(preloaded, request)), flush=True)
            continue
        bench = Bench(request)
        bench.play(preloaded, request)
        print(json.dumps(bench.answer(preloaded)), flush=True)
        bench.close()


def build(folder: Path) -> Path:
    """Compile syscalls.c."""
    library = folder / "syscalls.so"
    source = Path(__file__).with_name("syscalls.c")
    line = ["cc", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(line, check=True)
    return library


class Scripted:
    """The process, from the tests' side; one serves them all."""

    def __init__(self, library: Path) -> None:
        line = [sys.executable, "-X", "faulthandler", __file__]
        environment = {**os.environ, "LD_PRELOAD": str(library)}
        self.process = subprocess.Popen(
            line, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return dict(json.loads(self.process.stdout.readline()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate("", timeout=DEADLINE_S)


if __name__ == "__main__":
    main()
