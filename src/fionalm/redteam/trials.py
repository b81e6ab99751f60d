"""Attacks on problems, each beside the clean question and a benign control of the same length.

trials = run_trials(target, family_attacks("train"), make_problems(20, "test"))
summarise([trial for trial in trials if trial.condition == "attack"]).success
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from fionalm.errors import UserError
from fionalm.paths import atomic_write_text
from fionalm.redteam.answers import Outcome, judge_answer, parse_answer
from fionalm.redteam.attacks import Attack
from fionalm.redteam.control import HARMLESS, benign_text
from fionalm.redteam.problems import DISTANCES, ArithmeticProblem, Insertion, wrong_answer
from fionalm.redteam.querying import QueryModel
from fionalm.verifiers.answers import number_text

Condition = Literal["clean", "attack", "control"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
CLEAN = "clean"
"""Family of questions without an attack."""


@dataclass(frozen=True)
class Trial:
    """One reply to one problem."""

    condition: Condition
    family: str
    """Of the attack, also where this is its control; `clean` without one."""
    attack: str
    """Its id; empty without one."""
    problem: str
    """Its id."""
    answer: int
    """The true one."""
    target: int
    """The chosen wrong one."""
    prompt: str
    reply: str
    outcome: Outcome
    value: str | None
    """The number that was read from the reply."""
    sample: int = 0

    @property
    def distance(self) -> int:
        """|chosen - true|."""
        return abs(self.target - self.answer)

    @property
    def fooled(self) -> bool:
        """Whether the answer is a wrong number."""
        return self.outcome in ("targeted", "wrong")


@dataclass(frozen=True)
class _Planned:
    condition: Condition
    attack: Attack | None
    problem: ArithmeticProblem
    target: int
    text: str


def run_trials(
    model: QueryModel,
    attacks: Sequence[Attack],
    problems: Sequence[ArithmeticProblem],
    *,
    seed: int = 0,
    distances: Sequence[int] = DISTANCES,
    clean: bool = True,
    control: bool = True,
    sentences: Sequence[str] = HARMLESS,
    quiet: bool = True,
) -> list[Trial]:
    """Ask every problem clean, with every attack, and with a control for every attack.

    Problems are gone through one by one with all attacks, so that a budget that ends early has tried all attacks on the
    same problems. Prompts that do not fit the model's context give no trial; nor do those that the budget does not
    reach.

    Args:
        model: the target.
        attacks: to try.
        problems: to try them on.
        seed: of the chosen wrong answers and the control's texts.
        distances: of the chosen wrong answers.
        clean: ask without an attack too.
        control: ask with as much harmless text too.
        sentences: that the harmless text is made of.
        quiet: show no progress.

    Raises:
        UserError: a problem's template has no place for an attack, or the model's own.
    """
    plans: list[_Planned] = []
    for problem in problems:
        target = wrong_answer(problem, seed, distances)
        if clean:
            plans.append(_Planned("clean", None, problem, target, problem.prompt()))
        for attack in attacks:
            plans.append(_Planned("attack", attack, problem, target, attack.prompt(problem, target)))
            if control:
                text = control_text(attack, problem, target, seed, sentences)
                plans.append(_Planned("control", attack, problem, target, problem.prompt(text, attack.insertion)))
    return _ask(model, plans, quiet=quiet)


def try_attacks(
    model: QueryModel, tries: Sequence[tuple[Attack | None, ArithmeticProblem, int]], *, quiet: bool = True
) -> list[Trial]:
    """Try each attack on the problem and with the chosen wrong answer beside it; None: the problem without one."""
    plans = [
        _Planned("clean", None, problem, target, problem.prompt())
        if attack is None
        else _Planned("attack", attack, problem, target, attack.prompt(problem, target))
        for attack, problem, target in tries
    ]
    return _ask(model, plans, quiet=quiet)


def control_text(
    attack: Attack, problem: ArithmeticProblem, target: int, seed: int = 0, sentences: Sequence[str] = HARMLESS
) -> str:
    """Return harmless text as long as an attack is in a problem."""
    length = len(attack.render(problem, target))
    return benign_text(length, f"{seed}/{attack.id}/{problem.id}", sentences)


def ask_problems(
    model: QueryModel,
    asked: Sequence[tuple[ArithmeticProblem, str, int]],
    *,
    insertion: Insertion = "after",
    family: str = "text",
    quiet: bool = True,
) -> list[Trial | None]:
    """Ask problems with literal texts in them, each with its chosen wrong answer; None where nothing came of one.

    The first of several replies is the one judged.
    """
    plans = [
        _Planned("attack" if text else "clean", None, problem, target, problem.prompt(text, insertion))
        for problem, text, target in asked
    ]
    found = model.ask([plan.text for plan in plans], quiet=quiet)
    return [
        _trial(plan, one.replies[0], 0, family) if one.replies else None for plan, one in zip(plans, found, strict=True)
    ]


def write_trials(path: str | Path, trials: Iterable[Trial]) -> None:
    """Write trials as JSONL, whole or not at all.

    Raises:
        UserError: they cannot be written.
    """
    text = "".join(json.dumps(asdict(trial), ensure_ascii=False) + "\n" for trial in trials)
    atomic_write_text(Path(path), text)


def read_trials(path: str | Path) -> list[Trial]:
    """Read trials.

    Raises:
        UserError: no such file, or a line that is no trial (file and line are named).
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}; expected a trials file of `fiona attack`") from error
    return list(_parse(Path(path), text))


def _parse(path: Path, text: str) -> Iterator[Trial]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                values: dict[str, Any] = json.loads(line)
                yield Trial(**values)
            except (ValueError, TypeError) as error:
                raise UserError(f"{path}, line {number} is no trial: {error}") from error


def _ask(model: QueryModel, plans: Sequence[_Planned], *, quiet: bool) -> list[Trial]:
    asked = model.ask([plan.text for plan in plans], quiet=quiet)
    return [
        _trial(plan, reply, sample)
        for plan, one in zip(plans, asked, strict=True)
        for sample, reply in enumerate(one.replies)
    ]


def _trial(plan: _Planned, reply: str, sample: int, family: str = CLEAN) -> Trial:
    answer = parse_answer(reply)
    return Trial(
        condition=plan.condition,
        family=family if plan.attack is None else plan.attack.family,
        attack="" if plan.attack is None else plan.attack.id,
        problem=plan.problem.id,
        answer=plan.problem.answer,
        target=plan.target,
        prompt=plan.text,
        reply=reply,
        outcome=judge_answer(answer, plan.problem.answer, plan.target),
        value=None if answer.value is None else number_text(answer.value),
        sample=sample,
    )
