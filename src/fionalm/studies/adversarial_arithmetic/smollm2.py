"""SmolLM2-135M-Instruct as target, attacker and reviewer: few and short questions, one seed.

Its test sums are asked in English, with `fionalm.redteam`'s own families, controls and constitution. Only its claim
about the constitutional loop is evidence; all else is reported as it comes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from fionalm.posttraining import load_policy
from fionalm.redteam import (
    FAMILIES,
    Attack,
    ProblemConfig,
    QueryModel,
    Trial,
    by_family,
    family_attacks,
    judge_reply,
    make_problems,
    repetition_attack,
    run_trials,
    summarise,
    wrong_answer,
)
from fionalm.redteam.answers import Outcome
from fionalm.redteam.constitution import ConstitutionConfig, constitutional_answers
from fionalm.redteam.paired import paired_accuracy
from fionalm.redteam.pirs import pirs
from fionalm.redteam.pirs_config import PirsConfig
from fionalm.redteam.problems import ArithmeticProblem
from fionalm.report import Section, Table
from fionalm.report.wording import format_interval, format_number
from fionalm.sampling import Sampler, SamplingParams
from fionalm.statistics import Interval
from fionalm.studies.adversarial_arithmetic.runs import Large
from fionalm.studies.adversarial_arithmetic.searching import gallery
from fionalm.studies.adversarial_arithmetic.tables import GALLERY
from fionalm.training import from_plain

TEMPLATES = ("{before} What is {left} + {right}? {after} Answer with the number only.",)
DISTANCES = (1, 2, 3, 5, 10, 20)
PER_PROMPT = 3
"""Texts that it writes for each inversion prompt."""
ANSWER = SamplingParams(max_tokens=12, temperature=0.0)


def run(values: dict[str, Any]) -> dict[str, Any]:
    """Attack the model by hand, with its own texts and by repetition, and let it review its answers."""
    started = time.perf_counter()
    large = from_plain(Large, {name: value for name, value in values.items() if name != "version"})
    sampler = load_policy(large.model, device="cpu").sampler(max_batch=16)
    model = QueryModel(large.model, sampler, ANSWER)
    config = ProblemConfig(templates=TEMPLATES, seed=large.seed)
    problems = make_problems(large.problems, "test", config)
    by_hand = [attack for attack in family_attacks() if attack.provenance["wording"] == 0]
    options: dict[str, Any] = {"seed": large.seed, "distances": DISTANCES}
    trials = run_trials(model, by_hand, problems, **options)
    repeated = {
        copies: run_trials(model, [repetition_attack(copies)], problems, clean=False, **options)
        for copies in large.copies
    }
    return {
        "groups": _groups(trials, repeated),
        "families": _families(trials),
        "gallery": gallery(trials, most=1),
        "pirs": _search(model, sampler, config, large),
        "reviewed": _review(sampler, by_hand, problems, large),
        "seconds": time.perf_counter() - started,
    }


def section(result: dict[str, Any] | None) -> Section:
    """Return the report's part about the model."""
    title = "SmolLM2-135M-Instruct"
    if result is None:
        return Section(title, "The run did not end; nothing was measured.")
    found, reviewed = result["pirs"], result["reviewed"]
    rows = [
        [name, _rate(one["accuracy"]), _rate(one["targeted"]), one["asked"]] for name, one in result["groups"].items()
    ]
    rows.append(["PIRS's attacks, on test sums", _rate(found["accuracy"]), _rate(found["targeted"]), found["asked"]])
    rows.append(["their control", _rate(found["control"]), None, found["asked"]])
    reviews = [
        ["before the review", _rate(reviewed["before"])],
        ["after it", _rate(reviewed["after"])],
        ["change, over problems", _rate(reviewed["change"])],
        ["right before, not after", reviewed["right_to_wrong"]],
        ["right after, not before", reviewed["wrong_to_right"]],
    ]
    text = (
        f"The same code on a real instruction-tuned model, in {result['seconds']:.0f} seconds. Intervals are Wilson's, "
        f"at 95%. It wrote {found['candidates']} attacks, {found['refused']} refusals among them, {found['distinct']} "
        f"unlike each other; {found['succeeded']} made it err on the sum that they were written for. On test sums "
        f"these bring about {_rate(found['excess'])} more wrong answers than harmless text of their length."
    )
    shown = [[one[name] for name in GALLERY] for one in [*result["gallery"], *found["gallery"]]]
    tables = [
        Table(["before the question", "right", "chosen wrong answer", "answers"], rows),
        Table(["constitutional loop on attacked sums", "right"], reviews),
        Table(["family", "right", "right behind the control"], result["families"]),
        Table(list(GALLERY.values()), shown, "One attack of each family, and those that it wrote itself."),
        Table(["turn", "text"], reviewed["transcript"], "One conversation of the constitutional loop."),
    ]
    return Section(title, text, tables)


