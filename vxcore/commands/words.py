"""Arguments as `ip` and `bridge` have them: keywords with values, in any order.

Place in the house: among the commands, below those that take them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from vxcore.commands import meant, number
from vxcore.errors import ConfigError

NUMBERS = ("vni", "sequence")
"""What is a number; the rest is text."""


class Grammar(NamedTuple):
    """What words a command takes."""

    first: str
    """What a word is that stands first and is no keyword; empty: there is none."""
    values: dict[str, str]
    """The keywords that a value follows, and what that is."""
    flags: dict[str, dict[str, Any]]
    """The keywords that stand alone, and what they say."""
    needed: tuple[str, ...] = ()
    """What must be said."""
    collects: bool = False
    """Whether a keyword may come again, for its values are a list."""

    def read(self, words: Sequence[str]) -> dict[str, Any]:
        """What the words say; raises ConfigError."""
        said: dict[str, Any] = {}
        by: dict[str, str] = {}  # the word that said it
        rest = iter(words)
        for position, word in enumerate(rest):
            for name, value in self._meaning(word, rest, position).items():
                if self.collects and word in self.values:
                    said.setdefault(name, []).append(value)
                else:
                    _once(by, name, word)
                    said[name] = value
        for name in self.needed:
            if name not in said:
                keyword = next((word for word, named in self.values.items() if named == name), name)
                raise ConfigError(f"{keyword}: missing; {self._shape()}")
        return said

    def _meaning(self, word: str, rest: Iterator[str], position: int) -> dict[str, Any]:
        if word in self.flags:
            return self.flags[word]
        if word in self.values:
            return {self.values[word]: _value(word, next(rest, None))}
        if position == 0 and self.first:
            return {self.first: _value(self.first, word)}
        raise ConfigError(self._unknown(word))

    def _shape(self) -> str:
        values = [f"{word} {name.upper()}" for word, name in self.values.items()]
        first = [self.first.upper()] if self.first else []
        known = [*first, *values, *self.flags]
        return f"the words are {', '.join(known)}" if known else "no words are"

    def _unknown(self, word: str) -> str:
        near = meant(word, [*self.values, *self.flags])
        return f"{word!r} has no meaning here; {near or self._shape()}"


def _once(by: dict[str, str], name: str, keyword: str) -> None:
    """Refuse what this keyword, or another, has said already."""
    before = by.get(name)
    if before == keyword:
        raise ConfigError(f"{keyword}: given twice; once is right")
    if before is not None:
        raise ConfigError(f"{keyword}: cannot be with {before}; leave one out")
    by[name] = keyword


def _value(keyword: str, word: str | None) -> Any:
    if word is None:
        raise ConfigError(f"{keyword}: its value is missing")
    return number(word) if keyword in NUMBERS else word
