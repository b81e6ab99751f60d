"""The unbiased estimators: expectations over every tuple of samples equal the gradient; closed forms equal counting."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fionalm.errors import UserError
from fionalm.objectives import reinforce_loss, unbiased_best_of_n_advantages, unbiased_pass_at_n_advantages
from fionalm.objectives.pass_at_n import PassAtNForm

from .categorical import LOGITS, expected_gradient, finite_difference, tuples

BINARY = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
GRADED = torch.tensor([0.3, 1.0, 0.3, -0.5], dtype=torch.float64)
SCORES = torch.tensor([2.0, 1.0, 2.0, 0.0], dtype=torch.float64)  # a tie between unequal rewards


def value(log_pi: Tensor, n: int, rewards: Tensor, scores: Tensor) -> Tensor:
    """Return E[R(best of n)], tied best ones picked at random."""
    drawn = tuples(n)
    best = scores[drawn] == scores[drawn].amax(-1, keepdim=True)
    picked = (best * rewards[drawn]).sum(-1) / best.sum(-1)
    return (log_pi[drawn].sum(-1).exp() * picked).sum()


@pytest.mark.parametrize(("samples", "n"), [(4, 1), (4, 2), (5, 3), (4, 4)])
@pytest.mark.parametrize("form", ["leave_one_out", "subsets"])
@pytest.mark.parametrize("rewards", [BINARY, GRADED], ids=["binary", "graded"])
@pytest.mark.parametrize("scores", [None, SCORES], ids=["reward selects", "verifier selects"])
def test_expectation_is_the_gradient(
    samples: int, n: int, form: PassAtNForm, rewards: Tensor, scores: Tensor | None
) -> None:
    def loss(actions: Tensor, logps: Tensor) -> Tensor:
        given_scores = None if scores is None else scores[actions]
        advantages = unbiased_best_of_n_advantages(rewards[actions], n, scores=given_scores, form=form)
        return reinforce_loss(logps, advantages)

    expected = finite_difference(lambda log_pi: value(log_pi, n, rewards, rewards if scores is None else scores))
    torch.testing.assert_close(expected_gradient(loss, samples), expected, atol=1e-8, rtol=1e-7)


@pytest.mark.parametrize(("samples", "n"), [(4, 1), (4, 3), (5, 2)])
@pytest.mark.parametrize("rewards", [BINARY, GRADED], ids=["binary", "graded"])
def test_the_rescaled_mean_baseline_keeps_the_gradient(samples: int, n: int, rewards: Tensor) -> None:
    def loss(actions: Tensor, logps: Tensor) -> Tensor:
        advantages = unbiased_pass_at_n_advantages(rewards[actions], n, form="subsets", baseline="mean")
        torch.testing.assert_close(advantages.sum(-1), torch.zeros(len(actions), dtype=torch.float64))
        return reinforce_loss(logps, advantages)

    expected = finite_difference(lambda log_pi: value(log_pi, n, rewards, rewards))
    torch.testing.assert_close(expected_gradient(loss, samples), expected, atol=1e-8, rtol=1e-7)


def test_a_plain_mean_baseline_shrinks_both_forms_by_known_factors() -> None:
    samples, n = 5, 3
    p = 1 - float(LOGITS.softmax(-1) @ BINARY)
    expected = finite_difference(lambda log_pi: value(log_pi, n, BINARY, BINARY))
    factors: dict[PassAtNForm, float] = {"subsets": 1 - n / samples, "leave_one_out": 1 - (n - (n - 1) / p) / samples}
    for form, factor in factors.items():

        def loss(actions: Tensor, logps: Tensor, form: PassAtNForm = form) -> Tensor:
            advantages = unbiased_pass_at_n_advantages(BINARY[actions], n, form=form)
            return reinforce_loss(logps, advantages - advantages.mean(-1, keepdim=True))

        torch.testing.assert_close(expected_gradient(loss, samples), factor * expected, atol=1e-8, rtol=1e-7)


@given(st.integers(1, 9), st.integers(0, 9), st.integers(1, 9))
def test_binary_rewards_give_the_specs_binomials(samples: int, right: int, n: int) -> None:
    right, n = min(right, samples), min(n, samples)
    rewards = torch.tensor([[1.0] * right + [0.0] * (samples - right)], dtype=torch.float64)
    found = unbiased_pass_at_n_advantages(rewards, n)[0]
    weight = n * math.comb(samples - right, n - 1) / math.comb(samples - 1, n - 1)
    assert found.tolist() == pytest.approx([weight] * right + [0.0] * (samples - right), abs=1e-12)
    found = unbiased_pass_at_n_advantages(rewards, n, form="subsets")[0]
    wrong = n * (1 - math.comb(samples - 1 - right, n - 1) / math.comb(samples - 1, n - 1)) if right < samples else 0.0
    assert found.tolist() == pytest.approx([n] * right + [wrong] * (samples - right), abs=1e-12)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(-2, 2)), min_size=2, max_size=6),
    st.integers(1, 6),
    st.sampled_from(["leave_one_out", "subsets"]),
)
def test_closed_forms_are_all_subsets_counted(pairs: list[tuple[int, int]], n: int, form: PassAtNForm) -> None:
    n = min(n, len(pairs))
    scores, rewards = (torch.tensor([list(column)], dtype=torch.float64) for column in zip(*pairs, strict=True))
    found = unbiased_best_of_n_advantages(rewards, n, scores=scores, form=form)[0]

    def picked(subset: tuple[int, ...]) -> float:
        if not subset:
            return 0.0
        best = [i for i in subset if pairs[i][0] == max(pairs[j][0] for j in subset)]
        return sum(pairs[i][1] for i in best) / len(best)

    for i in range(len(pairs)):
        others = list(itertools.combinations([j for j in range(len(pairs)) if j != i], n - 1))
        mean = sum(picked((*subset, i)) for subset in others) / len(others)
        without = sum(map(picked, others)) / len(others)
        assert float(found[i]) == pytest.approx(n * (mean - (without if form == "leave_one_out" else 0)), abs=1e-9)


@pytest.mark.parametrize("form", ["leave_one_out", "subsets"])
def test_failed_verdicts_count_as_not_drawn(form: PassAtNForm) -> None:
    rewards = torch.tensor([[1.0, math.nan, 0.0, 1.0, 0.5], [math.nan, math.nan, math.nan, 1.0, 0.0]])
    found = unbiased_pass_at_n_advantages(rewards, 3, form=form)
    judged = unbiased_pass_at_n_advantages(rewards[:1, [0, 2, 3, 4]], 3, form=form)
    torch.testing.assert_close(found[:1, [0, 2, 3, 4]].sum() / 5, judged.sum() / 4)
    torch.testing.assert_close(found[:1, [0, 2, 3, 4]], judged * 5 / 4)
    assert found[0, 1] == 0 and found[1].tolist() == [0] * 5  # the second row has too few


def test_types_and_mistakes() -> None:
    assert unbiased_pass_at_n_advantages(torch.tensor([[1, 0, 1]]), 2).dtype == torch.float32
    for n, sentence in ((0, "n was 0"), (4, "n 4 with 3 samples"), (1.5, "n was 1.5")):
        with pytest.raises(UserError, match=sentence):
            unbiased_pass_at_n_advantages(torch.zeros(1, 3), n)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="unknown: expected form='subsets'"):
        unbiased_pass_at_n_advantages(torch.zeros(1, 3), 2, baseline="mean")
    with pytest.raises(UserError, match="0 at n = M"):
        unbiased_pass_at_n_advantages(torch.zeros(1, 3), 3, form="subsets", baseline="mean")
    with pytest.raises(UserError, match="did you mean 'subsets'"):
        unbiased_pass_at_n_advantages(torch.zeros(1, 3), 2, form="subset")  # pyright: ignore[reportArgumentType]
