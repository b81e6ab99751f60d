"""Which weight each sample has in the update: the method's objective, applied to a batch of groups.

Rewards and scores are [prompts, samples], NaN where the verifier failed: those samples weigh 0 and the others take
their place. The gradient is the mean over a group's samples of weight * grad log pi.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fionalm.errors import UserError
from fionalm.objectives import (
    bon_rl_advantages,
    bon_rlb_weights,
    bon_sft_weights,
    clip_weights,
    group_advantages,
    unbiased_best_of_n_advantages,
    unbiased_pass_at_n_advantages,
)
from fionalm.posttraining.best_of_n_config import BINARY, BestOfNConfig


class SampleWeights(NamedTuple):
    """What a batch's samples weigh."""

    values: Tensor
    """[prompts, samples], clipped."""
    clipped: int
    """How many were clipped."""


def sample_weights(
    config: BestOfNConfig, rewards: Tensor, scores: Tensor | None = None, expert_scores: Tensor | None = None
) -> SampleWeights:
    """Return the weights of a batch's samples under the config's method.

    Args:
        config: method, n, estimator, clipping.
        rewards: [prompts, samples], NaN where unknown.
        scores: the selecting verifier's [prompts, samples] (bon-rl-v; bon-sft where one is given); None: the rewards.
        expert_scores: bon-sft: of each prompt's expert completion [prompts].

    Raises:
        UserError: rewards other than 0 and 1 for a method that is for those.
    """
    rewards = rewards.to(torch.float64)
    known = ~rewards.isnan()
    if scores is not None:
        known &= ~scores.isnan()
    if config.method in BINARY and bool((rewards[known] * (1 - rewards[known])).any()):
        odd = next(float(value) for value in rewards[known].tolist() if value not in (0.0, 1.0))
        raise UserError(
            f"method {config.method} is for rewards of 0 and 1, and the verifier gave {odd:g}: expected such rewards, "
            "or method bon-rl-s"
        )
    weights = _weights(config, rewards.where(known, torch.nan), scores, expert_scores, known)
    # A prompt too few of whose samples could be judged has no estimate.
    weights = weights.where(known & (known.sum(-1, keepdim=True) >= config.least_samples), 0.0)
    if not config.largest_weight:
        return SampleWeights(weights, 0)
    clipped = clip_weights(weights, config.largest_weight)
    return SampleWeights(clipped.values, int(clipped.count))


def _weights(
    config: BestOfNConfig, rewards: Tensor, scores: Tensor | None, expert_scores: Tensor | None, known: Tensor
) -> Tensor:
    n = config.n
    if config.method in ("reinforce", "grpo"):
        return group_advantages(rewards, "grpo" if config.method == "grpo" else "rloo")
    if config.method in BINARY:
        if not config.unbiased:
            return _plug_in(rewards, n, positive=config.method == "bon-rlb-p")
        if config.method == "bon-rlb-p":
            return unbiased_pass_at_n_advantages(rewards, n)
        return unbiased_pass_at_n_advantages(rewards, n, form="subsets", baseline="mean")
    chosen_by = rewards if scores is None else scores.to(rewards.dtype)
    if config.method in ("bon-rl-v", "bon-rl-s") and config.unbiased:
        return unbiased_best_of_n_advantages(rewards, n, scores=chosen_by)
    # Samples that could not be judged have probability 0, whatever stands in their place.
    counted = known.sum(-1, keepdim=True)
    share = known.to(rewards.dtype) / counted.clamp(min=1)
    share = share.where(counted > 0, 1 / known.shape[-1])
    rewards, chosen_by = rewards.where(known, 0.0), chosen_by.where(known, -torch.inf)
    if config.method == "bon-sft":
        assert expert_scores is not None
        return bon_sft_weights(expert_scores.to(rewards.dtype), chosen_by, n, sample_weights=share)
    return bon_rl_advantages(rewards, n, scores=chosen_by, sample_weights=share)


def _plug_in(rewards: Tensor, n: int, *, positive: bool) -> Tensor:
    """Return BoN-RLB's weights with p = 1 - c / M in place of the true failure rate: biased, as published.

    `bon_rlb_weights` are for samples of pi_bon, whose right ones have probability 1 - p^N together and whose wrong ones
    p^N; samples of pi are weighted accordingly.
    """
    known = ~rewards.isnan()
    count = known.sum(-1, keepdim=True).clamp(min=1)
    right = (rewards == 1) & known
    c = right.sum(-1, keepdim=True)
    p_fail = 1 - c / count
    weight_right, weight_wrong = bon_rlb_weights(p_fail.to(rewards.dtype), n, "positive" if positive else "exact")
    share_right = (1 - p_fail**n) / c.clamp(min=1)
    share_wrong = p_fail**n / (count - c).clamp(min=1)
    weights = torch.where(right, weight_right * share_right, weight_wrong * share_wrong)
    # Without a right sample every weight is 0 / 0: the group says nothing of the gradient.
    return torch.where(known & (c > 0), weights * rewards.shape[-1], 0.0)
