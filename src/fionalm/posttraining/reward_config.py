"""What can be set about the training of a learned verifier; needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fionalm.errors import UserError
from fionalm.posttraining.config import FinetuneConfig


@dataclass(frozen=True, kw_only=True)
class RewardConfig(FinetuneConfig):
    """Training of a learned verifier; `batch_size` counts rows."""

    epochs: float = 1.0
    """Times that each row is learnt from."""
    steps: int = 0
    """Updates, in place of epochs; 0: as many as the epochs have."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.epochs < math.inf or self.steps < 0:
            raise UserError(f"epochs {self.epochs} and steps {self.steps}: expected epochs above 0, steps of 0 or more")
