from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fionalm.errors import UserError
from fionalm.scaling.sensitivity import lr_sensitivity, lr_sensitivity_interval

LRS = [3e-4, 1e-3, 3e-3, 1e-2]


def test_worked_example() -> None:
    # l0 = 8, l* = 3: (1 + 0 + 2 + 5) / 4.
    assert lr_sensitivity(LRS, [4.0, 3.0, 5.0, 20.0], 8.0) == pytest.approx(2.0)


@pytest.mark.parametrize("diverged", [math.nan, math.inf, 8.0, 1e9, None, -math.inf])
def test_diverged_runs_count_as_the_initial_loss(diverged) -> None:
    assert lr_sensitivity(LRS, [4.0, 3.0, 5.0, diverged], 8.0) == pytest.approx(2.0)


@pytest.mark.parametrize("losses", [[math.nan] * 4, [math.inf, 9.0, math.nan, 8.0], [None] * 4])
def test_all_diverged_is_nan_with_a_warning(losses) -> None:
    with pytest.warns(UserWarning, match="none of 4 runs"):
        assert math.isnan(lr_sensitivity(LRS, losses, 8.0))


runs = st.lists(st.one_of(st.floats(0.5, 12), st.just(math.nan), st.just(math.inf)), min_size=1, max_size=9)


@given(runs, st.randoms(use_true_random=False))
def test_properties(losses, random) -> None:
    assume(any(loss < 8.0 for loss in losses))
    lrs = [10.0**-index for index in range(len(losses))]
    value = lr_sensitivity(lrs, losses, 8.0)
    best = min(loss for loss in losses if loss < 8.0)
    assert 0 <= value <= (8.0 - best) * (1 - 1 / len(losses)) + 1e-9
    order = random.sample(range(len(losses)), len(losses))
    shuffled = lr_sensitivity([lrs[i] for i in order], [losses[i] for i in order], 8.0)
    assert shuffled == pytest.approx(value)
    shifted = lr_sensitivity(lrs, [loss + 1.5 for loss in losses], 9.5)
    assert shifted == pytest.approx(value, abs=1e-9)
    assert lr_sensitivity([*lrs, 99.0], [*losses, math.nan], 8.0) >= value - 1e-9 or best == 8.0


def test_equal_losses_have_no_sensitivity() -> None:
    assert lr_sensitivity(LRS, [3.0] * 4, 8.0) == 0


@pytest.mark.parametrize(
    "lrs, losses, initial, message",
    [
        (LRS, [1.0], 8.0, "1 losses for 4 learning rates"),
        ([1e-3, 0.0], [1.0, 1.0], 8.0, "expected positive"),
        ([1e-3, -1.0], [1.0, 1.0], 8.0, "expected positive"),
        ([1e-3, math.nan], [1.0, 1.0], 8.0, "expected positive"),
        ([1e-3, 1e-3], [1.0, 1.0], 8.0, "each one once"),
        ([], [], 8.0, "at least one"),
        (LRS, [1.0] * 4, math.nan, "initial loss nan"),
        (LRS, [1.0] * 4, [8.0, 8.0], "one for each of 1 seeds"),
    ],
)
def test_bad_input(lrs, losses, initial, message) -> None:
    with pytest.raises(UserError, match=message):
        lr_sensitivity(lrs, losses, initial)


def test_interval_holds_the_mean_over_seeds() -> None:
    generator = np.random.default_rng(0)
    losses = 3 + generator.random((6, 4))
    interval = lr_sensitivity_interval(LRS, losses.tolist(), 8.0)
    seeds = [lr_sensitivity(LRS, row, 8.0) for row in losses.tolist()]
    assert interval.estimate == pytest.approx(np.mean(seeds))
    assert min(seeds) <= interval.low < interval.estimate < interval.high <= max(seeds)
    assert interval == lr_sensitivity_interval(LRS, losses, 8.0)
    assert lr_sensitivity_interval(LRS, losses, 8.0, level=0.5).low > interval.low


def test_interval_takes_an_initial_loss_a_seed() -> None:
    losses = [[4.0, 3.0, 5.0, 20.0], [4.0, 3.0, 5.0, 20.0]]
    interval = lr_sensitivity_interval(LRS, losses, [8.0, 12.0])
    assert interval.estimate == pytest.approx((2.0 + 3.0) / 2)
    with pytest.raises(UserError, match="one for each of 2 seeds"):
        lr_sensitivity_interval(LRS, losses, [8.0, 8.0, 8.0])
    with pytest.raises(UserError, match="3 losses"):
        lr_sensitivity_interval(LRS, [losses[0], losses[1][:3]], 8.0)
    with pytest.raises(UserError, match="no seed"):
        lr_sensitivity_interval(LRS, [], 8.0)


def test_a_seed_at_which_all_diverged_is_the_worst_and_not_the_best() -> None:
    good = [4.0, 3.0, 5.0, math.nan]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        interval = lr_sensitivity_interval(LRS, [good, good, [math.nan] * 4], 8.0)
    assert interval.estimate == pytest.approx((2 + 2 + 5) / 3)
    with pytest.warns(UserWarning, match="none of 8 runs"):
        interval = lr_sensitivity_interval(LRS, [[math.nan] * 4] * 2, 8.0)
    assert all(math.isnan(value) for value in (interval.estimate, interval.low, interval.high))


def test_one_seed_has_no_interval() -> None:
    interval = lr_sensitivity_interval(LRS, [[4.0, 3.0, 5.0, 20.0]], 8.0)
    assert interval.estimate == pytest.approx(2.0)
    assert math.isnan(interval.low) and math.isnan(interval.high)
