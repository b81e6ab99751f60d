"""The same sweep on a real local Ray gives the results of the local processes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fionalm.data.config import DataConfig
from fionalm.errors import MissingExtraError
from fionalm.models.config import DecoderConfig
from fionalm.sweeps import RayExecutor, Trial, TrialStore, run_sweep
from fionalm.sweeps.training_trial import training_trial
from fionalm.training.config import TrainConfig


def tiny_training(corpus: Path) -> Trial:
    corpus.write_text("".join(f"{i} squared is {i * i}.\n" for i in range(2000)))
    model = DecoderConfig(vocab_size=300, d_model=16, n_layers=1, n_heads=2, max_seq_len=16)
    data = DataConfig(str(corpus), vocab_size=300, seq_len=16, validation_fraction=0.2)
    return training_trial(TrainConfig(model, data, batch_size=4, steps=5, eval_batches=1, log_every=1))


@pytest.mark.slow
def test_ray_gives_the_results_of_local_processes(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    trials = [Trial("sweep_trials:threads", {"seed": seed}) for seed in range(4)]
    trials += [Trial("sweep_trials:diverged", {}), Trial("sweep_trials:fails", {})]
    trials.append(tiny_training(tmp_path / "corpus.txt"))
    local = run_sweep(trials, store=TrialStore(tmp_path / "local"), workers=2, quiet=True)
    dies = Trial("sweep_trials:dies", {"how": "exit"})
    on_ray = run_sweep([*trials, dies], store=TrialStore(tmp_path / "ray"), executor="ray", workers=2, quiet=True)
    assert not ray.is_initialized(), "a Ray that the sweep started is stopped again"
    for one, two in zip(local, on_ray, strict=False):
        assert one.status == two.status
        for outcome in (one, two):
            for row in (outcome.result or {}, *(outcome.result or {}).get("metrics", ())):
                row.pop("seconds", None), row.pop("tokens_per_second", None)
        assert str(one.result) == str(two.result)  # NaN differs from itself
        assert (one.error or "").splitlines()[-1:] == (two.error or "").splitlines()[-1:]
    trained = local[-1].result
    assert trained is not None and len(trained["losses"]) == 5
    assert on_ray[-1].status == "crashed" and "worker died" in (on_ray[-1].error or "")
    assert all(
        outcome.cached
        for outcome in run_sweep(
            trials, store=TrialStore(tmp_path / "ray"), executor="ray", quiet=True, retry_crashed=False
        )
    )


def test_missing_ray_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"fiona-lm\[ray\]"):
        next(RayExecutor().run(iter([Trial("sweep_trials:fails", {})])))
