"""Adam-atan2: Adam without an epsilon, whose updates do not depend on the scale of the gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class AdamAtan2(Optimizer):
    """Adam with m / (sqrt(v) + eps) replaced by a * atan2(m, b * sqrt(v)) (Everett et al. 2024, section 4).

    With a = 4/pi and b = 1 the update equals Adam's where m = sqrt(v). Scaling all gradients by a power of two
    leaves the updates unchanged bit for bit as long as nothing under- or overflows.

    Args:
        params: parameters or groups; a group may have its own lr, weight_decay, a and b.
        lr: learning rate.
        betas: decay of the first and second moment.
        weight_decay: decoupled: theta -= lr * weight_decay * theta.
        a: factor of the arc tangent.
        b: factor of its second argument.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        a: float = 4 / math.pi,
        b: float = 1.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "a": a, "b": b})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            lr = float(group["lr"])
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.tensor(0.0)
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                state["step"] += 1
                step = state["step"].item()
                mean, square = state["exp_avg"], state["exp_avg_sq"]
                mean.lerp_(parameter.grad, 1 - beta1)
                square.mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
                if group["weight_decay"]:
                    parameter.mul_(1 - lr * group["weight_decay"])
                scale = group["b"] * (1 - beta1**step) / math.sqrt(1 - beta2**step)
                update = torch.atan2(mean, square.sqrt().mul_(scale))
                parameter.add_(update, alpha=-lr * group["a"])
        return loss
