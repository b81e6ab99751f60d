"""Word problems: the story, the answer and every worked solution agree."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fionalm.data import TextTokenizer, character_tokenizer
from fionalm.data.tasks import WORD_ALPHABET, WordProblem, word_problem_rows
from fionalm.data.tasks.word_problems import KINDS, Kind

CHANGES = {"finds": 1, "gets": 1, "buys": 1, "eats": -1, "loses": -1, "sells": -1}


def read_story(prompt: str) -> int:
    """Work out a story from its text alone."""
    start, *events = re.findall(r"has (\d+)|(\w+s) (\d+)|(doubles|triples)", prompt.split(" has ", 1)[0] and prompt)
    value = int(start[0])
    for _, verb, amount, factor in events:
        value = value * {"doubles": 2, "triples": 3}[factor] if factor else value + CHANGES[verb] * int(amount)
    return value


@pytest.mark.parametrize("seed", range(3))
def test_a_story_says_what_its_answer_needs(seed: int) -> None:
    for row in word_problem_rows("train", 100, seed=seed):
        assert read_story(row["prompt"]) == int(row["answer"]), row


def test_a_comparison_says_what_its_answer_needs() -> None:
    for row in word_problem_rows("train", 40, kind="compare"):
        first, difference = map(int, re.findall(r"\d+", row["prompt"]))
        second = first + difference if " more." in row["prompt"] else first - difference
        assert first + second == int(row["answer"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_equation_of_every_solution_holds(kind: Kind) -> None:
    habits = set()
    for row in word_problem_rows("train", 50, kind=kind, solutions=20):
        assert row["completion"] == row["solutions"][0]
        assert len(set(row["solutions"])) == len(row["solutions"]) >= 5
        for solution in row["solutions"]:
            work, answer = solution.split(" #### ")
            assert answer == row["answer"]
            equations = re.findall(r"[\d+*()-]+=\d+", work)
            assert equations and equations[-1].endswith(f"={answer}")
            for equation in equations:
                left, right = equation.split("=")
                assert eval(left) == int(right), solution
            habits.add((len(equations) > 1, ":" in work))
    assert habits >= {(True, False), (False, False)}
    assert ((True, True) in habits) == (kind != "expression")


@given(st.integers(0, 99), st.lists(st.tuples(st.sampled_from("+-*"), st.integers(0, 9)), min_size=1, max_size=4))
def test_values_are_those_of_the_steps_one_by_one(start: int, steps: list[tuple[str, int]]) -> None:
    problem = WordProblem(start, tuple(steps))
    assert len(problem.values) == len(steps) + 1
    for (operation, operand), before, after in zip(steps, problem.values[:-1], problem.values[1:], strict=True):
        assert eval(f"{before}{operation}{operand}") == after


def test_numbers_of_steps() -> None:
    rows = word_problem_rows("test", 60, steps=(1, 4))
    assert {len(re.findall(r"[+*-]", row["id"])) for row in rows} == {1, 4}


def test_the_alphabet_holds_every_row() -> None:
    tokenizer = TextTokenizer(character_tokenizer(WORD_ALPHABET))
    for kind in KINDS:
        for row in word_problem_rows("train", 60, kind=kind, solutions=10):
            for text in (row["prompt"], *row["solutions"]):
                assert tokenizer.decode(tokenizer.encode_prompt(text)) == text
