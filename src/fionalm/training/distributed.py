"""Several processes, one run: found through torchrun's environment, joined with DDP or FSDP2.

    torchrun --nproc-per-node 2 -m fionalm.training CONFIG.json --out DIR

Processes talk over gloo on CPU and NCCL on CUDA. Each reads its own share of every batch, so that the losses are
those of one process with the same batch.
"""

from __future__ import annotations

import gc
import itertools
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from fionalm.errors import UserError, choice_error
from fionalm.scaling.hooks import find_blocks
from fionalm.training.config import Strategy

Value = TypeVar("Value")
_groups = itertools.count()
"""Numbers the process groups that were started; every process counts alike."""
TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class World:
    """The processes of a run, as one of them sees them."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and the progress."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for every process."""
        if self.size > 1:
            dist.barrier()

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of `values` over the processes; every one must call this."""
        if self.size > 1:
            dist.all_reduce(values)
            values = values / self.size
        return values

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over the processes; every one must call this."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process; every one must call this."""
        if self.size == 1:
            return flag
        flags = torch.tensor([int(flag)], device=self.device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return bool(flags.item())

    def on_main(self, function: Callable[[], Value]) -> Value:
        """Run `function` in the main process, and return or raise what it did there in every process."""
        if self.size == 1:
            return function()
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome[0] = function()
            except Exception as error:
                outcome[1] = error if isinstance(error, UserError) else RuntimeError(f"the main process: {error!r}")
        dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def main_first(self, function: Callable[[], Value]) -> Value:
        """Run `function` in the main process, then in the others, which find its cached files."""
        if self.size == 1:
            return function()
        mine: list[Value] = []
        self.on_main(lambda: mine.append(function()))
        return mine[0] if mine else function()


@contextmanager
def distributed(device: str | torch.device | None = None) -> Iterator[World]:
    """Join torchrun's other processes, if there are any, and leave them at the end.

    A process group that the caller has started is used and left as it is.

    Args:
        device: `cpu`, `cuda` or a device; None: this process's GPU if there is one, else the CPU.

    Raises:
        UserError: a device that is not there.
    """
    started = False
    many = int(os.environ.get("WORLD_SIZE", "1")) > 1 and all(name in os.environ for name in TORCHRUN_VARIABLES)
    found = pick_device(device)
    if found.type == "cuda":
        torch.cuda.set_device(found)
    if many and not dist.is_initialized():
        store, rank, size = next(rendezvous("env://"))
        # A second run in these processes must not read the addresses that the first one's group left in the store.
        store = dist.PrefixStore(f"fiona-{next(_groups)}", store)
        backend = "cpu:gloo,cuda:nccl" if found.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
        started = True
    try:
        if dist.is_initialized() and dist.get_world_size() > 1:
            yield World(found, dist.get_rank(), dist.get_world_size())
        else:
            yield World(found)
    finally:
        if started:
            leave()


def leave() -> None:
    """Destroy the process group, once nothing holds on to it any more.

    A sharded model refers to its process group in reference cycles. If these outlive the group, gloo's threads are
    still alive when the interpreter ends, and now and then abort the process (`terminate called without an active
    exception`), after all work is done but with a failure as exit status.
    """
    gc.collect()
    dist.destroy_process_group()
    gc.collect()


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """Return the device to train on; see `distributed`."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError:
        raise choice_error("device", device, ("cpu", "cuda")) from None
    if found.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"device {str(device)!r} was asked for, but torch sees no GPU: expected 'cpu'")
        if found.index is None:
            found = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return found


class Computation(nn.Module):
    """Any computation with a model as one forward, so that DDP and FSDP2 see the whole of it.

    `Computation(model)(function, *arguments)` is `function(model, *arguments)`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., Value], *arguments: Any) -> Value:
        """Return what `function` makes of the model and the arguments."""
        return function(self.model, *arguments)


@dataclass(frozen=True)
class Parallel:
    """A module that several processes train together, and its parameters by their names in the model."""

    module: nn.Module
    parameters: dict[str, nn.Parameter]
    set_sync: Callable[[bool], None] | None
    """Whether the next backward shares its gradients; None: nothing to share."""

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Have all parameters in every process for a while, for forward passes that need not be the same in each.

        Every process enters and leaves this; where FSDP2 spread nothing it does nothing.

        Raises:
            UserError: this torch cannot make FSDP2 forget such forward passes.
        """
        spread: list[Any] = [part for part in self.module.modules() if hasattr(part, "unshard")]
        if spread:
            if not hasattr(self.module, "reset_iter_state"):
                raise UserError(
                    f"a model that fsdp2 spreads cannot be sampled with torch {torch.__version__}: expected torch 2.13"
                )
            # FSDP2 learns which module is its root by a first forward pass, which must be the whole model's.
            self.module(_nothing)
        try:
            for part in spread:
                part.set_reshard_after_forward(False, recurse=False)
                part.unshard()
            yield
        finally:
            for part in spread:
                part.set_reshard_after_forward(part is not self.module, recurse=False)
                part.reshard()
            if spread:
                # Else the next backward gathers in the order of these forward passes, which processes do not share.
                root: Any = self.module
                root.reset_iter_state()

    def release(self) -> None:
        """Give back what a forward pass without a backward leaves gathered."""
        reshard = getattr(self.module, "reshard", None)
        if reshard is not None:
            reshard()


def _nothing(model: nn.Module) -> None:
    """Compute nothing."""


def parallelize(
    module: nn.Module, model: nn.Module, strategy: Strategy, world: World, dtype: torch.dtype | None = None
) -> Parallel:
    """Spread `module`, which computes `model`'s loss, over the world's processes.

    Args:
        module: has `model` inside.
        model: whose names the parameters are known by.
        strategy: `ddp` or `fsdp2`; one process needs neither.
        world: the processes.
        dtype: what FSDP2 gathers the parameters in; None: as they are. Gradients are summed in float32.
    """
    set_sync: Callable[[bool], None] | None = None
    if world.size > 1 and strategy == "ddp":
        devices = [world.device.index] if world.device.type == "cuda" else None
        with warnings.catch_warnings():  # newer versions rename the option, which older ones lack
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
            module = nn.parallel.DistributedDataParallel(
                module, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        set_sync = partial(setattr, module, "require_backward_grad_sync")
    elif world.size > 1:
        _shard(module, model, world, dtype)
        set_sync = module.set_requires_gradient_sync  # type: ignore[assignment]
    return Parallel(module, dict(model.named_parameters()), set_sync)


def _shard(module: nn.Module, model: nn.Module, world: World, dtype: torch.dtype | None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    # Inputs keep their type: positions' cosines and sines lose too much in bf16.
    policy = MixedPrecisionPolicy(
        param_dtype=dtype, reduce_dtype=torch.float32 if dtype else None, cast_forward_inputs=False
    )
    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in find_blocks(model).values():
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=policy)
