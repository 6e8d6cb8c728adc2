"""What two processes say to each other when one gives its VTEP to the other, and what is not said well."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vxcore import daemon, handover, logs
from vxcore.config import Log
from vxcore.errors import ConfigError
from vxcore.handover import (
    About,
    Channel,
    Final,
    HandoverError,
    HungUpError,
    Offer,
    Ready,
    Running,
    Want,
    ask_for,
    hand_over,
)
from vxcore.notify import ServiceManager
from vxcore.parts import Part, Parts
from vxcore.state import ROW, Learned

ABOUT = About(file=None, control=None, environment={})
SETTINGS = '[[segment]]\nvni = 42\ntap = "vx42"\nremotes = ["192.0.2.2"]\n'


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


@pytest.fixture
def pid() -> Iterator[int]:
    """Of a process that stands for the new one, and may be killed."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process.pid
        process.kill()


def files(n: int) -> list[int]:
    return [os.memfd_create(str(number)) for number in range(n)]


def same(one: int, other: int) -> bool:
    return os.path.samestat(os.fstat(one), os.fstat(other))


# The channel


@pytest.mark.parametrize("n", [0, 1, 64, 65, 200])
def test_descriptors_come_in_their_order_and_the_sender_keeps_its_own(
    ends: tuple[socket.socket, socket.socket], n: int
) -> None:
    given = files(n)
    Channel(ends[0]).send(Final(7, {"a": [b"x" * 5000]}, handover.Kept(b"", b"", 1, b"")), given)
    message, taken = Channel(ends[1]).receive(Final, 5)
    assert (message.stopped_ns, message.rest) == (7, {"a": [b"x" * 5000]})
    assert len(taken) == n
    assert all(same(*pair) for pair in zip(given, taken, strict=True))
    assert not any(os.get_inheritable(fd) for fd in taken)
    for fd in (*given, *taken):
        os.close(fd)


def test_a_message_that_is_torn_is_no_message(ends: tuple[socket.socket, socket.socket]) -> None:
    Channel(ends[0]).send(Want())
    whole = ends[1].recv(1 << 16)
    for length in range(len(whole)):
        one, other = socket.socketpair()
        with one, other:
            one.sendall(whole[:length])
            one.close()
            with pytest.raises(HungUpError, match="has hung up"):
                Channel(other).receive(Want, 5)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (struct.pack("=QI", 1 << 40, 0), "speaks otherwise: a message of 1099511627776 bytes"),
        (struct.pack("=QI", 3, 0) + b"abc", "speaks otherwise: no Ready"),
        (struct.pack("=QI", 1, 1) + b"ab", "not all descriptors came through"),
        (b"", "does not answer"),
        (struct.pack("=QI", 9, 0) + b"abc", "does not answer"),
    ],
)
def test_what_is_said_otherwise_is_refused(
    ends: tuple[socket.socket, socket.socket], said: bytes, error: str
) -> None:
    ends[0].sendall(said)
    with pytest.raises(HandoverError, match=error):
        Channel(ends[1]).receive(Ready, 0.05)


def test_another_message_than_is_due_is_refused(ends: tuple[socket.socket, socket.socket]) -> None:
    Channel(ends[0]).send(Running())
    with pytest.raises(HandoverError, match="speaks otherwise: no Ready"):
        Channel(ends[1]).receive(Ready, 5)


def test_parts_are_taken_once_and_what_nobody_takes_is_closed() -> None:
    one, other = files(2)
    parts = Parts({"a": Part([one], {"x": 1}), "b": Part([other], {})})
    assert parts.take("a") == Part([one], {"x": 1})
    assert parts.take("a") is None
    assert parts.close_rest() == ["b"]
    os.close(one)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.close(other)


# The old process


