"""All metrics of a samples file: pass@k, best-of-k, majority@k and what was drawn, with intervals over problems.

A sample whose verifier failed has no reward: it is counted among the outcomes and left out of every metric, never taken
for wrong.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from fionalm.errors import UserError
from fionalm.evaluation.at_k import best_of_k, majority_at_k, pass_at_k
from fionalm.sampling.records import SampleRecord
from fionalm.statistics import Interval, bootstrap

MetricName = Literal["pass", "best-of", "majority"]


@dataclass(frozen=True)
class Metric:
    """One metric at one k."""

    name: MetricName
    k: int
    interval: Interval
    """Mean over problems."""
    values: Mapping[str, float]
    """Of each problem that has k judged samples, by its id."""

    @property
    def label(self) -> str:
        """As papers write it, such as pass@4."""
        return f"{self.name}@{self.k}" if self.name != "best-of" else f"best-of-{self.k}"


@dataclass(frozen=True)
class Evaluation:
    """What a set of samples amounts to."""

    problems: int
    samples: int
    judged: int
    """Samples with a reward."""
    outcomes: Mapping[str, int]
    """How often each verdict was given; `not judged` among them."""
    reward: Interval
    """Mean reward of a judged sample, over problems."""
    distinct_right: Interval
    """Different right completions of a problem, mean over problems."""
    truncated: float
    """Share of samples that ended at the length limit."""
    metrics: Sequence[Metric] = field(default_factory=list)

    def find(self, name: str, k: int) -> Metric | None:
        """Return a metric, or None if it could not be computed."""
        return next((metric for metric in self.metrics if (metric.name, metric.k) == (name, k)), None)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; intervals as [estimate, low, high]."""
        return {
            "problems": self.problems,
            "samples": self.samples,
            "judged": self.judged,
            "outcomes": dict(self.outcomes),
            "reward": _listed(self.reward),
            "distinct_right": _listed(self.distinct_right),
            "truncated": self.truncated,
            "metrics": [
                {"name": one.name, "k": one.k, "value": _listed(one.interval), "problems": dict(one.values)}
                for one in self.metrics
            ],
        }


def evaluate_samples(
    records: Iterable[SampleRecord],
    ks: Sequence[int] = (),
    *,
    right: float = 1.0,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Evaluation:
    """Return every metric that the samples allow.

    pass@k needs rewards; best-of-k also scores of a selecting verifier; majority@k also answers, of which those are
    right that were judged right. A problem with fewer than k judged samples does not count at that k.

    Args:
        records: of one policy at one temperature.
        ks: samples at inference; empty: powers of two up to the most that a problem has.
        right: least reward of a right sample.
        level: of the intervals, bootstrapped over problems.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        UserError: no samples, none with a reward, or a k that no problem has samples for.
    """
    records = list(records)
    problems: dict[str, list[SampleRecord]] = {}
    for record in records:
        problems.setdefault(record.problem, []).append(record)
    judged = {name: [one for one in group if _known(one.reward)] for name, group in problems.items()}
    count = sum(map(len, judged.values()))
    if not count:
        raise UserError(
            f"none of {len(records)} samples has a reward: expected judged samples, as from fiona evaluate --verifier"
        )
    most = max(map(len, judged.values()))
    ks = sorted(set(ks)) or [2**power for power in range(most.bit_length())]
    if impossible := [k for k in ks if k > most]:
        raise UserError(f"k {impossible[0]} with at most {most} judged samples a problem: expected k up to {most}")

    drawn = [_reward(one) for group in judged.values() for one in group]
    chance = (0.0, 1.0)
    graded = chance if 0 <= min(drawn) <= max(drawn) <= 1 else (-math.inf, math.inf)

    def interval(values: Iterable[float], bounds: tuple[float, float]) -> Interval:
        known = [value for value in values if not math.isnan(value)]
        return bootstrap(np.mean, known, level=level, resamples=resamples, seed=seed, bounds=bounds)

    metrics = []
    for name, value in _values(judged, right).items():
        for k in ks:
            of_problems = {problem: value(group, k) for problem, group in judged.items()}
            known = {problem: found for problem, found in of_problems.items() if not math.isnan(found)}
            if known:
                bounds = graded if name == "best-of" else chance
                metrics.append(Metric(name, k, interval(known.values(), bounds), known))
    rewards = (np.mean([_reward(one) for one in group]) if group else math.nan for group in judged.values())
    distinct = (len({one.completion for one in group if _reward(one) >= right}) for group in judged.values())
    return Evaluation(
        problems=len(problems),
        samples=len(records),
        judged=count,
        outcomes=dict(Counter(one.outcome or ("judged" if _known(one.reward) else "not judged") for one in records)),
        reward=interval(map(float, rewards), graded),
        distinct_right=interval(map(float, distinct), (0.0, math.inf)),
        truncated=float(np.mean([one.finish_reason == "length" for one in records])),
        metrics=metrics,
    )


def paired_difference(
    after: Metric, before: Metric, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval | None:
    """Return the mean difference over the problems that both have, paired; None if they share none."""
    shared = [problem for problem in after.values if problem in before.values]
    if not shared:
        return None
    differences = [after.values[problem] - before.values[problem] for problem in shared]
    bounds = (-math.inf, math.inf) if after.name == "best-of" else (-1.0, 1.0)
    return bootstrap(np.mean, differences, level=level, resamples=resamples, seed=seed, bounds=bounds)


def _values(
    judged: Mapping[str, Sequence[SampleRecord]], right: float
) -> dict[MetricName, Callable[[Sequence[SampleRecord], int], float]]:
    """Return what each metric that the samples allow is of one problem."""
    everything = [one for group in judged.values() for one in group]

    def passed(group: Sequence[SampleRecord], k: int) -> float:
        return pass_at_k(len(group), sum(_reward(one) >= right for one in group), k)

    def best(group: Sequence[SampleRecord], k: int) -> float:
        scores = [math.nan if one.score is None else one.score for one in group]
        return best_of_k(scores, [_reward(one) for one in group], k)

    def majority(group: Sequence[SampleRecord], k: int) -> float:
        gold = {one.answer for one in group if one.answer is not None and _reward(one) >= right}
        return majority_at_k([one.answer for one in group], gold, k)

    values: dict[MetricName, Callable[[Sequence[SampleRecord], int], float]] = {"pass": passed}
    if any(one.score is not None for one in everything):
        values["best-of"] = best
    if any(one.answer is not None for one in everything):
        values["majority"] = majority
    return values


def _known(reward: float | None) -> bool:
    return reward is not None and not math.isnan(reward)


def _reward(record: SampleRecord) -> float:
    return math.nan if record.reward is None else float(record.reward)


def _listed(interval: Interval) -> list[float]:
    return [interval.estimate, interval.low, interval.high]
