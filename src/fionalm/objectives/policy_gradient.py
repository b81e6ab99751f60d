"""Policy gradients on groups of samples: advantages, losses, clipping that is counted, and estimates of the KL.

Advantages are one number a sample, with gradient = mean over samples of advantage * grad log pi(sample); those for
best-of-N are in `best_of_n` and `pass_at_n`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from fionalm.errors import UserError, choice_error

GroupKind = Literal["grpo", "rloo", "mean"]
KlKind = Literal["k1", "k2", "k3"]


class Clipped(NamedTuple):
    """Clipped values, and how many were changed."""

    values: Tensor
    count: Tensor
    """A whole number, as a tensor, so that a GPU need not be waited for."""


def group_advantages(rewards: Tensor, kind: GroupKind = "rloo", *, eps: float = 1e-4) -> Tensor:
    """Return each sample's advantage over its group [prompts, samples].

    - `rloo`: reward minus the mean of the others (Kool et al. 2019): unbiased for the gradient of the mean reward.
    - `mean`: reward minus the group's mean: the same times 1 - 1/M.
    - `grpo`: that over the group's standard deviation plus `eps` (Shao et al. 2024): prompts on which all samples are
      nearly alike weigh more, which no objective's gradient does.

    Args:
        rewards: [prompts, samples]; NaN where a verifier failed: such a sample counts as not drawn, gets 0, and the
            others grow so that the mean over all columns is theirs.
        kind: `grpo`, `rloo` or `mean`.
        eps: keeps `grpo` finite where all rewards are equal.

    Raises:
        UserError: an unknown kind.
    """
    if kind not in get_args(GroupKind):
        raise choice_error("group advantage", kind, get_args(GroupKind))
    rewards = rewards if rewards.is_floating_point() else rewards.to(torch.get_default_dtype())
    known = ~rewards.isnan()
    count = known.sum(-1, keepdim=True).clamp(min=1)
    mean = rewards.where(known, 0.0).sum(-1, keepdim=True) / count
    centred = torch.where(known, rewards - mean, 0.0)
    others = (count - 1).clamp(min=1)
    if kind == "rloo":
        centred = centred * count / others
    elif kind == "grpo":
        centred = centred / ((centred.square().sum(-1, keepdim=True) / others).sqrt() + eps)
    return centred * rewards.shape[-1] / count


def clip_weights(weights: Tensor, limit: float) -> Clipped:
    """Clip weights to [-limit, limit] and count how many lay beyond.

    Raises:
        UserError: a limit that is not above 0.
    """
    if not limit > 0:
        raise UserError(f"limit {limit}: expected a number above 0")
    return Clipped(weights.clamp(-limit, limit), (weights.abs() > limit).sum())


def reinforce_loss(logps: Tensor, advantages: Tensor) -> Tensor:
    """Return each prompt's -mean of advantage * log pi [prompts] (Williams 1992); advantages get no gradient.

    Args:
        logps: log-probability of each sample under the policy, in nats [prompts, samples].
        advantages: [prompts, samples].
    """
    return -(advantages.detach().to(logps.dtype) * logps).mean(-1)


def clipped_loss(logps: Tensor, old_logps: Tensor, advantages: Tensor, *, clip: float = 0.2) -> tuple[Tensor, Tensor]:
    """Return PPO's clipped surrogate [prompts], for samples of an older policy, and how many samples it cut off.

    -mean of min(ratio * A, clip(ratio, 1 - clip, 1 + clip) * A), ratio = pi / pi_old (Schulman et al. 2017, equation
    7); at pi = pi_old its gradient is `reinforce_loss`'s.

    Args:
        logps: under the policy, in nats [prompts, samples].
        old_logps: under the policy that drew the samples [prompts, samples].
        advantages: [prompts, samples].
        clip: how far the ratio may move from 1.

    Raises:
        UserError: `clip` is not above 0.
    """
    if not clip > 0:
        raise UserError(f"clip {clip}: expected a number above 0, such as 0.2")
    advantages = advantages.detach().to(logps.dtype)
    ratio = (logps - old_logps.detach()).exp()
    free, bounded = ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages
    return -torch.minimum(free, bounded).mean(-1), (bounded < free).sum()


def kl_estimate(logps: Tensor, reference_logps: Tensor, kind: KlKind = "k2") -> Tensor:
    """Return an estimate of KL(pi | reference) from each sample of pi, in nats (Schulman 2020's k1, k2, k3).

    With d = log pi - log reference: k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d. Their values under pi: k1 and k3 have
    the KL as expectation, k3 with less variance and never below 0; k2 is biased. Their gradients, if added to a loss:
    k2's has the KL's gradient as expectation; k1's has 0, so it regularises nothing; k3's has that of
    KL(reference | pi). Train with k2, report k3. Tested by enumeration.

    Args:
        logps: log-probability of samples under the policy, any shape; per completion or per token.
        reference_logps: under the reference; gets no gradient.
        kind: which.

    Raises:
        UserError: an unknown kind.
    """
    if kind not in get_args(KlKind):
        raise choice_error("KL estimate", kind, get_args(KlKind))
    difference = logps - reference_logps.detach()
    if kind == "k1":
        return difference
    return difference.square() / 2 if kind == "k2" else torch.expm1(-difference) + difference
