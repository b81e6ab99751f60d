"""What can be set about a hallucination detector; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from fionalm.errors import UserError, choice_error
from fionalm.evaluation.calibration import CalibrationKind
from fionalm.optim.config import OptimizerConfig
from fionalm.posttraining.reward_config import RewardConfig

Variant = Literal["head", "full"]
Task = Literal["sentence", "token"]


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """How a detector is trained."""

    variant: Variant = "head"
    """`head`: a linear head on frozen features; `full`: all weights below it learn, too."""
    task: Task = "sentence"
    """`sentence`: is the answer that is shown hallucinated? `token`: will it be, told at the prompt's last token,
    before an answer's first token is drawn?"""
    calibration: CalibrationKind = "platt"
    """How validation turns scores into probabilities: `platt`, `isotonic` or `none`."""
    penalties: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    """head: half the weight of the head's squared norm, on standardised features, against the mean cross-entropy. The
    one with the lowest validation loss is taken; without validation, the middle one."""
    training: RewardConfig = field(
        default_factory=lambda: RewardConfig(
            epochs=4.0, patience=2, optimizer=OptimizerConfig(lr=2e-5, betas=(0.9, 0.999)), log_every=10
        )
    )
    """full: how the weights learn."""

    def __post_init__(self) -> None:
        for name, kind in (("variant", Variant), ("task", Task), ("calibration", CalibrationKind)):
            if getattr(self, name) not in get_args(kind):
                raise choice_error(name, getattr(self, name), get_args(kind))
        if not self.penalties or not all(0 < one < float("inf") for one in self.penalties):
            raise UserError(f"penalties {self.penalties}: expected one or more numbers above 0")

    @property
    def name(self) -> str:
        """Variant and task, such as head-sentence."""
        return f"{self.variant}-{self.task}"

    @property
    def full(self) -> RewardConfig:
        """The training of all weights, for the task."""
        return replace(self.training, reads="prompt" if self.task == "token" else "completion")
