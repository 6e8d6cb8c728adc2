"""What a user of `vxcore bench` chooses beside the cases.

Place in the house: lowest of the benchmarks, knows nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """None: as the suite has it."""

    quick: bool = False
    rounds: int | None = None
    """How often everything is measured: rounds of the data path, processes of the other suites."""
    seconds: float | None = None
    """Of each sample of the data path; below 1, TCP carries 8 MiB."""
    patience: float = 0.0
    """For how long the data path waits for others to be quiet."""
    against: Path | None = None
    """Another checkout, built, whose vxcore runs in the data path as vxcore@against."""
