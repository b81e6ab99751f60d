"""Models of a graph as trials of the shared sweep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fionalm.data import DataConfig, TripleConfig, load_triples
from fionalm.data.knowledge import SyntheticGraph
from fionalm.errors import UserError
from fionalm.models import load_model
from fionalm.models.config import DecoderConfig
from fionalm.optim.config import OptimizerConfig, ScheduleConfig
from fionalm.sweeps import TrialStore, run_sweep
from fionalm.sweeps.hallucination_trial import Measures, hallucination_trials, sized, triple_run
from fionalm.training import TrainConfig

BASE = TrainConfig(
    model=DecoderConfig(d_model=16, n_layers=1, n_heads=2),
    data=TripleConfig(graph="synthetic", synthetic=SyntheticGraph(subjects=8, predicates=2, objects=6), vocab_size=300),
    optimizer=OptimizerConfig(lr=1e-2),
    schedule=ScheduleConfig(warmup_steps=20),
    batch_size=8,
)


def test_sweep_of_sizes_and_epochs(tmp_path: Path) -> None:
    runs = [triple_run(BASE, size=size, epochs=epochs) for size in ("16x1", "32x1") for epochs in (1, 20)]
    measures = Measures(pairs=10, samples=4, temperatures=(0.0, 1.0))
    trials = hallucination_trials(runs, measures, models=tmp_path / "models")
    store = TrialStore(tmp_path / "store")
    outcomes = run_sweep(trials, store=store, executor="serial", quiet=True)
    results = [outcome.result for outcome in outcomes]
    assert all(result is not None for result in results)
    rates = {}
    for run, result in zip(runs, results, strict=True):
        assert result is not None
        one = next(m for m in result["measures"] if m["visibility"] == "fully_visible" and m["temperature"] == 1)
        rates[run.config.model.d_model, run.epochs] = one["rate"][0]
        assert result["parameters"] == run.parameters
        assert isinstance(load_model(tmp_path / "models" / run.name), tuple)
    assert rates[32, 20] < rates[32, 1]
    assert all(outcome.cached for outcome in run_sweep(trials, store=store, executor="serial", quiet=True))


def test_a_run_fits_its_graph() -> None:
    run = triple_run(BASE, size="48x3", epochs=1.5, seed=4, fraction=0.5)
    corpus = load_triples(run.config.data)  # type: ignore[arg-type]
    model = run.config.model
    assert (model.d_model, model.n_layers, model.n_heads, model.head_size) == (48, 3, 6, 8)
    assert model.vocab_size == corpus.vocab_size
    assert run.config.data.seq_len == max(corpus.train.lengths.max(), corpus.validation.lengths.max()) - 1
    assert run.triples == len(corpus.train) == len(corpus.split.train)
    assert run.config.steps == -(-3 * run.triples // 16)
    assert run.config.schedule.warmup_steps == run.config.steps // 10
    assert run.name == "48x3-1.5epochs-0.5-seed4"
    per_token = run.flops / (run.config.steps * 8) / (corpus.train.lengths.mean() - 1)
    assert per_token == pytest.approx(6 * model.matmul_parameters(), rel=0.1)


def test_sizes_keep_their_heads_size() -> None:
    model = DecoderConfig(d_model=64, n_heads=4, d_ff=128)
    assert sized(model, "128x2").n_heads == 8
    assert sized(model, "128x2").d_ff == 256
    assert sized(model, "40x2").n_heads == 4
    with pytest.raises(UserError, match="size '64': expected WIDTHxLAYERS"):
        sized(model, "64")


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="epochs 0"):
        triple_run(BASE, epochs=0)
    with pytest.raises(UserError, match="text corpus"):
        triple_run(replace(BASE, data=DataConfig()), epochs=1)
    with pytest.raises(UserError, match="temperatures -1"):
        Measures(temperatures=(-1.0,))
