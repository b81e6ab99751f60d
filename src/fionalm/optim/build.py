"""From plain configs to an optimizer and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from fionalm.errors import UserError
from fionalm.optim.adam_atan2 import AdamAtan2
from fionalm.optim.config import OptimizerConfig, ScheduleConfig


def build_optimizer(config: OptimizerConfig, param_groups: Iterable[dict[str, Any]]) -> Optimizer:
    """Build the optimizer over groups, which may carry their own lr, eps and weight_decay."""
    groups = []
    for given in param_groups:
        group = {"lr": config.lr, "weight_decay": config.weight_decay, **given}
        if config.independent_weight_decay and group["weight_decay"]:
            # torch decays by lr * weight_decay, and the schedule is a factor of lr: this leaves schedule * decay.
            group["weight_decay"] = group["weight_decay"] / group["lr"]
        groups.append(group)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
    if config.name == "adam_atan2":
        return AdamAtan2(groups, lr=config.lr, betas=config.betas, a=config.atan2_a, b=config.atan2_b)
    if config.name == "sgd":
        if config.weight_decay and config.independent_weight_decay:
            raise UserError("sgd has no independent weight decay: expected independent_weight_decay False")
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    for group in groups:
        group.pop("eps", None)
    return torch.optim.Adafactor(groups, lr=config.lr)


def build_scheduler(config: ScheduleConfig, optimizer: Optimizer, total_steps: int) -> LambdaLR:
    """Build the schedule, which multiplies every group's own learning rate."""
    return LambdaLR(optimizer, schedule_factor(config, total_steps))


def schedule_factor(config: ScheduleConfig, total_steps: int) -> Callable[[int], float]:
    """Return the factor of the learning rate at a step, in [0, 1]."""

    def factor(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / config.warmup_steps
        done = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
        left = {
            "cosine": (1 + math.cos(math.pi * min(done, 1.0))) / 2,
            "linear": max(0.0, 1 - done),
            "constant": 1.0,
        }
        return config.final_fraction + (1 - config.final_fraction) * left[config.name]

    return factor
