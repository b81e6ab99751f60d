"""SGD with momentum and decoupled weight decay (Loshchilov and Hutter 2019, algorithm 1).

Torch's own SGD adds the decay to the gradient, so that it ends up in the momentum and cannot be made independent
of the learning rate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from torch.optim.sgd import sgd


class SGDW(torch.optim.SGD):
    """Stochastic gradient descent whose weight decay is theta -= lr * weight_decay * theta, outside momentum.

    Keeps the state of `torch.optim.SGD`, and without weight decay makes the same steps.

    Args:
        params: parameters or groups.
        lr: learning rate, a number or a tensor with one element.
        momentum: decay rate of the sum of the gradients; 0 keeps none.
        weight_decay: decoupled weight decay, lambda.
        nesterov: step along the gradient and the next momentum (needs momentum).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        nesterov: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Make one step; return the loss of `closure`, if there is one, computed before the step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params: list[Tensor] = []
            grads: list[Tensor] = []
            buffers: list[Tensor | None] = []
            sparse = self._init_group(group, params, grads, buffers)
            if not params:
                continue
            if group["weight_decay"]:
                torch._foreach_mul_(params, 1 - float(group["lr"]) * group["weight_decay"])
            sgd(
                params,
                grads,
                buffers,
                weight_decay=0.0,
                momentum=group["momentum"],
                lr=group["lr"],
                dampening=group["dampening"],
                nesterov=group["nesterov"],
                maximize=group["maximize"],
                has_sparse_grad=sparse,
                foreach=group["foreach"],
            )
            if group["momentum"]:
                for param, buffer in zip(params, buffers, strict=True):
                    self.state[param]["momentum_buffer"] = buffer
        return loss
