"""The reference's log-probabilities of preference pairs: computed once, and kept by what they were computed from."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from fionalm.posttraining import lora
from fionalm.posttraining.config import FinetuneConfig
from fionalm.posttraining.pairs import Pair, collate_pairs, pair_buckets, pair_logps
from fionalm.posttraining.policy import Policy
from fionalm.progress import progress
from fionalm.training.build import wants_bf16
from fionalm.training.distributed import World

CACHE_FILE = "reference/logps.safetensors"


@torch.no_grad()
def reference_logps(
    policy: Policy,
    pairs: Sequence[Pair],
    config: FinetuneConfig,
    *,
    shared: bool,
    world: World,
    folder: Path | None = None,
    average: bool = False,
    quiet: bool = False,
) -> Tensor:
    """Return log-probabilities [2, pairs] of the chosen and the rejected completions, in nats, on the CPU.

    The reference is the policy as it is now, without its adapters if it has some. With many processes each computes a
    share of the pairs, and every process calls this.

    Args:
        policy: before training.
        pairs: of training and validation.
        config: micro-batches and precision.
        shared: whether a pair's completions share a row.
        world: the processes.
        folder: where the result is kept, under a key of pairs and weights; None: nowhere.
        average: means over a completion's tokens in place of sums.
        quiet: no progress.
    """
    # Bit for bit the same on resuming needs the same computation, which `shared` and the micro-batches are part of.
    key = _key(policy.model, pairs, [config.micro_batch_tokens, config.precision, shared, average, world.size])
    path = None if folder is None else folder / CACHE_FILE
    known = world.on_main(lambda: None if path is None else _read(path, key))
    if known is not None:
        return known
    groups = pair_buckets(pairs, config.micro_batch_tokens, shared=shared)
    found = torch.zeros(2, len(pairs), device=world.device)
    half = wants_bf16(config.precision, world.device)
    precision = torch.autocast(world.device.type, torch.bfloat16) if half else nullcontext()
    frozen = nullcontext() if policy.lora is None else lora.adapters_off(policy.model)
    share = math.ceil(len(pairs) / world.size)
    with precision, frozen, progress(share, "reference log-probabilities", "pairs", quiet=quiet) as bar:
        for group in groups[world.rank :: world.size]:
            batch = collate_pairs(
                [pairs[i] for i in group], policy.tokenizer.pad_id, shared=shared, device=world.device
            )
            found[:, group] = torch.stack(pair_logps(policy.model, batch, average=average)).to(found.dtype)
            bar.advance(len(group))
    found = world.sum(found).cpu()
    if path is not None:
        world.on_main(lambda: _write(path, key, found))
    return found


def _key(model: nn.Module, pairs: Sequence[Pair], settings: Sequence[object]) -> str:
    digest = hashlib.sha256(repr(settings).encode())
    for pair in pairs:
        digest.update(repr(pair[:3]).encode())
    for name, parameter in model.named_parameters():
        if ".lora_" not in name:
            value = parameter.detach().double()
            digest.update(f"{name} {tuple(value.shape)} {value.sum().item()} {value.square().sum().item()}".encode())
    return digest.hexdigest()[:32]


def _read(path: Path, key: str) -> Tensor | None:
    from safetensors import safe_open

    if not path.exists():
        return None
    with safe_open(str(path), "pt") as file:
        return file.get_tensor("logps") if (file.metadata() or {}).get("key") == key else None


def _write(path: Path, key: str, logps: Tensor) -> None:
    from safetensors.torch import save

    from fionalm.paths import atomic_write_bytes

    atomic_write_bytes(path, save({"logps": logps}, metadata={"key": key}))
