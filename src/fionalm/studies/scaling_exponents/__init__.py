"""Everett et al. 2024: how parameterization, optimizer and learning rate must change with width.

Trains decoders over widths and learning rates under one global learning rate and under the per-layer exponents
of four parameterizations, measures alignment, and sweeps Adam's epsilon.

    fiona reproduce scaling-exponents --scale quick
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fionalm.report.claims import Measured
from fionalm.studies.scaling_exponents import analysis
from fionalm.studies.scaling_exponents.claims import CLAIMS
from fionalm.studies.scaling_exponents.runs import (
    GLOBAL,
    PARAMETERIZATIONS,
    Key,
    ScalingExponentsConfig,
    alignment_runs,
    epsilon_runs,
    plan,
    preset,
    transfer_runs,
)
from fionalm.studies.study import Lab, Study, final_loss
from fionalm.sweeps.optimum import best_log_lr


def run(config: ScalingExponentsConfig, lab: Lab) -> list[Measured]:
    """Train, measure the claims and draw the figures."""
    results = lab.train(transfer_runs(config), "learning rates over widths")
    losses = {
        arm: np.array(
            [
                [[final_loss(results[arm, width, seed, lr]) for lr in lrs] for seed in range(config.seeds)]
                for width in config.widths
            ]
        )
        for arm, lrs in _arms(config)
    }
    base = config.widths.index(config.base_width)
    found = best_log_lr(config.lrs, losses["standard"][base], interpolate=False)
    best = float(np.exp(found)) if np.isfinite(found) else config.lrs[0]
    epsilon = _by_arm(config, lab.train(epsilon_runs(config, best), "epsilon over widths"))
    aligned = lab.train(alignment_runs(config, best), "alignment", probes=("alignment",))
    return [
        *analysis.transfer(config, losses, lab),
        *analysis.alignment(aligned, lab),
        *analysis.epsilon(config, epsilon, lab),
        analysis.scale_invariance(),
    ]


def _arms(config: ScalingExponentsConfig) -> Iterator[tuple[str, Sequence[float]]]:
    yield GLOBAL, config.global_lrs
    for name in PARAMETERIZATIONS:
        yield name, config.lrs


def _by_arm(config: ScalingExponentsConfig, results: dict[Key, Any]) -> dict[Any, np.ndarray]:
    arms = dict.fromkeys(arm for arm, _, _ in results)
    return {
        arm: np.array(
            [[final_loss(results[arm, width, seed]) for seed in range(config.seeds)] for width in config.widths]
        )
        for arm in arms
    }


STUDY = Study(
    name="scaling-exponents",
    title="How parameterization, optimizer and learning rate must change with width",
    paper="Everett et al. 2024, Scaling Exponents Across Parameterizations and Optimizers, arXiv 2407.05872",
    claims=CLAIMS,
    preset=preset,
    plan=plan,
    run=run,
)
