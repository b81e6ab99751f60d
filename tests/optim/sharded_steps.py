"""Run by torchrun on two processes: sharded parameters are updated as whole ones are, by every optimizer.

Shapes do not divide by two and some processes hold nothing of a parameter, as happens to small layers under FSDP2.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from fionalm.optim import Adafactor, AdamAtan2, OptimizerConfig, build_optimizer
from fionalm.training.distributed import leave

SHAPES = ((5, 3), (7,), (1,), (1, 6), (3, 5, 2))


def make(name: str, params: Any) -> torch.optim.Optimizer:
    if name == "adam_atan2 foreach":
        return AdamAtan2(params, lr=0.1, weight_decay=0.01, foreach=True, independent_weight_decay=True)
    if name == "adafactor unscaled":
        return Adafactor(params, lr=0.1, weight_decay=0.01, scale_parameter=False, clip_threshold=0.3)
    config = OptimizerConfig(cast(Any, name), lr=0.1, weight_decay=0.01, momentum=0.9)
    return build_optimizer(config, params)


def whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def check_placements(name: str, mesh: DeviceMesh) -> None:
    """Every placement of a parameter and of its gradient gives the steps of a plain tensor."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in SHAPES]
    plain = [x.clone().requires_grad_() for x in start]
    shards = [nn.Parameter(distribute_tensor(x, mesh, [Shard(0)])) for x in start]
    copies = [nn.Parameter(distribute_tensor(x, mesh, [Replicate()])) for x in start]
    last = [nn.Parameter(distribute_tensor(x, mesh, [Shard(x.ndim - 1)])) for x in start]
    sets: list[list[Tensor]] = [plain, [*shards], [*copies], [*last]]
    optimizers = [make(name, params) for params in sets]
    schedules = [LambdaLR(optimizer, lambda step: 1 / (1 + step)) for optimizer in optimizers]
    for _ in range(4):
        for index, shape in enumerate(SHAPES):
            grad = torch.randn(shape, generator=generator)
            plain[index].grad = grad
            shards[index].grad = distribute_tensor(grad, mesh, [Shard(0)])
            copies[index].grad = distribute_tensor(grad, mesh, [Replicate()])
            last[index].grad = distribute_tensor(grad, mesh, [Shard(len(shape) - 1)])
        if name == "adam_atan2":  # a gradient that is yet to be summed
            share = 0.25 if dist.get_rank() == 0 else 0.75
            shards[0].grad = DTensor.from_local(share * cast(Tensor, plain[0].grad), mesh, [Partial()])
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
    for params in sets[1:]:
        for one, two in zip(params, plain, strict=True):
            torch.testing.assert_close(whole(one), two.detach(), rtol=1e-5, atol=1e-6)


def trained(name: str, mesh: DeviceMesh | None) -> list[Tensor]:
    """Return the whole parameters after some steps of a model, under FSDP2 if there is a mesh."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(11, 5), nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 11, bias=False))
    if mesh is not None:
        fully_shard(model[1], mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = make(name, model.parameters())
    for step in range(4):
        tokens = torch.randint(11, (16, 2), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        F.cross_entropy(model(tokens[:, 0]), tokens[:, 1]).backward()
        optimizer.step()
    return [whole(param) for param in model.parameters()]


def main() -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for name in ("adamw", "adam_atan2", "adam_atan2 foreach", "adafactor", "adafactor unscaled", "sgd"):
        check_placements(name, mesh)
        torch.testing.assert_close(trained(name, mesh), trained(name, None), rtol=1e-4, atol=1e-5)
        if dist.get_rank() == 0:
            print(f"{name}: same as one process")


if __name__ == "__main__":
    dist.init_process_group("gloo")
    main()
    leave()  # after main has returned and let go of its models
