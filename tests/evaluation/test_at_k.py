"""pass@k, best-of-k and majority@k against counting every subset."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fionalm.errors import UserError
from fionalm.evaluation import best_of_k, majority_at_k, pass_at_k


def counted(samples: Sequence[Any], k: int, value: Callable[[Sequence[Any]], float]) -> float:
    subsets = list(itertools.combinations(samples, k))
    return sum(map(value, subsets)) / len(subsets) if subsets else math.nan


@given(st.lists(st.booleans(), max_size=8), st.integers(1, 9))
def test_pass_at_k_counts_subsets(right: list[bool], k: int) -> None:
    expected = counted(right, k, lambda subset: float(any(subset)))
    assert pass_at_k(len(right), sum(right), k) == pytest.approx(expected, nan_ok=True)


def test_pass_at_k_of_many_problems() -> None:
    found = pass_at_k([10, 10, 3], [0, 4, 3], 4)
    np.testing.assert_allclose(found, [0, 1 - math.comb(6, 4) / math.comb(10, 4), math.nan])
    assert isinstance(pass_at_k(10, 4, 4), float)
    assert pass_at_k(5000, 1, 2500) == pytest.approx(0.5)
    assert pass_at_k(0, 0, 1) != pass_at_k(0, 0, 1)  # NaN


graded = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([-1.0, 0.0, 0.5, 1.0])), max_size=7)


@given(graded, st.integers(1, 8))
def test_best_of_k_counts_subsets(samples: list[tuple[int, float]], k: int) -> None:
    def picked(subset: Sequence[tuple[int, float]]) -> float:
        top = max(score for score, _ in subset)
        best = [reward for score, reward in subset if score == top]
        return sum(best) / len(best)

    scores, rewards = [score for score, _ in samples], [reward for _, reward in samples]
    assert best_of_k(scores, rewards, k) == pytest.approx(counted(samples, k, picked), nan_ok=True)


def test_best_of_k_under_the_reward_itself_is_pass_at_k() -> None:
    rewards = np.array([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0]])
    np.testing.assert_allclose(best_of_k(rewards, rewards, 3), pass_at_k([5, 5], [2, 0], 3))


def test_best_of_k_leaves_out_what_is_not_known() -> None:
    scores, rewards = [1.0, math.nan, 2.0, 3.0], [1.0, 1.0, math.nan, 0.0]
    assert best_of_k(scores, rewards, 2) == 0
    assert math.isnan(best_of_k(scores, rewards, 3))


@given(st.lists(st.sampled_from(["a", "b", "c", None]), max_size=8), st.integers(1, 9))
def test_majority_counts_subsets(answers: list[str | None], k: int) -> None:
    def voted(subset: Sequence[str | None], gold: set[str]) -> float:
        votes = Counter(answer for answer in subset if answer is not None)
        best = [answer for answer, count in votes.items() if count == max(votes.values())]
        return sum(answer in gold for answer in best) / max(len(best), 1)

    for gold in ({"a"}, {"a", "c"}):
        expected = counted(answers, k, lambda subset, gold=gold: voted(subset, gold))
        given_gold = gold if len(gold) > 1 else "a"
        assert majority_at_k(answers, given_gold, k) == pytest.approx(expected, nan_ok=True, abs=1e-12)


@given(st.lists(st.integers(0, 12), min_size=2, max_size=6), st.integers(1, 40))
def test_some_answer_always_wins(counts: list[int], k: int) -> None:
    """Over all answers and the case that nobody votes, the chances add up to 1."""
    silent, *voters = counts
    answers: list[int | None] = [None] * silent + [i for i, count in enumerate(voters) for _ in range(count)]
    if len(answers) < k or not sum(voters):
        return
    nobody = math.comb(silent, k) / math.comb(len(answers), k)
    assert sum(majority_at_k(answers, i, k) for i in range(len(voters))) + nobody == pytest.approx(1)


def test_majority_of_many_problems_and_many_samples() -> None:
    found = majority_at_k([["4", "4", "5"], ["1", "2", None]], ["4", "2"], 3)
    assert found.tolist() == [1.0, 0.5]
    rng = np.random.default_rng(0)
    answers = [str(int(value)) for value in rng.geometric(0.15, size=256)]
    started = time.monotonic()
    exact = majority_at_k(answers, "2", 64)
    assert time.monotonic() - started < 5
    drawn = []
    for _ in range(4000):
        votes = Counter(rng.choice(answers, size=64, replace=False).tolist())
        best = [answer for answer, count in votes.items() if count == max(votes.values())]
        drawn.append(("2" in best) / len(best))
    assert exact == pytest.approx(np.mean(drawn), abs=4 * float(np.std(drawn)) / math.sqrt(len(drawn)))


def test_edges_and_mistakes() -> None:
    assert majority_at_k(["a"], "b", 1) == 0 and majority_at_k([None, None], "b", 2) == 0
    assert math.isnan(majority_at_k([], "b", 1))
    for call in (
        lambda: pass_at_k(3, 1, 0),
        lambda: best_of_k([1.0], [1.0], 0),
        lambda: majority_at_k(["a"], "a", 0),
    ):
        with pytest.raises(UserError, match="k was 0: expected a whole number"):
            call()
    with pytest.raises(UserError, match="num_correct 4 of num_samples 3"):
        pass_at_k([5, 3], [5, 4], 1)
    with pytest.raises(UserError, match="expected one shape"):
        best_of_k([1.0], [1.0, 2.0], 1)
    with pytest.raises(UserError, match="1 gold answers for 2 problems"):
        majority_at_k([["a"], ["b"]], ["a"], 1)
