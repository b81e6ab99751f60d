"""The trials of `adversarial-arithmetic`: a target is attacked, or hardened and attacked again; JSON in and out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fionalm.data.cache import build_once, content_key
from fionalm.data.tasks import dialogue_rows
from fionalm.optim.config import OptimizerConfig, ScheduleConfig
from fionalm.paths import home
from fionalm.posttraining import Policy, load_policy
from fionalm.redteam import Attack, QueryModel, Trial, judge_reply, random_attacks, run_trials, wrong_answer
from fionalm.redteam.constitution import ConstitutionConfig, constitutional_answers
from fionalm.redteam.gcg import GcgConfig, GcgTask, gcg
from fionalm.redteam.hardening import harden
from fionalm.redteam.hardening_config import HardenConfig
from fionalm.redteam.problems import ArithmeticProblem, make_problems
from fionalm.sampling import SamplingParams
from fionalm.studies.adversarial_arithmetic.families import TALK, dialect_attacks, repeated
from fionalm.studies.adversarial_arithmetic.revising import in_dialect
from fionalm.studies.adversarial_arithmetic.runs import Hardening, Sizes, Target
from fionalm.studies.adversarial_arithmetic.searching import (
    DISTANCES,
    Row,
    fresh_problems,
    gallery,
    problem_config,
    rows_of,
    search,
)
from fionalm.studies.adversarial_arithmetic.target import MICRO_BATCH_TOKENS, VERSION, folder_of, target_policy
from fionalm.training import from_plain, to_plain

ANSWER = SamplingParams(max_tokens=16, temperature=0.0)
WRITTEN = 40
"""Tokens of a text that the attacker writes, at most."""
UNRELATED = ("word", "source", "role", "story", "repeated")


def attack(values: dict[str, Any]) -> dict[str, Any]:
    """Train a target and attack it: by hand, with its own texts, by repetition; let it review its answers."""
    started = time.perf_counter()
    target, sizes = from_plain(Target, values["target"]), from_plain(Sizes, values["sizes"])
    policy = target_policy(target)
    found = assault(policy, policy, sizes, target.seed)
    found["reviewed"] = review(policy, sizes, target.seed)
    found["gcg"] = optimized(policy, sizes, target.seed)
    return {**found, "seconds": time.perf_counter() - started}


def harden_and_attack(values: dict[str, Any]) -> dict[str, Any]:
    """Harden a target and attack it again; the attacker is the target as it was."""
    started = time.perf_counter()
    target, sizes = from_plain(Target, values["target"]), from_plain(Sizes, values["sizes"])
    hardening = from_plain(Hardening, values["hardening"])
    attacker, policy = target_policy(target), hardened_policy(target, hardening)
    found = assault(policy, attacker, sizes, target.seed)
    known = [Attack(**one) for one in values["attacks"]]
    if known:
        found["known"] = rows_of(
            run_trials(query(policy), known, fresh_problems(sizes, target.seed), seed=target.seed, distances=DISTANCES,
                       clean=False, sentences=TALK)
        )  # fmt: skip
    return {**found, "seconds": time.perf_counter() - started}


def transfer(values: dict[str, Any]) -> dict[str, Any]:
    """Ask a target behind attacks that were found against others; `rows` by the name of each other one."""
    target, sizes = from_plain(Target, values["target"]), from_plain(Sizes, values["sizes"])
    model, problems = query(target_policy(target)), fresh_problems(sizes, target.seed)
    options: dict[str, Any] = {"seed": target.seed, "distances": DISTANCES, "sentences": TALK, "clean": False}
    return {
        name: rows_of(run_trials(model, [Attack(**one) for one in attacks], problems, **options))
        for name, attacks in values["attacks"].items()
    }


def query(policy: Policy) -> QueryModel:
    """Return a model to be asked; its tokenizer makes any text a turn."""
    return QueryModel("target", policy.sampler(max_batch=128), ANSWER)


def assault(policy: Policy, attacker: Policy, sizes: Sizes, seed: int) -> dict[str, Any]:
    """Attack a policy in every way but the optimized one, and ask it about other things."""
    model, problems = query(policy), fresh_problems(sizes, seed)
    # As many texts of each prompt as are wanted, at temperature 1: the attacker as it is.
    drawing = SamplingParams(n=sizes.candidates, max_tokens=WRITTEN, temperature=1.0, seed=seed)
    writer = QueryModel("attacker", attacker.sampler(max_batch=128), drawing)
    options: dict[str, Any] = {"seed": seed, "distances": DISTANCES, "sentences": TALK}
    by_hand = [*dialect_attacks("train"), *dialect_attacks("held-out"), *random_attacks(4, 6, seed, "before")]
    trials = run_trials(model, by_hand, problems, clean=False, **options)
    clean = make_problems(sizes.clean_problems, "test", problem_config(seed))
    return {
        "clean": rows_of(run_trials(model, [], clean, **options)),
        "families": rows_of(trials),
        "gallery": gallery(trials),
        "pirs": search(writer, model, sizes, seed),
        "repetition": [
            {"copies": copies, "rows": rows_of(_repeat(model, copies, problems[: sizes.repeated_problems], seed))}
            for copies in sizes.copies
        ],
        "unrelated": unrelated(policy, sizes.unrelated),
    }


def _repeat(model: QueryModel, copies: int, problems: Sequence[ArithmeticProblem], seed: int) -> list[Trial]:
    """Ask with a false equation and with a harmless sentence, in so many copies each."""
    false, harmless = repeated(copies)
    found = run_trials(model, [false, harmless], problems, seed=seed, distances=DISTANCES, clean=False, control=False)
    # The sentence's copies are the control of the equation's.
    return [replace(one, condition="control") if one.attack == harmless.id else one for one in found]


def unrelated(policy: Policy, count: int) -> float:
    """Return the accuracy on questions about made-up words and the like, which the text before them decides."""
    rows = dialogue_rows(count, seed=1_000_000, kinds=UNRELATED)
    drawn = policy.sampler(max_batch=128).sample([row["prompt"] for row in rows], ANSWER)
    return sum(one.text.strip() == row["completion"] for [one], row in zip(drawn, rows, strict=True)) / count


def review(policy: Policy, sizes: Sizes, seed: int) -> list[Row]:
    """Let the target check and answer again, attacked by hand and clean.

    Returns:
        A row an answer; the condition is `first` or `final`.
    """
    problems = fresh_problems(sizes, seed)[: sizes.reviewed_problems]
    attacks: list[Attack | None] = [None, *dialect_attacks("train"), *dialect_attacks("held-out")]
    asked = [(one, problem, wrong_answer(problem, seed, DISTANCES)) for problem in problems for one in attacks]
    config = ConstitutionConfig(max_tokens=ANSWER.max_tokens, review_tokens=32)
    prompts = [problem.prompt() if one is None else one.prompt(problem, target) for one, problem, target in asked]
    transcripts = constitutional_answers(policy.sampler(max_batch=128), prompts, config, render=in_dialect)
    return [
        (
            "clean" if one is None else one.family,
            condition,
            "" if one is None else one.id,
            problem.id,
            abs(target - problem.answer),
            judge_reply(reply, problem, target),
        )
        for (one, problem, target), transcript in zip(asked, transcripts, strict=True)
        for condition, reply in zip(("first", "final"), transcript.answers, strict=True)
    ]


def optimized(policy: Policy, sizes: Sizes, seed: int) -> dict[str, Any] | None:
    """Search a string for one sum by greedy coordinate gradient; None if it is left out."""
    if not sizes.gcg_steps:
        return None
    problem = make_problems(1, "train", problem_config(seed))[0]
    target = wrong_answer(problem, seed, DISTANCES)
    task = GcgTask(lambda text: problem.prompt(text, "before"), f" {target}")
    config = GcgConfig(length=8, steps=sizes.gcg_steps, top_k=64, candidates=32, seed=seed)
    found = gcg(policy, [task], config, quiet=True)
    literal = Attack(found.text, "optimized", "gcg", "before")
    trials = run_trials(
        query(policy),
        [literal],
        [problem, *fresh_problems(sizes, seed)],
        seed=seed,
        distances=DISTANCES,
        sentences=TALK,
    )
    rows = rows_of(trials)
    return {"text": found.text, "queries": found.queries, "hit": all(found.hits), "problem": problem.id, "rows": rows}


def hardened_policy(target: Target, hardening: Hardening) -> Policy:
    """Return the hardened target: trained against the training families, or taken from the cache folder."""
    name = content_key(VERSION, folder_of(target).name, to_plain(hardening))
    folder = home() / "models" / f"hardened-arithmetic-{name}"
    return load_policy(build_once(folder, lambda path: _harden(target, hardening, path)), device="cpu")


def _harden(target: Target, hardening: Hardening, folder: Path) -> None:
    policy, seed = target_policy(target), target.seed
    config = HardenConfig(
        method=hardening.method,
        steps=hardening.steps,
        rows=hardening.rows,
        samples_per_prompt=hardening.samples,
        batch_size=hardening.batch_size,
        optimizer=OptimizerConfig(lr=hardening.lr, betas=(0.9, 0.98)),
        schedule=ScheduleConfig(name="linear"),
        kl_coef=hardening.kl_coef,
        max_tokens=ANSWER.max_tokens,
        micro_batch_tokens=MICRO_BATCH_TOKENS,
        distances=DISTANCES,
        eval_attacks=1,
        checkpoint_every=0,
        seed=seed,
    )
    # It measures itself on little: `assault` measures every target alike.
    harden(
        policy,
        dialect_attacks("train"),
        dialect_attacks("held-out"),
        config,
        problems=make_problems(40, "train", problem_config(seed)),
        test_problems=make_problems(2, "test", problem_config(seed)),
        sentences=TALK,
        quiet=True,
    )
    policy.save(folder)
