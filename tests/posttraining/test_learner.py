"""One update of any loss: the same however it is cut, clipped, refused where not finite, resumed exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_policies import make_policy, make_rows
from torch import Tensor, nn

from fionalm.errors import UserError
from fionalm.optim import OptimizerConfig
from fionalm.posttraining import FinetuneConfig, Learner, Policy, collate, completion_logps, encode_example

SGD = OptimizerConfig(name="sgd", lr=0.1)


def _loss(policy: Policy) -> Any:
    rows = make_rows(8)
    examples = [encode_example(policy.tokenizer, row["prompt"], row["completion"]) for row in rows]

    def loss(model: nn.Module, part: list[int]) -> tuple[Tensor, dict[str, Any]]:
        logps = completion_logps(model, collate([examples[i] for i in part], policy.tokenizer.pad_id))
        return -logps.sum() / 8, {"count": len(part), "logps": logps.sum()}

    return loss


def test_parts_are_summed() -> None:
    found = []
    for parts in ([list(range(8))], [[0, 1, 2], [3], [4, 5, 6, 7]]):
        policy = make_policy()
        learner = Learner(policy, FinetuneConfig(optimizer=SGD), total_steps=2)
        statistics = learner.step(parts, _loss(policy))
        assert statistics["count"] == 8
        assert statistics["logps"] == pytest.approx(-8 * statistics["loss"], rel=1e-5)
        found.append((policy.snapshot(), statistics))
    for name, value in found[0][0].items():
        torch.testing.assert_close(value, found[1][0][name], rtol=1e-4, atol=1e-6)
    assert found[0][1]["grad_norm"] == pytest.approx(found[1][1]["grad_norm"], rel=1e-4)


def test_the_gradient_is_clipped_to_its_norm() -> None:
    moved = {}
    for clip in (0.0, 0.5):
        policy = make_policy()
        before = policy.snapshot()
        config = FinetuneConfig(optimizer=SGD, clip_norm=clip)
        statistics = Learner(policy, config, total_steps=1).step([list(range(8))], _loss(policy))
        after = policy.snapshot()
        moved[clip] = sum((after[name] - before[name]).square().sum().item() for name in before) ** 0.5
        assert statistics["grad_norm"] > 0.5
        assert moved[clip] == pytest.approx(0.1 * (clip or statistics["grad_norm"]), rel=1e-3)


def test_a_loss_that_is_not_finite_leaves_the_weights() -> None:
    policy = make_policy()
    before = policy.snapshot()
    learner = Learner(policy, FinetuneConfig(optimizer=SGD), total_steps=1)
    with pytest.raises(UserError, match=r"step 0: the loss nan .* learning rate below 0.1"):
        learner.step([0], lambda model, _: (next(model.parameters()).sum() * float("nan"), {}))
    assert learner.step_number == 0
    assert all(torch.equal(before[name], value) for name, value in policy.snapshot().items())


def test_bf16_computes_in_bf16_and_keeps_weights_in_fp32() -> None:
    policy = make_policy()
    losses = {}
    for precision in ("fp32", "bf16"):
        learner = Learner(policy, FinetuneConfig(precision=precision, optimizer=SGD), total_steps=1)
        losses[precision] = learner.evaluate([list(range(8))], lambda m, p: {"loss": _loss(policy)(m, p)[0]})["loss"]
        learner.step([list(range(8))], _loss(policy))
    assert all(p.dtype == torch.float32 for p in policy.model.parameters())
    assert 0 < abs(losses["bf16"] / losses["fp32"] - 1) < 0.5


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_resumed_learner_goes_on_as_if_never_stopped(tmp_path: Path, lora_rank: int) -> None:
    config = FinetuneConfig(optimizer=OptimizerConfig(lr=0.01), lora_rank=lora_rank)
    policy = make_policy()
    whole = Learner(policy, config, total_steps=4, folder=tmp_path)
    assert whole.resume() is None
    steps = []
    for step in range(4):
        if step == 2:
            whole.save({"seen": [1, 2], "nothing": None})
        steps.append(whole.step([[0, 1, 2, 3], [4, 5]], _loss(policy)))
    other = make_policy()
    resumed = Learner(other, config, total_steps=4, folder=tmp_path)
    assert resumed.resume() == {"seen": [1, 2], "nothing": None}
    assert resumed.step_number == 2
    again = [resumed.step([[0, 1, 2, 3], [4, 5]], _loss(other)) for _ in range(2)]
    assert again == steps[2:]
    assert all(torch.equal(value, other.snapshot()[name]) for name, value in policy.snapshot().items())


def test_the_policy_stays_in_eval_mode() -> None:
    policy = make_policy()
    Learner(policy, FinetuneConfig(), total_steps=1).step([[0]], _loss(policy))
    assert not policy.model.training
