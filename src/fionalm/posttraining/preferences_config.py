"""What can be set about preference optimization, checked on creation; needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from fionalm.errors import UserError, choice_error
from fionalm.objectives.preference_kinds import PREFERENCE_KINDS, PreferenceKind
from fionalm.posttraining.config import FinetuneConfig

Sharing = Literal["auto", "always", "never"]


@dataclass(frozen=True, kw_only=True)
class PreferencesConfig(FinetuneConfig):
    """Preference optimization."""

    loss: PreferenceKind = "geometric_dpo"
    """`dpo`, `cdpo`, `geometric_dpo`, `ipo`, `cipo`, `geometric_ipo`, `ropo` or `geometric_ropo`."""
    beta: float = 0.0
    """Scale of the implicit reward; 0: the paper's, 0.1, and 1 for the IPO family."""
    ropo_gamma: float = 0.1
    """Weight of ROPO's DPO term."""
    ropo_eta: float = 2.0
    """Weight of ROPO's bounded term."""
    average_logps: bool = False
    """Means over a completion's tokens in place of sums, as some IPO implementations take them."""
    shared_prompt: Sharing = "auto"
    """Chosen and rejected share one forward pass over their prompt: where that is measured to be faster and the model
    can, always, or never."""
    epochs: float = 1.0
    """Times that each pair is learnt from."""
    steps: int = 0
    """Updates, in place of epochs; 0: as many as the epochs have."""
    kl_prompts: int = 0
    """Prompts, at each validation, whose sampled completions measure the KL from the reference; 0: it is not measured.
    Without adapters this holds a frozen copy of the model."""
    max_tokens: int = 128
    """Tokens of such a completion at most."""
    validate_every: int = 0
    """Steps between validations; 0: only after the last step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in PREFERENCE_KINDS:
            raise choice_error("loss", self.loss, PREFERENCE_KINDS)
        if self.shared_prompt not in get_args(Sharing):
            raise choice_error("shared_prompt", self.shared_prompt, get_args(Sharing))
        if not 0 <= self.beta < math.inf:
            raise UserError(f"beta {self.beta}: expected a number above 0, or 0 for the paper's")
        if not 0 < self.epochs < math.inf:
            raise UserError(f"epochs {self.epochs}: expected a number above 0")
        for name, least in (("steps", 0), ("validate_every", 0), ("kl_prompts", 0), ("max_tokens", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} {getattr(self, name)}: expected {least} or more")

    @property
    def chosen_beta(self) -> float:
        """Beta as given, or the paper's."""
        return self.beta or (1.0 if self.loss.endswith("ipo") else 0.1)

    def total_steps(self, pairs: int) -> int:
        """Return the updates of a training on so many pairs."""
        return self.steps or max(1, math.ceil(self.epochs * pairs / min(self.batch_size, pairs)))
