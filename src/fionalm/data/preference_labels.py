"""Soft preference labels: from rewards, from votes, and re-samplings that change how sure the labels are.

A label is p = P(chosen preferred to rejected); its confidence is max(p, 1 - p), from 1/2 (equal) to 1 (sure). Data
whose labels are mostly modest is where soft labels matter most: `skewed` and `stairs` draw such data from any other, in
the manner of Furuta et al. 2024, section 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

from fionalm.errors import UserError

CONFIDENCE_BINS = 5


def bradley_terry(chosen_reward: float, rejected_reward: float, scale: float = 1.0) -> float:
    """Return P(chosen preferred) = sigmoid(scale (chosen_reward - rejected_reward)) (Bradley and Terry 1952).

    Raises:
        UserError: a reward that is not finite.
    """
    difference = scale * (chosen_reward - rejected_reward)
    if not math.isfinite(difference):
        raise UserError(f"rewards {chosen_reward} and {rejected_reward}: expected finite numbers")
    if difference >= 0:
        return 1 / (1 + math.exp(-difference))
    grown = math.exp(difference)
    return grown / (1 + grown)


def vote_share(votes_chosen: float, votes_rejected: float, prior: float = 0.0) -> float:
    """Return the share of votes for chosen, after `prior` votes were added to each side.

    Raises:
        UserError: negative votes, or none at all.
    """
    if min(votes_chosen, votes_rejected, prior) < 0 or not votes_chosen + votes_rejected + prior > 0:
        raise UserError(
            f"{votes_chosen:g} votes for chosen and {votes_rejected:g} for rejected: expected at least one in all"
        )
    return (votes_chosen + prior) / (votes_chosen + votes_rejected + 2 * prior)


def label_histogram(labels: Sequence[float], bins: int = 10) -> list[int]:
    """Return how many labels fall into each of `bins` equal parts of [0, 1]; the last includes 1.

    Raises:
        UserError: a label outside [0, 1] or NaN (its row is named).
    """
    counts = [0] * bins
    for row, label in enumerate(labels, 1):
        if not 0 <= label <= 1:
            raise UserError(f"the soft label of row {row} is {label}: expected a probability in [0, 1]")
        counts[min(int(label * bins), bins - 1)] += 1
    return counts


def skewed(labels: Sequence[float], size: int, *, seed: int = 0, bins: int = CONFIDENCE_BINS) -> list[int]:
    """Return rows whose confidence is mostly modest: each of the bins of [1/2, 1] holds half as many as the one before.

    Rows are drawn without replacement and returned in ascending order. Where a bin has too few, all bins shrink by the
    same factor: the shape is kept, and fewer than `size` rows come back.

    Raises:
        UserError: a label that is no probability, a size below 1, or data without a modest label.
    """
    return _draw(labels, [2.0**-index for index in range(bins)], size, seed)


def stairs(labels: Sequence[float], size: int, *, seed: int = 0, bins: int = CONFIDENCE_BINS) -> list[int]:
    """Return rows whose confidence falls in equal steps from 1/2 to 1; otherwise as `skewed`."""
    return _draw(labels, [float(bins - index) for index in range(bins)], size, seed)


def _draw(labels: Sequence[float], shape: Sequence[float], size: int, seed: int) -> list[int]:
    label_histogram(labels)
    if size < 1:
        raise UserError(f"a re-sampling of {size} rows: expected at least 1")
    bins: list[list[int]] = [[] for _ in shape]
    for row, label in enumerate(labels):
        confidence = max(label, 1 - label)
        bins[min(int((confidence - 0.5) * 2 * len(shape)), len(shape) - 1)].append(row)
    total = sum(shape)
    factor = min(1.0, *(len(rows) / (size * part / total) for rows, part in zip(bins, shape, strict=True)))
    wanted = [int(factor * size * part / total + 1e-9) for part in shape]
    if not sum(wanted):
        counts = ", ".join(str(len(rows)) for rows in bins)
        raise UserError(
            f"labels cannot be re-sampled: {counts} rows have confidences from 0.5 to 1 in {len(shape)} equal parts, "
            "expected some in each"
        )
    generator = Random(seed)
    return sorted(row for rows, count in zip(bins, wanted, strict=True) for row in generator.sample(rows, count))
