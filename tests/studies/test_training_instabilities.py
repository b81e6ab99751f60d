"""The analysis of `training-instabilities` on results whose answer is known, in both directions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fionalm.report import Measured
from fionalm.studies.study import Lab
from fionalm.studies.training_instabilities.analysis import ATTENTION, GRADIENT, LOG_Z, measure_claims, predict, sizes
from fionalm.studies.training_instabilities.figures import draw_figures
from fionalm.studies.training_instabilities.results import Results
from fionalm.studies.training_instabilities.runs import (
    COUPLED_AT,
    DECAY_COUPLED,
    DECAY_INDEPENDENT,
    DECAY_ONLY,
    DEFAULT,
    EPS_LARGE,
    INTERVENTIONS,
    NONE,
    QK_NORM,
    WARMUP_LONG,
    WARMUP_SHORT,
    Arm,
    TrainingInstabilitiesConfig,
    all_runs,
    training_run,
)

CONFIG = TrainingInstabilitiesConfig(seeds=4, steps=100)
STEPS = range(0, 100, 10)
INITIAL = 6.2


def made_up(key: Any, *, truth: bool) -> dict[str, Any]:
    """Return a result that shows what the paper found (`truth`), or the opposite."""
    arm, width, seed, lr = key
    size = width / 32
    good, bad = (NONE.name, QK_NORM.name) if not truth else (QK_NORM.name, NONE.name)
    noise = 0.003 * math.sin(7 * seed + width)
    final = 4.5 + 0.05 * abs(math.log10(lr / 1e-2)) + noise
    if arm == bad and lr >= 3e-2:
        final = 6.0 + noise
    helped = {WARMUP_LONG.name, DECAY_INDEPENDENT.name} if truth else {WARMUP_SHORT.name, DECAY_COUPLED.name}
    hurt = {WARMUP_LONG.name, WARMUP_SHORT.name, DECAY_INDEPENDENT.name, DECAY_COUPLED.name} - helped
    if arm in hurt and lr >= 1e-1:
        final = 5.8 + noise
    if arm == bad:  # sensitivity grows with size
        final += (0.2 if truth else -0.2) * math.log2(size) * (lr >= 1e-2) * (1 if truth else 0.1)
    if arm == good and not truth:
        final += 0.1 * (8 - size) * (lr <= 1e-3)
    rises = arm == NONE.name and lr >= 3e-2
    grown = 10 if truth else 0.1
    rows = []
    for step in STEPS:
        attention = 30 * lr**0.5 * size**1.5 * (1 + 0.02 * math.sin(seed + 100 * lr))
        if rises:
            attention *= grown
        cured = (arm in (DEFAULT.name, DECAY_ONLY.name)) == truth
        eps = 0.2 if arm == EPS_LARGE.name else 1.0
        groups = {"embedding": 1e-5, "hidden.0": 1e-4, "readout": 1e-3}
        row = {"step": step, ATTENTION: attention, LOG_Z: (1.0 if cured else 36.0) + 0.1 * seed + lr}
        row[GRADIENT] = 1e-3 * size ** (-0.7 if truth else 0.7) * (1 + 0.01 * seed)
        for rank, (group, gradient) in enumerate(groups.items()):
            row[f"probe/grad_rms/{group}"] = gradient / size
            shrunk = eps ** (3 - rank if truth else 1 + rank)
            row[f"probe/update_rms/{group}"] = lr * shrunk
        rows.append(row)
    losses = [(step, INITIAL - (INITIAL - 4.6) * min(1.0, step / 40)) for step in STEPS]
    if rises:
        losses = [(step, loss + (1.5 if step > 60 else 0.0)) for step, loss in losses]
    return {"initial_loss": INITIAL, "final_loss": min(final, INITIAL), "losses": losses, "metrics": rows}


def results(*, truth: bool) -> Results:
    return Results(CONFIG, {key: made_up(key, truth=truth) for key in all_runs(CONFIG)})


def verdicts(measured: list[Measured]) -> dict[str, str]:
    return {entry.claim.id: entry.verdict for entry in measured}


def test_what_the_paper_found_is_supported() -> None:
    found = verdicts(list(measure_claims(results(truth=True))))
    assert found.pop("attention-logits-predicted") in ("supported", "inconclusive")
    assert set(found.values()) == {"supported"}, found


def test_the_opposite_is_never_supported() -> None:
    found = verdicts(list(measure_claims(results(truth=False))))
    found.pop("attention-logits-predicted")
    assert "supported" not in found.values(), found
    for name in ("z-loss-holds-log-z", "longer-warmup", "independent-decay", "gradients-shrink"):
        assert found[name] == "contradicted", name


def test_a_power_law_is_extrapolated_to_the_held_out_size() -> None:
    found = results(truth=True)
    prediction = predict(found, list(found.seeds))
    assert prediction is not None
    held_out = found.highest(NONE, CONFIG.widths[-1], ATTENTION).mean(axis=0)
    for lr, measured in zip(CONFIG.lrs, held_out, strict=True):
        assert prediction.predict(sizes(found)[-1], lr).estimate == pytest.approx(measured, rel=0.5)


def test_crashed_and_diverged_runs_are_results(tmp_path: Path) -> None:
    made: dict[Any, Any] = {key: made_up(key, truth=True) for key in all_runs(CONFIG)}
    made[NONE.name, 128, 0, 3e-1] = None  # crashed
    diverged = made[NONE.name, 128, 1, 3e-1]
    diverged["final_loss"] = None
    diverged["metrics"][-1] |= {ATTENTION: None, LOG_Z: None}
    found = Results(CONFIG, made)
    assert found.losses(NONE, 128)[1, -1] == INITIAL and np.isnan(found.losses(NONE, 128)[0, -1])
    lab = Lab(tmp_path, store=None, executor=None, quiet=True)  # pyright: ignore[reportArgumentType]
    draw_figures(found, lab)
    assert len(list((tmp_path / "figures").glob("*.svg"))) == 7
    assert verdicts(list(measure_claims(found)))["qk-layernorm-survives"] == "supported"


def test_interventions_change_what_their_names_say() -> None:
    def run(arm: Arm) -> Any:
        return training_run(CONFIG, arm, 64, 0, 1e-2)

    assert not run(NONE).model.qk_norm and run(NONE).z_loss == 0
    assert run(QK_NORM).model.qk_norm and run(QK_NORM).z_loss == 0
    assert run(DEFAULT).z_loss == 1e-4
    assert run(WARMUP_SHORT).schedule.warmup_steps < run(DEFAULT).schedule.warmup_steps
    assert run(WARMUP_LONG).schedule.warmup_steps > run(DEFAULT).schedule.warmup_steps
    independent, coupled = run(DECAY_INDEPENDENT).optimizer, run(DECAY_COUPLED).optimizer
    assert independent.independent_weight_decay and not coupled.independent_weight_decay
    # The two decay alike at one learning rate: lr * coupled lambda = independent lambda.
    assert coupled.weight_decay * COUPLED_AT == pytest.approx(independent.weight_decay)
    deep = next(arm for arm in INTERVENTIONS if arm.depth == 2)
    assert run(deep).model.n_layers == 2 * CONFIG.n_layers