def _search(model: QueryModel, sampler: Sampler, problems: ProblemConfig, large: Large) -> dict[str, Any]:
    """Let the model write attacks on itself; none is rejected for failing on sums other than its own."""
    drawing = SamplingParams(n=PER_PROMPT, max_tokens=48, temperature=1.0, seed=large.seed)
    config = PirsConfig(
        candidates=large.candidates,
        batch=large.candidates,
        problems=problems,
        inversion_problems=large.search_problems,
        trial_problems=1,
        keep=0.0,
        retest_problems=large.problems,
        distances=DISTANCES,
        seed=large.seed,
    )
    result = pirs(QueryModel(f"{large.model} (attacker)", sampler, drawing), model, config)
    fresh = [one for one in result.retested if one.condition == "attack"]
    counts = result.counts
    return {
        **rates(fresh),
        "control": rates([one for one in result.retested if one.condition == "control"])["accuracy"],
        "excess": _plain(result.above_control),
        "candidates": counts["asked"],
        "refused": counts["refused"],
        "distinct": counts["tried"],
        "succeeded": counts["fooled"],
        "gallery": gallery(result.retested, most=4),
    }


def _groups(trials: Sequence[Trial], repeated: dict[int, list[Trial]]) -> dict[str, Any]:
    groups = {
        "no text": [one for one in trials if one.condition == "clean"],
        "attacks by hand": [one for one in trials if one.condition == "attack"],
        "harmless text": [one for one in trials if one.condition == "control"],
    }
    for copies, found in repeated.items():
        groups[f"false equation, {copies:,} times"] = [one for one in found if one.condition == "attack"]
        groups[f"harmless text as long as {copies:,}"] = [one for one in found if one.condition == "control"]
    return {name: rates(found) for name, found in groups.items()}


def rates(trials: Sequence[Trial]) -> dict[str, Any]:
    """Return shares with Wilson intervals: [estimate, low, high]."""
    summary = summarise(trials)
    return {
        "accuracy": _plain(summary.accuracy),
        "success": _plain(summary.success),
        "targeted": _plain(summary.targeted_success),
        "asked": summary.total,
    }


def _families(trials: Sequence[Trial]) -> list[list[str]]:
    found = by_family([one for one in trials if one.condition != "clean"])
    return [
        [family, _rate(_plain(found[family]["attack"].accuracy)), _rate(_plain(found[family]["control"].accuracy))]
        for family in FAMILIES
        if family in found
    ]


def _review(
    sampler: Sampler,
    attacks: Sequence[Attack],
    problems: Sequence[ArithmeticProblem],
    large: Large,
) -> dict[str, Any]:
    """Review a share of the attacked questions: all problems, each with other families."""
    count = len(problems)
    asked = [(problems[i % count], attacks[(i + i // count) % len(attacks)]) for i in range(large.reviewed)]
    targets = [wrong_answer(problem, large.seed, DISTANCES) for problem, _ in asked]
    prompts = [
        [{"role": "user", "content": attack.prompt(problem, target)}]
        for (problem, attack), target in zip(asked, targets, strict=True)
    ]
    config = ConstitutionConfig(max_tokens=16, review_tokens=64)
    transcripts = constitutional_answers(sampler, prompts, config)
    outcomes: list[list[Outcome]] = [
        [
            judge_reply(reply, problem, target)
            for (problem, _), target, reply in zip(asked, targets, replies, strict=True)
        ]
        for replies in ([one.answers[0] for one in transcripts], [one.answers[-1] for one in transcripts])
    ]
    found = paired_accuracy(outcomes[0], outcomes[1], [problem.id for problem, _ in asked])
    return {
        "before": _plain(found.before),
        "after": _plain(found.after),
        "change": _plain(found.change),
        "problems": len({problem.id for problem, _ in asked}),
        "right_to_wrong": found.right_to_wrong,
        "wrong_to_right": found.wrong_to_right,
        "transcript": [["question", prompts[0][0]["content"]], *map(list, transcripts[0].turns)],
    }


def _plain(interval: Interval) -> list[float]:
    return [interval.estimate, interval.low, interval.high]


def _rate(interval: Sequence[float]) -> str:
    return f"{format_number(interval[0])} {format_interval(interval[1], interval[2])}"
