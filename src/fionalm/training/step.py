"""One optimizer step: loss, accumulated gradients, clipping, update. And the same loss without gradients.

module = LossModule(model, z_loss=1e-4)
loss = train_step(module, optimizer, batch, clip_norm=1.0).loss
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fionalm.objectives import cross_entropy_with_z_loss, linear_cross_entropy


class Losses(NamedTuple):
    """What a forward pass returns."""

    total: Tensor
    """What is differentiated: cross-entropy and z-loss."""
    statistics: Tensor
    """[3]: cross-entropy, mean of log Z, mean of log(Z)^2; detached."""


class StepResult(NamedTuple):
    """What an update did; tensors, so that no step waits for the device."""

    statistics: Tensor
    """[3], as in `Losses`, the mean over the batch's tokens."""
    grad_norm: Tensor | None
    """Norm of the gradient before clipping; None without clipping."""


class LossModule(nn.Module):
    """A causal language model and its loss in one forward, so that DDP, FSDP and compile see the whole of it.

    The model maps `input_ids` to `.logits`. One whose forward takes a `head`, as the own decoder's does, never holds
    the logits: `head(features [batch, seq, d], weight [vocab, d])` computes the loss chunk by chunk.
    """

    def __init__(self, model: nn.Module, z_loss: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.z_loss = z_loss
        self.takes_head = "head" in inspect.signature(model.forward).parameters
        # A cache of keys and values is of no use in training, and transformers builds one unless told.
        self.options = {"use_cache": False} if hasattr(getattr(model, "config", None), "use_cache") else {}

    def forward(self, tokens: Tensor) -> Losses:
        """Return the losses of predicting `tokens[:, 1:]` from `tokens[:, :-1]`; tokens are [batch, seq + 1].

        Rows may end in `IGNORED` tokens, which count for nothing.
        """
        # Causal attention never looks ahead at what stands in their place.
        inputs, targets = tokens[:, :-1].clamp_min(0), tokens[:, 1:]
        if self.takes_head:
            head = partial(linear_cross_entropy, targets=targets, z_loss=self.z_loss)
            loss, log_z = self.model(inputs, head=head)
        else:
            logits = self.model(input_ids=inputs, **self.options).logits
            loss, log_z = cross_entropy_with_z_loss(logits, targets, z_loss=self.z_loss)
        cross_entropy = loss.detach()
        if self.z_loss:
            cross_entropy = cross_entropy - self.z_loss * log_z.mean_square
        return Losses(loss, torch.stack((cross_entropy, log_z.mean, log_z.mean_square)))


def train_step(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Tensor,
    *,
    parameters: Sequence[Tensor] | None = None,
    parts: int = 1,
    clip_norm: float = 0.0,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
    set_sync: Callable[[bool], None] | None = None,
    after_backward: Callable[[], None] | None = None,
    shares: Sequence[float] | None = None,
) -> StepResult:
    """Update the parameters once. The gradients stay in place afterwards, for probes; the next step clears them.

    Args:
        module: maps tokens [rows, seq + 1] to `Losses`.
        optimizer: updates the parameters.
        batch: tokens [rows, seq + 1].
        parameters: what is clipped together; None: all of the module's.
        parts: forward and backward passes that the batch is cut into; each part's mean loss counts by its tokens.
        clip_norm: largest norm of the whole gradient; 0: no clipping.
        precision: opens the context of a forward pass, such as autocast.
        set_sync: called with whether the next backward has to share gradients between processes.
        after_backward: called when the gradients are whole and not yet clipped.
        shares: what each part's mean loss counts, where rows have different numbers of tokens; None: as its rows.
    """
    optimizer.zero_grad(set_to_none=True)
    chunks = batch.chunk(parts)
    statistics: Tensor | None = None
    for index, chunk in enumerate(chunks):
        if set_sync is not None:
            set_sync(index == len(chunks) - 1)
        with precision():
            losses = module(chunk)
        share = chunk.shape[0] / batch.shape[0] if shares is None else shares[index]
        (losses.total if share == 1 else losses.total * share).backward()
        part = losses.statistics * share
        statistics = part if statistics is None else statistics + part
    if after_backward is not None:
        after_backward()
    grad_norm = None
    if clip_norm:
        clipped = list(module.parameters()) if parameters is None else parameters
        grad_norm = nn.utils.clip_grad_norm_(clipped, clip_norm, foreach=True)
    optimizer.step()
    assert statistics is not None
    return StepResult(statistics, grad_norm)


@torch.no_grad()
def evaluate(
    module: nn.Module,
    batches: Sequence[Tensor],
    *,
    parts: int = 1,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
    tokens: float | None = None,
) -> Tensor:
    """Return the mean cross-entropy over `batches` of tokens [rows, seq + 1], without dropout; a scalar on the device.

    Args:
        module: maps tokens to `Losses`; left in the mode (train or eval) that it was in.
        batches: a batch counts by its predicted tokens.
        parts: forward passes that a batch is cut into.
        precision: opens the context of a forward pass.
        tokens: what the sum is divided by; None: the predicted tokens of `batches`. Processes whose rows have different
            numbers of them give the mean number, so that the mean of what they return is that of all tokens.
    """
    training = module.training
    module.eval()
    try:
        total: Any = 0.0
        whole = sum(map(predicted, batches)) if tokens is None else tokens
        for batch in batches:
            for chunk in batch.chunk(parts):
                with precision():
                    total = total + module(chunk).statistics[0] * (predicted(chunk) / whole)
        return total
    finally:
        module.train(training)


def predicted(tokens: Tensor) -> int:
    """Count the predicted tokens of [rows, seq + 1]."""
    return int((tokens[:, 1:] >= 0).sum())
