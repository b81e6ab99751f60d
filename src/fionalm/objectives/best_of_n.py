"""Fine-tuning for best-of-N: the tilted policy, BoN-SFT, BoN-RL and BoN-RLB (Chow et al. 2024, arXiv 2412.15287).

At inference N completions are drawn and a score r picks the best. Its variational form (the paper's section 3) is
pi_bon(y|x) proportional to pi(y|x) exp(lambda_N Q(x, y)), with Q the win rate under pi. All gradients here are through

    f(x, y) = log pi(y|x) + lambda_N Q(x, y),
    grad f(x, y) = grad log pi(y|x) + lambda_N E_{y' ~ pi}[1{r(y) >= r(y')} grad log pi(y'|x)],

and every estimate from M samples of pi comes as one weight a sample, so that

    gradient = mean over samples of weight * grad log pi(sample).

Weights need no model: compute them before the forward pass that is trained, then take `policy_gradient.reinforce_loss`.
`sample_weights` replaces the plain mean over samples by given probabilities (rows sum to 1): all completions with their
probabilities make every estimate exact; importance weights correct for an older policy. A score or reward of NaN, where
a verifier failed, counts as not drawn: its weight is 0. Samples are of one row a prompt: [prompts, samples].
"""

from __future__ import annotations

import math
from typing import Literal, get_args, overload

import torch
from torch import Tensor

from fionalm.errors import UserError, choice_error

RlbVariant = Literal["exact", "positive", "printed"]


@overload
def lambda_n(n: float) -> float: ...
@overload
def lambda_n(n: Tensor) -> Tensor: ...
def lambda_n(n: float | Tensor) -> float | Tensor:
    """Return the tilt whose KL from pi equals best-of-N's: 0 at 1, 2.2886 at 2, 17.0319 at 16.

    The win rate of a sample of pi is uniform on [0, 1], and lambda_N solves, in a form that cannot overflow,

        l / (1 - e^-l) - 1 - (l + log1p(-e^-l) - log l) = log N - (N - 1) / N.

    Args:
        n: samples at inference, 1 or more; a tensor gives a tensor of lambdas, in its type if it is floating.

    Raises:
        UserError: n below 1.
    """
    given = torch.as_tensor(n)
    wide = given.to(torch.float64)
    if not bool((wide >= 1).all()):
        raise UserError(f"n was {n}: expected 1 sample or more")
    target = wide.log() - (wide - 1) / wide
    # The left side grows with l, is at most the right at 0, and lambda_N is below N + 2.
    low, high = torch.zeros_like(wide), wide + 2
    for _ in range(100):
        middle = (low + high) / 2
        too_small = _tilt_kl(middle) < target
        low, high = torch.where(too_small, middle, low), torch.where(too_small, high, middle)
    found = torch.where(wide == 1, 0.0, (low + high) / 2)
    if not isinstance(n, Tensor):
        return float(found)
    return found.to(given.dtype if given.is_floating_point() else torch.get_default_dtype())


def win_rates(scores: Tensor, against: Tensor | None = None, *, sample_weights: Tensor | None = None) -> Tensor:
    """Return Q(x, y) = E_{y' ~ pi}[1{r(y) >= r(y')}] of each score (the paper's equation 3); ties are won.

    Args:
        scores: [prompts, samples].
        against: the scores of the samples that stand for pi [prompts, others]; None: `scores`, itself included.
        sample_weights: probabilities of `against` [prompts, others]; None: equal.

    Returns:
        Win rates in [0, 1] [prompts, samples].
    """
    against = scores if against is None else against
    weights = _weights(against, sample_weights)
    return (_wins(scores, against).to(weights.dtype) * weights.unsqueeze(-2)).sum(-1)


def tilted_weights(scores: Tensor, n: int, *, sample_weights: Tensor | None = None) -> Tensor:
    """Return pi_bon on the samples [prompts, samples]: softmax of lambda_N Q, times their probabilities."""
    weights = _weights(scores, sample_weights)
    tilted = (lambda_n(float(n)) * win_rates(scores, sample_weights=weights) + weights.log()).softmax(-1)
    return torch.where(weights > 0, tilted, 0.0)  # a row of which nothing is known would be NaN


