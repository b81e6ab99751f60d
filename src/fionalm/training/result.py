"""What a training run came to, as JSON holds it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class TrainResult:
    """A finished training run. A diverged run is a result too: its final loss is infinite, `null` in JSON."""

    final_loss: float
    """Validation loss after the last step; without validation, the mean of the last tenth of the logged losses."""
    initial_loss: float
    """Loss of the first batch, before any update."""
    diverged: bool
    """Whether a loss was not finite; the run ended there."""
    steps: int
    """Updates done."""
    losses: list[tuple[int, float]] = field(repr=False)
    """(step, training loss of that step's batch before its update), at every logged step."""
    metrics: list[Row] = field(repr=False)
    """The rows of metrics.jsonl: one a step, at steps where anything was measured."""
    tokens_per_second: float
    """Training tokens over the time in training steps, evaluation and checkpoints left out."""
    seconds: float
    """Time in training steps, over all of the run's resumptions."""

    @classmethod
    def from_rows(cls, rows: Sequence[Row], *, steps: int, seconds: float, tokens_per_second: float) -> TrainResult:
        """Read the losses off the rows of metrics; see the fields for what counts as what."""
        logged = [(row["step"], math.inf if row["loss"] is None else row["loss"]) for row in rows if "loss" in row]
        evaluations = [row["validation_loss"] for row in rows if "validation_loss" in row]
        diverged = any(row.get("diverged") for row in rows)
        if diverged or not logged:
            final = math.inf
        elif evaluations:
            final = evaluations[-1]
        else:
            last = [loss for _, loss in logged[-math.ceil(len(logged) / 10) :]]
            final = math.fsum(last) / len(last)
        return cls(
            final_loss=final,
            initial_loss=logged[0][1] if logged else math.inf,
            diverged=diverged,
            steps=steps,
            losses=logged,
            metrics=list(rows),
            tokens_per_second=tokens_per_second,
            seconds=seconds,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, every number that is not finite as None."""
        return plain_numbers(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainResult:
        """Read `to_dict`'s values back, a None among the losses as infinity."""

        def number(value: float | None) -> float:
            return math.inf if value is None else value

        return cls(
            **{
                **values,
                "final_loss": number(values["final_loss"]),
                "initial_loss": number(values["initial_loss"]),
                "losses": [(step, number(loss)) for step, loss in values["losses"]],
            }
        )


def plain_numbers(value: Any) -> Any:
    """Replace numbers that JSON cannot hold (NaN and infinities) by None, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: plain_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_numbers(item) for item in value]
    return value
