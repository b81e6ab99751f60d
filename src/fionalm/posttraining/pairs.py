"""Preference pairs as tensors, and both completions' log-probabilities by one forward over their common prompt.

A packed row is prompt, chosen, rejected: the rejected completion's positions start again behind the prompt, and each
completion attends to the prompt and to itself. So the prompt is computed once for both, which pays where prompts are
long; elsewhere a pair is two rows. Either way the head sees the completions' positions alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fionalm.data import TextTokenizer
from fionalm.errors import UserError, nearest
from fionalm.posttraining.batches import encode_example, length_buckets
from fionalm.posttraining.forward import logps_at

SHARING_PAYS_FROM = 1.15
"""Tokens of two rows a pair over those of one, from which one is faster; see `benchmarks/preferences.py`."""
PROMPT, _CHOSEN, _REJECTED, _PADDING = range(4)


class Pair(NamedTuple):
    """A prompt with a chosen and a rejected completion, as token ids, and how sure the choice is."""

    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    soft_label: float = 1.0
    """P(chosen preferred to rejected)."""

    @property
    def shared_length(self) -> int:
        """Tokens of the packed row."""
        return len(self.prompt_ids) + len(self.chosen_ids) + len(self.rejected_ids)

    @property
    def longest(self) -> int:
        """Tokens of the prompt with the longer completion."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))


class PairBatch(NamedTuple):
    """Rows of tokens, padded at the right, and which of their tokens count for whom."""

    input_ids: Tensor
    """[rows, s]: a row a pair when packed, else the chosen rows and then the rejected ones."""
    segments: Tensor | None
    """Which part of a packed row each token is of [rows, s]; None: rows are not packed."""
    positions: Tensor | None
    """Each token's position [rows, s]; None: as they stand."""
    sources: Tensor
    """Where in the flattened rows a completion's tokens are predicted [n]."""
    targets: Tensor
    """Those tokens [n]."""
    owners: Tensor
    """Which completion each is of [n]: the pair's index, plus the number of pairs if rejected."""
    size: int
    """Number of pairs."""


def encode_pair(
    tokenizer: TextTokenizer,
    row: Mapping[str, Any],
    *,
    number: int,
    context: int | None = None,
    column: str = "soft_label",
) -> Pair:
    """Return a row's pair; without the column `soft_label` the chosen completion is surely preferred.

    Args:
        tokenizer: of the model.
        row: `prompt`, `chosen` and `rejected`, strings or conversations.
        number: of the row in its data, from 1, for messages.
        context: positions that the model has; None: no limit.
        column: of the labels.

    Raises:
        UserError: a missing column, an empty completion, a pair that is longer than the context, or a label that is no
            probability (an empty cell is none).
    """
    for name in ("prompt", "chosen", "rejected"):
        if name not in row:
            raise UserError(f"row {number} has no {name!r}: it has {', '.join(row)}{nearest(name, row)}")
    value = row.get(column, 1.0)
    try:
        label = float(value)
    except (TypeError, ValueError):
        label = float("nan")
    if not 0 <= label <= 1:
        raise UserError(f"row {number}: the {column} is {value!r}: expected a probability in [0, 1]")
    chosen = encode_example(tokenizer, row["prompt"], row["chosen"], context=context, row=number)
    rejected = encode_example(tokenizer, row["prompt"], row["rejected"], context=context, row=number)
    return Pair(chosen.prompt_ids, chosen.completion_ids, rejected.completion_ids, label)


def sharing_gain(pairs: Sequence[Pair]) -> float:
    """Return how many times fewer tokens the pairs have when packed."""
    separate = sum(2 * len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids) for pair in pairs)
    return separate / max(1, sum(pair.shared_length for pair in pairs))


def pair_buckets(pairs: Sequence[Pair], max_tokens: int, *, shared: bool, at_least: int = 1) -> list[list[int]]:
    """Return the pairs' indices in groups of similar length, none over `max_tokens` once padded."""
    lengths = [pair.shared_length if shared else 2 * pair.longest for pair in pairs]
    return length_buckets(lengths, max_tokens, at_least=at_least)


