"""What a process hands to the one that takes its place: descriptors by name, and what to know of each.

Place in the house: below the kinds of ports, which are opened anew or made of a part; knows nobody.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Part(NamedTuple):
    """The descriptors of one thing, in an order that its kind knows, and what JSON can say of it."""

    fds: list[int]
    facts: dict[str, Any]


class Parts:
    """Parts that were handed over, each of which is taken once."""

    def __init__(self, parts: Mapping[str, Part]) -> None:
        self._parts = dict(parts)

    def take(self, name: str) -> Part | None:
        """The part of that name, which belongs to the caller now; None: there is none."""
        return self._parts.pop(name, None)

    def close_rest(self) -> list[str]:
        """Close what nobody took; the names of it."""
        left = list(self._parts)
        while self._parts:
            for fd in self._parts.popitem()[1].fds:
                os.close(fd)
        return left


NOTHING = Parts({})
"""For those that open all by themselves."""


def sockets(fds: Iterable[int]) -> list[socket.socket]:
    """The sockets that descriptors stand for, which own them."""
    return [socket.socket(fileno=fd) for fd in fds]


def descriptors(socks: Iterable[socket.socket]) -> list[int]:
    """Those of sockets, in their order."""
    return [sock.fileno() for sock in socks]
