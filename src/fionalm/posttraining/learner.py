"""One update of a model from any loss: accumulated over micro-batches, shared by processes, clipped, resumable.

learner = Learner(policy, config, total_steps=100)
statistics = learner.step(parts, lambda model, part: (loss, {"accuracy": right}))
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fionalm.errors import UserError
from fionalm.optim import build_optimizer, build_scheduler
from fionalm.posttraining.config import FinetuneConfig
from fionalm.posttraining.forward import try_head
from fionalm.posttraining.policy import Policy
from fionalm.training.build import wants_bf16
from fionalm.training.distributed import Computation, World, parallelize
from fionalm.training.state import TrainState

Part = TypeVar("Part")
Statistics = Mapping[str, float | Tensor]
Loss = Callable[[nn.Module, Part], tuple[Tensor, Statistics]]


class Learner:
    """Holds a policy's optimizer, schedule and progress.

    Args:
        policy: its trained weights are changed in place.
        config: how.
        total_steps: updates of the whole training, over which the learning rate is scheduled.
        world: the processes; None: this one.
        folder: run folder, whose `checkpoints` are written and resumed; None: nothing is written.

    Raises:
        UserError: nothing to train, or a warm-up longer than the training.
    """

    def __init__(
        self,
        policy: Policy,
        config: FinetuneConfig,
        *,
        total_steps: int,
        world: World | None = None,
        folder: str | Path | None = None,
    ) -> None:
        self.policy, self.config, self.total_steps = policy, config, total_steps
        self.world = world or World(policy.device)
        self.checkpoints = None if folder is None else Path(folder) / "checkpoints"
        if config.lora is not None:
            policy.add_lora(config.lora, seed=config.seed)
        half = wants_bf16(config.precision, self.world.device)
        sharded = self.world.size > 1 and config.strategy == "fsdp2"
        if policy.parallel is None:  # a model can be wrapped and sharded once only
            try_head(policy.model, self.world.device)
            dtype = torch.bfloat16 if half else None
            module = Computation(policy.model)
            policy.parallel = parallelize(module, policy.model, config.strategy, self.world, dtype)
        self.parallel = policy.parallel
        self.precision = (
            partial(torch.autocast, self.world.device.type, torch.bfloat16) if half and not sharded else nullcontext
        )
        trained = {name: p for name, p in policy.model.named_parameters() if p.requires_grad}
        optimizer = build_optimizer(config.optimizer, trained.values())
        self.trained = list(trained.values())
        persistent = policy.model.state_dict(keep_vars=True)
        buffers = {name: buffer for name, buffer in policy.model.named_buffers() if name in persistent}
        self.state = TrainState(trained, buffers, optimizer, build_scheduler(config.schedule, optimizer, total_steps))

    @property
    def step_number(self) -> int:
        """Updates done."""
        return self.state.step

    def step(self, parts: Sequence[Part], loss: Loss[Part]) -> dict[str, float]:
        """Update the weights once, by the gradient of the sum of the parts' losses.

        With many processes each calls this with the same parts, and computes every size-th of them. So a part is best
        something light, such as indices, of which `loss` makes tensors on the model's device.

        Args:
            parts: whatever `loss` takes; one forward and backward pass each.
            loss: maps (model, part) to the part's summand of the loss and its summands of statistics. The model is
                the policy's, to be called as it is; the same statistics for every part.

        Returns:
            The statistics and `loss`, summed over all parts and processes, and `grad_norm` before clipping and `lr`.

        Raises:
            UserError: the loss or its gradient is not finite; the weights are left as they were.
        """
        started = time.perf_counter()
        state, size = self.state, self.world.size
        state.optimizer.zero_grad(set_to_none=True)
        rounds = math.ceil(len(parts) / size)
        if not rounds:
            raise ValueError("a step without parts")
        totals: Tensor | None = None
        names: list[str] = []
        for index in range(rounds):
            number = index * size + self.world.rank
            # Collectives want the same passes in every process: one that has no part left repeats one for nothing.
            weight = 1.0 if number < len(parts) else 0.0
            part = parts[number if weight else 0]
            if self.parallel.set_sync is not None:
                self.parallel.set_sync(index == rounds - 1)
            with self.precision():
                found, statistics = self.parallel.module(loss, part)
            # DDP and FSDP2 divide the summed gradients by the processes.
            (found * (weight * size) if size > 1 else found).backward()
            names = ["loss", *statistics]
            values = torch.stack([_scalar(value, found.device) for value in (found, *statistics.values())]) * weight
            totals = values if totals is None else totals + values
        assert totals is not None
        norm: Any = nn.utils.get_total_norm([p.grad for p in self.trained if p.grad is not None], foreach=True)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        *summed, grad_norm = torch.cat((self.world.sum(totals), norm.reshape(1).to(totals))).tolist()
        found_statistics = dict(zip(names, summed, strict=True))
        if not (math.isfinite(grad_norm) and math.isfinite(found_statistics["loss"])):
            state.optimizer.zero_grad(set_to_none=True)
            raise UserError(
                f"step {state.step}: the loss {found_statistics['loss']:g} or its gradient (norm {grad_norm:g}) is not "
                f"finite: expected a learning rate below {self.config.optimizer.lr:g}, or warm-up"
            )
        if self.config.clip_norm and grad_norm > self.config.clip_norm:
            grads = [p.grad for p in self.trained if p.grad is not None]
            torch._foreach_mul_(grads, self.config.clip_norm / (grad_norm + 1e-6))
        group = state.optimizer.param_groups[0]
        lr = self.config.optimizer.lr * float(group["lr"]) / (group["initial_lr"] or 1.0)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.scheduler.step()
        state.step += 1
        state.seconds += time.perf_counter() - started
        return {**found_statistics, "grad_norm": grad_norm, "lr": lr}

    @torch.no_grad()
    def evaluate(
        self, parts: Sequence[Part], measure: Callable[[nn.Module, Part], Mapping[str, float | Tensor]]
    ) -> dict[str, float]:
        """Return what `measure(model, part)` finds, summed over all parts and processes, without gradients.

        With many processes each calls this with the same parts, as it does `step`.
        """
        totals: Tensor | None = None
        names: list[str] = []
        for index in range(math.ceil(len(parts) / self.world.size)):
            number = index * self.world.size + self.world.rank
            with self.precision():
                found = self.parallel.module(measure, parts[number if number < len(parts) else 0])
            names = list(found)
            values = torch.stack([_scalar(value, self.world.device) for value in found.values()])
            values = values * float(number < len(parts))
            totals = values if totals is None else totals + values
        self.parallel.release()
        return {} if totals is None else dict(zip(names, self.world.sum(totals).tolist(), strict=True))

    def save(self, extra: Mapping[str, Any] | None = None) -> None:
        """Write a checkpoint, with JSON values that `resume` returns; nothing without a folder. Every process calls it.

        Raises:
            UserError: it cannot be written; the one before is kept.
        """
        if self.checkpoints is None:
            return
        from fionalm.training import checkpoint

        self.state.extra = dict(extra or {})
        checkpoint.save(self.checkpoints, self.state, self.world, keep=self.config.keep_checkpoints)

    def resume(self) -> dict[str, Any] | None:
        """Load the newest checkpoint and return its extra values; None: there is none. Every process calls it.

        Raises:
            UserError: it is of another model, or cannot be read.
        """
        if self.checkpoints is None:
            return None
        from fionalm.training import checkpoint

        folder = self.checkpoints
        newest = self.world.on_main(lambda: checkpoint.latest(folder))
        if newest is None:
            return None
        checkpoint.load(newest, self.state, self.world)
        return self.state.extra


def _scalar(value: float | Tensor, device: torch.device) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().to(device, torch.float32).reshape(())
    return torch.tensor(float(value), device=device)
