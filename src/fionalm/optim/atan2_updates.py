"""Three ways to compute the same Adam-atan2 step: tensor by tensor, for lists of tensors, and compiled.

All three change the parameters and moments in place, and all compute every result from products, quotients and
roots of gradients alone, with no constant that is added to them: that is what keeps the update the same bit for
bit when all gradients are scaled by a power of two.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Elements treated at a time on a CPU: large enough to hide what a call costs, small enough that what one
# operation wrote is still in the cache for the next.
CHUNK = 2**18


class UpdateScalars(NamedTuple):
    """The numbers of one step of one group."""

    step: int
    beta1: float
    beta2: float
    slope: float
    """b of a * atan2(m, b * sqrt(v))."""
    size: float
    """lr * a."""
    keep: float
    """What weight decay leaves of a parameter: 1 - lr * weight_decay."""

    @property
    def corrected_slope(self) -> float:
        """Return c for which atan2(m, c sqrt(v)) is atan2 of the moments after their bias correction."""
        return self.slope * (1 - self.beta1**self.step) / math.sqrt(1 - self.beta2**self.step)


class Tensors(NamedTuple):
    """Parallel lists of local tensors: parameters, gradients, first and second moments."""

    params: list[Tensor]
    grads: list[Tensor]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]

    def append(self, param: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor) -> None:
        """Add a parameter; of a DTensor add this process's shard, for the update is elementwise."""
        placements = getattr(param, "placements", None)
        if placements is not None and getattr(grad, "placements", None) not in (None, placements):
            grad = grad.redistribute(placements=placements)  # pyright: ignore[reportAttributeAccessIssue]
        if grad.dtype != param.dtype:
            grad = grad.to(param.dtype)
        for tensors, tensor in zip(self, (param, grad, exp_avg, exp_avg_sq), strict=True):
            tensors.append(tensor.to_local() if hasattr(tensor, "to_local") else tensor)  # pyright: ignore

    def rows(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Iterate over the parameters that have any elements."""
        return (row for row in zip(*self, strict=True) if row[0].numel())


def update_tensorwise(tensors: Tensors, scalars: UpdateScalars) -> None:
    """Update one tensor after the other: the fastest without a compiler on a CPU, and needs next to no memory."""
    for row in tensors.rows():
        if all(tensor.is_contiguous() for tensor in row):
            for chunk in _chunks(row):
                _update_contiguous(*chunk, scalars)
        else:
            update_foreach(Tensors(*([tensor] for tensor in row)), scalars)


def _update_contiguous(
    param: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, scalars: UpdateScalars
) -> None:
    # torch's fused Adam reads everything once. Given zeros for parameters and a rate of -1/b, it updates both
    # moments and leaves mh / (b sqrt(vh)), of which the arc tangent is wanted. The smallest normal number as its
    # epsilon is lost in any sqrt(vh) above 0, and makes 0 / 0 a 0.
    ratio = torch.zeros_like(param)
    torch._fused_adam_(
        [ratio],
        [grad],
        [exp_avg],
        [exp_avg_sq],
        [],
        [torch.full((), float(scalars.step), device=param.device)],
        lr=-1 / scalars.slope,
        beta1=scalars.beta1,
        beta2=scalars.beta2,
        weight_decay=0.0,
        eps=torch.finfo(torch.float32).tiny,
        amsgrad=False,
        maximize=False,
    )
    # atan2(x, 1) is atan(x); on CPUs where torch leaves atan to MKL it is up to three times as fast.
    ratio.atan2_(ratio.new_ones(()))
    if scalars.keep != 1:
        param.mul_(scalars.keep)
    param.add_(ratio, alpha=-scalars.size)


def _chunks(row: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    if row[0].numel() <= CHUNK:
        yield row  # pyright: ignore[reportReturnType]
    else:
        yield from zip(*(tensor.view(-1).split(CHUNK) for tensor in row), strict=True)


def update_foreach(tensors: Tensors, scalars: UpdateScalars) -> None:
    """Update all tensors with a few calls: the fastest where each call launches a kernel on an accelerator."""
    params, grads, exp_avgs, exp_avg_sqs = tensors
    torch._foreach_lerp_(exp_avgs, grads, 1 - scalars.beta1)
    torch._foreach_mul_(exp_avg_sqs, scalars.beta2)
    torch._foreach_addcmul_(exp_avg_sqs, grads, grads, 1 - scalars.beta2)
    # torch has no atan2 for lists, so it is atan of the quotient, with 0 / 0 made a 0.
    divisors = torch._foreach_sqrt(exp_avg_sqs)
    torch._foreach_clamp_min_(divisors, torch.finfo(divisors[0].dtype).tiny)
    torch._foreach_mul_(divisors, scalars.corrected_slope)
    ratios = torch._foreach_div(exp_avgs, divisors)
    torch._foreach_atan_(ratios)
    if scalars.keep != 1:
        torch._foreach_mul_(params, scalars.keep)
    torch._foreach_add_(params, ratios, alpha=-scalars.size)


def update_compiled(tensors: Tensors, scalars: UpdateScalars) -> None:
    """Update tensor by tensor with one compiled kernel; numbers are tensors to it, so none recompiles it."""
    values = (scalars.beta1, scalars.beta2, scalars.corrected_slope, scalars.size, scalars.keep)
    inputs: dict[torch.dtype, list[Tensor]] = {}
    for row in tensors.rows():
        dtype = torch.promote_types(row[0].dtype, torch.float32)
        if dtype not in inputs:
            inputs[dtype] = [torch.tensor(value, dtype=dtype) for value in values]
        if row[0].numel() > 1 and all(tensor.is_contiguous() for tensor in row):
            _kernel()(*(tensor.view(-1) for tensor in row), *inputs[dtype])
        else:  # each rank, and the size 1, would be compiled again
            update_foreach(Tensors(*([tensor] for tensor in row)), scalars)


@functools.cache
def _kernel() -> Callable[..., None]:
    return torch.compile(_update_elements, dynamic=True)


def _update_elements(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    beta1: Tensor,
    beta2: Tensor,
    corrected_slope: Tensor,
    size: Tensor,
    keep: Tensor,
) -> None:
    dtype = beta1.dtype  # at least float32, in which a smaller parameter is updated as well
    g = grad.to(dtype)
    m = torch.lerp(exp_avg.to(dtype), g, 1 - beta1)
    v = torch.lerp(exp_avg_sq.to(dtype), g * g, 1 - beta2)
    angle = arctan2(m, v.sqrt() * corrected_slope)
    exp_avg.copy_(m)
    exp_avg_sq.copy_(v)
    param.copy_(param.to(dtype) * keep - angle * size)


def arctan2(y: Tensor, x: Tensor) -> Tensor:
    """Return atan2(y, x) for x >= 0, in a form that a compiler can vectorise with few instructions.

    float32 is within 2.5 units in the last place, by a minimax polynomial for atan(t) / t of t = min / max of
    |y| and x, evaluated in pairs (Estrin); other dtypes are `torch.atan2`.
    """
    if y.dtype != torch.float32:
        return torch.atan2(y, x)
    size = y.abs()
    # The smallest normal number makes 0 / 0 a 0 and is below every other quotient's divisor.
    t = torch.minimum(size, x) / torch.maximum(size, x).clamp_min(1.1754943508222875e-38)
    z = t * t
    z2 = z * z
    low = (-0.33333152532577515 + 0.19993773102760315 * z) + (-0.14211055636405945 + 0.10666004568338394 * z) * z2
    high = (-0.07552213966846466 + 0.043211858719587326 * z) + (-0.016367927193641663 + 0.002920691855251789 * z) * z2
    angle = t + t * (z * (low + high * (z2 * z2)))
    angle = torch.where(size > x, 1.5707963267948966 - angle, angle)
    return torch.copysign(angle, y)
