"""A causal language model that is being fine-tuned, with its tokenizer: what the methods' trainers take and return."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fionalm.data import TextTokenizer
from fionalm.models import load_model
from fionalm.posttraining import lora
from fionalm.posttraining.batches import TokenBatch
from fionalm.posttraining.config import LoraConfig
from fionalm.posttraining.forward import token_logps
from fionalm.training.distributed import Parallel, World, pick_device
from fionalm.training.export import export_model, gather_weights

if TYPE_CHECKING:
    from fionalm.sampling import Sampler

Reference = Callable[..., Tensor]
"""`reference(batch, temperature=1.0)`: token log-probabilities [b, s - 1], 0 outside the completions, no gradient."""


class Policy:
    """A model and its tokenizer on a device; in eval mode, in which it is trained too: dropout is off throughout.

    Args:
        model: maps `input_ids` to `.logits`: the own decoder, or a causal model of `transformers`.
        tokenizer: `TextTokenizer`, or what it wraps.
        device: moved there; None: a GPU if there is one.
        name: where the model came from, kept beside its adapters.

    Attributes:
        lora: the adapters that are trained; None: all weights are.
        parallel: how the learner spread the model over processes, kept for the next learner.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, *, device: str | torch.device | None = None, name: str | None = None
    ) -> None:
        self.model = model.to(pick_device(device)).eval()
        self.tokenizer = TextTokenizer(tokenizer)
        self.name = name
        self.lora: LoraConfig | None = None
        self.parallel: Parallel | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def context_length(self) -> int | None:
        """Positions that the model has; None: it does not say."""
        config = getattr(self.model, "config", None)
        return getattr(config, "max_seq_len", None) or getattr(config, "max_position_embeddings", None)

    def add_lora(self, config: LoraConfig, *, seed: int = 0) -> None:
        """Put adapters into the model, unless it has some; from then on only they are trained."""
        if self.lora is None:
            lora.add_adapters(self.model, config, seed=seed)
            self.model.to(self.device)
            self.lora, self.parallel = config, None

    def sampler(self, *, max_batch: int = 64) -> Sampler:
        """Return a sampler that draws from the model as it is at each call."""
        from fionalm.sampling import EngineSampler

        return EngineSampler(self.model, self.tokenizer, max_batch=max_batch)

    def whole(self) -> AbstractContextManager[None]:
        """Have the whole model in every process for a while, where FSDP2 spreads it; every process calls this.

        Within, the model may be called in any way, and not equally often by all processes; but not trained.
        """
        return nullcontext() if self.parallel is None else self.parallel.whole()

    def reference(self) -> Reference:
        """Return the frozen start's token log-probabilities as a function; call this before training.

        With adapters the start is the model without them, and needs no memory; else a copy of the model as it is now.
        """
        frozen = None if self.lora is not None else copy.deepcopy(self.model).requires_grad_(False)

        @torch.no_grad()
        def reference(batch: TokenBatch, temperature: float = 1.0) -> Tensor:
            if frozen is not None:
                return token_logps(frozen, batch.input_ids, mask=batch.completion_mask, temperature=temperature)
            with lora.adapters_off(self.model):
                return token_logps(self.model, batch.input_ids, mask=batch.completion_mask, temperature=temperature)

        return reference

    def snapshot(self) -> dict[str, Tensor]:
        """Return a copy of all trained weights on the CPU; with many processes each calls this."""
        return {name: _whole(parameter).detach().cpu().clone() for name, parameter in self._trained()}

    @torch.no_grad()
    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """Set the trained weights to a snapshot's, in place; with many processes each calls this."""
        for name, parameter in self._trained():
            _fill(parameter, snapshot[name])

    def save(self, folder: str | Path, *, world: World | None = None) -> None:
        """Write the model to `folder` as `load_model` reads it; with many processes each calls this.

        Adapters are merged into the weights, and also written by themselves, as `peft` does, to `folder`/adapter.

        Raises:
            UserError: the folder cannot be written.
        """
        folder, world = Path(folder), world or World(self.device)
        weights = gather_weights(self.model) if world.size > 1 else None
        merged = None
        if self.lora is not None and world.is_main:
            merged = lora.merged_weights(self.model, weights)
        export_model(self.model, self.tokenizer.tokenizer, folder, world, weights if merged is None else merged)
        if self.lora is not None:
            world.on_main(lambda: lora.save_adapters(self.model, folder / "adapter", self.name, weights))

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]


def load_policy(
    spec: str | Path, *, lora: LoraConfig | None = None, seed: int = 0, device: str | torch.device | None = None
) -> Policy:
    """Load what `spec` names, as `load_model` does, to be fine-tuned.

    Args:
        spec: a model folder, a run folder, a GGUF file, a config .json (fresh weights), `smollm2` or `hf:NAME`.
        lora: train adapters of this kind; None: all weights.
        seed: of fresh weights and adapters.
        device: `cpu`, `cuda` or a device; None: a GPU if there is one.

    Raises:
        UserError: there is no such model, or it has no tokenizer.
    """
    model, tokenizer = load_model(spec, seed=seed)
    policy = Policy(model, tokenizer, device=device, name=str(spec))
    if lora is not None:
        policy.add_lora(lora, seed=seed)
    return policy


def _whole(tensor: Any) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _fill(parameter: Any, value: Tensor) -> None:
    if hasattr(parameter, "placements"):
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    parameter.copy_(value)
