"""Log-probabilities of given completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fionalm.data.text_tokenizer import Prompt, TextTokenizer
from fionalm.errors import UserError
from fionalm.models.decoder import Decoder

TOKENS_AT_ONCE = 2048


@torch.no_grad()
def score(
    model: Any,
    tokenizer: TextTokenizer,
    context: int | None,
    prompts: Sequence[Prompt],
    completions: Sequence[str | Sequence[int]],
) -> list[list[float]]:
    """Return each completion token's log-probability; see `EngineSampler.score`."""
    if len(prompts) != len(completions):
        raise UserError(f"{len(prompts)} prompts and {len(completions)} completions: expected as many of each")
    pairs: list[tuple[list[int], list[int]]] = []
    for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        ids = tokenizer.encode_prompt(prompt)
        answer = tokenizer.encode_completion(completion, end=False) if isinstance(completion, str) else list(completion)
        if not ids:
            raise UserError(f"prompt {index} has no tokens: expected at least one")
        if context is not None and len(ids) + len(answer) > context:
            raise UserError(
                f"prompt {index} and its completion have {len(ids)} and {len(answer)} tokens: expected at most the "
                f"context's {context} together"
            )
        pairs.append((ids, answer))
    scores: list[list[float]] = [[] for _ in pairs]
    # Like lengths together: less padding.
    waiting = sorted(range(len(pairs)), key=lambda index: sum(map(len, pairs[index])))
    while waiting:
        longest = sum(map(len, pairs[waiting[-1]]))
        batch = waiting[-max(TOKENS_AT_ONCE // longest, 1) :]
        del waiting[-len(batch) :]
        for index, logps in zip(batch, _score_batch(model, [pairs[index] for index in batch]), strict=True):
            scores[index] = logps
    return scores


def _score_batch(model: Any, pairs: Sequence[tuple[list[int], list[int]]]) -> list[list[float]]:
    rows = [prompt + completion for prompt, completion in pairs]
    longest = max(map(len, rows))
    device = next(model.parameters()).device
    # Padding stands after every real token, so causal attention never meets it.
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
    where = [
        (row, len(prompt) - 1 + position)
        for row, (prompt, completion) in enumerate(pairs)
        for position in range(len(completion))
    ]
    if not where:
        return [[] for _ in pairs]
    row_index, position = (torch.tensor(index, device=device) for index in zip(*where, strict=True))
    logits = _logits_at(model, ids, row_index, position).float()
    targets = ids[row_index, position + 1].unsqueeze(1)
    logps = (logits.gather(1, targets).squeeze(1) - logits.logsumexp(-1)).tolist()
    scores, start = [], 0
    for _, completion in pairs:
        scores.append(logps[start : start + len(completion)])
        start += len(completion)
    return scores


def _logits_at(model: Any, ids: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
    """Return the logits [n, v] at n places of `ids`; the own decoder computes no others."""
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    if isinstance(bare, Decoder):
        return bare.lm_head(bare.features(ids)[rows, positions])
    return model(input_ids=ids, use_cache=False).logits[rows, positions]
