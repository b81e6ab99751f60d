"""What a run carries from one step to the next, and a checkpoint holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


@dataclass
class TrainState:
    """Parameters, optimizer, schedule and progress; the random generators are torch's own."""

    parameters: dict[str, nn.Parameter]
    """By name; plain tensors, or FSDP2's sharded ones."""
    buffers: dict[str, Tensor]
    """The persistent ones, by name."""
    optimizer: Optimizer
    scheduler: LRScheduler
    step: int = 0
    """Updates done."""
    seconds: float = 0.0
    """Time in training steps so far."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What else the run has to remember: JSON values."""
