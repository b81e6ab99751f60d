"""What the arms of `rest-em` say about its claims."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fionalm.evaluation import pass_at_k
from fionalm.report import measure
from fionalm.report.claims import Measured
from fionalm.statistics import Interval, bootstrap
from fionalm.studies.rest_em.claims import CLAIMS
from fionalm.studies.rest_em.runs import TASKS, RestEMStudyConfig, Task

BY_ID = {claim.id: claim for claim in CLAIMS}
Key = tuple[Task, str, int]


@dataclass(frozen=True)
class Results:
    """The arms' results by (task, arm, seed); None where a trial crashed."""

    config: RestEMStudyConfig
    arms: Mapping[Key, dict[str, Any] | None]

    def value(self, task: Task, arm: str, seed: int, iteration: int, name: str) -> float:
        """Return a number of an iteration's policy, NaN where there is none; iteration 0 is the base's arm."""
        result = self.arms.get((task, "base" if iteration == 0 else arm, seed))
        rows = (result or {}).get("rows", ())
        if not 0 <= iteration < len(rows):
            return math.nan
        value = rows[iteration].get(name)
        return math.nan if value is None else float(value)

    def curve(self, task: Task, arm: str, name: str, iterations: int) -> np.ndarray:
        """Return [seed, iteration 0, 1, ...]."""
        return np.array(
            [[self.value(task, arm, seed, i, name) for i in range(iterations + 1)] for seed in range(self.config.seeds)]
        )

    def end(self, task: Task, arm: str, name: str = "test") -> np.ndarray:
        """Return [seed], of the arm's last policy; NaN where the arm ended early."""
        last = self.iterations(task, arm)
        return np.array([self.value(task, arm, seed, last, name) for seed in range(self.config.seeds)])

    def iterations(self, task: Task, arm: str) -> int:
        """Return how many iterations an arm has; the claims' ReST-EM has three on word problems, as the paper's."""
        size = self.config.size(task)
        return {"base": 0, "once": 1, "human": 1, "continue": min(self.config.continued, size.iterations)}.get(
            arm, size.iterations
        )

    @property
    def ks(self) -> list[int]:
        """Powers of two up to the number of evaluation samples."""
        return [2**power for power in range(self.config.words.evaluated.bit_length())]

    def pass_at(self, arm: str) -> np.ndarray:
        """Return pass@k on the test word problems, [seed, k]; problems with too few judged samples are left out."""
        return np.array([self._pass_at(self._sampled(arm, seed)) for seed in range(self.config.seeds)])

    def majority(self, arm: str) -> np.ndarray:
        """Return the accuracy of majority votes, [seed]."""
        votes = [self._sampled(arm, seed).get("majority") for seed in range(self.config.seeds)]
        return np.array([_known_mean(one) if one else math.nan for one in votes])

    def _sampled(self, arm: str, seed: int) -> dict[str, Any]:
        return (self.arms.get(("words", arm, seed)) or {}).get("sampled") or {}

    def _pass_at(self, sampled: Mapping[str, Any]) -> list[float]:
        if not sampled:
            return [math.nan] * len(self.ks)
        judged, right = np.array(sampled["judged"]), np.array(sampled["right"])
        return [float(np.nanmean(pass_at_k(judged, right, k))) for k in self.ks]


def measure_claims(results: Results) -> Iterator[Measured]:
    """Yield every claim with its interval over seeds."""
    config, seeds = results.config, results.config.seeds
    for task in TASKS:
        three = min(3, config.size(task).iterations)
        gains = _gains(results.curve(task, "rest-em", "test", three))
        yield _measured(f"iterations-improve-{task}", lambda drawn: float(drawn.mean(0).min()), gains, seeds)
    end = results.end("words", "rest-em")
    yield _measured("iterating-beats-once", _mean, end - results.end("words", "once"), seeds)
    yield _measured("beats-human", _mean, end - results.end("words", "human"), seeds, _counts(results))
    gains = results.pass_at("rest-em") - results.pass_at("base")
    yield _measured("every-k-improves", lambda drawn: float(drawn.mean(0).min()), gains, seeds)
    yield _measured("gain-largest-at-one", _largest_at_one, gains, seeds)
    yield _measured("majority-improves", _mean, results.majority("rest-em") - results.majority("base"), seeds)
    for task in TASKS:
        last = results.iterations(task, "continue")
        related = [results.curve(task, arm, "related", last)[:, last] for arm in ("rest-em", "continue")]
        yield _measured(f"restart-keeps-related-{task}", _mean, related[0] - related[1], seeds)
    last = config.code.iterations
    test, train = (results.curve("code", "rest-em", name, last) for name in ("test", "train"))
    yield _measured("code-overfits", _mean, test[:, 1] - test[:, last], seeds)
    gap = train - test
    yield _measured("code-gap-grows", _mean, gap[:, last] - gap[:, 1], seeds)


def interval_of(
    values: np.ndarray, statistic: Callable[[np.ndarray], float] | None = None, resamples: int = 2000
) -> Interval:
    """Return the bootstrap interval over the seeds whose values are all known."""
    known = values[np.isfinite(values.reshape(len(values), -1)).all(axis=1)]
    if not len(known):
        return Interval(math.nan, math.nan, math.nan)
    return bootstrap(statistic or _mean, known, resamples=resamples)


def _measured(
    name: str, statistic: Callable[[np.ndarray], float], values: np.ndarray, seeds: int, detail: str = ""
) -> Measured:
    known = int(np.isfinite(values.reshape(len(values), -1)).all(axis=1).sum())
    if known < seeds:
        detail = f"{detail} {seeds - known} of {seeds} seeds could not be measured.".strip()
    return measure(BY_ID[name], interval_of(values, statistic), n=known, detail=detail)


def _mean(values: np.ndarray) -> float:
    return float(values.mean())


def _known_mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _gains(curves: np.ndarray) -> np.ndarray:
    return curves[:, 1:] - curves[:, :1]


def _largest_at_one(gains: np.ndarray) -> float:
    means = gains.mean(axis=0)
    return float(means[0] - means[1:].max()) if len(means) > 1 else math.nan


def _counts(results: Results) -> str:
    """Say how many solutions the two arms learnt from."""
    counts = [results.end("words", arm, "kept") for arm in ("rest-em", "human")]
    if not all(np.isfinite(one).any() for one in counts):
        return ""
    own, human = (float(np.nanmean(one)) for one in counts)
    return f"{own:,.0f} solutions of its own, {human:,.0f} of humans, on average."