def best_of_n_weights(scores: Tensor, n: int) -> Tensor:
    """Return the probability that each sample is the best of n drawn from the row without replacement.

    Unbiased, unlike `tilted_weights`: the weighted sum of any function over a row has the expectation of that function
    under true best-of-n, which picks among tied best samples at random. NaN scores are never drawn.

    Args:
        scores: [prompts, samples].
        n: samples at inference, at most the number of samples.

    Returns:
        Probabilities [prompts, samples], float64; a row with fewer than n scores is NaN.

    Raises:
        UserError: n below 1, or above the number of samples.
    """
    check_n(n, scores.shape[-1])
    known = ~scores.isnan()
    count = known.sum(-1, keepdim=True)
    below = (scores.unsqueeze(-1) > scores.unsqueeze(-2)).sum(-1)
    tied = (scores.unsqueeze(-1) == scores.unsqueeze(-2)).sum(-1)
    best = subset_ratio(below + tied, count, n) - subset_ratio(below, count, n)
    weights = torch.where(known, best / tied.clamp(min=1), 0.0)
    return torch.where(count >= n, weights, math.nan)


def bon_sft_weights(expert_scores: Tensor, scores: Tensor, n: int, *, sample_weights: Tensor | None = None) -> Tensor:
    """Return the samples' weights in grad log pi_bon(expert) = grad log pi(expert) + mean of weight * grad log pi.

    Collects, sample by sample, lambda_N E_{y'}[1{r(expert) >= r(y')} grad log pi(y')] - E_{y' ~ pi_bon}[grad f(y')],
    the paper's lemma 2.

    Args:
        expert_scores: of each prompt's expert completion [prompts].
        scores: of samples of the policy [prompts, samples].
        n: samples at inference.
        sample_weights: probabilities of the samples [prompts, samples]; None: equal.

    Returns:
        Weights [prompts, samples].
    """
    weights = _weights(scores, sample_weights)
    tilt, tilted = lambda_n(float(n)), tilted_weights(scores, n, sample_weights=weights)
    expert_wins = _wins(expert_scores.unsqueeze(-1), scores).squeeze(-2).to(weights.dtype)
    lost_to = (tilted.unsqueeze(-1) * _wins(scores, scores)).sum(-2)
    return scores.shape[-1] * (tilt * weights * (expert_wins - lost_to) - tilted)


def bon_sft_loss(
    expert_logps: Tensor,
    logps: Tensor,
    expert_scores: Tensor,
    scores: Tensor,
    n: int,
    *,
    sample_weights: Tensor | None = None,
) -> Tensor:
    """Return each prompt's surrogate of -log pi_bon(expert|x) [prompts]: its gradient is right, its value is not.

    Args:
        expert_logps: log-probability of each prompt's expert completion, in nats [prompts].
        logps: those of samples of the policy [prompts, samples].
        expert_scores: [prompts].
        scores: of the samples [prompts, samples].
        n: samples at inference; 1 is plain fine-tuning, but for noise of mean 0.
        sample_weights: probabilities of the samples [prompts, samples]; None: equal.
    """
    weights = bon_sft_weights(expert_scores, scores, n, sample_weights=sample_weights)
    return -expert_logps - (weights.detach().to(logps.dtype) * logps).mean(-1)


def bon_rl_advantages(
    rewards: Tensor, n: int, *, scores: Tensor | None = None, sample_weights: Tensor | None = None
) -> Tensor:
    """Return the samples' weights in E_{y ~ pi_bon}[(R(y) - b) grad f(y)], b = E_{pi_bon}[R] (the paper's lemma 3).

    Args:
        rewards: true rewards R of samples of the policy [prompts, samples].
        n: samples at inference.
        scores: of the verifier that selects (BoN-RL-V) [prompts, samples]; None: the rewards themselves (BoN-RL-S).
        sample_weights: probabilities of the samples [prompts, samples]; None: equal.

    Returns:
        Weights [prompts, samples].
    """
    weights = _weights(rewards, sample_weights)
    rewards = rewards.to(weights.dtype)
    scores = rewards if scores is None else scores
    weights = _weights(scores, weights)
    rewards = rewards.nan_to_num(0.0)
    tilted = tilted_weights(scores, n, sample_weights=weights)
    direct = tilted * (rewards - (tilted * rewards).sum(-1, keepdim=True))
    through_wins = weights * (direct.unsqueeze(-1) * _wins(scores, scores)).sum(-2)
    return rewards.shape[-1] * (direct + lambda_n(float(n)) * through_wins)


