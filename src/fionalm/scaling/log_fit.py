"""Least squares of the logarithm of a statistic on powers of log size and log learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fionalm.errors import UserError
from fionalm.statistics import student_t_quantile

QUADRATIC_SIZES = 4
"""Distinct sizes below which a fit is linear: three would leave a quadratic nothing to tell its error by."""


@dataclass(frozen=True)
class LogFit:
    """Least squares of a log statistic on powers of log size and log learning rate."""

    terms: tuple[tuple[int, int], ...]
    """Powers of (log size, log learning rate), one pair a coefficient."""
    center: tuple[float, float]
    """Means of log size and of log learning rate, from which the powers are taken."""
    coefficients: np.ndarray
    inverse_gram: np.ndarray
    """(X'X)^-1 of the design matrix X."""
    residual_std: float
    """Standard deviation of the residuals; NaN without a degree of freedom."""
    degrees: int
    """Points less coefficients."""
    smallest: float
    largest: float
    n_sizes: int

    @property
    def degree(self) -> int:
        """Highest power of log size: 2, or 1 where there were too few sizes."""
        return max(power for power, _ in self.terms)

    def predict(self, size: Any, lr: float, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the log statistic at each `size`, and half the width of its prediction interval."""
        design = _design(np.atleast_1d(np.log(size)), math.log(lr), self.terms, self.center)
        leverage = np.einsum("ij,jk,ik->i", design, self.inverse_gram, design)
        if self.degrees < 1:
            return design @ self.coefficients, np.full(len(design), math.nan)
        t = student_t_quantile((1 + level) / 2, self.degrees)
        return design @ self.coefficients, t * self.residual_std * np.sqrt(1 + leverage)


def fit_points(points: dict[tuple[float, float], float]) -> LogFit:
    """Fit mean log statistics by (size, learning rate) with as high powers as the points can carry."""
    log_size, log_lr = np.log(np.array(list(points))).T
    n_sizes, n_lrs = len(set(log_size)), len(set(log_lr))
    terms = [(0, 0), (1, 0)]
    if n_sizes >= QUADRATIC_SIZES:
        terms.append((2, 0))
    if n_lrs > 1:
        terms += [(0, 1), (1, 1)]
    if n_lrs > 2:
        terms.append((0, 2))
    center = (float(log_size.mean()), float(log_lr.mean()))
    design = _design(log_size, log_lr, tuple(terms), center)
    target = np.array(list(points.values()))
    coefficients, _, rank, _ = np.linalg.lstsq(design, target, rcond=None)
    if rank < len(terms):
        raise UserError(
            f"{len(points)} combinations of size and learning rate cannot carry {len(terms)} coefficients:"
            " expected more of them, or joint=False"
        )
    degrees = len(points) - len(terms)
    squares = float(np.square(target - design @ coefficients).sum())
    return LogFit(
        terms=tuple(terms),
        center=center,
        coefficients=coefficients,
        inverse_gram=np.linalg.inv(design.T @ design),
        residual_std=math.sqrt(squares / degrees) if degrees else math.nan,
        degrees=degrees,
        smallest=math.exp(log_size.min()),
        largest=math.exp(log_size.max()),
        n_sizes=n_sizes,
    )


def _design(
    log_size: np.ndarray, log_lr: Any, terms: tuple[tuple[int, int], ...], center: tuple[float, float]
) -> np.ndarray:
    """Return the design matrix [points, terms]."""
    x, y = log_size - center[0], np.broadcast_to(log_lr, log_size.shape) - center[1]
    return np.stack([x**size_power * y**lr_power for size_power, lr_power in terms], axis=1)
