"""Parameters of several shapes, and gradients that are the same for everyone who asks for the same step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

SHAPES = ((7, 5), (33,), (1,), (2, 3, 4), (0, 4))
Take = Callable[..., None]


def make_params(shapes: Sequence[tuple[int, ...]] = SHAPES, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def take_steps(
    optimizer: torch.optim.Optimizer, params: Sequence[Tensor], steps: int, *, first: int = 0, scale: float = 1.0
) -> None:
    """Make `steps` steps with gradients that depend on the number of the step alone."""
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        for param in params:
            param.grad = (scale * torch.randn(param.shape, generator=generator)).to(param.dtype)
        optimizer.step()


@pytest.fixture(name="make_params", scope="session")
def make_params_fixture() -> Callable[..., list[Tensor]]:
    return make_params


@pytest.fixture(name="take_steps", scope="session")
def take_steps_fixture() -> Take:
    return take_steps
