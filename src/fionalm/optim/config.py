"""Which optimizer and which learning-rate schedule a training run uses, as plain data (no torch)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from fionalm.errors import UserError, choice_error

OptimizerName = Literal["adamw", "adam_atan2", "adafactor", "sgd"]
ScheduleName = Literal["cosine", "linear", "constant"]


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer and its constants."""

    name: OptimizerName = "adamw"
    lr: float = 1e-3
    """Learning rate at the top of the schedule; at the base width, where a parameterization is given."""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    independent_weight_decay: bool = True
    """True: theta -= schedule * decay * theta, whatever the learning rate. False: times the learning rate too."""
    momentum: float = 0.0
    """SGD's (and Adafactor's first moment)."""
    atan2_a: float = 4 / math.pi
    atan2_b: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in get_args(OptimizerName):
            raise choice_error("optimizer", self.name, get_args(OptimizerName))
        if not 0 <= self.lr < math.inf:
            raise UserError(f"lr was {self.lr!r}: expected a number of at least 0")


@dataclass(frozen=True)
class ScheduleConfig:
    """Linear warm-up, then a decay to `final_fraction` of the learning rate."""

    name: ScheduleName = "cosine"
    warmup_steps: int = 0
    final_fraction: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in get_args(ScheduleName):
            raise choice_error("schedule", self.name, get_args(ScheduleName))
