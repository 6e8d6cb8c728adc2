"""What became of the packets of a capture, counted by verdict.

Place in the house: above strip, under the commands decap and inspect.
"""

from __future__ import annotations

import numpy as np

from vxcore._fast.links import SUPPORTED_LINKS
from vxcore.capture.strip import Stripped
from vxcore.verdict import Verdict


class Counts:
    """What became of the packets of a capture."""

    def __init__(self) -> None:
        self.verdicts = np.zeros(len(Verdict), np.int64)
        self.links: dict[int, int] = {}
        self.n_cut = 0

    def add(self, stripped: Stripped) -> None:
        """Count a batch."""
        verdict = stripped.batch.verdict
        self.verdicts += np.bincount(verdict, minlength=len(self.verdicts))
        if stripped.cut is not None:
            self.n_cut += int(np.count_nonzero(stripped.cut & (verdict == Verdict.DELIVERED)))
        unknown = stripped.reader.link[verdict == Verdict.LINK_TYPE]
        for link, number in zip(*np.unique(unknown, return_counts=True), strict=True):
            self.links[int(link)] = self.links.get(int(link), 0) + int(number)

    @property
    def n_packets(self) -> int:
        """All that were read."""
        return int(self.verdicts.sum())

    @property
    def n_delivered(self) -> int:
        """Those that held a frame."""
        return int(self.verdicts[Verdict.DELIVERED])

    def others(self) -> dict[Verdict, int]:
        """The rest, by verdict, the most frequent first."""
        found = [(Verdict(number), int(n)) for number, n in enumerate(self.verdicts) if n and number]
        return dict(sorted(found, key=lambda pair: -pair[1]))

    def unsupported(self) -> str | None:
        """A sentence about packets of link types that we cannot read; None if there were none."""
        if not self.links:
            return None
        found = ", ".join(f"{link} ({n} packets)" for link, n in sorted(self.links.items()))
        known = ", ".join(f"{link} {name}" for link, name in SUPPORTED_LINKS.items())
        return f"link type {found} is not supported; these are: {known}"
