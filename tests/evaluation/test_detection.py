"""Areas against hand enumeration and scikit-learn, one class named, groups resampled, pairs compared."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from fionalm.errors import UserError
from fionalm.evaluation import compare_detectors, evaluate_detection
from fionalm.evaluation.detection import length_direction, weighted_auc_roc, weighted_average_precision

LABELLED = st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.integers(0, 3)), min_size=2, max_size=14)


def test_areas_are_those_counted_by_hand() -> None:
    # Ranked 1, 0, 1, 0: precision 1 at recall 1/2 and 2/3 at recall 1; of four pairs three are in order.
    found = evaluate_detection([4.0, 3.0, 2.0, 1.0], [1, 0, 1, 0], split="held out")
    assert found.auc_pr.estimate == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)
    assert found.auc_roc.estimate == pytest.approx(3 / 4)
    assert found.base_rate.estimate == 1 / 2
    assert (found.rows, found.hallucinated, found.groups) == (4, 2, 4)
    written = found.to_dict()
    assert written["positive"] == "hallucinated" and "label 1" in written["direction"]
    assert written["auc_pr"]["low"] <= written["auc_pr"]["estimate"] <= written["auc_pr"]["high"]


@given(LABELLED)
def test_weighted_areas_are_scikit_learns(rows: list[tuple[int, bool, int]]) -> None:
    scores, labels, weights = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    kept = weights > 0
    if len(set(labels[kept])) < 2:
        assert math.isnan(weighted_average_precision(scores, labels, weights))
        assert math.isnan(weighted_auc_roc(scores, labels, weights))
        return
    precision = average_precision_score(labels, scores, sample_weight=weights)
    assert weighted_average_precision(scores, labels, weights) == pytest.approx(precision)
    # scikit-learn's trapezoids want rows of weight 0 gone.
    area = roc_auc_score(labels[kept], scores[kept], sample_weight=weights[kept])
    assert weighted_auc_roc(scores, labels, weights) == pytest.approx(area)


def test_guessing_has_the_base_rate_in_its_interval() -> None:
    generator = np.random.default_rng(0)
    labels = generator.random(2000) < 0.3
    found = evaluate_detection(generator.random(2000), labels, resamples=400)
    assert found.auc_pr.low is not None and found.auc_pr.high is not None
    assert found.auc_roc.low is not None and found.auc_roc.high is not None
    assert found.auc_pr.low < labels.mean() < found.auc_pr.high
    assert found.auc_roc.low < 0.5 < found.auc_roc.high


@settings(deadline=None)
@given(st.booleans(), st.integers(1, 5))
def test_one_class_leaves_areas_undefined_and_says_which(label: bool, count: int) -> None:
    found = evaluate_detection(np.arange(count), [label] * count, probabilities=[0.5] * count, split="fold 3")
    name = "hallucinated" if label else "right"
    for measure in (found.auc_pr, found.auc_roc):
        assert measure.estimate is None and measure.low is None
        assert measure.undefined is not None
        assert f"'fold 3' holds {name} rows alone" in measure.undefined
    assert found.base_rate.estimate == float(label) and found.ece == 0.5
    difference = compare_detectors(np.arange(count), np.arange(count), [label] * count)
    assert difference.auc_pr.estimate is None and name in str(difference.auc_pr.undefined)


def test_groups_are_resampled_whole() -> None:
    generator = np.random.default_rng(1)
    labels = generator.random(40) < 0.5
    scores = labels + generator.normal(size=40)
    repeated: dict[str, Any] = {"groups": np.repeat(np.arange(40), 10).tolist(), "resamples": 500}
    once = evaluate_detection(scores, labels, resamples=500)
    tenfold = evaluate_detection(np.repeat(scores, 10), np.repeat(labels, 10), **repeated)
    apart = evaluate_detection(np.repeat(scores, 10), np.repeat(labels, 10), resamples=500)
    assert tenfold.groups == 40

    def width(measure: Any) -> float:
        return measure.high - measure.low

    # The same row ten times is no more evidence than once; as rows of their own they would seem to be.
    assert width(tenfold.auc_roc) == pytest.approx(width(once.auc_roc), rel=0.1)
    assert width(apart.auc_roc) < 0.6 * width(once.auc_roc)
    alone = evaluate_detection([1.0, 2.0], [0, 1], groups=["s", "s"])
    assert alone.auc_roc.estimate == 1.0 and alone.auc_roc.low is None


def test_a_comparison_is_paired() -> None:
    generator = np.random.default_rng(2)
    labels = generator.random(300) < 0.4
    good = labels + generator.normal(size=300)
    same = compare_detectors(good, good, labels, resamples=300)
    assert (same.auc_pr.estimate, same.auc_pr.low, same.auc_pr.high) == (0.0, 0.0, 0.0)
    worse = compare_detectors(good, generator.random(300), labels, resamples=300)
    assert worse.auc_roc.low is not None and worse.auc_roc.low > 0
    expected = average_precision_score(labels, good)
    assert worse.auc_pr.estimate is not None and worse.auc_pr.estimate < expected


def test_length_points_where_training_rows_say() -> None:
    assert length_direction([5, 6, 1, 2], [1, 1, 0, 0]) == 1
    assert length_direction([5, 6, 1, 2], [0, 0, 1, 1]) == -1
    assert length_direction([5, 6], [1, 1]) == 1


@pytest.mark.parametrize(
    ("scores", "labels", "words"),
    [
        ([], [], "has no rows"),
        ([1.0, 2.0], [1, math.nan], "row 2 of the split 'test': the label was nan"),
        ([1.0, 2.0], [1, None], "row 2 .* None"),
        ([1.0, 2.0], [1, "yes"], "row 2 .* 'yes': expected 1 .hallucinated. or 0 .right."),
        ([1.0, math.inf], [1, 0], "row 2 .* inf: expected a finite number"),
        ([1.0], [1, 0], "1 scores for 2 labels"),
    ],
)
def test_bad_input_is_named(scores: list[float], labels: list[Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        evaluate_detection(scores, labels)


def test_all_orders_of_three_scores() -> None:
    """Every ranking with ties of three rows, against the definition of average precision."""
    for scores in product((0, 1, 2), repeat=3):
        labels = np.array([1, 0, 1])
        total = 0.0
        recall_before = 0.0
        for threshold in sorted(set(scores), reverse=True):
            flagged = np.array(scores) >= threshold
            precision, recall = labels[flagged].mean(), labels[flagged].sum() / 2
            total += (recall - recall_before) * precision
            recall_before = recall
        found = evaluate_detection(np.array(scores, dtype=float), labels, resamples=0)
        assert found.auc_pr.estimate == pytest.approx(total) and found.auc_pr.low is None
