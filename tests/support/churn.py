"""A Vtep that changes at random while frames cross it, and its peers; each frame says where it belongs.

Place in the house: a program that tests/interop/test_churn.py runs in two namespaces, `churn.py vtep LOCAL
SECONDS SEED REMOTE...` and `churn.py peers REMOTE...`. A frame carries its VNI and who sent it; a segment
only ever has the remote of number `vni % 4`, so whoever receives a frame can tell whether it should be there.
Both print one line of JSON in the end: what arrived, what was wrong, how much memory it took.
"""

from __future__ import annotations

import itertools
import json
import random
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vxcore import Vtep
from vxcore.errors import VxcoreError

VNIS = [1, 2, 3, 4, 5, 6, 0x10001, 0x10002, 0xFFFFFE, 0xFFFFFF]
N_REMOTES = 4
TAP_SIDE = 99
MAGIC = b"VXCHURN!"
ETHERTYPE = b"\x88\xb5"
PORT = 4789
MOST_WRONG = 20
_numbers = itertools.count()


def tagged(vni: int, sender: int, destination: bytes) -> bytes:
    source = b"\x02" + bytes((sender,)) + vni.to_bytes(4, "big")
    head = destination + source + ETHERTYPE + MAGIC + struct.pack("!II", vni, sender)
    return head + next(_numbers).to_bytes(8, "big") + bytes(22)  # the same again and again would be a loop


def tag(frame: bytes) -> tuple[int, int] | None:
    """VNI and sender of one of our frames."""
    if frame[12:14] != ETHERTYPE or frame[14:22] != MAGIC:
        return None
    vni, sender = struct.unpack_from("!II", frame, 22)
    return vni, sender


def destinations(vni: int) -> list[bytes]:
    """Broadcast, multicast, what may have an entry, and nobody."""
    entry = b"\x06" + bytes(1) + vni.to_bytes(4, "big")
    return [b"\xff" * 6, b"\x01\0\x5e\0\0\1", entry, b"\x06\x77" + entry[2:]]


# The peers: one UDP socket for each remote


def peers(addresses: list[str]) -> dict[str, Any]:
    dice, arrived, wrong = random.Random(1), 0, []
    sockets = []
    for address in addresses:
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.bind((address, PORT))
        sock.setblocking(False)
        sockets.append(sock)
    print("ready", flush=True)
    local = sys.stdin.readline().strip()
    while not select.select([sys.stdin], [], [], 0.001)[0]:
        for number, sock in enumerate(sockets):
            vni = dice.choice(VNIS)
            frame = tagged(vni, number, dice.choice(destinations(vni)))
            sock.sendto(b"\x08\0\0\0" + vni.to_bytes(3, "big") + b"\0" + frame, (local, PORT))
            for packet in all_of(sock):
                arrived += 1
                found, outer = tag(packet[8:]), int.from_bytes(packet[4:7], "big")
                if found and (found != (outer, TAP_SIDE) or outer % N_REMOTES != number):
                    wrong.append(f"remote {number} got {found} in VNI {outer}")
    return {"arrived": arrived, "wrong": wrong[:MOST_WRONG]}


def all_of(sock: socket.socket) -> list[bytes]:
    got = []
    while True:
        try:
            got.append(sock.recv(65536))
        except BlockingIOError:
            return got


# The VTEP, the hosts behind its TAPs, and who changes it


