"""Predicting, from models that were trained, the size at which a larger one becomes unstable.

The logarithm of a statistic (the maximum attention logit) is fitted with a quadratic in log size, and
extrapolated to where it passes the value that marks divergence, about 1e4 (Wortsman et al. 2023, arXiv
2309.14322).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fionalm.errors import UserError
from fionalm.statistics import Interval

from .log_fit import QUADRATIC_SIZES, LogFit, fit_points

HORIZON = 1e4
"""How many times beyond the largest fitted size a crossing of the threshold is looked for."""


@dataclass(frozen=True)
class SizePrediction:
    """The statistic expected of one size and learning rate."""

    size: float
    lr: float
    statistic: Interval
    """Expected value with its prediction interval."""
    diverges: bool
    """Whether the expected value reaches the threshold."""
    extrapolation: float
    """The size over the largest size that was fitted."""


@dataclass(frozen=True)
class InstabilityPrediction:
    """What the fits say about sizes that were not trained; made by `predict_instability`."""

    threshold: float
    level: float
    fits: dict[float, LogFit]
    """The fit of each learning rate; the same for all in a joint fit."""
    joint: bool
    notes: tuple[str, ...]
    """What to keep in mind: runs left out, linear fits, learning rates without a fit."""
    predictions: tuple[SizePrediction, ...] = ()
    """Of each of `predict_sizes` at each learning rate."""

    def predict(self, size: float, lr: float) -> Interval:
        """Return the statistic expected at `size` and `lr` with its prediction interval.

        The interval is that of least squares for a new model of that size, by Student's t; it takes the form
        of the curve as given, and says nothing of its breaking beyond the fitted sizes. Its ends are NaN
        where the fit has no degree of freedom left.

        Raises:
            UserError: a size that is not positive, or a learning rate without a fit.
        """
        if not size > 0:
            raise UserError(f"size {size}: expected a positive number of parameters")
        log_value, half = self._fit(lr).predict(size, lr, self.level)
        with np.errstate(over="ignore"):
            low, middle, high = np.exp([log_value[0] - half[0], log_value[0], log_value[0] + half[0]])
        return Interval(float(middle), float(low), float(high))

    def first_diverging_size(self, lr: float) -> Interval:
        """Return the first size whose expected statistic reaches the threshold, with an interval.

        The search goes from the smallest fitted size to `HORIZON` times the largest; infinity means: not
        within it. `low` is where the upper end of the prediction interval reaches the threshold, `high` where
        the lower end does; both are NaN where the fit has no degree of freedom left.

        Raises:
            UserError: a learning rate without a fit.
        """
        fit = self._fit(lr)
        sizes = np.geomspace(fit.smallest, fit.largest * HORIZON, 4001)
        log_value, half = fit.predict(sizes, lr, self.level)
        first = [
            _first_crossing(sizes, curve, math.log(self.threshold))
            for curve in (log_value, log_value + half, log_value - half)
        ]
        return Interval(*first)

    def describe(self, lr: float) -> str:
        """Say in one sentence what `first_diverging_size` found, and how far it extrapolates."""
        fit, size = self._fit(lr), self.first_diverging_size(lr)
        shape = "quadratic" if fit.degree == 2 else "line"
        curve = f"at learning rate {lr:g} a {shape} through {fit.n_sizes} sizes"
        bounds = f"{100 * self.level:g}% interval {size.low:.2g} to {size.high:.2g}"
        if math.isnan(size.low):
            bounds = "too few sizes for an interval"
        if math.isinf(size.estimate):
            limit = fit.largest * HORIZON
            return f"{curve} does not reach {self.threshold:g} up to {limit:.2g} parameters ({bounds})"
        if size.estimate <= fit.largest:
            place = "within the sizes that were run"
        else:
            place = f"{size.estimate / fit.largest:.2g} times the largest that was run"
        return f"{curve} reaches {self.threshold:g} at {size.estimate:.2g} parameters, {place} ({bounds})"

    def _fit(self, lr: float) -> LogFit:
        for fitted, fit in self.fits.items():
            if math.isclose(fitted, lr, rel_tol=1e-9):
                return fit
        if self.joint and lr > 0:
            return next(iter(self.fits.values()))
        nearest = min(self.fits, key=lambda fitted: abs(fitted - lr))
        known = ", ".join(f"{fitted:g}" for fitted in sorted(self.fits))
        raise UserError(f"learning rate {lr:g}: expected one of {known}, the nearest is {nearest:g}")


def predict_instability(
    sizes: Sequence[float] | np.ndarray,
    lrs: Sequence[float] | np.ndarray | float,
    statistics: Any,
    threshold: float = 1e4,
    *,
    predict_sizes: Sequence[float] | np.ndarray | None = None,
    level: float = 0.95,
    joint: bool = False,
) -> InstabilityPrediction:
    """Fit a log statistic with a quadratic in log size, and extrapolate it to larger sizes.

    Runs of one size and learning rate (seeds) are joined to their geometric mean first, so that one size is
    one point; the intervals are for such a mean. With fewer than four sizes the fit is linear, and `notes`
    says so.

    Args:
        sizes: parameters of the models; one a run, or one a row of `statistics`.
        lrs: their learning rates; one for all, one a run, or one a column of `statistics`.
        statistics: the positive statistic (maximum attention logit) of each run [runs], or [sizes, lrs].
            Those that are not finite, of diverged runs, are left out and counted in `notes`.
        threshold: value that marks divergence.
        predict_sizes: larger sizes to predict at every learning rate.
        level: level of the prediction intervals.
        joint: fit one surface, quadratic in log size and log learning rate with their product, in place of a
            curve a learning rate. It has more points to a coefficient, and can be asked for other learning
            rates.

    Raises:
        UserError: lengths that do not fit, values that are not positive, or fewer than two sizes at every
        learning rate.
    """
    size, lr, statistic = _as_runs(sizes, lrs, statistics)
    if not threshold > 0 or not 0 < level < 1:
        raise UserError(f"threshold {threshold:g} and level {level:g}: expected a positive value and one in (0, 1)")
    notes = []
    finite = np.isfinite(statistic)
    if not finite.all():
        notes.append(f"{int((~finite).sum())} of {len(finite)} runs have no finite statistic and were left out")
    points = _geometric_means(size[finite], lr[finite], statistic[finite])
    rates = sorted({rate for _, rate in points})
    fits: dict[float, LogFit] = {}
    for group in [rates] if joint else [[rate] for rate in rates]:
        of_group = {key: value for key, value in points.items() if key[1] in group}
        name = f"learning rate {group[0]:g}" if len(group) == 1 else f"{len(group)} learning rates"
        n_sizes = len({point_size for point_size, _ in of_group})
        if n_sizes < 2:
            notes.append(f"{name}: one size, no fit")
            continue
        fit = fit_points(of_group)
        if fit.degree < 2:
            notes.append(f"{name}: {n_sizes} sizes, so the fit is linear; a quadratic needs {QUADRATIC_SIZES}")
        if fit.degrees < 1:
            notes.append(f"{name}: as many coefficients as points, so there is no interval")
        fits |= dict.fromkeys(group, fit)
    if not fits:
        raise UserError("no learning rate has finite statistics at two sizes: expected at least two, better four")
    result = InstabilityPrediction(threshold, level, fits, joint, tuple(notes))
    predictions = []
    for rate, fit in fits.items():
        for wanted in () if predict_sizes is None else predict_sizes:
            value = result.predict(wanted, rate)
            diverges = value.estimate >= threshold
            predictions.append(SizePrediction(float(wanted), rate, value, diverges, wanted / fit.largest))
    return InstabilityPrediction(threshold, level, fits, joint, tuple(notes), tuple(predictions))


def _as_runs(sizes: Any, lrs: Any, statistics: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bring both forms of the input to one size, learning rate and statistic a run."""
    size, lr, statistic = (np.asarray(values, dtype=float) for values in (sizes, lrs, statistics))
    if statistic.ndim == 2 and statistic.shape == (size.size, lr.size):
        size, lr = (grid.ravel() for grid in np.meshgrid(size, lr, indexing="ij"))
        statistic = statistic.ravel()
    lr = np.broadcast_to(lr, size.shape) if lr.ndim == 0 else lr
    if size.ndim != 1 or not size.size or not size.shape == lr.shape == statistic.shape:
        raise UserError(
            f"{size.size} sizes, {lr.size} learning rates and statistics of shape {list(statistic.shape)}:"
            " expected one of each a run, or statistics of shape [sizes, learning rates]"
        )
    for name, values in (("size", size), ("learning rate", lr)):
        bad = values[~(np.isfinite(values) & (values > 0))]
        if bad.size:
            raise UserError(f"{name} {bad[0]:g}: expected a positive number")
    if (statistic <= 0).any():
        raise UserError(f"statistic {statistic[statistic <= 0][0]:g}: expected positive values, which have a logarithm")
    return size, lr, statistic


def _geometric_means(size: np.ndarray, lr: np.ndarray, statistic: np.ndarray) -> dict[tuple[float, float], float]:
    """Return the mean log statistic of each (size, learning rate), in order of size."""
    logs: dict[tuple[float, float], list[float]] = {}
    for key_size, key_lr, value in sorted(zip(size.tolist(), lr.tolist(), statistic.tolist(), strict=True)):
        logs.setdefault((key_size, key_lr), []).append(math.log(value))
    return {key: sum(values) / len(values) for key, values in logs.items()}


def _first_crossing(sizes: np.ndarray, curve: np.ndarray, level: float) -> float:
    """Return the first size at which the curve reaches `level`, between grid points by a line in log size."""
    if np.isnan(curve).any():
        return math.nan
    above = np.flatnonzero(curve >= level)
    if not above.size:
        return math.inf
    index = int(above[0])
    if index == 0:
        return float(sizes[0])
    fraction = (level - curve[index - 1]) / (curve[index] - curve[index - 1])
    return float(sizes[index - 1] * (sizes[index] / sizes[index - 1]) ** fraction)
