"""The two formulas of greedy coordinate gradient: the gradient by one-hot tokens, and the draw of substitutions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from fionalm.posttraining import TokenBatch, completion_logps


def token_gradient(model: nn.Module, batch: TokenBatch, places: slice) -> tuple[Tensor, Tensor]:
    """Return each row's -log p(completion) and its gradient by the one-hot vectors of the tokens at `places`.

    Entry (i, v) is the derivative along e_v in the token's place i, the linear estimate of Zou et al. 2023, equation 4:
    the embedding's output there, e E, is differentiated and multiplied by the table E.

    Args:
        model: has `get_input_embeddings`.
        batch: rows of the same length.
        places: of the string in each row.

    Returns:
        Losses [b] in nats, and gradients [b, places, vocab].
    """
    embedding = cast(Any, model).get_input_embeddings()
    leaves: list[Tensor] = []

    def as_leaf(_module: nn.Module, _given: Any, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    hook = embedding.register_forward_hook(as_leaf)
    try:
        with torch.enable_grad():
            losses = -completion_logps(model, batch)
    finally:
        hook.remove()
    (gradient,) = torch.autograd.grad(losses.sum(), leaves[-1])
    # The module itself makes the table, for some scale what they look up.
    table = embedding(torch.arange(embedding.num_embeddings, device=gradient.device)).detach()
    return losses.detach(), gradient[:, places] @ table.mT


def substitutions(
    gradient: Tensor, ids: Sequence[int], allowed: Sequence[int], top_k: int, count: int, seed: int
) -> list[tuple[int, ...]]:
    """Return up to `count` distinct strings that differ from `ids` in one token (Zou et al. 2023, algorithm 1).

    Each substitutes, at a uniformly drawn place, one of the `top_k` allowed tokens with the steepest descent there.

    Args:
        gradient: of the loss by one-hot tokens [places, vocab].
        ids: the string's tokens.
        allowed: tokens to choose from.
        top_k: how many of them at each place.
        count: how many strings.
        seed: of the draws.
    """
    choice = torch.tensor(allowed, device=gradient.device)
    best = (-gradient[:, choice]).topk(min(top_k, len(allowed)), dim=-1).indices
    table = choice[best].tolist()  # [places][top_k]
    generator = random.Random(seed)
    found: dict[tuple[int, ...], None] = {}
    for _ in range(4 * count):
        where = generator.randrange(len(ids))
        candidate = (*ids[:where], generator.choice(table[where]), *ids[where + 1 :])
        if candidate != tuple(ids):
            found[candidate] = None
        if len(found) == count:
            break
    return list(found)
