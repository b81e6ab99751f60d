"""What the runs of `scaling-exponents` say about its claims, and the figures that show it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from fionalm.optim import AdamAtan2
from fionalm.report import Line, exact, lines_with_intervals, loss_against_lr, measure, power_law
from fionalm.report.claims import Measured
from fionalm.statistics import bootstrap
from fionalm.studies.scaling_exponents.claims import CLAIMS
from fionalm.studies.scaling_exponents.runs import GLOBAL, PARAMETERIZATIONS, Key, ScalingExponentsConfig
from fionalm.studies.study import Lab
from fionalm.sweeps.optimum import best_lr, best_lr_slope, largest_shift

BY_ID = {claim.id: claim for claim in CLAIMS}
TITLES = {
    GLOBAL: "standard, one global LR",
    "standard": "standard, per-layer LR",
    "ntk": "NTK, per-layer LR",
    "mup": "muP, per-layer LR",
    "mfp": "mean-field, per-layer LR",
}


def transfer(config: ScalingExponentsConfig, losses: Mapping[str, np.ndarray], lab: Lab) -> list[Measured]:
    """Measure how the best learning rate moves with width; `losses[arm]` is `[width, seed, lr]`."""
    lrs = {arm: config.global_lrs if arm == GLOBAL else config.lrs for arm in losses}
    _draw_transfer(config, losses, lrs, lab)
    slope = best_lr_slope(config.widths, config.global_lrs, losses[GLOBAL])
    measured = [
        measure(BY_ID["global-lr-drifts"], slope, n=config.seeds),
        measure(BY_ID["global-lr-slope-near-theory"], slope, n=config.seeds),
    ]
    for name in PARAMETERIZATIONS:
        shift = largest_shift(config.widths, config.lrs, losses[name], base_width=config.base_width)
        measured.append(measure(BY_ID[f"transfer-{name}"], shift, n=config.seeds))
    largest = config.widths.index(max(config.widths))
    difference = bootstrap(
        lambda standard, mup: _lowest(standard) - _lowest(mup),
        losses["standard"][largest],
        losses["mup"][largest],
        paired=True,
    )
    return [*measured, measure(BY_ID["standard-matches-mup"], difference, n=config.seeds)]


def alignment(results: Mapping[Key, dict[str, Any] | None], lab: Lab) -> list[Measured]:
    """Measure the alignment of updates with activations, by layer over training."""
    by_layer: dict[str, list[dict[int, float]]] = defaultdict(list)
    for result in results.values():
        for layer, series in _alignment_series(result).items():
            by_layer[layer].append(series)
    lines = []
    for layer, runs in sorted(by_layer.items()):
        steps = sorted(set.intersection(*(set(series) for series in runs)))
        values = np.array([[series[step] for step in steps] for series in runs])
        lines.append(Line(layer, steps, values.mean(0), values.min(0), values.max(0)))
    lab.figure(
        lines_with_intervals(
            lines,
            x_label="step",
            y_label="log alignment ratio of the update",
            references={"full alignment": 1.0, "no alignment": 0.5},
        ),
        "alignment",
        "Alignment over training",
        "Alignment of each layer's update (since initialisation) with its incoming activations at the largest width, "
        "over training. Bands span the seeds.",
    )
    means = np.array([[np.mean(list(series.values())) for series in runs] for runs in by_layer.values()]).T
    if means.size == 0:
        means = np.full((1, 1), math.nan)
    between = bootstrap(lambda drawn: float(drawn.mean()), means)
    spread = bootstrap(lambda drawn: float(np.ptp(drawn.mean(axis=0))), means)
    return [
        measure(BY_ID["alignment-between"], between, n=len(means)),
        measure(BY_ID["alignment-differs"], spread, n=len(means)),
    ]


def epsilon(config: ScalingExponentsConfig, losses: Mapping[Any, np.ndarray], lab: Lab) -> list[Measured]:
    """Measure what a constant epsilon costs; `losses[epsilon or remedy]` is `[width, seed]`."""
    smallest, largest = min(config.epsilons), max(config.epsilons)
    labels = {eps: f"epsilon {eps:g}" for eps in config.epsilons}
    labels |= {"per-layer": f"epsilon {largest:g}, per layer", "atan2": "Adam-atan2"}
    lines = []
    for arm, label in labels.items():
        penalty = losses[arm] - losses[smallest]
        if arm != smallest:
            lines.append(Line(label, config.widths, penalty.mean(1), penalty.min(1), penalty.max(1)))
    lab.figure(
        lines_with_intervals(
            lines,
            x_label="width",
            y_label=f"loss less that with epsilon {smallest:g} (nats)",
            x_scale="log",
            references={"": 0.0},
        ),
        "epsilon",
        "The cost of a constant epsilon",
        "What a constant epsilon costs at each width, and two remedies, at the base width's best learning rate under "
        "the standard parameterization with per-layer learning rates. Bands span the seeds.",
    )
    doublings = np.log2(config.widths)

    def slope_of(arm: Any) -> Any:
        penalty = (losses[arm] - losses[smallest]).T
        return bootstrap(lambda drawn: float(np.polyfit(doublings, drawn.mean(axis=0), 1)[0]), penalty)

    at_largest = config.widths.index(max(config.widths))
    gain = (losses[largest] - losses["per-layer"])[at_largest]
    return [
        measure(BY_ID["epsilon-hurts-with-width"], slope_of(largest), n=config.seeds),
        measure(
            BY_ID["per-layer-epsilon-mends"],
            bootstrap(lambda drawn: float(drawn.mean()), gain),
            n=config.seeds,
        ),
        measure(BY_ID["atan2-does-not"], slope_of("atan2"), n=config.seeds),
    ]


def scale_invariance(steps: int = 20) -> Measured:
    """Take `steps` updates of Adam-atan2 under gradients of three scales, and compare the parameters' bits."""
    generator = torch.Generator().manual_seed(0)
    initial = torch.randn(64, 64, generator=generator)
    gradients = torch.randn(steps, 64, 64, generator=generator)
    ends = []
    for scale in (2.0**-24, 1.0, 2.0**24):
        parameter = torch.nn.Parameter(initial.clone())
        optimizer = AdamAtan2([parameter], lr=1e-3)
        for gradient in gradients:
            parameter.grad = gradient * scale
            optimizer.step()
        ends.append(parameter.detach())
    same = (ends[0] == ends[1]) & (ends[2] == ends[1])
    return measure(
        BY_ID["atan2-scale-invariant"],
        exact(float(same.double().mean())),
        detail=f"{steps} steps on a matrix of 64 x 64 in fp32; gradients near 1e-20 underflow in the second moment.",
    )


