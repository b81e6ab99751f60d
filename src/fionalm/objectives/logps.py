"""Log-probabilities of given tokens: from logits, or from features in chunks, so that no full logits are ever held.

The second one's outputs are per token and differentiable under any gradient from above, which is what preference and
policy-gradient losses need: their weight of a token is known only after all log-probabilities are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fionalm.objectives.likelihood import LOG2_E, default_chunk


def token_logps(logits: Tensor, targets: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return log softmax(logits / temperature) at the targets, in at least float32.

    Args:
        logits: [..., vocab].
        targets: token ids [...].
        temperature: divides the logits.

    Returns:
        Log-probabilities in nats [...].
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature != 1:
        logits = logits / temperature
    return logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def linear_token_logps(
    features: Tensor, weight: Tensor, targets: Tensor, *, temperature: float = 1.0, chunk: int | None = None
) -> Tensor:
    """Compute `token_logps(features @ weight.T, targets)`, few tokens' logits at a time.

    Backward computes a chunk's probabilities again, unless all tokens fit in one chunk, whose are kept. With a frozen
    `weight` (as under LoRA) nothing is computed twice. It can be differentiated once. Under autocast the products run
    in its dtype, sums in float32.

    Args:
        features: the head's input [..., d].
        weight: the head's weight [vocab, d].
        targets: token ids [...].
        temperature: divides the logits.
        chunk: tokens whose logits are held at once; None fits them to the device.

    Returns:
        Log-probabilities in nats [...], at least float32.
    """
    shape = targets.shape
    features, targets = features.flatten(0, -2), targets.flatten()
    wanted = [torch.is_grad_enabled() and tensor.requires_grad for tensor in (features, weight)]
    chunk = chunk or default_chunk(weight.shape[0], features.device)
    return _apply(features, weight, targets, temperature, chunk, wanted).view(shape)


class _LinearTokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int, wanted: list[bool]
    ) -> Tensor:
        device = features.device.type
        ctx.dtypes = features.dtype, weight.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            features, weight = features.to(dtype), weight.to(dtype)
        with torch.autocast(device, enabled=False):
            return _forward(ctx, features, weight, targets, temperature, chunk, wanted)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grads[0].device.type, enabled=False):
            grad_features, grad_weight = _backward(ctx, grads[0])
        return (
            None if grad_features is None else grad_features.to(ctx.dtypes[0]),
            None if grad_weight is None else grad_weight.to(ctx.dtypes[1]),
            *(None,) * 4,
        )


# Its loop over chunks is no graph worth compiling, and breaks the graph of what calls it in one place.
_apply: Callable[..., Tensor] = torch.compiler.disable(_LinearTokenLogps.apply)  # pyright: ignore[reportAssignmentType]


def _forward(
    ctx: Any, features: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int, wanted: list[bool]
) -> Tensor:
    wide = torch.promote_types(features.dtype, torch.float32)
    log_z = features.new_empty((len(features), 1), dtype=wide)  # in powers of two, as the logits
    chosen = torch.empty_like(log_z)
    # With a frozen weight, a token's gradient is its weight from above times a row that is known here.
    direction = torch.empty_like(features) if wanted[0] and not wanted[1] else None
    kept = None
    buffer = features.new_empty(min(chunk, len(features)), len(weight))
    for start in range(0, len(features), chunk):
        part = slice(start, start + chunk)
        logits = _scaled_logits(features[part], weight, temperature, buffer).to(wide)
        chosen[part] = logits.gather(-1, targets[part].unsqueeze(-1))
        peak = logits.amax(-1, keepdim=True)
        powers = logits.sub_(peak).exp2_()
        total = powers.sum(-1, keepdim=True)
        log_z[part] = peak + total.log2()
        if direction is not None:
            probabilities = powers.div_(total).to(features.dtype)
            torch.sub(weight[targets[part]], probabilities @ weight, out=direction[part])
        elif wanted[1] and len(features) <= chunk:
            kept = powers.div_(total).to(features.dtype)
    ctx.temperature, ctx.chunk, ctx.wanted = temperature, chunk, wanted
    if direction is not None:
        ctx.save_for_backward(direction)
    elif any(wanted):
        ctx.save_for_backward(features, weight, targets, log_z, kept)
    return (chosen - log_z).squeeze(-1).div_(LOG2_E)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    factor = (grad / ctx.temperature).unsqueeze(-1)
    if len(ctx.saved_tensors) == 1:
        return ctx.saved_tensors[0] * factor.to(ctx.saved_tensors[0].dtype), None
    saved: Any = ctx.saved_tensors
    features, weight, targets, log_z, kept = saved
    factor = factor.to(features.dtype)
    wide = log_z.dtype
    scaled = features * factor
    # The logits' gradient is factor * (onehot - probabilities); the factors go to the small matrices.
    grad_features = torch.empty_like(features) if ctx.wanted[0] else None
    grad_weight = torch.zeros_like(weight, dtype=wide)
    buffer = None if kept is not None else features.new_empty(min(ctx.chunk, len(features)), len(weight))
    for start in range(0, len(features), ctx.chunk):
        part = slice(start, start + ctx.chunk)
        if buffer is None:
            probabilities: Any = kept
        else:
            logits = _scaled_logits(features[part], weight, ctx.temperature, buffer).to(wide)
            probabilities = logits.sub_(log_z[part]).exp2_().to(features.dtype)
        if grad_features is not None:
            torch.mm(probabilities, weight, out=grad_features[part])
        if features.dtype == wide:
            grad_weight.addmm_(probabilities.mT, scaled[part], alpha=-1)
        else:
            grad_weight -= probabilities.mT @ scaled[part]
    if grad_features is not None:
        grad_features = weight[targets].sub_(grad_features).mul_(factor)
    grad_weight.index_add_(0, targets, scaled.to(wide))
    return grad_features, grad_weight


def _scaled_logits(features: Tensor, weight: Tensor, temperature: float, buffer: Tensor) -> Tensor:
    # In powers of two, because exp2 is several times faster than exp on processors.
    return buffer[: len(features)].addmm_(features, weight.mT, beta=0, alpha=LOG2_E / temperature)
