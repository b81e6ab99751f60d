from __future__ import annotations

import json
import math
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fionalm.errors import UserError
from fionalm.models import Decoder, load_model
from fionalm.optim.config import OptimizerConfig, ScheduleConfig
from fionalm.scaling import StabilityProbe
from fionalm.scaling.config import ParameterizationConfig
from fionalm.training import TrainConfig, TrainResult, train

TIMES = ("tokens_per_second", "seconds")


def timeless(result: TrainResult) -> dict[str, Any]:
    """What must not depend on when and how often a run was stopped."""
    values = {key: value for key, value in result.to_dict().items() if key not in TIMES}
    values["metrics"] = [{k: v for k, v in row.items() if k not in TIMES} for row in values["metrics"]]
    return values


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_model(folder)[0].state_dict()


class AtStep:
    """A probe that does something after one step's update."""

    def __init__(self, step: int, action: Callable[[], object]) -> None:
        self.step, self.action = step, action

    def begin(self, step: int) -> None:
        pass

    def end(self, step: int) -> dict[str, float] | None:
        if step == self.step:
            self.action()
        return None


def test_loss_falls_and_the_result_says_so(tiny: TrainConfig, corpus: Any) -> None:
    result = train(replace(tiny, steps=60), corpus=corpus, quiet=True)
    assert result.initial_loss == pytest.approx(math.log(64), abs=0.8)
    assert result.final_loss < result.initial_loss - 1
    assert result.final_loss == result.metrics[-1]["validation_loss"]
    assert not result.diverged and result.steps == 60 and len(result.losses) == 60
    assert result.metrics[-1]["tokens"] == 60 * 8 * 16
    assert result.tokens_per_second > 0 and result.seconds > 0


def test_same_config_same_numbers_and_other_seeds_other_numbers(tiny: TrainConfig, corpus: Any) -> None:
    torch.manual_seed(0)
    first = timeless(train(tiny, corpus=corpus, quiet=True))
    before = torch.get_rng_state()
    second = timeless(train(tiny, corpus=corpus, quiet=True))
    assert first == second
    assert torch.equal(torch.get_rng_state(), before)  # the caller's generator is as it was
    assert timeless(train(replace(tiny, seed=1), corpus=corpus, quiet=True))["losses"] != first["losses"]
    data = replace(tiny.data, seed=1)
    other_order = timeless(train(replace(tiny, data=data), corpus=corpus, quiet=True))
    assert other_order["losses"] != first["losses"]


