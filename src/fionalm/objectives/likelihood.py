"""Cross-entropy of next tokens with z-loss: once plainly from logits, once from features in small chunks.

The z-loss adds `z_loss * log(Z)^2` a token, Z being the softmax's normaliser, so that log Z stays near 0
(Wortsman et al. 2023, section 3.1.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LOG2_E = math.log2(math.e)


class LogZ(NamedTuple):
    """Statistics of log Z over the tokens that count, detached from the graph."""

    mean: Tensor
    mean_square: Tensor


def cross_entropy_with_z_loss(
    logits: Tensor, targets: Tensor, *, z_loss: float = 0.0, ignore_index: int = -100
) -> tuple[Tensor, LogZ]:
    """Return the mean cross-entropy plus `z_loss` times the mean of log(Z)^2, in at least float32.

    Args:
        logits: [..., vocab].
        targets: token ids [...]; `ignore_index` marks positions that do not count.
        z_loss: weight of the z-loss; the paper's is 1e-4.
        ignore_index: the mark.

    Returns:
        The loss in nats a token, z-loss included (NaN if no token counts), and log Z's statistics. Without
        the z-loss it is `loss - z_loss * statistics.mean_square`.
    """
    logits, targets = logits.flatten(0, -2).to(_wide(logits.dtype)), targets.flatten()
    kept = targets != ignore_index
    share = kept.to(logits.dtype) / kept.sum()
    log_z = logits.logsumexp(-1)
    target_logits = logits.gather(-1, targets.where(kept, 0).unsqueeze(-1)).squeeze(-1)
    loss = (share * (log_z - target_logits + z_loss * log_z.square())).sum()
    log_z = log_z.detach()
    return loss, LogZ((share * log_z).sum(), (share * log_z.square()).sum())


def linear_cross_entropy(
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    z_loss: float = 0.0,
    chunk: int | None = None,
    ignore_index: int = -100,
) -> tuple[Tensor, LogZ]:
    """Compute `cross_entropy_with_z_loss(features @ weight.T, targets)`, few tokens' logits at a time.

    The forward pass also computes the gradients of features and weight, while a chunk's probabilities are at
    hand; backward only scales them. So the loss can be differentiated once, and `weight`'s gradient is held
    from the forward pass on. Under autocast the products run in its dtype, sums and log Z in float32.

    Args:
        features: the head's input [..., d].
        weight: the head's weight [vocab, d].
        targets: token ids [...]; `ignore_index` marks positions that do not count.
        z_loss: weight of the z-loss.
        chunk: tokens whose logits are held at once; None fits them to the device.
        ignore_index: the mark.

    Returns:
        The loss in nats a token, z-loss included (NaN if no token counts), and log Z's statistics.
    """
    features, targets = features.flatten(0, -2), targets.flatten()
    wanted = [torch.is_grad_enabled() and tensor.requires_grad for tensor in (features, weight)]
    chunk = chunk or default_chunk(weight.shape[0], features.device)
    loss, mean, mean_square = _apply(features, weight, targets, z_loss, chunk, ignore_index, wanted)
    return loss, LogZ(mean, mean_square)


def default_chunk(vocab_size: int, device: torch.device) -> int:
    """Return how many tokens' logits to hold: 4 MB on a processor, which caches them, elsewhere 256 MB."""
    on_processor = device.type == "cpu"
    return max(256 if on_processor else 1024, (1 << 20 if on_processor else 1 << 26) // vocab_size)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        targets: Tensor,
        z_loss: float,
        chunk: int,
        ignore_index: int,
        wanted: list[bool],
    ) -> tuple[Tensor, Tensor, Tensor]:
        device, dtypes = features.device.type, (features.dtype, weight.dtype)
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            features, weight = features.to(dtype), weight.to(dtype)
        with torch.autocast(device, enabled=False):
            *sums, grad_features, grad_weight = _loss_and_gradients(
                features, weight, targets, z_loss, chunk, ignore_index, wanted
            )
        ctx.save_for_backward(
            None if grad_features is None else grad_features.to(dtypes[0]),
            None if grad_weight is None else grad_weight.to(dtypes[1]),
        )
        ctx.mark_non_differentiable(*sums[1:])
        return sums[0], sums[1], sums[2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        grads = [None if grad is None else (grad * grad_loss).to(grad.dtype) for grad in ctx.saved_tensors]
        return (*grads, None, None, None, None, None)


# Its loop over chunks is no graph worth compiling, and breaks the graph of what calls it in one place.
_apply: Callable[..., Any] = torch.compiler.disable(_LinearCrossEntropy.apply)  # pyright: ignore[reportAssignmentType]


def _loss_and_gradients(
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    z_loss: float,
    chunk: int,
    ignore_index: int,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return loss, mean of log Z, mean of log(Z)^2, and the wanted gradients of features and weight."""
    dtype, wide = features.dtype, _wide(features.dtype)
    kept = targets != ignore_index
    share = (kept.to(wide) / kept.sum()).unsqueeze(-1)  # [tokens, 1], each token's part of the mean
    targets = targets.where(kept, 0)
    log_z, target_logits = torch.empty_like(share), torch.empty_like(share)
    grad_features = torch.empty_like(features) if wanted[0] else None
    grad_weight = torch.zeros_like(weight, dtype=wide) if wanted[1] else None
    buffer = features.new_empty(min(chunk, len(features)), len(weight))
    for start in range(0, len(features), chunk):
        part = slice(start, start + chunk)
        x = features[part]
        # In powers of two, because exp2 is several times faster than exp on processors.
        logits = buffer[: len(x)].addmm_(x, weight.mT, beta=0, alpha=LOG2_E).to(wide)
        target_logits[part] = logits.gather(-1, targets[part].unsqueeze(-1))
        peak = logits.amax(-1, keepdim=True)
        powers = logits.sub_(peak).exp2_()
        total = powers.sum(-1, keepdim=True)
        log_z[part] = peak + total.log2()
        # The logits' gradient is share * ((1 + 2 z_loss log Z) powers / total - onehot). Its rows' factors
        # go to the small matrices, and onehot waits until after the loop: fewer passes over the large one.
        factor = (share[part] * (1 + (2 * z_loss / LOG2_E) * log_z[part]) / total).to(dtype)
        powers = powers.to(dtype)
        if grad_features is not None:
            torch.mm(powers, weight, out=grad_features[part]).mul_(factor)
        if grad_weight is not None and dtype == wide:
            grad_weight.addmm_(powers.mT, x * factor)
        elif grad_weight is not None:
            grad_weight += powers.mT @ (x * factor)
    if grad_features is not None:
        grad_features.sub_(weight[targets] * share.to(dtype))
    if grad_weight is not None:
        grad_weight.index_add_(0, targets, features * share, alpha=-1)
    log_z, target_logits = log_z / LOG2_E, target_logits / LOG2_E
    mean, mean_square = (share * log_z).sum(), (share * log_z.square()).sum()
    return (
        (share * (log_z - target_logits)).sum() + z_loss * mean_square,
        mean,
        mean_square,
        grad_features,
        grad_weight,
    )


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
