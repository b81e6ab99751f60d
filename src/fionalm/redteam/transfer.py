"""Transfer: attacks found on one model or problem, tried on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fionalm.redteam.attacks import Attack
from fionalm.redteam.metrics import Summary, excess, summarise
from fionalm.redteam.problems import ArithmeticProblem
from fionalm.redteam.querying import QueryModel
from fionalm.redteam.trials import Trial, run_trials
from fionalm.statistics import Interval


@dataclass(frozen=True)
class Transfer:
    """What one set of attacks does to one model."""

    source: str
    target: str
    attack: Summary
    control: Summary
    """Of harmless text as long as the attacks."""
    above_control: Interval
    """Difference of the shares of wrong numbers, resampling problems."""


def transfer(
    sources: Mapping[str, Sequence[Attack]],
    targets: Mapping[str, QueryModel],
    problems: Sequence[ArithmeticProblem],
    *,
    quiet: bool = True,
    **how: Any,
) -> tuple[list[Transfer], list[Trial]]:
    """Try every set of attacks on every model, each on the same problems; prefer ones that no attack was chosen by.

    Args:
        sources: sets of attacks by name, such as the model that they were found on.
        targets: models by name.
        problems: to try them on.
        quiet: show no progress.
        **how: as `run_trials` takes it: seed, distances, sentences.

    Returns:
        One entry for each source and target, row by row, and all trials.
    """
    cells: list[Transfer] = []
    everything: list[Trial] = []
    for source, attacks in sources.items():
        for name, target in targets.items():
            trials = run_trials(target, attacks, problems, clean=False, quiet=quiet, **how)
            everything += trials
            attack, control = (
                summarise(trial for trial in trials if trial.condition == condition)
                for condition in ("attack", "control")
            )
            cells.append(Transfer(source, name, attack, control, excess(trials)))
    return cells, everything
