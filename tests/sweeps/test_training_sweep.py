"""Real training through the sweeps: the numbers are those of training alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fionalm.data.config import DataConfig
from fionalm.models.config import DecoderConfig
from fionalm.optim.config import OptimizerConfig
from fionalm.sweeps import LocalExecutor, TrialStore, lr_transfer, run_sweep
from fionalm.sweeps.training_trial import run, training_trial
from fionalm.training.config import TrainConfig

TIMES = ("seconds", "tokens_per_second")


@pytest.fixture
def base(tmp_path: Path) -> TrainConfig:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("".join(f"{i} squared is {i * i}, twice it is {2 * i}.\n" for i in range(2000)))
    return TrainConfig(
        model=DecoderConfig(vocab_size=300, d_model=16, n_layers=1, n_heads=2, max_seq_len=16),
        data=DataConfig(str(corpus), vocab_size=300, seq_len=16, validation_fraction=0.2),
        optimizer=OptimizerConfig(lr=1e-2),
        batch_size=4,
        steps=6,
        eval_batches=1,
        log_every=1,
        probe_every=3,
    )


@pytest.mark.slow
def test_sweep_trains_as_training_alone_does(base: TrainConfig, tmp_path: Path) -> None:
    store = TrialStore(tmp_path / "trials")
    with LocalExecutor(1) as executor:
        (outcome,) = run_sweep([training_trial(base)], store=store, executor=executor, quiet=True)
        lrs = (1e-3, 1e-2, 1e-1)
        swept = lr_transfer(
            base, (16, 32), lrs, (0, 1), parameterization="mup", store=store, executor=executor, quiet=True
        )
    assert outcome.status == "finished", outcome.error
    assert outcome.result is not None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = run(training_trial(base).config)
    finally:
        torch.set_num_threads(threads)
    for values in (alone, outcome.result):
        for row in (values, *values["metrics"]):
            for name in TIMES:
                row.pop(name, None)
    assert alone["final_loss"] == outcome.result["final_loss"]
    assert [list(pair) for pair in alone["losses"]] == outcome.result["losses"]
    measured = {name for row in outcome.result["metrics"] for name in row}
    assert any(name.startswith("alignment/") for name in measured)
    assert any("attn_logit_max" in name for name in measured)
    assert np.isfinite(swept.losses).all() and (swept.losses[:, 1] < swept.initial_losses[:, 1]).all()


@pytest.mark.slow
def test_diverging_run_is_a_result(base: TrainConfig, tmp_path: Path) -> None:
    wild = replace(base, optimizer=OptimizerConfig("sgd", lr=1e30), clip_norm=0.0, probe_every=0)
    (outcome,) = run_sweep([training_trial(wild)], store=TrialStore(tmp_path / "trials"), executor="serial", quiet=True)
    assert outcome.status == "finished" and outcome.result is not None
    assert outcome.result["diverged"] is True and outcome.result["final_loss"] is None


def test_alignment_terms_are_measured_over_time(base: TrainConfig) -> None:
    trial = training_trial(base, probes=("alignment_terms",))
    measured = {row["step"]: row for row in run(trial.config)["metrics"] if "alignment/weight/lm_head" in row}
    assert list(measured) == [0, 3]
    for row in measured.values():
        terms = {name.split("/")[1] for name in row if name.startswith("alignment/")}
        assert terms == {"weight", "update", "alpha", "omega", "u"}
        layers = {name.split("/")[2] for name in row if name.startswith("alignment/")}
        assert layers == {"blocks.0.attn.qkv", "blocks.0.attn.out", "blocks.0.mlp.up", "blocks.0.mlp.down", "lm_head"}
    assert measured[0] != measured[3]


def test_a_changed_text_is_another_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one two three\n" * 50)
    config = TrainConfig(data=DataConfig(source=str(text)))
    first = training_trial(config)
    assert training_trial(config).hash == first.hash
    monkeypatch.chdir(tmp_path)
    assert training_trial(replace(config, data=DataConfig(source="text.txt"))).hash == first.hash
    text.write_text("four five six\n" * 51)
    assert training_trial(config).hash != first.hash
    assert "files" not in training_trial(TrainConfig()).config