def test_nothing_is_written_or_said_without_out(
    tiny: TrainConfig,
    corpus: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIONA_HOME", str(tmp_path / "home"))
    train(replace(tiny, checkpoint_every=2), corpus=corpus, quiet=True)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_run_folder_holds_everything_and_is_read_when_finished(tiny: TrainConfig, corpus: Any, tmp_path: Path) -> None:
    config = replace(tiny, checkpoint_every=2, keep_checkpoints=3)
    result = train(config, out=tmp_path, corpus=corpus, quiet=True)
    assert TrainConfig.load(tmp_path / "config.json") == config
    assert json.loads((tmp_path / "environment.json").read_text())["corpus"] == "cyclic"
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == result.metrics
    assert [row["step"] for row in rows] == list(range(12))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000008", "step-00000010", "step-00000012"]
    assert load_model(tmp_path)[0].config == config.model
    again = train(config, out=tmp_path, corpus=corpus, quiet=True)
    assert again == result
    with pytest.raises(UserError, match="whose steps is 12 and not 13"):
        train(replace(config, steps=13), out=tmp_path, corpus=corpus, quiet=True)


def test_rows_only_where_asked_for(tiny: TrainConfig, corpus: Any) -> None:
    config = replace(tiny, log_every=5, eval_every=4)
    result = train(config, corpus=corpus, quiet=True)
    assert [step for step, _ in result.losses] == [0, 5, 10, 11]
    assert [r["step"] for r in result.metrics if "validation_loss" in r] == [3, 7, 11]
    every = train(tiny, corpus=corpus, quiet=True)
    assert dict(every.losses)[5] == dict(result.losses)[5]


def test_schedule_reaches_the_optimizer(tiny: TrainConfig, corpus: Any) -> None:
    config = replace(tiny, steps=10, schedule=ScheduleConfig(name="linear", warmup_steps=4, final_fraction=0.5))
    rates = [row["lr"] / 1e-2 for row in train(config, corpus=corpus, quiet=True).metrics]
    assert rates[3] < 1.0001 and max(rates) == pytest.approx(1.0)
    assert rates[:4] == sorted(rates[:4]) and rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(0.5, abs=0.1)


def test_accumulation_and_whole_batch_agree(tiny: TrainConfig, corpus: Any) -> None:
    # SGD: Adam's first steps turn rounding errors into whole updates wherever a gradient is zero.
    config = replace(tiny, optimizer=OptimizerConfig(name="sgd", lr=0.1))
    whole = train(config, corpus=corpus, quiet=True)
    parts = train(replace(config, grad_accumulation=4), corpus=corpus, quiet=True)
    np.testing.assert_allclose([loss for _, loss in parts.losses], [loss for _, loss in whole.losses], rtol=1e-5)
    assert parts.final_loss == pytest.approx(whole.final_loss, rel=1e-5)


def test_divergence_is_a_result(tiny: TrainConfig, corpus: Any, tmp_path: Path) -> None:
    def break_weights(model: nn.Module, every: int) -> AtStep:
        return AtStep(6, lambda: model.get_parameter("embed.weight").data.fill_(math.nan))

    config = replace(tiny, probe_every=1, checkpoint_every=2, log_every=5)
    result = train(config, out=tmp_path, corpus=corpus, probes=[break_weights], quiet=True)
    assert result.diverged and result.final_loss == math.inf and math.isfinite(result.initial_loss)
    assert result.steps == 8 and result.losses[-1] == (7, math.inf)
    last = (tmp_path / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last) == {"step": 7, "loss": None, "diverged": True}
    # A checkpoint is never of a loss that has not been looked at; the finite ones before stay.
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000004", "step-00000006"]
    assert train(config, out=tmp_path, corpus=corpus, quiet=True) == result


def test_divergence_on_the_last_step_is_seen_by_the_evaluation(tiny: TrainConfig, corpus: Any) -> None:
    def break_weights(model: nn.Module, every: int) -> AtStep:
        return AtStep(11, lambda: model.get_parameter("embed.weight").data.fill_(math.nan))

    result = train(replace(tiny, probe_every=1), corpus=corpus, probes=[break_weights], quiet=True)
    assert result.diverged and result.final_loss == math.inf
    assert result.metrics[-1]["validation_loss"] is None and math.isfinite(result.losses[-1][1])


def test_high_learning_rate_diverges_without_an_error(tiny: TrainConfig, corpus: Any) -> None:
    config = replace(tiny, optimizer=OptimizerConfig(name="sgd", lr=1e30), clip_norm=0.0)
    result = train(config, corpus=corpus, quiet=True)
    assert result.diverged and 0 < result.steps < 12


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_run_resumes_to_the_same_bits(
    tiny: TrainConfig, corpus: Any, tmp_path: Path, number: signal.Signals
) -> None:
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    whole = train(tiny, out=tmp_path / "whole", corpus=corpus, quiet=True)
    stop = AtStep(6, lambda: os.kill(os.getpid(), number))
    with pytest.raises(KeyboardInterrupt, match="training is at step 7 of 12: the same command resumes it"):
        train(tiny, out=tmp_path / "stopped", corpus=corpus, probes=[stop], quiet=True)
    assert [p.name for p in (tmp_path / "stopped" / "checkpoints").iterdir()] == ["step-00000007"]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    resumed = train(tiny, out=tmp_path / "stopped", corpus=corpus, quiet=True)
    assert timeless(resumed) == timeless(whole)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_interrupt_without_a_folder_is_immediate(tiny: TrainConfig, corpus: Any) -> None:
    ran: list[int] = []
    probes = [AtStep(3, lambda: os.kill(os.getpid(), signal.SIGINT)), AtStep(4, lambda: ran.append(4))]
    with pytest.raises(KeyboardInterrupt):
        train(tiny, corpus=corpus, probes=probes, quiet=True)
    assert not ran


def test_changed_text_is_noticed_on_resuming(tiny: TrainConfig, corpus: Any, tmp_path: Path) -> None:
    stop = AtStep(6, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(tiny, out=tmp_path, corpus=corpus, probes=[stop], quiet=True)
    changed = SimpleNamespace(**{**vars(corpus), "fingerprint": "other"})
    with pytest.raises(UserError, match="begun with the corpus cyclic, and its text has changed to other"):
        train(tiny, out=tmp_path, corpus=changed, quiet=True)


def test_parameterization_sets_the_weights_and_rates(tiny: TrainConfig, corpus: Any) -> None:
    plain = train(tiny, corpus=corpus, quiet=True)
    config = replace(tiny, parameterization=ParameterizationConfig(name="mup", base_width=8))
    scaled = train(config, corpus=corpus, quiet=True)
    assert scaled.initial_loss != plain.initial_loss and scaled.final_loss < scaled.initial_loss
    # A model that is given keeps its weights, and only its learning rates follow.
    model = Decoder(tiny.model, torch.Generator().manual_seed(tiny.seed))
    given = train(config, model=model, corpus=corpus, quiet=True)
    assert given.initial_loss == plain.initial_loss and given.losses[1:] != plain.losses[1:]


def test_probes_measure_and_leave_the_training_alone(tiny: TrainConfig, corpus: Any) -> None:
    plain = train(tiny, corpus=corpus, quiet=True)
    config = replace(tiny, probe_every=5)
    probed = train(config, corpus=corpus, probes=[StabilityProbe], quiet=True)
    assert probed.losses == plain.losses and probed.final_loss == plain.final_loss
    with_metrics = [r["step"] for r in probed.metrics if "probe/log_z_mean" in r]
    assert with_metrics == [0, 5, 10]
    assert probed.metrics[5]["probe/log_z_mean"] == pytest.approx(probed.metrics[5]["log_z"], rel=1e-4)
    # Gradients are measured before clipping: together their squares are the norm's.
    count = tiny.model.num_parameters()
    norm = probed.metrics[5]["probe/grad_rms/all"] * math.sqrt(count)
    assert norm == pytest.approx(probed.metrics[5]["grad_norm"], rel=1e-3)
    with pytest.raises(UserError, match="probes were given with probe_every 0"):
        train(tiny, corpus=corpus, probes=[StabilityProbe], quiet=True)


def test_transformers_model(tiny: TrainConfig, corpus: Any, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    shape = transformers.GPT2Config(
        vocab_size=64,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=32,
        resid_pdrop=0.1,
        bos_token_id=0,
        eos_token_id=0,
    )

    def fresh() -> nn.Module:
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(shape)

    whole = train(tiny, model=fresh(), corpus=corpus, quiet=True)
    assert whole.final_loss < whole.initial_loss - 0.2
    # Dropout draws from the global generator, whose state has to survive the interruption.
    stop = AtStep(4, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(tiny, model=fresh(), out=tmp_path, corpus=corpus, probes=[stop], quiet=True)
    resumed = train(tiny, model=fresh(), out=tmp_path, corpus=corpus, quiet=True)
    assert timeless(resumed) == timeless(whole)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "gpt2"
    assert type(load_model(tmp_path)[0]) is type(fresh())


def test_frozen_parameters_stay(tiny: TrainConfig, corpus: Any) -> None:
    model = Decoder(tiny.model)
    model.blocks.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(tiny, model=model, corpus=corpus, quiet=True)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"embed.weight", "norm.weight", "lm_head.weight"}


def test_without_validation_the_last_losses_count(tiny: TrainConfig, corpus: Any) -> None:
    empty = SimpleNamespace(train=corpus.train, validation=corpus.validation[:0], tokenizer=None)
    for config, text in ((tiny, empty), (replace(tiny, eval_batches=0), corpus)):
        result = train(replace(config, steps=20), corpus=text, quiet=True)
        last = [loss for _, loss in result.losses[-2:]]
        assert result.final_loss == pytest.approx(sum(last) / 2)


def test_corpus_with_more_tokens_than_the_model(tiny: TrainConfig, corpus: Any) -> None:
    large = SimpleNamespace(**vars(corpus), vocab_size=65)
    with pytest.raises(UserError, match="model.vocab_size 64 is too small for the corpus.*expected at least 65"):
        train(tiny, corpus=large, quiet=True)


def test_devices(tiny: TrainConfig, corpus: Any) -> None:
    with pytest.raises(UserError, match="unknown device 'gpu'"):
        train(tiny, corpus=corpus, device="gpu", quiet=True)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="torch sees no GPU: expected 'cpu'"):
            train(tiny, corpus=corpus, device="cuda", quiet=True)


def test_bf16_on_the_cpu(tiny: TrainConfig, corpus: Any) -> None:
    exact = train(replace(tiny, precision="fp32"), corpus=corpus, quiet=True)
    half = train(replace(tiny, precision="bf16"), corpus=corpus, quiet=True)
    assert half.losses != exact.losses
    assert half.final_loss == pytest.approx(exact.final_loss, rel=0.02)


def test_compiled_run_agrees(tiny: TrainConfig, corpus: Any, tmp_path: Path) -> None:
    config = replace(tiny, steps=4, optimizer=OptimizerConfig(name="sgd", lr=0.1))
    eager = train(config, corpus=corpus, quiet=True)
    # In a process of its own: once FSDP2 has sharded a module, dynamo passes over the same code for good.
    (tmp_path / "run.pickle").write_bytes(pickle.dumps((replace(config, compile=True), corpus)))
    script = Path(__file__).with_name("compiled_run.py")
    done = subprocess.run([sys.executable, script, tmp_path / "run.pickle"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    compiled = json.loads(done.stdout.splitlines()[-1])
    assert compiled["frames"] == 2 and not compiled["breaks"]  # with and without gradients
    np.testing.assert_allclose(compiled["losses"], [loss for _, loss in eager.losses], rtol=1e-5)
    assert compiled["final_loss"] == pytest.approx(eager.final_loss, rel=1e-5)


def test_real_text_from_a_folder_to_a_model_that_loads(tiny: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    lines = "".join(f"the number {i} follows the number {i - 1}\n" for i in range(400))
    (tmp_path / "text" / "numbers.txt").write_text(lines)
    data = replace(tiny.data, source=str(tmp_path / "text"), vocab_size=300, validation_fraction=0.2)
    config = replace(tiny, data=data, model=replace(tiny.model, vocab_size=300))
    result = train(config, out=tmp_path / "run", quiet=True)
    assert result.final_loss < result.initial_loss
    model, tokenizer = load_model(tmp_path / "run")
    assert model.config == config.model and tokenizer.decode(tokenizer.encode("the number")) == "the number"
