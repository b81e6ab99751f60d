"""Token log-probabilities: against torch's own log_softmax, in values, gradients and memory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fionalm.objectives import linear_token_logps, token_logps


def _by_autograd(features: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> Tensor:
    logps = torch.log_softmax(features @ weight.T / temperature, -1)
    return logps.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(0, 5),
    positions=st.integers(1, 4),
    vocab=st.integers(1, 9),
    chunk=st.sampled_from([1, 3, 1000]),
    temperature=st.sampled_from([0.5, 1.0, 1.7]),
    frozen=st.sampled_from(["none", "weight", "features"]),
    seed=st.integers(0, 1000),
)
def test_values_and_gradients_are_those_of_log_softmax(
    rows: int, positions: int, vocab: int, chunk: int, temperature: float, frozen: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    features = torch.randn(rows, positions, 3, **options).requires_grad_(frozen != "features")
    weight = torch.randn(vocab, 3, **options).requires_grad_(frozen != "weight")
    targets = torch.randint(vocab, (rows, positions), generator=generator)
    above = torch.randn(rows, positions, **options)
    inputs = [tensor for tensor in (features, weight) if tensor.requires_grad]

    found = linear_token_logps(features, weight, targets, temperature=temperature, chunk=chunk)
    expected = _by_autograd(features, weight, targets, temperature)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(token_logps(features @ weight.T, targets, temperature=temperature), expected)
    gradients = torch.autograd.grad(found, inputs, above)
    for mine, theirs in zip(gradients, torch.autograd.grad(expected, inputs, above), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("chunk", [4, 1000])
def test_finite_differences(chunk: int) -> None:
    features = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(7, (2, 5))
    assert torch.autograd.gradcheck(
        lambda x, w: linear_token_logps(x, w, targets, temperature=0.8, chunk=chunk), (features, weight)
    )


def test_large_logits_stay_finite() -> None:
    features, weight = torch.tensor([[1e4, -1e4]], requires_grad=True), torch.eye(2)
    found = linear_token_logps(features, weight, torch.tensor([0]))
    found.sum().backward()
    assert found.item() == 0 and features.grad is not None and not features.grad.any()


def test_half_precision_sums_in_single() -> None:
    features, weight = torch.randn(40, 8), torch.randn(50, 8)
    targets = torch.randint(50, (40,))
    with torch.autocast("cpu", torch.bfloat16):
        found = linear_token_logps(features, weight, targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, _by_autograd(features, weight, targets, 1.0), rtol=0.05, atol=0.1)


@pytest.mark.parametrize("frozen", [False, True])
def test_no_full_logits_are_held(frozen: bool) -> None:
    """The largest tensor that is saved or made, forward and backward, is a chunk of logits."""
    from torch.utils._python_dispatch import TorchDispatchMode

    tokens, vocab, chunk = 512, 300, 64
    largest = 0

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else (out,):
                if isinstance(tensor, Tensor):
                    largest = max(largest, tensor.numel())
            return out

    features = torch.randn(tokens, 16, requires_grad=True)
    weight = torch.randn(vocab, 16, requires_grad=not frozen)
    targets = torch.randint(vocab, (tokens,))
    with Largest():
        linear_token_logps(features, weight, targets, chunk=chunk).sum().backward()
    assert features.grad is not None
    assert largest == chunk * vocab < tokens * vocab
