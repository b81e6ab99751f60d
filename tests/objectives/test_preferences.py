from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fionalm.errors import UserError
from fionalm.objectives import PREFERENCE_KINDS, PreferenceKind, log_ratio, preference_loss

GAMMA, ETA = 0.3, 1.7
HARD: tuple[PreferenceKind, ...] = ("dpo", "ipo", "ropo")
GEOMETRIC: tuple[PreferenceKind, ...] = ("geometric_dpo", "geometric_ipo", "geometric_ropo")
H = torch.linspace(-6, 6, 25, dtype=torch.float64)
numbers = st.floats(-30, 30, allow_nan=False)
labels = st.floats(0, 1)


def loss_at(h: Tensor, p: float | Tensor, kind: PreferenceKind, beta: float = 0.4) -> Tensor:
    """Return the loss as a function of h alone, spread unevenly over the four log-probabilities."""
    soft = torch.as_tensor(p, dtype=h.dtype).expand_as(h)
    four = (0.3 * h - 20, -0.2 * h - 25, -0.1 * h - 19, 0.4 * h - 24)
    return preference_loss(*four, soft_labels=soft, kind=kind, beta=beta, ropo_gamma=GAMMA, ropo_eta=ETA)


def slope(h: Tensor, p: float, kind: PreferenceKind, beta: float = 0.4) -> Tensor:
    """Return -dL/dh as the paper's table has it."""
    m = 2 * p - 1

    def ropo(x: Tensor) -> Tensor:
        return beta * (GAMMA + ETA * torch.sigmoid(beta * x)) * (1 - torch.sigmoid(beta * x))

    return {
        "dpo": lambda: beta * (1 - torch.sigmoid(beta * h)),
        "cdpo": lambda: beta * (p - torch.sigmoid(beta * h)),
        "geometric_dpo": lambda: beta * m * (1 - torch.sigmoid(beta * m * h)),
        "ipo": lambda: 1 / beta - 2 * h,
        "cipo": lambda: m / beta - 2 * h,
        "geometric_ipo": lambda: m * (1 / beta - 2 * m * h),
        "ropo": lambda: ropo(h),
        "geometric_ropo": lambda: m * ropo(m * h),
    }[kind]()


@pytest.mark.parametrize("kind", PREFERENCE_KINDS)
@pytest.mark.parametrize("p", [0.5, 0.55, 0.75, 0.95, 1.0])
def test_slopes_are_the_papers_table(kind: PreferenceKind, p: float) -> None:
    h = H.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_at(h, p, kind).sum(), h)
    torch.testing.assert_close(-gradient, slope(H, p, kind), rtol=1e-10, atol=1e-12)
    step = 1e-5
    difference = (loss_at(H + step, p, kind) - loss_at(H - step, p, kind)) / (2 * step)
    torch.testing.assert_close(-difference, slope(H, p, kind), rtol=1e-6, atol=1e-8)


def test_losses_are_the_papers_formulas() -> None:
    beta, p = 0.4, 0.8
    m = 2 * p - 1
    log_sigmoid = torch.nn.functional.logsigmoid
    expected = {
        "dpo": -log_sigmoid(beta * H),
        "cdpo": -p * log_sigmoid(beta * H) - (1 - p) * log_sigmoid(-beta * H),
        "geometric_dpo": -log_sigmoid(beta * m * H),
        "ipo": (H - 1 / (2 * beta)) ** 2,
        "cipo": (H - m / (2 * beta)) ** 2,
        "geometric_ipo": (m * H - 1 / (2 * beta)) ** 2,
        "ropo": -GAMMA * log_sigmoid(beta * H) + ETA * torch.sigmoid(-beta * H),
        "geometric_ropo": -GAMMA * log_sigmoid(beta * m * H) + ETA * torch.sigmoid(-beta * m * H),
    }
    assert set(expected) == set(PREFERENCE_KINDS)
    for kind in PREFERENCE_KINDS:
        torch.testing.assert_close(loss_at(H, p, kind), expected[kind])


@pytest.mark.parametrize("family", HARD)
def test_a_label_of_one_gives_the_hard_loss_exactly(family: PreferenceKind) -> None:
    softened: list[PreferenceKind] = [kind for kind in PREFERENCE_KINDS if kind != family and kind.endswith(family)]
    assert len(softened) == (1 if family == "ropo" else 2)
    for kind in softened:
        assert torch.equal(loss_at(H, 1.0, kind), loss_at(H, 1.0, family)), kind


