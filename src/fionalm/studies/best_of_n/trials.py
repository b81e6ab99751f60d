"""The trials of `best-of-n`: a base model with its verifier, and a method trained from it, as JSON in and out.

A base model and what belongs to it (its own right samples, the learned verifier) are kept in the cache folder under a
hash of their settings, so that the trials that start from them need not make them again; what is missing is made again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from fionalm.data import TextTokenizer, character_tokenizer
from fionalm.data.tasks.number_chains import (
    CHAIN_ALPHABET,
    ChainProblem,
    chain_problems,
    chain_reaches,
    chain_strategy,
    number_chains,
)
from fionalm.evaluation import best_of_k
from fionalm.models import Decoder, DecoderConfig
from fionalm.optim import OptimizerConfig, ScheduleConfig
from fionalm.paths import home
from fionalm.posttraining import (
    BestOfN,
    BestOfNConfig,
    Example,
    Policy,
    RewardConfig,
    RewardModel,
    RewardTrainer,
    SupervisedConfig,
    fit,
    load_policy,
)
from fionalm.posttraining.rollouts import Group, Rollouts, reward_table
from fionalm.sampling import SamplingParams, sample_seed
from fionalm.verifiers import FunctionVerifier, Verdict

Values = Mapping[str, Any]
Row = dict[str, Any]
SAMPLE_BATCH = 512
LONGEST = 12
"""Tokens of a completion at most; a chain of five digits has ten with its end."""


def base(values: dict[str, Any]) -> dict[str, Any]:
    """Make a base model and its verifier; return its test results at temperature 1 and over temperatures."""
    policy, reward, _ = prepared(values)
    result = evaluate(policy, reward, values)
    result["training_loss"] = json.loads((folder_of(values) / "facts.json").read_text())
    problems = chain_problems("test", values["n_digits"])[: values["grid_problems"]]
    result["grid"] = []
    for temperature in values["temperatures"]:
        groups = draw(policy, problems, values["grid_samples"], temperature, values["seed"])
        result["grid"].append([sum(group.right) for group in groups])
    return result


def train(values: dict[str, Any]) -> dict[str, Any]:
    """Train the base model by a method; return its test results, and what training said of itself."""
    policy, reward, experts = prepared(values["base"])
    seed, method, n = values["base"]["seed"], values["method"], values["n"]
    supervised = method in ("sft", "bon-sft")
    rows = experts if supervised else problem_rows("train", values["base"])
    config = BestOfNConfig(
        method=method,
        n=n,
        samples_per_prompt=values["samples"],
        steps=values["steps"],
        batch_size=values["sft_batch"] if method == "sft" else values["batch"],
        temperature=1.0,
        max_tokens=LONGEST,
        micro_batch_tokens=32_768,
        optimizer=OptimizerConfig(lr=values["lr"], betas=(0.9, 0.95)),
        schedule=ScheduleConfig(name="constant", warmup_steps=min(5, values["steps"])),
        sample_batch=SAMPLE_BATCH,
        checkpoint_every=0,
        seed=seed,
    )
    selector = reward if method == "bon-rl-v" else None
    trained = BestOfN(policy, rows, verifier(), config, selector=selector, quiet=True).run()
    kept = ("step", "pass@1", "entropy", "distinct_right", "weighted_pass_rate", "pass_rate", "weight_clip_rate")
    return {
        **evaluate(policy, reward, values["base"]),
        "rows": [{name: row[name] for name in kept if name in row} for row in trained.rows],
        "weight_by_pass_rate": _summed(trained.rows, "weight_by_pass_rate"),
        "prompts_by_pass_rate": _summed(trained.rows, "prompts_by_pass_rate"),
        "seconds": trained.seconds,
    }


def prepared(values: Values) -> tuple[Policy, RewardModel, list[Row]]:
    """Return a base model, its learned verifier, and rows with its own right samples of training problems."""
    folder = folder_of(values)
    if not (folder / "facts.json").exists():
        _make(values, folder)
    policy = load_policy(folder / "model", device="cpu")
    experts = [json.loads(line) for line in (folder / "experts.jsonl").read_text().splitlines()]
    return policy, RewardModel.load(folder / "reward", device="cpu"), experts


def folder_of(values: Values) -> Path:
    """Return where the base model of these settings is kept."""
    names = ("seed", "n_digits", "d_model", "n_layers", "pretraining_steps", "pretraining_batch", "pretraining_lr")
    chosen = [values[name] for name in (*names, "expert_prompts", "expert_samples", "verifier_rows", "verifier_steps")]
    return home() / "models" / f"best-of-n-{hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:16]}"


def evaluate(policy: Policy, reward: RewardModel, values: Values) -> dict[str, Any]:
    """Return what a model's samples of the test problems come to, at temperature 1."""
    problems = chain_problems("test", values["n_digits"])[: values["test_problems"]]
    groups = draw(policy, problems, values["test_samples"], 1.0, values["seed"] + 1000)
    scores = reward.score(
        [problem.prompt for problem in problems for _ in range(values["test_samples"])],
        [completion.text for group in groups for completion in group.completions],
    )
    table = np.array(scores).reshape(len(problems), -1)
    rewards = reward_table(groups).numpy()
    strategies = [0] * values["n_digits"]
    for group in groups:
        for completion, right in zip(group.completions, group.right, strict=True):
            if right:
                strategies[chain_strategy(completion.text)] += 1
    first = min(32, values["test_samples"])
    return {
        "right": [sum(group.right) for group in groups],
        "best_of": {str(n): float(np.mean(best_of_k(table, rewards, n))) for n in values["ns"]},
        "entropy": -float(np.mean([c.logp for group in groups for c in group.completions if c.logp is not None])),
        "distinct": float(np.mean([_distinct(group, first) for group in groups])),
        "strategies": strategies,
    }


