"""Semantic entropy: exact values, clusters by entailment, and the Rao-Blackwellised form once all has been seen."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fionalm.errors import UserError
from fionalm.evaluation import (
    answer_entropy,
    bidirectional,
    cluster_answers,
    discrete_entropy,
    entailment_by,
    weighted_entropy,
)

MEANINGS = {"Paris": 0.5, "It is Paris": 0.2, "Lyon": 0.2, "The city of Lyon": 0.1}


def city(question: str, first: str, second: str) -> bool:
    assert question == "Capital?"
    return ("Paris" in first) == ("Paris" in second)


def test_counts_by_hand() -> None:
    found = answer_entropy(["Paris", "paris.", " PARIS", "Lyon"])
    assert found.clusters == (0, 0, 0, 1) and found.weighted is None
    assert found.discrete == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert answer_entropy(["a", "a"]).discrete == 0.0
    assert answer_entropy(list("abcd")).discrete == pytest.approx(math.log(4))


def test_all_sequences_seen_give_the_exact_entropy() -> None:
    texts, logps = list(MEANINGS), [math.log(p) for p in MEANINGS.values()]
    exact = -(0.7 * math.log(0.7) + 0.3 * math.log(0.3))
    found = answer_entropy(texts, logps, question="Capital?", equivalent=city)
    assert found.clusters == (0, 0, 1, 1)
    assert found.weighted == pytest.approx(exact)
    # Drawn more often they change the counts, not the probabilities.
    again = answer_entropy([*texts, *texts[:2]], [*logps, *logps[:2]], question="Capital?", equivalent=city)
    assert again.weighted == pytest.approx(exact) and again.discrete != pytest.approx(found.discrete)


def test_lengths_divide_log_probabilities() -> None:
    found = answer_entropy(["a", "b c d"], [math.log(0.5), 3 * math.log(0.5)], [1, 3])
    assert found.weighted == pytest.approx(math.log(2))
    assert answer_entropy(["a", "b c d"], [math.log(0.5), 3 * math.log(0.5)]).weighted == pytest.approx(
        -(0.8 * math.log(0.8) + 0.2 * math.log(0.2))
    )


def test_entailment_must_hold_both_ways() -> None:
    def entails(question: str, premise: str, hypothesis: str) -> bool:
        return hypothesis in premise  # "a large dog" entails "dog", not the other way round

    assert cluster_answers(["dog", "a large dog", "cat"], equivalent=bidirectional(entails)) == [0, 1, 2]
    assert cluster_answers(["dog", "a large dog", "Dog"], equivalent=lambda _, a, b: entails(_, b, a)) == [0, 0, 0]


def test_a_model_can_judge_entailment() -> None:
    asked: list[str] = []

    class Listing:
        """Answers yes where B's letters are all in A."""

        tokenizer = None

        def choice_logps(self, prompts: Any, choices: Any) -> list[list[float]]:
            text = prompts[0][0]["content"]
            asked.append(text)
            premise, hypothesis = (text.split(f"Answer {name}: ")[1].splitlines()[0] for name in "AB")
            return [[-0.1, -2.0] if set(hypothesis) <= set(premise) else [-2.0, -0.1]]

    same = bidirectional(entailment_by(Listing()))
    assert cluster_answers(["ab", "ba", "abc"], question="Which letters?", equivalent=same) == [0, 0, 1]
    assert "Which letters?" in asked[0]


@given(st.lists(st.tuples(st.floats(-30, 0), st.integers(0, 3)), min_size=1, max_size=10))
def test_entropies_lie_between_nothing_and_the_logarithm_of_the_clusters(rows: list[tuple[float, int]]) -> None:
    logps, clusters = [row[0] for row in rows], [row[1] for row in rows]
    most = math.log(len(set(clusters))) + 1e-9
    assert -1e-12 <= discrete_entropy(clusters) <= most
    assert -1e-12 <= weighted_entropy(logps, clusters) <= most
    shifted = weighted_entropy([logp - 700 for logp in logps], clusters)
    assert shifted == pytest.approx(weighted_entropy(logps, clusters), abs=1e-6)


def test_bad_input_is_named() -> None:
    with pytest.raises(UserError, match="no samples"):
        answer_entropy([])
    with pytest.raises(UserError, match="1 log-probabilities for 2 samples"):
        weighted_entropy([0.0], [0, 1])
    with pytest.raises(UserError, match="above 0"):
        weighted_entropy([-math.inf], [0])
