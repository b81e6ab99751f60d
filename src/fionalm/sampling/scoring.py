"""Log-probabilities of given completions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fionalm.data.text_tokenizer import Prompt, TextTokenizer
from fionalm.errors import UserError
from fionalm.models.decoder import Decoder
from fionalm.sampling.decoder_cache import DecoderCache
from fionalm.sampling.inference import bare

TOKENS_AT_ONCE = 1024
LOGITS_AT_ONCE = 256


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
            raise UserError(f"prompts[{index}] has no tokens: expected at least one")
        if context is not None and len(ids) + len(answer) > context:
            raise UserError(
                f"prompts[{index}] and its completion have {len(ids)} and {len(answer)} tokens: expected at most the "
                f"context's {context} together"
            )
        pairs.append((ids, answer))
    # A last token is scored and never read, so completions that differ in it alone (a judge's labels) are one sequence.
    sharing: dict[tuple[int, ...], list[int]] = {}
    for index, (ids, answer) in enumerate(pairs):
        if answer:
            sharing.setdefault((*ids, *answer[:-1]), []).append(index)
    scores: list[list[float]] = [[] for _ in pairs]
    waiting = sorted(sharing, key=len)  # like lengths together: less padding
    while waiting:
        batch = waiting[-max(TOKENS_AT_ONCE // len(waiting[-1]), 1) :]
        del waiting[-len(batch) :]
        places = [(row, index) for row, sequence in enumerate(batch) for index in sharing[sequence]]
        asked = [(row, len(pairs[index][0]) - 1, pairs[index][1]) for row, index in places]
        for (_, index), logps in zip(places, _score_batch(model, batch, asked), strict=True):
            scores[index] = logps
    return scores


def _score_batch(
    model: Any, sequences: Sequence[Sequence[int]], asked: Sequence[tuple[int, int, list[int]]]
) -> list[list[float]]:
    """Return the log-probabilities of tokens that follow a position: `asked` holds (sequence, position, tokens)."""
    longest = max(map(len, sequences))
    device = next(model.parameters()).device
    # Padding stands after every real token, so causal attention never meets it.
    ids = torch.tensor([[*sequence, *[0] * (longest - len(sequence))] for sequence in sequences], device=device)
    where = [(row, start + offset, token) for row, start, tokens in asked for offset, token in enumerate(tokens)]
    rows, positions, targets = (torch.tensor(values, device=device) for values in zip(*where, strict=True))
    logps = _logps_at(model, ids, rows, positions, targets)
    ends = list(itertools.accumulate(len(tokens) for _, _, tokens in asked))
    return [logps[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@torch.no_grad()
def _logps_at(model: Any, ids: Tensor, rows: Tensor, positions: Tensor, targets: Tensor) -> list[float]:
    """Return the log-probabilities of `targets` [n] at n places of `ids`; the own decoder computes no other logits."""
    inner = bare(model)
    logps: list[float] = []
    if isinstance(inner, Decoder):
        features, _ = DecoderCache(inner).read(ids)
        parts = map(inner.lm_head, inner.norm(features[rows, positions]).split(LOGITS_AT_ONCE))
    else:
        parts = model(input_ids=ids, use_cache=False).logits[rows, positions].split(LOGITS_AT_ONCE)
    for logits, chunk in zip(parts, targets.split(LOGITS_AT_ONCE), strict=True):
        wide = logits.float()
        logps += (wide.gather(1, chunk.unsqueeze(1)).squeeze(1) - wide.logsumexp(-1)).tolist()
    return logps
