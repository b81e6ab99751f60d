"""Win rates against a reference answer: binary and percentage, Wilcoxon signed-rank, intervals over prompts.

As Furuta et al. 2024 (arXiv 2409.06691, section 4) measure: the judge gives p = P(ours is better than the reference)
for each prompt in both orders of presentation. The binary rate counts the mean p above 1/2, the percentage averages it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fionalm.errors import UserError, require
from fionalm.statistics import Interval, bootstrap


@dataclass(frozen=True)
class WinRate:
    """How often, and how surely, one side is preferred."""

    pairs: int
    binary: Interval
    """Share of prompts won; a mean p of exactly 1/2 counts as half."""
    percentage: Interval
    """Mean p."""
    p_value: float
    """Two-sided Wilcoxon signed-rank test that p - 1/2 is symmetric about 0."""
    consistent: float | None
    """Share of prompts on which both orders name the same winner; None: not judged in both orders."""
    shown_first: float | None
    """Mean of p where ours stood first, minus that where it stood second: the judge's liking for the first place."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def win_rate(preferences: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> WinRate:
    """Return the win rates of P(ours is better than the reference).

    Args:
        preferences: in [0, 1], [prompts], or [prompts, 2] with ours shown first and shown second.
        level: of the intervals, bootstrapped over prompts.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        UserError: no prompts, or values that are no probabilities.
        MissingExtraError: scipy is not installed (extra `evaluation`).
    """
    values = np.asarray(preferences, dtype=float)
    if not values.size or not (values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 2)):
        raise UserError(f"preferences of shape {values.shape}: expected [prompts], or [prompts, 2] for both orders")
    if not ((values >= 0) & (values <= 1)).all():
        wrong = int(np.argwhere(~((values >= 0) & (values <= 1)))[0][0])
        raise UserError(f"preference of prompt {wrong + 1} is {values[wrong]}: expected a probability in [0, 1]")
    mean = values if values.ndim == 1 else values.mean(1)
    won = (np.sign(mean - 0.5) + 1) / 2
    options: dict[str, Any] = {"level": level, "resamples": resamples, "seed": seed, "bounds": (0.0, 1.0)}
    both = values if values.ndim == 2 else None
    return WinRate(
        pairs=len(mean),
        binary=bootstrap(np.mean, won, **options),
        percentage=bootstrap(np.mean, mean, **options),
        p_value=wilcoxon(mean - 0.5),
        consistent=None if both is None else float((np.prod(both - 0.5, axis=1) > 0).mean()),
        shown_first=None if both is None else float((both[:, 0] - both[:, 1]).mean()),
    )


def wilcoxon(differences: Sequence[float] | np.ndarray) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test; differences of 0 are left out, 1.0 if all are.

    Raises:
        MissingExtraError: scipy is not installed (extra `evaluation`).
    """
    stats = require("scipy.stats", "evaluation")
    values = np.asarray(differences, dtype=float)
    values = values[values != 0]
    return float(stats.wilcoxon(values).pvalue) if len(values) else 1.0
