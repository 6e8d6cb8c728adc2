"""What a suite has measured so far: samples by name, and who is missing.

Place in the house: above results; the suites fill it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from benchmarks.results import Better, Measurement, Missing, Sample, measurement


@dataclass
class _Taken:
    unit: str
    better: Better
    verified: str
    samples: list[Sample] = field(default_factory=list)


class Tally:
    """Samples by name, in the order in which the names came."""

    def __init__(self) -> None:
        self.missing: dict[str, Missing] = {}
        self._taken: dict[str, _Taken] = {}

    def add(self, name: str, unit: str, better: Better, samples: list[Sample], verified: str) -> None:
        """More samples of one name."""
        self._taken.setdefault(name, _Taken(unit, better, verified)).samples += samples

    def miss(self, name: str, reason: str, kind: Literal["absent", "failed"]) -> None:
        """That something was not measured; what is known of it from other turns is not told."""
        self.missing.setdefault(name, Missing(name=name, reason=reason, kind=kind))

    def measurements(self) -> tuple[Measurement, ...]:
        """All that was measured every time."""
        return tuple(
            measurement(name, taken.unit, taken.better, taken.samples, taken.verified)
            for name, taken in self._taken.items()
            if name not in self.missing
        )
