"""What each step of best-of-N-aware training says about its samples and their weights."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Sequence
from typing import Any

import torch

from fionalm.evaluation import best_of_k, pass_at_k
from fionalm.objectives import group_advantages
from fionalm.posttraining.best_of_n_weights import SampleWeights
from fionalm.posttraining.rollouts import Group, reward_table

PASS_RATE_BINS = 8
"""Of the weights by their prompt's pass rate: [0, 1/8), ..., [7/8, 1]."""


def group_metrics(groups: Sequence[Group], n: int) -> dict[str, float]:
    """Return reward, pass@1, pass@N, best-of-N, entropy, distinct right solutions, lengths and failures.

    The entropy is that of a whole completion, in nats, estimated from the log-probabilities that the model itself gives
    to its samples. `pass@N` and `best-of-N` (with a selector) leave out prompts with fewer than n judged samples.
    """
    judged = [(group.judged, sum(group.right)) for group in groups]
    rewards = [reward for group in groups for reward in group.rewards if not math.isnan(reward)]
    logps = [c.logp for group in groups for c in group.completions if c.logp is not None]
    lengths = [len(c.token_ids or ()) for group in groups for c in group.completions]
    found: dict[str, float] = {
        "reward": _mean(rewards),
        "pass@1": _mean([right / known for known, right in judged if known]),
        "distinct_right": _mean([group.distinct_right for group in groups]),
        "failed_verifications": sum(len(group.verdicts) - group.judged for group in groups),
        "truncated": _mean([c.finish_reason == "length" for group in groups for c in group.completions]),
        "completion_tokens": _mean(lengths),
    }
    if logps:
        found["entropy"] = -_mean(logps)
    if n > 1:
        found[f"pass@{n}"] = _mean(_pass_at_n(judged, n))
    picked = [
        best_of_k(group.scores, group.rewards, n)
        for group in groups
        if group.scores is not None and group.judged == len(group.verdicts)
    ]
    if picked:
        found[f"best_of_{n}"] = _mean(picked)
    return found


def weight_metrics(weights: SampleWeights, groups: Sequence[Group]) -> dict[str, Any]:
    """Return how the weights are spread: over samples, and over prompts by how often they are solved.

    `weighted_pass_rate` is the mean pass rate of the prompts, each counted by the sum of its absolute weights, and
    `weighted_pass_rate_of_reinforce` what it would be with REINFORCE's weights of the same samples. Prompts of which no
    sample could be judged are left out.
    """
    every = weights.values.abs().sum(-1)  # [prompts]
    known = [index for index, group in enumerate(groups) if group.judged]
    sizes = every[known]
    rates = torch.tensor([sum(groups[index].right) / groups[index].judged for index in known], dtype=sizes.dtype)
    plain = group_advantages(reward_table(groups), "rloo").abs().sum(-1).to(every)[known]
    places = (rates * PASS_RATE_BINS).long().clamp(max=PASS_RATE_BINS - 1)
    by_rate = torch.zeros(PASS_RATE_BINS, dtype=sizes.dtype).index_add_(0, places, sizes)
    prompts = torch.bincount(places, minlength=PASS_RATE_BINS)
    return {
        "weight_clip_rate": weights.clipped / weights.values.numel(),
        "samples_with_weight": float((weights.values != 0).double().mean()),
        "prompts_with_weight": float((every > 0).double().mean()),
        "pass_rate": float(rates.mean()) if known else math.nan,
        "weighted_pass_rate": _weighted(rates, sizes),
        "weighted_pass_rate_of_reinforce": _weighted(rates, plain),
        "weight_by_pass_rate": by_rate.tolist(),
        "prompts_by_pass_rate": prompts.tolist(),
    }


def peak_memory_mb(device: torch.device) -> float:
    """Return the most memory that this process has had: on its GPU, or in all."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def _pass_at_n(judged: Sequence[tuple[int, int]], n: int) -> list[float]:
    enough = [(known, right) for known, right in judged if known >= n]
    return [float(value) for value in pass_at_k([k for k, _ in enough], [r for _, r in enough], n)] if enough else []


def _weighted(values: torch.Tensor, sizes: torch.Tensor) -> float:
    total = float(sizes.sum())
    return float((sizes * values).sum()) / total if total else math.nan


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
