"""The trials of `best-of-n`: a base model with its verifier, and a method trained from it, as JSON in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fionalm.data.tasks.number_chains import chain_problems, chain_strategy
from fionalm.evaluation import best_of_k
from fionalm.optim import OptimizerConfig, ScheduleConfig
from fionalm.posttraining import BestOfN, BestOfNConfig, Policy, RewardModel
from fionalm.posttraining.rollouts import Group, reward_table
from fionalm.studies.best_of_n.base_models import facts_of, prepared
from fionalm.studies.best_of_n.chains import LONGEST, SAMPLE_BATCH, Values, draw, problem_rows, verifier


def base(values: dict[str, Any]) -> dict[str, Any]:
    """Make a base model and its verifier; return its test results at temperature 1 and over temperatures."""
    policy, reward, _ = prepared(values)
    result = evaluate(policy, reward, values)
    result["verifier"] = facts_of(values)
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
    kept = (
        "step",
        "pass@1",
        "entropy",
        "distinct_right",
        "weighted_pass_rate",
        "weighted_pass_rate_of_reinforce",
        "pass_rate",
        "weight_clip_rate",
    )
    return {
        **evaluate(policy, reward, values["base"]),
        "rows": [{name: row[name] for name in kept if name in row} for row in trained.rows],
        "weight_by_pass_rate": _summed(trained.rows, "weight_by_pass_rate"),
        "prompts_by_pass_rate": _summed(trained.rows, "prompts_by_pass_rate"),
        "seconds": trained.seconds,
    }


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


def _distinct(group: Group, count: int) -> int:
    pairs = zip(group.completions[:count], group.right[:count], strict=True)
    return len({completion.text for completion, right in pairs if right})


def _summed(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    found = [row[name] for row in rows if name in row]
    return np.sum(found, axis=0).tolist() if found else []
