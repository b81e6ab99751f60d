"""What the probes share: where a model's blocks are, hooks that last one step, and sizes of tensors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from fionalm.errors import UserError


def find_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Return the Transformer blocks by their module names, in order; empty if the model has none.

    They are the children of that `nn.ModuleList` (or, without one, `nn.Sequential`) which holds most of the
    model's parameters and stands in no other such list.
    """
    for kind in (nn.ModuleList, nn.Sequential):
        best: tuple[int, str, nn.Module] | None = None
        outer: list[str] = []
        for name, module in model.named_modules():
            if isinstance(module, kind) and not any(name.startswith(f"{other}.") for other in outer):
                outer.append(name)
                size = sum(parameter.numel() for parameter in module.parameters())
                if size > (best[0] if best else 0):
                    best = (size, name, module)
        if best:
            prefix = f"{best[1]}." if best[1] else ""
            return {prefix + child: block for child, block in best[2].named_children()}
    return {}


@contextmanager
def hooked(
    module: nn.Module,
    after: Callable[[nn.Module, tuple[Any, ...], Any], None],
    before: Callable[[nn.Module, tuple[Any, ...]], None] | None = None,
) -> Iterator[None]:
    """Call `before` and `after` around every forward of `module`; if it raises, `after` gets None."""
    handles = [module.register_forward_hook(after, always_call=True)]
    if before is not None:
        handles.append(module.register_forward_pre_hook(before))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def without_compile() -> AbstractContextManager[None]:
    """Run compiled models and functions eagerly, so that hooks are seen and nothing is compiled anew.

    The compiled code is kept and used again afterwards.
    """
    # Without this test a model that was never compiled would pay for importing dynamo, over a second.
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def reshard(model: nn.Module) -> None:
    """Return an FSDP2 model to sharded parameters: a forward without backward leaves the root's gathered."""
    for module in model.modules():
        if hasattr(module, "set_reshard_after_forward"):
            module.reshard()  # pyright: ignore[reportCallIssue]


def first_tensor(output: Any) -> Tensor | None:
    """Return a module's output, or the first part of it that is a tensor."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, tuple | list):
        return next((part for part in output if isinstance(part, Tensor)), None)
    return None


def sample_rows(tensor: Tensor, most: int) -> Tensor:
    """Flatten [..., d] to [tokens, d] and keep at most `most` rows at even distances."""
    rows = tensor.detach().reshape(-1, tensor.shape[-1])
    if len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, most, device=rows.device).long()]


def whole(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor (a collective: every rank must call); return any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # pyright: ignore


def rms(tensor: Tensor) -> Tensor:
    """Return the root mean square of all elements, a float32 scalar."""
    norm = whole(torch.linalg.vector_norm(tensor.detach(), dtype=torch.float32))
    return norm / max(1, tensor.numel()) ** 0.5


def to_floats(values: dict[str, Tensor]) -> dict[str, float]:
    """Bring scalars to the host in one transfer."""
    if not values:
        return {}
    device = next(iter(values.values())).device
    stacked = torch.stack([value.to(device, torch.float32) for value in values.values()])
    return dict(zip(values, stacked.tolist(), strict=True))


def check_every(every: int) -> int:
    """Return `every` if it is a number of steps.

    Raises:
        UserError: it is below 1.
    """
    if every < 1:
        raise UserError(f"every={every}: expected the steps between two measurements, at least 1")
    return every


def is_due(step: int, every: int) -> bool:
    """Say whether step `step` is measured: steps 0, `every`, 2 `every`, ..."""
    return step % every == 0
