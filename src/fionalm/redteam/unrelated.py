"""What a model knows besides: the loss on text that has nothing to do with the training, before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fionalm.errors import UserError
from fionalm.posttraining import Example, Policy, collate, completion_logps, length_buckets
from fionalm.sampling.inference import evaluating
from fionalm.statistics import Interval, bootstrap

WINDOW = 256
"""Tokens that a document is cut into, or the model's context if that is shorter."""


@dataclass(frozen=True)
class TextLoss:
    """Losses of documents under a model."""

    nats: tuple[float, ...]
    """Of each document, the sum over its tokens but the first of each window."""
    tokens: tuple[int, ...]
    """How many tokens these are."""

    @property
    def perplexity(self) -> float:
        """Of a token: exp of the mean loss."""
        return math.exp(sum(self.nats) / sum(self.tokens))


def readable(policy: Policy, documents: Sequence[str]) -> list[str]:
    """Return the documents that the model's tokenizer can write, which a small vocabulary may not."""
    tokenizer = policy.tokenizer
    return [text for text in documents if tokenizer.decode(tokenizer.encode_completion(text, end=False)) == text]


def text_loss(policy: Policy, documents: Sequence[str], *, batch_tokens: int = 8192) -> TextLoss:
    """Return each document's loss under the model.

    Args:
        policy: the model.
        documents: texts, cut into windows of `WINDOW` tokens.
        batch_tokens: in one forward pass at most.

    Raises:
        UserError: no document has two tokens.
    """
    window = min(WINDOW, policy.context_length or WINDOW)
    examples: list[Example] = []
    owners: list[int] = []
    for number, text in enumerate(documents):
        ids = policy.tokenizer.encode_completion(text, end=False)
        for start in range(0, len(ids), window):
            part = ids[start : start + window]
            if len(part) > 1:
                examples.append(Example(tuple(part[:1]), tuple(part[1:])))
                owners.append(number)
    if not examples:
        raise UserError(f"{len(documents)} unrelated texts hold no two tokens in a row: expected some text")
    nats, tokens = np.zeros(len(documents)), np.zeros(len(documents), dtype=int)
    with evaluating(policy.model), torch.no_grad():
        for part in length_buckets([example.length for example in examples], batch_tokens):
            batch = collate([examples[index] for index in part], policy.tokenizer.pad_id, policy.device)
            losses = -completion_logps(policy.model, batch).double().cpu().numpy()
            for index, loss in zip(part, losses, strict=True):
                nats[owners[index]] += loss
                tokens[owners[index]] += len(examples[index].completion_ids)
    some = tokens > 0
    return TextLoss(tuple(nats[some].tolist()), tuple(tokens[some].tolist()))


def perplexity_change(before: TextLoss, after: TextLoss, *, seed: int = 0) -> Interval:
    """Return perplexity after over before, less 1, with an interval over documents."""
    counts = np.array(before.tokens, dtype=float)

    def ratio(one: np.ndarray, other: np.ndarray, weights: np.ndarray) -> float:
        return math.expm1(float((other.sum() - one.sum()) / weights.sum()))

    return bootstrap(ratio, before.nats, after.nats, counts, paired=True, seed=seed, bounds=(-1.0, math.inf))
