from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from fionalm.sampling import SamplingParams
from fionalm.sampling.choice import choose, token_weights, uniforms

SEEDS = st.integers(min_value=0, max_value=2**63 - 1)
CUTS = [{}, {"top_k": 5}, {"top_p": 0.6}, {"min_p": 0.2}, {"top_k": 9, "top_p": 0.8, "min_p": 0.1, "temperature": 1.7}]


def logits_of(rows: int, vocab: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


@given(st.lists(st.tuples(SEEDS, st.integers(0, 10**6)), min_size=1, max_size=20), st.data())
def test_a_uniform_number_depends_on_its_seed_and_step_alone(pairs, data) -> None:
    together = uniforms(*zip(*pairs, strict=True))
    assert ((together >= 0) & (together < 1)).all()
    index = data.draw(st.integers(0, len(pairs) - 1))
    assert uniforms([pairs[index][0]], [pairs[index][1]])[0] == together[index]


@pytest.mark.parametrize("vary", ["seeds", "steps"])
def test_uniform_numbers_are_uniform_and_unrelated_between_neighbours(vary: str) -> None:
    count = 40_000
    numbers, fixed = list(range(count)), [7] * count
    drawn = uniforms(numbers, fixed) if vary == "seeds" else uniforms(fixed, numbers)
    cells = np.bincount((drawn * 100).astype(int), minlength=100)
    chi2 = ((cells - count / 100) ** 2 / (count / 100)).sum()
    assert chi2 < 99 + 4 * math.sqrt(2 * 99)
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 4 / math.sqrt(count)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    vocab=st.integers(2, 150),
    temperature=st.floats(0.05, 5),
    top_k=st.integers(0, 160),
    top_p=st.floats(0.05, 1),
    min_p=st.floats(0, 1),
)
def test_weights_are_those_of_transformers(seed, vocab, temperature, top_k, top_p, min_p) -> None:
    logits = logits_of(3, vocab, seed)
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    weights = token_weights(logits, params).double()
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(min(top_k, vocab)))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    if min_p:
        warpers.append(MinPLogitsWarper(min_p))
    ids = torch.zeros(3, 1, dtype=torch.long)
    expected = warpers(ids, logits.double()).softmax(-1)  # pyright: ignore[reportArgumentType]
    found = weights / weights.sum(-1, keepdim=True)
    differing = (found > 0) != (expected > 0)
    # Rounding may put a token that stands exactly on an edge on either side.
    assert differing.sum() <= 1
    if not differing.any():
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("vocab", [3, 64, 65, 300])
@pytest.mark.parametrize("cut", CUTS)
def test_evenly_spaced_draws_choose_each_token_in_proportion(vocab: int, cut: dict) -> None:
    params, grid = SamplingParams(**cut), 4000
    logits = logits_of(1, vocab, seed=vocab)
    weights = token_weights(logits, params)[0].double()
    draws = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid
    tokens, logps = choose(logits.expand(grid, -1), params, draws)
    counts = torch.bincount(tokens, minlength=vocab)
    assert (counts - grid * weights / weights.sum()).abs().max() <= 1
    torch.testing.assert_close(logps, logits[0].log_softmax(-1)[tokens])


@pytest.mark.parametrize("cut", CUTS)
def test_extreme_draws_never_choose_an_excluded_token(cut: dict) -> None:
    params = SamplingParams(**cut)
    logits = torch.cat([logits_of(50, 200, seed=3, scale=20), torch.full((50, 30), -torch.inf)], 1)
    weights = token_weights(logits, params)
    for draw in (0.0, 1 - 2.0**-53):
        tokens, _ = choose(logits, params, torch.full((50,), draw, dtype=torch.float64))
        assert (weights.gather(1, tokens.unsqueeze(1)) > 0).all()


def test_at_temperature_0_the_most_likely_token_is_taken() -> None:
    logits = logits_of(6, 90)
    tokens, logps = choose(logits, SamplingParams(temperature=0, top_k=3, top_p=0.5), torch.zeros(6))
    assert torch.equal(tokens, logits.argmax(-1))
    torch.testing.assert_close(logps, logits.log_softmax(-1).amax(-1))


def test_a_tiny_temperature_is_no_overflow() -> None:
    logits = logits_of(6, 90, scale=30)
    tokens, _ = choose(logits, SamplingParams(temperature=1e-30), torch.full((6,), 0.7, dtype=torch.float64))
    assert torch.equal(tokens, logits.argmax(-1))
