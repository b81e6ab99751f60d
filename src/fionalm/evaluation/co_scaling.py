"""How the best temperature grows with the number of samples: pass@N over temperatures, and its fit.

Chow et al. 2024 (arXiv 2412.15287, section 2) find pass@N at temperature T to be about exp(a(T) N^b(T)), with a and b
negative. On logarithms, log(-log pass@N) = log(-a) + b log N: a straight line for each temperature.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fionalm.errors import UserError
from fionalm.evaluation.at_k import pass_at_k
from fionalm.sampling.records import SampleRecord
from fionalm.statistics import Interval, bootstrap


@dataclass(frozen=True)
class CoScaling:
    """pass@N of every temperature and N, over the problems that all temperatures have."""

    temperatures: tuple[float, ...]
    ns: tuple[int, ...]
    problems: int
    grid: list[list[Interval]]
    """[temperatures][ns]."""
    a: list[Interval]
    """Of each temperature's fit; NaN where fewer than two of its values lie strictly between 0 and 1."""
    b: list[Interval]
    error: list[float]
    """Largest distance of each fit from the values it was fitted to."""
    best: list[Interval]
    """The temperature with the highest pass@N, for each N; its interval is of resampled problems."""

    def fitted(self, temperature: int, n: float) -> float:
        """Return exp(a N^b) of the temperature with this index."""
        return math.exp(self.a[temperature].estimate * n ** self.b[temperature].estimate)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; intervals as [estimate, low, high]."""
        return {
            "temperatures": list(self.temperatures),
            "ns": list(self.ns),
            "problems": self.problems,
            "pass": [[_listed(one) for one in row] for row in self.grid],
            "a": [_listed(one) for one in self.a],
            "b": [_listed(one) for one in self.b],
            "error": self.error,
            "best_temperature": [_listed(one) for one in self.best],
        }


def co_scaling(
    records: Iterable[SampleRecord],
    ns: Sequence[int] = (),
    *,
    right: float = 1.0,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> CoScaling:
    """Return the grid of pass@N and its fits.

    Args:
        records: judged samples of one policy at several temperatures.
        ns: samples at inference; empty: powers of two up to what every problem has at every temperature.
        right: least reward of a right sample.
        level: of the intervals, bootstrapped over problems (the same for all temperatures).
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        UserError: fewer than two temperatures, no problem that all of them have, or an N above the samples there are.
    """
    counts: dict[float, dict[str, list[int]]] = {}  # [temperature][problem]: samples, right ones
    for record in records:
        if record.reward is not None and not math.isnan(record.reward):
            tally = counts.setdefault(record.temperature, {}).setdefault(record.problem, [0, 0])
            tally[0] += 1
            tally[1] += record.reward >= right
    temperatures = tuple(sorted(counts))
    if len(temperatures) < 2:
        raise UserError(
            f"judged samples at {len(temperatures)} temperatures: expected two or more in one file, as from fiona "
            "sample --temperatures 0.6 0.8 1.0"
        )
    shared = [name for name in counts[temperatures[0]] if all(name in counts[one] for one in temperatures)]
    if not shared:
        raise UserError("no problem has judged samples at every temperature: expected the same problems at each")
    tallies = np.array([[counts[one][name] for name in shared] for one in temperatures])  # [temperatures, problems, 2]
    fewest = int(tallies[..., 0].min())
    ns = tuple(sorted(set(ns))) or tuple(2**power for power in range(fewest.bit_length()))
    if ns[-1] > fewest:
        raise UserError(f"N {ns[-1]} with {fewest} judged samples of some problem: expected N up to {fewest}")
    # [problems, temperatures, ns]: problems are what is resampled.
    values = np.stack([pass_at_k(tallies[..., 0], tallies[..., 1], n) for n in ns], -1).transpose(1, 0, 2)
    options: dict[str, Any] = {"level": level, "resamples": resamples, "seed": seed}
    chances: dict[str, Any] = {**options, "bounds": (0.0, 1.0)}
    grid = [[bootstrap(np.mean, values[:, t, n], **chances) for n in range(len(ns))] for t in range(len(temperatures))]
    a, b, error = [], [], []
    for index in range(len(temperatures)):
        one = values[:, index]
        a.append(bootstrap(lambda v: fit(ns, v.mean(0))[0], one, **options, bounds=(-math.inf, 0)))
        b.append(bootstrap(lambda v: fit(ns, v.mean(0))[1], one, **options))
        error.append(_largest_error(ns, one.mean(0)))
    ends = (temperatures[0], temperatures[-1])
    best = [
        bootstrap(lambda v: temperatures[int(v.mean(0).argmax())], values[:, :, n], **options, bounds=ends)
        for n in range(len(ns))
    ]
    return CoScaling(temperatures, ns, len(shared), grid, a, b, error, best)


def fit(ns: Sequence[int], passed: np.ndarray) -> tuple[float, float]:
    """Return a and b of exp(a N^b) by least squares on log(-log pass@N); values of 0 and 1 have no logarithm.

    Args:
        ns: N of each value.
        passed: pass@N [ns].

    Returns:
        a (negative) and b; NaN where fewer than two values can be used.
    """
    inside = (passed > 0) & (passed < 1)
    if inside.sum() < 2:
        return math.nan, math.nan
    x, y = np.log(np.asarray(ns, dtype=float)[inside]), np.log(-np.log(passed[inside]))
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    return -math.exp(float(y.mean() - slope * x.mean())), slope


def _largest_error(ns: Sequence[int], passed: np.ndarray) -> float:
    a, b = fit(ns, passed)
    return float(np.abs(np.exp(a * np.asarray(ns, dtype=float) ** b) - passed).max())


def _listed(interval: Interval) -> list[float]:
    return [interval.estimate, interval.low, interval.high]
