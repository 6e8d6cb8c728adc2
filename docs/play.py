"""Plays pages: types their commands, and writes what these print into the pages.

Place in the house: a tool of the documentation (`make pages`), above tests/support/pages.py, which says how.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from support import pages  # noqa: E402


def main(*names: str) -> None:
    """Those of these names, or all."""
    for page, where in pages.played().items():
        name = str(page.relative_to(ROOT))
        if not names or name in names:
            print(f"{name}: on {where}")
            with pages.stage(where) as stage:
                page.write_text(pages.play(page.read_text(), stage))


if __name__ == "__main__":
    main(*sys.argv[1:])
