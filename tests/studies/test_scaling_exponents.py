"""The analysis of `scaling-exponents` on results whose answer is known, in both directions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fionalm.report import Measured
from fionalm.studies.scaling_exponents import analysis
from fionalm.studies.scaling_exponents.runs import (
    GLOBAL,
    PARAMETERIZATIONS,
    ScalingExponentsConfig,
    alignment_runs,
    epsilon_runs,
    preset,
    transfer_runs,
)
from fionalm.studies.study import Lab
from fionalm.sweeps import SerialExecutor, TrialStore

CONFIG = ScalingExponentsConfig(seeds=5)
Losses = dict[Any, np.ndarray]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, TrialStore(tmp_path / "store"), SerialExecutor(), quiet=True)


def losses(slopes: dict[str, float], floors: dict[str, float] | None = None) -> Losses:
    """Return parabolas in log LR whose vertex moves with width by each arm's slope, with noise over seeds."""
    noise = np.random.default_rng(0)
    found = {}
    for arm, slope in slopes.items():
        lrs = np.log(CONFIG.global_lrs if arm == GLOBAL else CONFIG.lrs)
        vertices = np.log(2**-6.5) + slope * np.log(np.array(CONFIG.widths) / CONFIG.base_width)
        curves = (floors or {}).get(arm, 4.0) + 0.1 * (lrs[None] - vertices[:, None]) ** 2  # [width, lr]
        found[arm] = curves[:, None] + 0.002 * noise.standard_normal((len(vertices), CONFIG.seeds, len(lrs)))
    return found


def verdicts(measured: list[Measured]) -> dict[str, str]:
    return {entry.claim.id: entry.verdict for entry in measured}


def test_a_drifting_global_rate_and_transferring_layers_support_the_paper(lab: Lab) -> None:
    slopes = {GLOBAL: -0.8, **dict.fromkeys(PARAMETERIZATIONS, 0.0)}
    found = verdicts(analysis.transfer(CONFIG, losses(slopes, {"mup": 4.2}), lab))
    assert set(found.values()) == {"supported"}
    assert (lab.folder / "figures" / "best-lr-against-width.svg").exists()


def test_the_opposite_contradicts_it(lab: Lab) -> None:
    slopes = {GLOBAL: 0.6, **dict.fromkeys(PARAMETERIZATIONS, -0.6)}
    found = verdicts(analysis.transfer(CONFIG, losses(slopes, {"mup": 3.5}), lab))
    assert set(found.values()) == {"contradicted"}


def test_crashed_and_diverged_runs_do_not_stop_the_analysis(lab: Lab) -> None:
    found = losses({GLOBAL: -0.8, **dict.fromkeys(PARAMETERIZATIONS, 0.0)})
    found["ntk"][0, 1, 2] = np.nan
    found["mfp"][:] = 6.24  # every run diverged: losses at initialisation
    measured = {entry.claim.id: entry for entry in analysis.transfer(CONFIG, found, lab)}
    assert measured["transfer-ntk"].verdict == "supported"
    assert measured["transfer-mfp"].verdict == "inconclusive"


def series(update: Callable[[str, int], float]) -> dict[str, object]:
    layers = ("embedding", "hidden.0", "readout")
    return {
        "metrics": [
            {"step": step, "loss": 5.0, **{f"alignment/update/{layer}": update(layer, step) for layer in layers}}
            for step in range(0, 50, 10)
        ]
    }


def test_alignment_between_none_and_full_that_differs(lab: Lab) -> None:
    value = {"embedding": 0.6, "hidden.0": 0.7, "readout": 0.85}
    results = {(seed,): series(lambda layer, step, s=seed: value[layer] + 0.01 * s) for seed in range(4)}
    assert verdicts(analysis.alignment(results, lab)) == {
        "alignment-between": "supported",
        "alignment-differs": "supported",
    }
    same = {(seed,): series(lambda layer, step, s=seed: 1.1 + 0.01 * s) for seed in range(4)}
    assert set(verdicts(analysis.alignment(same, lab)).values()) == {"contradicted"}
    assert set(verdicts(analysis.alignment({(0,): None}, lab)).values()) == {"inconclusive"}


def epsilon_losses(large: float, per_layer: float, atan2: float) -> Losses:
    """Return `[width, seed]` losses whose penalty grows by a number of nats a doubling."""
    doublings = np.log2(np.array(CONFIG.widths) / CONFIG.widths[0])[:, None]
    noise = 0.001 * np.random.default_rng(1).standard_normal((len(doublings), CONFIG.seeds))
    grown: Losses = {eps: 4.0 + noise + 0 * doublings for eps in CONFIG.epsilons}
    grown[max(CONFIG.epsilons)] = 4.0 + large * doublings - noise
    return grown | {"per-layer": 4.0 + per_layer * doublings + noise, "atan2": 4.0 + atan2 * doublings + 2 * noise}


def test_epsilon(lab: Lab) -> None:
    assert set(verdicts(analysis.epsilon(CONFIG, epsilon_losses(0.1, 0.0, 0.0), lab)).values()) == {"supported"}
    assert set(verdicts(analysis.epsilon(CONFIG, epsilon_losses(-0.1, 0.1, 0.1), lab)).values()) == {"contradicted"}


def test_scale_invariance_is_exact() -> None:
    measured = analysis.scale_invariance(steps=5)
    assert measured.verdict == "supported" and measured.interval.as_list() == [1.0, 1.0]


def test_runs_are_the_papers_grid() -> None:
    config = replace(preset("laptop"), seeds=2)
    runs = transfer_runs(config)
    per_seed = len(config.widths) * (len(config.global_lrs) + len(PARAMETERIZATIONS) * len(config.lrs))
    assert len(runs) == 2 * per_seed
    assert max(config.widths) / min(config.widths) >= 2**4
    assert all(run.model.head_size == config.head_dim and run.model.positions == "learned" for run in runs.values())
    base = {
        name: runs[name, config.base_width, 0, config.lrs[0]].parameterization for name in (GLOBAL, *PARAMETERIZATIONS)
    }
    found = {name: chosen and (chosen.name, chosen.alignment) for name, chosen in base.items()}
    assert found == {GLOBAL: ("standard", "global"), **{name: (name, "full") for name in PARAMETERIZATIONS}}
    eps = epsilon_runs(config, 0.01)
    assert eps["atan2", 12, 0].optimizer.name == "adam_atan2"
    assert eps["per-layer", 12, 0].optimizer.eps == max(config.epsilons)
    assert all(run.probe_every > 0 and run.model.d_model == 192 for run in alignment_runs(config, 0.01).values())
