"""Tables for people: columns of words, as wide as they must be.

Place in the house: beside addresses, knows nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


def columns(titles: Sequence[str], rows: Iterable[Sequence[str]], n_left: int = 1) -> Iterator[str]:
    """The lines of a table; its first `n_left` columns are aligned to the left, the others to the right."""
    lines = [titles, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    for line in lines:
        words = [
            f"{word:<{width}}" if column < n_left else f"{word:>{width}}"
            for column, (word, width) in enumerate(zip(line, widths, strict=True))
        ]
        yield "  ".join(words).rstrip()
