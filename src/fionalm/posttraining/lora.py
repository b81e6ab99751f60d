"""Low-rank adapters by `peft`, put into the own decoder and into `transformers` models alike."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fionalm.errors import UserError, choice_error, require
from fionalm.models.weight_files import write_safetensors
from fionalm.paths import atomic_write_text
from fionalm.posttraining.config import LoraConfig

ADAPTER = "default"


def add_adapters(model: nn.Module, config: LoraConfig, *, seed: int = 0) -> None:
    """Put adapters into the model's linear layers, in place; from then on only they require gradients.

    A fresh adapter changes nothing: its B is zero.

    Raises:
        UserError: no such layers.
        MissingExtraError: `peft` is not installed.
    """
    peft = require("peft", "hub")
    names = linear_names(model)
    short = sorted({name.rsplit(".", 1)[-1] for name in names})
    for target in config.targets:
        if target not in short:
            raise choice_error("linear layer for an adapter", target, short)
    targets = [name for name in names if not config.targets or name.rsplit(".", 1)[-1] in config.targets]
    if not targets:
        raise UserError("the model has no linear layers besides its head: expected some for adapters")
    settings = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets, lora_dropout=0.0)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set")  # peft finds out by itself
        torch.default_generator.manual_seed(seed)
        peft.inject_adapter_in_model(settings, model, adapter_name=ADAPTER)


def linear_names(model: Any) -> list[str]:
    """Return the names of the model's linear layers, its head left out."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    kinds: list[type[nn.Module]] = [nn.Linear]
    if "transformers" in type(model).__module__:
        from transformers.pytorch_utils import Conv1D

        kinds.append(Conv1D)
    return [name for name, module in model.named_modules() if isinstance(module, tuple(kinds)) and module is not head]


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Compute with the weights that the adapters were put upon, within the block."""
    layers = _layers(model)
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def merged_weights(model: nn.Module, weights: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the state dict of the model without adapters that computes the same, on the CPU.

    Args:
        model: has adapters.
        weights: its whole state dict, where the model holds shards of it; None: its own.
    """
    weights = model.state_dict() if weights is None else weights
    merged = {}
    found = set(_layers(model))
    layers: dict[str, Any] = {name: module for name, module in model.named_modules() if module in found}
    for name, value in weights.items():
        owner, _, leaf = name.partition(".base_layer.")
        if not leaf:
            if ".lora_" not in name:
                merged[name] = value.detach().cpu()
            continue
        if leaf == "weight":
            layer = layers[owner]
            down = weights[f"{owner}.lora_A.{ADAPTER}.weight"]
            up = weights[f"{owner}.lora_B.{ADAPTER}.weight"]
            delta = (up @ down) * layer.scaling[ADAPTER]
            value = value + (delta.T if layer.fan_in_fan_out else delta).to(value.dtype)
        merged[f"{owner}.{leaf}"] = value.detach().cpu()
    return merged


def save_adapters(model: Any, folder: Path, base: str | None, weights: dict[str, Tensor] | None = None) -> None:
    """Write the adapters as `peft` does: adapter_config.json, adapter_model.safetensors.

    Args:
        model: has adapters.
        folder: made if absent.
        base: where the weights under the adapters came from.
        weights: its whole state dict, where the model holds shards of it; None: its own.
    """
    held: dict[str, Tensor] = model.state_dict() if weights is None else weights
    tensors = {
        f"base_model.model.{name.replace(f'.{ADAPTER}.', '.')}": value.detach().cpu().contiguous()
        for name, value in held.items()
        if ".lora_" in name
    }
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    settings = {**model.peft_config[ADAPTER].to_dict(), "base_model_name_or_path": base, "task_type": "CAUSAL_LM"}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
    atomic_write_text(folder / "adapter_config.json", json.dumps(plain, indent=2, default=str) + "\n")


def _layers(model: nn.Module) -> list[Any]:
    tuners: Any = require("peft.tuners.lora", "hub")
    return [module for module in model.modules() if isinstance(module, tuners.LoraLayer)]
