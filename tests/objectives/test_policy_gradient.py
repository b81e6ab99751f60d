"""Group advantages, surrogates and KL estimates, by enumeration of a tiny policy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fionalm.errors import UserError
from fionalm.objectives import clip_weights, clipped_loss, group_advantages, kl_estimate, reinforce_loss
from fionalm.objectives.policy_gradient import GroupKind, KlKind

from .categorical import LOGITS, expected_gradient, finite_difference, gradient

REWARDS = torch.tensor([1.0, 0.2, 0.7, 0.0], dtype=torch.float64)
REFERENCE = torch.tensor([-0.2, 0.4, 0.3, 0.8], dtype=torch.float64).log_softmax(-1)


@pytest.mark.parametrize(("kind", "scale"), [("rloo", 1.0), ("mean", 2 / 3)])
def test_expectation_is_the_gradient_of_the_mean_reward(kind: GroupKind, scale: float) -> None:
    found = expected_gradient(
        lambda actions, logps: reinforce_loss(logps, group_advantages(REWARDS[actions], kind)), samples=3
    )
    expected = finite_difference(lambda log_pi: (log_pi.exp() * REWARDS).sum())
    torch.testing.assert_close(found, scale * expected, atol=1e-9, rtol=1e-7)


def test_grpo_divides_by_the_groups_spread() -> None:
    rewards = torch.tensor([[0.0, 1.0, 1.0, 0.0], [3.0, 3.0, 3.0, 3.0]], dtype=torch.float64)
    found = group_advantages(rewards, "grpo")
    spread = rewards[0].std() + 1e-4
    torch.testing.assert_close(found[0], (rewards[0] - 0.5) / spread)
    assert found[1].tolist() == [0] * 4


@pytest.mark.parametrize("kind", ["grpo", "rloo", "mean"])
def test_failed_verdicts_count_as_not_drawn(kind: GroupKind) -> None:
    rewards = torch.tensor([[1.0, math.nan, 0.0, 4.0], [math.nan, math.nan, 2.0, math.nan], [math.nan] * 4])
    found = group_advantages(rewards, kind)
    torch.testing.assert_close(found[0, [0, 2, 3]], group_advantages(rewards[:1, [0, 2, 3]], kind)[0] * 4 / 3)
    assert found[0, 1] == 0 and found[1:].abs().max() == 0


def test_clipping_is_counted() -> None:
    values, count = clip_weights(torch.tensor([0.5, -3.0, 2.0, 8.0]), 2.0)
    assert values.tolist() == [0.5, -2.0, 2.0, 2.0] and int(count) == 2
    with pytest.raises(UserError, match="limit 0"):
        clip_weights(values, 0)


def test_clipped_loss_is_reinforce_at_the_policy_that_drew() -> None:
    logps = torch.tensor([[-1.0, -2.0, -0.5]], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    loss, cut = clipped_loss(logps, logps.detach(), advantages)
    (found,) = torch.autograd.grad(loss.sum(), logps)
    (expected,) = torch.autograd.grad(reinforce_loss(logps, advantages).sum(), logps)
    torch.testing.assert_close(found, expected)
    assert int(cut) == 0


def test_clipped_loss_stops_pushing_and_counts() -> None:
    old = torch.zeros(1, 4, dtype=torch.float64)
    logps = torch.tensor([[1.0, -1.0, 1.0, -1.0]], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0]], dtype=torch.float64)
    loss, cut = clipped_loss(logps, old, advantages, clip=0.2)
    (found,) = torch.autograd.grad(loss.sum(), logps)
    # Moved too far in the advantage's direction: no gradient; the other way: all of it.
    torch.testing.assert_close(found, torch.tensor([[0, -math.exp(-1), math.e, 0]], dtype=torch.float64) / 4)
    assert int(cut) == 2
    assert loss.item() == pytest.approx(-(1.2 + math.exp(-1) - math.e - 0.8) / 4)
    with pytest.raises(UserError, match="clip 0"):
        clipped_loss(logps, old, advantages, clip=0)


def kl(log_pi: Tensor) -> Tensor:
    return (log_pi.exp() * (log_pi - REFERENCE)).sum()


def test_kl_estimates_have_the_values_that_they_promise() -> None:
    log_pi = LOGITS.log_softmax(-1)
    expected = {kind: float(log_pi.exp() @ kl_estimate(log_pi, REFERENCE, kind)) for kind in ("k1", "k2", "k3")}
    truth = float(kl(log_pi))
    assert expected["k1"] == pytest.approx(truth) and expected["k3"] == pytest.approx(truth)
    assert abs(expected["k2"] - truth) > 1e-3
    assert kl_estimate(log_pi, REFERENCE, "k3").min() >= 0 > kl_estimate(log_pi, REFERENCE, "k1").min()


def test_kl_estimates_have_the_gradients_that_they_promise() -> None:
    pi = LOGITS.softmax(-1)
    reverse = finite_difference(lambda log_pi: (REFERENCE.exp() * (REFERENCE - log_pi)).sum())
    expected: dict[KlKind, Tensor] = {"k1": torch.zeros_like(pi), "k2": finite_difference(kl), "k3": reverse}
    for kind, truth in expected.items():

        def mean(log_pi: Tensor, kind: KlKind = kind) -> Tensor:
            return pi @ kl_estimate(log_pi, REFERENCE, kind)

        found = gradient(mean)
        torch.testing.assert_close(found, truth, atol=1e-9, rtol=1e-7)


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'rloo'"):
        group_advantages(torch.zeros(1, 2), "rlo")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="expected one of k1, k2, k3"):
        kl_estimate(LOGITS, LOGITS, "k4")  # pyright: ignore[reportArgumentType]
