"""The same prompts answered twice, before and after something: accuracies, their change, and who changed sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fionalm.errors import UserError
from fionalm.redteam.answers import Outcome
from fionalm.statistics import Interval, bootstrap, wilson

Standing = Literal["rose", "held", "fell", "not decided"]


@dataclass(frozen=True)
class PairedAccuracy:
    """Shares of right answers to the same prompts, before and after."""

    before: Interval
    """Wilson's, at 95%."""
    after: Interval
    change: Interval
    """After less before; resampled over problems, for prompts of one problem are right or wrong together. Where all
    problems changed alike there is no spread to resample: then it is as wide as Wilson's of no other among so many."""
    prompts: int
    right_to_wrong: int
    """Prompts that were answered rightly before, and are not after."""
    wrong_to_right: int

    def standing(self, tolerance: float) -> Standing:
        """Say what the change's interval shows, up to a fall that counts as none."""
        return standing(self.change, tolerance)


def paired_accuracy(before: Sequence[Outcome], after: Sequence[Outcome], problems: Sequence[str]) -> PairedAccuracy:
    """Return the accuracies of prompts that were answered twice; whatever is not `right` counts as wrong.

    Args:
        before: outcomes [prompts].
        after: outcomes of the same prompts, in the same order.
        problems: the problem that each prompt asks.

    Raises:
        UserError: no prompts, or not as many of each.
    """
    if not before or not len(before) == len(after) == len(problems):
        raise UserError(
            f"{len(before)} outcomes before, {len(after)} after, {len(problems)} problems: expected as many of each"
        )
    first, second = (np.array([outcome == "right" for outcome in outcomes]) for outcomes in (before, after))
    difference = second.astype(float) - first
    places: dict[str, list[int]] = {}
    for place, problem in enumerate(problems):
        places.setdefault(problem, []).append(place)
    sums = np.array([difference[index].sum() for index in places.values()])
    counts = np.array([len(index) for index in places.values()], dtype=float)

    def mean(total: np.ndarray, count: np.ndarray) -> float:
        return float(total.sum() / count.sum())

    change = bootstrap(mean, sums, counts, paired=True, bounds=(-1.0, 1.0))
    if np.ptp(sums / counts) == 0:
        other = wilson(0, len(counts)).high
        change = Interval(change.estimate, max(change.estimate - other, -1.0), min(change.estimate + other, 1.0))
    return PairedAccuracy(
        before=wilson(int(first.sum()), len(first)),
        after=wilson(int(second.sum()), len(second)),
        change=change,
        prompts=len(first),
        right_to_wrong=int((first & ~second).sum()),
        wrong_to_right=int((second & ~first).sum()),
    )


def standing(change: Interval, tolerance: float) -> Standing:
    """Say what the interval of a change shows, where more is better: `held` is no fall beyond the tolerance."""
    if change.low > 0:
        return "rose"
    if change.high < 0 and change.estimate < -tolerance:
        return "fell"
    return "held" if change.low >= -tolerance else "not decided"
