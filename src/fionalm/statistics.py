"""Bootstrap intervals: the one way in which an effect gets its uncertainty.

A leaf that every room may import; it knows arrays, nothing of models or runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its confidence interval."""

    estimate: float
    low: float
    high: float

    def as_list(self) -> list[float]:
        """Return `[low, high]`, as `claims.json` stores it."""
        return [self.low, self.high]


def bootstrap(
    statistic: Callable[..., float],
    *samples: Any,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    paired: bool = False,
) -> Interval:
    """Percentile bootstrap of `statistic(*samples)` (Efron and Tibshirani 1993, chapter 13).

    Args:
        statistic: maps one array a sample to a float.
        samples: arrays, resampled with replacement along axis 0: seeds, prompts or tasks.
        level: confidence level in (0, 1).
        resamples: number of bootstrap resamples.
        seed: seed of the resampling.
        paired: draw the same indices for every sample (they share axis 0).

    Returns:
        The statistic of the data and the percentile interval. Resamples whose statistic is not finite are
        left out; if over half are, the ends are NaN. With one unit along axis 0 there is no spread to
        resample, and the ends are NaN rather than a width of zero.

    Raises:
        ValueError: an empty sample, or paired samples of unequal length.
    """
    arrays = [np.asarray(sample) for sample in samples]
    sizes = [len(array) for array in arrays]
    if not arrays or min(sizes) == 0:
        raise ValueError("bootstrap needs at least one value in every sample")
    if paired and len(set(sizes)) > 1:
        raise ValueError(f"paired samples must have equal lengths, not {sizes}")
    estimate = float(statistic(*arrays))
    if max(sizes) == 1:
        return Interval(estimate, math.nan, math.nan)
    generator = np.random.default_rng(seed)
    values = np.empty(resamples)
    for index in range(resamples):
        if paired:
            rows = generator.integers(sizes[0], size=sizes[0])
            drawn = [array[rows] for array in arrays]
        else:
            drawn = [array[generator.integers(len(array), size=len(array))] for array in arrays]
        values[index] = statistic(*drawn)
    finite = values[np.isfinite(values)]
    if len(finite) <= resamples / 2:
        return Interval(estimate, math.nan, math.nan)
    tail = (1 - level) / 2
    low, high = np.quantile(finite, [tail, 1 - tail])
    return Interval(estimate, float(low), float(high))
