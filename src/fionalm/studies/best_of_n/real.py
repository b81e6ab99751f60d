"""A real model in `best-of-n`: SmolLM2-135M-Instruct on one-digit arithmetic, or any model on a dataset of answers.

Reported as it comes, beside the claims: the model is trained for a few steps, by REINFORCE and by BoN-RLB(P).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import numpy as np

from fionalm.data import TextTokenizer, read_rows
from fionalm.data.tasks.splits import split_of
from fionalm.errors import UserError
from fionalm.evaluation import pass_at_k
from fionalm.optim import OptimizerConfig, ScheduleConfig
from fionalm.posttraining import BestOfN, BestOfNConfig, Policy, load_policy
from fionalm.posttraining.best_of_n_config import BestOfNMethod
from fionalm.posttraining.config import LoraConfig
from fionalm.posttraining.rollouts import Group, Rollouts
from fionalm.sampling import SamplingParams, sample_seed
from fionalm.verifiers import FunctionVerifier, Verifier, make_verifier

Values = Mapping[str, Any]
Row = dict[str, Any]
NUMBER = re.compile(r"\s*(-?\d+)")


def run(values: dict[str, Any]) -> dict[str, Any]:
    """Train the model by a method (`base`: not at all) and return its test results."""
    lora = LoraConfig(values["lora_rank"]) if values["lora_rank"] else None
    policy = load_policy(values["model"], lora=lora, seed=values["seed"])
    train, test, verifier = task(values, policy.tokenizer)
    rows: list[dict[str, Any]] = []
    if values["method"] != "base":
        rows = _train(policy, train, verifier, values, values["method"])
    count = values["test_samples"]
    groups = _draw(policy, test, verifier, values, count)
    ns = [n for n in values["ns"] if n <= count]
    right = np.array([sum(group.right) for group in groups])
    judged = np.array([group.judged for group in groups])
    return {
        "passed": {str(n): np.asarray(pass_at_k(judged, right, n)).tolist() for n in ns},
        "entropy": -float(np.mean([c.logp for group in groups for c in group.completions if c.logp is not None])),
        "distinct": float(np.mean([group.distinct_right for group in groups])),
        "failed_verifications": int(sum(len(group.verdicts) - group.judged for group in groups)),
        "rows": rows,
    }


def task(values: Values, tokenizer: TextTokenizer) -> tuple[list[Row], list[Row], Verifier]:
    """Return training and test rows, which share no problem, and the verifier."""
    if values["data"] is None:
        train, test = arithmetic_rows()
        return train, test[: values["test_problems"]], FunctionVerifier(begins_with_answer)
    columns = dict(values["columns"])
    train = read_rows(values["data"], split="train", columns=columns, need=("prompt", "answer"))
    test = read_rows(values["data"], split="test", columns=columns, need=("prompt", "answer"))
    if tokenizer.has_chat_template:
        train, test = (
            [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows] for rows in (train, test)
        )
    return train, test[: values["test_problems"]], make_verifier(values["verifier"])


def arithmetic_rows() -> tuple[list[Row], list[Row]]:
    """Return one-digit sums, differences and products, such as `7*8=`: training and test, which share none.

    Sums and products whose operands are swapped count as one.
    """
    rows: dict[bool, list[Row]] = {True: [], False: []}
    for a in range(10):
        for b in range(10):
            for operator, answer in (("+", a + b), ("-", a - b), ("*", a * b)):
                problem = f"{a}{operator}{b}="
                row = {"id": problem, "prompt": problem, "answer": str(answer)}
                # Twins such as 7*8 and 8*7 are in one split.
                asked = problem if operator == "-" else f"{min(a, b)}{operator}{max(a, b)}="
                rows[split_of(asked) == "test"].append(row)
    for part in rows.values():
        Random(0).shuffle(part)
    return rows[False], rows[True]


def begins_with_answer(prompts: Sequence[str], completions: Sequence[str], answer: Sequence[str]) -> list[float]:
    """Return 1 for completions whose first number is the answer: what the model says after it does not count."""
    found = (NUMBER.match(text) for text in completions)
    return [float(match is not None and match[1] == gold) for match, gold in zip(found, answer, strict=True)]


def _train(
    policy: Policy, rows: Sequence[Row], verifier: Verifier, values: Values, method: BestOfNMethod
) -> list[dict[str, Any]]:
    config = BestOfNConfig(
        method=method,
        n=values["n"],
        samples_per_prompt=values["samples"],
        steps=values["steps"],
        batch_size=values["batch"],
        max_tokens=values["max_tokens"],
        micro_batch_tokens=values["micro_batch_tokens"],
        lora_rank=values["lora_rank"],
        optimizer=OptimizerConfig(lr=values["lr"]),
        schedule=ScheduleConfig(name="constant"),
        sample_batch=values["sample_batch"],
        checkpoint_every=0,
        seed=values["seed"],
    )
    done = BestOfN(policy, rows, verifier, config, quiet=True).run()
    kept = ("step", "pass@1", "entropy", "distinct_right", "tokens_per_second", "seconds_sampling", "seconds_training")
    return [{name: row[name] for name in kept if name in row} for row in done.rows]


def _draw(policy: Policy, rows: Sequence[Row], verifier: Verifier, values: Values, count: int) -> list[Group]:
    if not rows:
        raise UserError("there are no test problems: expected at least one")
    params = SamplingParams(n=count, max_tokens=values["max_tokens"], temperature=1.0)
    rollouts = Rollouts(policy.sampler(max_batch=values["sample_batch"]), policy.tokenizer, verifier, params)
    seeds = [[sample_seed(values["seed"] + 1000, place, i) for i in range(count)] for place in range(len(rows))]
    return rollouts.draw(rows, [str(row.get("id", place)) for place, row in enumerate(rows)], seeds)
