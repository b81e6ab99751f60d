"""What can be set about an optimizer and its learning-rate schedule, checked on creation; needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from fionalm.errors import UserError, choice_error

OptimizerName = Literal["adamw", "adam_atan2", "adafactor", "sgd"]
ScheduleName = Literal["cosine", "linear", "constant"]


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer and the defaults of its parameter groups (a group's own `lr`, `eps`, ... win)."""

    name: OptimizerName = "adamw"
    """Update rule."""
    lr: float = 1e-3
    """Base learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of the first and second moment (adamw, adam_atan2)."""
    eps: float = 1e-8
    """Added to the root of the second moment (adamw only: the others have no such constant)."""
    weight_decay: float = 0.0
    """Decoupled weight decay, lambda; parameters with fewer than two dimensions have none by default."""
    independent_weight_decay: bool = True
    """Decay by s_t * lambda instead of s_t * lr * lambda, with s_t the factor of the schedule."""
    momentum: float = 0.0
    """Momentum (sgd, adafactor)."""
    atan2_a: float = 4 / math.pi
    """Size a of the adam_atan2 update a * atan2(m, b * sqrt(v))."""
    atan2_b: float = 1.0
    """Slope b of the adam_atan2 update a * atan2(m, b * sqrt(v))."""

    def __post_init__(self) -> None:
        if self.name not in get_args(OptimizerName):
            raise choice_error("optimizer", self.name, get_args(OptimizerName))
        require_number("lr", self.lr, above=0.0)
        check_betas(self.betas)
        require_number("eps", self.eps, least=0.0)
        require_number("weight_decay", self.weight_decay, least=0.0)
        require_number("momentum", self.momentum, least=0.0, below=1.0)
        require_number("atan2_a", self.atan2_a, above=0.0)
        require_number("atan2_b", self.atan2_b, above=0.0)


@dataclass(frozen=True)
class ScheduleConfig:
    """The factor s_t that multiplies every group's own learning rate: linear warm-up, then decay."""

    name: ScheduleName = "cosine"
    """Shape of the decay after warm-up."""
    warmup_steps: int = 0
    """Steps of linear warm-up before the peak."""
    final_fraction: float = 0.0
    """Factor at the end of training, as a fraction of the peak (cosine, linear)."""
    final_lr: float | None = None
    """The end given as a learning rate instead: the fraction is final_lr / base learning rate, at most 1."""

    def __post_init__(self) -> None:
        if self.name not in get_args(ScheduleName):
            raise choice_error("schedule", self.name, get_args(ScheduleName))
        require_number("warmup_steps", self.warmup_steps, least=0)
        require_number("final_fraction", self.final_fraction, least=0.0)
        if self.final_fraction > 1:
            raise UserError(f"final_fraction is {self.final_fraction}, expected a fraction of the peak, at most 1.0")
        if self.name == "constant" and (self.final_fraction or self.final_lr is not None):
            raise UserError("a constant schedule was given a final rate, expected none (or schedule 'linear')")
        if self.final_lr is not None:
            require_number("final_lr", self.final_lr, least=0.0)
            if self.final_fraction:
                raise UserError(
                    f"both final_fraction={self.final_fraction} and final_lr={self.final_lr} are given, "
                    "expected one of them"
                )


def check_betas(betas: tuple[float, float]) -> None:
    """Raise `UserError` unless `betas` are two decay rates in [0, 1)."""
    if len(betas) != 2:
        raise UserError(f"betas is {betas!r}, expected two numbers such as (0.9, 0.95)")
    for beta in betas:
        require_number("each of betas", beta, least=0.0, below=1.0)


def require_number(
    name: str,
    value: float,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> None:
    """Raise `UserError` unless `value` is finite, at least `least`, greater than `above`, less than `below`."""
    if math.isfinite(value) and value >= least and above < value < below:
        return
    limits = [(least, "at least"), (above, "above"), (below, "below")]
    wanted = " and ".join(f"{word} {limit:g}" for limit, word in limits if math.isfinite(limit))
    raise UserError(f"{name} is {value!r}, expected a number {wanted}")
