"""`fiona coord-check`: do activations and updates keep their size as the model grows wider?"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fionalm.commands.options import ALIGNMENTS, OPTIMIZERS, PARAMETERIZATIONS, Positional, Widths
from fionalm.errors import UserError, choice_error

if TYPE_CHECKING:
    from fionalm.scaling import CoordCheckResult

BATCH, SEQ_LEN = 4, 32
SHOWN = {
    "activation": "activation: RMS of the layer's output after the last step; wider models should not grow it",
    "change": "change: RMS of the output's change since initialisation; it should not grow either",
    "update": "update: RMS of the weights' change since initialisation",
}


def coord_check(
    model: Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]],
    parameterization: Annotated[str, tyro.conf.arg(metavar="NAME")] = "mup",
    optimizer: Annotated[str, tyro.conf.arg(metavar="NAME")] = "adam",
    alignment: Annotated[str, tyro.conf.arg(metavar="NAME")] = "full",
    widths: Widths = (32, 64, 128, 256),
    base_width: Annotated[int, tyro.conf.arg(metavar="N")] = 64,
    lr: Annotated[float, tyro.conf.arg(metavar="LR")] = 1e-2,
    steps: Annotated[int, tyro.conf.arg(metavar="N")] = 4,
    seeds: Annotated[int, tyro.conf.arg(metavar="N")] = 3,
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    quiet: bool = False,
) -> None:
    """Check how activations and updates scale with width, against what the parameterization promises.

    Small models of several widths take a few steps on random tokens. The table and the figure show each layer's sizes
    against width, the exponent fitted to them, and whether theory allows it.

    For example: fiona coord-check gpt2 --parameterization mup --optimizer adam

    Args:
        model: decoder, gpt2 or llama (small ones, the last two of transformers), a model folder, or the config.json
            of any transformers causal model; only the shape is used, with fresh weights.
        parameterization: standard, ntk, mup or mfp.
        optimizer: adam, adamw, adam_atan2, adafactor or sgd.
        alignment: of updates with activations: full, none, or global for one learning rate everywhere.
        widths: model widths; a head keeps its size.
        base_width: width at which the learning rate is meant.
        lr: learning rate at the base width; large enough that a few steps change the activations.
        steps: optimizer steps before measuring.
        seeds: models a width.
        out: folder of the results; default: runs/coord-check-MODEL-PARAMETERIZATION-OPTIMIZER.
        quiet: show no progress.
    """
    if parameterization not in PARAMETERIZATIONS:
        raise choice_error("parameterization", parameterization, PARAMETERIZATIONS)
    if optimizer not in OPTIMIZERS:
        raise choice_error("optimizer", optimizer, OPTIMIZERS)
    if alignment not in ALIGNMENTS:
        raise choice_error("alignment", alignment, ALIGNMENTS)
    if steps < 1 or seeds < 1:
        raise UserError(f"--steps {steps} --seeds {seeds}: expected at least 1 of each")
    import torch

    from fionalm.commands.models import BUILT_IN, builder
    from fionalm.commands.outcome import diagnosis
    from fionalm.scaling import coord_check as check

    build, vocabulary, longest = builder(model)
    shape = (BATCH, min(SEQ_LEN, longest) + 1)
    settings: dict[str, Any] = {
        "parameterization": parameterization,
        "optimizer": optimizer,
        "alignment": alignment,
        "base_lr": lr,
        "base_width": base_width,
        "steps": steps,
        "seeds": seeds,
    }
    given = Path(model)
    is_built_in = model in BUILT_IN
    name, where = (model, model) if is_built_in else (given.resolve().stem, str(given.resolve()))
    folder = out or Path("runs") / f"coord-check-{name}-{parameterization}-{optimizer}"
    with diagnosis(
        folder, f"Coordinate check of {name}", {"model": where, "widths": list(widths), **settings}
    ) as opened:
        batches = [
            torch.randint(0, vocabulary, shape, generator=torch.Generator().manual_seed(i)) for i in range(steps)
        ]
        result = check(build, sorted(set(widths)), batches, quiet=quiet, **settings)
        sections, chart = _sections(result), _chart(result)
        print(_text(result))
        caption = (
            f"{name}, {parameterization}, {optimizer}, alignment {alignment}: a flat line does not depend on width."
        )
        opened.finish(result.to_dict(), {"coord-check": (chart, caption)}, sections)


def _rows(result: CoordCheckResult) -> tuple[list[str], list[list[Any]]]:
    """Return the columns and rows of the table of what is shown."""
    import numpy as np

    names = ["quantity", "layer", "kind", *(f"n={width}" for width in result.widths), "exponent", "theory", "matches"]
    rows: list[list[Any]] = []
    for row in (row for quantity in SHOWN for row in result.select(quantity)):
        sizes = [float(np.mean(values)) for values in row.values]
        spread = "" if math.isnan(row.stderr) else f" ± {row.stderr:.2f}"
        exponent = f"{row.exponent:+.2f}{spread}"
        rows.append([row.quantity, row.layer, row.kind, *sizes, exponent, row.theory, "yes" if row.allowed else "no"])
    return names, rows


def _text(result: CoordCheckResult) -> str:
    from fionalm.commands.outcome import columns

    names, rows = _rows(result)
    return "\n".join([f"RMS after {result.steps} steps", columns(names, rows), "", *SHOWN.values(), _verdict(result)])


def _verdict(result: CoordCheckResult) -> str:
    wrong = [row for quantity in SHOWN for row in result.select(quantity) if not row.allowed]
    if not wrong:
        return "every layer matches theory"
    named = ", ".join(f"{row.quantity} of {row.layer} ({row.exponent:+.2f}, theory {row.theory})" for row in wrong[:5])
    return f"{len(wrong)} do not match theory: {named}{' and more' if len(wrong) > 5 else ''}"


def _sections(result: CoordCheckResult) -> list[Any]:
    from fionalm.report import Section, Table

    names, rows = _rows(result)
    return [Section("Sizes against width", _verdict(result), [Table(names, rows)], ["coord-check"])]


def _chart(result: CoordCheckResult) -> Any:
    from fionalm.report import Line, lines_with_intervals

    panels: dict[str, list[Any]] = {}
    for quantity in SHOWN:
        series = result.series(quantity)
        panels[quantity] = [
            Line(layer, [w for w, _ in points], [size for _, size in points], color=index)
            for index, (layer, points) in enumerate(sorted(series.items()))
        ]
    label = f"RMS after {result.steps} steps"
    return lines_with_intervals(panels, x_label="width", y_label=label, x_scale="log", y_scale="log", columns=3)
