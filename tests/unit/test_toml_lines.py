"""The line of every key, for each way in which TOML lets one write it."""

from __future__ import annotations

import pytest

from vxcore.toml_lines import key_lines, line_of

TEXT = '''\
# a comment with [brackets] and x = 1
top = 1
[table]
plain = """
not = "a key"
"""
dotted.deep = 2
"quoted key" = [
  1,
  { inline = 3 },
]
after = 'literal # no comment'
[[array]]
n = 1
[[array]]  # second
n = 2
[array.sub]
leaf = true
[a.b.c]
d = { e = { f = 1 } }
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 2),
        (("table",), 3),
        (("table", "plain"), 4),
        (("table", "dotted", "deep"), 7),
        (("table", "quoted key"), 8),
        (("table", "quoted key", 1, "inline"), 10),
        (("table", "after"), 12),
        (("array", 0), 13),
        (("array", 0, "n"), 14),
        (("array", 1), 15),
        (("array", 1, "n"), 16),
        (("array", 1, "sub", "leaf"), 18),
        (("a", "b", "c", "d"), 20),
        (("a", "b", "c", "d", "e", "f"), 20),
        (("array", 1, "missing"), 15),
    ],
)
def test_a_key_is_found_on_its_line(path: tuple[str | int, ...], line: int) -> None:
    assert line_of(key_lines(TEXT), path) == line


def test_what_is_nowhere_has_no_line() -> None:
    assert not line_of(key_lines("a = 1\n"), ("segment",))
