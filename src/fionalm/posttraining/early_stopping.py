"""The best weights that validation has seen: kept in memory and beside the checkpoints, and when to stop waiting."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fionalm.posttraining.policy import Policy
from fionalm.training.distributed import World

BEST_FILE = "best.safetensors"


class BestWeights:
    """Remembers a policy's weights whenever validation finds them better than before.

    Args:
        policy: whose trained weights are kept.
        patience: validations in a row without a new best until training should stop; 0: it never should.
        folder: run folder, which gets the weights beside the checkpoints; None: nothing is written.
        world: the processes; None: this one.

    Attributes:
        step: updates that the best weights had; None: nothing was validated.
        value: their validation; larger is better.
        stopped: whether patience has run out.
    """

    def __init__(
        self,
        policy: Policy,
        patience: int = 0,
        *,
        folder: str | Path | None = None,
        world: World | None = None,
    ) -> None:
        self.policy, self.patience, self.world = policy, patience, world or World(policy.device)
        self.file = None if folder is None else Path(folder) / "checkpoints" / BEST_FILE
        self.step: int | None = None
        self.value: float | None = None
        self.waited = 0
        self.stopped = False
        self._weights: dict[str, Tensor] | None = None

    def offer(self, value: float, step: int) -> bool:
        """Tell how good the weights are after `step` updates; return whether to stop. Every process calls it."""
        if self.value is None or value > self.value:
            self.value, self.step, self.waited = value, step, 0
            self._weights = self.policy.snapshot()
            if self.file is not None:
                self.world.on_main(self._write)
        else:
            self.waited += 1
            self.stopped = bool(self.patience) and self.waited >= self.patience
        return self.stopped

    def state(self) -> dict[str, Any]:
        """Return JSON values for a checkpoint."""
        return {"best_step": self.step, "best_value": self.value, "waited": self.waited, "stopped": self.stopped}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.step, self.value = state["best_step"], state["best_value"]
        self.waited, self.stopped = state["waited"], state["stopped"]

    def take(self, step: int) -> None:
        """Give the policy the best weights, unless it has them: it has had `step` updates."""
        if self.step in (None, step):
            return
        if self._weights is None:  # found before a resumption
            from safetensors.torch import load_file

            assert self.file is not None
            self._weights = load_file(self.file)
        self.policy.restore(self._weights)

    def _write(self) -> None:
        from fionalm.models.weight_files import write_safetensors

        assert self.file is not None and self._weights is not None
        write_safetensors(self.file, self._weights)
