"""From logits to tokens: temperature, truncation, and one uniform number a draw, which the seed and the step decide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fionalm.sampling.types import SamplingParams

BLOCK = 64
MASK = 0xFFFFFFFFFFFFFFFF


def uniforms(seeds: Sequence[int], steps: Sequence[int]) -> np.ndarray:
    """Return a number in [0, 1) for each (seed, step), whatever stands beside it.

    It is SplitMix64's output number `step` from a state that the seed is mixed into (Steele et al. 2014, figure 16).
    """
    state = _mix(np.array([seed & MASK for seed in seeds], dtype=np.uint64) ^ np.uint64(0x6A09E667F3BCC909))
    with np.errstate(over="ignore"):
        state = state + np.array([step + 1 for step in steps], dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (_mix(state) >> np.uint64(11)) * 2.0**-53


def choose(logits: Tensor, params: SamplingParams, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Choose a token a row.

    Args:
        logits: [b, v], float32 or wider.
        params: temperature and truncation.
        draws: uniform numbers [b], float64; unused at temperature 0.

    Returns:
        Tokens [b] and their log-probabilities [b] under softmax(logits), at temperature 1 and untruncated.
    """
    shifted = logits - logits.amax(-1, keepdim=True)
    if params.temperature == 1:
        weights = shifted.exp()
        log_z = weights.sum(-1, keepdim=True).log()
    else:
        log_z = shifted.exp().sum(-1, keepdim=True).log()
        weights = shifted if params.temperature == 0 else (shifted / params.temperature).exp()
    if params.temperature == 0:
        tokens = logits.argmax(-1, keepdim=True)
    else:
        tokens = _draw(_truncate(weights, params), draws.unsqueeze(1))
    return tokens.squeeze(1), (shifted.gather(1, tokens) - log_z).squeeze(1)


def token_weights(logits: Tensor, params: SamplingParams) -> Tensor:
    """Return what tokens are drawn in proportion to, [b, v], for a temperature above 0.

    Temperature, then top-k, top-p, min-p, each on what the one before left, as transformers orders them. Tokens
    tied at top-k's edge all stay; at top-p's, the lower ids.
    """
    shifted = logits - logits.amax(-1, keepdim=True)
    return _truncate((shifted / params.temperature).exp(), params)


def _truncate(weights: Tensor, params: SamplingParams) -> Tensor:
    """Zero the weights that fall to truncation; each row's largest weight is 1."""
    vocab = weights.shape[1]
    if 0 < params.top_k < vocab:
        edge = weights.topk(params.top_k, sorted=False).values.amin(-1, keepdim=True)
        weights = weights.where(weights >= edge, 0)
    if params.top_p < 1:
        weights = _nucleus(weights, params.top_p)
    if params.min_p > 0:
        weights = weights.where(weights >= params.min_p, 0)
    return weights


def _nucleus(weights: Tensor, top_p: float) -> Tensor:
    """Keep the most likely tokens up to the one whose mass, with that of those before it, reaches `top_p`."""
    ordered, order = torch.sort(weights, dim=-1, descending=True, stable=True)
    wide = ordered.double()
    mass = wide.cumsum(-1)
    kept = mass - wide < top_p * mass[:, -1:]
    return torch.zeros_like(weights).scatter_(1, order, ordered.where(kept, 0))


def _draw(weights: Tensor, draws: Tensor) -> Tensor:
    """Invert the cumulative distribution of `weights` [b, v] at `draws` [b, 1].

    In vocabulary order, in two levels (blocks, then tokens of one block) and in float64 sums: so rounding of the
    logits moves a draw only if it falls that close to the border of two tokens.
    """
    rows, vocab = weights.shape
    blocks = -(-vocab // BLOCK)
    if vocab % BLOCK:
        weights = torch.nn.functional.pad(weights, (0, blocks * BLOCK - vocab))
    weights = weights.view(rows, blocks, BLOCK)
    mass = weights.sum(-1, dtype=torch.float64).cumsum(-1)
    target = draws.to(mass.dtype) * mass[:, -1:]
    block = torch.searchsorted(mass, target, right=True).clamp_(max=blocks - 1)
    before = torch.where(block > 0, mass.gather(1, (block - 1).clamp(min=0)), 0)
    inside = weights.gather(1, block.unsqueeze(-1).expand(-1, -1, BLOCK)).squeeze(1).double()
    passed = (inside.cumsum(-1) + before > target) & (inside > 0)
    # Should rounding leave no token past the target, the block's last possible one is the answer.
    last = BLOCK - 1 - (inside > 0).flip(-1).int().argmax(-1, keepdim=True)
    token = torch.where(passed.any(-1, keepdim=True), passed.int().argmax(-1, keepdim=True), last)
    return (block * BLOCK + token).clamp_(max=vocab - 1)


def _mix(state: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
