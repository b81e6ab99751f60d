"""Adam-atan2: Adam without an epsilon, whose updates do not depend on the scale of the gradients.

optimizer = AdamAtan2(model.parameters(), lr=1e-3)
fast_step = torch.compile(optimizer.step)   # or AdamAtan2(..., compiled=True): the same kernel
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
from fionalm.optim.atan2_updates import Tensors, UpdateScalars, update_compiled, update_foreach, update_tensorwise
from fionalm.optim.config import check_betas, require_number
from fionalm.optim.decay import independent_weight_decay as divided_by_rate


class AdamAtan2(Optimizer):
    """Adam with m / (sqrt(v) + eps) replaced by a * atan2(m, b * sqrt(v)) (Everett et al. 2024, section 4.3).

    m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2,  both corrected for their bias to mh and vh,
    theta <- (1 - lr weight_decay) theta - lr a atan2(mh, b sqrt(vh)),  with atan2(0, 0) = 0.

    With a = 4/pi and b = 1 the update equals Adam's where mh = sqrt(vh), and is never larger than 2 lr. Scaling
    all gradients by a power of two leaves the updates the same bit for bit as long as nothing under- or
    overflows; in fp32 the second moment of gradients below 1e-19 loses digits, and vanishes below 1e-23.

    Moments have the dtype of their parameter. `step` under `torch.compile` runs a kernel that is not compiled
    again for other shapes, rates or steps; it breaks the graph there, so `fullgraph=True` is not supported.

    Args:
        params: parameters or groups. A group may have its own value of everything below.
        lr: learning rate, a number or a tensor with one element.
        betas: decay rates of the first and second moment.
        weight_decay: decoupled weight decay, lambda: theta -= lr * lambda * theta.
        a: size of the update.
        b: slope: the larger, the smaller are updates whose m is small against sqrt(v).
        independent_weight_decay: decay by s * lambda * theta instead, with s = lr / peak_lr the factor of a
            schedule (Wortsman et al. 2023, section 3.2.2). A group's "peak_lr" is the lr that it was made with.
        foreach: treat all tensors of a group at once, which needs memory for two more copies of them; None: on
            accelerators, where launches are what costs, and not on a CPU, where the cache is.
        compiled: use the compiled kernel without `torch.compile` around the step; it takes seconds, once.

    Raises:
        UserError: a hyperparameter out of range, a complex parameter or a sparse gradient.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        a: float = 4 / math.pi,
        b: float = 1.0,
        *,
        independent_weight_decay: bool = False,
        foreach: bool | None = None,
        compiled: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "a": a,
            "b": b,
            "independent_weight_decay": independent_weight_decay,
            "foreach": foreach,
            "compiled": compiled,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, as in `torch.optim.Optimizer`, and check its hyperparameters."""
        super().add_param_group(dict(param_group))  # torch would write the defaults into the caller's group
        group = self.param_groups[-1]
        try:
            _check_group(group)
            if group["independent_weight_decay"]:
                group.setdefault("peak_lr", float(group["lr"]))
            _weight_decay(group)  # refuses a peak_lr of 0
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
        self._update_groups(torch.compiler.is_compiling())
        return loss

    @torch.compiler.disable(reason="Adam-atan2 runs its own compiled kernel, one for all parameters")
    def _update_groups(self, compiling: bool) -> None:
        for group in self.param_groups:
            for (step, device, _), tensors in self._gather(group).items():
                foreach = device.type != "cpu" if group["foreach"] is None else group["foreach"]
                if group["compiled"] or (compiling and not foreach):
                    update = update_compiled
                else:
                    update = update_foreach if foreach else update_tensorwise
                update(tensors, _scalars(group, step))

    def _gather(self, group: dict[str, Any]) -> dict[tuple[int, torch.device, torch.dtype], Tensors]:
        """Return the local tensors of the parameters that have a gradient, by their step, device and dtype."""
        gathered: dict[tuple[int, torch.device, torch.dtype], Tensors] = {}
        steps = []
        for param in group["params"]:
            grad = param.grad
            if grad is None:
                continue
            if grad.layout is not torch.strided:
                raise UserError("AdamAtan2 was given a sparse gradient, expected dense ones (Embedding(sparse=False))")
            state = self.state[param]
            if not state:
                # On the CPU wherever the parameter is, as in torch, so that reading it never waits for a device.
                state["step"] = torch.tensor(0.0)
                state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(param, memory_format=torch.preserve_format)
            steps.append(state["step"])
            key = (int(state["step"].item()) + 1, param.device, param.dtype)
            tensors = gathered.setdefault(key, Tensors([], [], [], []))
            tensors.append(param, grad, state["exp_avg"], state["exp_avg_sq"])
        if steps:
            torch._foreach_add_(steps, 1.0)
        return gathered


def _scalars(group: dict[str, Any], step: int) -> UpdateScalars:
    lr = float(group["lr"])
    beta1, beta2 = group["betas"]
    return UpdateScalars(
        step=step,
        beta1=beta1,
        beta2=beta2,
        slope=group["b"],
        size=lr * group["a"],
        keep=1 - lr * _weight_decay(group),
    )


def _weight_decay(group: dict[str, Any]) -> float:
    """Return what is multiplied by the learning rate to decay; the group keeps lambda as it was given."""
    if group["independent_weight_decay"]:
        return divided_by_rate(group["weight_decay"], group["peak_lr"])
    return group["weight_decay"]


def _check_group(group: dict[str, Any]) -> None:
    lr = group["lr"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise UserError(f"lr is a tensor of {lr.numel()} elements, expected a number or a tensor with one element")
    require_number("lr", float(lr), least=0.0)
    check_betas(group["betas"])
    require_number("weight_decay", group["weight_decay"], least=0.0)
    require_number("a", group["a"], above=0.0)
    require_number("b", group["b"], above=0.0)
    for param in group["params"]:
        if not param.is_floating_point():
            raise UserError(
                f"AdamAtan2 was given a parameter of dtype {param.dtype}, expected a real floating-point one "
                "(torch.view_as_real makes one of a complex tensor)"
            )
