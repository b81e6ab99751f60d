"""The decoder-only Transformer: one class for the papers' models and for Llama-family checkpoints.

Shapes: `b` batch, `s` positions, `d` d_model, `h` query heads, `k` key and value heads, `e` head size,
`v` vocabulary.

    model = Decoder(DecoderConfig(d_model=128, n_layers=4), generator=torch.Generator().manual_seed(0))
    logits = model(input_ids).logits
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fionalm.errors import UserError
from fionalm.models.config import DecoderConfig

# Standard deviation of a standard normal truncated at +-2: dividing by it makes the drawn std the wanted one.
TRUNCATED_STD = 0.8796256610342398

Result = TypeVar("Result")
Rotary = tuple[Tensor, Tensor]


class DecoderOutput(NamedTuple):
    """What the decoder returns."""

    logits: Tensor
    """[b, s, v]."""


class Decoder(nn.Module):
    """A causal language model of `config`'s shape.

    Args:
        config: shape and switches.
        generator: source of the initial weights; None takes torch's global one.
    """

    def __init__(self, config: DecoderConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        if config.positions == "learned":
            self.positions = nn.Embedding(config.max_seq_len, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = make_norm(config, config.d_model)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.embed.weight
        self.init_weights(generator)

    @overload
    def forward(
        self, input_ids: Tensor, *, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> DecoderOutput: ...
    @overload
    def forward(
        self,
        input_ids: Tensor,
        head: Callable[[Tensor, Tensor], Result],
        *,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Result: ...
    def forward(
        self,
        input_ids: Tensor,
        head: Callable[[Tensor, Tensor], Any] | None = None,
        *,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Any:
        """Map `input_ids` [b, s] to logits, or to what `head` makes of the features.

        Args:
            input_ids: token ids [b, s], s at most `config.max_seq_len`.
            head: called as `head(features [b, s, d], lm_head.weight [v, d])` in place of the logits. A loss
                that runs here sees the whole weight under FSDP, and DDP reduces its gradients.
            positions: where each token stands [b, s]; None: one after another from 0.
            mask: which positions [b, 1, s, s] (rows: who looks) are attended to, bool; None: all up to one's own.
        """
        features = self.features(input_ids, positions, mask)
        if head is not None:
            return head(features, self.lm_head.weight)
        return DecoderOutput(self.lm_head(features))

    def features(self, input_ids: Tensor, positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Map `input_ids` [b, s] to the head's input [b, s, d]; `positions` and `mask` are those of `forward`.

        Raises:
            UserError: the sequence is longer than `config.max_seq_len`.
        """
        seq_len = input_ids.shape[1]
        if positions is None and seq_len > self.config.max_seq_len:
            raise UserError(f"a sequence of {seq_len} tokens: expected at most max_seq_len {self.config.max_seq_len}")
        x = self.embed(input_ids)
        rotary = None
        if self.config.positions == "learned":
            x = x + (self.positions.weight[:seq_len] if positions is None else self.positions(positions))
        else:
            rotary = rotary_table(self.config, seq_len, x.device)
            if positions is not None:
                rotary = rotary[0][positions], rotary[1][positions]
        for block in self.blocks:
            x = block(x, rotary, mask)
        return self.norm(x)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Draw fresh weights, as training-instabilities does (Wortsman et al. 2023, section 2.1).

        Embeddings: normal with std 1/sqrt(d_model). Other matrices, the untied head included: normal
        truncated at two deviations, with std 1/sqrt(fan-in) after truncation. Norms are the identity, biases
        zero. On the meta device nothing is drawn: call it again after `to_empty`.
        """
        if self.embed.weight.is_meta:
            return
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=self.config.d_model**-0.5, generator=generator)
            elif isinstance(module, nn.Linear):
                if module.weight is not self.embed.weight:
                    std = module.in_features**-0.5 / TRUNCATED_STD
                    nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
                module.reset_parameters()

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.embed.weight.device

    def compile_blocks(self, **options: Any) -> Decoder:
        """Compile each block with `torch.compile(**options)` and return the model.

        All blocks share one compilation, so it takes a fraction of the time of compiling the whole model and
        runs as fast; hooks on the model keep working.
        """
        for block in self.blocks:
            block.compile(**options)
        return self

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the token embedding, under the name that `transformers` models use."""
        return self.embed

    def get_output_embeddings(self) -> nn.Linear:
        """Return the head, under the name that `transformers` models use."""
        return self.lm_head

    @classmethod
    def from_pretrained(cls, path: str | Path, dtype: torch.dtype = torch.float32) -> Decoder:
        """Load a Llama-family folder, a GGUF file or an own folder; see `pretrained.load_decoder`."""
        from fionalm.models.pretrained import load_decoder

        return load_decoder(path, dtype=dtype)

    def save_pretrained(self, folder: str | Path) -> str:
        """Write a folder that `transformers` loads where it can; see `pretrained.save_decoder`."""
        from fionalm.models.pretrained import save_decoder

        return save_decoder(self, folder)


