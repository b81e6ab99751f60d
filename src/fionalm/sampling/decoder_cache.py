"""The own decoder, a token at a time: keys and values of what was read stay in blocks.

Shapes: `b` rows, `d` d_model, `h` query heads, `k` key and value heads, `e` head size, `v` vocabulary, `t` positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fionalm.models.decoder import Decoder, Rotary, rotary_table, rotate
from fionalm.sampling.blocks import Blocks, ReadPrompt

SHARE_FROM = 4
"""Samples of a prompt from which its keys and values are better shared than copied."""


class DecoderCache:
    """Rows of a batch, each a prompt and what was drawn after it, whatever their lengths.

    Keys and values are kept, and attention is computed, in float32 whatever the weights are in. Submodules are
    called, never their weights, so linear layers may be replaced (LoRA).

    Args:
        model: the decoder.
        samples: samples of a prompt.
    """

    joins = True
    """Rows of different prompts can be in one batch."""

    def __init__(self, model: Decoder, samples: int = 1) -> None:
        self.model = model
        self.config = config = model.config
        self.layers: list[Any] = list(model.blocks)
        self.blocks = Blocks(
            layers=config.n_layers,
            kv_heads=config.kv_heads,
            groups=config.n_heads // config.kv_heads,
            head_size=config.head_size,
            share=samples >= SHARE_FROM,
            device=model.device,
        )
        self.rotary: Rotary | None = None
        if config.positions == "rotary":
            self.rotary = rotary_table(config, config.max_seq_len, model.device)

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[list[ReadPrompt], Tensor]:
        """Read prompts; return each one's keys and values, and next-token logits [prompts, v]."""
        lengths = [len(prompt) for prompt in prompts]
        longest = max(lengths)
        device = self.model.device
        ids = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts], device=device)
        x, layers = self.read(ids)
        states = torch.stack(layers).float()  # [layers, 2, prompts, k, t, e]
        read = [ReadPrompt(states[:, :, index, :, :length]) for index, length in enumerate(lengths)]
        last = x[torch.arange(len(prompts), device=device), torch.tensor(lengths, device=device) - 1]
        return read, self.model.lm_head(self.model.norm(last))

    def read(self, ids: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Map sequences [b, s] to the final norm's input [b, s, d], and each layer's keys and values [2, b, k, s, e].

        It calls no whole block, so it needs no other process where FSDP2's parameters were made whole before.
        """
        x, rotary = self._embed(ids, torch.arange(ids.shape[1], device=ids.device))
        layers = []
        for block in self.layers:
            # Padding stands after every real token, so causal attention never meets it.
            q, k, v = block.attn.project(block.attn_norm(x), rotary)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=k.shape[1] != q.shape[1])
            x = x + block.attn.out(mixed.transpose(1, 2).flatten(2))
            x = x + block.mlp(block.mlp_norm(x))
            layers.append(torch.stack((k, v)))
        return x, layers

    @torch.inference_mode()
    def admit(self, prefixes: Sequence[ReadPrompt]) -> None:
        """Append a row for each of `prefixes`."""
        for prompt in prefixes:
            self.blocks.admit(prompt)

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Read a token a row; return the logits [b, v] of the next."""
        tables = self.blocks.tables()
        x, rotary = self._embed(torch.tensor(tokens, device=self.model.device), tables.positions)
        for index, block in enumerate(self.layers):
            q, kv = self._project(block.attn, block.attn_norm(x), rotary)
            mixed = self.blocks.attend(index, q, kv, tables)
            x = x + block.attn.out(mixed.type_as(x))
            x = x + block.mlp(block.mlp_norm(x))
        return self.model.lm_head(self.model.norm(x))

    @torch.inference_mode()
    def keep(self, order: Sequence[int]) -> None:
        """Keep the rows `order` in that order."""
        self.blocks.keep(order)

    def _embed(self, ids: Tensor, positions: Tensor) -> tuple[Tensor, Rotary | None]:
        x = self.model.embed(ids)
        if self.rotary is None:
            return x + self.model.positions(positions), None
        cos, sin = self.rotary
        return x, (cos.index_select(0, positions), sin.index_select(0, positions))

    def _project(self, attn: Any, x: Tensor, rotary: Rotary | None) -> tuple[Tensor, Tensor]:
        """Return scaled queries [b, h, e], and keys then values [b, 2k, e], of x [b, d]: `Attention.project`'s work.

        Queries and keys are turned together, which halves the small operations that a step mostly waits for.
        """
        config = self.config
        heads = attn.qkv(x).view(x.shape[0], -1, config.head_size).float()
        turned = heads[:, : config.n_heads + config.kv_heads]
        if config.qk_norm:
            q, k = turned.split([config.n_heads, config.kv_heads], dim=1)
            q, k = (norm(part.type_as(norm.weight)) for norm, part in ((attn.q_norm, q), (attn.k_norm, k)))
            turned = torch.cat((q, k), dim=1).float()
        if rotary is not None:
            turned = rotate(turned, rotary)
        q, k = turned.split([config.n_heads, config.kv_heads], dim=1)
        return q * config.head_size**-0.5, torch.cat((k, heads[:, config.n_heads + config.kv_heads :]), dim=1)
