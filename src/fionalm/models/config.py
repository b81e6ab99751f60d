"""The decoder's configuration: its shape, its switches, its parameter and FLOP counts. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from fionalm.errors import UserError, choice_error

NormName = Literal["layernorm", "rmsnorm"]
PositionsName = Literal["rotary", "learned"]
MlpName = Literal["gelu", "silu_gated"]
RopeScalingName = Literal["linear", "llama3"]


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched past the length that a model was first trained at."""

    name: RopeScalingName = "linear"
    """`linear` divides every frequency by `factor`; `llama3` only the slow ones, with a ramp between."""
    factor: float = 1.0
    low_freq_factor: float = 1.0
    """llama3: wavelengths over original_max_seq_len / low_freq_factor are divided by `factor`."""
    high_freq_factor: float = 4.0
    """llama3: wavelengths under original_max_seq_len / high_freq_factor are left as they are."""
    original_max_seq_len: int = 8192

    def __post_init__(self) -> None:
        if self.name not in get_args(RopeScalingName):
            raise choice_error("rope scaling", self.name, get_args(RopeScalingName))


@dataclass(frozen=True)
class DecoderConfig:
    """Shape and switches of a decoder-only Transformer; the defaults are training-instabilities' model."""

    vocab_size: int = 4096
    """Rows of the token table and of the head."""
    d_model: int = 256
    """Width of the residual stream."""
    n_layers: int = 6
    """Blocks of attention and MLP."""
    n_heads: int = 4
    """Query heads of a block."""
    n_kv_heads: int | None = None
    """Heads of keys and values, each shared by n_heads / n_kv_heads queries. None: n_heads."""
    head_dim: int | None = None
    """None: d_model / n_heads."""
    d_ff: int | None = None
    """Width inside the MLP. None: 4 * d_model."""
    max_seq_len: int = 1024
    """Positions at most."""
    norm: NormName = "layernorm"
    """layernorm or rmsnorm, before attention and MLP and at the end."""
    norm_bias: bool = False
    """LayerNorm's bias; RMSNorm has none."""
    norm_eps: float = 1e-6
    """Added to the variance inside norms."""
    positions: PositionsName = "rotary"
    """rotary, or a learned table."""
    rope_theta: float = 10000.0
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = None
    """Stretching of the rotary frequencies for longer sequences."""
    mlp: MlpName = "gelu"
    """`gelu`: down(gelu(up x)); `silu_gated`: down(silu(gate x) * up x)."""
    qk_norm: bool = False
    """Normalise queries and keys per head, with parameters that the heads share."""
    tie_embeddings: bool = False
    """Use the token table as the head."""
    bias: bool = False
    """A bias on every linear layer but the head."""
    attention_bias: bool | None = None
    """A bias on the attention's linear layers. None: as `bias`."""
    qkv_bias: bool | None = None
    """A bias on queries, keys and values. None: as `attention_bias`."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "n_layers", "n_heads", "max_seq_len"):
            _positive(name, getattr(self, name))
        for name in ("n_kv_heads", "head_dim", "d_ff"):
            if getattr(self, name) is not None:
                _positive(name, getattr(self, name))
        for name, choices in (("norm", NormName), ("positions", PositionsName), ("mlp", MlpName)):
            if getattr(self, name) not in get_args(choices):
                raise choice_error(name, getattr(self, name), get_args(choices))
        if self.head_dim is None and self.d_model % self.n_heads:
            near = _nearest_divisor(self.d_model, self.n_heads)
            raise UserError(
                f"d_model {self.d_model} cannot be split over n_heads {self.n_heads}: "
                f"expected a divisor, the nearest is {near}"
            )
        if self.n_heads % self.kv_heads:
            near = _nearest_divisor(self.n_heads, self.kv_heads)
            raise UserError(
                f"n_heads {self.n_heads} cannot share n_kv_heads {self.kv_heads}: "
                f"expected a divisor, the nearest is {near}"
            )
        if self.positions == "rotary" and self.head_size % 2:
            raise UserError(f"rotary positions turn pairs, so expected an even head size, not {self.head_size}")
        if self.norm == "rmsnorm" and self.norm_bias:
            raise UserError("norm_bias was given with norm 'rmsnorm', which has none: expected norm 'layernorm'")

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.n_kv_heads or self.n_heads

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.head_dim or self.d_model // self.n_heads

    @property
    def ffn_size(self) -> int:
        """Width inside the MLP."""
        return self.d_ff or 4 * self.d_model

    @property
    def has_out_bias(self) -> bool:
        """Whether the attention's output layer has a bias."""
        return self.bias if self.attention_bias is None else self.attention_bias

    @property
    def has_qkv_bias(self) -> bool:
        """Whether queries, keys and values have a bias."""
        return self.has_out_bias if self.qkv_bias is None else self.qkv_bias

    def matmul_parameters(self) -> int:
        """Count the entries of the matrices that every token is multiplied with, the head included."""
        query, key_value = self.n_heads * self.head_size, self.kv_heads * self.head_size
        attention = self.d_model * (2 * query + 2 * key_value)
        mlp = self.d_model * self.ffn_size * (3 if self.mlp == "silu_gated" else 2)
        return self.n_layers * (attention + mlp) + self.vocab_size * self.d_model

    def num_parameters(self, embeddings: bool = True) -> int:
        """Count the parameters; `embeddings=False` leaves out embeddings and head (Kaplan et al. 2020)."""
        head = self.vocab_size * self.d_model
        query, key_value = self.n_heads * self.head_size, self.kv_heads * self.head_size
        norm = 2 if self.norm_bias else 1
        block = 2 * norm * self.d_model
        block += 2 * norm * self.head_size if self.qk_norm else 0
        block += query + 2 * key_value if self.has_qkv_bias else 0
        block += self.d_model if self.has_out_bias else 0
        if self.bias:
            block += self.ffn_size * (2 if self.mlp == "silu_gated" else 1) + self.d_model
        total = self.matmul_parameters() - head + self.n_layers * block + norm * self.d_model
        if embeddings:
            total += head if self.tie_embeddings else 2 * head
            total += self.max_seq_len * self.d_model if self.positions == "learned" else 0
        return total

    def flops_per_token(self, seq_len: int | None = None) -> float:
        """Count the FLOPs of one token's forward and backward pass; see `flops_per_token`."""
        return flops_per_token(self, self.max_seq_len if seq_len is None else seq_len)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DecoderConfig:
        """Build a config from `to_dict`'s values.

        Raises:
            UserError: an unknown field, or a value that no decoder can have.
        """
        names = [field.name for field in fields(cls)]
        for name in values:
            if name not in names:
                raise choice_error("decoder field", name, names)
        values = dict(values)
        if isinstance(values.get("rope_scaling"), Mapping):
            values["rope_scaling"] = RopeScaling(**values["rope_scaling"])
        return cls(**values)


def flops_per_token(config: DecoderConfig, seq_len: int) -> float:
    """FLOPs that training spends on one token of a sequence of `seq_len`, forward and backward.

    6 P + 6 L H (seq_len + 1), where P counts the matrix entries that a token meets (attention, MLP and head;
    not the embedding, which is a look-up), L layers, H = heads times head size. A multiply-add is 2 FLOPs,
    and backward costs twice the forward. The second term is the scores and the weighted sum of values: a
    token at position t attends to t tokens, on average (seq_len + 1) / 2, so it counts the causal half only.
    Norms, softmax and other elementwise work are not counted.
    """
    attention = config.n_layers * config.n_heads * config.head_size * (seq_len + 1)
    return 6.0 * (config.matmul_parameters() + attention)


def _positive(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{name} was {value!r}: expected a whole number of at least 1")


def _nearest_divisor(number: int, wanted: int) -> int:
    divisors = {d for i in range(1, math.isqrt(number) + 1) if number % i == 0 for d in (i, number // i)}
    return min(divisors, key=lambda divisor: (abs(divisor - wanted), divisor))
