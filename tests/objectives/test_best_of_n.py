"""Best-of-N objectives on a policy that can be enumerated: every gradient against finite differences."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fionalm.errors import UserError
from fionalm.objectives import (
    best_of_n_weights,
    bon_rl_advantages,
    bon_rl_loss,
    bon_rlb_weights,
    bon_sft_loss,
    bon_sft_weights,
    lambda_n,
    tilted_weights,
    win_rates,
)

from .categorical import LOGITS, finite_difference, gradient, tuples

# Scores with a tie, and rewards that the scores do not follow.
SCORES = torch.tensor([0.0, 2.0, 1.0, 2.0], dtype=torch.float64)
REWARDS = torch.tensor([1.0, 0.2, 0.7, 0.0], dtype=torch.float64)
WINS = (SCORES[:, None] >= SCORES[None, :]).double()


def log_tilted(log_pi: Tensor, n: int, scores: Tensor = SCORES) -> Tensor:
    """Return log pi_bon of every action, win rates under the same policy."""
    wins = (scores[:, None] >= scores[None, :]).double()
    return (log_pi + lambda_n(float(n)) * wins @ log_pi.exp()).log_softmax(-1)


def kl(tilt: float) -> float:
    return ((tilt - 1) * math.exp(tilt) + 1) / (math.exp(tilt) - 1) - math.log((math.exp(tilt) - 1) / tilt)


@pytest.mark.parametrize(("n", "tilt"), [(2, 2.2886), (4, 4.9169), (8, 9.0545), (16, 17.0319), (32, 33.0158)])
def test_lambda_is_the_papers(n: int, tilt: float) -> None:
    assert lambda_n(n) == pytest.approx(tilt, abs=5e-5)
    assert kl(lambda_n(n)) == pytest.approx(math.log(n) - (n - 1) / n, abs=1e-10)


@settings(max_examples=25)
@given(st.integers(2, 600))
def test_lambda_solves_its_equation(n: int) -> None:
    assert kl(lambda_n(n)) == pytest.approx(math.log(n) - (n - 1) / n, rel=1e-9)


def test_lambda_of_tensors_and_at_the_ends() -> None:
    assert lambda_n(1) == 0
    found = lambda_n(torch.tensor([1, 4, 16]))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([0, lambda_n(4), lambda_n(16)]))
    assert lambda_n(100_000) == pytest.approx(100_001, rel=1e-4)  # its equation's form would overflow here
    with pytest.raises(UserError, match="n was 0: expected 1 sample or more"):
        lambda_n(0)


def test_win_rates_count_ties_as_wins() -> None:
    scores = torch.tensor([[1.0, 3.0, 3.0, 2.0], [5.0, 5.0, 5.0, 5.0]])
    torch.testing.assert_close(win_rates(scores), torch.tensor([[0.25, 1.0, 1.0, 0.5], [1.0, 1.0, 1.0, 1.0]]))
    expert = torch.tensor([[2.0], [4.0]])
    torch.testing.assert_close(win_rates(expert, scores), torch.tensor([[0.5], [0.0]]))
    weights = torch.tensor([[0.7, 0.1, 0.1, 0.1]])
    torch.testing.assert_close(win_rates(scores[:1], sample_weights=weights)[0, 3], torch.tensor(0.8))


@given(st.integers(1, 5), st.lists(st.integers(0, 3), min_size=5, max_size=7))
def test_best_of_n_weights_are_all_subsets_counted(n: int, scores: list[int]) -> None:
    expected = torch.zeros(len(scores), dtype=torch.float64)
    subsets = list(itertools.combinations(range(len(scores)), n))
    for subset in subsets:
        best = [i for i in subset if scores[i] == max(scores[j] for j in subset)]
        expected[best] += 1 / len(best) / len(subsets)
    torch.testing.assert_close(best_of_n_weights(torch.tensor([scores], dtype=torch.float32), n)[0], expected)


def test_best_of_n_weights_leave_out_what_is_not_known() -> None:
    scores = torch.tensor([[1.0, math.nan, 3.0], [math.nan, math.nan, 1.0]])
    found = best_of_n_weights(scores, 2)
    torch.testing.assert_close(found[0], torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    assert found[1].isnan().all()
    with pytest.raises(UserError, match="n 4 with 3 samples"):
        best_of_n_weights(scores, 4)


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_bon_sft_follows_the_tilted_policys_log_likelihood(n: int) -> None:
    """With all completions at their probabilities, the surrogate's gradient is that of -log pi_bon(expert)."""
    pi = LOGITS.softmax(-1)
    for expert in range(len(LOGITS)):

        def loss(log_pi: Tensor, expert: int = expert) -> Tensor:
            chosen = torch.tensor([expert])
            arguments = (log_pi[chosen], log_pi[None], SCORES[chosen], SCORES[None], n)
            return bon_sft_loss(*arguments, sample_weights=pi[None]).sum()

        expected = finite_difference(lambda log_pi, expert=expert: -log_tilted(log_pi, n)[expert])
        torch.testing.assert_close(gradient(loss), expected, atol=1e-7, rtol=1e-6)