def draw(policy: Policy, problems: Sequence[ChainProblem], samples: int, temperature: float, seed: int) -> list[Group]:
    """Return judged samples of problems."""
    params = SamplingParams(n=samples, max_tokens=LONGEST, temperature=temperature)
    rollouts = Rollouts(policy.sampler(max_batch=SAMPLE_BATCH), policy.tokenizer, verifier(), params)
    seeds = [[sample_seed(seed, f"{problem.id}/{temperature}", i) for i in range(samples)] for problem in problems]
    return rollouts.draw([{"prompt": problem.prompt} for problem in problems], [p.id for p in problems], seeds)


def verifier() -> FunctionVerifier:
    """Return the task's exact verifier."""
    return FunctionVerifier(judge_chains)


def judge_chains(prompts: Sequence[str], completions: Sequence[str]) -> list[Verdict]:
    """Return a verdict for each chain."""
    found = []
    for prompt, text in zip(prompts, completions, strict=True):
        reached = chain_reaches(prompt, text)
        outcome = "no_answer" if reached is None else "right" if reached else "wrong"
        found.append(Verdict(outcome, float(bool(reached)), text))
    return found


def problem_rows(split: str, values: Values) -> list[Row]:
    """Return a split's problems as rows, in an order of the seed's own."""
    problems = chain_problems(split, values["n_digits"])
    Random(values["seed"]).shuffle(problems)
    return [{"id": problem.id, "prompt": problem.prompt} for problem in problems]