class Block(nn.Module):
    """Pre-norm attention and MLP, each added to the residual stream."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.attn_norm = make_norm(config, config.d_model)
        self.attn = Attention(config)
        self.mlp_norm = make_norm(config, config.d_model)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor, rotary: Rotary | None = None, mask: Tensor | None = None) -> Tensor:
        """Map the residual stream [b, s, d] to the next one."""
        x = x + self.attn(self.attn_norm(x), rotary, mask)
        return x + self.mlp(self.mlp_norm(x))


class Attention(nn.Module):
    """Causal attention with grouped queries; `qkv`'s rows are the heads of queries, keys, then values."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_heads, config.kv_heads, config.head_size
        rows = (self.n_heads + 2 * self.n_kv_heads) * self.head_dim
        self.qkv = nn.Linear(config.d_model, rows, bias=config.has_qkv_bias)
        self.out = nn.Linear(self.n_heads * self.head_dim, config.d_model, bias=config.has_out_bias)
        if config.qk_norm:
            self.q_norm = make_norm(config, self.head_dim)
            self.k_norm = make_norm(config, self.head_dim)

    def forward(self, x: Tensor, rotary: Rotary | None = None, mask: Tensor | None = None) -> Tensor:
        """Map normalised activations [b, s, d] to the attention's output [b, s, d]; `mask` is that of the model."""
        q, k, v = self.project(x, rotary)
        grouped = self.n_kv_heads != self.n_heads
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def qk(self, x: Tensor, rotary: Rotary | None = None) -> tuple[Tensor, Tensor]:
        """Return queries [b, h, s, e] and keys [b, k, s, e] of input [b, s, d], normalised and rotated.

        The attention logits are `q @ k.mT / sqrt(head_dim)`; a probe calls this with the forward's arguments.
        """
        q, k, _ = self.project(x, rotary)
        return q, k

    def project(self, x: Tensor, rotary: Rotary | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries [b, h, s, e], keys and values [b, k, s, e]; computes `rotary` if it is missing."""
        if rotary is None and self.config.positions == "rotary":
            rotary = rotary_table(self.config, x.shape[1], x.device)
        heads = self.qkv(x).unflatten(-1, (-1, self.head_dim))  # [b, s, h + 2k, e]
        q, k, v = heads.split([self.n_heads, self.n_kv_heads, self.n_kv_heads], dim=2)
        if self.config.qk_norm:
            # Autocast leaves the norms' weights in float32, and a norm of two dtypes misses its fused kernel.
            q, k = self.q_norm(q.type_as(self.q_norm.weight)), self.k_norm(k.type_as(self.k_norm.weight))
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        return q.type_as(v).transpose(1, 2), k.type_as(v).transpose(1, 2), v.transpose(1, 2)


class Mlp(nn.Module):
    """Two-layer MLP; gated, `up`'s first half of rows is the gate (Shazeer 2020)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gated = config.mlp == "silu_gated"
        self.up = nn.Linear(config.d_model, config.ffn_size * (2 if self.gated else 1), bias=config.bias)
        self.down = nn.Linear(config.ffn_size, config.d_model, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map [b, s, d] to [b, s, d]."""
        hidden = self.up(x)
        if self.gated:
            gate, value = hidden.chunk(2, dim=-1)
            return self.down(F.silu(gate) * value)
        return self.down(F.gelu(hidden))


def make_norm(config: DecoderConfig, size: int) -> nn.LayerNorm | nn.RMSNorm:
    """Build the config's norm over a last axis of `size`."""
    if config.norm == "rmsnorm":
        return nn.RMSNorm(size, eps=config.norm_eps)
    return nn.LayerNorm(size, eps=config.norm_eps, bias=config.norm_bias)


def rotary_table(config: DecoderConfig, seq_len: int, device: torch.device) -> Rotary:
    """Return every position's cosines and signed sines [s, 1, e] (Su et al. 2021, equation 34).

    They are computed in each forward, which costs little, rather than kept in buffers, which a model on the
    meta device would lose.
    """
    size = config.head_size
    frequencies = config.rope_theta ** -(torch.arange(0, size, 2, device=device, dtype=torch.float32) / size)
    scaling = config.rope_scaling
    if scaling is not None:
        slow = frequencies / scaling.factor
        if scaling.name == "linear":
            frequencies = slow
        else:
            turns = scaling.original_max_seq_len * frequencies / (2 * math.pi)
            ramp = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
            frequencies = torch.lerp(slow, frequencies, ramp.clamp(0, 1))
    angles = torch.outer(torch.arange(seq_len, device=device, dtype=torch.float32), frequencies)
    cos, sin = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Turn each head's pairs (i, i + e/2), as Llama pairs them, of x [b, s, heads, e] by the angles."""
    cos, sin = rotary
    return (x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin).type_as(x)
