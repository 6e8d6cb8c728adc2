"""Which line of a TOML document a key stands on.

Place in the house: used by config.py and faults.py; knows nobody. tomllib gives values without positions,
and a message about a value should name its line. This reads the text a second time, after tomllib
has accepted it, so it checks nothing: it follows keys, brackets and strings, and counts lines.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

Path = tuple[str | int, ...]
"""From the root to a value: a key for each table, an index for each array."""

_TOKEN = re.compile(
    r'''
      (?P<blank>  [ \t\r]+ | \#[^\n]* )
    | (?P<other>  """ (?: \\. | [^\\] )*? """ "{0,2}    # up to two quotes may stand before the closing three
                | \'\'\' .*? \'\'\' '{0,2}
                | " (?: \\. | [^"\\] )* "
                | ' [^']* '
                | [\n\[\]{}=,.]
                | [^\s\[\]{}=,.\#"']+ )
    ''',
    re.VERBOSE | re.DOTALL,
)


class _Token(NamedTuple):
    text: str  # of a string with its quotes, so no string looks like a bracket
    line: int


_END = _Token("", 0)


def key_lines(text: str) -> dict[Path, int]:
    """The line, counted from 1, of every table, key and array element of a document.

    `text` must be a document that tomllib accepts; for any other text the result has no meaning.
    """
    reader = _Reader(_tokens(text))
    reader.read_document()
    return reader.lines


def line_of(lines: Mapping[Path, int], path: Path) -> int | None:
    """The line of `path`, or of the nearest thing around it that has one; None at the root."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path)


def _tokens(text: str) -> Iterator[_Token]:
    line = 1
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "blank":
            yield _Token(match.group(), line)
        line += match.group().count("\n")


class _Reader:
    """Follows the tokens of one document and notes the line at which each path begins."""

    def __init__(self, tokens: Iterator[_Token]) -> None:
        self.lines: dict[Path, int] = {}
        self._tokens = tokens
        self._next = next(tokens, _END)
        self._last_index: dict[Path, int] = {}  # of each array of tables so far

    def read_document(self) -> None:
        table: Path = ()
        while self._next is not _END:
            if self._next.text == "[":
                table = self._read_header()
            elif not self._accept("\n"):
                self._read_pair(table)

    def _read_header(self) -> Path:
        """``[table]`` or ``[[array of tables]]``; the path of the table that it opens."""
        line = self._take().line
        is_array = self._accept("[")
        *parents, name = self._read_key()
        while self._accept("]"):
            pass
        path: Path = ()
        for key in parents:
            path = self._newest((*path, key))
            self.lines.setdefault(path, line)
        path = (*path, name)
        if is_array:
            self.lines.setdefault(path, line)
            self._last_index[path] = self._last_index.get(path, -1) + 1
            path = self._newest(path)
        self.lines[path] = line  # a header that comes late counts more than an earlier mention
        return path

    def _newest(self, path: Path) -> Path:
        """A name inside a header means the newest element when it is an array of tables."""
        return (*path, self._last_index[path]) if path in self._last_index else path

    def _read_pair(self, table: Path) -> None:
        """``dotted.key = value``"""
        line, path = self._next.line, table
        for key in self._read_key():
            path = (*path, key)
            self.lines.setdefault(path, line)
        self._accept("=")
        self._read_value(path)

    def _read_key(self) -> list[str]:
        keys = [_unquoted(self._take())]
        while self._accept("."):
            keys.append(_unquoted(self._take()))
        return keys

    def _read_value(self, path: Path) -> None:
        if self._accept("["):
            self._read_array(path)
        elif self._accept("{"):
            self._read_inline_table(path)
        else:  # one token or, as in 1.5 and 1979-05-27 07:32:00, several
            while self._next is not _END and self._next.text not in ("\n", ",", "]", "}"):
                self._take()

    def _read_array(self, path: Path) -> None:
        index = 0
        while not self._closes("]"):
            self.lines[(*path, index)] = self._next.line
            self._read_value((*path, index))
            index += 1

    def _read_inline_table(self, path: Path) -> None:
        while not self._closes("}"):
            self._read_pair(path)

    def _closes(self, mark: str) -> bool:
        """Skip what stands between two items; true when the bracket closes (or the text ends)."""
        while self._accept("\n") or self._accept(","):
            pass
        return self._accept(mark) or self._next is _END

    def _take(self) -> _Token:
        token, self._next = self._next, next(self._tokens, _END)
        return token

    def _accept(self, mark: str) -> bool:
        if self._next.text != mark:
            return False
        self._take()
        return True


def _unquoted(token: _Token) -> str:
    """A key as tomllib reports it: quotes and escapes resolved by tomllib itself."""
    if token.text[0] not in "\"'":
        return token.text
    return str(tomllib.loads(f"key = {token.text}")["key"])
