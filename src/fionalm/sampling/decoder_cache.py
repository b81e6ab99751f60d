"""The own decoder, a token at a time: keys and values of what was read stay in one preallocated cache.

Shapes: `b` rows, `d` d_model, `h` query heads, `k` key and value heads, `e` head size, `v` vocabulary, `t` positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fionalm.models.decoder import Decoder, Rotary, rotary_table

GROWTH = 64


class DecoderCache:
    """Rows of a batch, each a prompt and what was drawn after it, whatever their lengths.

    Submodules are called, never their weights, so linear layers may be replaced (LoRA).
    """

    joins = True
    """Rows of different prompts can be in one batch."""

    def __init__(self, model: Decoder) -> None:
        self.model = model
        self.config = model.config
        self.blocks: list[Any] = list(model.blocks)
        self.lengths: list[int] = []
        self.cache = torch.empty(0)  # [layers, 2, rows, k, t, e]
        self.rotary: Rotary | None = None
        if self.config.positions == "rotary":
            self.rotary = rotary_table(self.config, self.config.max_seq_len, model.device)

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[list[Tensor], Tensor]:
        """Read prompts; return each one's keys and values [layers, 2, k, t, e] and next-token logits [prompts, v]."""
        lengths = [len(prompt) for prompt in prompts]
        longest = max(lengths)
        ids = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts])
        x = self.model.embed(ids.to(self.model.device))
        rotary = None
        if self.rotary is None:
            x = x + self.model.positions.weight[:longest]
        else:
            rotary = (self.rotary[0][:longest], self.rotary[1][:longest])
        layers = []
        for block in self.blocks:
            # Padding stands after every real token, so causal attention never meets it.
            q, k, v = block.attn.project(block.attn_norm(x), rotary)
            grouped = k.shape[1] != q.shape[1]
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
            x = self._finish(block, x, mixed.transpose(1, 2).flatten(2))
            layers.append(torch.stack((k, v)))
        stacked = torch.stack(layers)  # [layers, 2, prompts, k, t, e]
        prefixes = [stacked[:, :, i, :, :length] for i, length in enumerate(lengths)]
        last = x[torch.arange(len(prompts)), torch.tensor(lengths) - 1]
        return prefixes, self.model.lm_head(self.model.norm(last))

    @torch.inference_mode()
    def admit(self, prefixes: Sequence[Tensor]) -> None:
        """Append a row for each prefix."""
        rows = len(self.lengths)
        lengths = [prefix.shape[3] for prefix in prefixes]
        self._reserve(rows + len(prefixes), max(lengths) + GROWTH, prefixes[0])
        for row, prefix in enumerate(prefixes, rows):
            self.cache[:, :, row, :, : prefix.shape[3]] = prefix
        self.lengths += lengths

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Read a token a row; return the logits [b, v] of the next."""
        rows, longest = len(tokens), max(self.lengths) + 1
        self._reserve(rows, longest, self.cache)
        device = self.model.device
        positions = torch.tensor(self.lengths, device=device)
        mask = None
        if min(self.lengths) + 1 < longest:
            mask = (torch.arange(longest, device=device) <= positions.unsqueeze(1))[:, None, None]
        # One sequence of b positions, as far as all but the attention goes.
        x = self.model.embed(torch.tensor(tokens, device=device)).unsqueeze(0)
        rotary = None
        if self.rotary is None:
            x = x + self.model.positions.weight[positions]
        else:
            rotary = (self.rotary[0][positions], self.rotary[1][positions])
        row = torch.arange(rows, device=device)
        groups = self.config.n_heads // self.config.kv_heads
        for block, (keys, values) in zip(self.blocks, self.cache, strict=True):
            q, k, v = block.attn.project(block.attn_norm(x), rotary)
            keys[row, :, positions] = k[0].transpose(0, 1)
            values[row, :, positions] = v[0].transpose(0, 1)
            # The heads that share keys stand where a sequence's queries would: nothing is repeated.
            q = q[0].transpose(0, 1).unflatten(1, (-1, groups))  # [b, k, groups, e]
            past_keys, past_values = keys[:rows, :, :longest], values[:rows, :, :longest]
            mixed = F.scaled_dot_product_attention(q, past_keys, past_values, attn_mask=mask)
            x = self._finish(block, x, mixed.flatten(1).unsqueeze(0))
        self.lengths = [length + 1 for length in self.lengths]
        return self.model.lm_head(self.model.norm(x[0]))

    @torch.inference_mode()
    def keep(self, order: Sequence[int]) -> None:
        """Keep the rows `order` in that order; no row may move towards the end."""
        for target, source in enumerate(order):
            if target != source:
                length = self.lengths[source]
                self.cache[:, :, target, :, :length] = self.cache[:, :, source, :, :length]
        self.lengths = [self.lengths[source] for source in order]

    def _finish(self, block: Any, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + block.attn.out(mixed)
        return x + block.mlp(block.mlp_norm(x))

    def _reserve(self, rows: int, length: int, like: Tensor) -> None:
        old = self.cache
        if old.ndim == 6 and rows <= old.shape[2] and length <= old.shape[4]:
            return
        if old.ndim == 6:
            rows, length = max(rows, old.shape[2]), max(length, old.shape[4] + GROWTH)
        shape = (self.config.n_layers, 2, rows, self.config.kv_heads, length, self.config.head_size)
        self.cache = like.new_zeros(shape)  # masked places must be finite: 0 times NaN is NaN
        if old.ndim == 6:
            self.cache[:, :, : old.shape[2], :, : old.shape[4]] = old
