"""Any causal language model of `transformers`, a token at a time, with the cache that the model itself makes."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fionalm.sampling.inference import bare


class Prefix(NamedTuple):
    """A prompt that was read."""

    cache: Any
    """The model's cache, of one row."""
    ids: list[int]

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.ids)


class TransformersCache:
    """Rows of a batch, each a prompt and what was drawn after it.

    Rows of a plain key-value cache are joined, padded on the left, and their positions told to the model. Sliding
    windows cannot be padded so: only rows of equal length share a batch, those of one prompt that began together, and
    `joins` says no. A model that keeps anything else (a recurrent state) reads every row anew at each step.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        accepted = inspect.signature(bare(model).forward).parameters
        self.accepts = {name for name in ("position_ids", "logits_to_keep") if name in accepted}
        self.joins = True
        self.cached = True
        self.cache: Any = None
        self.lengths: list[int] = []
        self.read: list[list[int]] = []
        """Every token of each row, where nothing is cached."""

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[list[Prefix], Tensor]:
        """Read prompts one by one; return their caches and next-token logits [prompts, v]."""
        prefixes, logits = [], []
        keep = {"logits_to_keep": 1} if "logits_to_keep" in self.accepts else {}
        for prompt in prompts:
            out = self.model(input_ids=torch.tensor([list(prompt)], device=self.device), use_cache=True, **keep)
            cache = getattr(out, "past_key_values", None)
            prefixes.append(Prefix(cache, list(prompt)))
            logits.append(out.logits[:, -1])
            self.joins, self.cached = _abilities(cache)
        return prefixes, torch.cat(logits)

    @torch.no_grad()
    def admit(self, prefixes: Sequence[Prefix]) -> None:
        """Append a row for each prefix."""
        if not self.cached:
            self.read += [list(prefix.ids) for prefix in prefixes]
            return
        if not self.joins:
            self.cache = copy.deepcopy(prefixes[0].cache)
            self.cache.batch_repeat_interleave(len(prefixes))
            self.lengths = [prefix.length for prefix in prefixes]
            return
        longest = max([*self.lengths, *(prefix.length for prefix in prefixes)])
        if self.cache is None:
            self.cache = copy.copy(prefixes[0].cache)
            self.cache.layers = [copy.copy(layer) for layer in self.cache.layers]
            for layer in self.cache.layers:
                layer.keys, layer.values = layer.keys[:0], layer.values[:0]
        for index, layer in enumerate(self.cache.layers):
            for name in ("keys", "values"):
                parts = [getattr(layer, name), *(getattr(prefix.cache.layers[index], name) for prefix in prefixes)]
                padded = [nn.functional.pad(part, (0, 0, longest - part.shape[-2], 0)) for part in parts]
                setattr(layer, name, torch.cat(padded))
        self.lengths += [prefix.length for prefix in prefixes]

    @torch.no_grad()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Read a token a row; return the logits [b, v] of the next."""
        if not self.cached:
            return self._reread(tokens)
        lengths = torch.tensor(self.lengths, device=self.device).unsqueeze(1)
        longest = max(self.lengths)
        options: dict[str, Any] = {}
        if min(self.lengths) < longest:
            options["attention_mask"] = (torch.arange(longest + 1, device=self.device) >= longest - lengths).long()
        if "position_ids" in self.accepts:
            options["position_ids"] = lengths
        ids = torch.tensor(tokens, device=self.device).unsqueeze(1)
        out = self.model(input_ids=ids, past_key_values=self.cache, use_cache=True, **options)
        self.cache = out.past_key_values
        self.lengths = [length + 1 for length in self.lengths]
        return out.logits[:, -1]

    @torch.no_grad()
    def keep(self, order: Sequence[int]) -> None:
        """Keep the rows `order` in that order."""
        if not self.cached:
            self.read = [self.read[row] for row in order]
            return
        self.lengths = [self.lengths[row] for row in order]
        if not order:
            self.cache = None
            return
        self.cache.batch_select_indices(torch.tensor(order, device=self.device))
        if self.joins:
            longest = max(self.lengths)
            for layer in self.cache.layers:
                layer.keys, layer.values = layer.keys[..., -longest:, :], layer.values[..., -longest:, :]

    def _reread(self, tokens: Sequence[int]) -> Tensor:
        for row, token in zip(self.read, tokens, strict=True):
            row.append(token)
        lengths = torch.tensor([len(row) for row in self.read], device=self.device)
        longest = int(lengths.max())
        # Padding stands after every real token, which a causal model never meets.
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in self.read], device=self.device)
        logits = self.model(input_ids=ids, use_cache=False).logits
        return logits[torch.arange(len(tokens), device=self.device), lengths - 1]


def _abilities(cache: Any) -> tuple[bool, bool]:
    """Return whether rows of different lengths can share such a cache, and whether it can be used at all."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    # Exact classes: those derived from them keep recurrent states besides.
    kinds = {type(layer) for layer in getattr(cache, "layers", None) or ()}
    if not kinds or not kinds <= {DynamicLayer, DynamicSlidingWindowLayer}:
        return True, False
    return DynamicSlidingWindowLayer not in kinds, True
