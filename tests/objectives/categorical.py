"""A tiny categorical policy of which everything can be enumerated: every tuple of samples, and exact gradients."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

LOGITS = torch.tensor([0.3, -0.5, 0.9, 0.1], dtype=torch.float64)


def tuples(samples: int, actions: int = len(LOGITS)) -> Tensor:
    """Return every tuple of actions [actions ** samples, samples]."""
    return torch.tensor(list(itertools.product(range(actions), repeat=samples)))


def gradient(objective: Callable[[Tensor], Tensor], logits: Tensor = LOGITS) -> Tensor:
    """Return d objective(log pi) / d logits by autograd."""
    logits = logits.clone().requires_grad_()
    (found,) = torch.autograd.grad(objective(logits.log_softmax(-1)), logits)
    return found


def finite_difference(objective: Callable[[Tensor], Tensor], logits: Tensor = LOGITS, step: float = 1e-5) -> Tensor:
    """Return d objective(log pi) / d logits by central differences."""
    steps = step * torch.eye(len(logits), dtype=logits.dtype)
    return torch.stack(
        [
            (objective((logits + one).log_softmax(-1)) - objective((logits - one).log_softmax(-1))) / (2 * step)
            for one in steps
        ]
    )


def expected_gradient(loss: Callable[[Tensor, Tensor], Tensor], samples: int, logits: Tensor = LOGITS) -> Tensor:
    """Return -E[d loss / d logits] over every tuple of samples: what ascending the objective follows.

    Args:
        loss: maps sampled actions [tuples, samples] and their log-probabilities, likewise, to losses [tuples].
        samples: of a tuple.
        logits: of the policy.
    """
    actions = tuples(samples, len(logits))
    probabilities = logits.log_softmax(-1)[actions].sum(-1).exp()
    return gradient(lambda log_pi: -(probabilities * loss(actions, log_pi[actions])).sum(), logits)
