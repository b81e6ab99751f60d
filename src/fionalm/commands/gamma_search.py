"""`fiona gamma-search`: the constants by which the learning rates of embedding, hidden and readout layers differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fionalm.commands.options import (
    SMALL,
    Flat,
    Folder,
    Positional,
    SweepOptions,
    WidthOptions,
    announce,
)
from fionalm.errors import UserError, require
from fionalm.training.config import TrainConfig

if TYPE_CHECKING:
    from fionalm.sweeps import GammaSearchResult


def gamma_search(
    model: Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]] = "decoder",
    trials: Annotated[int, tyro.conf.arg(metavar="N")] = 64,
    low: float = 1e-2,
    high: float = 1e2,
    width: Annotated[WidthOptions, Flat] = WidthOptions("standard"),  # noqa: B008 (frozen)
    sweep: Annotated[SweepOptions, Flat] = SweepOptions(seeds=1),  # noqa: B008 (frozen)
    out: Folder = Path("runs/gamma-search"),
    config: Annotated[TrainConfig, Flat] = SMALL,
) -> None:
    """Search each layer kind's learning-rate constant at the base width (Everett et al. 2024), with Optuna.

    The same command goes on after a stop, for finished runs are kept. --gammas of the other commands takes what is
    found.

    For example: fiona gamma-search --trials 32 --optimizer.lr 3e-3 --parameterization mup

    Args:
        model: decoder (its shape by --model.*), a model folder, or the config.json of a transformers causal model.
        trials: sets of constants to try; the first is 1 1 1.
        low: smallest constant.
        high: largest constant.
        width: how width sets learning rates; --gammas is what is searched.
        sweep: runs.
        out: folder of the results.
        config: the run at the base width.
    """
    if trials < 1:
        raise UserError(f"--trials {trials}: expected at least 1")
    require("optuna", "search")
    from fionalm.commands.models import with_model
    from fionalm.commands.outcome import diagnosis
    from fionalm.sweeps import gamma_search as search

    base = with_model(config, model).with_absolute_paths()
    base = replace(base, parameterization=width.config(base.model.d_model))
    seeds = range(base.seed, base.seed + sweep.seeds)
    settings = {"trials": trials, "low": low, "high": high, "seeds": sweep.seeds, "config": base.to_dict()}
    with diagnosis(out, "Search of per-layer learning-rate constants", settings) as opened:
        announce([base] * (trials * sweep.seeds), sweep)
        result = search(base, trials=trials, seeds=seeds, low=low, high=high, **sweep.how)
        _show(result, opened)


def _show(result: GammaSearchResult, opened: Any) -> None:
    from fionalm.commands.outcome import columns, number
    from fionalm.report import Section, Table

    names = ["layers", "constant"]
    rows = [[layer, gamma] for layer, gamma in result.gammas.items()]
    first = result.tried[0]["loss"]
    verdict = f"loss {result.loss:.4f} nats, best of {len(result.tried)} sets; with all constants 1: {number(first)}"
    print(columns(names, rows))
    print(verdict)
    print(f"use them with --gammas {' '.join(f'{gamma:.4g}' for gamma in result.gammas.values())}")
    section = Section("Best constants", verdict, [Table(names, rows)], ["gamma-search"])
    caption = "Mean final loss of every set of constants in the order of the search, and the best so far."
    opened.finish(result.to_dict(), {"gamma-search": (_chart(result), caption)}, [section])


def _chart(result: GammaSearchResult) -> Any:
    import math

    from fionalm.report import Line, lines_with_intervals

    losses = [math.nan if entry["loss"] is None else entry["loss"] for entry in result.tried]
    best, so_far = math.inf, []
    for loss in losses:
        best = min(best, loss) if math.isfinite(loss) else best
        so_far.append(best)
    steps = list(range(1, len(losses) + 1))
    lines = [Line("each set", steps, losses, style="points"), Line("best so far", steps, so_far)]
    return lines_with_intervals(lines, x_label="set", y_label="final loss (nats)")
