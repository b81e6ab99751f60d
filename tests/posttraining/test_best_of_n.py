"""BestOfN: the update is the objective's gradient, failures are left out, kills change nothing, processes agree."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fionalm.data import character_tokenizer
from fionalm.errors import UserError
from fionalm.models import Decoder, DecoderConfig
from fionalm.objectives import unbiased_pass_at_n_advantages
from fionalm.optim import OptimizerConfig, ScheduleConfig
from fionalm.posttraining import BestOfN, BestOfNConfig, Example, Policy, collate, completion_logps
from fionalm.posttraining.best_of_n_config import METHODS
from fionalm.posttraining.best_of_n_metrics import weight_metrics
from fionalm.posttraining.best_of_n_weights import SampleWeights, sample_weights
from fionalm.posttraining.rollouts import Group
from fionalm.sampling import Completion
from fionalm.sampling.records import read_samples
from fionalm.verifiers import FunctionVerifier, Verdict

ROWS = [{"prompt": f"{a}{b}:", "answer": str(a)} for a in range(4) for b in range(4)]


def starts_right(prompts: Sequence[str], completions: Sequence[str], answer: Sequence[str]) -> list[float]:
    """A completion is right if it begins with the answer."""
    return [float(text.startswith(gold)) for text, gold in zip(completions, answer, strict=True)]


def new_policy(seed: int = 0) -> Policy:
    config = DecoderConfig(vocab_size=6, d_model=32, n_layers=1, n_heads=2, max_seq_len=16)
    return Policy(Decoder(config, torch.Generator().manual_seed(seed)), character_tokenizer("0123:"), device="cpu")


CONFIG = BestOfNConfig(
    method="bon-rlb-p",
    n=3,
    samples_per_prompt=8,
    steps=3,
    batch_size=4,
    max_tokens=3,
    optimizer=OptimizerConfig(name="sgd", lr=0.5),
    schedule=ScheduleConfig(name="constant"),
    clip_norm=0.0,
    checkpoint_every=1,
)


def train(config: BestOfNConfig, verifier: Any = None, **options: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    policy = new_policy()
    rows = options.pop("rows", ROWS)
    found = BestOfN(policy, rows, verifier or FunctionVerifier(starts_right), config, quiet=True, **options).run()
    return found, policy.snapshot()


def test_a_step_is_the_gradient_of_the_weighted_log_probabilities(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=1, kl_coef=0.0)
    _, after = train(config, out=tmp_path)
    drawn = read_samples(tmp_path / "samples" / "step-000000.jsonl")
    groups: dict[str, list[Any]] = {}
    for sample in drawn:
        groups.setdefault(sample.problem, []).append(sample)
    assert {len(group) for group in groups.values()} == {8} and len(groups) == 4
    rewards = torch.tensor([[s.reward for s in group] for group in groups.values()], dtype=torch.float64)
    assert 0 < rewards.mean() < 1
    weights = unbiased_pass_at_n_advantages(rewards, 3)
    policy = new_policy()
    tokenizer, total = policy.tokenizer, torch.zeros(())
    for group, row in zip(groups.values(), weights, strict=True):
        for sample, weight in zip(group, row, strict=True):
            prompt = tuple(tokenizer.encode_prompt(sample.prompt))
            batch = collate([Example(prompt, tuple(sample.token_ids))], 0)
            logp = completion_logps(policy.model, batch)
            assert logp.item() == pytest.approx(sample.logp, abs=1e-4)
            total = total - float(weight) * logp[0] / rewards.numel()
    total.backward()
    for name, parameter in policy.model.named_parameters():
        assert parameter.grad is not None
        expected = parameter.detach() - 0.5 * parameter.grad
        torch.testing.assert_close(after[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_an_easy_task(method: str) -> None:
    rows = [{**row, "completion": row["answer"]} for row in ROWS]
    n = 1 if method in ("sft", "reinforce", "grpo") else 2
    config = replace(
        CONFIG,
        method=method,
        n=n,
        steps=12,
        batch_size=16,
        checkpoint_every=0,
        clip_norm=1.0,
        optimizer=OptimizerConfig(lr=1e-2),
    )

    gold = {row["prompt"]: row["answer"] for row in ROWS}

    def selector(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        return [float(text.startswith(gold[prompt])) for prompt, text in zip(prompts, completions, strict=True)]

    found, _ = train(config, rows=rows, validation=ROWS, selector=selector if method == "bon-rl-v" else None)
    metric = "pass@1" if n == 1 else "pass@2"
    assert found.after[metric] > found.before[metric] + 0.1
    assert found.samples == (0 if method == "sft" else 12 * 16 * 8)


def test_failed_verifications_are_left_out_and_counted_never_zero() -> None:
    def fails_on_even(prompts: Sequence[str], completions: Sequence[str], answer: Sequence[str]) -> list[float | None]:
        rewards = starts_right(prompts, completions, answer)
        return [None if len(text) % 2 == 0 else reward for text, reward in zip(completions, rewards, strict=True)]

    found, _ = train(replace(CONFIG, store_samples=False), FunctionVerifier(fails_on_even))
    assert 0 < found.failed_verifications < found.samples

    def breaks(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[Verdict]:
        asked.append(len(completions))
        if len(asked) > CONFIG.batch_size:
            raise RuntimeError("no answer key")
        return FunctionVerifier(starts_right)(prompts, completions, **columns)

    asked: list[int] = []
    broken, weights = train(CONFIG, breaks)
    assert broken.failed_verifications == broken.samples * 2 // 3
    assert [row["failed_verifications"] for row in broken.rows] == [0, 32, 32]
    _, before = train(replace(CONFIG, steps=1))
    assert all(torch.equal(weights[name], before[name]) for name in before)

    known, unknown = torch.tensor([[1.0, 0.0, 0.0, 1.0]]), torch.tensor([[1.0, 0.0, float("nan"), 0.0, 1.0]])
    for method in ("bon-rlb", "bon-rlb-p", "bon-rl-s", "reinforce", "grpo"):
        config = replace(CONFIG, method=method, n=1 if method in ("reinforce", "grpo") else 2, weight_clip=0.0)
        whole = sample_weights(config, known).values / 4
        part = sample_weights(config, unknown).values / 5
        assert part[0, 2] == 0
        torch.testing.assert_close(part[:, [0, 1, 3, 4]], whole)


def test_a_verifier_that_judges_nothing_at_first_stops_the_run() -> None:
    def always_raises(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[Verdict]:
        raise RuntimeError("no answer key")

    with pytest.raises(UserError, match=r"none of the first 32 completions \(RuntimeError: no answer key\)"):
        train(CONFIG, always_raises)


def test_prompts_that_nobody_could_judge_are_not_taken_for_unsolved() -> None:
    def group(*rewards: float | None) -> Group:
        verdicts = [Verdict("error" if one is None else "right" if one else "wrong", one) for one in rewards]
        return Group("p", (1,), [Completion("x", "stop")] * len(rewards), verdicts)

    weights = SampleWeights(torch.tensor([[0.5, -0.5], [0.0, 0.0], [0.0, 0.0]]), clipped=0)
    found = weight_metrics(weights, [group(1.0, 0.0), group(None, None), group(1.0, 1.0)])
    assert found["pass_rate"] == 0.75 and found["weighted_pass_rate"] == 0.5
    assert sum(found["prompts_by_pass_rate"]) == 2 and found["prompts_by_pass_rate"][0] == 0


def test_graded_rewards_are_refused_where_the_gradient_is_for_zero_and_one() -> None:
    with pytest.raises(UserError, match=r"gave 0\.5.*bon-rl-s"):
        train(CONFIG, FunctionVerifier(lambda prompts, completions: [0.5] * len(completions)))


def test_weights_that_explode_are_clipped_and_counted() -> None:
    rewards = torch.zeros(1, 64)
    rewards[0, 0] = 1
    config = replace(CONFIG, method="bon-rlb", n=8, samples_per_prompt=64, estimator="paper")
    free = sample_weights(replace(config, weight_clip=0.0), rewards)
    assert free.clipped == 0 and free.values.abs().max() > 32
    clipped = sample_weights(config, rewards)
    assert clipped.clipped == int((free.values.abs() > 32).sum()) > 0 and clipped.values.abs().max() == 32


def test_the_kl_keeps_the_policy_near_its_start_and_reuse_is_counted() -> None:
    base = replace(CONFIG, steps=8, batch_size=16, n=2, optimizer=OptimizerConfig(lr=1e-2), checkpoint_every=0)
    free, _ = train(replace(base, kl_coef=1e-9))
    held, _ = train(replace(base, kl_coef=5.0))
    assert abs(held.rows[-1]["kl"]) < 0.5 * free.rows[-1]["kl"]
    annealed, _ = train(replace(base, kl_coef=5.0, kl_final=0.0))
    assert [row["kl_coef"] for row in annealed.rows][::7] == [5.0, 0.0]
    again, _ = train(replace(base, reuse=3, temperature=0.8))
    assert again.updates == 24 and again.reused == 2 * again.samples == 2 * 8 * 16 * 8


def test_without_validation_the_last_steps_samples_are_left_for_evaluation(tmp_path: Path) -> None:
    train(CONFIG, out=tmp_path)
    left = read_samples(tmp_path / "samples.jsonl")
    assert left == read_samples(tmp_path / "samples" / "step-000002.jsonl")
    assert len(left) == CONFIG.batch_size * CONFIG.samples and all(one.reward is not None for one in left)


def test_a_run_is_not_resumed_with_another_verifier_or_selector(tmp_path: Path) -> None:
    class Scores:
        def __init__(self, name: str) -> None:
            self.name = name

        def describe(self) -> dict[str, Any]:
            return {"name": self.name}

        def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
            return [0.0] * len(completions)

    config = replace(CONFIG, method="bon-rl-v", steps=1)
    train(config, out=tmp_path, selector=Scores("one").score)
    with pytest.raises(UserError, match=r"whose selector.name is 'one' and not 'two'"):
        train(config, out=tmp_path, selector=Scores("two").score)
    with pytest.raises(UserError, match=r"whose verifier.threshold is 1.0 and not 0.5"):
        train(config, FunctionVerifier(starts_right, threshold=0.5), out=tmp_path, selector=Scores("one").score)


def test_lora_trains_adapters_against_the_bare_model() -> None:
    pytest.importorskip("peft")
    policy = new_policy()
    start = copy.deepcopy(policy.model.state_dict())
    BestOfN(
        policy,
        ROWS,
        FunctionVerifier(starts_right),
        replace(CONFIG, lora_rank=2, kl_coef=0.1),
        quiet=True,
    ).run()
    trained = policy.model.state_dict()
    assert all("lora_" in name for name in policy.snapshot())
    for name, value in start.items():
        inside = name.replace(".weight", ".base_layer.weight")
        assert torch.equal(trained[inside if inside in trained else name], value)


def test_a_finished_run_is_read_and_another_configuration_is_refused(tmp_path: Path) -> None:
    first, weights = train(CONFIG, out=tmp_path, validation=ROWS[:4])
    again, _ = train(CONFIG, out=tmp_path, validation=ROWS[:4])
    assert again == replace(first, rows=again.rows) and again.rows == json.loads(json.dumps(first.rows))
    with pytest.raises(UserError, match="steps"):
        train(replace(CONFIG, steps=4), out=tmp_path, validation=ROWS[:4])
    assert (tmp_path / "model" / "config.json").exists() and weights


@pytest.mark.parametrize(
    ("change", "rows", "words"),
    [
        ({"method": "bon-rl-v"}, ROWS, "no selecting verifier"),
        ({"method": "sft", "n": 1}, ROWS, "no column 'completion'"),
        ({}, [{"promt": "1", "answer": "1"}], "did you mean 'promt'"),
        ({}, [{"prompt": "0" * 16, "answer": "1"}], "16 tokens leave no room"),
        ({}, [], "no prompts"),
    ],
)
def test_mistakes_are_one_sentence(change: dict[str, Any], rows: list[Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        train(replace(CONFIG, **change), rows=rows)


@pytest.mark.parametrize(
    "change",
    [{"method": "bon"}, {"n": 0}, {"method": "grpo", "n": 4}, {"samples_per_prompt": 3}, {"temperature": 0.0}],
)
def test_configurations_that_mean_nothing_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="expected"):
        replace(CONFIG, **change)


PROGRAM = """
import sys, time
sys.path.insert(0, {tests!r})
import test_best_of_n as t
t.run_six_steps(sys.argv[1], pause=float(sys.argv[2]))
"""


def run_six_steps(out: Path | str, pause: float = 0.0, interrupt: bool = False) -> None:
    """Train for six steps, in whichever process; the verifier takes `pause` seconds, or sends Ctrl-C in step 4."""
    calls = 0

    def verifier(prompts: Sequence[str], completions: Sequence[str], answer: Sequence[str]) -> list[float]:
        nonlocal calls
        calls += 1
        time.sleep(pause)
        if interrupt and calls == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return starts_right(prompts, completions, answer)

    config = replace(CONFIG, steps=6, kl_coef=0.1)
    BestOfN(new_policy(), ROWS, FunctionVerifier(verifier), config, validation=ROWS[:4], out=out, quiet=True).run()


def llama_policy() -> Policy:
    """A model of transformers, which is sampled through its own forward pass."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 6, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = LlamaConfig(**sizes, num_attention_heads=2, max_position_embeddings=16, eos_token_id=5, pad_token_id=5)
    return Policy(LlamaForCausalLM(config), character_tokenizer("0123:"), device="cpu")


