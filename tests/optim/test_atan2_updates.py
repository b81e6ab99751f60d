"""The three ways to compute an Adam-atan2 step: they agree, and none depends on the scale of the gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from fionalm.optim import AdamAtan2, atan2_updates
from fionalm.optim.atan2_updates import CHUNK, arctan2

# Torch's own, while its compiler is imported.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

PATHS: dict[str, dict[str, Any]] = {
    "tensorwise": {"foreach": False},
    "foreach": {"foreach": True},
    "compiled": {"compiled": True},
}
each_path = pytest.mark.parametrize("path", PATHS)


def trained(grads: list[Tensor], scale: float = 1.0, **options: Any) -> Tensor:
    """Return the parameter after a step with each of `grads` times `scale`, from zeros."""
    param = torch.zeros_like(grads[0], requires_grad=True)
    optimizer = AdamAtan2([param], lr=0.1, **options)
    for grad in grads:
        param.grad = grad * scale
        optimizer.step()
    return param.detach()


def random_grads(seed: int, shape: tuple[int, ...] = (37,), steps: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.logspace(-3, 3, math.prod(shape)).view(shape)
    return [torch.randn(shape, generator=generator) * spread for _ in range(steps)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_paths_agree(make_params: Any, take_steps: Any, dtype: torch.dtype) -> None:
    results = []
    for options in PATHS.values():
        params = make_params(dtype=dtype)
        optimizer = AdamAtan2(params, lr=0.05, weight_decay=0.1, a=1.1, b=0.7, **options)
        take_steps(optimizer, params, 6)
        assert all(p.dtype == dtype for p in params)
        assert {state["exp_avg"].dtype for state in optimizer.state.values()} == {dtype}
        results.append(params)
    exact = {torch.float32: 1e-6, torch.float64: 1e-13, torch.bfloat16: 0.03}[dtype]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=exact, atol=exact)


def test_halves_are_updated_by_the_float_formula(make_params: Any) -> None:
    param = torch.zeros(3, dtype=torch.float16, requires_grad=True)
    optimizer = AdamAtan2([param], lr=0.5, foreach=False)
    param.grad = torch.tensor([3.0, -0.01, 0.0], dtype=torch.float16)
    optimizer.step()
    torch.testing.assert_close(param.detach().float(), torch.tensor([-0.5, 0.5, 0.0]), rtol=2e-3, atol=0)


@each_path
def test_tensors_that_are_not_contiguous(path: str) -> None:
    grads = random_grads(1, (6, 8))
    wanted = trained(grads, **PATHS[path])
    param = torch.zeros(8, 6).t().requires_grad_()
    optimizer = AdamAtan2([param], lr=0.1, **PATHS[path])
    for grad in grads:
        param.grad = grad.t().contiguous().t()
        optimizer.step()
    assert not param.is_contiguous()
    torch.testing.assert_close(param.detach(), wanted)


def test_chunks_of_a_large_tensor() -> None:
    grads = random_grads(2, (CHUNK + 5,), steps=2)
    whole = trained(grads, foreach=False)
    parts = [trained([g[part] for g in grads], foreach=False) for part in (slice(CHUNK), slice(CHUNK, None))]
    assert torch.equal(whole, torch.cat(parts))


def test_mixed_dtypes_in_one_group() -> None:
    params = [torch.zeros(4, dtype=dtype, requires_grad=True) for dtype in (torch.float32, torch.float64)]
    for options in PATHS.values():
        optimizer = AdamAtan2(params, lr=0.25, **options)
        for param in params:
            param.grad = torch.ones_like(param)
        before = [param.detach().clone() for param in params]
        optimizer.step()
        for param, old in zip(params, before, strict=True):
            torch.testing.assert_close(param.detach(), old - 0.25)


@each_path
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), exponent=st.integers(-40, 40))
def test_scale_by_a_power_of_two_changes_no_bit(path: str, seed: int, exponent: int) -> None:
    grads = random_grads(seed)
    plain = trained(grads, **PATHS[path])
    assert plain.abs().min() > 0
    assert torch.equal(plain, trained(grads, 2.0**exponent, **PATHS[path]))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-12, 1e12))
def test_any_scale_changes_only_rounding(seed: int, scale: float) -> None:
    grads = random_grads(seed)
    torch.testing.assert_close(trained(grads, scale), trained(grads), rtol=1e-5, atol=1e-7)


@each_path
def test_where_the_second_moment_underflows(path: str) -> None:
    """In float32 updates keep their value to gradients near 1e-19 and are lost near 1e-23, but never NaN."""
    grads = [torch.full((40,), value) for value in (1.0, -0.5, 0.25)]
    plain = trained(grads, **PATHS[path])
    for scale, error in ((1e-17, 1e-5), (1e-19, 2e-2), (1e-20, 0.5)):
        torch.testing.assert_close(trained(grads, scale, **PATHS[path]), plain, rtol=error, atol=0)
    assert not torch.allclose(trained(grads, 1e-22, **PATHS[path]), plain, rtol=0.05)
    # With v = 0 the quotient is infinite and the update its largest, 2 lr in the direction of m.
    torch.testing.assert_close(trained(grads[:1], 1e-25, **PATHS[path]), torch.full((40,), -0.2))


def test_arctan2_is_accurate() -> None:
    generator = torch.Generator().manual_seed(0)
    size = torch.cat([torch.exp(8 * torch.randn(200_000, generator=generator)), torch.ones(1)])
    x = torch.cat([torch.exp(8 * torch.randn(200_000, generator=generator)), torch.ones(1)])
    y = size * torch.where(torch.rand(size.shape, generator=generator) < 0.5, -1, 1)
    exact = np.arctan2(y.double().numpy(), x.double().numpy())
    ours = arctan2(y, x).double().numpy()
    units = np.abs(ours - exact) / np.spacing(np.abs(exact).astype(np.float32))
    assert units.max() <= 4
    edges_y = torch.tensor([0.0, -0.0, 1.0, -2.0, 0.0, 1e-30, -1e-30])
    edges_x = torch.tensor([0.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0])
    torch.testing.assert_close(arctan2(edges_y, edges_x), torch.atan2(edges_y, edges_x), rtol=1e-6, atol=0)
    assert arctan2(torch.tensor([math.nan, 1.0]), torch.tensor([1.0, math.nan])).isnan().all()


def test_numpys_and_torchs_arctan_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    grads = random_grads(3, (1000,))
    results = []
    for numpy_is_faster in (False, True):
        monkeypatch.setattr(atan2_updates, "_numpy_is_faster", lambda _, answer=numpy_is_faster: answer)
        results.append(trained(grads, foreach=False))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-7)


def test_gradients_that_are_not_numbers_show() -> None:
    for options in PATHS.values():
        result = trained([torch.tensor([math.nan, 1.0, 2.0])], **options)
        assert result.isnan().tolist() == [True, False, False]


def test_compiled_step_with_a_schedule(make_params: Any, take_steps: Any) -> None:
    """`torch.compile(optimizer.step)` compiles its kernel once, for all shapes, rates and steps."""
    torch.compiler.reset()
    results = []
    for compiled in (False, True):
        params = make_params()
        optimizer = AdamAtan2(params, lr=0.05, weight_decay=0.01, independent_weight_decay=True)
        schedule = LambdaLR(optimizer, lambda step: 1 / (1 + step))
        step = torch.compile(optimizer.step) if compiled else optimizer.step
        for index in range(5):
            generator = torch.Generator().manual_seed(index)
            for param in params:
                param.grad = torch.randn(param.shape, generator=generator)
            step()
            schedule.step()
            if index == 1:
                torch._dynamo.utils.counters.clear()
        results.append(params)
    assert not torch._dynamo.utils.counters["frames"]
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-7)
    assert any(not torch.equal(one, two) for one, two in zip(*results, strict=True))  # another kernel ran
