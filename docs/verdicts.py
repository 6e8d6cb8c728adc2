"""Writes docs/verdicts.md from vxcore/verdict.py, the one list of verdicts (`make docs`).

Place in the house: a tool of the documentation; a test holds the page equal to what this writes.
"""

from __future__ import annotations

from pathlib import Path

from vxcore.verdict import Verdict

PAGE = Path(__file__).with_name("verdicts.md")
HEAD = """\
# Verdicts

<!-- Written by `make docs` from vxcore/verdict.py; a change goes there. -->

Every packet gets one verdict: delivered, or why not. The same names stand in `vxcore.Verdict`, in
`PacketBatch.verdict` (by number), and in lower case (`unknown_vni`) in a VTEP's counters, in what the
commands print and as `reason` in its [metrics](metrics.md).

| | verdict | what it means | what to do |
|--:|---|---|---|
"""


def page() -> str:
    """The whole page."""
    rows = [f"| {v.value} | `{v.name}` | {v.text} | {v.remedy} |\n" for v in Verdict]
    return HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page())