def train_spread(out: Path | str) -> None:
    """Train by each strategy; three prompts a step are more for one of two processes."""
    config = replace(CONFIG, batch_size=3, reuse=2, kl_coef=0.1)
    for name, policy in (("ddp", new_policy()), ("fsdp2", new_policy()), ("fsdp2-llama", llama_policy())):
        strategy: Any = name.split("-")[0]
        BestOfN(
            policy, ROWS, FunctionVerifier(starts_right), replace(config, strategy=strategy), validation=ROWS[:3],
            out=Path(out) / name, quiet=True,
        ).run()  # fmt: skip


SPREAD_PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
import test_best_of_n as t
from fionalm.training import distributed
with distributed("cpu"):
    t.train_spread({out!r})
"""


def test_two_processes_train_as_one_by_every_strategy(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(SPREAD_PROGRAM.format(tests=str(Path(__file__).parent), out=str(tmp_path / "two")))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    train_spread(tmp_path / "one")
    for name in ("ddp", "fsdp2", "fsdp2-llama"):
        expected, found = weights_of(tmp_path / "one" / name), weights_of(tmp_path / "two" / name)
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-5)
        for mine, theirs in zip(rows_of(tmp_path / "two" / name), rows_of(tmp_path / "one" / name), strict=True):
            numbers = [{k: v for k, v in row.items() if isinstance(v, int | float)} for row in (mine, theirs)]
            assert numbers[0] == pytest.approx(numbers[1], rel=1e-3, abs=1e-5), name


def start(folder: Path, pause: float) -> subprocess.Popen[str]:
    program = folder.parent / "program.py"
    program.write_text(PROGRAM.format(tests=str(Path(__file__).parent)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(program), str(folder), str(pause)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors")


TIMED = ("seconds", "per_second", "memory")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not any(word in key for word in TIMED)} for row in rows]


def test_killed_and_interrupted_runs_resume_to_the_same_result(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run = start(broken, 0.05)
    run_six_steps(whole)
    metrics = broken / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) >= 2)
    run.kill()
    run.communicate(timeout=120)
    done = len(metrics.read_text().splitlines())
    assert done < 6
    with pytest.raises(KeyboardInterrupt, match="the same command resumes it"):
        run_six_steps(broken, interrupt=True)
    assert done < len(metrics.read_text().splitlines()) < 6
    run_six_steps(broken)
    expected, found = weights_of(whole), weights_of(broken)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert rows_of(whole) == rows_of(broken) and [row["step"] for row in rows_of(whole)] == list(range(6))
    for step in range(6):
        name = Path("samples") / f"step-{step:06d}.jsonl"
        assert read_samples(whole / name) == read_samples(broken / name)


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
