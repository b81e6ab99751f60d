"""Log-probabilities of tokens under a causal language model, and the features that heads read.

Logits are computed for the positions that are asked for alone, and never held whole: the own decoder hands its
features to `linear_token_logps`, and so does a `transformers` model whose logits are found to be its last hidden
state times the head's weight. Any other model (soft-capped or scaled logits, biased heads) computes its own logits.
"""

from __future__ import annotations

import inspect
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fionalm.objectives import linear_token_logps
from fionalm.objectives import token_logps as logps_of_logits
from fionalm.posttraining.batches import TokenBatch

_plain_heads: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def token_logps(model: nn.Module, input_ids: Tensor, *, mask: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    """Return log-probabilities of `input_ids[:, 1:]` given what is before each: [b, s - 1], in nats.

    Args:
        model: maps `input_ids` to `.logits`.
        input_ids: [b, s]; padding at the right needs no mask.
        mask: [b, s - 1], bool; where it is False nothing is computed and the result is 0. None: everywhere.
        temperature: divides the logits.
    """
    targets = input_ids[:, 1:]
    if mask is None:
        mask = torch.ones_like(targets, dtype=torch.bool)
    sources = F.pad(mask, (0, 1)).flatten().nonzero().squeeze(-1)
    found = logps_at(model, input_ids, sources, targets[mask], temperature=temperature)
    return found.new_zeros(targets.shape).masked_scatter(mask, found)


def logps_at(
    model: nn.Module,
    input_ids: Tensor,
    sources: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    positions: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Return log-probabilities of any tokens at any places: [n], in nats.

    Args:
        model: maps `input_ids` to `.logits`.
        input_ids: [b, s].
        sources: indices [n] into the flattened [b, s]: whose next token it is.
        targets: those next tokens [n].
        temperature: divides the logits.
        positions: where each token stands [b, s]; None: one after another from 0.
        mask: which positions [b, 1, s, s] (rows: who looks) are attended to, bool; None: all up to one's own.
    """
    if _takes_head(model):
        placed = {} if positions is None else {"positions": positions, "mask": mask}

        def head(x: Tensor, weight: Tensor) -> Tensor:
            return linear_token_logps(x.flatten(0, 1)[sources], weight, targets, temperature=temperature)

        return model(input_ids, head=head, **placed)
    inputs = _inputs(model, input_ids, positions, mask)
    if _has_plain_head(model, input_ids):
        x = _base(model)(**inputs).last_hidden_state.flatten(0, 1)[sources]
        return linear_token_logps(x, _head(model).weight, targets, temperature=temperature)
    return logps_of_logits(model(**inputs).logits.flatten(0, 1)[sources], targets, temperature=temperature)


def completion_logps(model: nn.Module, batch: TokenBatch, *, temperature: float = 1.0) -> Tensor:
    """Return each completion's log-probability given its prompt, the sum over its tokens: [b], in nats."""
    return token_logps(model, batch.input_ids, mask=batch.completion_mask, temperature=temperature).sum(-1)


def features(
    model: nn.Module, input_ids: Tensor, *, positions: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Return the head's input [b, s, d] at every position; what a value or reward head reads.

    A padded row's features are right up to its end. `positions` and `mask` are those of `logps_at`.
    """
    if _takes_head(model):
        placed = {} if positions is None else {"positions": positions, "mask": mask}
        return model(input_ids, head=lambda found, _: found, **placed)
    return _base(model)(**_inputs(model, input_ids, positions, mask)).last_hidden_state


def _inputs(model: nn.Module, input_ids: Tensor, positions: Tensor | None, mask: Tensor | None) -> dict[str, Any]:
    """Return what a model of `transformers` is called with."""
    inputs: dict[str, Any] = {"input_ids": input_ids, "use_cache": False}
    if positions is not None:
        inputs["position_ids"] = positions
    if mask is not None:  # additive, which every way of attention takes
        dtype = next(model.parameters()).dtype
        inputs["attention_mask"] = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
    return inputs


def try_head(model: nn.Module, device: torch.device) -> None:
    """Find out, by a few tokens, how the model computes its logits; else its first use does.

    Call it before FSDP2 spreads the model: a first use that only some processes have would leave them out of step.
    """
    if not _takes_head(model):
        _has_plain_head(model, torch.arange(4, device=device)[None])


def _takes_head(model: nn.Module) -> bool:
    return "head" in inspect.signature(model.forward).parameters


def _has_plain_head(model: nn.Module, input_ids: Tensor) -> bool:
    """Tell, by trying it once, whether the logits are the last hidden state times the head's weight."""
    if model not in _plain_heads:
        head = _head(model)
        is_linear = isinstance(head, nn.Linear) and head.bias is None and _base(model) is not None
        _plain_heads[model] = is_linear and _gives_logits(model, head, input_ids[:1, :4])
    return _plain_heads[model]


@torch.no_grad()
def _gives_logits(model: nn.Module, head: nn.Linear, tried: Tensor) -> bool:
    seen: list[Tensor] = []

    def enlarge(_: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        # Logits around 100 show what a cap would do, which small ones hardly feel.
        seen[:] = [given[0], given[0] * (100 / (given[0] @ head.weight.T).abs().amax())]
        return (seen[1],)

    hook = head.register_forward_pre_hook(enlarge)
    try:
        with torch.autocast(tried.device.type, enabled=False):
            logits = model(input_ids=tried, use_cache=False).logits
            hidden = features(model, tried)
            if not seen or hidden.shape != seen[0].shape:
                return False
            expected = seen[1] @ head.weight.T
    finally:
        hook.remove()
    tolerance = 1e-3 if hidden.dtype == torch.float32 else 5e-2
    same = torch.allclose(hidden, seen[0], rtol=tolerance, atol=tolerance)
    return same and torch.allclose(logits.to(expected), expected, rtol=tolerance, atol=10 * tolerance)


def _base(model: Any) -> Any:
    return getattr(model, getattr(model, "base_model_prefix", "") or "model", None)


def _head(model: Any) -> Any:
    return model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
