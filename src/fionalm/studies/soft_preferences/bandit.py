"""The bandit of 100 actions (Furuta et al. 2024, Figure 1 right), without sampling: losses are exact expectations.

Pairs of actions come from a data distribution whose mode has a low reward; labels are Bradley-Terry under the true
reward; the reference is the data distribution. A table of logits is trained on the expected loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fionalm.objectives import PreferenceKind, preference_loss

ACTIONS, LR = 100, 0.05


@dataclass(frozen=True)
class Bandit:
    """The problem: everything is over the actions [100]."""

    reward: Tensor
    data: Tensor
    """Probability of each action in the data, and under the reference."""

    @property
    def labels(self) -> Tensor:
        """P(a preferred to b) [100, 100]."""
        return torch.sigmoid(self.reward[:, None] - self.reward[None, :])

    @property
    def low(self) -> Tensor:
        """Whether an action's reward is below the average action's."""
        return self.reward < self.reward.mean()


def make_bandit() -> Bandit:
    """Return a reward with a high and a low peak, and data that are mostly around the low one."""
    place = torch.linspace(0, 1, ACTIONS, dtype=torch.float64)

    def bump(centre: float, width: float) -> Tensor:
        return torch.exp(-((place - centre) ** 2) / (2 * width**2))

    reward = 2.0 * bump(0.8, 0.1) + 0.6 * bump(0.25, 0.12)
    mode = bump(0.25, 0.08)
    data = 0.85 * mode / mode.sum() + 0.15 / ACTIONS
    return Bandit(reward, data)


def train_bandit(bandit: Bandit, kind: PreferenceKind, steps: int, *, beta: float = 1.0) -> Tensor:
    """Return the policy [100] that `steps` updates of Adam make of the reference under the exact expected loss."""
    reference = bandit.data.log()
    weights = bandit.data[:, None] * bandit.data[None, :]
    first, second = torch.triu_indices(ACTIONS, ACTIONS, offset=1)
    weight = 2 * weights[first, second]
    labels = bandit.labels[first, second]
    logits = reference.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=LR)
    for _ in range(steps):
        logps = logits.log_softmax(-1)
        losses = preference_loss(
            logps[first],
            logps[second],
            reference[first],
            reference[second],
            soft_labels=labels,
            kind=kind,
            beta=beta,
        )
        loss = (weight * losses).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return logits.detach().softmax(-1)


def implied_preferences(bandit: Bandit, policy: Tensor, beta: float = 1.0) -> Tensor:
    """Return the policy's own P(a preferred to b) = sigmoid(beta h) [100, 100]."""
    ratio = policy.log() - bandit.data.log()
    return torch.sigmoid(beta * (ratio[:, None] - ratio[None, :]))


def label_distance(bandit: Bandit, policy: Tensor, beta: float = 1.0) -> float:
    """Return the mean distance of implied preferences from labels, over pairs of the data."""
    weights = bandit.data[:, None] * bandit.data[None, :]
    return float((weights * (implied_preferences(bandit, policy, beta) - bandit.labels).abs()).sum())


def gradient_scales(kind: PreferenceKind, label: float, log_ratios: Sequence[float], beta: float = 0.1) -> list[float]:
    """Return a loss's slope -dL/dh at log-ratios h, over beta, by differentiation (Figure 1 left)."""
    h = torch.tensor(log_ratios, dtype=torch.float64, requires_grad=True)
    zeros = torch.zeros_like(h)
    losses = preference_loss(
        h, zeros, zeros, zeros, soft_labels=torch.full_like(h, label).detach(), kind=kind, beta=beta
    )
    (gradient,) = torch.autograd.grad(losses.sum(), h)
    return (-gradient / beta).tolist()
