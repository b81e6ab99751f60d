from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fionalm.errors import UserError
from fionalm.scaling.prediction import HORIZON, predict_instability

SIZES = [1e6, 3e6, 1e7, 3e7, 1e8]


def curve(size, a=0.05, b=0.4, c=2.0):
    """A quadratic in log10(size / 1e6)."""
    x = np.log10(np.asarray(size) / 1e6)
    return np.exp(a * x**2 + b * x + c)


@settings(deadline=None, max_examples=50)
@given(st.floats(0.01, 1), st.floats(0.1, 2), st.floats(-1, 3))
def test_an_exact_quadratic_is_recovered(a, b, c) -> None:
    prediction = predict_instability(SIZES, 1e-2, curve(SIZES, a, b, c))
    expected = curve(3e9, a, b, c)
    found = prediction.predict(3e9, 1e-2)
    assert found.estimate == pytest.approx(expected, rel=1e-6)
    assert found.low == pytest.approx(expected, rel=1e-4)
    assert prediction.fits[1e-2].degree == 2 and prediction.notes == ()
    crossing = prediction.first_diverging_size(1e-2).estimate
    # Solve a x^2 + b x + c = log 1e4.
    root = (-b + math.sqrt(b * b + 4 * a * (math.log(1e4) - c))) / (2 * a)
    if 1e6 * 10**root < HORIZON * 1e8:
        assert crossing == pytest.approx(1e6 * 10**root, rel=1e-3)
    else:
        assert crossing == math.inf


def test_the_interval_is_that_of_least_squares() -> None:
    noise = np.array([0.1, -0.2, 0.05, 0.15, -0.1])
    values = curve(SIZES) * np.exp(noise)
    found = predict_instability(SIZES, 1e-2, values, level=0.9).predict(1e9, 1e-2)
    x, x_new = np.log(SIZES), math.log(1e9)
    design = np.stack([np.ones_like(x), x, x * x], axis=1)
    new = np.array([1, x_new, x_new**2])
    coefficients = np.linalg.solve(design.T @ design, design.T @ np.log(values))
    residuals = np.log(values) - design @ coefficients
    std = math.sqrt(residuals @ residuals / 2)
    half = stats.t.ppf(0.95, 2) * std * math.sqrt(1 + new @ np.linalg.solve(design.T @ design, new))
    middle = new @ coefficients
    expected = np.exp([middle - half, middle, middle + half])
    assert [found.low, found.estimate, found.high] == pytest.approx(expected, rel=1e-4)


def test_intervals_cover_new_models_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        values = curve(SIZES) * np.exp(0.1 * generator.standard_normal(5))
        truth = curve(4e8) * math.exp(0.1 * generator.standard_normal())
        found = predict_instability(SIZES, 1e-2, values, level=0.8).predict(4e8, 1e-2)
        covered += found.low <= truth <= found.high
    assert 0.74 < covered / 400 < 0.86


def test_first_diverging_size_and_its_interval() -> None:
    noise = np.exp([0.02, -0.03, 0.01, 0.02, -0.02])
    prediction = predict_instability(SIZES, 1e-2, curve(SIZES, 0.2, 0.8, 3.0) * noise, level=0.8)
    size = prediction.first_diverging_size(1e-2)
    assert 1e8 < size.low < size.estimate < size.high < math.inf
    at = prediction.predict
    assert at(size.estimate, 1e-2).estimate == pytest.approx(1e4, rel=1e-2)
    assert at(size.low, 1e-2).high == pytest.approx(1e4, rel=1e-2)
    assert at(size.high, 1e-2).low == pytest.approx(1e4, rel=1e-2)
    assert "times the largest that was run (80% interval" in prediction.describe(1e-2)
    assert "through 5 sizes reaches 10000 at" in prediction.describe(1e-2)


def test_divergence_among_the_sizes_that_were_run_and_never() -> None:
    inside = predict_instability(SIZES, 1e-2, curve(SIZES), threshold=10.0)
    assert 1e6 < inside.first_diverging_size(1e-2).estimate < 1e8
    assert "within the sizes that were run" in inside.describe(1e-2)
    at_once = predict_instability(SIZES, 1e-2, curve(SIZES), threshold=0.1)
    assert at_once.first_diverging_size(1e-2).estimate == pytest.approx(1e6)
    bent = predict_instability(SIZES, 1e-2, curve(SIZES, a=-0.5, b=2.0))
    assert bent.first_diverging_size(1e-2).estimate == math.inf
    assert "does not reach 10000" in bent.describe(1e-2)


def test_few_sizes_are_fitted_by_a_line_and_said() -> None:
    line = predict_instability(SIZES[:3], 1e-2, curve(SIZES[:3], a=0.0))
    assert line.fits[1e-2].degree == 1
    assert any("3 sizes, so the fit is linear; a quadratic needs 4" in note for note in line.notes)
    assert line.predict(1e9, 1e-2).estimate == pytest.approx(curve(1e9, a=0.0), rel=1e-6)
    assert "a line through 3 sizes" in line.describe(1e-2)
    two = predict_instability(SIZES[:2], 1e-2, curve(SIZES[:2], a=0.0))
    found = two.predict(1e9, 1e-2)
    assert found.estimate == pytest.approx(curve(1e9, a=0.0), rel=1e-6)
    assert math.isnan(found.low) and math.isnan(found.high)
    assert math.isnan(two.first_diverging_size(1e-2).low)
    assert any("no interval" in note for note in two.notes)
    assert "too few sizes for an interval" in two.describe(1e-2)
    with pytest.raises(UserError, match="at least two"):
        predict_instability([1e6, 1e6], [1e-2, 1e-2], [3.0, 4.0])


