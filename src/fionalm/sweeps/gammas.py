"""Searches the constants by which the learning rates of embedding, hidden and readout layers differ.

Everett et al. 2024 (arXiv 2407.05872) tune them at the base width and keep them at every other.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from fionalm.errors import UserError, require
from fionalm.scaling.config import ParameterizationConfig
from fionalm.sweeps.executors import Executor, make_executor
from fionalm.sweeps.run import run_sweep
from fionalm.sweeps.store import TrialStore
from fionalm.sweeps.training_trial import training_trials
from fionalm.training.config import TrainConfig

LAYERS = ("embedding", "hidden", "readout")


@dataclass(frozen=True)
class GammaSearchResult:
    """The best constants found, and all that were tried.

    Attributes:
        gammas: by layer kind.
        loss: their mean final loss over seeds, in nats.
        tried: `{"gammas": ..., "loss": ...}` in the order of the search; a loss of None: a run crashed.
    """

    gammas: dict[str, float]
    loss: float
    tried: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values that `from_dict` reads back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GammaSearchResult:
        """Read `to_dict`'s values."""
        return cls(**values)


def gamma_search(
    base: TrainConfig,
    *,
    trials: int = 64,
    seeds: Sequence[int] = (0,),
    low: float = 1e-2,
    high: float = 1e2,
    batch: int = 4,
    search_seed: int = 0,
    store: TrialStore | None = None,
    executor: str | Executor = "local",
    workers: int | None = None,
    quiet: bool = False,
) -> GammaSearchResult:
    """Search gamma of embedding, hidden and readout layers with Optuna's TPE, log-uniform in [`low`, `high`].

    The search depends on its arguments and the losses alone, not on the number of workers; run again, it asks
    for the same constants, finds their trials in the store and goes on. It begins with all constants at 1, so
    its best is never worse than no search.

    Args:
        base: at the base width and learning rate; standard with full alignment if it has no parameterization.
        trials: sets of constants to try.
        seeds: runs of each set, whose losses are averaged; a diverged run has its loss at initialisation.
        low: smallest constant.
        high: largest constant.
        batch: sets proposed at a time, so that many workers have something to do.
        search_seed: of the search.
        store: as in `run_sweep`, like the other arguments.
        executor: as in `run_sweep`.
        workers: as in `run_sweep`.
        quiet: as in `run_sweep`.

    Raises:
        MissingExtraError: Optuna is not installed (extra `search`).
        UserError: no trials, no seeds, an empty range, or every run crashed.
    """
    if trials < 1 or batch < 1 or not seeds:
        raise UserError(f"trials {trials}, batch {batch}, {len(seeds)} seeds: expected at least one of each")
    if not 0 < low < high < math.inf:
        raise UserError(f"constants from {low} to {high}: expected 0 < low < high")
    search = _tpe(search_seed)
    search.enqueue_trial(dict.fromkeys(LAYERS, min(max(1.0, low), high)))
    runner = make_executor(executor, workers) if isinstance(executor, str) else executor
    tried: list[dict[str, Any]] = []
    try:
        while len(tried) < trials:
            asked = [search.ask() for _ in range(min(batch, trials - len(tried)))]
            sets = [{layer: one.suggest_float(layer, low, high, log=True) for layer in LAYERS} for one in asked]
            outcomes = run_sweep(
                training_trials(_with_gammas(base, gammas, seed) for gammas in sets for seed in seeds),
                store=store,
                executor=runner,
                description=f"gamma search {len(tried)}-{len(tried) + len(sets)} of {trials}",
                quiet=quiet,
            )
            for i, (one, gammas) in enumerate(zip(asked, sets, strict=True)):
                loss = _mean_loss([o.result for o in outcomes[i * len(seeds) : (i + 1) * len(seeds)]])
                tried.append({"gammas": gammas, "loss": loss})
                if loss is None:
                    search.tell(one, state=require("optuna", "search").trial.TrialState.FAIL)
                else:
                    search.tell(one, loss)
    finally:
        if isinstance(executor, str):
            runner.close()
    known = [entry for entry in tried if entry["loss"] is not None]
    if not known:
        raise UserError(f"all {trials} sets of constants crashed: train the base configuration alone to see why")
    best = min(known, key=lambda entry: entry["loss"])
    return GammaSearchResult(best["gammas"], best["loss"], tried)


def _tpe(seed: int) -> Any:
    optuna = require("optuna", "search")
    logging.getLogger("optuna").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # The constant liar, marked experimental, keeps a batch from proposing one point several times.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    return optuna.create_study(sampler=sampler)


def _with_gammas(base: TrainConfig, gammas: Mapping[str, float], seed: int) -> TrainConfig:
    start = base.parameterization or ParameterizationConfig(base_width=base.model.d_model)
    values: dict[str, Any] = {f"{layer}_gamma": gamma for layer, gamma in gammas.items()}
    return replace(base, parameterization=replace(start, **values), seed=seed)


def _mean_loss(results: Sequence[Mapping[str, Any] | None]) -> float | None:
    losses = []
    for result in results:
        if result is None:
            return None
        final, initial = (math.inf if result[key] is None else result[key] for key in ("final_loss", "initial_loss"))
        losses.append(min(final, initial))
    return math.fsum(losses) / len(losses)
