"""`fiona kg fit`: which size and how many epochs for at most x% hallucination, by the runs of a sweep."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fionalm.commands.knowledge import spoken
from fionalm.commands.knowledge_train import rate
from fionalm.commands.options import Positional
from fionalm.errors import UserError, choice_error

if TYPE_CHECKING:
    from fionalm.evaluation import RateFit, RateRun
    from fionalm.evaluation.hallucination_fits import Answer
    from fionalm.report import Chart
    from fionalm.statistics import Interval

DOUBLING = {"parameters": "size", "epochs": "epochs", "triples": "data"}


def fit(
    runs: Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN...")]],
    at_most: Annotated[float, tyro.conf.arg(metavar="PERCENT")] = 5.0,
    split: Annotated[str, tyro.conf.arg(metavar="NAME")] = "fully_visible",
    triples: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    temperature: Annotated[float, tyro.conf.arg(metavar="T")] = 1.0,
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
) -> None:
    """Fit hallucination rates against parameters, epochs and data: which size and how many epochs for at most x%?

    The rate's log odds are fitted as a line in the logarithms; intervals are of resampled seeds, so train several. An
    answer outside of what was trained is called extrapolation, beside the lowest rate that was measured.

    For example: fiona kg fit runs/rates --at-most 10

    Args:
        runs: folders of fiona kg train with several sizes or epochs, of one graph.
        at_most: hallucination rate in percent.
        split: fully_visible, partially_visible or invisible.
        triples: trained on. None: as many as most of the runs were.
        temperature: of the rates.
        out: folder of the results. None: RUN/fit of the first.
    """
    from fionalm.commands.outcome import columns, diagnosis
    from fionalm.data.knowledge import VISIBILITIES
    from fionalm.evaluation import fit_rates
    from fionalm.report import Section, Table

    if split not in VISIBILITIES:
        raise choice_error("split", split, VISIBILITIES)
    if not 0 < at_most < 100:
        raise UserError(f"--at-most {at_most:g}: expected a rate in percent, between 0 and 100")
    found = [one for folder in runs for one in _runs_of(folder, split, temperature)]
    fitted = fit_rates(found)
    answer = fitted.answer(at_most / 100, triples)
    settings = {"runs": [str(folder) for folder in runs], "at_most": at_most, "split": split, "triples": triples}
    settings["temperature"] = temperature
    with diagnosis(_folder(runs[0], at_most, split) if out is None else out, _title(at_most), settings) as opened:
        slopes = [
            [DOUBLING[name], *_cells(one)] for name, one in fitted.slopes().items() if math.isfinite(one.estimate)
        ]
        slope_names = ["doubling of", "adds to the log odds", "95% interval"]
        names = ["size", "parameters", "epochs needed", "95% interval", "FLOPs", "measured from epochs", "note"]
        rows = [
            [
                one.name,
                one.parameters,
                _finite(one.epochs.interval.estimate),
                _ends(one.epochs.interval),
                _finite(one.flops),
                one.measured,
                _note(one),
            ]
            for one in answer.options
        ]
        quality = (
            f"{len(found)} runs, {len(fitted.cells)} settings, {len(fitted.odds)} seed{'s' * (len(fitted.odds) != 1)}; "
            f"R2 {fitted.r_squared:.2f}; off by {100 * fitted.error:.1f} points at most, by "
            f"{_points(fitted.left_out_error)} where a setting is left out"
        )
        print(
            f"{spoken(split)} pairs, temperature {temperature:g}: {quality}",
            "",
            columns(slope_names, slopes),
            "",
            columns(names, rows),
            "",
            sep="\n",
        )
        print(answer.sentence)
        caption = (
            f"Rates of {spoken(split)} pairs: means over seeds; dashed: the fit; the line across is what was asked."
        )
        sections = [
            Section(
                "Answer", f"{answer.sentence}.", [Table(names, rows, "Epochs that each trained size needs.")], ["fit"]
            ),
            Section("Fit", f"{quality}.", [Table(slope_names, slopes, "At the means of the others.")]),
        ]
        opened.finish(_result(fitted, answer), {"fit": (_chart(fitted, found, answer), caption)}, sections)


def _runs_of(folder: Path, split: str, temperature: float) -> list[RateRun]:
    """Read the rates of a sweep's folder; a run that diverged has none and is left out.

    Raises:
        UserError: no sweep there, or no rate of that split and temperature.
    """
    from fionalm.evaluation import RateRun

    path = folder / "result.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; expected a folder of fiona kg train with --sizes") from error
    if not isinstance(values, dict) or "runs" not in values:
        raise UserError(f"{folder} holds no sweep: expected a folder of fiona kg train with several sizes or epochs")
    found = []
    for run in values["runs"]:
        share = rate(run, split, temperature)
        if share is not None:
            pairs = next(one["pairs"] for one in run["measures"] if one["visibility"] == split)
            found.append(
                RateRun(
                    run["parameters"],
                    run["epochs"],
                    run["triples"],
                    share,
                    pairs,
                    run["seed"],
                    run["flops"],
                    run["size"],
                )
            )
    if not found:
        known = sorted({(one["visibility"], one["temperature"]) for run in values["runs"] for one in run["measures"]})
        there = ", ".join(f"{name} at {one:g}" for name, one in known)
        raise UserError(f"{folder} has no rates of {split} at temperature {temperature:g}: expected one of {there}")
    return found


def _folder(run: Path, at_most: float, split: str) -> Path:
    return run / f"fit-{split}-{at_most:g}"


def _title(at_most: float) -> str:
    return f"What at most {at_most:g}% hallucination needs"


def _note(option: Any) -> str:
    need = option.epochs
    if math.isinf(need.interval.estimate):
        return "more epochs do not help" if need.varied else "one number of epochs was trained"
    if need.extrapolated:
        return f"extrapolated: trained {need.lowest:g} to {need.highest:g}"
    return f"interval beyond the trained {need.highest:g}" if need.beyond else ""


def _chart(fitted: RateFit, runs: Sequence[RateRun], answer: Answer) -> Chart:
    import numpy as np

    from fionalm.report import Line, lines_with_intervals

    lines = []
    settings = sorted({(run.parameters, run.size, run.triples) for run in runs})
    several = len({setting[2] for setting in settings}) > 1
    all_epochs = sorted({run.epochs for run in runs})
    for index, (parameters, size, triples) in enumerate(settings):
        own: dict[float, list[float]] = {}
        for run in runs:
            if (run.parameters, run.triples) == (parameters, triples):
                own.setdefault(run.epochs, []).append(run.rate)
        x = sorted(own)
        label = f"{size or parameters}, {triples:,} triples" if several else f"{size or parameters}"
        means = [sum(own[one]) / len(own[one]) for one in x]
        lines.append(Line(label, x, means, [min(own[one]) for one in x], [max(own[one]) for one in x], "points", index))
        smooth = np.geomspace(all_epochs[0], all_epochs[-1], 30) if len(all_epochs) > 1 else np.array(all_epochs)
        fit_line = [fitted.rate(parameters, float(one), triples) for one in smooth]
        lines.append(Line("", smooth.tolist(), fit_line, style="dashed", color=index))
    return lines_with_intervals(
        lines,
        x_label="epochs",
        y_label="hallucination rate",
        x_scale="log",
        ordered=True,
        references={f"{100 * answer.rate:g}%": answer.rate},
    )


def _result(fitted: RateFit, answer: Answer) -> dict[str, Any]:
    def plain(one: Any) -> Any:
        return {
            "estimate": one.interval.estimate,
            "low": one.interval.low,
            "high": one.interval.high,
            "trained": [one.lowest, one.highest],
            "extrapolated": one.extrapolated,
        }

    options = [
        {
            "size": one.name,
            "parameters": one.parameters,
            "epochs": plain(one.epochs),
            "flops": one.flops,
            "measured_from": one.measured,
        }
        for one in answer.options
    ]
    best = answer.best
    return {
        "fit": fitted.to_dict(),
        "rate": answer.rate,
        "triples": answer.triples,
        "lowest_measured": answer.lowest_rate,
        "options": options,
        "sizes": [{"epochs": epochs, "parameters": plain(one)} for epochs, one in answer.sizes],
        "best": None if best is None else best.name,
        "answer": answer.sentence,
    }


def _cells(interval: Interval) -> list[Any]:
    return [interval.estimate, _ends(interval)]


def _ends(interval: Interval) -> str:
    from fionalm.report.wording import format_interval

    return "one seed" if math.isnan(interval.low) else format_interval(interval.low, interval.high)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _points(error: float) -> str:
    return "an unknown number" if math.isnan(error) else f"{100 * error:.1f}"
