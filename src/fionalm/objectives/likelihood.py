"""Cross-entropy of next tokens, with z-loss: once plainly from logits, once from features without holding logits.

z-loss adds `z_loss * log(Z)^2` a token, where Z is the softmax's normaliser (Wortsman et al. 2023, section 3.1.2).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits in flight, in entries: 256 tokens of a vocabulary of 4,096 are 4 MB, which stay in the cache.
CHUNK_ENTRIES = 1 << 20
LOG2_E = math.log2(math.e)


class LogZ(NamedTuple):
    """Statistics of log Z over the tokens that count, detached from the graph."""

    mean: Tensor
    mean_square: Tensor


def cross_entropy_with_z_loss(
    logits: Tensor, targets: Tensor, *, z_loss: float = 0.0, ignore_index: int = -100
) -> tuple[Tensor, LogZ]:
    """Mean cross-entropy plus `z_loss` times the mean of log(Z)^2, in float32.

    Args:
        logits: [..., vocab].
        targets: token ids [...]; `ignore_index` marks positions that do not count.
        z_loss: weight of the z-loss; the paper's is 1e-4.
        ignore_index: the mark.

    Returns:
        The loss, z-loss included (NaN if no token counts), and log Z's statistics.
    """
    logits, targets = logits.flatten(0, -2).float(), targets.flatten()
    kept = targets != ignore_index
    log_z = logits.logsumexp(-1)
    target_logits = logits.gather(-1, targets.where(kept, 0).unsqueeze(-1)).squeeze(-1)
    per_token = (log_z - target_logits + z_loss * log_z.square()).where(kept, 0.0)
    count = kept.sum()
    kept_log_z = log_z.detach().where(kept, 0.0)
    return per_token.sum() / count, LogZ(kept_log_z.sum() / count, kept_log_z.square().sum() / count)


def linear_cross_entropy(
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    z_loss: float = 0.0,
    chunk: int | None = None,
    ignore_index: int = -100,
) -> tuple[Tensor, LogZ]:
    """`cross_entropy_with_z_loss(features @ weight.T, targets)`, holding the logits of one chunk of tokens at a time.

    The gradients of features and weight are computed in the forward pass, while a chunk's probabilities are at hand,
    so backward only scales them. The loss can be differentiated once.

    Args:
        features: the head's input [..., d].
        weight: the head's weight [vocab, d].
        targets: token ids [...]; `ignore_index` marks positions that do not count.
        z_loss: weight of the z-loss.
        chunk: tokens whose logits are held at once; None fits them to the processor's cache.
        ignore_index: the mark.

    Returns:
        The loss, z-loss included (NaN if no token counts), and log Z's statistics.
    """
    features, targets = features.flatten(0, -2), targets.flatten()
    if chunk is None:
        chunk = max(1, CHUNK_ENTRIES // weight.shape[0])
    if torch.is_autocast_enabled(features.device.type):
        dtype = torch.get_autocast_dtype(features.device.type)
        features, weight = features.to(dtype), weight.to(dtype)
    loss, mean, mean_square = _LinearCrossEntropy.apply(
        features, weight, targets, z_loss, chunk, ignore_index
    )  # type: ignore[misc]
    return loss, LogZ(mean, mean_square)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, targets: Tensor, z_loss: float, chunk: int, ignore_index: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        kept = targets != ignore_index
        share = (kept.float() / kept.sum()).unsqueeze(-1)  # [tokens, 1], each token's part of the mean
        targets = targets.where(kept, 0)
        # On processors exp2 is several times faster than exp; its factor costs little on the small matrix.
        scaled = features * LOG2_E
        buffer = features.new_empty(min(chunk, len(features)), len(weight))
        grad_features, grad_weight = torch.empty_like(features), torch.zeros_like(weight)
        log_z = torch.empty_like(share)
        target_logits = torch.empty_like(share)
        for start in range(0, len(features), chunk):
            part = slice(start, start + chunk)
            x = features[part]
            logits = torch.mm(scaled[part], weight.mT, out=buffer[: len(x)])
            peak = logits.amax(-1, keepdim=True)
            target_logits[part] = logits.gather(-1, targets[part].unsqueeze(-1))
            powers = logits.sub_(peak).exp2_()
            total = powers.sum(-1, keepdim=True, dtype=torch.float32)
            log_z[part] = (peak + total.log2()) / LOG2_E
            # The gradient of the logits is share * (powers / total * (1 + 2 z_loss log_z) - onehot). Its rows'
            # factors go to the small matrices, so the large one is passed over as few times as possible.
            factor = (share[part] * (1 + 2 * z_loss * log_z[part]) / total).to(x.dtype)
            torch.mm(powers, weight, out=grad_features[part]).mul_(factor)
            grad_weight.addmm_(powers.mT, x * factor)
        onehot = share.to(features.dtype)
        grad_features.sub_(weight[targets] * onehot)
        grad_weight.index_add_(0, targets, features * onehot, alpha=-1)
        ctx.save_for_backward(grad_features, grad_weight)
        mean, mean_square = (share * log_z).sum(), (share * log_z.square()).sum()
        loss = mean - (share * target_logits).sum() / LOG2_E + z_loss * mean_square
        ctx.mark_non_differentiable(mean, mean_square)
        return loss, mean, mean_square

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        grad_features, grad_weight = ctx.saved_tensors
        return grad_features * grad_loss, grad_weight * grad_loss, None, None, None, None