def test_grid_rows_and_seeds_are_the_same_runs() -> None:
    lrs = [1e-3, 1e-2]
    grid = np.stack([curve(SIZES), curve(SIZES, c=3.0)], axis=1)
    from_grid = predict_instability(SIZES, lrs, grid, predict_sizes=[1e9, 1e12])
    sizes, rates, values = [], [], []
    for i, size in enumerate(SIZES):
        for j, lr in enumerate(lrs):
            for factor in (2.0, 0.5):  # two seeds with the grid's value as geometric mean
                sizes.append(size)
                rates.append(lr)
                values.append(grid[i, j] * factor)
    from_rows = predict_instability(sizes, rates, values)
    for lr in lrs:
        assert from_rows.predict(1e9, lr).estimate == pytest.approx(from_grid.predict(1e9, lr).estimate)
        assert from_rows.fits[lr].degrees == from_grid.fits[lr].degrees == 2
    assert [(one.size, one.lr) for one in from_grid.predictions] == [
        (1e9, 1e-3),
        (1e12, 1e-3),
        (1e9, 1e-2),
        (1e12, 1e-2),
    ]
    for one in from_grid.predictions:
        assert one.statistic == from_grid.predict(one.size, one.lr)
        assert one.diverges == (one.statistic.estimate >= 1e4)
        assert one.extrapolation == pytest.approx(one.size / 1e8)
    with pytest.raises(UserError, match=r"expected one of 0\.001, 0\.01, the nearest is 0\.01"):
        from_grid.predict(1e9, 3e-2)


def test_joint_surface_speaks_of_other_learning_rates() -> None:
    lrs = np.array([1e-3, 3e-3, 1e-2, 3e-2])

    def surface(size, lr):
        x, y = np.log(np.asarray(size) / 1e7), np.log(np.asarray(lr) / 1e-2)
        return np.exp(2 + 0.3 * x + 0.02 * x**2 + 0.5 * y + 0.1 * y**2 + 0.07 * x * y)

    grid = surface(np.array(SIZES)[:, None], lrs[None, :])
    joint = predict_instability(SIZES, lrs, grid, joint=True)
    assert joint.predict(1e10, 0.1).estimate == pytest.approx(surface(1e10, 0.1), rel=1e-6)
    assert joint.fits[1e-3].degrees == 20 - 6
    assert joint.first_diverging_size(0.1).estimate < joint.first_diverging_size(1e-2).estimate
    with pytest.raises(UserError, match="expected one of"):
        joint.predict(1e9, -1.0)
    with pytest.raises(UserError, match="cannot carry"):
        predict_instability([1e6, 1e7, 1e8], [1e-3, 1e-2, 1e-1], [1.0, 2.0, 3.0], joint=True)


def test_diverged_runs_are_left_out_and_said() -> None:
    sizes, values = [*SIZES, 3e8, 1e9], [*curve(SIZES), math.inf, math.nan]
    prediction = predict_instability(sizes, 1e-2, values)
    assert prediction.predict(1e9, 1e-2).estimate == pytest.approx(curve(1e9), rel=1e-6)
    assert any("2 of 7 runs have no finite statistic" in note for note in prediction.notes)


def test_a_learning_rate_with_one_size_has_no_fit() -> None:
    prediction = predict_instability([*SIZES, 1e6], [1e-2] * 5 + [1.0], [*curve(SIZES), 5.0])
    assert list(prediction.fits) == [1e-2]
    assert any("learning rate 1: one size" in note for note in prediction.notes)


@pytest.mark.parametrize(
    "sizes, lrs, values, options, message",
    [
        ([1e6, 1e7], [1e-2], [1.0, 2.0], {}, "2 sizes, 1 learning rates"),
        ([1e6, 1e7], [1e-2, 1e-3], [[1.0, 2.0]], {}, "statistics of shape"),
        ([], [], [], {}, "0 sizes"),
        ([1e6, -1.0], 1e-2, [1.0, 2.0], {}, "size -1: expected a positive"),
        ([1e6, 1e7], 0.0, [1.0, 2.0], {}, "learning rate 0: expected a positive"),
        ([1e6, 1e7], 1e-2, [1.0, 0.0], {}, "statistic 0: expected positive"),
        ([1e6, 1e7], 1e-2, [1.0, 2.0], {"threshold": 0}, "threshold 0"),
        ([1e6, 1e7], 1e-2, [1.0, 2.0], {"level": 95}, "level 95"),
        ([1e6, 1e7], 1e-2, [1.0, 2.0], {"predict_sizes": [0]}, "size 0"),
    ],
)
def test_bad_input(sizes, lrs, values, options, message) -> None:
    with pytest.raises(UserError, match=message):
        predict_instability(sizes, lrs, values, **options)
