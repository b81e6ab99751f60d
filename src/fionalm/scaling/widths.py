"""The same architecture at another width: head size fixed, everything inside proportional."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import TypeVar

from fionalm.errors import UserError
from fionalm.models.config import DecoderConfig

Config = TypeVar("Config")

# names under which configurations keep what must grow with the width
_WIDTH = ("hidden_size", "d_model", "n_embd")
_HEADS = ("num_attention_heads", "n_heads", "n_head")
_KV_HEADS = ("num_key_value_heads", "n_kv_heads")
_INNER = (
    "intermediate_size",
    "d_ff",
    "n_inner",
    "ffn_dim",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "word_embed_proj_dim",
)


def scale_config(config: Config, width: int) -> Config:
    """Return a copy of `config` at another model width.

    The size of a head stays; the number of heads (and of key-value heads) and the inner sizes of the MLPs
    keep their ratio to the width, inner sizes up to rounding.

    Args:
        config: a `DecoderConfig` or the configuration of a transformers model (Llama, GPT-2, ...).
        width: the new d_model.

    Raises:
        UserError: heads or key-value heads cannot keep their ratio; names the nearest widths.
    """
    width_name, heads_name = _first(config, _WIDTH), _first(config, _HEADS)
    if width_name is None or heads_name is None:
        raise UserError(
            f"{type(config).__name__} has no width or number of heads: expected one of {', '.join(_WIDTH)} "
            f"and one of {', '.join(_HEADS)}"
        )
    old, heads = getattr(config, width_name), getattr(config, heads_name)
    changes: dict[str, int] = {width_name: width, heads_name: _scaled(heads, width, old, heads_name)}
    if (kv_heads_name := _first(config, _KV_HEADS)) is not None:
        changes[kv_heads_name] = _scaled(getattr(config, kv_heads_name), width, old, kv_heads_name)
    for name in _INNER:
        if isinstance(getattr(config, name, None), int):
            changes[name] = round(getattr(config, name) * width / old)
    if isinstance(config, DecoderConfig):
        return dataclasses.replace(config, **changes)
    scaled = copy.deepcopy(config)
    for name, value in changes.items():
        setattr(scaled, name, value)
    return scaled


def _first(config: object, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if isinstance(getattr(config, name, None), int)), None)


def _scaled(value: int, width: int, old: int, name: str) -> int:
    scaled, rest = divmod(value * width, old)
    if rest or scaled < 1:
        # width must be a multiple of this for value * width / old to be whole
        step = old // math.gcd(value, old)
        low = max(step, width // step * step)
        raise UserError(
            f"width {width} would give {name} {value * width / old:g}: expected a multiple of {step} "
            f"(nearest: {low} and {low + step})"
        )
    return scaled
