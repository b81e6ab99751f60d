"""How well scores tell hallucinated answers from right ones: AUC-PR, AUC-ROC, base rate, calibration, intervals.

The positive label, 1, is "hallucinated" and a high score says so; every output states this. AUC-PR (average precision)
of a detector that knows nothing is the base rate, its AUC-ROC 1/2: neither area means much without the rate beside it.
An area of labels of one class is undefined; it is None, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fionalm.errors import UserError, require
from fionalm.evaluation.calibration import Bin, calibration_error, reliability
from fionalm.statistics import bootstrap

POSITIVE = "hallucinated"
DIRECTION = "label 1 and high scores: hallucinated; label 0 and low scores: right"
CLASSES = ("right", "hallucinated")


@dataclass(frozen=True)
class Measure:
    """A number with its interval, or why there is none."""

    estimate: float | None
    low: float | None = None
    """End of the bootstrap interval; None: undefined, or too few groups to say."""
    high: float | None = None
    undefined: str | None = None
    """Why there is no estimate."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Detection:
    """How well one detector does on one split."""

    split: str
    rows: int
    hallucinated: int
    """Rows with label 1."""
    groups: int
    """Units that intervals are bootstrapped over."""
    base_rate: Measure
    """Share of hallucinated rows, which is also the AUC-PR of guessing."""
    auc_pr: Measure
    """Area under precision against recall, as average precision."""
    auc_roc: Measure
    """Chance that a hallucinated row scores above a right one, ties half."""
    ece: float | None = None
    """Expected calibration error; None: the scores are no probabilities."""
    brier: float | None = None
    """Mean squared distance of probability and label."""
    reliability: Sequence[Bin] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, the direction of labels and scores among them."""
        return {"positive": POSITIVE, "direction": DIRECTION, **asdict(self)}


@dataclass(frozen=True)
class Comparison:
    """What the first detector has over the second, paired over the same rows."""

    auc_pr: Measure
    auc_roc: Measure

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"positive": POSITIVE, **asdict(self)}


def evaluate_detection(
    scores: ArrayLike,
    labels: Sequence[Any] | np.ndarray,
    *,
    groups: Sequence[Hashable] | None = None,
    probabilities: ArrayLike | None = None,
    split: str = "test",
    bins: int = 10,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Detection:
    """Return the areas, the base rate and the calibration of a detector's scores.

    Args:
        scores: one a row, high for hallucinated [n].
        labels: 1 or True for hallucinated, 0 or False for right [n].
        groups: which rows are resampled together, such as subjects; None: each row by itself.
        probabilities: calibrated ones [n]; None: no calibration is measured.
        split: its name, for messages.
        bins: of the reliability table.
        level: of the bootstrap intervals.
        resamples: of the bootstrap; 0: no intervals.
        seed: of the bootstrap.

    Raises:
        UserError: no rows, scores or labels that are no numbers (the row is named), lists of unequal length.
    """
    score, label = checked_scores(scores, len(labels), split), checked_labels(labels, split)
    units = _units(groups, len(label))
    how = {"level": level, "resamples": resamples, "seed": seed}
    reason = single_class(label, split)
    found: dict[str, Measure] = {}
    for name, area in AREAS.items():
        if reason is not None:
            found[name] = Measure(None, undefined=f"{_SHOWN[name]} is undefined: {reason}")
            continue
        weighted = _weighted(area, score, label)
        found[name] = _measure(_exact(name, score, label), weighted, units, **how)
    probability = None if probabilities is None else np.asarray(probabilities, dtype=float)
    table = [] if probability is None else reliability(probability, label, bins=bins)
    return Detection(
        split,
        len(label),
        int(label.sum()),
        int(units.max()) + 1,
        base_rate=_measure(float(label.mean()), lambda weights: float(weights @ label / weights.sum()), units, **how),
        ece=calibration_error(table) if table else None,
        brier=None if probability is None else float(np.mean((probability - label) ** 2)),
        reliability=table,
        **found,
    )


def compare_detectors(
    first: ArrayLike,
    second: ArrayLike,
    labels: Sequence[Any] | np.ndarray,
    *,
    groups: Sequence[Hashable] | None = None,
    split: str = "test",
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Return the areas of `first` less those of `second`, whose intervals resample the same groups for both.

    Raises:
        UserError: as `evaluate_detection`.
    """
    one, two = (checked_scores(scores, len(labels), split) for scores in (first, second))
    label = checked_labels(labels, split)
    units, reason = _units(groups, len(label)), single_class(label, split)
    found: dict[str, Measure] = {}
    for name, area in AREAS.items():
        if reason is not None:
            found[name] = Measure(None, undefined=f"the difference of {_SHOWN[name]} is undefined: {reason}")
            continue
        left, right = _weighted(area, one, label), _weighted(area, two, label)
        estimate = _exact(name, one, label) - _exact(name, two, label)

        def difference(weights: np.ndarray, left: Any = left, right: Any = right) -> float:
            return left(weights) - right(weights)

        found[name] = _measure(
            estimate, difference, units, level=level, resamples=resamples, seed=seed, bounds=(-1.0, 1.0)
        )
    return Comparison(**found)


