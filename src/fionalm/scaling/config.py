"""Which parameterization a training run uses, as plain data (no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fionalm.errors import UserError, choice_error


@dataclass(frozen=True)
class ParameterizationConfig:
    """How initialisation, learning rate and epsilon of each layer follow the model's width."""

    name: Literal["standard", "ntk", "mup", "mfp"] = "standard"
    """Which (multiplier, variance) exponents each layer kind has."""
    alignment: Literal["full", "none", "global"] = "full"
    """Assumed alignment of updates with activations; "global" gives every layer and width the same LR."""
    base_width: int = 256
    """Width at which every parameterization is the same and `lr` is meant."""
    embedding_gamma: float = 1.0
    """Constant that multiplies the LR of embeddings, learned positions and input layers."""
    hidden_gamma: float = 1.0
    """Constant that multiplies the LR of hidden matrices."""
    readout_gamma: float = 1.0
    """Constant that multiplies the LR of the readout."""
    eps_scaling: Literal["none", "per_layer"] = "none"
    """Whether Adam's epsilon follows the size of each layer's gradient."""

    def __post_init__(self) -> None:
        choices = {
            "name": ("standard", "ntk", "mup", "mfp"),
            "alignment": ("full", "none", "global"),
            "eps_scaling": ("none", "per_layer"),
        }
        for field, names in choices.items():
            if getattr(self, field) not in names:
                raise choice_error(field.replace("name", "parameterization"), getattr(self, field), names)
        if self.base_width < 1:
            raise UserError(f"base_width is {self.base_width}: expected a width of at least 1")
        for field in ("embedding_gamma", "hidden_gamma", "readout_gamma"):
            if not 0 < getattr(self, field) < float("inf"):
                raise UserError(f"{field} is {getattr(self, field)}: expected a positive number")

    @property
    def gammas(self) -> dict[str, float]:
        """The LR constants by layer kind, as `parameterize` takes them."""
        return {
            "embedding": self.embedding_gamma,
            "hidden": self.hidden_gamma,
            "readout": self.readout_gamma,
        }
