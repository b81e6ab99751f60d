"""Learning-rate schedules: exact values, every group's own rate, and what is refused."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fionalm.errors import UserError
from fionalm.optim import OptimizerConfig, ScheduleConfig, build_optimizer, build_scheduler, schedule_factor


def rates(config: ScheduleConfig, steps: int, lrs: tuple[float, ...] = (1.0,)) -> list[list[float]]:
    """Return the rate of every group at each of `steps` steps, and the one after the last."""
    groups = [{"params": [torch.zeros(2, requires_grad=True)], "lr": lr} for lr in lrs]
    optimizer = build_optimizer(OptimizerConfig("sgd", lr=lrs[0]), groups)
    schedule = build_scheduler(config, optimizer, steps)
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return [*seen, [group["lr"] for group in optimizer.param_groups]]


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (ScheduleConfig("linear"), [1, 0.75, 0.5, 0.25, 0]),
        (ScheduleConfig("linear", warmup_steps=2), [0.5, 1, 1, 0.5, 0]),
        (ScheduleConfig("linear", final_fraction=0.2), [1, 0.8, 0.6, 0.4, 0.2]),
        (ScheduleConfig("linear", final_lr=0.2), [1, 0.8, 0.6, 0.4, 0.2]),
        (ScheduleConfig("constant", warmup_steps=4), [0.25, 0.5, 0.75, 1, 1]),
        (ScheduleConfig("cosine"), [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0]),
        (ScheduleConfig("cosine", warmup_steps=2, final_fraction=0.1), [0.5, 1, 1, 0.55, 0.1]),
        (ScheduleConfig("cosine", warmup_steps=4), [0.25, 0.5, 0.75, 1, 1]),
    ],
)
def test_exact_values(config: ScheduleConfig, wanted: list[float]) -> None:
    assert [rate for (rate,) in rates(config, 4)] == pytest.approx(wanted, abs=1e-12)


def test_every_group_keeps_its_ratio() -> None:
    for first, second in rates(ScheduleConfig("cosine", warmup_steps=3, final_lr=1e-3), 9, (0.1, 4.0)):
        assert second == pytest.approx(40 * first)
    last = rates(ScheduleConfig("cosine", final_lr=1e-3), 9, (0.1, 4.0))[-1]
    assert last == pytest.approx([1e-3, 4e-2])


def test_final_rate_above_the_base_is_the_base() -> None:
    assert rates(ScheduleConfig("linear", final_lr=5.0), 3) == [[1.0]] * 4


@given(
    name=st.sampled_from(["cosine", "linear", "constant"]),
    warmup=st.integers(0, 50),
    rest=st.integers(1, 50),
    final=st.floats(0, 1),
)
def test_rises_then_falls_between_its_ends(name: Any, warmup: int, rest: int, final: float) -> None:
    end = 1.0 if name == "constant" else final
    shape = ScheduleConfig(name, warmup_steps=warmup, final_fraction=0.0 if name == "constant" else final)
    factor = schedule_factor(shape, warmup + rest)
    values = [factor(step) for step in range(warmup + rest + 3)]
    assert all(one < two for one, two in pairwise(values[:warmup]))
    assert all(one >= two for one, two in pairwise(values[warmup:]))
    assert 0 < values[0] <= 1
    assert values[warmup] == 1
    assert values[warmup + rest] == pytest.approx(end)
    assert values[-1] == values[warmup + rest]  # and stays


def test_warm_up_longer_than_training() -> None:
    with pytest.raises(UserError, match="warmup_steps is 11 in a training of 10 steps, expected at most 10"):
        schedule_factor(ScheduleConfig(warmup_steps=11), 10)
    assert schedule_factor(ScheduleConfig(warmup_steps=10), 10)(9) == 1


def test_final_rate_needs_a_base() -> None:
    with pytest.raises(UserError, match="final_lr 0.1 needs a base learning rate above 0, given None"):
        schedule_factor(ScheduleConfig(final_lr=0.1), 10)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "cosin"}, "schedule.*'cosin'.*cosine"),
        ({"warmup_steps": -1}, "warmup_steps is -1, expected a number at least 0"),
        ({"final_fraction": 1.5}, "final_fraction is 1.5, expected a fraction of the peak"),
        ({"final_fraction": -0.5}, "final_fraction is -0.5"),
        ({"final_lr": -0.1}, "final_lr is -0.1"),
        ({"name": "constant", "final_lr": 0.0}, "a constant schedule was given a final rate"),
        ({"name": "constant", "final_fraction": 0.1}, "a constant schedule was given a final rate"),
        ({"final_lr": 0.1, "final_fraction": 0.1}, "expected one of them"),
    ],
)
def test_config_errors(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        ScheduleConfig(**options)