def new_policy(values: Values) -> Policy:
    """Return the base model with fresh weights."""
    tokenizer = character_tokenizer(CHAIN_ALPHABET)
    config = DecoderConfig(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=values["d_model"],
        n_layers=values["n_layers"],
        n_heads=max(1, values["d_model"] // 16),
        max_seq_len=32,
        positions="learned",
        norm="rmsnorm",
        mlp="silu_gated",
    )
    return Policy(Decoder(config, torch.Generator().manual_seed(values["seed"])), tokenizer, device="cpu")


def pretraining_examples(values: Values, tokenizer: TextTokenizer, per_problem: int = 4) -> list[Example]:
    """Return solutions of the corpus's problems, drawn at random among each problem's."""
    generator = Random(values["seed"])
    return [
        Example(tuple(tokenizer.encode_prompt(problem.prompt)), tuple(tokenizer.encode_completion(solution)))
        for problem in chain_problems("corpus", values["n_digits"])
        for solution in generator.sample(problem.solutions, min(per_problem, len(problem.solutions)))
    ]


def labelled_chains(split: str, values: Values, count: int, *, near: int = 12) -> list[Row]:
    """Return chains with labels for the verifier, half of them right; the wrong ones miss the target by `near` at most.

    Both use the problem's digits: what is left to judge is the arithmetic.
    """
    generator = Random(values["seed"])
    by_digits: dict[tuple[int, ...], list[ChainProblem]] = {}
    for problem in number_chains(values["n_digits"]):
        by_digits.setdefault(problem.digits, []).append(problem)
    problems = chain_problems(split, values["n_digits"])
    rows = []
    while len(rows) < count:
        problem = generator.choice(problems)
        others = [p for p in by_digits[problem.digits] if 0 < abs(p.target - problem.target) <= near]
        label = not others or generator.random() < 0.5
        chain = generator.choice((problem if label else generator.choice(others)).solutions)
        rows.append({"prompt": problem.prompt, "completion": chain, "label": label})
    return rows


def _make(values: Values, folder: Path) -> None:
    """Train a base model, sample it on training problems, train the verifier on these samples, and keep all three."""
    policy, seed = new_policy(values), values["seed"]
    examples = pretraining_examples(values, policy.tokenizer)
    settings = SupervisedConfig(
        steps=values["pretraining_steps"],
        batch_size=values["pretraining_batch"],
        micro_batch_tokens=65_536,
        optimizer=OptimizerConfig(lr=values["pretraining_lr"], betas=(0.9, 0.95), weight_decay=0.01),
        schedule=ScheduleConfig(name="cosine", warmup_steps=values["pretraining_steps"] // 20),
        seed=seed,
    )
    done = fit(policy, examples, settings, quiet=True)
    problems = problem_rows("train", values)[: values["expert_prompts"]]
    chosen = {row["id"]: row for row in problems}
    groups = draw(
        policy,
        [problem for problem in chain_problems("train", values["n_digits"]) if problem.id in chosen],
        values["expert_samples"],
        1.0,
        seed + 2000,
    )
    experts = [
        {"prompt": chosen[group.problem]["prompt"], "completion": text}
        for group in groups
        for text in sorted({c.text for c, right in zip(group.completions, group.right, strict=True) if right})
    ]
    if not experts:  # a base model that solves nothing, as at smoke
        solved = {problem.prompt: problem.solutions[0] for problem in chain_problems("train", values["n_digits"])}
        experts = [{"prompt": row["prompt"], "completion": solved[row["prompt"]]} for row in problems]
    reward_settings = RewardConfig(
        steps=values["verifier_steps"],
        batch_size=256,
        micro_batch_tokens=65_536,
        optimizer=OptimizerConfig(lr=2e-3, betas=(0.9, 0.95)),
        seed=seed,
    )
    copy = Policy(new_policy(values).model, policy.tokenizer, device="cpu")
    copy.restore(policy.snapshot())
    trainer = RewardTrainer(
        copy,
        labelled_chains("corpus", values, values["verifier_rows"]),
        reward_settings,
        validation=labelled_chains("validation", values, 1000),
        quiet=True,
    )
    verified = trainer.run()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as place:
        made = Path(place) / "base"
        policy.save(made / "model")
        trainer.model.save(made / "reward")
        (made / "experts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in experts))
        facts = {"loss": done.loss, **{key: value for key, value in asdict(verified).items() if key != "rows"}}
        (made / "facts.json").write_text(json.dumps(facts))
        if folder.exists() and not (folder / "facts.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
        try:
            made.rename(folder)
        except OSError:  # another process made it meanwhile
            if not (folder / "facts.json").exists():
                raise


def _distinct(group: Group, count: int) -> int:
    pairs = zip(group.completions[:count], group.right[:count], strict=True)
    return len({completion.text for completion, right in pairs if right})


def _summed(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    found = [row[name] for row in rows if name in row]
    return np.sum(found, axis=0).tolist() if found else []
