"""`fiona sample`: datasets and prompts, judging, resuming, endpoints and their budgets."""

from __future__ import annotations

import copy
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from fionalm.posttraining import RewardModel
from fionalm.posttraining.reward_model import ScalarHead
from fionalm.sampling import EngineSampler, SamplingParams, read_samples, sample_seed

from ..commands.conftest import Fiona
from .conftest import Answer, Scripted, text_reply

OUT = Path("runs/samples/samples.jsonl")
QUESTIONS = ["once upon a time", "hello", "a small model", "it said"]
VERIFIER = """
def share_of_e(prompts, completions, **columns):
    assert len(columns["answer"]) == len(completions)
    return [min(text.count("e") / 4, 1.0) for text in completions]
"""


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    rows = [{"id": f"p{i}", "question": text, "answer": str(i)} for i, text in enumerate(QUESTIONS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "judge.py").write_text(VERIFIER)
    return path


def test_a_prompt_is_completed_and_nothing_is_kept(fiona: Fiona, model_folder: Path) -> None:
    done = fiona("sample", model_folder, "--prompt", "hello", "--n", 2, "--max-tokens", 8, "--quiet")
    assert done.code == 0, done.err
    assert "problem 0: hello" in done.out
    assert "2 samples of 1 problems" in done.out
    assert not list(Path().iterdir())


def test_samples_of_a_dataset_are_the_engines_in_its_order(
    fiona: Fiona, model_folder: Path, problems: Path, served_model: Any, served_tokenizer: Any
) -> None:
    words = ["sample", model_folder, "--data", problems, "--n", 3, "--max-tokens", 9, "--top-p", 0.9, "--seed", 5]
    done = fiona(*words)
    assert done.code == 0, done.err
    assert done.last_line == f"samples: {OUT.resolve()}"
    found = read_samples(OUT)
    assert [one.key for one in found] == [(0, 1.0, f"p{i}", j) for i in range(4) for j in range(3)]
    sampler = EngineSampler(served_model, served_tokenizer)
    params = SamplingParams(n=3, max_tokens=9, top_p=0.9)
    seeds = [[sample_seed(5, f"p{i}", j) for j in range(3)] for i in range(4)]
    drawn = [completion for row in sampler.sample(QUESTIONS, params, seeds=seeds) for completion in row]
    assert [one.completion for one in found] == [completion.text for completion in drawn]
    assert [one.logp for one in found] == pytest.approx([completion.logp for completion in drawn], abs=1e-3)
    assert found[4].columns["answer"] == "1"
    assert found[4].prompt == "hello"

    whole = OUT.read_text()
    lines = whole.splitlines(keepends=True)
    OUT.write_text("".join([*lines[:2], *lines[3:5], lines[8], lines[10][:40]]))  # as a kill leaves it
    assert fiona(*words).code == 0
    resumed = read_samples(OUT)
    assert [(one.key, one.completion) for one in resumed] == [(one.key, one.completion) for one in found]

    more = fiona(*words, "--n", 4)
    assert more.code == 0, more.err
    assert [one.completion for one in read_samples(OUT) if one.sample < 3] == [one.completion for one in found]
    assert len(read_samples(OUT)) == 16
    other = fiona(*words, "--temperature", 0.5)
    assert other.code == 2
    assert "was drawn with temperature 1.0, and 0.5 is asked for" in other.err


def test_samples_are_judged_and_the_best_kept(fiona: Fiona, model_folder: Path, problems: Path) -> None:
    words = ["sample", model_folder, "--data", problems, "--max-tokens", 24, "--quiet"]
    assert fiona(*words, "--n", 6).code == 0
    assert all(one.outcome is None for one in read_samples(OUT))
    judged = fiona(*words, "--best-of", 6, "--verifier", "python:judge.py:share_of_e")
    assert judged.code == 0, judged.err
    found = read_samples(OUT)
    assert [one.reward for one in found] == [min(one.completion.count("e") / 4, 1.0) for one in found]
    assert f"mean reward {sum(one.reward or 0 for one in found) / 24:.4f}" in judged.out
    assert "best of 6, picked by the verifier's own rewards, as a perfect selector would: mean reward" in judged.out
    best = read_samples(OUT.with_suffix(".best.jsonl"))
    assert len(best) == 4
    for one in best:
        rewards = [other.reward or 0 for other in found if other.problem == one.problem]
        assert one.reward == max(rewards)
        assert one.sample == rewards.index(max(rewards))
    assert max(one.reward or 0 for one in best) > 0
    assert fiona("evaluate", OUT, "--out", "evaluation", "--quiet").code == 0


def test_several_temperatures_share_a_file_that_co_scaling_reads(
    fiona: Fiona, model_folder: Path, problems: Path
) -> None:
    words = ["sample", model_folder, "--data", problems, "--n", 4, "--max-tokens", 24, "--quiet"]
    words += ["--verifier", "python:judge.py:share_of_e"]
    assert fiona(*words, "--temperature", 0.5).code == 0
    cold = read_samples(OUT)
    done = fiona(*words, "--temperatures", 1.5, 0.5)
    assert done.code == 0, done.err
    both = read_samples(OUT)
    assert both[:16] == cold and "32 samples of 4 problems" in done.out
    assert [one.key for one in both] == [(0, t, f"p{i}", j) for t in (0.5, 1.5) for i in range(4) for j in range(4)]

    lines = OUT.read_text().splitlines(keepends=True)
    OUT.write_text("".join(lines[:20]) + lines[20][:30])  # as a kill leaves it
    assert fiona(*words, "--temperatures", 0.5, 1.5).code == 0
    assert [(one.key, one.completion) for one in read_samples(OUT)] == [(one.key, one.completion) for one in both]
    refused = fiona(*words, "--temperatures", 0.5, 1.0)
    assert refused.code == 2 and "was drawn with temperature [0.5, 1.5], and [0.5, 1.0] is asked for" in refused.err

    assert fiona("evaluate", OUT, "--co-scaling", "--right", 0.25, "--out", "grid", "--quiet").code == 0
    (found,) = json.loads(Path("grid/result.json").read_text())["co_scaling"].values()
    assert found["temperatures"] == [0.5, 1.5] and found["problems"] == 4


def test_a_reward_model_scores_picks_and_is_evaluated(
    fiona: Fiona, model_folder: Path, problems: Path, served_model: Any, served_tokenizer: Any
) -> None:
    reward = RewardModel(ScalarHead(copy.deepcopy(served_model), seed=3), served_tokenizer)
    reward.save("reward")
    words = ["sample", model_folder, "--data", problems, "--max-tokens", 12, "--quiet"]
    assert fiona(*words, "--n", 5).code == 0
    words += ["--best-of", 5, "--verifier", "python:judge.py:share_of_e", "--reward-model", "reward"]
    done = fiona(*words)
    assert done.code == 0, done.err
    found = read_samples(OUT)
    expected = reward.score([one.prompt for one in found], [one.completion for one in found])
    assert [one.score for one in found] == pytest.approx(expected, abs=1e-4)
    assert all(one.reward is not None for one in found)
    best = read_samples(OUT.with_suffix(".best.jsonl"))
    groups = [[one for one in found if one.problem == f"p{i}"] for i in range(4)]
    assert best == [max(group, key=lambda one: one.score or 0) for group in groups]
    mean = sum(one.reward or 0 for one in best) / 4
    assert f"best of 5, picked by the reward model's score: mean reward {mean:.4f}" in done.out

    OUT.write_text("".join(json.dumps({**asdict(one), "score": 0.0}) + "\n" for one in found))
    again = ["evaluate", OUT, "--ks", 5, "--right", 0.25, "--reward-model", "reward", "--out", "o", "--quiet"]
    assert fiona(*again).code == 0
    assert [one.score for one in read_samples("o/scored.jsonl")] == pytest.approx(expected, abs=1e-4)
    (metrics,) = json.loads(Path("o/result.json").read_text())["sets"].values()
    values = {one["name"]: one["value"][0] for one in metrics["metrics"]}
    assert values["best-of"] == pytest.approx(mean)


def test_templates_and_conversations(fiona: Fiona, model_folder: Path, problems: Path) -> None:
    words = ["sample", model_folder, "--data", problems, "--max-tokens", 2, "--limit", 2, "--quiet"]
    words += ["--prompt-template", r"Q: {question}\nA:", "--chat", "--system", "be brief"]
    done = fiona(*words)
    assert done.code == 0, done.err
    system = {"role": "system", "content": "be brief"}
    prompts = [one.prompt for one in read_samples(OUT)]
    assert prompts == [[system, {"role": "user", "content": f"Q: {text}\nA:"}] for text in QUESTIONS[:2]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "either --prompt TEXT or --data FILE"),
        (["--prompt", "a", "--data", "problems.jsonl"], "either --prompt TEXT or --data FILE"),
        (["--data", "problem.jsonl"], "did you mean 'problems.jsonl'?"),
        (["--data", "problems.jsonl", "--columns", "prompt=quest"], "did you mean 'question'?"),
        (["--data", "problems.jsonl", "--columns", "prompt"], "expected OURS=THEIRS"),
        (["--data", "problems.jsonl", "--prompt-template", "{questio}"], "did you mean 'question'?"),
        (["--prompt", "a", "--system", "b"], "--system was given without --chat"),
        (["--prompt", "a", "--n", "0"], "n 0"),
        (["--prompt", "a", "--best-of", "4"], "a --reward-model or a --verifier to choose by"),
        (["--prompt", "a", "--reward-model", "no"], "there is no reward model in no"),
        (["--prompt", "a", "--temperatures", "1", "1.0"], "--temperatures 1 1: expected different ones"),
        (["--prompt", "a", "--temperatures", "1", "2", "--temperature", "3"], "no --temperature beside them"),
        (["--prompt", "a", "--verifier", "numbr"], "did you mean 'number'?"),
        (["--prompt", "a", "--verifier-timeout", "3"], "are of --verifier"),
        (["--prompt", "a", "--verifier", "number"], "answer"),
        (["--prompt", "a"], "there is no model at nowhere"),
    ],
    ids=str,
)
def test_a_mistake_gets_one_sentence(fiona: Fiona, problems: Path, words: list[str], said: str) -> None:
    done = fiona("sample", "nowhere", *words)
    assert done.code == 2
    assert said in done.err
    assert len(done.err.strip().splitlines()) == 1


