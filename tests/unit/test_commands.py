"""What commands ask for, and how they print it, without a VTEP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from vxcore import cli
from vxcore.commands import packets
from vxcore.commands.asking import folded


class Vtep:
    """Notes what it is asked for, and has nothing to tell."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def stream(self, name: str, **given: Any) -> Iterator[Any]:
        self.asked = given
        return iter(())


@pytest.mark.parametrize(
    ("words", "dropped_only"),
    [
        ("", None),
        ("--dropped", True),
        ("--verdict unknown_vni --verdict too_big", True),
        ("--verdict unknown_vni --verdict delivered", None),
    ],
)
def test_a_trace_asks_for_no_packet_that_it_would_not_show(
    words: str, dropped_only: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    vtep = Vtep()

    @contextmanager
    def connect(_: object) -> Iterator[Vtep]:
        yield vtep

    monkeypatch.setattr(packets, "connect", connect)
    assert cli.main(["trace", *words.split()]) == 0
    assert vtep.asked.get("dropped_only") == dropped_only


@pytest.mark.parametrize(
    ("line", "columns", "indent", "pieces"),
    [
        ("  a long line of words", 0, None, ["  a long line of words"]),
        ("  a long line of words", 22, None, ["  a long line of words"]),
        ("  a long line of words", 12, None, ["  a long", "    line of", "    words"]),
        ("ok  one two three", 10, 4, ["ok  one", "    two", "    three"]),
        ("02:00:00:00:00:01 x-y", 10, 0, ["02:00:00:00:00:01", "x-y"]),
    ],
)
def test_a_line_that_is_too_long_goes_on_below(
    line: str, columns: int, indent: int | None, pieces: list[str]
) -> None:
    assert folded(line, columns, indent) == pieces