@pytest.mark.parametrize(("family", "geometric"), list(zip(HARD, GEOMETRIC, strict=True)))
def test_a_label_of_one_half_gives_the_geometric_losses_no_gradient(
    family: PreferenceKind, geometric: PreferenceKind
) -> None:
    h = H.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_at(h, 0.5, geometric).sum(), h)
    assert torch.equal(gradient, torch.zeros_like(gradient))
    (hard,) = torch.autograd.grad(loss_at(h, 0.5, family).sum(), h)
    assert (hard != 0).any()


def test_conservative_dpo_has_its_minimum_at_the_labels_logit() -> None:
    beta, p = 0.4, 0.8
    h = torch.tensor([math.log(p / (1 - p)) / beta], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss_at(h, p, "cdpo", beta).sum(), h)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)


@given(numbers, numbers, numbers, numbers, labels, st.sampled_from(PREFERENCE_KINDS))
def test_swapping_a_pair_and_its_label_changes_nothing(
    chosen: float, rejected: float, reference_chosen: float, reference_rejected: float, p: float, kind: PreferenceKind
) -> None:
    there = [torch.tensor([x], dtype=torch.float64) for x in (chosen, rejected, reference_chosen, reference_rejected)]
    back = [there[1], there[0], there[3], there[2]]
    label = torch.tensor([p], dtype=torch.float64)
    if p == 1 - p and kind in HARD:  # a tie keeps the order that it is given in
        return
    loss = preference_loss(*there, soft_labels=label, kind=kind)
    torch.testing.assert_close(loss, preference_loss(*back, soft_labels=1 - label, kind=kind))
    assert torch.isfinite(loss).all() and (loss >= 0).all()


@given(st.lists(st.tuples(numbers, labels), min_size=1, max_size=8), st.sampled_from(HARD))
def test_hard_kinds_use_labels_only_for_the_order(pairs: list[tuple[float, float]], kind: PreferenceKind) -> None:
    h = torch.tensor([pair[0] for pair in pairs], dtype=torch.float64)
    p = torch.tensor([pair[1] for pair in pairs], dtype=torch.float64)
    ordered = torch.where(p >= 0.5, h, -h)
    torch.testing.assert_close(loss_at(h, p, kind), loss_at(ordered, 1.0, kind))


@given(st.floats(-1e4, 1e4), st.floats(0.5, 1), st.sampled_from(PREFERENCE_KINDS))
def test_float32_stays_finite_far_out(h: float, p: float, kind: PreferenceKind) -> None:
    there = torch.tensor([h], requires_grad=True)
    loss = loss_at(there, p, kind)
    (gradient,) = torch.autograd.grad(loss.sum(), there)
    assert torch.isfinite(loss).all() and torch.isfinite(gradient).all()


def test_the_gradient_pushes_chosen_up_and_rejected_down() -> None:
    four = [torch.full((3,), -5.0, requires_grad=True) for _ in range(4)]
    preference_loss(*four, soft_labels=[0.9, 0.7, 0.2]).sum().backward()
    chosen, rejected = four[0].grad, four[1].grad
    assert chosen is not None and rejected is not None
    assert (chosen[:2] < 0).all() and chosen[2] > 0
    torch.testing.assert_close(chosen, -rejected)
    assert chosen[0].abs() > chosen[1].abs()


def test_log_ratio_is_the_implicit_rewards_gap() -> None:
    policy = torch.tensor([0.2, 0.5]).log(), torch.tensor([0.4, 0.1]).log()
    reference = torch.tensor([0.1, 0.5]).log(), torch.tensor([0.8, 0.2]).log()
    expected = torch.tensor([0.2 * 0.8 / (0.1 * 0.4), 0.5 * 0.2 / (0.5 * 0.1)]).log()
    torch.testing.assert_close(log_ratio(*policy, *reference), expected)


@pytest.mark.parametrize("wrong", [math.nan, -0.01, 1.01, math.inf])
def test_a_label_that_is_no_probability_names_its_row(wrong: float) -> None:
    four = [torch.zeros(4)] * 4
    with pytest.raises(UserError, match=r"row 2 \(the first is 0\) is .*expected a probability in \[0, 1\]"):
        preference_loss(*four, soft_labels=torch.tensor([0.5, 1.0, wrong, 2.0]), kind="dpo")


def test_mistakes_are_named() -> None:
    four = [torch.zeros(4)] * 4
    with pytest.raises(UserError, match="did you mean 'geometric_dpo'"):
        preference_loss(*four, kind="geometric-dpo")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="beta 0"):
        preference_loss(*four, beta=0)
    with pytest.raises(UserError, match="shape"):
        preference_loss(four[0], four[1], four[2], torch.zeros(3))
    with pytest.raises(UserError, match="soft labels have shape"):
        preference_loss(*four, soft_labels=torch.ones(3))
