"""ReST-EM: what is kept, what each iteration starts from, its variants, and that a killed run ends as a whole one."""

from __future__ import annotations

import json
import operator
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from killed_rest_em import CONFIG, base_policy, exact, problems, run

from fionalm.errors import UserError
from fionalm.posttraining import Policy, RestEM, RestEMConfig, rest_em
from fionalm.posttraining.rest_em_filter import generation_statistics, right_solutions
from fionalm.posttraining.rest_em_samples import Problems, with_prefix
from fionalm.sampling import SampleRecord, SampleStore, read_samples
from fionalm.verifiers import Verdict


@pytest.fixture(scope="module")
def base() -> Policy:
    return base_policy()


@pytest.fixture
def policy(base: Policy) -> Policy:
    import copy

    return copy.deepcopy(base)


def plain(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Metrics without what differs from one run to the next: times and memory."""
    return [
        {name: value for name, value in row.items() if name not in ("seconds", "peak_memory_bytes")} for row in rows
    ]


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


class Named:
    """Judges as `exact`, and says that it is `number`."""

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[Verdict]:
        return exact(prompts, completions, **columns)

    def describe(self) -> dict[str, Any]:
        return {"name": "number"}


def record(completion: str, reward: float | None = 1.0, sample: int = 0, finish: str = "stop") -> SampleRecord:
    return SampleRecord("p", sample, "q", completion, reward=reward, finish_reason=finish, outcome="right")


def test_the_loop_learns_from_its_own_right_samples(policy: Policy, tmp_path: Path) -> None:
    config = replace(CONFIG, samples_per_problem=12)
    seen = []

    def evaluate(current: Policy, iteration: int) -> dict[str, Any]:
        seen.append((iteration, current.snapshot()))
        return {"tested": iteration}

    found = RestEM(
        policy, problems(30), exact, config, validation=problems(30), evaluate=evaluate, out=tmp_path, quiet=True
    ).run()
    rewards = [row["validation_reward"] for row in found.rows]
    assert rewards[-1] > rewards[0] and found.validation_reward == rewards[-1]
    assert [row["tested"] for row in found.rows] == [0, 1, 2] == [iteration for iteration, _ in seen]
    assert same_weights(policy.snapshot(), seen[2][1])
    for row in found.rows[1:]:
        assert row["samples"] == 360 == sum(row["outcomes"].values())
        assert row["train_reward"] == row["outcomes"]["right"] / 360
        histogram = row["kept_per_problem"]
        assert sum(histogram) == 30 and sum(n * count for n, count in enumerate(histogram)) == row["kept"]
        assert row["solved"] == sum(histogram[1:]) / 30
        assert {"generate", "verify", "improve"} <= row["seconds"].keys() and row["peak_memory_bytes"] > 2**20
    assert found.rows[2]["train_reward"] > found.rows[1]["train_reward"]
    samples = read_samples(tmp_path / "samples.jsonl")
    assert Counter(sample.iteration for sample in samples) == {0: 360, 1: 360}
    assert all((sample.reward == 1.0) == (sample.completion == sample.columns["answer"]) for sample in samples)


@pytest.mark.parametrize("start", ["base", "last"])
def test_each_iteration_starts_from_the_base_or_from_the_last_policy(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, start: Any
) -> None:
    starts, ends = [], []

    def spied(policy: Policy, *arguments: Any, **keywords: Any) -> Any:
        starts.append(policy.snapshot())
        done = fit(policy, *arguments, **keywords)
        ends.append(policy.snapshot())
        return done

    fit = rest_em.fit
    monkeypatch.setattr(rest_em, "fit", spied)
    base = policy.snapshot()
    RestEM(policy, problems(), exact, replace(CONFIG, start=start), quiet=True).run()
    assert same_weights(starts[0], base) and not same_weights(ends[0], base)
    assert same_weights(starts[1], base if start == "base" else ends[0])
    assert same_weights(policy.snapshot(), ends[1])


def test_rest_shares_a_generation_and_raises_the_threshold(policy: Policy, tmp_path: Path) -> None:
    def graded(prompts: Sequence[Any], completions: Sequence[Any], *, answer: Sequence[str], **_: Any) -> list[Verdict]:
        shares = [
            sum(map(operator.eq, str(text), gold)) / max(len(str(text)), len(gold), 1)
            for text, gold in zip(completions, answer, strict=True)
        ]
        return [Verdict("right" if share == 1 else "wrong", share) for share in shares]

    rows = problems(40)
    config = RestEMConfig.variant(
        "rest",
        **{name: getattr(CONFIG, name) for name in ("temperature", "max_tokens", "optimizer", "batch_size", "epochs")},
        max_per_problem=0,
        samples_per_problem=16,
    )
    found = RestEM(policy, rows, graded, config, out=tmp_path, quiet=True).run()
    samples = read_samples(tmp_path / "samples.jsonl")
    assert {sample.iteration for sample in samples} == {0}
    assert [row["threshold"] for row in found.rows[1:]] == [0.7, 0.8, 0.9, 0.95]
    for row in found.rows[1:]:
        right = {
            (s.problem, s.completion)
            for s in samples
            if s.reward >= row["threshold"] and s.finish_reason == "stop" and s.completion
        }  # type: ignore[operator]
        assert row["kept"] == len(right)
    kept = [row["kept"] for row in found.rows[1:]]
    assert kept == sorted(kept, reverse=True) and kept[0] > kept[-1]
    learnt = [row["tokens"] for row in metrics(tmp_path / "iteration-04")]
    human = sum(len(row["completion"]) + 1 for row in rows)
    own = sum(len(completion) + 1 for _, completion in right)
    # The last batch may begin another epoch.
    assert 0 <= sum(learnt) - config.epochs * (human + own) < 8 * config.batch_size


def test_rft_is_one_iteration_on_every_distinct_right_sample() -> None:
    config = RestEMConfig.variant("rft")
    records = [record(str(number), sample=number) for number in range(40)]
    assert config.iterations == 1 and len(right_solutions(records, config, 1, len)) == 40
    assert len(right_solutions(records, RestEMConfig(), 1, len)) == 10


@given(
    st.lists(
        st.tuples(
            st.text("ab ", max_size=4), st.sampled_from([None, 0.0, 0.6, 1.0]), st.sampled_from(["stop", "length"])
        )
    ),
    st.integers(0, 4),
    st.sampled_from([0.5, 1.0]),
)
def test_what_is_kept(drawn: list[tuple[str, float | None, str]], most: int, threshold: float) -> None:
    records = [record(text, reward, number, finish) for number, (text, reward, finish) in enumerate(drawn)]
    config = RestEMConfig(max_per_problem=most, thresholds=(threshold,), min_solution_tokens=2, max_solution_tokens=3)
    kept = right_solutions(records, config, 1, len)
    fit = {
        text
        for text, reward, finish in drawn
        if reward is not None and reward >= threshold and finish == "stop" and text.strip() and 2 <= len(text) <= 3
    }
    assert set(kept) <= fit and len(kept) == len(set(kept)) == (min(most, len(fit)) if most else len(fit))
    assert kept == right_solutions(records, config, 1, len)
    found = generation_statistics([records, []], [kept, []], threshold)
    assert found["verifier_failures"] == sum(reward is None for _, reward, _ in drawn)
    judged = [reward for _, reward, _ in drawn if reward is not None]
    assert found["train_reward"] == (pytest.approx(sum(judged) / len(judged)) if judged else None)


def test_every_distinct_solution_is_as_likely_to_be_kept_however_often_it_was_drawn() -> None:
    records = [record("often", sample=number) for number in range(90)] + [
        record(f"once {n}", sample=90 + n) for n in range(3)
    ]
    kept = Counter(
        text
        for seed in range(400)
        for text in right_solutions(records, RestEMConfig(max_per_problem=1, seed=seed), 1, len)
    )
    assert len(kept) == 4 and all(60 < count < 140 for count in kept.values())


def test_a_verifier_that_fails_is_counted_and_never_a_zero(policy: Policy) -> None:
    def failing(
        prompts: Sequence[Any], completions: Sequence[Any], *, answer: Sequence[str], **_: Any
    ) -> list[Verdict]:
        verdicts = exact(prompts, completions, answer=answer)
        return [Verdict("timeout", None) if len(gold) > 4 else one for one, gold in zip(verdicts, answer, strict=True)]

    rows = problems()
    row = RestEM(policy, rows, failing, replace(CONFIG, iterations=1), quiet=True).run().rows[1]
    long = sum(len(one["answer"]) > 4 for one in rows)
    assert row["verifier_failures"] == row["outcomes"]["timeout"] == 6 * long > 0
    assert row["train_reward"] == row["outcomes"]["right"] / (row["samples"] - 6 * long)


def test_a_verifier_that_raises_stops_the_run_at_first_and_is_counted_later(policy: Policy, tmp_path: Path) -> None:
    def broken(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[Verdict]:
        raise RuntimeError("no answer key")

    def breaks(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[Verdict]:
        asked.append(len(completions))
        return exact(prompts, completions, **columns) if len(asked) == 1 else broken(prompts, completions)

    with pytest.raises(UserError, match=r"none of the first \d+ completions \(RuntimeError: no answer key\)"):
        RestEM(policy, problems(), broken, CONFIG, out=tmp_path, quiet=True).run()
    assert not read_samples(tmp_path / "samples.jsonl")

    asked: list[int] = []
    config = replace(CONFIG, iterations=1, problems_at_once=4)
    row = RestEM(policy, problems(), breaks, config, quiet=True).run().rows[1]
    assert len(asked) > 1 and row["outcomes"]["error"] == row["verifier_failures"] == row["samples"] - 4 * 6


def test_a_run_is_not_resumed_with_another_verifier(policy: Policy, tmp_path: Path) -> None:
    RestEM(policy, problems(), exact, replace(CONFIG, iterations=1), out=tmp_path, quiet=True).run()
    with pytest.raises(UserError, match=r"whose verifier.name is 'exact' and not 'number'"):
        RestEM(policy, problems(), Named(), replace(CONFIG, iterations=1), out=tmp_path, quiet=True).run()


def test_equal_completions_of_a_problem_are_judged_once_in_a_run(policy: Policy, tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    def counting(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[Verdict]:
        asked.extend(zip(map(str, prompts), map(str, completions), strict=True))
        return exact(prompts, completions, **columns)

    RestEM(policy, problems(), counting, CONFIG, out=tmp_path, quiet=True).run()
    assert len(asked) == len(set(asked)) < len(read_samples(tmp_path / "samples.jsonl"))


def test_the_prefix_is_read_when_sampling_and_training_and_not_by_the_verifier(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judged(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[Verdict]:
        assert not any(prompt.startswith("ab>ab ") for prompt in prompts)
        return exact(prompts, completions, **columns)

    learnt = []
    fit = rest_em.fit
    monkeypatch.setattr(
        rest_em, "fit", lambda policy, examples, *a, **k: (learnt.extend(examples), fit(policy, examples, *a, **k))[1]
    )
    RestEM(
        policy, problems(), judged, replace(CONFIG, iterations=1, prompt_prefix="ab>ab ", human_data=True), quiet=True
    ).run()
    prefix = policy.tokenizer.encode_prompt("ab>ab ")
    assert len(learnt) >= 16 and all(list(one.prompt_ids[: len(prefix)]) == prefix for one in learnt)
    chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    assert with_prefix(chat, "Examples. ") == [{"role": "system", "content": "Examples. be brief"}, chat[1]]
    assert chat[0]["content"] == "be brief"


def test_the_best_iteration_can_be_the_result(policy: Policy, tmp_path: Path) -> None:
    # The second iteration learns at a rate that ruins it.
    for out in (None, tmp_path):
        values = iter([0.1, 0.6, 0.3])
        method = RestEM(
            policy,
            problems(),
            exact,
            replace(CONFIG, take="best", epochs=1),
            validation=problems(4, 1),
            out=out,
            quiet=True,
        )
        base, weights = policy.snapshot(), []
        method.evaluate = lambda current, _, keep=weights, values=values: (
            keep.append(current.snapshot()),
            {"validation_reward": next(values)},
        )[1]
        found = method.run()
        assert (
            found.taken == 1
            and same_weights(policy.snapshot(), weights[1])
            and not same_weights(weights[1], weights[2])
        )
        policy.restore(base)


def test_adapters_are_trained_and_merged(policy: Policy, tmp_path: Path) -> None:
    from fionalm.models import load_model

    config = replace(CONFIG, lora_rank=4, iterations=2)
    frozen = {name: p.clone() for name, p in policy.model.named_parameters()}
    RestEM(policy, problems(), exact, config, out=tmp_path, quiet=True).run()
    left = dict(policy.model.named_parameters())
    unchanged = [name for name in frozen if name in left and torch.equal(left[name], frozen[name])]
    assert policy.lora is not None and len(unchanged) >= 5
    merged, _ = load_model(tmp_path)
    ids = torch.tensor([policy.tokenizer.encode_prompt("abc>")])
    torch.testing.assert_close(merged(ids).logits, policy.model(ids).logits, rtol=1e-4, atol=1e-4)


def test_a_transformers_model_goes_through_the_same_code(tmp_path: Path) -> None:
    from tiny_policies import ALPHABET
    from transformers import LlamaConfig, LlamaForCausalLM

    from fionalm.data import character_tokenizer

    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(ALPHABET) + 1, max_position_embeddings=32, **shape))
    policy = Policy(model, character_tokenizer(ALPHABET), device="cpu")

    def lenient(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[Verdict]:
        return [Verdict("right", 1.0) if "a" in str(text) else Verdict("wrong", 0.0) for text in completions]

    before = policy.snapshot()
    found = RestEM(policy, problems(4), lenient, replace(CONFIG, iterations=1, epochs=1), quiet=True).run()
    assert found.rows[1]["kept"] > 0 and not same_weights(before, policy.snapshot())


def test_a_run_killed_in_each_phase_ends_as_a_whole_one(here: Path, tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    done = subprocess.run(
        [sys.executable, here / "killed_rest_em.py", killed], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    phases = done.stdout.strip().split(", ")
    assert {"generating", "improving", "generating again", "improving again"} <= set(phases), phases
    run(base_policy(), str(whole))
    assert (killed / "model/model.safetensors").read_bytes() == (whole / "model/model.safetensors").read_bytes()
    assert (killed / "result.json").read_bytes() == (whole / "result.json").read_bytes()
    rows = [metrics(out) for out in (killed, whole)]
    assert plain(rows[0]) == plain(rows[1])
    first, second = ({one.key: one for one in SampleStore(out / "samples.jsonl")} for out in (killed, whole))
    assert first == second and len(first) == 2 * 16 * 6
    # No group of samples was drawn twice, but for one that a kill interrupted.
    lines = (killed / "samples.jsonl").read_text().count("\n")
    assert lines - len(first) < len(phases) * 2 * 6


def test_stopping_while_sampling_keeps_the_samples_and_resumes(policy: Policy, tmp_path: Path) -> None:
    asked = []

    def interrupted(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[Verdict]:
        asked.append(len(prompts))
        if len(asked) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return exact(prompts, completions, **columns)

    whole = RestEM(policy, problems(), exact, CONFIG, out=tmp_path / "whole", quiet=True)
    base = policy.snapshot()
    expected = whole.run()
    policy.restore(base)
    with pytest.raises(KeyboardInterrupt, match=r"iteration 1 has \d+ of 96 samples: the same command resumes it"):
        RestEM(policy, problems(), interrupted, CONFIG, out=tmp_path / "run", quiet=True).run()
    assert 0 < len(read_samples(tmp_path / "run" / "samples.jsonl")) < 96
    policy.restore(base)
    found = RestEM(policy, problems(), interrupted, CONFIG, out=tmp_path / "run", quiet=True)
    assert plain(found.run().rows) == plain(expected.rows)
    policy.restore(base)
    again = RestEM(policy, problems(), interrupted, CONFIG, out=tmp_path / "run", quiet=True).run()
    assert plain(again.rows) == plain(expected.rows)
    assert not same_weights(policy.snapshot(), base)


def test_two_processes_do_what_one_does(here: Path, policy: Policy, tmp_path: Path) -> None:
    """Sharing the model by DDP or spreading it by FSDP2; 16 problems in groups of 6 are more turns for one of them."""
    program = f"""
import sys
sys.path.insert(0, {str(here)!r})
from dataclasses import replace
from killed_rest_em import CONFIG, base_policy, run
from fionalm.training import distributed
with distributed("cpu"):
    for strategy in ("ddp", "fsdp2"):
        config = replace(CONFIG, problems_at_once=6, strategy=strategy)
        run(base_policy(), {str(tmp_path)!r} + "/" + strategy, config)
"""
    (tmp_path / "program.py").write_text(program)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, tmp_path / "program.py"], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    run(policy, str(tmp_path / "one"), replace(CONFIG, problems_at_once=6))
    one = {s.key: s.completion for s in read_samples(tmp_path / "one" / "samples.jsonl") if s.iteration == 0}
    expected = metrics(tmp_path / "one")
    for strategy in ("ddp", "fsdp2"):
        two = tmp_path / strategy
        assert not list(two.glob("samples-*.jsonl"))
        assert {s.key: s.completion for s in read_samples(two / "samples.jsonl") if s.iteration == 0} == one
        rows = metrics(two)
        assert [row["step"] for row in rows] == [0, 1, 2] and len(one) == 96
        assert rows[1]["kept"] == expected[1]["kept"]
        assert rows[1]["loss"] == pytest.approx(expected[1]["loss"], rel=1e-3)


def test_samples_of_other_processes_that_were_killed_are_taken_in(policy: Policy, tmp_path: Path) -> None:
    config = replace(CONFIG, iterations=1)
    expected = RestEM(policy, problems(), exact, config, out=tmp_path / "whole", quiet=True)
    base = policy.snapshot()
    rows = expected.run().rows
    policy.restore(base)
    lines = (tmp_path / "whole" / "samples.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "samples-1.jsonl").write_text("".join(lines[12:36]) + lines[40][:30])
    found = RestEM(policy, problems(), exact, config, out=tmp_path / "run", quiet=True).run()
    assert plain(found.rows) == plain(rows)
    assert not (tmp_path / "run" / "samples-1.jsonl").exists()
    assert len((tmp_path / "run" / "samples.jsonl").read_text().splitlines()) == 96


def test_mistakes(policy: Policy) -> None:
    rows = problems(4)

    def start(rows: Sequence[dict[str, Any]] = rows, **changes: Any) -> RestEM:
        return RestEM(policy, rows, exact, replace(CONFIG, **changes), quiet=True)

    with pytest.raises(UserError, match="row 2 has no 'prompt', only id, answer"):
        start([rows[0], {"id": "x", "answer": "y"}])
    with pytest.raises(UserError, match="rows 1 and 3 have one id"):
        start([rows[0], rows[1], rows[0]])
    with pytest.raises(UserError, match="no problems to sample"):
        start([])
    with pytest.raises(UserError, match="row 3: a prompt of 40 tokens: expected at least 1, and fewer than .* 32"):
        start([*rows[:2], {**rows[2], "prompt": "a" * 40}]).run()
    with pytest.raises(
        UserError, match="human_data was asked for, but row 1 has no 'completion', only id, prompt, ans"
    ):
        start([{k: v for k, v in row.items() if k != "completion"} for row in rows], human_data=True).run()
    with pytest.raises(
        rest_em.NothingRight, match="iteration 1: none of 24 samples was right and fit to learn from"
    ) as nothing:
        start(min_solution_tokens=30).run()
    assert [row["step"] for row in nothing.value.rows] == [0]
    with pytest.raises(UserError, match="prompt of token ids was given with a prompt_prefix"):
        Problems([{"prompt": [1, 2]}], "few shots")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"iterations": 0}, "iterations 0: expected at least 1"),
        ({"max_solution_tokens": 3, "min_solution_tokens": 5}, "max_solution_tokens 3: expected at least min_solution"),
        ({"thresholds": ()}, r"thresholds \(\): expected a number for each iteration"),
        ({"start": "bases"}, "unknown start 'bases'.*did you mean 'base'"),
        ({"take": "first"}, "unknown take 'first'"),
        ({"temperature": -1.0}, "temperature -1.0"),
        ({"epochs": 0}, "epochs 0"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        RestEMConfig(**changes)


def test_an_unknown_variant() -> None:
    with pytest.raises(UserError, match="unknown variant 'rest-me'.*did you mean"):
        RestEMConfig.variant("rest-me")  # type: ignore[arg-type]


def test_defaults_are_the_papers() -> None:
    config = RestEMConfig()
    assert (config.samples_per_problem, config.temperature, config.top_k, config.max_per_problem) == (32, 0.7, 40, 10)
    assert config.start == "base" and not config.human_data and config.thresholds == (1.0,)
