"""Metrics of samples files: by hand, failures left out, differences paired."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fionalm.errors import UserError
from fionalm.evaluation import evaluate_samples, paired_difference
from fionalm.sampling import SampleRecord


def samples(rewards: dict[str, list[float | None]], answers: str = "") -> list[SampleRecord]:
    return [
        SampleRecord(
            problem=name,
            sample=index,
            prompt="q",
            completion=f"{reward}-{index % 2}",
            reward=reward,
            outcome={1.0: "right", 0.0: "wrong", None: "timeout"}.get(reward),
            answer=answers[index] if answers else None,
        )
        for name, values in rewards.items()
        for index, reward in enumerate(values)
    ]


def test_metrics_by_hand() -> None:
    records = samples({"a": [1.0, 0.0, 1.0, 1.0], "b": [0.0, 0.0, 0.0, 0.0]}, answers="xyxx")
    found = evaluate_samples(records)
    assert {(one.name, one.k) for one in found.metrics} == {(n, k) for n in ("pass", "majority") for k in (1, 2, 4)}
    values = {one.label: one.interval.estimate for one in found.metrics}
    assert values["pass@1"] == pytest.approx(0.75 / 2) and values["pass@2"] == 0.5
    # Two of problem a: xx (3 of 6 pairs) is right, xy is a tie.
    assert values["majority@2"] == pytest.approx((0.5 + 0.5 * 0.5) / 2) and values["majority@4"] == 0.5
    assert found.reward.estimate == pytest.approx(0.375)
    assert found.distinct_right.estimate == 1.0  # 1.0-0 and 1.0-1 of a, none of b
    assert (found.problems, found.samples, found.judged) == (2, 8, 8)
    assert found.outcomes == {"right": 3, "wrong": 5}
    json.dumps(found.to_dict())


def test_failures_are_counted_and_left_out() -> None:
    records = samples({"a": [1.0, None, None, 0.0], "b": [1.0, 1.0, 1.0, 0.0], "c": [None] * 4})
    found = evaluate_samples(records, ks=(1, 3))
    assert found.outcomes == {"right": 4, "wrong": 2, "timeout": 6}
    one, three = found.find("pass", 1), found.find("pass", 3)
    assert one is not None and one.values == {"a": 0.5, "b": 0.75}
    assert three is not None and three.values == {"b": 1.0}
    assert found.reward.estimate == pytest.approx((0.5 + 0.75) / 2)
    assert (found.problems, found.judged) == (3, 6)


def test_best_of_k_follows_the_scores() -> None:
    records = [replace(one, score=-one.sample) for one in samples({"a": [0.0, 1.0, 1.0]})]
    found = {one.label: one.interval.estimate for one in evaluate_samples(records, ks=(1, 2, 3)).metrics}
    assert found["best-of-3"] == 0 and found["best-of-1"] == pytest.approx(2 / 3)
    assert found["best-of-2"] == pytest.approx(1 / 3)  # the first sample is in two of three pairs


@settings(max_examples=25)
@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, None]), min_size=1, max_size=6), min_size=1, max_size=4))
def test_pass_grows_with_k_and_lies_in_its_interval(groups: list[list[float | None]]) -> None:
    records = samples({str(index): group for index, group in enumerate(groups)})
    if all(one.reward is None for one in records):
        with pytest.raises(UserError, match="has a reward"):
            evaluate_samples(records)
        return
    found = evaluate_samples(records, resamples=100)
    for problem in {one.problem for one in records}:
        values = [one.values[problem] for one in found.metrics if problem in one.values]
        assert values == sorted(values)
    ends = [(one.interval.low, one.interval.high) for one in (*found.metrics,) if len(one.values) > 1]
    assert all(0 <= low <= high <= 1 for low, high in ends)
    assert found.judged + sum(one.reward is None for one in records) == found.samples


def test_differences_are_paired_over_shared_problems() -> None:
    before = evaluate_samples(samples({"a": [0.0, 1.0], "b": [1.0, 1.0], "c": [0.0, 0.0]}))
    after = evaluate_samples(samples({"b": [1.0, 1.0], "a": [1.0, 1.0], "d": [0.0, 0.0]}))
    first, second = after.find("pass", 1), before.find("pass", 1)
    assert first is not None and second is not None
    difference = paired_difference(first, second)
    assert difference is not None and difference.estimate == pytest.approx(0.25)
    none = evaluate_samples(samples({"z": [1.0]})).find("pass", 1)
    assert none is not None and paired_difference(none, second) is None


def test_graded_rewards_pass_at_the_threshold() -> None:
    records = samples({"a": [0.4, 0.8]})
    found = evaluate_samples(records, ks=(1,), right=0.5).find("pass", 1)
    assert found is not None and found.interval.estimate == 0.5
    assert math.isnan(found.interval.low)  # one problem has no spread


def test_mistakes() -> None:
    with pytest.raises(UserError, match="k 4 with at most 2 judged samples"):
        evaluate_samples(samples({"a": [1.0, 0.0, None]}), ks=(4,))
    with pytest.raises(UserError, match="none of 1 samples has a reward"):
        evaluate_samples(samples({"a": [None]}))