def length_direction(lengths: ArrayLike, labels: ArrayLike) -> int:
    """Return 1 if hallucinated answers are the longer ones on average, else -1: fitted on rows for training.

    The length baseline's score is this times an answer's length.
    """
    length, label = np.asarray(lengths, dtype=float), np.asarray(labels, dtype=float)
    if not 0 < label.sum() < len(label):
        return 1
    return 1 if length[label > 0].mean() >= length[label == 0].mean() else -1


def weighted_average_precision(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """Return average precision, sum over thresholds of (R_i - R_(i-1)) P_i, of weighted rows; NaN for one class.

    Rows of equal score share a threshold, as in scikit-learn.
    """
    return _weighted(_average_precision, np.asarray(scores, dtype=float), np.asarray(labels, dtype=float))(weights)


def weighted_auc_roc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """Return the weighted share of ordered pairs of a positive and a negative, ties half; NaN for one class."""
    return _weighted(_auc_roc, np.asarray(scores, dtype=float), np.asarray(labels, dtype=float))(weights)


def single_class(labels: np.ndarray, split: str) -> str | None:
    """Return the sentence that says which class alone a split holds; None: both are there."""
    positives = int(np.sum(labels))
    if 0 < positives < len(labels):
        return None
    return (
        f"the split {split!r} holds {CLASSES[bool(positives)]} rows alone ({len(labels):,} of label "
        f"{int(bool(positives))}): expected both classes"
    )


def checked_labels(labels: Sequence[Any] | np.ndarray, split: str = "test") -> np.ndarray:
    """Return labels as numbers 0 and 1 [n].

    Raises:
        UserError: no rows, or one that is neither; the row is named.
    """
    if not len(labels):
        raise UserError(f"the split {split!r} has no rows: expected at least one")
    found = np.empty(len(labels))
    for number, value in enumerate(labels, 1):
        try:
            found[number - 1] = float(value)
        except (TypeError, ValueError):
            found[number - 1] = math.nan
        if found[number - 1] not in (0.0, 1.0):
            raise UserError(
                f"row {number} of the split {split!r}: the label was {value!r}: expected 1 (hallucinated) or 0 (right)"
            )
    return found


def checked_scores(scores: ArrayLike, count: int, split: str = "test") -> np.ndarray:
    """Return scores as finite numbers [n].

    Raises:
        UserError: another number than `count`, or a score that is not finite; the row is named.
    """
    found = np.asarray(scores, dtype=float)
    if found.shape != (count,):
        raise UserError(f"{found.size} scores for {count} labels of the split {split!r}: expected one each")
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found))[0])
        raise UserError(f"row {row + 1} of the split {split!r}: the score was {found[row]}: expected a finite number")
    return found


Area = Callable[[np.ndarray, np.ndarray], float]


def _average_precision(above: np.ndarray, below: np.ndarray) -> float:
    """Area from the weight of positives and negatives at each threshold, from the highest."""
    positive, all_rows = above.cumsum(), (above + below).cumsum()
    precision = np.divide(positive, all_rows, out=np.zeros_like(positive), where=all_rows > 0)
    return float(above @ precision / positive[-1])


def _auc_roc(above: np.ndarray, below: np.ndarray) -> float:
    lower = below.sum() - below.cumsum()
    return float(above @ (lower + below / 2) / (above.sum() * below.sum()))


AREAS: dict[str, Area] = {"auc_pr": _average_precision, "auc_roc": _auc_roc}
_SHOWN = {"auc_pr": "AUC-PR", "auc_roc": "AUC-ROC"}


def _weighted(area: Area, scores: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], float]:
    """Return the area as a function of the rows' weights; the rows are sorted once for all resamples."""
    _, threshold = np.unique(-scores, return_inverse=True)
    count = int(threshold.max()) + 1

    def of(weights: np.ndarray) -> float:
        above = np.bincount(threshold, weights=weights * labels, minlength=count)
        below = np.bincount(threshold, weights=weights * (1 - labels), minlength=count)
        return area(above, below) if above.sum() > 0 and below.sum() > 0 else math.nan

    return of


def _exact(name: str, scores: np.ndarray, labels: np.ndarray) -> float:
    metrics = require("sklearn.metrics", "evaluation")
    function = metrics.average_precision_score if name == "auc_pr" else metrics.roc_auc_score
    return float(function(labels, scores))


def _measure(
    estimate: float,
    weighted: Callable[[np.ndarray], float],
    units: np.ndarray,
    *,
    level: float,
    resamples: int,
    seed: int,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Measure:
    """Return an estimate with the bootstrap interval of a function of the rows' weights."""
    count = int(units.max()) + 1
    if not resamples:
        return Measure(estimate)

    def statistic(drawn: np.ndarray) -> float:
        return weighted(np.bincount(drawn, minlength=count)[units].astype(float))

    found = bootstrap(statistic, np.arange(count), level=level, resamples=resamples, seed=seed, bounds=bounds)
    known = math.isfinite(found.low) and math.isfinite(found.high)
    return Measure(estimate, found.low, found.high) if known else Measure(estimate)


def _units(groups: Sequence[Hashable] | None, count: int) -> np.ndarray:
    """Return the number of each row's group, from 0 [n]."""
    if groups is None:
        return np.arange(count)
    if len(groups) != count:
        raise UserError(f"{len(groups)} groups for {count} labels: expected one each")
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups])