def collate_pairs(pairs: Sequence[Pair], pad_id: int, *, shared: bool, device: Any = None) -> PairBatch:
    """Return pairs as one batch, packed if `shared`."""
    count = len(pairs)
    completions = [pair.chosen_ids for pair in pairs] + [pair.rejected_ids for pair in pairs]
    rows = count if shared else 2 * count
    longest = max(pair.shared_length if shared else pair.longest for pair in pairs)
    input_ids = torch.full((rows, longest), pad_id)
    segments = torch.full((rows, longest), _PADDING) if shared else None
    positions = torch.zeros((rows, longest), dtype=torch.long) if shared else None
    sources: list[Tensor] = []
    for owner, completion in enumerate(completions):
        pair, rejected = pairs[owner % count], owner >= count
        row = owner % count if shared else owner
        prompt, length = len(pair.prompt_ids), len(completion)
        start = prompt + (len(pair.chosen_ids) if shared and rejected else 0)
        input_ids[row, :prompt] = torch.tensor(pair.prompt_ids)
        input_ids[row, start : start + length] = torch.tensor(completion)
        source = torch.arange(start - 1, start + length - 1)
        source[0] = prompt - 1
        sources.append(row * longest + source)
        if segments is not None and positions is not None:
            segments[row, :prompt] = PROMPT
            segments[row, start : start + length] = _REJECTED if rejected else _CHOSEN
            positions[row, :prompt] = torch.arange(prompt)
            positions[row, start : start + length] = torch.arange(prompt, prompt + length)
    lengths = torch.tensor([len(completion) for completion in completions])
    tensors = (
        input_ids,
        segments,
        positions,
        torch.cat(sources),
        torch.tensor([token for completion in completions for token in completion]),
        torch.arange(2 * count).repeat_interleave(lengths),
    )
    return PairBatch(*(None if t is None else t.to(device, non_blocking=True) for t in tensors), size=count)  # pyright: ignore[reportArgumentType]


def pair_logps(model: nn.Module, batch: PairBatch, *, average: bool = False) -> tuple[Tensor, Tensor]:
    """Return the log-probability of each pair's chosen and rejected completion given the prompt, in nats [pairs].

    Args:
        model: maps `input_ids` to `.logits`.
        batch: of `collate_pairs`.
        average: the mean over a completion's tokens in place of the sum.
    """
    logps = pair_token_logps(model, batch)
    sums = logps.new_zeros(2 * batch.size).index_add(0, batch.owners, logps)
    if average:
        sums = sums / torch.bincount(batch.owners, minlength=2 * batch.size)
    return sums[: batch.size], sums[batch.size :]


def pair_token_logps(model: nn.Module, batch: PairBatch) -> Tensor:
    """Return the log-probability of each of the batch's `targets` [n], in nats."""
    mask = None if batch.segments is None else attention_mask(batch.segments)
    return logps_at(model, batch.input_ids, batch.sources, batch.targets, positions=batch.positions, mask=mask)


def attention_mask(segments: Tensor) -> Tensor:
    """Return which positions of packed rows see which [rows, 1, s, s]: the prompt and one's own part, up to oneself."""
    own = segments.unsqueeze(-1) == segments.unsqueeze(-2)
    seen = own | (segments == PROMPT).unsqueeze(-2)
    return seen.tril().unsqueeze(1)


@torch.no_grad()
def can_share(model: nn.Module) -> bool:
    """Tell, by trying it once, whether the model computes packed rows as it does separate ones.

    The own decoder does. A model of `transformers` has to take positions and a four-dimensional mask; one with a
    sliding window would look past it, and state-space models take no mask at all.
    """
    settings = getattr(model, "config", None)
    if getattr(settings, "sliding_window", None):
        return False
    size = model.get_input_embeddings().num_embeddings  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    tokens = [1 + index % (size - 1) for index in range(12)]
    pair = Pair(tuple(tokens[:5]), tuple(tokens[5:9]), tuple(tokens[9:]))
    device = next(model.parameters()).device
    try:
        packed, separate = (
            torch.cat(pair_logps(model, collate_pairs([pair, pair], 0, shared=shared, device=device)))
            for shared in (True, False)
        )
    except (TypeError, ValueError, RuntimeError, NotImplementedError):
        return False
    tolerance = 1e-4 if packed.dtype in (torch.float32, torch.float64) else 1e-1
    return torch.allclose(packed, separate, rtol=tolerance, atol=tolerance)
