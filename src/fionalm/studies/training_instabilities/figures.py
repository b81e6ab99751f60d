"""The figures of `training-instabilities`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fionalm.report import Line, Section, Table, extrapolation, forest, lines_with_intervals, loss_against_lr, power_law
from fionalm.statistics import Interval, bootstrap
from fionalm.studies.study import Lab
from fionalm.studies.training_instabilities.analysis import (
    ATTENTION,
    GRADIENT,
    LOG_Z,
    THRESHOLD,
    predict,
    sizes,
)
from fionalm.studies.training_instabilities.results import Results
from fionalm.studies.training_instabilities.runs import DEFAULT, INTERVENTIONS, NONE, QK_NORM, Arm


def draw_figures(results: Results, lab: Lab) -> None:
    """Draw and keep every figure of the study."""
    config = results.config
    widths = {
        arm.name: [
            Line(f"width {width}", config.lrs, np.nanmean(results.losses(arm, width), axis=0))
            for width in config.widths
        ]
        for arm in (NONE, QK_NORM)
    }
    initial = results.initial_loss(NONE, max(config.widths))
    lab.figure(
        loss_against_lr(widths, initial_loss=initial),
        "loss-against-lr",
        "Loss against learning rate",
        f"Final loss against learning rate, a line a width, mean of {config.seeds} seeds.",
    )
    arms = {
        "interventions": [
            Line(arm.name, config.lrs, np.nanmean(results.losses(arm, config.arm_width), axis=0))
            for arm in (NONE, QK_NORM, *INTERVENTIONS)
        ]
    }
    lab.figure(
        loss_against_lr(arms, initial_loss=initial, ordered=False),
        "interventions",
        "Loss against learning rate by intervention",
        f"Final loss against learning rate at width {config.arm_width} under each intervention.",
    )
    lab.figure(
        forest(
            {arm.name: _mean(results.sensitivities(arm, config.arm_width)) for arm in (NONE, QK_NORM, *INTERVENTIONS)},
            x_label="learning-rate sensitivity (nats)",
        ),
        "sensitivity-by-intervention",
        "Learning-rate sensitivity by intervention",
        f"Learning-rate sensitivity at width {config.arm_width} with intervals over seeds; smaller is better.",
    )
    lab.figure(
        lines_with_intervals(
            [_against_size(results, arm, [_mean(results.sensitivities(arm, w)) for w in config.widths])
             for arm in (NONE, QK_NORM)],
            x_label="parameters", y_label="learning-rate sensitivity (nats)", x_scale="log",
        ),
        "sensitivity-against-size",
        "Learning-rate sensitivity against size",
        "Learning-rate sensitivity against parameters, with and without qk-layernorm.",
    )  # fmt: skip
    _draw_attention(results, lab)
    _draw_log_z(results, lab)
    lab.figure(
        power_law(
            [
                Line(
                    f"learning rate {lr:g}",
                    sizes(results),
                    [_typical_gradient(results, w, lr) for w in config.widths],
                )
                for lr in config.lrs[:4]
            ],
            x_label="parameters",
            y_label="RMS of the gradient",
            ordered=True,
        ),
        "gradient-rms",
        "Gradients against size",
        "RMS of the gradient in training's second half (qk-layernorm), against parameters. AdamW's default epsilon "
        "is 1e-8: where the fitted lines meet it, updates stop.",
    )


def _draw_attention(results: Results, lab: Lab) -> None:
    config, counts = results.config, sizes(results)
    prediction = predict(results, list(results.seeds))
    if prediction is not None:
        rates = [lr for lr in config.lrs if prediction.joint or lr in prediction.fits]
        lab.sections.append(
            Section(
                "Which size diverges first?",
                "From the maximum attention logits of all sizes but the largest, without interventions; an attention "
                f"logit of {THRESHOLD:g} marks divergence.",
                [Table(("learning rate", "prediction"), [(lr, prediction.describe(lr)) for lr in rates])],
            )
        )
    fitted, predicted, held_out = [], [], []
    for index, lr in enumerate(config.lrs):
        highest = [results.highest(NONE, width, ATTENTION)[:, index].mean() for width in config.widths]
        if not all(math.isfinite(value) for value in highest):
            continue
        fitted.append(Line(f"learning rate {lr:g}", counts[:-1], highest[:-1]))
        held_out.append(Line(f"learning rate {lr:g}", counts[-1:], highest[-1:]))
        if prediction is not None and (prediction.joint or lr in prediction.fits):
            grid = np.geomspace(counts[0], counts[-1] * 4, 40)
            found = [prediction.predict(size, lr) for size in grid]
            predicted.append(
                Line("", grid, [i.estimate for i in found], [i.low for i in found], [i.high for i in found])
            )
    lab.figure(
        extrapolation(
            fitted,
            predicted,
            held_out,
            x_label="parameters",
            y_label="maximum attention logit",
            threshold={"divergence": THRESHOLD},
        ),
        "attention-logits",
        "Attention logits against size, and their extrapolation",
        "Maximum attention logit over training without interventions; the fit has not seen the largest size.",
    )


def _draw_log_z(results: Results, lab: Lab) -> None:
    config = results.config
    lines = []
    for arm in (QK_NORM, DEFAULT):
        for lr in config.lrs[-2:]:
            series = results.series(arm, config.arm_width, 0, lr, LOG_Z)
            values = [math.sqrt(value) if math.isfinite(value) else math.nan for value in series.values()]
            lines.append(Line(f"{arm.name}, learning rate {lr:g}", list(series), values))
    lab.figure(
        lines_with_intervals(lines, x_label="step", y_label="root mean square of log Z (nats)"),
        "log-z",
        "Log Z over training",
        f"Log Z of the output logits over training at width {config.arm_width}, first seed, with and without z-loss.",
    )


def _against_size(results: Results, arm: Arm, found: Sequence[Interval]) -> Line:
    estimates, lows, highs = ([getattr(interval, end) for interval in found] for end in ("estimate", "low", "high"))
    return Line(arm.name, sizes(results), estimates, lows, highs)


def _typical_gradient(results: Results, width: int, lr: float) -> float:
    logs = []
    for seed in results.seeds:
        values = list(results.series(QK_NORM, width, seed, lr, GRADIENT).values())
        logs += [math.log(value) for value in values[len(values) // 2 :] if 0 < value < math.inf]
    return math.exp(float(np.mean(logs))) if logs else math.nan


def _mean(by_seed: np.ndarray) -> Interval:
    return bootstrap(lambda drawn: float(drawn.mean()), by_seed)
