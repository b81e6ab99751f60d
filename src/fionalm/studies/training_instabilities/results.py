"""The runs of `training-instabilities` as arrays: losses, sensitivities, and what the probes saw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fionalm.scaling import lr_sensitivity
from fionalm.studies.study import final_loss
from fionalm.studies.training_instabilities.runs import Arm, Key, TrainingInstabilitiesConfig

KEPT_IMPROVEMENT = 0.5
"""A run trains if it keeps this share of the best improvement over the loss at initialisation."""
RISE = 0.05
"""A loss rises if it ends above its minimum by this share of the best improvement."""


@dataclass(frozen=True)
class Results:
    """Every run's `TrainResult` as a dict, by (arm, width, seed, learning rate); None where one crashed."""

    config: TrainingInstabilitiesConfig
    by_key: Mapping[Key, dict[str, Any] | None]

    def losses(self, arm: Arm, width: int) -> np.ndarray:
        """Return final losses `[seed, lr]`, capped at the loss at initialisation."""
        return np.array(
            [[final_loss(self.by_key[arm.name, width, seed, lr]) for lr in self.config.lrs] for seed in self.seeds]
        )

    @property
    def seeds(self) -> range:
        """The seeds' numbers."""
        return range(self.config.seeds)

    def initial_loss(self, arm: Arm, width: int) -> float:
        """Return the mean loss at initialisation; NaN if no run has one."""
        found = [
            result["initial_loss"]
            for seed in self.seeds
            for lr in self.config.lrs
            if (result := self.by_key[arm.name, width, seed, lr]) and result["initial_loss"] is not None
        ]
        return float(np.mean(found)) if found else math.nan

    def sensitivities(self, arm: Arm, width: int) -> np.ndarray:
        """Return the learning-rate sensitivity of each seed, `[seed]`."""
        initial = self.initial_loss(arm, width)
        return np.array([lr_sensitivity(self.config.lrs, list(row), initial) for row in self.losses(arm, width)])

    def largest_trained_lr(self, arm: Arm, others: Sequence[Arm], width: int) -> np.ndarray:
        """Return each seed's largest learning rate that trains, `[seed]`; the best loss is over `others` too."""
        best = min(np.nanmin(self.losses(other, width)) for other in (arm, *others))
        initial = self.initial_loss(arm, width)
        bound = initial - KEPT_IMPROVEMENT * (initial - best)
        lrs = np.array(self.config.lrs)
        return np.array([lrs[row <= bound].max(initial=lrs[0]) for row in self.losses(arm, width)])

    def series(self, arm: Arm, width: int, seed: int, lr: float, metric: str) -> dict[int, float]:
        """Return a metric of one run by step; infinite where the run's value was not finite."""
        result = self.by_key[arm.name, width, seed, lr] or {}
        rows = [row for row in result.get("metrics", ()) if metric in row]
        return {row["step"]: math.inf if row[metric] is None else row[metric] for row in rows}

    def final(self, arm: Arm, width: int, metric: str) -> np.ndarray:
        """Return the last finite value of a metric, `[seed, lr]`; NaN where there is none."""

        def last(seed: int, lr: float) -> float:
            values = [v for v in self.series(arm, width, seed, lr, metric).values() if math.isfinite(v)]
            return values[-1] if values else math.nan

        return np.array([[last(seed, lr) for lr in self.config.lrs] for seed in self.seeds])

    def highest(self, arm: Arm, width: int, metric: str) -> np.ndarray:
        """Return the largest finite value of a metric over training, `[seed, lr]`; NaN where there is none."""

        def top(seed: int, lr: float) -> float:
            values = [v for v in self.series(arm, width, seed, lr, metric).values() if math.isfinite(v)]
            return max(values, default=math.nan)

        return np.array([[top(seed, lr) for lr in self.config.lrs] for seed in self.seeds])

    def rising_runs(self, arm: Arm, metric: str) -> list[tuple[int, float, float, float]]:
        """Return (width, lr, value, reference value) of each run whose loss falls and then rises by `RISE`.

        The value is that of `metric` at the measured step at or before the lowest smoothed loss; the reference is
        the run with the lowest final loss at the same width and seed, at the same step.
        """
        found = []
        for width in self.config.widths:
            losses = self.losses(arm, width)
            improvement = self.initial_loss(arm, width) - np.nanmin(losses)
            for seed in self.seeds:
                best_lr = self.config.lrs[int(np.nanargmin(losses[seed]))]
                reference = self.series(arm, width, seed, best_lr, metric)
                for lr in self.config.lrs:
                    result = self.by_key[arm.name, width, seed, lr]
                    step = None if result is None or lr <= best_lr else _minimum_before_rise(result, RISE * improvement)
                    series = self.series(arm, width, seed, lr, metric)
                    before = [s for s in series if step is not None and s <= step and s in reference]
                    if before and math.isfinite(series[before[-1]]):
                        found.append((width, lr, series[before[-1]], reference[before[-1]]))
        return found


def _minimum_before_rise(result: Mapping[str, Any], rise: float) -> int | None:
    steps = [step for step, _ in result["losses"]]
    losses = np.array([math.inf if loss is None else loss for _, loss in result["losses"]])
    if len(losses) < 4:
        return None
    smooth = np.array([np.median(losses[max(0, i - 1) : i + 2]) for i in range(len(losses))])
    lowest = int(np.argmin(smooth))
    return steps[lowest] if lowest > 0 and smooth[lowest:].max() > smooth[lowest] + rise else None
