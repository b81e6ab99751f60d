"""The trials of `rest-em`: an arm is trained from its base model and measured, as JSON in and out."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from fionalm.optim.config import OptimizerConfig, ScheduleConfig
from fionalm.posttraining import Policy, RestEM, RestEMConfig, encode_example, fit
from fionalm.posttraining.rest_em import NothingRight
from fionalm.studies.rest_em.runs import Arm
from fionalm.studies.rest_em.tasks import (
    MICRO_BATCH_TOKENS,
    Problems,
    Rows,
    base_policy,
    greedy_rewards,
    open_verifier,
    problems,
    sampled_rewards,
)
from fionalm.training import from_plain
from fionalm.verifiers import CachedVerifier


def run(values: dict[str, Any]) -> dict[str, Any]:
    """Train and measure an arm.

    Returns:
        `rows`: one a policy, the base first where the arm has iterations: `test`, `train` and `related` pass@1 of
        greedy answers, and what the iteration kept. `sampled`: counts of right samples and majority votes of the last
        policy on the test problems.
    """
    started = time.perf_counter()
    arm = from_plain(Arm, values)
    policy, found = base_policy(arm.base), problems(arm.base, arm.size)
    with open_verifier(arm.base) as verifier:
        train = {"base": _nothing, "self": _self_train, "human": _learn_from_humans}[arm.kind]
        rows = train(arm, policy, found, verifier)
        size = arm.size
        whole = len(rows) == arm.iterations + 1
        sampled = (
            sampled_rewards(policy, found.test, verifier, size, arm.base.seed) if size.evaluated and whole else None
        )
        return {"rows": rows, "sampled": sampled, "verified": verifier.asked, "seconds": time.perf_counter() - started}


def _measure(arm: Arm, policy: Policy, found: Problems, verifier: CachedVerifier) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name in ("test", "train", "related"):
        rewards = greedy_rewards(policy, getattr(found, name), verifier, arm.size.max_tokens)
        judged = [reward for reward in rewards if reward is not None]
        row[name] = math.fsum(judged) / len(judged) if judged else None
        row[f"{name}_failures"] = len(rewards) - len(judged)
    return row


def _nothing(arm: Arm, policy: Policy, found: Problems, verifier: CachedVerifier) -> list[dict[str, Any]]:
    return [_measure(arm, policy, found, verifier)]


def _self_train(arm: Arm, policy: Policy, found: Problems, verifier: CachedVerifier) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def evaluate(current: Policy, iteration: int) -> dict[str, Any]:
        # The base is measured by an arm of its own.
        rows.append({} if iteration == 0 else _measure(arm, current, found, verifier))
        return rows[-1]

    method = RestEM(
        policy, found.train, verifier, _config(arm), validation=found.validation, evaluate=evaluate, quiet=True
    )
    try:
        done = method.run().rows
    except NothingRight as nothing:  # the analysis sees fewer iterations
        done = nothing.rows
    kept = ("kept", "solved", "kept_per_problem", "train_reward", "validation_reward", "verifier_failures", "samples",
            "truncated", "best_step", "seconds")  # fmt: skip
    return [{**row, **{name: one[name] for name in kept if name in one}} for row, one in zip(rows, done, strict=True)]


def _learn_from_humans(arm: Arm, policy: Policy, found: Problems, verifier: CachedVerifier) -> list[dict[str, Any]]:
    chosen = human_solutions(found.train, arm.solutions)
    examples = [encode_example(policy.tokenizer, prompt, completion) for prompt, completion in chosen]

    def validate(current: Policy) -> float:
        rewards = greedy_rewards(current, found.validation, verifier, arm.size.max_tokens)
        judged = [reward for reward in rewards if reward is not None]
        return math.fsum(judged) / len(judged)

    fit(policy, examples, _config(arm).supervised(1), validate=validate, quiet=True)
    return [{}, {**_measure(arm, policy, found, verifier), "kept": len(examples)}]


def human_solutions(rows: Rows, count: int) -> list[tuple[str, str]]:
    """Return `count` prompts with human solutions: one of each problem, then a second of each, ..., all different.

    Where the problems have fewer, it begins anew.
    """
    rounds: Sequence[Any] = list(zip_longest(*(row["solutions"] for row in rows)))
    every = [
        (row["prompt"], text) for texts in rounds for row, text in zip(rows, texts, strict=True) if text is not None
    ]
    return [every[index % len(every)] for index in range(count)]


def _config(arm: Arm) -> RestEMConfig:
    size = arm.size
    return RestEMConfig(
        iterations=arm.iterations,
        samples_per_problem=arm.samples,
        max_tokens=size.max_tokens,
        max_per_problem=arm.max_per_problem,
        start=arm.start,
        optimizer=OptimizerConfig(lr=arm.lr, betas=(0.9, 0.98)),
        schedule=ScheduleConfig(name="constant"),
        batch_size=arm.base.batch_size,
        micro_batch_tokens=MICRO_BATCH_TOKENS,
        epochs=arm.epochs,
        patience=1,
        seed=arm.base.seed,
    )
