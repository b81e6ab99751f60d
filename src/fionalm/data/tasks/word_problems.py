"""Arithmetic word problems of a few steps, with worked solutions by writers of different habits.

    Ann has 7 nuts, finds 5, eats 3. How many?      7+5=12. 12-3=9. #### 9

The gold answer is in the column `answer`; solutions end as GSM8K's do. Two related kinds ask for the same arithmetic
in other words: `expression` without a story, `compare` with two people.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any, Literal

from fionalm.data.tasks.splits import distinct_problems
from fionalm.errors import UserError, choice_error

Kind = Literal["story", "expression", "compare"]
KINDS: tuple[Kind, ...] = ("story", "expression", "compare")
LARGEST = 99

NAMES = ("Ann", "Bob", "Cleo", "Dan", "Eva", "Finn", "Gus", "Ida")
ITEMS = ("nuts", "figs", "pens", "eggs", "caps", "keys")
VERBS = {"+": ("finds", "gets", "buys"), "-": ("eats", "loses", "sells"), "*": ("doubles", "triples")}
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
JOINS = (". ", "; ", ", ", " and ")
WORD_ALPHABET = "".join(
    sorted(
        {
            *"".join((*NAMES, *ITEMS, *VERBS["+"], *VERBS["-"], *VERBS["*"], *JOINS)),
            *"0123456789+-*=()# Work out has more fewer How many have both? : .",
        }
    )
)
"""Every character of prompts and solutions, for `character_tokenizer`."""


@dataclass(frozen=True)
class WordProblem:
    """A number and what happens to it, one operation after the other."""

    start: int
    steps: tuple[tuple[str, int], ...]
    """Operation (`+`, `-` or `*`) and operand."""

    @property
    def values(self) -> tuple[int, ...]:
        """The number at the start and after each step."""
        values = [self.start]
        for operation, operand in self.steps:
            last = values[-1]
            values.append(
                last + operand if operation == "+" else last - operand if operation == "-" else last * operand
            )
        return tuple(values)

    @property
    def answer(self) -> int:
        """The number at the end."""
        return self.values[-1]

    @property
    def key(self) -> str:
        """What the problem asks, without its wording."""
        return str(self.start) + "".join(f"{operation}{operand}" for operation, operand in self.steps)


def draw_problem(generator: Random, steps: tuple[int, ...] = (2, 3), largest: int = LARGEST) -> WordProblem:
    """Draw a problem whose every number is between 0 and `largest`."""
    while True:
        start, chosen = generator.randint(2, min(19, largest)), []
        for _ in range(generator.choice(steps)):
            operation = generator.choice("++--*")
            chosen.append((operation, generator.randint(2, 3) if operation == "*" else generator.randint(2, 9)))
        problem = WordProblem(start, tuple(chosen))
        if all(0 <= value <= largest for value in problem.values):
            return problem


def draw_comparison(generator: Random, largest: int = LARGEST) -> WordProblem:
    """Draw a problem of two people, both of whose numbers are counted: start, second person's, and their sum."""
    while True:
        start, operation, operand = generator.randint(2, 40), generator.choice("+-"), generator.randint(2, 9)
        problem = WordProblem(start, ((operation, operand), ("+", start)))
        if problem.values[1] > 0 and problem.answer <= largest:
            return problem


def word_problem_rows(
    split: str,
    count: int,
    *,
    seed: int = 0,
    kind: Kind = "story",
    steps: tuple[int, ...] = (2, 3),
    largest: int = LARGEST,
    solutions: int = 1,
) -> list[dict[str, Any]]:
    """Return problems of a split: `id`, `prompt`, `completion` (a human's solution), `answer`, `kind`, `solutions`.

    Args:
        split: `corpus`, `train`, `validation` or `test`; they share no problem, whatever the seed or kind.
        count: how many problems, all different.
        seed: of problems and wordings.
        kind: `story`, or a related one: `expression`, `compare`.
        steps: numbers of operations to draw from; `compare` has two.
        largest: no number of a problem is above it; 10 at least.
        solutions: distinct human solutions in the column `solutions`, `completion` first; fewer where a problem has
            fewer.

    Raises:
        UserError: an unknown split or kind, or more problems than there are.
    """
    if kind not in KINDS:
        raise choice_error("kind of word problem", kind, KINDS)
    if not steps or min(steps) < 1:
        raise UserError(f"steps {steps}: expected numbers of operations, at least 1 each")
    if largest < 10:
        raise UserError(f"largest {largest}: expected a number of at least 10")

    def draw(generator: Random) -> WordProblem:
        return draw_comparison(generator, largest) if kind == "compare" else draw_problem(generator, steps, largest)

    rows = []
    for problem, generator in distinct_problems(draw, lambda one: one.key, split, count, seed):
        prompt, phrases = _tell(problem, kind, generator)
        written = human_solutions(problem, phrases, generator, solutions)
        rows.append(
            {
                "id": f"{kind}:{problem.key}",
                "prompt": prompt,
                "completion": written[0],
                "answer": str(problem.answer),
                "kind": kind,
                "solutions": written,
            }
        )
    return rows


def human_solutions(problem: WordProblem, phrases: tuple[str, ...], generator: Random, count: int = 1) -> list[str]:
    """Return up to `count` distinct solutions by writers of three habits.

    One shows every step, one says what happens as well, one writes a single equation and shows none.
    """
    equations = [
        f"{before}{operation}{operand}={after}"
        for (before, after), (operation, operand) in zip(pairwise(problem.values), problem.steps, strict=True)
    ]
    told = [
        f"{phrase}: {equation}" if phrase else equation for phrase, equation in zip(phrases, equations, strict=True)
    ]
    ways = {
        "steps": [join.join(equations) for join in JOINS],
        "words": [join.join(told) for join in JOINS],
        "terse": [f"{_single(problem)}={problem.answer}"],
    }
    habits = list(ways)
    every = [f"{body}. #### {problem.answer}" for habit in habits for body in ways[habit]]
    habit = generator.choice(habits)  # writers are equally many, though one has a single way
    first = f"{generator.choice(ways[habit])}. #### {problem.answer}"
    others = list(dict.fromkeys(solution for solution in every if solution != first))
    generator.shuffle(others)
    return [first, *others[: count - 1]]


def _tell(problem: WordProblem, kind: Kind, generator: Random) -> tuple[str, tuple[str, ...]]:
    """Return the prompt, and for each step how a writer would name it."""
    if kind == "expression":
        return f"Work out {_single(problem)}. ", ("",) * len(problem.steps)
    name, other = generator.sample(NAMES, 2)
    item = generator.choice(ITEMS)
    if kind == "compare":
        operation, operand = problem.steps[0]
        more = "more" if operation == "+" else "fewer"
        prompt = f"{name} has {problem.start} {item}, {other} has {operand} {more}. How many have both? "
        return prompt, (f"{other}", "both")
    phrases = []
    for operation, operand in problem.steps:
        if operation == "*":
            phrases.append(VERBS["*"][operand - 2])
        else:
            phrases.append(f"{generator.choice(VERBS[operation])} {operand}")
    return f"{name} has {problem.start} {item}, {', '.join(phrases)}. How many? ", tuple(phrases)


def _single(problem: WordProblem) -> str:
    """Return the steps as one expression, with brackets where a product follows a sum."""
    text, is_sum = str(problem.start), False
    for operation, operand in problem.steps:
        if operation == "*":
            text = f"({text})*{operand}" if is_sum else f"{text}*{operand}"
            is_sum = False
        else:
            text, is_sum = f"{text}{operation}{operand}", True
    return text
