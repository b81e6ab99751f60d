"""Adafactor against transformers', against torch's where they agree, and against its formula."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers.optimization import Adafactor as PeerAdafactor

from fionalm.errors import UserError
from fionalm.optim import Adafactor


@pytest.mark.parametrize("scale_parameter", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_step_for_step_as_transformers(
    make_params: Any, take_steps: Any, scale_parameter: bool, momentum: float
) -> None:
    shapes = ((7, 5), (33,), (2, 3, 4), (1, 6))
    ours, theirs = make_params(shapes), make_params(shapes)
    optimizer = Adafactor(ours, lr=0.05, momentum=momentum, scale_parameter=scale_parameter)
    peer = PeerAdafactor(
        theirs,
        lr=0.05,
        beta1=momentum or None,
        eps=(1e-30, 1e-3),
        clip_threshold=1.0,
        decay_rate=-0.8,
        relative_step=False,
        scale_parameter=scale_parameter,
    )
    schedules = [LambdaLR(o, lambda step: 1 / (1 + step)) for o in (optimizer, peer)]
    for step in range(8):
        take_steps(optimizer, ours, 1, first=step)
        take_steps(peer, theirs, 1, first=step)
        for schedule in schedules:
            schedule.step()
        torch.testing.assert_close(ours, theirs, rtol=5e-6, atol=1e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_step_for_step_as_torch_below_its_cap(make_params: Any, take_steps: Any, weight_decay: float) -> None:
    # Torch's rate is at most 1 / sqrt(step), which a rate of 0.05 does not meet in 8 steps.
    ours, theirs = make_params(((7, 5), (33,))), make_params(((7, 5), (33,)))
    optimizer = Adafactor(ours, lr=0.05, weight_decay=weight_decay)
    peer = torch.optim.Adafactor(theirs, lr=0.05, eps=(1e-30, 1e-3), weight_decay=weight_decay)
    for step in range(8):
        take_steps(optimizer, ours, 1, first=step)
        take_steps(peer, theirs, 1, first=step)
        torch.testing.assert_close(ours, theirs, rtol=5e-6, atol=1e-6)


def test_relative_step_is_torchs_cap(make_params: Any, take_steps: Any) -> None:
    ours, theirs = make_params(((7, 5),)), make_params(((7, 5),))
    take_steps(Adafactor(ours, lr=3.0, relative_step=True), ours, 6)
    take_steps(torch.optim.Adafactor(theirs, lr=3.0, eps=(1e-30, 1e-3)), theirs, 6)
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-5)
    free = make_params(((7, 5),))
    take_steps(Adafactor(free, lr=3.0), free, 6)
    assert not torch.allclose(free[0], ours[0], rtol=0.1)


def test_first_step_of_a_matrix_by_its_formula() -> None:
    param = torch.tensor([[2.0, -2.0], [2.0, 2.0]], dtype=torch.float64, requires_grad=True)
    start = param.detach().clone()
    grad = torch.tensor([[1.0, 2.0], [3.0, -4.0]], dtype=torch.float64)
    param.grad = grad
    Adafactor([param], lr=0.1, clip_threshold=0.5, weight_decay=0.3).step()
    row, col = grad.square().mean(1), grad.square().mean(0)
    update = grad / (row[:, None] * col[None] / row.mean()).sqrt()
    update = update / max(1, update.square().mean().sqrt().item() / 0.5)
    torch.testing.assert_close(param.detach(), start * (1 - 0.1 * 0.3) - 0.1 * 2.0 * update)


def test_tiny_gradients_make_the_same_steps(make_params: Any, take_steps: Any) -> None:
    # torch holds its estimate above 1e-7, so that its own updates vanish with the gradients.
    small, usual = make_params(((7, 5),)), make_params(((7, 5),))
    take_steps(Adafactor(small, lr=0.1), small, 3, scale=2.0**-30)
    take_steps(Adafactor(usual, lr=0.1), usual, 3)
    torch.testing.assert_close(small, usual, rtol=1e-5, atol=1e-6)


def test_zero_parameters_and_zero_gradients() -> None:
    param = torch.zeros(4, 3, requires_grad=True)
    optimizer = Adafactor([param], lr=0.1, min_rms=0.01)
    param.grad = torch.zeros(4, 3)
    optimizer.step()
    assert torch.equal(param, torch.zeros(4, 3))
    param.grad = torch.ones(4, 3)
    optimizer.step()
    torch.testing.assert_close(param.detach(), torch.full((4, 3), -0.1 * 0.01), rtol=0.01, atol=0)


def test_state_is_small_without_momentum(make_params: Any, take_steps: Any) -> None:
    params = make_params(((30, 20),))
    optimizer = Adafactor(params)
    take_steps(optimizer, params, 1)
    state = optimizer.state[params[0]]
    assert sum(value.numel() for value in state.values()) == 30 + 20 + 1


def test_groups_and_tensor_rates(make_params: Any, take_steps: Any) -> None:
    shapes = ((4, 3), (5, 2))
    ours, alone = make_params(shapes), make_params(shapes)
    groups = [{"params": ours[:1], "lr": torch.tensor(0.2), "momentum": 0.5}, {"params": ours[1:], "min_rms": 2.0}]
    take_steps(Adafactor(groups, lr=0.01), ours, 1)
    own: Any = ({"lr": 0.2, "momentum": 0.5}, {"lr": 0.01, "min_rms": 2.0})
    for param, twin, options in zip(alone, ours, own, strict=True):
        param.grad = twin.grad
        Adafactor([param], **options).step()
    torch.testing.assert_close(ours, alone, rtol=0, atol=0)


def test_resumed_run_is_bit_equal(make_params: Any, take_steps: Any) -> None:
    options: dict[str, Any] = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}
    whole, half = make_params(), make_params()
    optimizer = Adafactor(whole, **options)
    take_steps(optimizer, whole, 3)
    saved = copy.deepcopy(optimizer.state_dict())
    with torch.no_grad():
        for param, value in zip(half, whole, strict=True):
            param.copy_(value)
    take_steps(optimizer, whole, 3, first=3)
    resumed = Adafactor(half, lr=1.0)
    resumed.load_state_dict(saved)
    take_steps(resumed, half, 3, first=3)
    for one, two in zip(whole, half, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lr": -0.1}, "lr is -0.1"),
        ({"lr": torch.ones(2)}, "lr is a tensor of 2 elements"),
        ({"weight_decay": math.inf}, "weight_decay is inf"),
        ({"eps": -1.0}, "eps is -1.0"),
        ({"min_rms": -1.0}, "min_rms is -1.0"),
        ({"clip_threshold": 0.0}, "clip_threshold is 0.0, expected a number above 0"),
        ({"momentum": 1.0}, "momentum is 1.0, expected a number at least 0 and below 1"),
        ({"beta2_decay": 0.5}, "beta2_decay is 0.5, expected a power of at most 0"),
    ],
)
def test_values_out_of_range(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Adafactor([torch.ones(2, requires_grad=True)], **options)


def test_sparse_and_complex_are_refused() -> None:
    embedding = torch.nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(UserError, match="sparse gradient"):
        Adafactor(embedding.parameters()).step()
    with pytest.raises(UserError, match="dtype torch.complex64"):
        Adafactor([torch.ones(2, dtype=torch.complex64, requires_grad=True)])