def bon_rl_loss(
    logps: Tensor,
    rewards: Tensor,
    n: int,
    *,
    scores: Tensor | None = None,
    sample_weights: Tensor | None = None,
) -> Tensor:
    """Return each prompt's surrogate of -E_{pi_bon}[R] [prompts], from `logps` [prompts, samples] in nats.

    The other arguments are `bon_rl_advantages`'s: BoN-RL-V with `scores`, BoN-RL-S without.
    """
    advantages = bon_rl_advantages(rewards, n, scores=scores, sample_weights=sample_weights)
    return -(advantages.detach().to(logps.dtype) * logps).mean(-1)


def bon_rlb_weights(p_fail: float | Tensor, n: int, variant: RlbVariant = "exact") -> tuple[Tensor, Tensor]:
    """Return what right and wrong samples of pi_bon weigh where reward and score are the same 0 or 1 (BoN-RLB).

    With p = P_fail(x), A+ = E_bon[1{right} grad log pi] and A- = E_bon[1{wrong} grad log pi] (indicators, not
    advantages), the gradient of J = 1 - p^N is weight_right A+ + weight_wrong A-:

    | variant | weight_right | weight_wrong | sum |
    | --- | --- | --- | --- |
    | `exact` | g+ = N p^(N-1) / (1 - p^N) | g- = N p / (1 - p) | grad J |
    | `positive`, BoN-RLB(P) | N p^(N-1) (1 - p) / (1 - p^N) | 0 | grad J |
    | `printed` | g+ | -g- | grad J times (1 + p) / (1 - p) |

    `printed` has the minus sign with which the equation is often quoted; its direction for one prompt is right, but
    hard prompts weigh too much. As p goes to 1, `exact` and `printed` grow without bound: 1 - p counts as at least the
    type's epsilon, so that they are finite, and `policy_gradient.clip_weights` bounds them.

    Args:
        p_fail: probability that one sample of pi is wrong, any shape.
        n: samples at inference.
        variant: `exact`, `positive` or `printed`.

    Raises:
        UserError: an unknown variant, n below 1, or a probability outside [0, 1].
    """
    if variant not in get_args(RlbVariant):
        raise choice_error("BoN-RLB variant", variant, get_args(RlbVariant))
    check_n(n)
    p = torch.as_tensor(p_fail, dtype=None if isinstance(p_fail, Tensor) else torch.float64)
    p = p if p.is_floating_point() else p.to(torch.get_default_dtype())
    if not bool(((p >= 0) & (p <= 1)).all()):
        raise UserError(f"p_fail was {p_fail}: expected probabilities in [0, 1]")
    # (1 - p^N) / (1 - p) as a sum, which is N at p = 1.
    positive = n * p ** (n - 1) / sum((p**k for k in range(1, n)), start=torch.ones_like(p))
    if variant == "positive":
        return positive, torch.zeros_like(p)
    pass_rate = (1 - p).clamp(min=torch.finfo(p.dtype).eps)
    wrong = n * p / pass_rate
    return positive / pass_rate, wrong if variant == "exact" else -wrong


def check_n(n: int, samples: int | None = None) -> None:
    """Refuse an N that is no whole number of at least 1, or above the samples there are.

    Raises:
        UserError: says what was given and expected.
    """
    if n != int(n) or n < 1:
        raise UserError(f"n was {n}: expected a whole number of samples, at least 1")
    if samples is not None and n > samples:
        raise UserError(f"n {n} with {samples} samples a prompt: expected at least as many samples as n")


def subset_ratio(part: Tensor, whole: Tensor, size: int) -> Tensor:
    """Return C(part, size) / C(whole, size): the chance that a random subset lies within a part."""
    ratio = torch.ones(torch.broadcast_shapes(part.shape, whole.shape), dtype=torch.float64, device=part.device)
    for taken in range(size):
        ratio = ratio * (part - taken).clamp(min=0) / (whole - taken).clamp(min=1)
    return ratio


def _tilt_kl(tilt: Tensor) -> Tensor:
    shrunk = (-tilt).exp()
    return tilt / (1 - shrunk) - 1 - (tilt + torch.log1p(-shrunk) - tilt.log())


def _wins(scores: Tensor, against: Tensor) -> Tensor:
    """Return [..., i, j]: whether score i is at least j of `against`."""
    return scores.unsqueeze(-1) >= against.unsqueeze(-2)


def _weights(samples: Tensor, given: Tensor | None) -> Tensor:
    """Return the samples' probabilities; what is NaN gets 0, and the others share its part."""
    dtype = samples.dtype if samples.is_floating_point() else torch.get_default_dtype()
    known = (~samples.isnan()).to(dtype if given is None else given.dtype)
    weights = known if given is None else given.detach() * known
    return weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
