"""What every way of running a model for its outputs needs: the model inside wrappers, evaluation mode, its context."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from fionalm.models.decoder import Decoder


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode for a while; parameters that FSDP2 spread are whole meanwhile."""
    training = {module: module.training for module in model.modules()}
    spread: list[Any] = [module for module in model.modules() if hasattr(module, "unshard") and _in_parts(module)]
    model.eval()
    try:
        for module in spread:
            module.unshard()
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
        for module in spread:
            module.reshard()


def _in_parts(module: nn.Module) -> bool:
    return any(hasattr(parameter, "placements") for parameter in module.parameters())


def unwrapped(model: Any) -> Any:
    """Return the model inside the wrappers of DDP and torch.compile, which shapes that always change only slow."""
    model = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    return getattr(model, "_orig_mod", model)


def bare(model: Any) -> Any:
    """Return the model inside peft's wrapper too; its linear layers hold the adapters."""
    model = unwrapped(model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def context_length(model: Any) -> int | None:
    """Return how many tokens a model was made for, or None where it does not say."""
    if isinstance(model, Decoder):
        return model.config.max_seq_len
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    length = getattr(config, "max_position_embeddings", None)
    return length if isinstance(length, int) and length > 0 else None


def end_ids(model: Any) -> set[int]:
    """Return the tokens that a model's own generation config ends with."""
    ids = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if ids is None:
        return set()
    return {int(token) for token in ids} if isinstance(ids, list | tuple) else {int(ids)}
