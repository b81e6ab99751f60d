"""Optimizers from configs: groups keep their own values, and weight decay is decoupled and applied once."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, get_args

import pytest
import torch
from torch import nn

from fionalm.errors import UserError
from fionalm.optim import SGDW, Adafactor, AdamAtan2, OptimizerConfig, ScheduleConfig, build_optimizer, build_scheduler
from fionalm.optim.config import OptimizerName

NAMES = get_args(OptimizerName)
each_name = pytest.mark.parametrize("name", NAMES)


def zero_grad_steps(
    optimizer: torch.optim.Optimizer, params: Sequence[torch.Tensor], schedule: Any, steps: int
) -> None:
    """Steps that only weight decay can move."""
    for _ in range(steps):
        for param in params:
            param.grad = torch.zeros_like(param)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adamw", torch.optim.AdamW), ("adam_atan2", AdamAtan2), ("adafactor", Adafactor), ("sgd", SGDW)],
)
def test_class_and_settings(make_params: Any, name: Any, kind: type) -> None:
    config = OptimizerConfig(name, lr=0.3, betas=(0.8, 0.7), eps=1e-5, momentum=0.4, atan2_a=2.0, atan2_b=3.0)
    group = build_optimizer(config, make_params()).param_groups[0]
    wanted = {"lr": 0.3, "betas": (0.8, 0.7), "eps": 1e-5, "momentum": 0.4, "a": 2.0, "b": 3.0, "weight_decay": 0.0}
    if name == "adafactor":
        wanted["eps"] = 1e-30  # Adam's epsilon is not Adafactor's
    assert type(build_optimizer(config, make_params())) is kind
    assert {key: group[key] for key in wanted if key in group} == {k: v for k, v in wanted.items() if k in group}


@each_name
@pytest.mark.parametrize("own_flag", [None, True, False])
@pytest.mark.parametrize("independent", [True, False])
def test_weight_decay_under_a_schedule(name: Any, independent: bool, own_flag: bool | None) -> None:
    """Independent: theta -= s_t * lambda * theta whatever the group's rate; else theta -= s_t * lr * lambda * theta."""
    config = OptimizerConfig(name, lr=0.5, weight_decay=0.01, independent_weight_decay=independent, momentum=0.9)
    params = [nn.Parameter(torch.full((2, 2), 8.0, dtype=torch.float64)) for _ in range(3)]
    flag = {} if own_flag is None else {"independent_weight_decay": own_flag}
    groups = [
        {"params": params[:1], **flag},
        {"params": params[1:2], "lr": 0.1, **flag},
        {"params": params[2:], "lr": 0.1, "weight_decay": 0.2, **flag},
    ]
    before = copy.deepcopy([{k: v for k, v in g.items() if k != "params"} for g in groups])
    optimizer = build_optimizer(config, groups)
    schedule = build_scheduler(ScheduleConfig("linear", warmup_steps=2, final_fraction=0.5), optimizer, 6)
    zero_grad_steps(optimizer, params, schedule, 6)
    kept = independent if own_flag is None else own_flag
    for param, (rate, decay) in zip(params, ((0.5, 0.01), (0.1, 0.01), (0.1, 0.2)), strict=True):
        wanted = 8.0
        for factor in (0.5, 1.0, 1.0, 0.875, 0.75, 0.625):
            wanted -= factor * (1 if kept else rate) * decay * wanted
        torch.testing.assert_close(param.detach(), torch.full((2, 2), wanted, dtype=torch.float64))
    assert [{k: v for k, v in g.items() if k != "params"} for g in groups] == before  # and can be used again


@each_name
def test_resumed_optimizer_keeps_its_weight_decay(name: Any) -> None:
    config = OptimizerConfig(name, lr=0.5, weight_decay=0.01)
    results = []
    for resume in (False, True):
        params = [nn.Parameter(torch.full((2, 2), 8.0))]
        optimizer = build_optimizer(config, params)
        schedule = build_scheduler(ScheduleConfig(), optimizer, 8)
        zero_grad_steps(optimizer, params, schedule, 3)
        if resume:
            states = copy.deepcopy((optimizer.state_dict(), schedule.state_dict()))
            optimizer = build_optimizer(config, params)
            schedule = build_scheduler(ScheduleConfig(), optimizer, 8)
            schedule.load_state_dict(states[1])
            optimizer.load_state_dict(states[0])
        zero_grad_steps(optimizer, params, schedule, 3)
        results.append(params[0].detach())
    assert results[0].max() < 8
    assert torch.equal(*results)


