"""The trials of `best-of-n` as arrays over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fionalm.evaluation import pass_at_k
from fionalm.statistics import Interval, student_t_quantile
from fionalm.studies.best_of_n.runs import BASE, RL, BestOfNStudyConfig, Key

Result = dict[str, Any] | None
CURVE_NS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Results:
    """Every trial's result; None where one crashed. A base model's key is (BASE, 0, seed)."""

    config: BestOfNStudyConfig
    by_key: Mapping[Key, Result]

    def per_seed(self, method: str, n: int, value: Callable[[dict[str, Any]], float]) -> np.ndarray:
        """Return a value of an arm [seed]; NaN where its trial crashed."""
        found = [self.by_key.get((method, n, seed)) for seed in range(self.config.seeds)]
        return np.array([math.nan if result is None else value(result) for result in found])

    def passed(self, method: str, trained_n: int, n: int) -> np.ndarray:
        """Return an arm's pass@n on the test problems [seed]."""
        samples = self.config.test_samples
        return self.per_seed(method, trained_n, lambda r: float(np.mean(pass_at_k(samples, np.array(r["right"]), n))))

    def best_of(self, method: str, trained_n: int, n: int) -> np.ndarray:
        """Return an arm's accuracy with the learned verifier choosing among n samples [seed]."""
        return self.per_seed(method, trained_n, lambda r: r["best_of"][str(n)])

    def matrix(self, method: str) -> np.ndarray:
        """Return pass@N of a method trained for N' [seed, N', N]; N' = 1 is REINFORCE."""
        ns = self.config.ns
        rows = [[self.passed(RL if trained == 1 else method, trained, n) for n in ns] for trained in ns]
        return np.array(rows).transpose(2, 0, 1)

    def grid(self, ns: Sequence[int]) -> np.ndarray:
        """Return the base models' pass@N over temperatures, problem by problem [seed, T, problem, N]."""
        config = self.config
        shape = (len(config.temperatures), config.grid_problems, len(ns))
        found = []
        for seed in range(config.seeds):
            result = self.by_key.get((BASE, 0, seed))
            counts = None if result is None else np.array(result["grid"])
            found.append(
                np.full(shape, math.nan)
                if counts is None
                else np.stack([pass_at_k(config.grid_samples, counts, n) for n in ns], -1)
            )
        return np.array(found)

    def easier_half(self) -> np.ndarray:
        """Return which of the grid's problems are the easier half [seed, problem], by other samples of them."""
        count = self.config.grid_problems
        found = np.zeros((self.config.seeds, count), dtype=bool)
        for seed in range(self.config.seeds):
            result = self.by_key.get((BASE, 0, seed))
            order = np.arange(count) if result is None else np.argsort(result["right"][:count], kind="stable")
            found[seed, order[(count + 1) // 2 :]] = True
        return found

    @property
    def curve_ns(self) -> list[int]:
        """N of pass@N curves, up to the test samples."""
        return [n for n in CURVE_NS if n <= self.config.test_samples]

    @property
    def grid_ns(self) -> list[int]:
        """N of the grid over temperatures."""
        return [n for n in CURVE_NS if n <= self.config.grid_samples]


def mean(values: np.ndarray) -> Interval:
    """Return the mean of what is known, with Student's interval, for figures and tables; claims are bootstrapped."""
    known = values[np.isfinite(values)]
    if len(known) < 2:
        return Interval(float(known.mean()) if len(known) else math.nan, math.nan, math.nan)
    middle = float(known.mean())
    reach = student_t_quantile(0.975, len(known) - 1) * float(known.std(ddof=1)) / math.sqrt(len(known))
    return Interval(middle, middle - reach, middle + reach)


def best_temperatures(curves: np.ndarray, temperatures: Sequence[float]) -> np.ndarray:
    """Return the temperature with the highest pass@N of each column of `curves` [T, ...]."""
    return np.array(temperatures)[curves.argmax(0)]
