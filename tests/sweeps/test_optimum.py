from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fionalm.sweeps.optimum import best_log_lr, best_lr, best_lr_slope, largest_shift, mean_over_seeds

LRS = [2.0**power for power in range(-10, -2)]


def bowl(best: float, lrs=LRS, seeds: int = 3, noise: float = 0.0, curvature: float = 0.1) -> np.ndarray:
    """`[seed, lr]` losses, a parabola in log LR with its minimum at `best`."""
    clean = 3.0 + curvature * (np.log(lrs) - math.log(best)) ** 2
    return clean + noise * np.random.default_rng(0).normal(size=(seeds, len(lrs)))


@given(st.lists(st.floats(0.3, 2.0), min_size=3, max_size=8), st.floats(0.01, 10.0), st.floats(0.001, 0.999))
def test_vertex_of_a_parabola_is_found_on_any_grid(steps: list[float], curvature: float, place: float) -> None:
    logs = np.cumsum(steps) - 8.0
    # Between the first and last midpoints the best grid point has two neighbours.
    low, high = (logs[0] + logs[1]) / 2, (logs[-2] + logs[-1]) / 2
    best = low + place * (high - low)
    losses = bowl(math.exp(best), np.exp(logs), curvature=curvature)
    assert best_log_lr(np.exp(logs).tolist(), losses) == pytest.approx(best, abs=1e-6)


def test_grid_point_is_the_argmin_of_the_mean_over_seeds() -> None:
    losses = np.array([[3.0, 1.0, 2.0, 9.0], [3.0, 5.0, 2.0, 9.0]])
    assert best_log_lr([1, 2, 4, 8], losses, interpolate=False) == pytest.approx(math.log(4))


@pytest.mark.parametrize(("losses", "expected"), [([1.0, 2.0, 3.0], 0.1), ([3.0, 2.0, 1.0], 0.4)])
def test_optimum_at_an_end_is_not_interpolated(losses, expected) -> None:
    assert math.exp(best_log_lr([0.1, 0.2, 0.4], np.array([losses]))) == pytest.approx(expected)


def test_interpolation_stays_between_the_neighbours_beside_a_cliff() -> None:
    found = best_log_lr([1.0, 2.0, 4.0], np.array([[3.0001, 3.0, 8.0]]))
    assert math.log(1.0) < found < math.log(2.0)
    assert found == pytest.approx(0.5 * math.log(2.0), abs=0.01)


def test_nothing_is_best_where_every_run_diverged_or_crashed() -> None:
    assert math.isnan(best_log_lr([1, 2, 3], np.full((2, 3), 8.3)))
    assert math.isnan(best_log_lr([1, 2, 3], np.full((2, 3), np.nan)))
    assert best_log_lr([0.5], np.array([[3.0]])) == pytest.approx(math.log(0.5))


def test_crashed_runs_leave_the_mean() -> None:
    losses = np.array([[1.0, np.nan, np.nan], [3.0, 4.0, np.nan]])
    assert mean_over_seeds(losses).tolist() == [2.0, 4.0, math.inf]
    # A neighbour without any loss cannot bend a parabola.
    assert best_log_lr([1, 2, 4], np.array([[3.0, 2.0, np.nan]])) == pytest.approx(math.log(2))


def test_interval_covers_the_best_lr_and_needs_two_seeds() -> None:
    found = best_lr(LRS, bowl(0.02, seeds=8, noise=0.02))
    assert found.low < 0.02 < found.high
    assert found.low <= found.estimate <= found.high
    single = best_lr(LRS, bowl(0.02, seeds=1))
    assert single.estimate == pytest.approx(0.02) and math.isnan(single.low) and math.isnan(single.high)


@pytest.mark.parametrize("exponent", [-1.0, -0.5, 0.0])
def test_slope_is_the_exponent_of_the_drift(exponent: float) -> None:
    widths = [16, 32, 64, 128]
    clean = np.array([bowl(0.03 * (width / 16) ** exponent, seeds=8) for width in widths])
    noise = np.random.default_rng(0).normal(size=clean.shape)
    assert best_lr_slope(widths, LRS, clean).estimate == pytest.approx(exponent)
    little, much = (best_lr_slope(widths, LRS, clean + scale * noise) for scale in (0.005, 0.05))
    for slope in (little, much):
        assert slope.low < slope.estimate < slope.high
        assert slope.estimate == pytest.approx(exponent, abs=2 * (slope.high - slope.low))
    assert little.high - little.low < 0.5 * (much.high - much.low)


def test_slope_leaves_out_widths_without_a_best_lr_and_needs_two() -> None:
    widths = [16, 32, 64]
    losses = np.array([bowl(0.04), np.full((3, len(LRS)), 8.3), bowl(0.01)])
    assert best_lr_slope(widths, LRS, losses).estimate == pytest.approx(-1.0)
    assert math.isnan(best_lr_slope(widths[:2], LRS, losses[:2]).estimate)


def test_largest_shift_counts_grid_steps_from_the_base_width() -> None:
    losses = np.array([bowl(0.08), bowl(0.02), bowl(0.01)])
    shift = largest_shift([16, 32, 64], LRS, losses, base_width=32)
    assert shift.estimate == pytest.approx(2.0)
    assert largest_shift([16, 32, 64], LRS, losses, base_width=64).estimate == pytest.approx(3.0)
