"""What can be set about the training of a learned verifier; needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from fionalm.errors import UserError, choice_error
from fionalm.posttraining.config import FinetuneConfig

Reads = Literal["completion", "prompt"]


@dataclass(frozen=True, kw_only=True)
class RewardConfig(FinetuneConfig):
    """Training of a learned verifier; `batch_size` counts rows."""

    epochs: float = 1.0
    """Times that each row is learnt from."""
    steps: int = 0
    """Updates, in place of epochs; 0: as many as the epochs have."""
    reads: Reads = "completion"
    """What is scored: the prompt and its `completion`, or the `prompt` alone, before anything is drawn."""
    validate_every: int = 0
    """Steps between validations, the best of which decides the weights; 0: after every epoch if there is patience,
    else only at the end, and the last weights are kept."""
    patience: int = 0
    """Validations in a row without a new best until training stops; 0: it never stops early."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.epochs < math.inf or self.steps < 0:
            raise UserError(f"epochs {self.epochs} and steps {self.steps}: expected epochs above 0, steps of 0 or more")
        for name in ("validate_every", "patience"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} {getattr(self, name)}: expected 0 or more")
        if self.reads not in get_args(Reads):
            raise choice_error("reads", self.reads, get_args(Reads))
