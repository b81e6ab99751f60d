"""What the trials of `best-of-n` say about its claims."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from fionalm.evaluation.co_scaling import fit
from fionalm.report import measure
from fionalm.report.claims import Measured
from fionalm.statistics import Interval, bootstrap
from fionalm.studies.best_of_n.claims import CLAIMS
from fionalm.studies.best_of_n.results import Results, best_temperatures
from fionalm.studies.best_of_n.runs import BASE, RL, SFT

BY_ID = {claim.id: claim for claim in CLAIMS}
BON = "bon-rlb-p"


def over_seeds(
    claim: str, values: np.ndarray, statistic: Callable[[np.ndarray], float] | None = None, detail: str = ""
) -> Measured:
    """Measure a claim on `values` [seed, ...], of which the seeds are left out that a crashed trial leaves unknown."""
    known = values[np.isfinite(values.reshape(len(values), -1)).all(1)]
    if not len(known):
        return measure(BY_ID[claim], Interval(math.nan, math.nan, math.nan), n=0, detail=detail)
    found = bootstrap(statistic or (lambda drawn: float(drawn.mean())), known)
    return measure(BY_ID[claim], found, n=len(known), detail=detail)


def baselines(results: Results) -> list[Measured]:
    """Measure what training for one sample does to pass@1 and pass@N (claim 1)."""
    n = results.config.largest_n
    found = []
    for method, name in ((RL, "rl"), (SFT, "sft")):
        for claim, k in ((f"{name}-raises-pass1", 1), (f"{name}-no-gain-at-32", n)):
            difference = results.passed(method, 1, k) - results.passed(BASE, 0, k)
            found.append(over_seeds(claim, difference, detail=_at(results, k)))
    return found


def aware(results: Results) -> list[Measured]:
    """Measure what BoN-aware training gains over the base and over RL, with and without a verifier (claims 2, 3)."""
    n = results.config.largest_n
    found = []
    for method in (BON, "bon-rl-s"):
        for against, key in (("base", (BASE, 0)), ("rl", (RL, 1))):
            difference = results.passed(method, n, n) - results.passed(*key, n)
            found.append(over_seeds(f"{method}-over-{against}", difference, detail=_at(results, n)))
    difference = results.best_of("bon-rl-v", n, n) - results.best_of(BASE, 0, n)
    found.append(over_seeds("bon-rl-v-raises-bo32", difference, detail=_at(results, n)))
    return found


def matching(results: Results) -> list[Measured]:
    """Measure whether the N that is trained for should be the N that is tested (claim 4)."""
    values = results.matrix(BON)
    return [
        over_seeds("matched-is-best", values, matched_margin),
        over_seeds("matched-beats-mismatched", values, matched_advantage),
    ]


def matched_margin(values: np.ndarray) -> float:
    """Return the lowest, over N, of pass@N with N' = N less the best of the other N'; `values` is [seed, N', N]."""
    means = values.mean(0)
    others = np.where(np.eye(len(means), dtype=bool), -math.inf, means)
    return float((np.diag(means) - others.max(0)).min())


def matched_advantage(values: np.ndarray) -> float:
    """Return the mean, over N, of pass@N with N' = N less the mean of the other N'; `values` is [seed, N', N]."""
    means = values.mean(0)
    matched = np.diag(means)
    return float((matched - (means.sum(0) - matched) / (len(means) - 1)).mean())


def exploration(results: Results) -> list[Measured]:
    """Measure entropy and distinct right solutions (claim 5), and where the gradient's weight lies (claim 7)."""
    n = results.config.largest_n
    found = []
    for claim, name in (("keeps-entropy", "entropy"), ("keeps-distinct-solutions", "distinct")):
        difference = results.per_seed(BON, n, lambda r, name=name: r[name])
        difference = difference - results.per_seed(RL, 1, lambda r, name=name: r[name])
        found.append(over_seeds(claim, difference, detail=_at(results, n)))
    difference = results.per_seed(BON, n, weighted_pass_rate_gap)
    found.append(over_seeds("weights-favour-hard-prompts", difference, detail=_at(results, n)))
    return found


def weighted_pass_rate_gap(result: dict) -> float:
    """Return the mean over steps of the pass rate weighted by the run's gradient weights less that by REINFORCE's."""
    gaps = [row["weighted_pass_rate"] - row["weighted_pass_rate_of_reinforce"] for row in result["rows"]]
    gaps = [gap for gap in gaps if math.isfinite(gap)]
    return float(np.mean(gaps)) if gaps else math.nan


def temperatures(results: Results) -> list[Measured]:
    """Measure how the base model's best temperature moves with N and difficulty, and the law's fit (claim 6)."""
    config, ns = results.config, results.grid_ns
    grid = results.grid(ns)  # [seed, T, problem, N]
    by_n = grid.mean(2)

    def slope(drawn: np.ndarray) -> float:
        best = best_temperatures(drawn.mean(0), config.temperatures)
        return float(np.polyfit(np.log2(ns), best, 1)[0])

    easy = results.easier_half()
    column = ns.index(config.largest_n) if config.largest_n in ns else -1
    halves = np.array(
        [
            [grid[seed, :, ~easy[seed], column].mean(0), grid[seed, :, easy[seed], column].mean(0)]
            for seed in range(config.seeds)
        ]
    )  # fmt: skip [seed, half, T]

    def gap(drawn: np.ndarray) -> float:
        hard, simple = best_temperatures(drawn.mean(0).T, config.temperatures)
        return float(hard - simple)

    errors = np.array([fit_error(ns, by_n[seed]) for seed in range(config.seeds)])
    return [
        over_seeds("best-temperature-rises-with-n", by_n, slope),
        over_seeds("best-temperature-rises-with-difficulty", halves, gap),
        over_seeds("co-scaling-fits", errors),
    ]


def fit_error(ns: list[int], passed: np.ndarray) -> float:
    """Return the root mean square error of exp(a(T) N^b(T)) on `passed` [T, N]; NaN where nothing can be fitted."""
    errors = []
    for row in passed:
        a, b = fit(ns, row)
        if math.isfinite(a):
            errors.append(np.square(np.exp(a * np.array(ns, dtype=float) ** b) - row))
    return float(np.sqrt(np.mean(errors))) if errors else math.nan


def _at(results: Results, n: int) -> str:
    return f"N is {n} at this scale." if n not in (1, 32) else ""
