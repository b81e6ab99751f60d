"""AdamAtan2 against its formula in float64, against adam-atan2-pytorch, and against AdamW where they agree."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any

import pytest
import torch
from adam_atan2_pytorch.adam_atan2 import AdamAtan2 as PeerAdamAtan2
from adam_atan2_pytorch.foreach import AdamAtan2 as PeerForeachAdamAtan2
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from fionalm.errors import UserError
from fionalm.optim import AdamAtan2

# Torch's own, while its compiler is imported.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

PATHS: dict[str, dict[str, Any]] = {
    "tensorwise": {"foreach": False},
    "foreach": {"foreach": True},
    "compiled": {"compiled": True},
}
each_path = pytest.mark.parametrize("path", PATHS)


def assert_equal(first: list[Tensor], second: list[Tensor]) -> None:
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one, two)


def test_public_signature() -> None:
    parameters = list(inspect.signature(AdamAtan2).parameters.values())
    assert [p.name for p in parameters[:6]] == ["params", "lr", "betas", "weight_decay", "a", "b"]
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters[:6])
    assert parameters[1].default is inspect.Parameter.empty
    assert [p.default for p in parameters[2:6]] == [(0.9, 0.99), 0.0, 4 / math.pi, 1.0]


@each_path
def test_formula_in_float64(make_params: Any, take_steps: Any, path: str) -> None:
    lr, (beta1, beta2), decay, a, b = 0.03, (0.8, 0.95), 0.1, 1.7, 0.6
    params = make_params(dtype=torch.float64)
    wanted = [p.detach().clone() for p in params]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in wanted]
    optimizer = AdamAtan2(params, lr, (beta1, beta2), decay, a, b, **PATHS[path])
    for t in range(1, 6):
        take_steps(optimizer, params, 1, first=t)
        for index, param in enumerate(params):
            grad = param.grad
            m, v = moments[index]
            m, v = beta1 * m + (1 - beta1) * grad, beta2 * v + (1 - beta2) * grad**2
            moments[index] = m, v
            angle = torch.atan2(m / (1 - beta1**t), b * (v / (1 - beta2**t)).sqrt())
            wanted[index] = (1 - lr * decay) * wanted[index] - lr * a * angle
    torch.testing.assert_close(params, wanted, rtol=1e-12, atol=1e-13)


@each_path
@pytest.mark.parametrize("peer_class", [PeerAdamAtan2, PeerForeachAdamAtan2])
@pytest.mark.parametrize(("a", "b"), [(1.27, 1.0), (1.0, 2.5)])
def test_step_for_step_as_the_peer(
    make_params: Any, take_steps: Any, path: str, peer_class: Any, a: float, b: float
) -> None:
    ours, theirs = make_params(), make_params()
    settings = {"lr": 0.01, "betas": (0.9, 0.97), "weight_decay": 0.1, "a": a, "b": b}
    optimizer, peer = AdamAtan2(ours, **settings, **PATHS[path]), peer_class(theirs, **settings)
    for step in range(8):
        take_steps(optimizer, ours, 1, first=step)
        take_steps(peer, theirs, 1, first=step)
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-7)


def test_independent_decay_as_the_peer(make_params: Any, take_steps: Any) -> None:
    ours, theirs = make_params(), make_params()
    optimizer = AdamAtan2(ours, 0.01, weight_decay=1e-3, a=1.27, independent_weight_decay=True)
    peer = PeerAdamAtan2(theirs, lr=0.01, weight_decay=1e-3, decoupled_wd=True)
    schedules = [LambdaLR(o, lambda step: 1 / (1 + step)) for o in (optimizer, peer)]
    for step in range(6):
        take_steps(optimizer, ours, 1, first=step)
        take_steps(peer, theirs, 1, first=step)
        for schedule in schedules:
            schedule.step()
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("ratio", [0.1, 0.01])
def test_first_order_agreement_with_adamw(ratio: float) -> None:
    # Alternating signs keep |m| small against sqrt(v): atan(x) = x - x^3 / 3 then leaves Adam's own update.
    start = torch.linspace(-1, 1, 50, dtype=torch.float64)
    updates = []
    for make in (
        lambda p: AdamAtan2(p, lr=1.0, betas=(0.9, 0.99), a=1.0),
        lambda p: torch.optim.AdamW(p, lr=1.0, betas=(0.9, 0.99), eps=0.0, weight_decay=0.0),
    ):
        param = start.clone().requires_grad_()
        optimizer = make([param])
        state = {"step": torch.tensor(400.0), "exp_avg": ratio * start, "exp_avg_sq": torch.ones_like(start)}
        optimizer.state[param].update(copy.deepcopy(state))
        param.grad = torch.zeros_like(param)
        optimizer.step()
        updates.append(start - param.detach())
    ours, adams = updates
    largest = adams.abs().max().item()
    assert 0.5 * ratio < largest < ratio
    assert 0 < (ours - adams).abs().max() < largest**3 / 3  # and no farther than the next term


@each_path
def test_no_gradient_yet_means_no_update(path: str) -> None:
    param = torch.ones(40, requires_grad=True)
    optimizer = AdamAtan2([param], lr=0.5, **PATHS[path])
    param.grad = torch.zeros(40)
    optimizer.step()
    assert torch.equal(param, torch.ones(40))  # atan2(0, 0) = 0
    param.grad[3] = 1.0
    optimizer.step()
    assert param[3] < 1
    assert torch.equal(param[:3], torch.ones(3))


@each_path
def test_update_is_at_most_two_rates(path: str) -> None:
    param = torch.zeros(40, requires_grad=True)
    optimizer = AdamAtan2([param], lr=1.0, b=1e-6, **PATHS[path])
    param.grad = torch.logspace(-15, 15, 40)
    optimizer.step()
    torch.testing.assert_close(param.detach(), torch.full((40,), -2.0))


def test_first_step_is_one_rate() -> None:
    param = torch.zeros(3, requires_grad=True)
    optimizer = AdamAtan2([param], lr=0.25)  # a = 4/pi, b = 1: Adam's step where m = sqrt(v)
    param.grad = torch.tensor([3.0, -1e-9, 1e9])
    optimizer.step()
    torch.testing.assert_close(param.detach(), torch.tensor([-0.25, 0.25, -0.25]))


def test_groups_have_their_own_values(make_params: Any, take_steps: Any) -> None:
    own = {"lr": 0.1, "betas": (0.5, 0.6), "weight_decay": 0.2, "a": 2.0, "b": 3.0, "foreach": True}
    ours = make_params(((4, 3), (5, 2)))
    optimizer = AdamAtan2([{"params": ours[:1], **own}, {"params": ours[1:]}], lr=1e-3)
    take_steps(optimizer, ours, 3)
    alone = make_params(((4, 3), (5, 2)))
    together = [AdamAtan2(alone[:1], **own), AdamAtan2(alone[1:], lr=1e-3)]
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        for param in alone:
            param.grad = torch.randn(param.shape, generator=generator)
        for each in together:
            each.step()
    assert_equal(ours, alone)


def test_tensor_rate_is_read_at_every_step(make_params: Any, take_steps: Any) -> None:
    numbers, tensors = make_params(), make_params()
    rate = torch.tensor(0.5)
    first = AdamAtan2(numbers, lr=0.5, weight_decay=1e-3, independent_weight_decay=True)
    second = AdamAtan2(tensors, lr=rate, weight_decay=1e-3, independent_weight_decay=True)
    for step, value in enumerate((0.5, 0.25, 0.125)):
        first.param_groups[0]["lr"] = value
        rate.fill_(value)
        take_steps(first, numbers, 1, first=step)
        take_steps(second, tensors, 1, first=step)
    assert_equal(numbers, tensors)


def test_parameters_without_gradient_are_left_alone_and_start_later(make_params: Any) -> None:
    first, second = make_params(((4,), (4,)))
    before = second.detach().clone()
    optimizer = AdamAtan2([first, second], lr=0.1)
    first.grad = torch.ones(4)
    optimizer.step()
    assert torch.equal(second, before)
    assert second not in optimizer.state
    second.grad = torch.ones(4)
    optimizer.step()
    assert [int(optimizer.state[p]["step"]) for p in (first, second)] == [2, 1]
    torch.testing.assert_close(second, before - 0.1)  # a first step, corrected as one


def test_closure_is_called_with_gradients() -> None:
    param = torch.tensor([2.0], requires_grad=True)
    optimizer = AdamAtan2([param], lr=0.5)

    def closure() -> Tensor:
        loss = param.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    torch.testing.assert_close(param.detach(), torch.tensor([1.5]))


@pytest.mark.parametrize("independent", [False, True])
@each_path
def test_resumed_run_is_bit_equal(make_params: Any, take_steps: Any, path: str, independent: bool) -> None:
    options: dict[str, Any] = {"weight_decay": 0.01, "independent_weight_decay": independent, **PATHS[path]}
    whole, half = make_params(), make_params()
    optimizer = AdamAtan2(whole, lr=0.05, **options)
    schedule = LambdaLR(optimizer, lambda step: 1 / (1 + step))
    saved: Any = None
    for step in range(6):
        take_steps(optimizer, whole, 1, first=step)
        schedule.step()
        if step == 2:
            saved = copy.deepcopy((optimizer.state_dict(), schedule.state_dict()))
            with torch.no_grad():
                for param, value in zip(half, whole, strict=True):
                    param.copy_(value)
    resumed = AdamAtan2(half, lr=0.9, **options)  # what is loaded replaces the rate, and its peak
    resumed.load_state_dict(saved[0])
    schedule = LambdaLR(resumed, lambda step: 1 / (1 + step))
    schedule.load_state_dict(saved[1])
    resumed.load_state_dict(saved[0])
    for step in range(3, 6):
        take_steps(resumed, half, 1, first=step)
        schedule.step()
    assert_equal(whole, half)


def test_a_group_can_be_given_twice(make_params: Any, take_steps: Any) -> None:
    params = make_params(((3, 3),))
    group = {"params": params, "lr": 0.1, "weight_decay": 0.02}
    first = AdamAtan2([group], lr=1.0, independent_weight_decay=True)
    assert group == {"params": params, "lr": 0.1, "weight_decay": 0.02}  # torch's optimizers would write into it
    second = AdamAtan2(first.param_groups, lr=1.0, independent_weight_decay=True)
    start = params[0].detach().clone()
    params[0].grad = torch.zeros(3, 3)
    second.step()
    torch.testing.assert_close(params[0].detach(), start * 0.98)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lr": -1.0}, "lr is -1.0, expected a number at least 0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"lr": torch.ones(2)}, "lr is a tensor of 2 elements"),
        ({"betas": (0.9, 1.0)}, "each of betas is 1.0, expected a number at least 0 and below 1"),
        ({"betas": (0.9,)}, "expected two numbers"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"a": 0.0}, "a is 0.0, expected a number above 0"),
        ({"b": -1.0}, "b is -1.0"),
        ({"lr": 0.0, "weight_decay": 0.1, "independent_weight_decay": True}, "a group with lr 0"),
    ],
)
def test_values_out_of_range(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        AdamAtan2([torch.ones(2, requires_grad=True)], **{"lr": 0.1, **options})


def test_refused_groups_are_not_kept() -> None:
    optimizer = AdamAtan2([torch.ones(2, requires_grad=True)], lr=0.1)
    with pytest.raises(UserError, match="dtype torch.complex64"):
        optimizer.add_param_group({"params": torch.ones(2, dtype=torch.complex64, requires_grad=True)})
    assert len(optimizer.param_groups) == 1


def test_sparse_gradients_are_refused() -> None:
    embedding = torch.nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(UserError, match="sparse gradient"):
        AdamAtan2(embedding.parameters(), lr=0.1).step()
