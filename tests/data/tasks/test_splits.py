"""Splits of generated tasks: disjoint for any two seeds, because the problem alone decides."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fionalm.data.tasks import SPLITS, function_rows, split_of, word_problem_rows
from fionalm.data.tasks.functions import draw_function
from fionalm.errors import UserError

MAKERS = {
    "story": lambda split, seed: word_problem_rows(split, 60, seed=seed, kind="story"),
    "expression": lambda split, seed: word_problem_rows(split, 60, seed=seed, kind="expression"),
    "compare": lambda split, seed: word_problem_rows(split, 15, seed=seed, kind="compare"),
    "numbers": lambda split, seed: function_rows(split, 40, seed=seed),
    "lists": lambda split, seed: function_rows(split, 15, seed=seed, kind="lists"),
}


def asked(row: dict) -> str:
    """What a row asks whatever its words: its arithmetic, or what its function returns for each input."""
    return row["tests"] if "tests" in row else row["id"].split(":", 1)[1]


@settings(max_examples=8)
@given(seeds=st.lists(st.integers(0, 2**32), min_size=4, max_size=4), kind=st.sampled_from(list(MAKERS)))
def test_no_problem_is_in_two_splits_whatever_the_seeds(seeds: list[int], kind: str) -> None:
    drawn = {
        split: {asked(row) for row in MAKERS[kind](split, seed)} for split, seed in zip(SPLITS, seeds, strict=True)
    }
    for first, second in combinations(SPLITS, 2):
        assert not drawn[first] & drawn[second]


def test_a_story_and_the_expression_of_the_same_numbers_are_in_one_split() -> None:
    stories = {asked(row) for row in word_problem_rows("train", 2000)}
    for split in ("corpus", "validation", "test"):
        assert not stories & {asked(row) for row in word_problem_rows(split, 1000, kind="expression", seed=5)}


@given(st.integers(0, 2**32))
def test_equal_functions_are_in_one_split_however_described(seed: int) -> None:
    from random import Random

    generator = Random(seed)
    first, second = (draw_function(generator, "numbers", (1, 2)) for _ in range(2))
    if first.outputs == second.outputs:
        assert split_of(first.key) == split_of(second.key)
    assert (first.key == second.key) == (first.outputs == second.outputs)


@pytest.mark.parametrize("kind", MAKERS)
def test_rows_are_those_of_the_seed_and_all_different(kind: str) -> None:
    rows = MAKERS[kind]("train", 3)
    assert rows == MAKERS[kind]("train", 3) != MAKERS[kind]("train", 4)
    assert len({asked(row) for row in rows}) == len({row["id"] for row in rows}) == len(rows)


def test_a_longer_list_begins_with_the_shorter_one() -> None:
    assert word_problem_rows("train", 50)[:20] == word_problem_rows("train", 20)


def test_shares_of_the_splits() -> None:
    counts = Counter(split_of(str(number)) for number in range(10_000))
    assert {split: round(counts[split] / 10_000, 1) for split in SPLITS} == {
        "corpus": 0.5,
        "train": 0.2,
        "validation": 0.1,
        "test": 0.2,
    }


def test_mistakes() -> None:
    with pytest.raises(UserError, match="unknown split 'tset'.*did you mean 'test'"):
        word_problem_rows("tset", 3)
    with pytest.raises(UserError, match="unknown kind of word problem 'stories'"):
        word_problem_rows("test", 3, kind="stories")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="unknown kind of function 'list'.*did you mean 'lists'"):
        function_rows("test", 3, kind="list")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="500 problems of the split 'train': expected at most about"):
        function_rows("train", 500, steps=(1,))
    for rows in (word_problem_rows, function_rows):
        with pytest.raises(UserError, match="expected numbers of"):
            rows("train", 3, steps=(0,))
