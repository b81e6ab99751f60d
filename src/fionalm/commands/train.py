"""`fiona train`: a model on a corpus, from options, from a configuration file, or from both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fionalm.commands.options import Flat, Positional, WidthOptions
from fionalm.errors import choice_error
from fionalm.training.config import TrainConfig

if TYPE_CHECKING:
    from fionalm.training import TrainResult

DEVICES = ("cpu", "cuda")


def train(
    out: Positional[Annotated[Path, tyro.conf.arg(metavar="OUT")]],
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    quiet: bool = False,
    width: Annotated[WidthOptions, Flat] = WidthOptions(),  # noqa: B008 (frozen)
    config: Annotated[TrainConfig, Flat] = TrainConfig(),  # noqa: B008 (frozen)
) -> None:
    """Train a model on a corpus; the same command resumes a stopped run and ends with the same numbers.

    Ctrl-C saves first; for a kill
    set --checkpoint-every.

    Many processes: torchrun --nproc-per-node 2 -m fionalm.training CONFIG.json --out OUT

    For example: fiona train runs/first --data.source my_texts --model.d-model 128 --model.n-layers 4 --steps 300

    Args:
        out: run folder: config.json, environment.json, metrics.jsonl, checkpoints, and the model at the end.
        device: cpu or cuda. None: a GPU if there is one.
        quiet: show no progress.
        width: how width sets initial weights and learning rates.
        config: the run.
    """
    if device is not None and device.split(":")[0] not in DEVICES:
        raise choice_error("device", device, DEVICES)
    from fionalm.commands.models import fitted
    from fionalm.training import train as run

    chosen = fitted(config).with_absolute_paths()
    chosen = replace(chosen, parameterization=width.config(chosen.model.d_model))
    result = run(chosen, out=out, quiet=quiet, device=device)
    ending = "diverged" if result.diverged else f"final loss {result.final_loss:.4f} nats"
    print(f"{ending} after {result.steps} steps, {result.tokens_per_second:,.0f} tokens/s: {out.resolve()}")
    print(f"figure: {loss_figure(result, out).resolve()}")


def loss_figure(result: TrainResult, out: Path) -> Path:
    """Draw a run's losses into its folder and write its report; return the figure's path."""
    from fionalm.report import Line, lines_with_intervals, save_figure, write_report
    from fionalm.report.folder import FIGURES_FOLDER

    steps, losses = [step for step, _ in result.losses], [loss for _, loss in result.losses]
    evaluated = [row for row in result.metrics if row.get("validation_loss") is not None]
    validation = [row["validation_loss"] for row in evaluated]
    lines = [
        Line("training", steps, losses),
        Line("validation", [row["step"] for row in evaluated], validation, style="points"),
    ]
    chart = lines_with_intervals(lines, x_label="step", y_label="loss (nats)")
    path = save_figure(chart, out / FIGURES_FOLDER, "loss", "Loss of the logged steps, and of evaluations.")
    write_report(out)
    return path
