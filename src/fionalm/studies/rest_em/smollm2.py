"""One iteration of ReST-EM on SmolLM2-135M-Instruct: sums, differences and products of one-digit numbers."""

from __future__ import annotations

import operator
import time
from itertools import product
from random import Random
from typing import Any

from fionalm.data.tasks import split_of
from fionalm.optim.config import OptimizerConfig
from fionalm.posttraining import Policy, RestEM, RestEMConfig, load_policy
from fionalm.posttraining.rest_em import NothingRight
from fionalm.studies.rest_em.tasks import Rows, greedy_rewards
from fionalm.sweeps import Trial
from fionalm.verifiers import CachedVerifier, NumberVerifier

OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
TOKENS = 24


def trial(problems: int) -> Trial:
    """Return the trial that trains on so many problems."""
    return Trial(f"{__name__}:run", {"problems": problems, "samples": 4, "test": 40, "seed": 0}, cost=300.0)


def run(values: dict[str, Any]) -> dict[str, Any]:
    """Sample, verify and fine-tune once; `before` and `after` are the greedy rewards on test problems."""
    started = time.perf_counter()
    policy = load_policy("smollm2", device="cpu")
    test = one_digit_rows("test", values["test"], values["seed"])
    config = RestEMConfig(
        iterations=1,
        samples_per_problem=values["samples"],
        max_tokens=TOKENS,
        max_per_problem=2,
        optimizer=OptimizerConfig(lr=2e-4),
        lora_rank=8,
        batch_size=16,
        epochs=1,
        seed=values["seed"],
    )
    rewards: list[list[float | None]] = []
    with CachedVerifier(NumberVerifier()) as verifier:

        def evaluate(current: Policy, _: int) -> dict[str, Any]:
            rewards.append(greedy_rewards(current, test, verifier, TOKENS))
            return {}

        rows = one_digit_rows("train", values["problems"], values["seed"])
        try:
            row = RestEM(policy, rows, verifier, config, evaluate=evaluate, quiet=True).run().rows[-1]
        except NothingRight:
            row, rewards = {"kept": 0, "train_reward": 0.0}, rewards * 2
    return {
        "before": rewards[0],
        "after": rewards[-1],
        "problems": values["problems"],
        "samples": values["problems"] * values["samples"],
        "kept": row["kept"],
        "train_reward": row["train_reward"],
        "seconds": time.perf_counter() - started,
    }


def one_digit_rows(split: str, count: int, seed: int) -> Rows:
    """Return conversations that ask for one result each; no problem is in two splits, nor the other way round."""
    every = [
        (first, sign, second)
        for first, sign, second in product(range(1, 10), OPERATIONS, range(1, 10))
        if split_of(_key(first, sign, second)) == split
    ]
    chosen = Random(f"{split}/{seed}").sample(every, count)
    return [
        {
            "id": f"{first}{sign}{second}",
            "prompt": [{"role": "user", "content": f"What is {first} {sign} {second}? Answer with the number only."}],
            "answer": str(OPERATIONS[sign](first, second)),
        }
        for first, sign, second in chosen
    ]


def _key(first: int, sign: str, second: int) -> str:
    """Return what is asked: 7 + 8 is 8 + 7."""
    low, high = (first, second) if sign == "-" else sorted((first, second))
    return f"{low}{sign}{high}"
