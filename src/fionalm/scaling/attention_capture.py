"""The largest attention logit of each block of any causal LM, read while the model runs.

Nothing is patched. While a block runs, a `TorchFunctionMode` sees every torch function that the block calls
and takes the logits from the two ways in which attention is written:

- `F.scaled_dot_product_attention`: the logits are recomputed from its queries, keys, mask and scale;
- a softmax over scores [batch, heads, queries, keys] (transformers' eager attention): the scores are its
  input.

Kernels that are neither (FlexAttention, the flash-attn package) leave no record.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

SOFTMAXES = (F.softmax, torch.softmax, Tensor.softmax)
"""The softmax functions that a model may call; `nn.Softmax` calls the first."""

CHUNK = 2**24
"""Most logits that are held at once while the maximum is taken."""


@torch.no_grad()
def max_attention_logit(
    query: Tensor,
    key: Tensor,
    value: Tensor | None = None,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return the largest logit (a scalar) among the positions that may be attended to, after scale and bias.

    The arguments are those of `F.scaled_dot_product_attention`; `value`, `dropout_p` and `enable_gqa` change
    nothing. query [..., heads, queries, size], key [..., kv heads, keys, size]. Computed in float32, a band
    of queries at a time. If no position may be attended to, the result is -inf.
    """
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    if query.dim() > 3 and query.shape[-3] != key.shape[-3]:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
    query, key = query.detach().float() * factor, key.detach().float()
    n_queries, n_keys = query.shape[-2], key.shape[-2]
    band = max(1, CHUNK // max(1, math.prod(query.shape[:-2]) * n_keys))
    best = query.new_full((), -math.inf)
    for start in range(0, n_queries, band):
        stop = min(start + band, n_queries)
        end = min(stop, n_keys) if is_causal else n_keys
        with torch.autocast(query.device.type, enabled=False):
            logits = query[..., start:stop, :] @ key[..., :end, :].mT  # [..., heads, band, end]
        if is_causal:
            allowed = torch.ones(stop - start, end, dtype=torch.bool, device=logits.device).tril(start)
            logits = logits.masked_fill(~allowed, -math.inf)
        if attn_mask is not None:
            rows = attn_mask[..., start:stop, :end] if attn_mask.shape[-2] > 1 else attn_mask[..., :end]
            logits = logits.masked_fill(~rows, -math.inf) if rows.dtype == torch.bool else logits + rows.float()
        best = torch.maximum(best, logits.amax())
    return best


class AttentionCapture(TorchFunctionMode):
    """While active, hand the largest logit of every attention that runs to `record`."""

    def __init__(self, record: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.record = record

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run `func` as it is, after a look at its inputs."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.record(max_attention_logit(*args, **kwargs))
        elif func in SOFTMAXES:
            scores = args[0] if args else kwargs["input"]
            if _are_scores(scores):
                self.record(scores.detach().float().amax())
        return func(*args, **kwargs)


def _are_scores(scores: Tensor) -> bool:
    """Tell scores over keys from the other softmaxes in a block, such as a router's over experts."""
    return scores.dim() == 4 or (scores.dim() == 3 and scores.shape[-1] == scores.shape[-2])
