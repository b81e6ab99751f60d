from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fionalm.scaling.spikes import LossSpikes


def run(losses, **options) -> list[int]:
    spikes = LossSpikes(**options)
    begins = [step for step, loss in enumerate(losses) if spikes.update(loss)]
    assert spikes.count == len(begins)
    return begins


def test_one_spike_of_several_steps_counts_once() -> None:
    losses = [2.0, 2.01] * 15
    losses[20:23] = [9.0, 8.0, 4.0]
    losses[26] = 5.0
    assert run(losses) == [20, 26]


def test_a_level_that_stays_up_is_one_spike() -> None:
    assert run([2.0] * 30 + [4.0] * 60, window=20) == [30]


def test_falling_loss_and_small_noise_do_not_count() -> None:
    assert run([8.0 * 0.97**step for step in range(200)]) == []
    assert run([2.0] * 30 + [2.09] * 3 + [2.0] * 30) == []
    assert run([2.0] * 30 + [2.11] * 3 + [2.0] * 30) == [30]


def test_height_is_measured_in_the_spread_of_the_losses() -> None:
    noisy = [2.0 + 0.1 * (-1) ** step for step in range(40)]  # MAD 0.1: 6 deviations are 0.89
    assert run([*noisy, 2.85]) == []
    assert run([*noisy, 3.05]) == [40]
    assert run([*noisy, 2.85], k=3) == [40]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_losses_that_are_not_finite_are_spikes_from_the_start(bad) -> None:
    assert run([bad, 2.0, bad, bad, 2.0]) == [0, 2]


def test_nothing_is_told_before_there_is_a_history() -> None:
    assert run([1.0] * 9 + [50.0]) == []
    assert run([1.0] * 10 + [50.0]) == [10]


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=60), st.integers(0, 60))
def test_resuming_from_json_counts_the_same(losses, cut) -> None:
    whole = LossSpikes(window=15)
    for loss in losses:
        whole.update(loss)
    first, second = LossSpikes(window=15), LossSpikes(window=15)
    for loss in losses[:cut]:
        first.update(loss)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for loss in losses[cut:]:
        second.update(loss)
    assert second.state_dict() == whole.state_dict()


@given(st.lists(st.floats(0, 20), min_size=1, max_size=80), st.floats(-5, 5))
def test_moving_all_losses_moves_the_threshold(losses, shift) -> None:
    plain, moved = LossSpikes(), LossSpikes()
    for loss in losses:
        plain.update(loss)
        moved.update(loss + shift)
    assert moved.threshold() == pytest.approx(plain.threshold() + shift, abs=1e-6)