class Churn:
    """Changes at random, of which it knows which must fail."""

    def __init__(self, vtep: Vtep, remotes: list[str], seed: int) -> None:
        self.vtep, self.remotes, self.dice = vtep, remotes, random.Random(seed)
        self.present: set[int] = set()
        self.taps: dict[int, socket.socket] = {}
        self.lock = threading.Lock()
        self.n_changes = self.n_refused = 0
        self.wrong: list[str] = []

    def own(self, vni: int) -> str:
        return self.remotes[vni % N_REMOTES]

    def options(self, vni: int) -> dict[str, Any]:
        dice, own = self.dice, self.own(vni)
        flooded = ["flood", "flood", "drop", {"rate": 1000, "burst": 10}]
        return {
            "remotes": dice.choice([[], [own]]),
            "source": dice.choice(["peers", "peers", [f"{own}/32"]]),
            "ageing": dice.choice([1, 300]),
            "maxaddress": dice.choice([0, 2]),
            "broadcast": dice.choice(flooded),
            "unknown_unicast": dice.choice(flooded),
        }

    def some(self, present: bool) -> list[int]:
        vnis = [vni for vni in VNIS if (vni in self.present) is present]
        return self.dice.sample(vnis, min(len(vnis), self.dice.randint(1, 3)))

    def add(self) -> None:
        vnis = self.some(False)
        self.vtep.add_segments([{"vni": vni, "tap": f"c{vni}", **self.options(vni)} for vni in vnis])
        self.present |= set(vnis)
        for vni in vnis:
            tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # deaf until bound to its device
            tap.bind((f"c{vni}", 3))
            tap.setblocking(False)
            with self.lock:
                self.taps[vni] = tap

    def remove(self) -> None:
        vnis = self.some(True)
        with self.lock:
            for vni in vnis:
                self.taps.pop(vni).close()
        self.vtep.remove_segments(vnis)
        self.present -= set(vnis)

    def change(self) -> None:
        for vni in self.some(True):
            self.vtep.change_segment(vni, **self.options(vni))

    def entries(self) -> None:
        for vni in self.some(True):
            first = int.from_bytes(destinations(vni)[2], "big")
            macs = first + (np.arange(50, dtype=np.uint64) << np.uint64(32))
            self.vtep.set_fdb(vni, macs, self.own(vni), kind=self.dice.choice(["static", "control"]))

    def no_entries(self) -> None:
        for vni in self.some(True):
            macs = self.vtep.snapshot("fdb")
            self.vtep.remove_fdb(vni, macs["mac"][macs["vni"] == vni], missing_ok=True)

    def flush(self) -> None:
        self.vtep.flush(vnis=self.some(True))

    def lists(self) -> None:
        number = self.dice.randrange(N_REMOTES)
        vnis = self.dice.choice([None, [vni for vni in VNIS if self.dice.random() < 0.8]])
        try:
            self.vtep.add_remote(self.remotes[number], vnis=vnis)
        except VxcoreError:
            self.vtep.change_remote(self.remotes[number], vnis=vnis)

    def must_fail(self) -> None:
        absent, present = self.some(False), self.some(True)
        tries: list[Callable[[], Any]] = [
            lambda: self.vtep.remove_segments([*present, 77]),
            lambda: self.vtep.add_segments([{"vni": v, "tap": f"c{v}"} for v in (*absent, *present)]),
            lambda: self.vtep.set_fdb([*present, 77], [2] * (len(present) + 1), self.remotes[0]),
        ]
        if not present:
            return
        try:
            self.dice.choice(tries)()
        except VxcoreError:
            self.n_refused += 1
        else:
            self.wrong.append("a change that had to fail did not")

    def step(self) -> None:
        kinds = [self.add, self.add, self.remove, self.change, self.entries, self.no_entries, self.flush]
        self.dice.choice([*kinds, self.lists, self.must_fail])()
        self.n_changes += 1
        seen = set(self.vtep.snapshot("segments")["vni"].tolist())
        if seen != self.present:
            self.wrong.append(f"segments {seen}, not {self.present}")


def vtep(local: str, seconds: float, remotes: list[str], seed: int) -> dict[str, Any]:
    arrived, stop = [0], threading.Event()
    settings = {"underlay": {"local": local}, "lanes": {"count": 2}, "tables": {"entries": 2000}}
    with Vtep(settings) as running:
        churn = Churn(running, remotes, seed)
        running.on_event(lambda event: None)
        hosts = threading.Thread(target=hosts_of, args=(churn, arrived, stop))
        hosts.start()
        print("ready", flush=True)
        start, memory = time.monotonic(), []
        try:
            while (passed := time.monotonic() - start) < seconds:
                churn.step()
                if passed > seconds / 3:
                    memory.append(resident())
        finally:
            stop.set()
            hosts.join()
        return {
            "arrived": arrived[0],
            "wrong": churn.wrong[:MOST_WRONG],
            "changes": churn.n_changes,
            "refused": churn.n_refused,
            "grown": max(memory[-10:]) - max(memory[: len(memory) // 2]),
            "failure": str(running.failure),
            "counters": running.counters(),
        }


def hosts_of(churn: Churn, arrived: list[int], stop: threading.Event) -> None:
    """The hosts behind the TAPs: what they send, and what they get."""
    dice = random.Random(7)
    while not stop.wait(0.002):
        with churn.lock:
            for vni, tap in churn.taps.items():
                try:
                    tap.send(tagged(vni, TAP_SIDE, dice.choice(destinations(vni))))
                    look(churn, vni, tap, arrived)
                except OSError as error:  # the device is coming up
                    if error.errno not in (100, 105, 11):
                        churn.wrong.append(f"c{vni}: {error}")


def look(churn: Churn, vni: int, tap: socket.socket, arrived: list[int]) -> None:
    while True:
        try:
            frame, address = tap.recvfrom(65536)
        except BlockingIOError:
            return
        found = tag(frame)
        if found is None or address[2] == socket.PACKET_OUTGOING:  # type: ignore[attr-defined]
            continue
        arrived[0] += 1
        if found != (vni, vni % N_REMOTES):
            churn.wrong.append(f"VNI {vni} got {found}")


def resident() -> int:
    """Bytes of memory that the process takes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


if __name__ == "__main__":
    role, *words = sys.argv[1:]
    if role == "peers":
        print(json.dumps(peers(words)))
    else:
        print(json.dumps(vtep(words[0], float(words[1]), words[3:], int(words[2]))))
