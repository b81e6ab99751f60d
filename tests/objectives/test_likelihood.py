from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from fionalm.objectives import cross_entropy_with_z_loss, linear_cross_entropy
from fionalm.objectives.likelihood import default_chunk


def problem(tokens=11, d_model=5, vocab=13, scale=1.0, dtype=torch.float64, ignored=0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(tokens, d_model, generator=generator, dtype=dtype) * scale
    weight = torch.randn(vocab, d_model, generator=generator, dtype=dtype)
    targets = torch.randint(vocab, (tokens,), generator=generator)
    targets[:ignored] = -100
    return features.requires_grad_(), weight.requires_grad_(), targets


def test_plain_loss_is_the_definition() -> None:
    features, weight, targets = problem(ignored=3)
    logits = features @ weight.T
    loss, log_z = cross_entropy_with_z_loss(logits, targets, z_loss=0.3)
    z = logits[3:].exp().sum(-1)
    nll = -(logits[3:].exp() / z[:, None])[torch.arange(8), targets[3:]].log()
    torch.testing.assert_close(loss, nll.mean() + 0.3 * z.log().square().mean())
    torch.testing.assert_close(log_z.mean, z.log().mean().detach())
    torch.testing.assert_close(log_z.mean_square, z.log().square().mean().detach())
    assert not log_z.mean.requires_grad
    torch.testing.assert_close(
        cross_entropy_with_z_loss(logits, targets)[0], F.cross_entropy(logits, targets, ignore_index=-100)
    )


@pytest.mark.parametrize("z_loss", [0.0, 0.5])
@pytest.mark.parametrize("ignored", [0, 4])
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_gradients_by_finite_differences(z_loss: float, ignored: int, chunk: int) -> None:
    features, weight, targets = problem(ignored=ignored)

    def loss(features: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return 3.0 * linear_cross_entropy(features, weight, targets, z_loss=z_loss, chunk=chunk)[0]

    assert torch.autograd.gradcheck(loss, (features, weight))


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.integers(1, 40),
    chunk=st.integers(1, 50),
    vocab=st.integers(2, 30),
    ignored=st.integers(0, 5),
    z_loss=st.sampled_from([0.0, 1e-4, 1.0]),
    ignore_index=st.sampled_from([-100, 0]),
    seed=st.integers(0, 99),
)
def test_chunked_equals_plain(tokens, chunk, vocab, ignored, z_loss, ignore_index, seed) -> None:
    features, weight, targets = problem(tokens, 8, vocab, dtype=torch.float32, seed=seed)
    targets[: min(ignored, tokens - 1)] = ignore_index
    targets[-1] = vocab - 1  # one token counts
    options = {"z_loss": z_loss, "ignore_index": ignore_index}
    expected, expected_log_z = cross_entropy_with_z_loss(features @ weight.T, targets, **options)
    expected_grads = torch.autograd.grad(expected, (features, weight))
    loss, log_z = linear_cross_entropy(features, weight, targets, chunk=chunk, **options)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tuple(log_z), tuple(expected_log_z), rtol=1e-5, atol=1e-5)
    grads = torch.autograd.grad(loss, (features, weight))
    torch.testing.assert_close(grads, expected_grads, rtol=1e-4, atol=1e-5)
    assert not log_z.mean.requires_grad and not log_z.mean_square.requires_grad


@pytest.mark.parametrize("scale", [1e4, 1e-6])
def test_extreme_logits_stay_finite(scale: float) -> None:
    features, weight, targets = problem(scale=scale, dtype=torch.float32)
    expected = F.cross_entropy(features @ weight.T, targets)
    loss, _ = linear_cross_entropy(features, weight, targets, chunk=3)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    assert features.grad is not None and features.grad.isfinite().all()
    assert weight.grad is not None and weight.grad.isfinite().all()