def test_bon_sft_from_samples_converges() -> None:
    """A thousand samples in the proportions of the policy are its probabilities."""
    counts = torch.tensor([200, 300, 400, 100])
    logits = (counts / counts.sum()).double().log()
    drawn = torch.arange(4).repeat_interleave(counts)

    def loss(log_pi: Tensor) -> Tensor:
        return bon_sft_loss(log_pi[2:3], log_pi[drawn][None], SCORES[2:3], SCORES[drawn][None], 8).sum()

    expected = finite_difference(lambda log_pi: -log_tilted(log_pi, 8)[2], logits)
    torch.testing.assert_close(gradient(loss, logits), expected, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 4, 16])
@pytest.mark.parametrize("selects", ["verifier", "reward"])
def test_bon_rl_follows_the_reward_under_the_tilted_policy(n: int, selects: str) -> None:
    scores = SCORES if selects == "verifier" else None
    pi = LOGITS.softmax(-1)

    def loss(log_pi: Tensor) -> Tensor:
        given_scores = None if scores is None else scores[None]
        return bon_rl_loss(log_pi[None], REWARDS[None], n, scores=given_scores, sample_weights=pi[None]).sum()

    def objective(log_pi: Tensor) -> Tensor:
        return -(log_tilted(log_pi, n, REWARDS if scores is None else scores).exp() * REWARDS).sum()

    torch.testing.assert_close(gradient(loss), finite_difference(objective), atol=1e-7, rtol=1e-6)


def test_bon_rl_advantages_are_the_losses_weights() -> None:
    rewards = torch.tensor([[0.0, 1.0, 1.0], [2.0, 0.5, 1.0]], dtype=torch.float64)
    logps = torch.tensor([[-1.0, -2.0, -3.0], [-1.5, -0.5, -2.5]], dtype=torch.float64)
    weights = bon_rl_advantages(rewards, 4)
    torch.testing.assert_close(bon_rl_loss(logps, rewards, 4), -(weights * logps).mean(-1))
    assert bon_rl_advantages(torch.ones(1, 3), 4).abs().max() == 0  # nothing to learn


def test_failed_verdicts_count_as_not_drawn() -> None:
    rewards = torch.tensor([[0.0, math.nan, 1.0, 0.5], [math.nan] * 4], dtype=torch.float64)
    kept = rewards[:1, [0, 2, 3]]
    found = bon_rl_advantages(rewards, 4)
    torch.testing.assert_close(found[:1, [0, 2, 3]], bon_rl_advantages(kept, 4) * 4 / 3)
    assert found[0, 1] == 0 and found[1].tolist() == [0] * 4
    expert = torch.tensor([0.5, 0.5], dtype=torch.float64)
    found = bon_sft_weights(expert, rewards, 4)
    torch.testing.assert_close(found[:1, [0, 2, 3]], bon_sft_weights(expert[:1], kept, 4) * 4 / 3)
    assert found[0, 1] == 0 and found[1].tolist() == [0] * 4


