"""From configs to a plain torch optimizer and learning-rate schedule.

Groups may carry their own "lr", "eps", "weight_decay" and "independent_weight_decay" (and keys that only label
them, such as "name" and "kind"), which is all that per-layer learning rates and epsilons need.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from fionalm.errors import UserError
from fionalm.optim.adafactor import Adafactor
from fionalm.optim.adam_atan2 import AdamAtan2
from fionalm.optim.config import OptimizerConfig, ScheduleConfig
from fionalm.optim.decay import independent_weight_decay
from fionalm.optim.sgdw import SGDW

# Where torch's fused AdamW runs, which reads and writes everything once.
FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")


def build_optimizer(
    config: OptimizerConfig, param_groups: Iterable[dict[str, Any] | Tensor | tuple[str, Tensor]]
) -> Optimizer:
    """Build the optimizer over groups; what a group does not say comes from the config.

    A group that names no "weight_decay" has the config's on its parameters with two or more dimensions and none
    on the others: it is split in two. Decay is decoupled for every optimizer. With `independent_weight_decay` a
    group's entry becomes weight_decay / lr, so that each step decays by the schedule's factor times weight_decay
    whatever the group's rate (exact under any scheduler that multiplies the rate, such as `build_scheduler`'s).
    "eps" is AdamW's; other optimizers are not given it.

    Raises:
        UserError: no parameters, or what the optimizer refuses.
    """
    entries: list[Any] = list(param_groups)
    if any(not isinstance(entry, dict) for entry in entries):
        entries = [{"params": entries}]
    groups = []
    for entry in entries:
        for group in _split_by_decay(dict(entry), config.weight_decay):
            group.setdefault("lr", config.lr)
            if group.pop("independent_weight_decay", config.independent_weight_decay):
                group["weight_decay"] = independent_weight_decay(group["weight_decay"], group["lr"])
            if config.name != "adamw":
                group.pop("eps", None)
            groups.append(group)
    if not any(group["params"] for group in groups):
        raise UserError("the optimizer was given no parameters, expected at least one that requires a gradient")
    if config.name == "adamw":
        params = [_tensor(param) for group in groups for param in group["params"]]
        fused = all(p.is_floating_point() and p.device.type in FUSED_DEVICES for p in params)
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused or None)
    if config.name == "adam_atan2":
        return AdamAtan2(groups, lr=config.lr, betas=config.betas, a=config.atan2_a, b=config.atan2_b)
    if config.name == "adafactor":
        return Adafactor(groups, lr=config.lr, momentum=config.momentum)
    return SGDW(groups, lr=config.lr, momentum=config.momentum)


def build_scheduler(config: ScheduleConfig, optimizer: Optimizer, total_steps: int) -> LambdaLR:
    """Build the scheduler that multiplies every group's own learning rate by `schedule_factor`.

    Raises:
        UserError: the warm-up is longer than the training.
    """
    return LambdaLR(optimizer, schedule_factor(config, total_steps, base_lr=optimizer.defaults["lr"]))


def schedule_factor(
    config: ScheduleConfig, total_steps: int, base_lr: float | Tensor | None = None
) -> Callable[[int], float]:
    """Return the function from the number of a step (the first is 0) to the factor of its learning rate.

    Warm-up rises linearly: (step + 1) / warmup_steps, so that no step is lost to a rate of 0. After it the
    factor falls from 1 at step `warmup_steps` to the final fraction at `total_steps`, and stays there.

    Args:
        config: the shape; `final_lr` needs `base_lr`.
        total_steps: steps of the whole training.
        base_lr: the learning rate that `final_lr` is a fraction of; groups with other rates keep their ratio.

    Raises:
        UserError: the warm-up is longer than the training, or there is no rate to compare `final_lr` with.
    """
    if config.warmup_steps > total_steps:
        raise UserError(
            f"warmup_steps is {config.warmup_steps} in a training of {total_steps} steps, "
            f"expected at most {total_steps}"
        )
    final = config.final_fraction
    if config.final_lr is not None:
        if base_lr is None or float(base_lr) <= 0:
            raise UserError(f"final_lr {config.final_lr} needs a base learning rate above 0, given {base_lr}")
        final = min(1.0, config.final_lr / float(base_lr))

    def factor(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / config.warmup_steps
        done = min(1.0, (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps))
        if config.name == "constant":
            return 1.0
        left = 1 - done if config.name == "linear" else (1 + math.cos(math.pi * done)) / 2
        return final + (1 - final) * left

    return factor


def _tensor(param: Tensor | tuple[str, Tensor]) -> Tensor:
    return param[1] if isinstance(param, tuple) else param


def _split_by_decay(group: dict[str, Any], weight_decay: float) -> list[dict[str, Any]]:
    """Return the group with a weight decay, or two: its parameters that decay and those that do not."""
    params = group["params"]
    group["params"] = [params] if isinstance(params, Tensor) else list(params)
    if "weight_decay" in group:
        return [group]
    decays = [_tensor(param).ndim > 1 for param in group["params"]]
    if not weight_decay or len(set(decays)) < 2:
        return [{**group, "weight_decay": weight_decay if all(decays) else 0.0}]
    parts = []
    for wanted in (True, False):
        part = {**group, "weight_decay": weight_decay if wanted else 0.0}
        for key in ("params", "param_names"):
            if key in group:
                part[key] = [item for item, decay in zip(group[key], decays, strict=True) if decay == wanted]
        parts.append(part)
    return parts
