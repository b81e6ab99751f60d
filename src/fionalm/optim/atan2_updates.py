"""Three ways to compute the same Adam-atan2 step: tensor by tensor, for lists of tensors, and compiled.

All three change the parameters and moments in place, and all compute every result from products, quotients and
roots of gradients alone, with no constant added to them but one that is lost in rounding: that is what keeps the
update the same bit for bit when all gradients are scaled by a power of two.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

# Elements treated at a time on a CPU: large enough to hide what a call costs, small enough that what one
# operation wrote is still in the cache for the next.
CHUNK = 2**18

# Tensors of one size that a call of the compiled kernel treats: each call costs as much as 10,000 elements.
BATCH = 4


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
        row: Any = (param, grad, exp_avg, exp_avg_sq)
        if hasattr(param, "placements"):
            row = [tensor.redistribute(placements=row[0].placements).to_local() for tensor in row]
        if grad.dtype != param.dtype:
            row = (row[0], row[1].to(param.dtype), *row[2:])
        for tensors, tensor in zip(self, row, strict=True):
            tensors.append(tensor)

    def rows(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Iterate over the parameters that have any elements."""
        return (row for row in zip(*self, strict=True) if row[0].numel())


def update_tensorwise(tensors: Tensors, scalars: UpdateScalars) -> None:
    """Update one tensor after the other: the fastest without a compiler on a CPU, and needs next to no memory."""
    step = torch.full((), float(scalars.step), device=tensors.params[0].device)
    for row in tensors.rows():
        if all(tensor.is_contiguous() for tensor in row):
            for chunk in _chunks(row):
                _update_contiguous(*chunk, step, scalars)
        else:
            update_foreach(Tensors(*([tensor] for tensor in row)), scalars)


def _update_contiguous(
    param: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, step: Tensor, scalars: UpdateScalars
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
        [step],
        lr=-1 / scalars.slope,
        beta1=scalars.beta1,
        beta2=scalars.beta2,
        weight_decay=0.0,
        eps=torch.finfo(torch.promote_types(param.dtype, torch.float32)).tiny,
        amsgrad=False,
        maximize=False,
    )
    _arctan_(ratio)
    if scalars.keep != 1:
        param.mul_(scalars.keep)
    param.add_(ratio, alpha=-scalars.size)


def _arctan_(x: Tensor) -> None:
    """Make x its arc tangent, with the fastest function there is for it, by up to six times."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and _numpy_is_faster(torch.get_num_threads()):
        array = x.numpy()
        np.arctan(array, out=array)
    else:
        # atan2(x, 1) is atan(x); on CPUs where torch leaves atan to MKL it is the faster of the two.
        x.atan2_(x.new_ones(()))


@functools.cache
def _numpy_is_faster(threads: int) -> bool:
    """Say whether numpy has a vectorised arctan for this CPU, over three times as fast as torch's, on one thread."""
    introspect = getattr(np.lib, "introspect", None)  # which older versions lack
    if introspect is None or threads > 3:
        return False
    kernel = introspect.opt_func_info("^arctan$", "float32").get("arctan", {}).get("ff", {})
    return not kernel.get("current", "baseline").startswith("baseline")


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
    torch._foreach_mul_(divisors, scalars.corrected_slope)
    torch._foreach_clamp_min_(divisors, torch.finfo(divisors[0].dtype).tiny)
    ratios = torch._foreach_div(exp_avgs, divisors)
    torch._foreach_atan_(ratios)
    if scalars.keep != 1:
        torch._foreach_mul_(params, scalars.keep)
    torch._foreach_add_(params, ratios, alpha=-scalars.size)


def update_compiled(tensors: Tensors, scalars: UpdateScalars) -> None:
    """Update with a compiled kernel, one for single tensors and one for batches of a size.

    Sizes are symbols to it and numbers are tensors, so that none of them compiles it again.
    """
    # At least float32, in which a smaller parameter is updated as well.
    dtype = torch.promote_types(tensors.params[0].dtype, torch.float32)
    values = (1 - scalars.beta1, 1 - scalars.beta2, scalars.corrected_slope, scalars.size, scalars.keep)
    inputs = [torch.tensor(value, dtype=dtype) for value in values]
    kernel = _kernel()
    rows_by_size: dict[int, list[tuple[Tensor, ...]]] = {}
    for row in tensors.rows():
        if row[0].numel() > 1 and all(tensor.is_contiguous() for tensor in row):
            # Detached, for parameters may share memory: then an update makes autograd distrust views of others.
            flat = (row[0].detach().view(-1), *(tensor.view(-1) for tensor in row[1:]))
            rows_by_size.setdefault(row[0].numel(), []).append(flat)
        else:  # each rank, and the size 1, would be compiled again
            update_foreach(Tensors(*([tensor] for tensor in row)), scalars)
    for rows in rows_by_size.values():
        batched = len(rows) - len(rows) % BATCH
        for start in range(0, batched, BATCH):
            kernel(rows[start : start + BATCH], *inputs)
        for row in rows[batched:]:
            kernel([row], *inputs)


@functools.cache
def _kernel() -> Callable[..., None]:
    # Products and sums in one instruction, which the CPU compiler is not allowed by default.
    options: dict[str, Any] = {"cpp.enable_floating_point_contract_flag": "fast"}
    return torch.compile(_update_rows, dynamic=True, options=options)


def _update_rows(rows: list[tuple[Tensor, Tensor, Tensor, Tensor]], *numbers: Tensor) -> None:
    for row in rows:
        _update_elements(*row, *numbers)


def _update_elements(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    weight1: Tensor,
    weight2: Tensor,
    corrected_slope: Tensor,
    size: Tensor,
    keep: Tensor,
) -> None:
    dtype = size.dtype
    g, m, v = grad.to(dtype), exp_avg.to(dtype), exp_avg_sq.to(dtype)
    m = m + (g - m) * weight1  # torch.lerp chooses between two formulas, for each element
    v = v + (g * g - v) * weight2
    angle = arctan2(m, v.sqrt() * corrected_slope)
    exp_avg.copy_(m)
    exp_avg_sq.copy_(v)
    param.copy_(param.to(dtype) * keep - angle * size)


def arctan2(y: Tensor, x: Tensor) -> Tensor:
    """Return atan2(y, x) for x >= 0, in a form that a compiler can vectorise with few instructions.

    float32 halves the angle, atan(y / x) = 2 atan(t) with t = y / (x + sqrt(x^2 + y^2)) in [-1, 1], which needs no
    cases and no signs, and takes a minimax polynomial for atan(t) / t, evaluated in pairs (Estrin). It is within
    4 units in the last place where x^2 + y^2 is a normal number, as the second moment must be anyway; other dtypes
    are `torch.atan2`.
    """
    if y.dtype != torch.float32:
        return torch.atan2(y, x)
    # The maximum is for y whose square vanishes; the smallest normal number makes 0 / 0 a 0.
    radius = torch.maximum((x * x + y * y).sqrt(), y.abs())
    t = y / (x + radius + 1.1754943508222875e-38)
    z = t * t
    z2 = z * z
    low = (-0.33333152532577515 + 0.19993773102760315 * z) + (-0.14211055636405945 + 0.10666004568338394 * z) * z2
    high = (-0.07552213966846466 + 0.043211858719587326 * z) + (-0.016367927193641663 + 0.002920691855251789 * z) * z2
    half = t + t * (z * (low + high * (z2 * z2)))
    return half + half