def test_tilted_weights_prefer_the_best() -> None:
    weights = tilted_weights(SCORES[None], 8)[0]
    assert weights.sum() == pytest.approx(1)
    assert weights[1] == weights[3] > weights[2] > weights[0]
    uniform = torch.full((4,), 0.25, dtype=torch.float64)
    torch.testing.assert_close(tilted_weights(SCORES[None], 1)[0], uniform)


RIGHT = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64)


def terms(n: int) -> tuple[float, Tensor, Tensor, Tensor]:
    """Return p, A+ and A- by enumerating best-of-n's tuples, and the gradient of 1 - p^n by finite differences."""
    pi = LOGITS.softmax(-1)
    drawn = tuples(n)
    probability = pi[drawn].prod(-1)
    right = RIGHT[drawn]
    # Among tied best samples one is picked at random.
    picked = torch.where(right.any(-1, keepdim=True), right / right.sum(-1, keepdim=True).clamp(min=1), 1 / n)
    bon = torch.stack([((drawn == action) * picked).sum(-1) @ probability for action in range(4)])
    scores = torch.eye(4, dtype=torch.float64) - pi  # grad log pi of each action
    expected = finite_difference(lambda log_pi: 1 - (log_pi.exp() * (1 - RIGHT)).sum() ** n)
    return float((pi * (1 - RIGHT)).sum()), (bon * RIGHT) @ scores, (bon * (1 - RIGHT)) @ scores, expected


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_bon_rlb_weights_give_the_gradient_of_pass_at_n(n: int) -> None:
    p, right, wrong, expected = terms(n)
    for variant, scale in (("exact", 1.0), ("positive", 1.0), ("printed", (1 + p) / (1 - p))):
        weight_right, weight_wrong = bon_rlb_weights(p, n, variant)  # pyright: ignore[reportArgumentType]
        torch.testing.assert_close(weight_right * right + weight_wrong * wrong, scale * expected, atol=1e-8, rtol=1e-7)


@given(st.floats(0.001, 0.999), st.integers(1, 40))
def test_bon_rlb_weights_are_the_formulas(p: float, n: int) -> None:
    plus, minus = n * p ** (n - 1) / (1 - p**n), n * p / (1 - p)
    assert [float(w) for w in bon_rlb_weights(p, n)] == pytest.approx([plus, minus])
    assert [float(w) for w in bon_rlb_weights(p, n, "positive")] == pytest.approx([plus * (1 - p), 0])
    assert [float(w) for w in bon_rlb_weights(p, n, "printed")] == pytest.approx([plus, -minus])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 2, 16])
@pytest.mark.parametrize("variant", ["exact", "positive", "printed"])
def test_bon_rlb_weights_are_finite_at_the_ends(dtype: torch.dtype, n: int, variant: str) -> None:
    for weights in bon_rlb_weights(torch.tensor([0.0, 1.0], dtype=dtype), n, variant):  # pyright: ignore[reportArgumentType]
        assert weights.dtype == dtype and weights.isfinite().all()
    if variant == "positive":
        ends = bon_rlb_weights(torch.tensor([0.0, 1.0], dtype=dtype), n, "positive")[0]
        assert ends.tolist() == [1.0 if n == 1 else 0.0, 1.0]


def test_bon_rlb_mistakes() -> None:
    with pytest.raises(UserError, match="unknown BoN-RLB variant 'positve'.*did you mean 'positive'"):
        bon_rlb_weights(0.5, 4, "positve")  # pyright: ignore[reportArgumentType]
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(UserError, match=r"expected probabilities in \[0, 1\]"):
            bon_rlb_weights(wrong, 4)
    with pytest.raises(UserError, match="n was 0"):
        bon_rlb_weights(0.5, 0)
