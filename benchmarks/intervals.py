"""Confidence intervals of medians and of their ratios, by bootstrap.

Place in the house: lowest of the benchmarks, knows nobody. Samples of one process have more in common than
those of different ones (memory layout, the minute in which it ran), so values come in groups, and both levels
are drawn anew: first groups, then values in each (T. Kalibera and R. Jones, "Rigorous Benchmarking in
Reasonable Time", ISMM 2013). The draws start from one seed: the same values give the same interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

CONFIDENCE = 0.95
_N_DRAWS = 2000
_SEED = 7348
Groups = Sequence[Sequence[float]]


def of_median(groups: Groups) -> tuple[float, float]:
    """The interval of the median of all values."""
    return _middle(_medians(groups, np.random.default_rng(_SEED)))


def of_ratio(new: Groups, old: Groups) -> tuple[float, float]:
    """The interval of the ratio of two medians, of values that were taken independently."""
    random = np.random.default_rng(_SEED)
    return _middle(_medians(new, random) / _medians(old, random))


def _medians(groups: Groups, random: np.random.Generator) -> Any:
    """Medians of samples that are drawn from the sample, with putting back."""
    lengths = np.array([len(group) for group in groups])
    table = np.full((len(groups), lengths.max()), np.nan)
    for row, group in zip(table, groups, strict=True):
        row[: len(group)] = group
    chosen = random.integers(0, len(groups), (_N_DRAWS, len(groups), 1))
    places = np.arange(table.shape[1])
    drawn = random.integers(0, lengths[chosen], (_N_DRAWS, *table.shape))
    values = np.where(places < lengths[chosen], table[chosen, drawn], np.nan).reshape(_N_DRAWS, -1)
    return np.nanmedian(values, axis=1) if (lengths < table.shape[1]).any() else np.median(values, axis=1)


def _middle(draws: Any) -> tuple[float, float]:
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(draws, [tail, 100 - tail])
    return float(low), float(high)
