"""The best learning rate of a sweep, its drift with width, and the uncertainty of both over seeds.

Losses are `[seed, lr]` arrays in which a diverged run has its loss at initialisation, a crashed one NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fionalm.statistics import Interval, bootstrap


def best_log_lr(lrs: Sequence[float], losses: np.ndarray, *, interpolate: bool = True) -> float:
    """Return the natural log of the learning rate with the lowest mean loss over seeds.

    Args:
        lrs: ascending.
        losses: `[seed, lr]`.
        interpolate: take the vertex of the parabola, in log learning rate, through the best grid point and
            its two neighbours. At an end of the grid the end itself is taken: the optimum may lie beyond.

    Returns:
        NaN where no learning rate is better than another, as when every run diverged.
    """
    mean = mean_over_seeds(losses).tolist()  # floats: thousands of resamples are drawn of a few numbers
    finite = [loss for loss in mean if math.isfinite(loss)]
    if not finite or (len(finite) > 1 and min(finite) == max(finite)):
        return math.nan
    best = mean.index(min(mean))
    here = math.log(lrs[best])
    if not interpolate or best in (0, len(mean) - 1):
        return here
    left, right = here - math.log(lrs[best - 1]), math.log(lrs[best + 1]) - here
    rise_left, rise_right = mean[best - 1] - mean[best], mean[best + 1] - mean[best]
    curvature = rise_left * right + rise_right * left
    if not 0 < curvature < math.inf:
        return here
    return here + (rise_left * right**2 - rise_right * left**2) / (2 * curvature)


def best_lr(lrs: Sequence[float], losses: np.ndarray, *, interpolate: bool = True) -> Interval:
    """Return the best learning rate with its bootstrap interval over seeds; otherwise as `best_log_lr`."""
    found = bootstrap(lambda drawn: best_log_lr(lrs, drawn, interpolate=interpolate), losses)
    return Interval(math.exp(found.estimate), math.exp(found.low), math.exp(found.high))


def best_lr_slope(
    widths: Sequence[int], lrs: Sequence[float], losses: np.ndarray, *, interpolate: bool = True
) -> Interval:
    """Return the slope of log best learning rate against log width, least squares, with its interval.

    A theory that says LR ~ n^-c predicts -c. Seeds are resampled at every width by themselves.

    Args:
        widths: at least two.
        lrs: ascending.
        losses: `[width, seed, lr]`.
        interpolate: as in `best_log_lr`.
    """

    def slope(*by_width: np.ndarray) -> float:
        best = np.array([best_log_lr(lrs, drawn, interpolate=interpolate) for drawn in by_width])
        known = np.isfinite(best)
        if known.sum() < 2:
            return math.nan
        x = np.log(widths)[known]
        x = x - x.mean()
        return float(x @ (best[known] - best[known][0]) / (x @ x))

    return bootstrap(slope, *losses)


def largest_shift(
    widths: Sequence[int],
    lrs: Sequence[float],
    losses: np.ndarray,
    *,
    base_width: int,
    interpolate: bool = True,
) -> Interval:
    """Return the largest distance of a width's best learning rate from the base width's, in grid steps.

    A grid step is the mean ratio of neighbouring learning rates.

    Args:
        widths: `base_width` among them.
        lrs: ascending, at least two.
        losses: `[width, seed, lr]`.
        base_width: where the learning rate would be tuned.
        interpolate: as in `best_log_lr`.
    """
    base = list(widths).index(base_width)
    step = math.log(lrs[-1] / lrs[0]) / (len(lrs) - 1)

    def shift(*by_width: np.ndarray) -> float:
        best = np.array([best_log_lr(lrs, drawn, interpolate=interpolate) for drawn in by_width])
        return float(np.abs(best - best[base]).max() / step)

    return bootstrap(shift, *losses, bounds=(0.0, math.inf))


def mean_over_seeds(losses: np.ndarray) -> np.ndarray:
    """Return the mean `[lr]` of `[seed, lr]` losses over seeds that did not crash; infinite if all did."""
    known = ~np.isnan(losses)
    if known.all():
        return losses.mean(axis=0)
    total = np.where(known, losses, 0.0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.inf)