def test_batched_shapes_and_repeated_backward() -> None:
    features, weight, targets = problem(tokens=12)
    folded = features.detach().view(3, 4, 5).requires_grad_()
    loss, _ = linear_cross_entropy(folded, weight, targets.view(3, 4), chunk=5)
    expected, _ = linear_cross_entropy(features, weight, targets)
    torch.testing.assert_close(loss, expected)
    first = torch.autograd.grad(loss, folded, retain_graph=True)[0]
    second = torch.autograd.grad(2 * loss, folded)[0]
    torch.testing.assert_close(second, 2 * first)
    assert first.shape == folded.shape


def test_no_counted_token_is_nan() -> None:
    features, weight, targets = problem(ignored=11)
    assert linear_cross_entropy(features, weight, targets)[0].isnan()
    assert cross_entropy_with_z_loss(features @ weight.T, targets)[0].isnan()


def test_second_derivative_is_refused() -> None:
    features, weight, targets = problem()
    loss, _ = linear_cross_entropy(features, weight, targets)
    scale = torch.ones((), dtype=loss.dtype, requires_grad=True)
    (grad,) = torch.autograd.grad(loss * scale, features, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


class Products(TorchDispatchMode):
    """Records the entries of every tensor that an operation makes, and counts matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.count = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.largest = max(self.largest, result.numel())
        self.count += func in (
            torch.ops.aten.mm.default,
            torch.ops.aten.mm.out,
            torch.ops.aten.addmm_.default,
        )
        return result


def test_never_holds_all_logits() -> None:
    tokens, d_model, vocab, chunk = 64, 4, 50, 8
    features, weight, targets = problem(tokens, d_model, vocab)
    saved = []
    keep = torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t)
    with Products() as made, keep:
        loss, _ = linear_cross_entropy(features, weight, targets, z_loss=0.1, chunk=chunk)
        loss.backward()
    assert made.largest == chunk * vocab < tokens * vocab
    assert sorted(saved) == [vocab * d_model, tokens * d_model]
    with Products() as plain:
        cross_entropy_with_z_loss(features @ weight.T, targets)[0].backward()
    assert plain.largest == tokens * vocab


@pytest.mark.parametrize("frozen, products", [((False, False), 3), ((True, False), 2), ((True, True), 1)])
def test_computes_only_the_wanted_gradients(frozen: tuple[bool, bool], products: int) -> None:
    features, weight, targets = problem()
    features.requires_grad_(not frozen[0])
    weight.requires_grad_(not frozen[1])
    with Products() as made:
        loss, _ = linear_cross_entropy(features, weight, targets)
    assert made.count == products
    assert loss.requires_grad == (not all(frozen))
    with Products() as made, torch.no_grad():
        linear_cross_entropy(*problem())
    assert made.count == 1


@pytest.mark.parametrize("autocast", [True, False])
def test_bf16_is_near_float32_and_gives_gradients_in_the_inputs_dtype(autocast: bool) -> None:
    features, weight, targets = problem(256, 32, 64, dtype=torch.float32)
    expected, _ = linear_cross_entropy(features, weight, targets, z_loss=1e-2)
    expected_grads = torch.autograd.grad(expected, (features, weight))
    dtype = torch.float32 if autocast else torch.bfloat16
    inputs = [tensor.detach().to(dtype).requires_grad_() for tensor in (features, weight)]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss, log_z = linear_cross_entropy(inputs[0], inputs[1], targets, z_loss=1e-2, chunk=100)
    assert loss.dtype == log_z.mean.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0)
    for grad, wanted in zip(torch.autograd.grad(loss, inputs), expected_grads, strict=True):
        assert grad.dtype == dtype
        assert (grad - wanted).norm() < 0.02 * wanted.norm()


@pytest.mark.parametrize("vocab", [2, 4096, 200_000])
@pytest.mark.parametrize("device, least, most", [("cpu", 256, 1 << 20), ("cuda", 1024, 1 << 26)])
def test_default_chunk_fits_the_device(vocab: int, device: str, least: int, most: int) -> None:
    chunk = default_chunk(vocab, torch.device(device))
    assert chunk >= least
    assert chunk == least or chunk * vocab <= most