def test_vectors_do_not_decay_unless_a_group_says_so() -> None:
    layer = nn.Linear(3, 2)
    optimizer = build_optimizer(OptimizerConfig(weight_decay=0.1, independent_weight_decay=False), layer.parameters())
    assert [(g["params"], g["weight_decay"]) for g in optimizer.param_groups] == [
        ([layer.weight], 0.1),
        ([layer.bias], 0.0),
    ]
    own = build_optimizer(
        OptimizerConfig(independent_weight_decay=False), [{"params": layer.parameters(), "weight_decay": 0.3}]
    )
    assert [(len(g["params"]), g["weight_decay"]) for g in own.param_groups] == [(2, 0.3)]


@each_name
def test_named_parameters_keep_their_names(name: Any) -> None:
    layer = nn.Linear(3, 2)
    optimizer = build_optimizer(OptimizerConfig(name, weight_decay=0.1), layer.named_parameters())
    assert [group["param_names"] for group in optimizer.param_groups] == [["weight"], ["bias"]]
    again = build_optimizer(
        OptimizerConfig(name, weight_decay=0.1), [{"params": layer.named_parameters(), "name": "x"}]
    )
    assert [(g["name"], g["param_names"]) for g in again.param_groups] == [("x", ["weight"]), ("x", ["bias"])]


def test_adamw_with_an_epsilon_for_each_group() -> None:
    params = [nn.Parameter(torch.zeros(3, 3)) for _ in range(3)]
    groups = [{"params": [p], "eps": eps} for p, eps in zip(params, (1e-15, 1e-3), strict=False)]
    optimizer = build_optimizer(OptimizerConfig(lr=1.0, eps=1.0), [*groups, {"params": params[2:]}])
    for param in params:
        param.grad = torch.full((3, 3), 1e-3)
    optimizer.step()
    for param, update in zip(params, (1.0, 0.5, 1e-3 / 1.001), strict=True):
        torch.testing.assert_close(param.detach(), torch.full((3, 3), -update))
    plain = build_optimizer(OptimizerConfig("sgd", lr=1.0), groups)
    assert "eps" not in plain.param_groups[0]  # other optimizers are not given it


def test_sgdw_is_torchs_sgd_without_decay(make_params: Any, take_steps: Any) -> None:
    for nesterov in (False, True):
        ours, theirs = make_params(), make_params()
        take_steps(SGDW(ours, lr=0.1, momentum=0.9, nesterov=nesterov), ours, 4)
        take_steps(torch.optim.SGD(theirs, lr=0.1, momentum=0.9, nesterov=nesterov), theirs, 4)
        for one, two in zip(ours, theirs, strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize("tensor_lr", [False, True])
def test_sgdw_keeps_decay_out_of_the_momentum(tensor_lr: bool) -> None:
    lr, momentum, decay = 0.1, 0.9, 0.5
    param = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    optimizer = SGDW([param], lr=torch.tensor(lr) if tensor_lr else lr, momentum=momentum, weight_decay=decay)
    theta, buffer = 1.0, 0.0
    for grad in (1.0, -2.0, 0.5, 0.0):
        param.grad = torch.full((2, 2), grad, dtype=torch.float64)
        optimizer.step()
        buffer = momentum * buffer + grad
        theta = theta - lr * decay * theta - lr * buffer
        torch.testing.assert_close(param.detach(), torch.full((2, 2), theta, dtype=torch.float64), rtol=1e-7, atol=0)
    assert optimizer.state[param]["momentum_buffer"][0, 0].item() == pytest.approx(buffer)


def test_sgdw_closure() -> None:
    param = torch.tensor([2.0], requires_grad=True)

    def closure() -> torch.Tensor:
        loss = param.square().sum()
        loss.backward()
        return loss

    assert SGDW([param], lr=0.25).step(closure).item() == 4.0
    assert param.item() == 1.0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "adam"}, "optimizer.*'adam'.*adamw"),
        ({"lr": 0.0}, "lr is 0.0, expected a number above 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"betas": (0.9,)}, "betas is .*expected two numbers"),
        ({"betas": (0.9, 1.5)}, "each of betas is 1.5"),
        ({"eps": -1e-8}, "eps is -1e-08, expected a number at least 0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"atan2_a": 0.0}, "atan2_a is 0.0"),
        ({"atan2_b": -1.0}, "atan2_b is -1.0"),
    ],
)
def test_config_errors(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        OptimizerConfig(**options)


@each_name
def test_no_parameters(name: Any) -> None:
    for nothing in ([], [{"params": []}]):
        with pytest.raises(UserError, match="given no parameters"):
            build_optimizer(OptimizerConfig(name), nothing)


@each_name
def test_independent_decay_needs_a_rate(name: Any) -> None:
    groups = [{"params": [nn.Parameter(torch.ones(2, 2))], "lr": 0.0}]
    with pytest.raises(UserError, match="lr 0"):
        build_optimizer(OptimizerConfig(name, weight_decay=0.1), groups)
    build_optimizer(OptimizerConfig(name, weight_decay=0.1, independent_weight_decay=False), groups)


def test_configs_need_no_torch() -> None:
    code = "import sys, fionalm.optim, fionalm.optim.config; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
