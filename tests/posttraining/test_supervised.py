"""Supervised fine-tuning: what is learnt, when it stops, and that a killed run ends as an uninterrupted one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from killed_fit import run
from tiny_policies import make_policy

from fionalm.errors import UserError
from fionalm.models import load_model
from fionalm.optim import OptimizerConfig
from fionalm.posttraining import Policy, Supervised, SupervisedConfig, collate, completion_logps, encode_example, fit
from fionalm.posttraining.supervised import batch_of

FAST = OptimizerConfig(lr=3e-3)


def _encoded(policy: Policy, rows: Sequence[dict[str, Any]]) -> list[Any]:
    return [encode_example(policy.tokenizer, row["prompt"], row["completion"]) for row in rows]


def test_only_completions_are_learnt(policy: Policy, rows: list[dict[str, Any]]) -> None:
    examples = _encoded(policy, rows)
    batch = collate(examples, policy.tokenizer.pad_id)
    before = completion_logps(policy.model, batch).mean().item()
    done = fit(policy, examples, SupervisedConfig(optimizer=FAST, batch_size=8, epochs=20), quiet=True)
    after = completion_logps(policy.model, batch).mean().item()
    assert done.steps == 60
    assert after > 0.4 * before > before
    # What follows a prompt's letters is random: the prompts' own tokens are less likely than before.
    prompts = [
        example._replace(prompt_ids=example.prompt_ids[:1], completion_ids=example.prompt_ids[1:])
        for example in examples
    ]
    found = completion_logps(policy.model, collate(prompts, policy.tokenizer.pad_id)).mean().item()
    assert found < completion_logps(make_policy().model, collate(prompts, policy.tokenizer.pad_id)).mean().item()


@pytest.mark.parametrize("average", ["token", "example"])
def test_micro_batches_and_padding_change_nothing(rows: list[dict[str, Any]], average: Any) -> None:
    found = []
    for tokens in (1, 30, 10_000):
        policy = make_policy()
        config = SupervisedConfig(optimizer=FAST, batch_size=8, micro_batch_tokens=tokens, epochs=1, average=average)
        done = fit(policy, _encoded(policy, rows), config, weights=[1.0, 0.5, 0.0] * 8, quiet=True)
        found.append([row["loss"] for row in done.rows])
    torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(found[2]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.tensor(found[1]), torch.tensor(found[2]), rtol=1e-5, atol=1e-5)


def test_the_first_loss_is_the_mean_by_hand(policy: Policy, rows: list[dict[str, Any]]) -> None:
    examples = _encoded(policy, rows)
    with torch.no_grad():
        logps = completion_logps(policy.model, collate(examples, policy.tokenizer.pad_id))
    tokens = sum(len(example.completion_ids) for example in examples)
    config = SupervisedConfig(batch_size=len(rows), steps=1)
    assert fit(policy, examples, config, quiet=True).rows[0]["loss"] == pytest.approx(-logps.sum().item() / tokens)


def test_early_stopping_keeps_the_best_weights(policy: Policy, rows: list[dict[str, Any]]) -> None:
    values = iter([0.1, 0.5, 0.2, 0.5, 0.9])
    seen = []

    def validate(current: Policy) -> float:
        seen.append(current.snapshot())
        return next(values)

    config = SupervisedConfig(optimizer=FAST, batch_size=8, steps=20, validate_every=2, patience=2)
    done = fit(policy, _encoded(policy, rows), config, validate=validate, quiet=True)
    assert (done.steps, done.best_step, done.best_value, done.stopped_early) == (8, 4, 0.5, True)
    kept, best, last = policy.snapshot(), seen[1], seen[-1]
    assert all(torch.equal(kept[name], best[name]) for name in best)
    assert not all(torch.equal(kept[name], last[name]) for name in best)


def test_validation_loss_decides_without_a_callback(policy: Policy, rows: list[dict[str, Any]]) -> None:
    examples = _encoded(policy, rows)
    config = SupervisedConfig(optimizer=OptimizerConfig(lr=0.02), batch_size=4, epochs=10, patience=2)
    done = fit(policy, examples[:4], config, validation=examples[4:], quiet=True)
    assert done.best_value is not None and done.best_step is not None
    losses = {row["step"] + 1: row["validation_loss"] for row in done.rows if "validation_loss" in row}
    assert losses[done.best_step] == min(losses.values()) == -done.best_value


def test_a_run_folder_holds_everything(policy: Policy, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = SupervisedConfig(optimizer=FAST, batch_size=8, samples=2, max_tokens=8)
    done = Supervised(policy, rows, config, validation=rows[:3], out=out, quiet=True).run()
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in metrics] == [row["loss"] for row in done.rows] and len(metrics) == 3
    assert len((out / "samples.jsonl").read_text().splitlines()) == 2
    batch = collate(_encoded(policy, rows), policy.tokenizer.pad_id)
    saved, _ = load_model(out)
    torch.testing.assert_close(completion_logps(saved, batch), completion_logps(policy.model, batch))
    again = Supervised(policy, rows, config, validation=rows[:3], out=out, quiet=True).run()
    assert again.loss == done.loss and again.rows == done.rows
    with pytest.raises(UserError, match="folder of another run, whose data"):
        Supervised(policy, rows[:-1], config, validation=rows[:3], out=out, quiet=True).run()


def test_a_killed_run_ends_as_an_uninterrupted_one(here: Path, tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    done = subprocess.run(
        [sys.executable, here / "killed_fit.py", killed], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 2
    run(str(whole))
    for name in ("model/model.safetensors", "result.json", "metrics.jsonl"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name


def test_stopping_saves_and_says_how_far_it_is(policy: Policy, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    def validate(_: Policy) -> float:
        signal.raise_signal(signal.SIGINT)
        return 0.0

    config = SupervisedConfig(batch_size=8, epochs=3, validate_every=2, checkpoint_every=0)
    with pytest.raises(KeyboardInterrupt, match="at step 2 of 9"):
        Supervised(policy, rows, config, validate=validate, out=tmp_path, quiet=True).run()
    assert [path.name for path in (tmp_path / "checkpoints").glob("step-*")] == ["step-00000002"]


def test_mistakes_are_one_sentence(policy: Policy, rows: list[dict[str, Any]]) -> None:
    config = SupervisedConfig()
    with pytest.raises(UserError, match="row 2: the completion was empty"):
        Supervised(policy, [rows[0], {"prompt": "a>", "completion": " "}], config).run()
    with pytest.raises(UserError, match=r"row 1: the prompt's 41 tokens .* at most 32"):
        Supervised(policy, [{"prompt": "a" * 40 + ">", "completion": "b"}], config).run()
    with pytest.raises(UserError, match="no examples"):
        fit(policy, [], config)
    broken = SupervisedConfig(optimizer=OptimizerConfig(lr=1e30), clip_norm=0.0, steps=9)
    with pytest.raises(UserError, match=r"step \d: the loss .* not finite: expected a learning rate below 1e\+30"):
        Supervised(policy, rows, broken, quiet=True).run()


@given(count=st.integers(1, 9), size=st.integers(1, 9), steps=st.integers(1, 9), seed=st.integers(0, 5))
def test_every_epoch_has_every_example_once(count: int, size: int, steps: int, seed: int) -> None:
    stream = [index for step in range(steps) for index in batch_of(step, count, size, seed)]
    assert len(stream) == steps * size
    for start in range(0, len(stream) - count + 1, count):
        assert sorted(stream[start : start + count]) == list(range(count))
