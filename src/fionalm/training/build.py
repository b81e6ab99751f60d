"""From a config to what the loop needs: the model, its parameter groups, optimizer, schedule and batches."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fionalm.data import PackedLoader, evaluation_batches
from fionalm.errors import UserError
from fionalm.models import Decoder, load_model
from fionalm.optim import build_optimizer, build_scheduler
from fionalm.scaling import parameterize, rebind_groups
from fionalm.scaling.hooks import find_blocks
from fionalm.training.config import Precision as PrecisionName
from fionalm.training.config import TrainConfig
from fionalm.training.distributed import Parallel, World, parallelize
from fionalm.training.state import TrainState
from fionalm.training.step import LossModule, predicted

Precision = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Batches:
    """What is trained and evaluated on, as this process sees it."""

    train: Callable[[int], Tensor]
    """Step to tokens [batch / processes, seq + 1] on the device."""
    validation: list[Tensor]
    """Tokens [batch / processes, seq + 1] on the device; empty: no evaluation."""
    validation_tokens: float
    """Predicted tokens of all processes' validation, over their number."""
    tokens_per_step: float
    """That one update learns from, over all processes; the mean where rows have different numbers of them."""
    shares: Callable[[int, int], list[float]] | None
    """Step and number of parts to what each part's mean loss counts; None: as its rows."""


@dataclass(frozen=True)
class Built:
    """A model ready to be trained."""

    model: nn.Module
    parallel: Parallel
    state: TrainState
    trained: list[Tensor]
    """The optimizer's parameters, whose gradients are clipped together."""
    precision: Precision
    vocab_size: int


def build(config: TrainConfig, model: nn.Module | None, world: World) -> Built:
    """Make the model (unless it is given), spread it over the processes, and give it its optimizer and schedule.

    A model that has weights keeps them: a parameterization then only sets its learning rates.

    Raises:
        UserError: `model_path` cannot be loaded, or the model has fewer positions than a sequence has.
    """
    fresh = model is None and (config.model_path is None or config.model_path.endswith(".json"))
    if model is None:
        model = _make_model(config)
    vocab_size = _check_positions(model, config)
    groups = parameter_groups(config, model, initialize=fresh)
    many_shards = world.size > 1 and config.strategy == "fsdp2"
    if not many_shards:  # sharding moves each block by itself, so that the device never holds the whole
        model.to(world.device)
    module = LossModule(model, config.z_loss)
    if config.compile:  # block by block: they share what is compiled, and nothing around them breaks the graph
        for part in find_blocks(model).values() or [model]:
            part.compile()
    half = wants_bf16(config.precision, world.device)
    parallel = parallelize(module, model, config.strategy, world, torch.bfloat16 if half else None)
    optimizer = build_optimizer(config.optimizer, rebind_groups(groups, model))
    scheduler = build_scheduler(config.schedule, optimizer, config.steps)
    persistent = model.state_dict(keep_vars=True)
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in persistent}
    precision = partial(torch.autocast, world.device.type, torch.bfloat16) if half and not many_shards else nullcontext
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = TrainState(parallel.parameters, buffers, optimizer, scheduler)
    return Built(model, parallel, state, trained, precision, vocab_size)


def parameter_groups(config: TrainConfig, model: nn.Module, *, initialize: bool) -> list[dict[str, Any]]:
    """Return the optimizer's groups: the parameterization's, or matrices and vectors, which weights never decay."""
    chosen, optimizer = config.parameterization, config.optimizer
    if chosen is not None:
        return parameterize(
            model,
            chosen.name,
            optimizer=optimizer.name,
            base_lr=optimizer.lr,
            base_width=chosen.base_width,
            alignment=chosen.alignment,
            gammas=chosen.gammas,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            initialize=initialize,
            generator=torch.Generator().manual_seed(config.seed),
            eps_scaling=chosen.eps_scaling,
        )
    groups = []
    for name, is_matrix in (("matrices", True), ("vectors", False)):
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad and (p.ndim > 1) == is_matrix]
        if named:
            names, parameters = zip(*named, strict=True)
            weight_decay = optimizer.weight_decay if is_matrix else 0.0
            group = {"params": list(parameters), "param_names": list(names), "name": name}
            groups.append({**group, "lr": optimizer.lr, "weight_decay": weight_decay})
    return groups


def wants_bf16(precision: PrecisionName, device: torch.device) -> bool:
    """Return whether forward passes run in bf16: where asked for, or by itself on a GPU that has it."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"


def make_batches(config: TrainConfig, corpus: Any, world: World, vocab_size: int) -> Batches:
    """Cut the corpus into this process's share of every batch, for a model of `vocab_size` tokens.

    Raises:
        UserError: the processes cannot share the batch equally, or the corpus has tokens that the model has not.
    """
    if config.batch_size % world.size:
        raise UserError(
            f"batch_size {config.batch_size} cannot be shared by {world.size} processes: expected a multiple of "
            f"{world.size}"
        )
    vocabulary = getattr(corpus, "vocab_size", 0)
    if vocabulary > vocab_size:
        raise UserError(
            f"model.vocab_size {vocab_size} is too small for the corpus, whose tokenizer has "
            f"{vocabulary} tokens: expected at least {vocabulary}"
        )
    seq_len, share = config.data.seq_len, {"rank": world.rank, "world_size": world.size}
    # Two runs that differ in either seed see another order.
    seed = config.seed + 1_000_003 * config.data.seed
    if hasattr(corpus, "loader"):
        loader = corpus.loader(config.batch_size, seq_len, seed=seed, **share)
    else:
        loader = PackedLoader(corpus.train, config.batch_size, seq_len, seed=seed, **share)
    rows = _validation_rows(config, corpus)
    shared = rows[: len(rows) // world.size * world.size]  # a remainder is left out by all processes
    own = shared[world.rank :: world.size].to(world.device)
    validation = list(own.split(config.batch_size // world.size)) if len(own) else []

    def train_batch(step: int) -> Tensor:
        return loader.batch(step).to(world.device, non_blocking=True)

    tokens = predicted(shared) / world.size
    per_step = getattr(loader, "tokens_per_step", config.tokens_per_step)
    return Batches(train_batch, validation, tokens, per_step, getattr(loader, "shares", None))


def _make_model(config: TrainConfig) -> nn.Module:
    if config.model_path is None:
        return Decoder(config.model, torch.Generator().manual_seed(config.seed))
    return load_model(config.model_path, seed=config.seed)[0]


def _check_positions(model: nn.Module, config: TrainConfig) -> int:
    """Return the model's vocabulary size; refuse sequences longer than its positions."""
    found = getattr(model, "config", None)
    longest = getattr(found, "max_seq_len", None) or getattr(found, "max_position_embeddings", None)
    if longest is not None and config.data.seq_len > longest:
        raise UserError(
            f"data.seq_len {config.data.seq_len} is over the model's {longest} positions: expected at most {longest}"
        )
    return getattr(found, "vocab_size", None) or config.model.vocab_size


def _validation_rows(config: TrainConfig, corpus: Any) -> Tensor:
    """Return the rows that are evaluated [rows, seq + 1]; there may be none."""
    seq_len, count = config.data.seq_len, config.eval_batches
    if hasattr(corpus, "evaluation_rows"):
        return corpus.evaluation_rows(config.batch_size * count)
    if not count or len(corpus.validation) <= seq_len:
        return torch.empty(0, seq_len + 1, dtype=torch.int64)
    return torch.cat(evaluation_batches(corpus.validation, config.batch_size, seq_len, count))