def _draw_transfer(
    config: ScalingExponentsConfig, losses: Mapping[str, np.ndarray], lrs: Mapping[str, Any], lab: Lab
) -> None:
    panels = {
        TITLES[arm]: [
            Line(f"width {width}", lrs[arm], np.nanmean(losses[arm][row], axis=0))
            for row, width in enumerate(config.widths)
        ]
        for arm in losses
    }
    lab.figure(
        loss_against_lr(panels, x_label="base learning rate"),
        "loss-against-lr",
        "Loss against learning rate",
        f"Final loss against learning rate, a line a width (mean of {config.seeds} seeds). Per-layer learning rates "
        f"assume full alignment and are equal at width {config.base_width}.",
    )
    best = []
    for arm in losses:
        found = [best_lr(lrs[arm], losses[arm][row]) for row in range(len(config.widths))]
        values = (
            [item.estimate for item in found],
            [item.low for item in found],
            [item.high for item in found],
        )
        best.append(Line(TITLES[arm], config.widths, *values))
    lab.figure(
        power_law(
            best,
            x_label="width",
            y_label="best base learning rate",
            theory={"theory, full alignment": -1.0, "theory, no alignment": -0.5},
        ),
        "best-lr-against-width",
        "Best learning rate against width",
        "Best learning rate against width with fitted slopes; the theory's lines are those of a global learning rate.",
    )


def _lowest(losses: np.ndarray) -> float:
    return float(np.nanmean(losses, axis=0).min())


def _alignment_series(result: dict[str, Any] | None) -> dict[str, dict[int, float]]:
    series: dict[str, dict[int, float]] = defaultdict(dict)
    for row in (result or {}).get("metrics", ()):
        for name, value in row.items():
            if name.startswith("alignment/update/") and value is not None:
                series[name.removeprefix("alignment/update/")][row["step"]] = value
    return series
