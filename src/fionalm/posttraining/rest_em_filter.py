"""The filter between Generate and Improve: which samples are learnt from, and what there was to choose from."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from fionalm.posttraining.rest_em_config import RestEMConfig
from fionalm.sampling import SampleRecord


def right_solutions(
    records: Sequence[SampleRecord], config: RestEMConfig, iteration: int, length: Callable[[str], int]
) -> list[str]:
    """Return the completions of one problem that an iteration learns from: right, whole, distinct, not too many.

    Where there are more than `max_per_problem`, each distinct one is as likely to be kept, however often it was drawn.

    Args:
        records: samples of one problem.
        config: thresholds and limits.
        iteration: 1, 2, ..., whose threshold counts.
        length: tokens of a completion.
    """
    threshold, most = config.threshold(iteration), config.max_solution_tokens or math.inf
    right = dict.fromkeys(
        record.completion
        for record in records
        if record.reward is not None  # the verifier failed: neither right nor wrong
        and record.reward >= threshold
        and record.finish_reason == "stop"
        and record.completion.strip()
    )
    fitting = [text for text in right if config.min_solution_tokens <= length(text) <= most]
    if not config.max_per_problem or len(fitting) <= config.max_per_problem:
        return fitting
    generator = Random(f"{config.seed}/{iteration}/{records[0].problem}")
    return [fitting[index] for index in sorted(generator.sample(range(len(fitting)), config.max_per_problem))]


def generation_statistics(
    drawn: Sequence[Sequence[SampleRecord]], kept: Sequence[Sequence[str]], threshold: float
) -> dict[str, Any]:
    """Return metrics of a generation by problem: what was drawn, what the verifier said, what is kept.

    `train_reward` is the mean over samples that could be judged, `solved` the share of problems with something kept,
    and `kept_per_problem` the number of problems that kept 0, 1, 2, ... samples.
    """
    records = [record for row in drawn for record in row]
    rewards = [record.reward for record in records if record.reward is not None]
    outcomes = Counter(str(record.outcome) for record in records)
    counts = Counter(map(len, kept))
    return {
        "threshold": threshold,
        "samples": len(records),
        "train_reward": sum(rewards) / len(rewards) if rewards else None,
        "outcomes": dict(sorted(outcomes.items())),
        "verifier_failures": len(records) - len(rewards),
        "truncated": sum(record.finish_reason != "stop" for record in records),
        "kept": sum(map(len, kept)),
        "solved": sum(map(bool, kept)) / len(kept),
        "kept_per_problem": [counts[number] for number in range(max(counts) + 1)],
    }
