"""Small functions: the tests accept every human's solution and no other function's."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from fionalm.data import TextTokenizer, character_tokenizer
from fionalm.data.tasks import FUNCTION_ALPHABET, FunctionProblem, function_rows
from fionalm.data.tasks.functions import KINDS, NUMBER_STEPS, Kind, draw_function

SAMPLE = {kind: function_rows("train", 40, kind=kind, solutions=5) for kind in KINDS}


def passes(program: str, tests: str) -> bool:
    """Run a program of ours with its tests."""
    try:
        exec(program + "\n" + tests, {})
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_every_humans_solution_passes_and_shows_that_habits_differ(kind: Kind) -> None:
    lines = set()
    for row in SAMPLE[kind]:
        assert row["completion"] == row["solutions"][0]
        assert len(set(row["solutions"])) == len(row["solutions"]) >= 2
        for solution in row["solutions"]:
            assert passes(row["prompt"] + solution, row["tests"]), row["prompt"] + solution
            lines.add(solution.count("\n"))
    assert {0, 1, 2} <= lines


@pytest.mark.parametrize("kind", KINDS)
def test_no_solution_passes_the_tests_of_another_problem(kind: Kind) -> None:
    rows = SAMPLE[kind]
    for row, other in zip(rows, [*rows[1:], rows[0]], strict=True):
        assert not passes(row["prompt"] + row["completion"], other["tests"])


def test_the_description_says_what_the_function_does() -> None:
    meaning: dict[str, Callable[[int, int], int]] = {
        "add": lambda x, k: x + k,
        "minus": lambda x, k: x - k,
        "times": lambda x, k: x * k,
        "modulo": lambda x, k: x % k,
        "over": lambda x, k: x // k,
        "at least": max,
        "at most": min,
        "absolute": lambda x, _: abs(x),
    }
    for row in SAMPLE["numbers"]:
        scope: dict[str, Any] = {}
        exec(row["prompt"] + row["completion"], scope)
        steps = re.findall(r"(add|minus|times|modulo|over|at least|at most|absolute) ?(\d*)", row["prompt"])
        for x in (-30, -1, 0, 5, 41):
            value = x
            for words, operand in steps:
                value = meaning[words](value, int(operand or 0))
            assert scope["f"](x) == value, row["prompt"]


@pytest.mark.parametrize(
    ("steps", "expression"),
    [
        ((("add {k}", 3), ("times {k}", 2)), "(x + 3) * 2"),
        ((("times {k}", 2), ("add {k}", 3)), "x * 2 + 3"),
        ((("times {k}", 2), ("over {k}", 3)), "x * 2 // 3"),
        ((("add {k}", 3), ("at least {k}", 2)), "max(x + 3, 2)"),
        ((("at most {k}", 9), ("modulo {k}", 4)), "min(x, 9) % 4"),
        ((("minus {k}", 3), ("absolute", 0)), "abs(x - 3)"),
    ],
)
def test_brackets_stand_where_they_are_needed_only(steps: tuple[tuple[str, int], ...], expression: str) -> None:
    known = {step.words: step for step in NUMBER_STEPS}
    problem = FunctionProblem("numbers", tuple((known[words], operand) for words, operand in steps))
    assert problem.solutions()[0] == f"    return {expression}"
    assert all(passes(problem.prompt + solution, problem.tests) for solution in problem.solutions())


def test_no_function_is_constant_or_the_identity() -> None:
    from random import Random

    generator = Random(1)
    for _ in range(500):
        problem: FunctionProblem = draw_function(generator, "numbers", (1, 2))
        assert len(set(problem.outputs)) > 1 and any(problem(x) != x for x in range(-12, 13))


def test_the_alphabet_holds_every_row() -> None:
    tokenizer = TextTokenizer(character_tokenizer(FUNCTION_ALPHABET))
    for kind in KINDS:
        for row in SAMPLE[kind]:
            for text in (row["prompt"], *row["solutions"]):
                assert tokenizer.decode(tokenizer.encode_prompt(text)) == text
