"""Exact distributions of a decoder over the 1,296 completions of letter preferences, and what follows from them.

A row holds a prompt, two letters and, side by side, the six third letters and the 36 fourth ones, each of which sees
only the letters before it: 36 short rows a prompt give every completion's probability, its end included. Whatever else
the model may write is one more outcome, "malformed", with the lowest reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fionalm.data import TextTokenizer
from fionalm.data.tasks import COMPLETIONS, LETTERS, WORST_REWARD, letter_rewards
from fionalm.models import Decoder

PROMPTS_AT_ONCE = 4


@dataclass(frozen=True)
class Expectations:
    """Means over prompts."""

    reward: float
    """Expected true reward."""
    kl: float
    """KL(policy || reference) over completions and "malformed", in nats."""
    malformed: float
    """Probability of that."""


@torch.no_grad()
def completion_table(model: Decoder, tokenizer: TextTokenizer, prompts: Sequence[str]) -> Tensor:
    """Return the log-probability [prompts, 1296] of every completion, its end included, in nats."""
    letters = torch.tensor([tokenizer.encode_completion(letter, end=False)[0] for letter in LETTERS])
    encoded = torch.tensor([tokenizer.encode_prompt(prompt) for prompt in prompts])
    return torch.cat([_table(model, part, letters, tokenizer.eos_id) for part in encoded.split(PROMPTS_AT_ONCE)])


def _table(model: Decoder, prompts: Tensor, letters: Tensor, eos_id: int) -> Tensor:
    (count, size), n = prompts.shape, len(letters)
    stems = torch.cartesian_prod(letters, letters)  # [36, 2]
    branches = torch.cat((letters, letters.repeat(n)))  # third letters, then the fourth ones after each
    rows = torch.cat(
        (
            prompts.repeat_interleave(len(stems), dim=0),
            stems.repeat(count, 1),
            branches.expand(count * len(stems), -1),
        ),
        dim=1,
    )
    third, fourth = size + 2, size + 2 + n
    total = fourth + n * n
    positions = torch.arange(total).clamp(max=third)
    positions[fourth:] = third + 1
    seen = torch.ones(total, total, dtype=torch.bool).tril()
    seen[third:, third:] = torch.eye(total - third, dtype=torch.bool)
    seen[fourth:, third:fourth] = torch.eye(n, dtype=torch.bool).repeat_interleave(n, dim=0)
    logits = model(rows, positions=positions.expand(len(rows), -1), mask=seen[None, None]).logits[:, size - 1 :]
    logps = logits.float().log_softmax(-1).unflatten(0, (count, len(stems)))  # [prompts, 36, 3 + n + n * n, vocab]
    first_two = logps[:, :, :2].gather(-1, stems.expand(count, -1, -1).unsqueeze(-1)).sum((-2, -1))
    third_logps = logps[:, :, 2][..., letters]  # [prompts, 36, n]
    fourth_logps = logps[:, :, 3 : 3 + n][..., letters]  # [prompts, 36, n, n]
    end = logps[:, :, 3 + n :, eos_id].unflatten(-1, (n, n))
    return (first_two[..., None, None] + third_logps.unsqueeze(-1) + fourth_logps + end).flatten(1).double()


def expectations(logps: Tensor, reference: Tensor, rewards: Tensor) -> Expectations:
    """Return the policy's expected reward and distance from the reference; all tables are [prompts, 1296]."""
    p, q = with_malformed(logps), with_malformed(reference)
    full = torch.cat((rewards, torch.full_like(rewards[:, :1], WORST_REWARD)), dim=1)
    kl = (p * (p / q.clamp_min(1e-300)).clamp_min(1e-300).log()).sum(1)
    return Expectations(float((p * full).sum(1).mean()), float(kl.mean()), float(p[:, -1].mean()))


def win_rates(logps: Tensor, reference: Tensor, rewards: Tensor, scale: float) -> tuple[float, float]:
    """Return how the policy's completions fare against the reference's, exactly.

    Returns:
        The percentage win rate (mean Bradley-Terry probability) and the binary one (ties count half), in [0, 1].
    """
    full = torch.cat((rewards, torch.full_like(rewards[:, :1], WORST_REWARD)), dim=1)
    soft, hard = [], []
    for p, q, reward in zip(with_malformed(logps), with_malformed(reference), full, strict=True):
        levels, index = reward.unique(return_inverse=True)
        mine, theirs = (torch.zeros_like(levels).index_add_(0, index, values) for values in (p, q))
        difference = levels[:, None] - levels[None, :]
        soft.append(mine @ torch.sigmoid(scale * difference) @ theirs)
        hard.append(mine @ (0.5 + 0.5 * difference.sign()) @ theirs)
    return float(torch.stack(soft).mean()), float(torch.stack(hard).mean())


def with_malformed(logps: Tensor) -> Tensor:
    """Return probabilities [prompts, 1297], whose last is that of anything else."""
    p = logps.exp()
    return torch.cat((p, (1 - p.sum(1, keepdim=True)).clamp_min(0)), dim=1)


def reward_table(prompts: Sequence[str]) -> Tensor:
    """Return the true rewards [prompts, 1296]."""
    return torch.tensor(np.array([letter_rewards(prompt) for prompt in prompts]))


def completion_of(index: int) -> str:
    """Return a completion by its column in the tables."""
    return COMPLETIONS[index]
