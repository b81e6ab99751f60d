"""Adafactor with updates scaled by the RMS of the parameter, under any learning rate and schedule.

`torch.optim.Adafactor` caps the rate at 1 / sqrt(step) and holds second moments above 1e-7, which changes the
results of a scan over learning rates and of small gradients; it has no momentum either. `transformers` has the
same rule as here, for whole tensors only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from fionalm.errors import UserError
from fionalm.optim.config import require_number


class Adafactor(Optimizer):
    """Adam's second moment as the product of a row and a column, and steps relative to the parameter's size.

    With t the step and beta2 = 1 - t^beta2_decay, a matrix (or the last two dimensions of a tensor) has
        row <- beta2 row + (1 - beta2) mean_columns(g^2 + eps),   col <- the same over rows,
        u = g / sqrt(row col / mean(row)),   u <- u / max(1, RMS(u) / clip_threshold),
        theta <- (1 - lr weight_decay) theta - lr max(min_rms, RMS(theta)) u
    and a vector keeps its whole second moment (Shazeer and Stern 2018, algorithms 4 to 6). With momentum the
    scaled step is averaged: step <- momentum step + (1 - momentum) lr max(...) u.

    Sharded parameters (DTensor) get the same update as whole ones.

    Args:
        params: parameters or groups. A group may have its own value of everything below.
        lr: learning rate, a number or a tensor with one element.
        beta2_decay: power of the step in the decay rate of the second moment.
        eps: added to the squared gradient; not below the smallest normal number of the dtype.
        min_rms: the RMS that smaller (such as zero) parameters are taken to have.
        clip_threshold: largest RMS of an update before it is scaled.
        momentum: decay rate of the average of the steps; 0 keeps no average.
        weight_decay: decoupled weight decay, lambda: theta -= lr * lambda * theta, whatever RMS(theta).
        scale_parameter: scale by max(min_rms, RMS(theta)); without it the step is lr * u.
        relative_step: cap the rate at 1 / sqrt(t), as the paper does.

    Raises:
        UserError: a hyperparameter out of range, a complex parameter or a sparse gradient.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        *,
        beta2_decay: float = -0.8,
        eps: float = 1e-30,
        min_rms: float = 1e-3,
        clip_threshold: float = 1.0,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        scale_parameter: bool = True,
        relative_step: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "beta2_decay": beta2_decay,
            "eps": eps,
            "min_rms": min_rms,
            "clip_threshold": clip_threshold,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "scale_parameter": scale_parameter,
            "relative_step": relative_step,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, as in `torch.optim.Optimizer`, and check its hyperparameters."""
        super().add_param_group(dict(param_group))  # torch would write the defaults into the caller's group
        group = self.param_groups[-1]
        try:
            _check_group(group)
        except UserError:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Make one step; return the loss of `closure`, if there is one, computed before the step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._update_groups()
        return loss

    @torch.compiler.disable(reason="the step number is read as a Python number")
    def _update_groups(self) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param, param.grad, group)

    def _update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        if grad.layout is not torch.strided:
            raise UserError("Adafactor was given a sparse gradient, expected dense ones (Embedding(sparse=False))")
        if not param.numel():
            return
        state = self.state[param]
        if not state:
            state["step"] = torch.tensor(0.0)
        state["step"] += 1
        step = state["step"].item()
        lr = float(group["lr"])

        update = grad * self._inverse_root(grad, state, group, new_weight=step ** group["beta2_decay"])
        update = _placed_like(update, param)
        update.div_((_rms(update) / group["clip_threshold"]).clamp_(min=1.0))
        rate = min(lr, 1 / math.sqrt(step)) if group["relative_step"] else lr
        update.mul_(_rms(param).clamp_(min=group["min_rms"]) * rate if group["scale_parameter"] else rate)
        if group["momentum"]:
            if "exp_avg" not in state:
                state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
            update = state["exp_avg"].lerp_(update, 1 - group["momentum"])
        if group["weight_decay"]:
            param.mul_(1 - lr * group["weight_decay"])
        param.sub_(update)

    @staticmethod
    def _inverse_root(grad: Tensor, state: dict[str, Any], group: dict[str, Any], *, new_weight: float) -> Tensor:
        """Update the second moment and return 1 / sqrt of its estimate, to be broadcast to the gradient's shape."""
        square = grad.square().add_(max(group["eps"], torch.finfo(grad.dtype).tiny))
        if grad.ndim < 2:
            return _average(state, "exp_avg_sq", square, new_weight).rsqrt()
        row = _average(state, "exp_avg_sq_row", _mean(square, -1), new_weight)
        col = _average(state, "exp_avg_sq_col", _mean(square, -2), new_weight)
        return (row / _mean(row, -2)).rsqrt() * col.rsqrt()


def _average(state: dict[str, Any], name: str, value: Tensor, new_weight: float) -> Tensor:
    """Move the running average `name` towards `value`; at the first step, where its weight is 1, to it."""
    if name not in state:
        state[name] = value.clone()
        return state[name]
    return state[name].lerp_(value, new_weight)


def _rms(x: Tensor) -> Tensor:
    return (_whole(x.square().sum()) / x.numel()).sqrt()


def _mean(x: Tensor, dim: int) -> Tensor:
    # Not mean(): the average of the means of uneven shards is not the mean.
    return _whole(x.sum(dim, keepdim=True)) / x.shape[dim]


def _whole(x: Tensor) -> Tensor:
    """Add up the processes' shares of a sum over a sharded dimension; a plain tensor is whole already."""
    placements = getattr(x, "placements", None)
    if placements is None or not any(placement.is_partial() for placement in placements):
        return x
    from torch.distributed.tensor import Replicate

    summed = [Replicate() if placement.is_partial() else placement for placement in placements]
    return x.redistribute(placements=summed)  # pyright: ignore[reportAttributeAccessIssue]


def _placed_like(x: Tensor, param: Tensor) -> Tensor:
    """Spread a sharded `x` as `param` is: broadcasting gives up a shard of a dimension of size 1."""
    placements = getattr(param, "placements", None)
    if placements is None or getattr(x, "placements", placements) == placements:
        return x
    return x.redistribute(placements=placements)  # pyright: ignore[reportAttributeAccessIssue]


def _check_group(group: dict[str, Any]) -> None:
    lr = group["lr"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise UserError(f"lr is a tensor of {lr.numel()} elements, expected a number or a tensor with one element")
    require_number("lr", float(lr), least=0.0)
    require_number("weight_decay", group["weight_decay"], least=0.0)
    require_number("eps", group["eps"], least=0.0)
    require_number("min_rms", group["min_rms"], least=0.0)
    require_number("clip_threshold", group["clip_threshold"], above=0.0)
    require_number("momentum", group["momentum"], least=0.0, below=1.0)
    if group["beta2_decay"] > 0:
        raise UserError(f"beta2_decay is {group['beta2_decay']}, expected a power of at most 0, such as -0.8")
    for param in group["params"]:
        if not param.is_floating_point():
            raise UserError(
                f"Adafactor was given a parameter of dtype {param.dtype}, expected a real floating-point one "
                "(torch.view_as_real makes one of a complex tensor)"
            )
