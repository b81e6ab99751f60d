"""From a detector's scores to probabilities: Platt's sigmoid, isotonic regression, and how far probabilities are off.

A calibrator is fitted on validation rows, never on those that are reported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from fionalm.errors import UserError, choice_error, require

CalibrationKind = Literal["platt", "isotonic", "none"]


@dataclass(frozen=True)
class Calibrator:
    """Maps scores to probabilities and never changes their order (it may tie some)."""

    kind: CalibrationKind
    slope: float = 1.0
    """Platt: the probability is sigmoid(slope * score + offset); `none` is a slope of 1 without offset."""
    offset: float = 0.0
    x: tuple[float, ...] = ()
    """Isotonic: scores between which is interpolated."""
    y: tuple[float, ...] = ()
    """Their probabilities."""
    reason: str = ""
    """Why nothing was fitted, where something was asked for."""

    def __call__(self, scores: ArrayLike) -> np.ndarray:
        """Return the probabilities of scores (logits of the positive label)."""
        values = np.asarray(scores, dtype=float)
        if self.kind == "isotonic":
            return np.interp(values, self.x, self.y)
        return _sigmoid(self.slope * values + self.offset)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**asdict(self), "x": list(self.x), "y": list(self.y)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Calibrator:
        """Return what `to_dict` wrote."""
        return cls(**{**values, "x": tuple(values["x"]), "y": tuple(values["y"])})


@dataclass(frozen=True)
class Bin:
    """Rows whose probability lies in one interval."""

    low: float
    high: float
    count: int
    probability: float
    """Mean predicted probability."""
    share: float
    """Share that is positive."""


def fit_calibrator(scores: ArrayLike, labels: ArrayLike, kind: CalibrationKind = "platt") -> Calibrator:
    """Fit the map from scores to probabilities.

    Platt (1999): sigmoid(a s + b) with his smoothed targets (N+ + 1) / (N+ + 2) and 1 / (N- + 2), so that separable
    scores get finite parameters; a slope below 0, which would turn the order round, is 0. Isotonic: the best
    non-decreasing step function (scikit-learn), linear between its steps.

    Args:
        scores: logits of the positive label [n], of rows that no detector learnt from.
        labels: 1 for positive, 0 for negative [n].
        kind: `platt`, `isotonic` or `none`.

    Returns:
        The calibrator; with no rows, or labels of one class, that of kind `none` with the reason.

    Raises:
        UserError: an unknown kind.
    """
    if kind not in get_args(CalibrationKind):
        raise choice_error("calibration", kind, get_args(CalibrationKind))
    score, label = np.asarray(scores, dtype=float), np.asarray(labels, dtype=float)
    if kind == "none":
        return Calibrator("none")
    if len(set(label.tolist())) < 2:
        found = "no rows" if not len(label) else f"only rows of label {label[0]:g}"
        return Calibrator("none", reason=f"not calibrated: there are {found} to fit {kind} on")
    if kind == "platt":
        slope, offset = _platt(score, label)
        return Calibrator("platt", slope, offset)
    isotonic = require("sklearn.isotonic", "evaluation").IsotonicRegression(y_min=0.0, y_max=1.0)
    isotonic.fit(score, label)
    return Calibrator("isotonic", x=tuple(isotonic.X_thresholds_.tolist()), y=tuple(isotonic.y_thresholds_.tolist()))


def reliability(probabilities: ArrayLike, labels: ArrayLike, *, bins: int = 10) -> list[Bin]:
    """Return the reliability table: rows by predicted probability, in bins of equal width; empty ones are left out.

    Raises:
        UserError: a probability outside [0, 1], or another number of labels.
    """
    p, label = np.asarray(probabilities, dtype=float), np.asarray(labels, dtype=float)
    if p.shape != label.shape or not ((p >= 0) & (p <= 1)).all():
        raise UserError(f"{p.size} probabilities for {label.size} labels: expected one each, between 0 and 1")
    place = np.minimum((p * bins).astype(int), bins - 1)
    found = []
    for number in sorted(set(place.tolist())):
        inside = place == number
        means = float(p[inside].mean()), float(label[inside].mean())
        found.append(Bin(number / bins, (number + 1) / bins, int(inside.sum()), *means))
    return found


def calibration_error(table: Sequence[Bin]) -> float:
    """Return the expected calibration error (Guo et al. 2017, equation 3): the mean distance, weighted by rows.

    Raises:
        UserError: an empty table.
    """
    total = sum(one.count for one in table)
    if not total:
        raise UserError("the reliability table is empty: expected at least one row")
    return math.fsum(one.count * abs(one.probability - one.share) for one in table) / total


def _platt(score: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """Minimise the cross-entropy with smoothed targets by Newton's method, halving steps that do not descend."""
    positive, count = label.sum(), len(label)
    target = np.where(label > 0, (positive + 1) / (positive + 2), 1 / (count - positive + 2))
    scale = score.std() or 1.0
    middle = score.mean()
    z = np.stack([(score - middle) / scale, np.ones(count)], axis=1)
    weights = np.array([0.0, math.log(target.mean() / (1 - target.mean()))])

    def loss(w: np.ndarray) -> float:
        logits = z @ w
        return float(np.mean(np.logaddexp(0, logits) - target * logits))

    for _ in range(100):
        p = _sigmoid(z @ weights)
        gradient = z.T @ (p - target) / count
        hessian = (z * (p * (1 - p))[:, None]).T @ z / count + 1e-12 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while loss(weights - size * step) > loss(weights) and size > 1e-9:
            size /= 2
        weights = weights - size * step
        if np.abs(step).max() < 1e-10:
            break
    if weights[0] <= 0:
        return 0.0, math.log(target.mean() / (1 - target.mean()))
    return float(weights[0] / scale), float(weights[1] - weights[0] * middle / scale)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -values))
