"""Exact distributions of a decoder over the 1,296 completions of letter preferences, and what follows from them.

A row holds a prompt, three letters and, side by side, the six fourth letters, which do not see one another: 216 short
rows a prompt give every completion's probability, its end included. Whatever else the model may write is one more
outcome, "malformed", with the lowest reward.
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

PROMPTS_AT_ONCE = 8


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
    count, size = prompts.shape
    n = len(letters)
    stems = torch.cartesian_prod(letters, letters, letters)  # [216, 3]
    rows = torch.cat(
        (
            prompts.repeat_interleave(len(stems), dim=0),
            stems.repeat(count, 1),
            letters.expand(count * len(stems), n),
        ),
        dim=1,
    )
    stem_end = size + 3
    positions = torch.arange(stem_end + n).clamp(max=stem_end)
    seen = torch.ones(stem_end + n, stem_end + n, dtype=torch.bool).tril()
    seen[stem_end:, stem_end:] = torch.eye(n, dtype=torch.bool)
    logits = model(rows, positions=positions.expand(len(rows), -1), mask=seen[None, None]).logits[:, size - 1 :]
    logps = logits.float().log_softmax(-1).unflatten(0, (count, len(stems)))  # [prompts, 216, 4 + n, vocab]
    stem_logps = logps[:, :, :3].gather(-1, stems.expand(count, -1, -1).unsqueeze(-1)).sum((-2, -1))
    last = logps[:, :, 3][..., letters]  # [prompts, 216, n]
    end = logps[:, :, 4:, eos_id]
    return (stem_logps.unsqueeze(-1) + last + end).flatten(1).double()


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
