from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fionalm.statistics import Interval, bootstrap, student_t_quantile


def mean(values) -> float:
    return float(np.mean(values))


def difference(first, second) -> float:
    return mean(first) - mean(second)


samples = st.lists(st.floats(-100, 100), min_size=2, max_size=12)


@settings(max_examples=40, deadline=None)
@given(samples)
def test_interval_of_a_mean_is_about_its_t_interval(values) -> None:
    interval = bootstrap(mean, values, resamples=500)
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    slack = 1e-9 * (1 + max(map(abs, values)))
    assert interval.estimate == mean(values)
    assert interval.low - slack <= interval.estimate <= interval.high + slack
    assert interval.high - interval.low <= 3 * half + slack
    assert interval.as_list() == [interval.low, interval.high]


@settings(max_examples=20, deadline=None)
@given(samples, st.integers(0, 5))
def test_seed_decides_and_higher_levels_are_wider(values, seed) -> None:
    wide = bootstrap(mean, values, resamples=200, seed=seed, level=0.99)
    narrow = bootstrap(mean, values, resamples=200, seed=seed, level=0.5)
    assert wide == bootstrap(mean, values, resamples=200, seed=seed, level=0.99)
    assert wide.low <= narrow.low <= narrow.high <= wide.high


@pytest.mark.parametrize("units", [2, 3, 5, 8, 30])
def test_few_units_are_covered_as_often_as_said(units) -> None:
    generator = np.random.default_rng(units)
    covered = 0
    for trial in range(400):
        interval = bootstrap(np.mean, generator.standard_normal(units), resamples=400, seed=trial)
        covered += interval.low <= 0 <= interval.high
    # The plain percentile interval covers 50% at 2 units, 76% at 3 and 82% at 5.
    assert 0.90 <= covered / 400 <= 0.98


def test_ends_stay_within_what_the_statistic_can_be() -> None:
    shares = [0.9, 1.0, 1.0]
    assert bootstrap(mean, shares).high > 1
    bounded = bootstrap(mean, shares, bounds=(0.0, 1.0))
    assert bounded.high == 1 and bounded.low == bootstrap(mean, shares).low


def test_large_samples_have_the_normal_interval() -> None:
    values = np.random.default_rng(0).standard_normal(400)
    interval = bootstrap(mean, values)
    half = 1.96 * values.std() / 20
    assert interval.low == pytest.approx(values.mean() - half, abs=0.02)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.02)


def test_paired_samples_share_their_rows() -> None:
    first = np.random.default_rng(0).standard_normal(20)
    paired = bootstrap(difference, first + 1.0, first, paired=True, resamples=200)
    assert paired.low == pytest.approx(1.0) and paired.high == pytest.approx(1.0)
    unpaired = bootstrap(difference, first + 1.0, first, resamples=200)
    assert unpaired.high - unpaired.low > 0.5
    with pytest.raises(ValueError, match="equal lengths"):
        bootstrap(difference, [1.0, 2.0], [1.0], paired=True)


def test_rows_are_the_units() -> None:
    rows = np.array([[0.0, 100.0], [0.0, 100.0]])
    interval = bootstrap(mean, rows, resamples=50)
    assert interval == Interval(50.0, 50.0, 50.0)


def test_one_unit_has_no_spread() -> None:
    interval = bootstrap(mean, [3.0])
    assert interval.estimate == 3 and math.isnan(interval.low) and math.isnan(interval.high)
    against_constant = bootstrap(difference, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0])
    assert 0 < against_constant.low < 2.5 < against_constant.high < 5


def test_resamples_that_are_not_finite() -> None:
    def ratio(values) -> float:
        return mean(values) if 7.0 in values else math.nan

    rare = bootstrap(ratio, [7.0, *[1.0] * 40], resamples=300)
    assert math.isfinite(rare.low)  # 63% of the resamples hold the 7
    assert math.isnan(bootstrap(lambda values: math.nan, [1.0, 2.0]).low)


@pytest.mark.parametrize("level", [0.0, 1.0, 95])
def test_bad_level(level) -> None:
    with pytest.raises(ValueError, match=r"such as 0.95"):
        bootstrap(mean, [1.0, 2.0], level=level)


def test_empty_sample() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap(mean, [])


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 10, 37, 200, 999, 1000, 1001, 5000])
@pytest.mark.parametrize("probability", [0.001, 0.2, 0.5, 0.9, 0.975, 0.9995])
def test_student_t_against_scipy(degrees, probability) -> None:
    expected = stats.t.ppf(probability, degrees)
    assert student_t_quantile(probability, degrees) == pytest.approx(expected, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("probability, degrees", [(0.0, 3), (1.0, 3), (0.5, 0)])
def test_student_t_bad_input(probability, degrees) -> None:
    with pytest.raises(ValueError, match="expected"):
        student_t_quantile(probability, degrees)
