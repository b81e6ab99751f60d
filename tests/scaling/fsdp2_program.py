"""Run by torchrun on two processes: FSDP2 before and after `parameterize` trains as one process does."""

from __future__ import annotations

from typing import cast

import torch
import torch.distributed as dist
from networks import TinyDecoder, token_batches
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from fionalm.scaling import parameterize, rebind_groups
from fionalm.training.distributed import leave

OPTIONS = {"optimizer": "adamw", "base_lr": 0.02, "base_width": 8, "weight_decay": 0.01}


def groups_of(model: torch.nn.Module, seed: int | None = 0) -> list[dict]:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return parameterize(model, "mup", generator=generator, **OPTIONS)


def train(model: torch.nn.Module, groups: list[dict]) -> list[float]:
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    losses = []
    for batch in token_batches(4):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def sharded(model: TinyDecoder, mesh: DeviceMesh) -> TinyDecoder:
    fully_shard(model.up, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def plain(groups: list[dict]) -> list[dict]:
    return [{key: value for key, value in group.items() if key != "params"} for group in groups]


def main() -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for tied in (False, True):
        reference = TinyDecoder(tied=tied)
        groups = groups_of(reference)
        expected_groups = plain(groups)  # an optimizer writes into the groups that it is given
        expected = train(reference, groups)
        assert expected[-1] < expected[0], expected

        before = TinyDecoder(tied=tied)
        groups = groups_of(before)
        sharded(before, mesh)
        groups = rebind_groups(groups, before)
        assert plain(groups) == expected_groups
        torch.testing.assert_close(train(before, groups), expected, rtol=1e-5, atol=1e-6)

        after = sharded(TinyDecoder(tied=tied), mesh)
        groups = groups_of(after)
        assert plain(groups) == expected_groups
        torch.testing.assert_close(train(after, groups), expected, rtol=1e-5, atol=1e-6)

    torch.manual_seed(dist.get_rank())  # without a generator rank 0 decides, whatever the others would draw
    model = sharded(TinyDecoder(), mesh)
    groups_of(model, seed=None)
    full = [cast(DTensor, p).full_tensor().detach() for p in model.parameters()]
    for value in full:
        other = value.clone()
        dist.broadcast(other, src=0)
        assert torch.equal(value, other)
    if dist.get_rank() == 0:
        torch.manual_seed(0)
        alone = TinyDecoder()
        groups_of(alone, seed=None)
        print("same as one process" if len(full) == len(list(alone.parameters())) else "missing parameters")


if __name__ == "__main__":
    dist.init_process_group("gloo")
    main()
    leave()  # after main has returned and let go of its models
