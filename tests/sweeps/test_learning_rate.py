"""The sweeps over learning rates, on a stand-in for training whose optimum is known."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fionalm.data.config import DataConfig
from fionalm.errors import UserError
from fionalm.models.config import DecoderConfig
from fionalm.optim.config import OptimizerConfig
from fionalm.scaling.config import ParameterizationConfig
from fionalm.sweeps import LRTransferResult, StabilityResult, TrialStore, lr_transfer, stability_sweep
from fionalm.sweeps.training_trial import expected_seconds, training_trial
from fionalm.training.config import TrainConfig

BASE = TrainConfig(
    model=DecoderConfig(vocab_size=300, d_model=32, n_layers=2, n_heads=4, max_seq_len=32),
    data=DataConfig(vocab_size=300, seq_len=32),
    steps=10,
)
LRS = [2.0**power for power in range(-9, -2)]
WIDTHS = (16, 32, 64, 128)
INITIAL = 6.0


@pytest.fixture
def store(tmp_path: Path) -> TrialStore:
    return TrialStore(tmp_path / "trials")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """Replace training by a bowl in log LR; its bottom moves as 1 / width under a global learning rate."""
    seen: list[TrainConfig] = []

    def run(values: dict[str, Any]) -> dict[str, Any]:
        config = TrainConfig.from_dict(values)
        seen.append(config)
        chosen = config.parameterization
        fixed = chosen is not None and chosen.alignment != "global"
        best = 2**-6 if fixed else 2**-6 * 32 / config.model.d_model
        lr = config.optimizer.lr
        if lr > 2**-4:
            return {"final_loss": None, "initial_loss": INITIAL, "diverged": True}
        loss = 3.0 + 0.05 * math.log2(lr / best) ** 2 + 1e-3 * math.sin(100 * lr + config.seed)
        return {"final_loss": loss, "initial_loss": INITIAL, "diverged": False}

    monkeypatch.setattr("fionalm.sweeps.training_trial.run", run)
    return seen


def transfer(store: TrialStore, **changes: Any) -> LRTransferResult:
    arguments: dict[str, Any] = {"widths": WIDTHS, "lrs": LRS, "seeds": (0, 1, 2), **changes}
    base = arguments.pop("base", BASE)
    widths, lrs, seeds = (arguments.pop(name) for name in ("widths", "lrs", "seeds"))
    return lr_transfer(base, widths, lrs, seeds, store=store, executor="serial", quiet=True, **arguments)


def test_lr_transfer_trains_the_whole_grid_and_reads_off_the_drift(store: TrialStore, calls: list) -> None:
    result = transfer(store)
    assert len(calls) == len(WIDTHS) * len(LRS) * 3
    assert result.losses.shape == result.initial_losses.shape == (4, 7, 3)
    assert np.isinf(result.losses[:, -1]).all() and np.isfinite(result.losses[:, :-1]).all()
    for i, width in enumerate(WIDTHS):
        assert result.best_lr(width).estimate == pytest.approx(2**-6 * 32 / width, rel=0.05)
        assert result.best_lr(width, interpolate=False).estimate == pytest.approx(2**-6 * 32 / width)
        assert result.best_loss(width).estimate == pytest.approx(result.losses[i].mean(axis=1).min())
    slope = result.slope()
    assert slope.low <= slope.estimate <= slope.high and slope.estimate == pytest.approx(-1.0, abs=0.02)
    assert result.largest_shift().estimate == pytest.approx(2.0, abs=0.1)
    assert result.edge_widths == ()
    assert (result.parameterization, result.alignment, result.base_width) == (None, None, 32)


def test_lr_transfer_with_per_layer_exponents(store: TrialStore, calls: list) -> None:
    result = transfer(store, parameterization="mup", optimizer="adam_atan2", alignment="none")
    assert result.slope().estimate == pytest.approx(0.0, abs=0.02)
    assert result.largest_shift(interpolate=False).estimate == 0.0
    assert (result.parameterization, result.optimizer, result.alignment) == ("mup", "adam_atan2", "none")
    config = calls[-1]
    assert config.optimizer.name == "adam_atan2"
    assert config.parameterization == ParameterizationConfig("mup", "none", base_width=32)
    assert {(c.model.d_model, c.model.n_heads, c.model.head_size) for c in calls} == {
        (16, 2, 8),
        (32, 4, 8),
        (64, 8, 8),
        (128, 16, 8),
    }


def test_lr_transfer_keeps_what_the_base_says(store: TrialStore, calls: list) -> None:
    chosen = ParameterizationConfig("ntk", "none", base_width=64, hidden_gamma=0.5)
    base = replace(BASE, parameterization=chosen, optimizer=OptimizerConfig("sgd", momentum=0.9))
    result = transfer(store, base=base, widths=[64], lrs=[0.01], seeds=[5], alignment="full")
    assert calls[0].parameterization == replace(chosen, alignment="full")
    assert calls[0].optimizer == OptimizerConfig("sgd", lr=0.01, momentum=0.9) and calls[0].seed == 5
    assert result.base_width == 64 and result.optimizer == "sgd"
    assert math.isnan(result.slope().estimate)


def test_lr_transfer_goes_on_where_it_was(store: TrialStore, calls: list) -> None:
    first = transfer(store, widths=(16, 32))
    assert len(calls) == 2 * 7 * 3
    both = transfer(store, widths=(64, 32, 16, 16))
    assert len(calls) == 3 * 7 * 3
    assert both.widths == (16, 32, 64)
    assert np.array_equal(both.losses[:2], first.losses)


def test_widths_at_an_end_of_the_grid_are_told(store: TrialStore, calls: list) -> None:
    assert transfer(store, lrs=[2**-9, 2**-8, 2**-7, 2**-6.5]).edge_widths == (16, 32)


def test_result_survives_json(store: TrialStore, calls: list) -> None:
    result = transfer(store, parameterization="standard")
    result.losses[0, 0, 0] = np.nan  # as if it had crashed
    text = json.dumps(result.to_dict(), allow_nan=False)
    again = LRTransferResult.from_dict(json.loads(text))
    assert np.array_equal(again.losses, result.losses, equal_nan=True)
    assert np.array_equal(again.initial_losses, result.initial_losses)
    for name in ("widths", "lrs", "seeds", "parameterization", "optimizer", "alignment", "base_width"):
        assert getattr(again, name) == getattr(result, name)
    assert again.slope() == result.slope()


def test_crashed_run_is_a_gap_and_not_an_end(store: TrialStore, calls: list, monkeypatch: pytest.MonkeyPatch) -> None:
    from fionalm.sweeps import training_trial as module

    sound = module.run

    def crashes(values: dict[str, Any]) -> dict[str, Any]:
        if values["seed"] == 1 and values["optimizer"]["lr"] == LRS[2]:
            raise MemoryError("no memory")
        return sound(values)

    monkeypatch.setattr("fionalm.sweeps.training_trial.run", crashes)
    result = transfer(store)
    assert np.isnan(result.losses[:, 2, 1]).all() and np.isnan(result.losses).sum() == len(WIDTHS)
    assert result.slope().estimate == pytest.approx(-1.0, abs=0.05)
    stable = stability_sweep(BASE, LRS, (0, 1), store=store, executor="serial", quiet=True)
    assert stable.sensitivity().estimate == pytest.approx(
        stability_sweep(BASE, LRS, (0,), store=store, executor="serial", quiet=True).sensitivity().estimate
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": []}, "no width"),
        ({"lrs": []}, "no learning rate"),
        ({"lrs": [0.1, -1.0]}, "positive"),
        ({"seeds": []}, "no seed"),
        ({"widths": [36]}, "multiple of 8"),
        ({"parameterization": "mupp"}, "did you mean 'mup'"),
        ({"optimizer": "adam"}, "unknown optimizer 'adam'"),
        ({"alignment": "half"}, "unknown alignment 'half'"),
    ],
)
def test_mistakes_are_told_before_anything_runs(store: TrialStore, calls: list, changes, message) -> None:
    with pytest.raises(UserError, match=message):
        transfer(store, **changes)
    assert not calls


def test_stability_sweep_measures_sensitivity(store: TrialStore, calls: list) -> None:
    result = stability_sweep(BASE, LRS, (0, 1, 2), store=store, executor="serial", quiet=True)
    assert result.losses.shape == (7, 3)
    clipped = np.minimum(result.losses, INITIAL)
    expected = (clipped - clipped.min(axis=0)).mean()
    found = result.sensitivity()
    assert found.estimate == pytest.approx(expected) and found.low <= found.estimate <= found.high
    assert result.best_lr().estimate == pytest.approx(2**-6, rel=0.05)
    again = StabilityResult.from_dict(json.loads(json.dumps(result.to_dict(), allow_nan=False)))
    assert np.array_equal(again.losses, result.losses) and again.sensitivity() == found


def test_stability_of_nothing_but_diverged_runs_is_unknown(store: TrialStore, calls: list) -> None:
    result = stability_sweep(BASE, [0.25, 0.5], (0, 1), store=store, executor="serial", quiet=True)
    with pytest.warns(UserWarning, match="none of 4 runs"):
        assert math.isnan(result.sensitivity().estimate)


def test_cost_follows_the_work() -> None:
    def cost(**changes: Any) -> float:
        return expected_seconds(replace(BASE, **changes))

    wide = replace(BASE.model, d_model=512, n_heads=64)
    assert cost(steps=20) == pytest.approx(2 * cost())
    assert cost(model=wide) > 20 * cost()
    assert cost(batch_size=32) < 2 * cost()
    assert training_trial(BASE).cost == cost()


def test_probes_are_part_of_the_trial_only_where_they_measure() -> None:
    probed = replace(BASE, probe_every=5)
    assert training_trial(BASE) == training_trial(BASE, probes=())
    assert training_trial(probed).config["probes"] == ["alignment", "stability"]
    assert training_trial(probed) != training_trial(probed, probes=("stability",))
    with pytest.raises(UserError, match="did you mean 'stability'"):
        training_trial(probed, probes=("stabilty",))
    with pytest.raises(UserError, match="expected one of the two"):
        training_trial(probed, probes=("alignment", "alignment_terms"))