def seeded(_call: int, _path: str, body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
    return 200, {}, text_reply(*(f" {body['prompt']}/{body['seed']}/{i}" for i in range(body.get("n", 1))))


def test_a_budget_is_kept_and_raised(fiona: Fiona, problems: Path, scripted: Callable[[Answer], Scripted]) -> None:
    endpoint = scripted(seeded)
    words = ["sample", f"{endpoint.url}#m", "--data", problems, "--n", 3, "--quiet"]
    poor = fiona(*words, "--endpoint.budget.requests", 2)
    assert poor.code == 2
    assert "the budget of 2 requests is spent after 6 of 12 completions" in poor.err
    assert "6 samples of 4 problems" in poor.out
    assert "6 are not drawn yet" in poor.out
    rich = fiona(*words)
    assert rich.code == 0, rich.err
    assert len(endpoint.calls) == 4
    assert "2 requests" in rich.out
    again = fiona(*words, "--out", "again.jsonl")
    assert len(endpoint.calls) == 4
    assert "0 requests, 4 answers from the cache" in again.out
    assert Path("again.jsonl").read_text() == OUT.read_text()


def test_a_killed_run_goes_on(
    fiona: Fiona, problems: Path, scripted: Callable[[Answer], Scripted], tmp_path: Path
) -> None:
    def slow(call: int, path: str, body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        time.sleep(0.1 if call < 2 else 30 if call == 2 else 0)
        return seeded(call, path, body)

    endpoint = scripted(slow)
    words = ["sample", f"{endpoint.url}#m", "--data", problems, "--n", 2, "--quiet", "--endpoint.concurrency", 1]
    words += ["--endpoint.no-cache"]
    command = [sys.executable, "-m", "fionalm.cli", *map(str, words), "--out", "killed.jsonl"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(endpoint.calls) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    endpoint.answer = seeded
    assert len(read_samples("killed.jsonl")) == 4
    assert fiona(*words, "--out", "killed.jsonl").code == 0
    assert fiona(*words, "--out", "whole.jsonl").code == 0
    assert Path("killed.jsonl").read_text() == Path("whole.jsonl").read_text()
    assert len(endpoint.calls) == 9


def test_an_interrupt_says_how_far_it_came(
    problems: Path, scripted: Callable[[Answer], Scripted], tmp_path: Path
) -> None:
    def hanging(call: int, path: str, body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        time.sleep(1.5 if call == 1 else 0)
        return seeded(call, path, body)

    endpoint = scripted(hanging)
    words = ["sample", f"{endpoint.url}#m", "--data", str(problems), "--quiet", "--endpoint.concurrency", "1"]
    command = [sys.executable, "-m", "fionalm.cli", *words]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(endpoint.calls) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "1 of 4 samples are in runs/samples/samples.jsonl: the same command goes on from there" in said
    assert "Traceback" not in said
