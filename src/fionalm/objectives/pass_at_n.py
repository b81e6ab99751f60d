"""Unbiased policy gradients of best-of-n and pass@n from M samples of the policy, for rewards of any kind.

J = E over n samples of R(the one with the best score); with R the score itself this is max@n, and pass@n where it is 0
or 1. Since grad J = n E[R(best of y1..yn) grad log pi(y1)], averaging over all subsets of size n of M samples gives one
weight a sample, with gradient = mean over samples of weight * grad log pi(sample):

- `subsets`: n times the mean, over subsets T of n - 1 other samples, of R(best of T and the sample).
- `leave_one_out`: the same minus n times the mean of R(best of T), which does not depend on the sample and so costs no
  bias: what the sample adds. For rewards 0 and 1 with c right it is n C(M-c, n-1) / C(M-1, n-1) for right samples and 0
  for wrong ones.

The means are closed forms over counts: nothing is enumerated or drawn. The plug-in n p^(n-1), p = 1 - c/M,
is biased.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from fionalm.errors import UserError, choice_error
from fionalm.objectives.best_of_n import check_n, subset_ratio

PassAtNForm = Literal["leave_one_out", "subsets"]
PassAtNBaseline = Literal["none", "mean"]


def unbiased_pass_at_n_advantages(
    rewards: Tensor, n: int, *, form: PassAtNForm = "leave_one_out", baseline: PassAtNBaseline = "none"
) -> Tensor:
    """Return weights whose mean of weight * grad log pi has the expectation grad pass@n (max@n for graded rewards).

    Args:
        rewards: [prompts, samples]; NaN where a verifier failed: such a sample counts as not drawn, weighs 0, and the
            others' weights grow so that the mean over all columns is theirs.
        n: samples at inference; take M of 2n to 4n samples.
        form: `leave_one_out`, or `subsets`, which has more variance but also weighs wrong samples.
        baseline: `mean` subtracts the group's mean from `subsets` and divides by 1 - n/M, the factor by which that
            shrinks the expected gradient. For `leave_one_out` the factor depends on the unknown p, so it is refused.

    Returns:
        Weights [prompts, samples]; rows with fewer than n rewards (with the baseline: n + 1) are 0.

    Raises:
        UserError: n below 1 or above the samples, an unknown form, or a baseline that would bias the gradient.
    """
    return unbiased_best_of_n_advantages(rewards, n, form=form, baseline=baseline)


def unbiased_best_of_n_advantages(
    rewards: Tensor,
    n: int,
    *,
    scores: Tensor | None = None,
    form: PassAtNForm = "leave_one_out",
    baseline: PassAtNBaseline = "none",
) -> Tensor:
    """Return weights for grad E[R(best of n)] where `scores` pick and `rewards` count; ties are broken at random.

    With `scores` this is the unbiased counterpart of BoN-RL-V. Other arguments and errors are
    `unbiased_pass_at_n_advantages`'s.

    Args:
        rewards: [prompts, samples].
        n: samples at inference.
        scores: of the verifier that picks [prompts, samples]; None: the rewards.
        form: `leave_one_out` or `subsets`.
        baseline: `none`, or `mean` with `subsets`.
    """
    if form not in get_args(PassAtNForm):
        raise choice_error("form of the estimator", form, get_args(PassAtNForm))
    if baseline not in get_args(PassAtNBaseline):
        raise choice_error("baseline", baseline, get_args(PassAtNBaseline))
    samples = rewards.shape[-1]
    check_n(n, samples)
    if baseline == "mean" and (form != "subsets" or n == samples):
        raise UserError(
            "a mean baseline rescales this gradient by a factor that is "
            + ("unknown: expected form='subsets'" if form != "subsets" else "0 at n = M: expected more samples than n")
        )
    dtype = rewards.dtype if rewards.is_floating_point() else torch.get_default_dtype()
    rewards = rewards.to(torch.float64)
    scores = rewards if scores is None else scores.to(torch.float64)
    known = ~(rewards.isnan() | scores.isnan())
    rewards, scores = rewards.where(known, 0.0), scores.where(known, -torch.inf)
    count = known.sum(-1, keepdim=True, dtype=torch.float64)
    chosen, chosen_without = _choices(scores, known, n)
    advantages = (chosen @ rewards.unsqueeze(-1)).squeeze(-1)
    if form == "leave_one_out":
        advantages = advantages - (chosen_without @ rewards.unsqueeze(-1)).squeeze(-1)
    if baseline == "mean":
        mean = (advantages * known).sum(-1, keepdim=True) / count.clamp(min=1)
        advantages = (advantages - mean) / (1 - n / count.clamp(min=n + 1))
    enough = count >= (n + 1 if baseline == "mean" else n)
    advantages = n * advantages * (samples / count.clamp(min=1))
    return torch.where(known & enough, advantages, 0.0).to(dtype)


def _choices(scores: Tensor, known: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return, for sample i and a random subset T of n - 1 others, P(j is best of T and i) and P(j is best of T).

    Both are [prompts, i, j]. Of k + 1 tied best samples each is picked with probability 1 / (k + 1).
    """
    score_i, score_j = scores.unsqueeze(-1), scores.unsqueeze(-2)
    pair = known.unsqueeze(-1) & known.unsqueeze(-2)
    below = ((score_i > score_j) & pair).sum(-1)
    tied = ((score_i == score_j) & pair).sum(-1)
    count = known.sum(-1, keepdim=True)
    others = (count - 1).unsqueeze(-1)
    itself = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    # Among the others of i: how many are below j, and tied with j.
    below_j = below.unsqueeze(-2) - ((score_i < score_j) & pair).long()
    tied_j = tied.unsqueeze(-2) - ((score_i == score_j) & pair).long()
    group = subset_ratio(below_j + tied_j, others, n - 1) - subset_ratio(below_j, others, n - 1)
    without = (group / tied_j.clamp(min=1)).masked_fill(itself | ~pair, 0.0)
    # i itself wins where no other is above; summed over the number tied, by C(g-1, k) / (k+1) = C(g, k+1) / g.
    alone = subset_ratio(below + tied, count, n) - subset_ratio(below, count, n)
    own = count.double() / n * alone / tied.clamp(min=1)
    best_is_tied = subset_ratio(below + tied - 1, count - 1, n - 1)
    shared = (best_is_tied - own) / (tied - 1).clamp(min=1)
    within = torch.where(score_i == score_j, shared.unsqueeze(-1), 0.0)
    chosen = torch.where(score_j > score_i, without, within).masked_fill(~pair, 0.0)
    return torch.where(itself, own.unsqueeze(-1), chosen), without
