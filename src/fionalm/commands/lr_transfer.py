"""`fiona lr-transfer`: does the best learning rate stay where it is as the model grows wider?"""

from __future__ import annotations

import math
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
    Widths,
    announce,
    optimizer_name,
    positive,
)
from fionalm.errors import UserError
from fionalm.training.config import TrainConfig

if TYPE_CHECKING:
    from fionalm.sweeps import LRTransferResult


def lr_transfer(
    model: Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]] = "decoder",
    widths: Widths = (32, 64, 128),
    lrs: Lrs = (1e-3, 2e-3, 4e-3, 8e-3, 16e-3, 32e-3, 64e-3),
    optimizer: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    width: Annotated[WidthOptions, Flat] = WidthOptions("standard"),  # noqa: B008 (frozen)
    sweep: Annotated[SweepOptions, Flat] = SweepOptions(),  # noqa: B008 (frozen)
    out: Folder = Path("runs/lr-transfer"),
    config: Annotated[TrainConfig, Flat] = SMALL,
) -> None:
    """Find the best learning rate at each width, with its interval over seeds.

    The same command goes on after a stop, for finished runs are kept.

    For example: fiona lr-transfer --parameterization mup --optimizer adam --widths 32 64 128 --steps 200

    Args:
        model: decoder (its shape by --model.*), or a Llama-family folder or config.json, whose shape is taken.
        widths: model widths; a head keeps its size.
        lrs: learning rates at the base width.
        optimizer: adam, adamw, adam_atan2, adafactor or sgd; None: --optimizer.name.
        width: how width sets learning rates.
        sweep: runs.
        out: folder of the results.
        config: the run that is scaled.
    """
    from fionalm.commands.outcome import diagnosis
    from fionalm.scaling import scale_config
    from fionalm.sweeps import lr_transfer as transfer

    positive("--lrs", lrs)
    positive("--widths", widths)
    base = replace(_scalable(config.with_absolute_paths(), model), parameterization=None)
    base = replace(base, parameterization=width.config(base.model.d_model))
    name = base.optimizer.name if optimizer is None else optimizer_name(optimizer)
    base = replace(base, optimizer=replace(base.optimizer, name=name))  # pyright: ignore[reportArgumentType]
    scaled = [replace(base, model=scale_config(base.model, one)) for one in sorted(set(widths))]
    seeds = range(base.seed, base.seed + sweep.seeds)
    settings = {"widths": list(widths), "lrs": list(lrs), "seeds": sweep.seeds, "config": base.to_dict()}
    with diagnosis(out, "Learning-rate transfer across widths", settings) as opened:
        announce(scaled * (len(set(lrs)) * sweep.seeds), sweep)
        result = transfer(base, widths, lrs, seeds, **sweep.how)
        _show(result, opened)


def _scalable(config: TrainConfig, model: str) -> TrainConfig:
    """Put the shape of MODEL into the configuration: what is scaled cannot be a file of weights."""
    from fionalm.commands.models import decoder_shape

    if config.model_path is not None:
        raise UserError(
            f"--model-path {config.model_path} has one width: expected the shape of a Llama-family model as "
            "fiona lr-transfer CONFIG.json"
        )
    return config if model == "decoder" else replace(config, model=decoder_shape(model))


def _show(result: LRTransferResult, opened: Any) -> None:
    from fionalm.commands.outcome import columns
    from fionalm.report import Section, Table
    from fionalm.report.wording import format_interval

    names = ["width", "best learning rate", "95% interval", "loss there", "note"]
    rows = []
    for width in result.widths:
        best, loss = result.best_lr(width), result.best_loss(width)
        note = "an end of the grid: sweep further" if width in result.edge_widths else ""
        rows.append([width, best.estimate, format_interval(best.low, best.high), loss.estimate, note])
    slope = result.slope()
    ends = f"[{_two_digits(slope.low)}, {_two_digits(slope.high)}]" if math.isfinite(slope.low) else "(one seed)"
    verdict = (
        f"slope of log best learning rate against log width: {_two_digits(slope.estimate)} {ends}; 0: it transfers"
    )
    if len(result.widths) < 2:
        verdict = "one width: expected at least two for a slope"
    print(columns(names, rows))
    print(verdict)
    best = [
        {"width": width, "lr": found.estimate, "low": found.low, "high": found.high}
        for width in result.widths
        for found in [result.best_lr(width)]
    ]
    values = {**result.to_dict(), "best_lr": best, "slope": [slope.estimate, slope.low, slope.high]}
    values["edge_widths"] = list(result.edge_widths)
    described = f"{result.parameterization}, {result.optimizer}, alignment {result.alignment}"
    caption = f"{described}; mean over {len(result.seeds)} seeds, the best of each width filled."
    section = Section("Best learning rates", verdict, [Table(names, rows)], ["lr-transfer"])
    opened.finish(values, {"lr-transfer": (_chart(result), caption)}, [section])


def _chart(result: LRTransferResult) -> Any:
    from fionalm.report import Line, loss_against_lr
    from fionalm.sweeps.optimum import mean_over_seeds

    means = [mean_over_seeds(losses) for losses in result.clipped]
    lines = [Line(f"width {width}", result.lrs, mean) for width, mean in zip(result.widths, means, strict=True)]
    return loss_against_lr(
        lines, initial_loss=float(result.initial_losses[0, 0].mean()), x_label="learning rate at the base width"
    )


def _two_digits(value: float) -> str:
    """Write a slope: what is 0 up to rounding reads as 0."""
    return f"{round(value, 2) + 0.0:.2f}"
