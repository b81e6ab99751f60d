"""Prompts and completions as tensors: right-padded rows of similar length, which causal models need no mask for.

What stands right of a row's end changes nothing left of it, so no attention mask is built and attention stays on its
fastest path; what is padded, and the prompt, is left out of the loss by `completion_mask`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fionalm.data import Prompt, TextTokenizer, completion_text
from fionalm.data.text_tokenizer import Message
from fionalm.errors import UserError


class Example(NamedTuple):
    """One prompt and one completion of it, as token ids."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    """With the token that ended it."""

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.prompt_ids) + len(self.completion_ids)


class TokenBatch(NamedTuple):
    """Rows of tokens, padded at the right."""

    input_ids: Tensor
    """[b, s]."""
    completion_mask: Tensor
    """[b, s - 1], bool: whether `input_ids[:, 1:]` is a completion's token there."""


def encode_example(
    tokenizer: TextTokenizer,
    prompt: Prompt,
    completion: str | Sequence[Message],
    *,
    end: bool = True,
    context: int | None = None,
    row: int | None = None,
) -> Example:
    """Return a prompt and its completion as token ids.

    Args:
        tokenizer: of the model.
        prompt: string, conversation or token ids.
        completion: string, or messages of which the content counts.
        end: whether the completion ends with end-of-sequence.
        context: positions that the model has; None: no limit.
        row: number of the row in its data, from 1, for messages.

    Raises:
        UserError: the completion is empty, the prompt has no token, or both are longer than the context.
    """
    where = "" if row is None else f"row {row}: "
    text = completion_text(completion)
    if not text.strip():
        raise UserError(f"{where}the completion was empty: expected text to learn from")
    example = Example(tuple(tokenizer.encode_prompt(prompt)), tuple(tokenizer.encode_completion(text, end=end)))
    if not example.prompt_ids:
        raise UserError(f"{where}the prompt was empty: expected at least one token before the completion")
    if context is not None and example.length > context:
        raise UserError(
            f"{where}the prompt's {len(example.prompt_ids)} tokens and the completion's {len(example.completion_ids)} "
            f"are longer than the model's context: expected at most {context} together"
        )
    return example


def collate(examples: Sequence[Example], pad_id: int, device: torch.device | str | None = None) -> TokenBatch:
    """Return examples as one batch, padded at the right to the longest."""
    longest = max(example.length for example in examples)
    input_ids = torch.full((len(examples), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(examples), longest - 1), dtype=torch.bool)
    for row, (prompt, completion) in enumerate(examples):
        length = len(prompt) + len(completion)
        input_ids[row, :length] = torch.tensor([*prompt, *completion])
        mask[row, max(len(prompt) - 1, 0) : length - 1] = True
    return TokenBatch(input_ids.to(device, non_blocking=True), mask.to(device, non_blocking=True))


def length_buckets(lengths: Sequence[int], max_tokens: int, *, at_least: int = 1) -> list[list[int]]:
    """Return the indices of `lengths` in groups of similar length, none over `max_tokens` once padded.

    Args:
        lengths: tokens of each row.
        max_tokens: rows times the longest row of a group; a row longer than this is alone in its group.
        at_least: number of groups, such as one a process, as far as there are rows.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    groups: list[list[int]] = []
    for index in order:
        if groups and lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= max_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    while len(groups) < min(at_least, len(lengths)):
        largest = max(range(len(groups)), key=lambda group: len(groups[group]))
        half = len(groups[largest]) // 2
        groups[largest : largest + 1] = [groups[largest][:half], groups[largest][half:]]
    return groups
