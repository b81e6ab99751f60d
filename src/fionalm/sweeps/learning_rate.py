"""Sweeps over learning rates: does the best one transfer across widths, and how much hangs on it.

    lrs = [2.0**power for power in range(-12, -4)]
    result = lr_transfer(TrainConfig(), (64, 128, 256), lrs, seeds=(0, 1, 2), parameterization="mup")
    result.slope()  # of log best learning rate against log width, with its interval

Both sweeps take from the trial store what is there, so the same call goes on after a kill.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fionalm.errors import UserError
from fionalm.scaling.config import ParameterizationConfig
from fionalm.scaling.widths import scale_config
from fionalm.sweeps.executors import Executor
from fionalm.sweeps.lr_results import LRTransferResult, StabilityResult
from fionalm.sweeps.run import run_sweep
from fionalm.sweeps.store import TrialStore
from fionalm.sweeps.training_trial import training_trials
from fionalm.training.config import TrainConfig


def lr_transfer(
    base: TrainConfig,
    widths: Sequence[int],
    lrs: Sequence[float],
    seeds: Sequence[int],
    *,
    parameterization: str | None = None,
    optimizer: str | None = None,
    alignment: str | None = None,
    store: TrialStore | None = None,
    executor: str | Executor = "local",
    workers: int | None = None,
    quiet: bool = False,
) -> LRTransferResult:
    """Train `base` at every width, learning rate and seed.

    Args:
        base: everything else of the runs. Its width is the base width, unless its parameterization names one.
        widths: of the model, by `fionalm.scaling.scale_config`: the head size stays.
        lrs: at the base width; the parameterization scales them to the others.
        seeds: of weights and data order.
        parameterization: "standard", "ntk", "mup", "mfp"; None: base's, which may have none.
        optimizer: a name of `OptimizerConfig`; None: base's.
        alignment: "full", "none", or "global" for one learning rate at all widths; None: base's.
        store: as in `run_sweep`, like the other arguments.
        executor: as in `run_sweep`.
        workers: as in `run_sweep`.
        quiet: as in `run_sweep`.

    Raises:
        UserError: an empty list, an unknown name, a width that the heads cannot have.
    """
    grid_widths, grid_lrs, grid_seeds = (
        _grid("width", widths),
        _grid("learning rate", lrs),
        _grid("seed", seeds),
    )
    chosen = _parameterization(base, parameterization, alignment)
    configs = [
        replace(
            base,
            model=scale_config(base.model, width),
            optimizer=replace(base.optimizer, name=optimizer or base.optimizer.name, lr=lr),
            parameterization=chosen,
            seed=seed,
        )
        for width in grid_widths
        for lr in grid_lrs
        for seed in grid_seeds
    ]
    name = "LR transfer" if chosen is None else f"LR transfer, {chosen.name}, {chosen.alignment} alignment"
    results = _train(configs, store, executor, workers, name, quiet)
    return LRTransferResult.from_results(
        results,
        widths=tuple(grid_widths),
        lrs=tuple(grid_lrs),
        seeds=tuple(grid_seeds),
        parameterization=None if chosen is None else chosen.name,
        optimizer=configs[0].optimizer.name,
        alignment=None if chosen is None else chosen.alignment,
        base_width=base.model.d_model if chosen is None else chosen.base_width,
    )


def stability_sweep(
    base: TrainConfig,
    lrs: Sequence[float],
    seeds: Sequence[int],
    *,
    store: TrialStore | None = None,
    executor: str | Executor = "local",
    workers: int | None = None,
    quiet: bool = False,
) -> StabilityResult:
    """Train `base` at every learning rate and seed, and measure its learning-rate sensitivity.

    Args:
        base: everything else of the runs.
        lrs: Wortsman et al. 2023 take half-decades from 3e-4 to 3e-1.
        seeds: of weights and data order.
        store: as in `run_sweep`, like the other arguments.
        executor: as in `run_sweep`.
        workers: as in `run_sweep`.
        quiet: as in `run_sweep`.

    Raises:
        UserError: an empty list, or a learning rate that is not positive.
    """
    grid_lrs, grid_seeds = _grid("learning rate", lrs), _grid("seed", seeds)
    configs = [
        replace(base, optimizer=replace(base.optimizer, lr=lr), seed=seed) for lr in grid_lrs for seed in grid_seeds
    ]
    results = _train(configs, store, executor, workers, "LR stability", quiet)
    return StabilityResult.from_results(results, lrs=tuple(grid_lrs), seeds=tuple(grid_seeds))


def _train(
    configs: list[TrainConfig],
    store: TrialStore | None,
    executor: str | Executor,
    workers: int | None,
    description: str,
    quiet: bool,
) -> list[dict[str, Any] | None]:
    trials = training_trials(configs)
    outcomes = run_sweep(trials, store=store, executor=executor, workers=workers, description=description, quiet=quiet)
    return [outcome.result for outcome in outcomes]


def _grid(what: str, values: Sequence[Any]) -> list[Any]:
    if len(values) == 0:
        raise UserError(f"no {what} was given: expected at least one")
    if what != "seed" and not all(0 < value < math.inf for value in values):
        raise UserError(f"{what}s {list(values)}: expected positive numbers")
    return sorted(set(values))


def _parameterization(base: TrainConfig, name: str | None, alignment: str | None) -> ParameterizationConfig | None:
    if base.parameterization is None and name is None and alignment is None:
        return None
    start = base.parameterization or ParameterizationConfig(base_width=base.model.d_model)
    changes: dict[str, Any] = {"name": name, "alignment": alignment}
    return replace(start, **{key: value for key, value in changes.items() if value is not None})
