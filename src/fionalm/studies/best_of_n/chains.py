"""Number chains in `best-of-n`: rows, judged samples of a policy, and labelled chains for the learned verifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from fionalm.data.tasks.number_chains import ChainProblem, chain_problems, chain_reaches, is_chain, number_chains
from fionalm.posttraining import Policy
from fionalm.posttraining.rollouts import Group, Rollouts
from fionalm.sampling import SamplingParams, sample_seed
from fionalm.verifiers import FunctionVerifier, Verdict

Values = Mapping[str, Any]
Row = dict[str, Any]
SAMPLE_BATCH = 512
LONGEST = 24
"""Tokens of a completion at most; a chain of five digits has 22 with its end."""


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
        right = chain_reaches(prompt, text)
        outcome = "right" if right else "wrong" if is_chain(text) else "no_answer"
        found.append(Verdict(outcome, float(right), text))
    return found


def problem_rows(split: str, values: Values) -> list[Row]:
    """Return a split's problems as rows, in an order of the seed's own."""
    problems = chain_problems(split, values["n_digits"])
    Random(values["seed"]).shuffle(problems)
    return [{"id": problem.id, "prompt": problem.prompt} for problem in problems]


def labelled_chains(split: str, values: Values, *, wrong: int = 2) -> list[Row]:
    """Return every solution of a split's problems, and beside each `wrong` chains that only claim to be one.

    They are what the base models write most when they are wrong: the digits are the problem's and the last result is
    the target, which the last operation does not give. Judging them takes arithmetic.
    """
    generator = Random(values["seed"])
    by_digits: dict[tuple[int, ...], list[ChainProblem]] = {}
    for problem in number_chains(values["n_digits"]):
        by_digits.setdefault(problem.digits, []).append(problem)
    rows = []
    for problem in chain_problems(split, values["n_digits"]):
        others = [other for other in by_digits[problem.digits] if other.target != problem.target]
        for solution in problem.solutions:
            rows.append({"prompt": problem.prompt, "completion": solution, "label": True})
            for other in generator.choices(others, k=wrong) if others else ():
                worked = generator.choice(other.solutions).rpartition("=")[0]
                rows.append({"prompt": problem.prompt, "completion": f"{worked}={problem.target}", "label": False})
    return rows