class Old:
    """A VTEP of which it is noted what is done to its lanes."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.stands = False
        self.memory = self.told = self
        self.sources: set[str] = set()

    def running(self) -> Any:
        from vxcore import config

        return config.loads("x.toml", SETTINGS)

    def parts(self) -> dict[str, Part]:
        return {}

    def places(self) -> dict[str, int]:
        return {}

    def rest(self) -> dict[str, list[bytes]]:
        return {}

    def take(self, within_s: int | None = None) -> Learned:
        return Learned(np.zeros((0, 16), np.uint8), np.zeros(0, ROW), 0)

    def take_behind(self, within_s: int | None = None) -> Any:
        return np.zeros(0, ROW)

    def stand(self) -> None:
        self.stands = True
        self.done.append("stand")

    def go_on(self) -> None:
        self.stands = False
        self.done.append("go on")


def new(channel: Channel, *steps: Callable[[Channel], object]) -> threading.Thread:
    def run() -> None:
        with closing(channel):
            for step in steps:
                step(channel)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def ready(channel: Channel) -> None:
    channel.send(Ready())


def takes_final(channel: Channel) -> None:
    channel.receive(Final, 5)


def runs(channel: Channel) -> None:
    channel.send(Running())


def test_lanes_stand_when_the_new_process_is_ready_and_not_before(
    ends: tuple[socket.socket, socket.socket], pid: int
) -> None:
    old, seen = Old(), []
    offer: list[Offer] = []

    def asks(channel: Channel) -> None:
        offer.append(ask_for(channel)[0])
        seen.extend(old.done)

    thread = new(Channel(ends[1]), asks, ready, takes_final, runs)
    hand_over(Channel(ends[0]), old, ABOUT, {}, pid)  # type: ignore[arg-type]
    thread.join()
    assert (seen, old.done) == ([], ["stand"])
    assert offer[0].about == ABOUT


@pytest.mark.parametrize(
    ("steps", "done"),
    [
        ((), []),
        ((ask_for,), []),
        ((ask_for, ready), ["stand", "go on"]),
        ((ask_for, ready, takes_final), ["stand", "go on"]),
        ((ask_for, ready, takes_final, ready), ["stand", "go on"]),
        ((ask_for, runs), []),
    ],
)
def test_lanes_go_on_wherever_the_new_process_ends(
    ends: tuple[socket.socket, socket.socket],
    pid: int,
    steps: tuple[Callable[[Channel], object], ...],
    done: list[str],
) -> None:
    old = Old()
    thread = new(Channel(ends[1]), *steps)
    with pytest.raises(HandoverError):
        hand_over(Channel(ends[0]), old, ABOUT, {}, pid)  # type: ignore[arg-type]
    thread.join()
    assert old.done == done


def test_a_new_process_that_is_silent_is_given_up(
    ends: tuple[socket.socket, socket.socket], pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "PREPARE_S", 0.1)
    old = Old()
    Channel(ends[1]).send(Want())
    with pytest.raises(HandoverError, match="does not answer"):
        hand_over(Channel(ends[0]), old, ABOUT, {}, pid)  # type: ignore[arg-type]
    assert old.done == []


@pytest.mark.parametrize(("number", "error"), [(0, "cannot be seen from here"), (1 << 22, "has ended")])
def test_nothing_is_offered_to_a_process_that_could_not_be_ended(
    ends: tuple[socket.socket, socket.socket], number: int, error: str
) -> None:
    old = Old()
    Channel(ends[1]).send(Want())
    with pytest.raises(HandoverError, match=error):
        hand_over(Channel(ends[0]), old, ABOUT, {}, number)  # type: ignore[arg-type]
    assert old.done == []
    ends[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        ends[1].recv(1)


def test_what_is_handed_over_is_never_a_reload_that_is_half_done(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, done = threading.Event(), []

    class Slow(Old):
        def apply(self, settings: object) -> None:
            time.sleep(0.2)
            done.append("applied")

        def describe(self) -> list[object]:
            return []

        def turns(self) -> list[int]:
            return []

    def read() -> Any:
        reads.set()
        return SimpleNamespace(log=Log())

    old: Any = Slow()
    manager: Any = ServiceManager({})
    life = daemon._Life(old, old.running(), frozenset(), manager, read, ABOUT)
    monkeypatch.setattr(daemon, "hand_over", lambda *_: done.append("handed over"))
    monkeypatch.setattr(daemon._Life, "_leave", lambda *_: None)
    monkeypatch.setattr(logs, "configure", lambda _: None)
    thread = threading.Thread(target=life._apply)
    thread.start()
    assert reads.wait(5)
    life._hand_over(ends[0], ends[1], 0)
    thread.join()
    assert done == ["applied", "handed over"]


# The new process


def test_settings_that_this_vxcore_does_not_know_are_refused_by_name(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    kept = handover.Kept(b"", b"", 0, b"")
    offer = Offer(vxcore="9.9", settings=SETTINGS + "warp = 9\n", about=ABOUT, parts={}, places={}, kept=kept)
    Channel(ends[0]).send(offer)
    with pytest.raises(ConfigError, match=r"the settings of vxcore 9\.9:5: segment\[0\]\.warp: unknown key"):
        ask_for(Channel(ends[1]))
