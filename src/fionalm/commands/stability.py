"""`fiona stability`: at which learning rates does your model train, and what warns of the end?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fionalm.commands.options import (
    SMALL,
    Flat,
    Folder,
    Lrs,
    Positional,
    SweepOptions,
    WidthOptions,
    announce,
    positive,
)
from fionalm.errors import UserError
from fionalm.training.config import TrainConfig

if TYPE_CHECKING:
    from fionalm.sweeps import StabilityResult

HALF_DECADES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
ATTENTION_DIVERGES = 1e4
Result = dict[str, Any] | None


def stability(
    model: Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]] = "decoder",
    lrs: Lrs = HALF_DECADES,
    width: Annotated[WidthOptions, Flat] = WidthOptions(),  # noqa: B008 (frozen)
    sweep: Annotated[SweepOptions, Flat] = SweepOptions(),  # noqa: B008 (frozen)
    out: Folder = Path("runs/stability"),
    config: Annotated[TrainConfig, Flat] = SMALL,
) -> None:
    """Sweep learning rates for your model and data: sensitivity, divergence, spikes, attention and output logits.

    The same command goes on after a stop, for finished runs are kept.

    For example: fiona stability path/to/config.json --data.source my_texts --steps 200 --seeds 2

    Args:
        model: decoder (its shape by --model.*), a model folder (from its weights), the config.json of a transformers
            causal model (fresh weights), or the JSON of a training configuration.
        lrs: learning rates; the default half-decades are those of Wortsman et al. 2023.
        width: how width sets learning rates.
        sweep: runs.
        out: folder of the results.
        config: the run that is swept.
    """
    from fionalm.commands.models import with_model
    from fionalm.commands.outcome import diagnosis
    from fionalm.sweeps import StabilityResult, run_sweep
    from fionalm.sweeps.training_trial import training_trials

    positive("--lrs", lrs)
    base = with_model(config, model).with_absolute_paths()
    # Every loss is needed to count spikes, and a few looks at the logits cost little.
    probe_every = base.probe_every or max(1, base.steps // 20)
    base = replace(base, parameterization=width.config(base.model.d_model), log_every=1, probe_every=probe_every)
    grid, seeds = sorted(set(lrs)), range(base.seed, base.seed + sweep.seeds)
    configs = [replace(base, optimizer=replace(base.optimizer, lr=lr), seed=seed) for lr in grid for seed in seeds]
    settings = {"lrs": grid, "seeds": sweep.seeds, "config": base.to_dict()}
    with diagnosis(out, "Learning-rate stability", settings) as opened:
        announce(configs, sweep)
        trials = training_trials(configs, probes=("stability",))
        outcomes = run_sweep(trials, description="stability", **sweep.how)
        results = [outcome.result for outcome in outcomes]
        if not any(results):
            error = (outcomes[0].error or "unknown").strip().splitlines()[-1]
            raise UserError(f"all {len(results)} runs crashed, the first with: {error}")
        found = StabilityResult.from_results(results, lrs=tuple(grid), seeds=tuple(seeds))
        _show(found, [results[i : i + len(seeds)] for i in range(0, len(results), len(seeds))], opened)


def observed(results: Sequence[Result]) -> dict[str, Any]:
    """Summarise the runs of one learning rate: divergence, loss spikes, and the largest logits that probes saw.

    Returns:
        `diverged` and `crashed` runs and `spikes`, counted over runs; `attn_logit_max` over runs and steps, and
        `log_z`, the mean log Z farthest from 0: None where nothing was measured, infinite where logits were.
    """
    from fionalm.scaling.spikes import LossSpikes

    spikes, attention, log_z = 0, [], []
    known = [result for result in results if result is not None]
    for result in known:
        counter = LossSpikes()
        for _, loss in result["losses"]:
            counter.update(math.inf if loss is None else loss)
        spikes += counter.count
        for row in result["metrics"]:
            # JSON holds null for a logit that was not finite.
            attention += [_size(row[key]) for key in ("probe/attn_logit_max/all",) if key in row]
            log_z += [row[key] for key in ("probe/log_z_mean",) if row.get(key) is not None]
    return {
        "diverged": sum(result["diverged"] for result in known),
        "crashed": len(results) - len(known),
        "spikes": spikes,
        "attn_logit_max": max(attention, default=None),
        "log_z": max(log_z, key=abs, default=None),
    }


def _show(result: StabilityResult, groups: Sequence[Sequence[Result]], opened: Any) -> None:
    from fionalm.commands.outcome import columns
    from fionalm.report import Section, Table
    from fionalm.report.wording import format_interval, format_number

    seen = [observed(group) for group in groups]
    names = [
        "learning rate",
        "final losses (nats)",
        "diverged",
        "spikes",
        "largest attention logit",
        "log Z farthest from 0",
    ]
    rows = [
        [lr, " ".join(map(_loss, losses)), found["diverged"], found["spikes"], found["attn_logit_max"], found["log_z"]]
        for lr, losses, found in zip(result.lrs, result.losses, seen, strict=True)
    ]
    sensitivity = result.sensitivity()
    lines = [
        f"learning-rate sensitivity {format_number(sensitivity.estimate)} nats "
        f"{format_interval(sensitivity.low, sensitivity.high)}",
        _ending(result, seen),
    ]
    print(columns(names, rows))
    print("\n".join(lines))
    values = {
        **result.to_dict(),
        "sensitivity": [sensitivity.estimate, sensitivity.low, sensitivity.high],
        "observed": [{"lr": lr, **found} for lr, found in zip(result.lrs, seen, strict=True)],
    }
    charts = _charts(result, seen)
    opened.finish(values, charts, [Section("Runs", "\n\n".join(lines), [Table(names, rows)], list(charts))])


def _ending(result: StabilityResult, seen: Sequence[dict[str, Any]]) -> str:
    lost = [lr for lr, found in zip(result.lrs, seen, strict=True) if found["diverged"]]
    worse = [
        lr
        for lr, losses, first in zip(result.lrs, result.losses, result.initial_losses, strict=True)
        if lr not in lost and (losses >= first).any()
    ]
    parts = [f"diverged at {', '.join(f'{lr:g}' for lr in lost)}" if lost else "no run diverged"]
    if worse:
        parts.append(f"ended at or above the first loss at {', '.join(f'{lr:g}' for lr in worse)}")
    return "; ".join([*parts, f"{sum(found['spikes'] for found in seen)} loss spikes"])


def _charts(result: StabilityResult, seen: Sequence[dict[str, Any]]) -> dict[str, tuple[Any, str]]:
    import numpy as np

    from fionalm.report import Line, lines_with_intervals, loss_against_lr
    from fionalm.sweeps.optimum import mean_over_seeds

    known = np.where(np.isfinite(result.losses), result.losses, np.nan)
    rows = [row[~np.isnan(row)] for row in known]
    low, high = ([float(pick(row)) if len(row) else math.nan for row in rows] for pick in (np.min, np.max))
    line = Line("mean, and range over seeds", result.lrs, mean_over_seeds(result.losses.T), low, high)
    first = result.initial_losses[np.isfinite(result.initial_losses)]
    initial = float(first.mean()) if len(first) else math.nan
    charts = {
        "stability": (
            loss_against_lr([line], initial_loss=initial),
            "Final loss against learning rate; crosses diverged.",
        )
    }
    logits = [found["attn_logit_max"] for found in seen]
    if any(value is not None for value in logits):
        sizes = [math.nan if value is None or value <= 0 else value for value in logits]
        chart = lines_with_intervals(
            [Line("largest attention logit", result.lrs, sizes)],
            x_label="learning rate",
            y_label="attention logit",
            x_scale="log",
            y_scale="log",
            references={"about where training diverges": ATTENTION_DIVERGES} if max(sizes) > 1e2 else None,
        )
        charts["attention-logits"] = (chart, "Largest attention logit of all runs and measured steps.")
    return charts


def _loss(loss: float) -> str:
    if math.isnan(loss):
        return "crashed"
    return "diverged" if math.isinf(loss) else f"{loss:.3f}"


def _size(value: float | None) -> float:
    return math.inf if value is None else value
