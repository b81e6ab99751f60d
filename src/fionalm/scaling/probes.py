"""What warns of an instability while any causal language model trains (Wortsman et al. 2023, arXiv 2309.14322).

    probe = StabilityProbe(model, every=50)
    for step in range(steps):
        probe.begin(step)                  # before the forward
        loss(model(batch)).backward()
        probe.after_backward()             # before clipping; optional
        clip(); optimizer.step()
        metrics = probe.end(step)          # before zero_grad; None on the steps between
        optimizer.zero_grad()

Between two measured steps the model carries no hooks and no patches, so `torch.compile` is not disturbed; on
measured steps compiled code runs eagerly.
"""

from __future__ import annotations

import math
import warnings
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fionalm.errors import choice_error

from .attention_capture import AttentionCapture
from .hooks import (
    check_every,
    find_blocks,
    first_tensor,
    hooked,
    is_due,
    reshard,
    rms,
    sample_rows,
    to_floats,
    whole,
    without_compile,
)
from .roles import clean_name, unwrap

Detail = Literal["block", "parameter"]


class StabilityProbe:
    """Measure attention and output logits, gradients, updates, activations and parameters of a step.

    Works on the own decoder and on `transformers` causal LMs with attention "sdpa" or "eager". Metrics of
    `end`, where GROUP is `block0`, `block1`, ..., the module's last name outside the blocks (`embed`,
    `lm_head`, ...) or `all`:

    - `probe/attn_logit_max/GROUP` (blocks and all): largest attention logit among positions that may be
      attended to;
    - `probe/log_z_mean`, `probe/log_z_mean_square`: of log Z, Z the sum of exp of the output logits at one
      position;
    - `probe/grad_rms/GROUP`, `probe/update_rms/GROUP`, `probe/param_rms/GROUP`: gradients, the step's change
      of the parameters (weight decay included), and the parameters after it; frozen parameters count in the
      last only;
    - `probe/activation_rms/GROUP` (blocks): the blocks' outputs.

    A diverging run yields values that are not finite. With gradient accumulation, attention, log Z and
    activations are those of the last micro-batch. On measured steps a copy of the trainable parameters is
    held.

    Args:
        model: the model, also inside DistributedDataParallel, torch.compile or FSDP2 (there every rank must
            probe).
        every: steps between two measured steps.
        detail: "parameter" names each parameter instead of the groups for gradients, updates and parameters.
        max_tokens: positions at which log Z is taken, evenly spaced over the batch.

    Raises:
        UserError: `every` below 1 or an unknown `detail`.
    """

    def __init__(self, model: nn.Module, every: int = 50, *, detail: Detail = "block", max_tokens: int = 1024) -> None:
        if detail not in ("block", "parameter"):
            raise choice_error("detail", detail, ("block", "parameter"))
        self.model = model
        self.every = check_every(every)
        self.detail = detail
        self.max_tokens = max_tokens
        self._hooks = ExitStack()
        self._active = False
        self._warned = False
        self._clear()

    def begin(self, step: int) -> bool:
        """Prepare the measurement before the forward of `step`; say whether this step is measured."""
        self.close()
        if not is_due(step, self.every):
            return False
        model = unwrap(self.model)
        reshard(model)
        blocks = find_blocks(model)
        self._groups = {f"{name}.": f"block{index}" for index, name in enumerate(blocks)}
        head = getattr(model, "get_output_embeddings", lambda: None)()
        self._head = head if isinstance(head, nn.Linear) else None
        self._before = {
            name: parameter.detach().clone() for name, parameter in _parameters(model) if parameter.requires_grad
        }
        for index, block in enumerate(blocks.values()):
            self._watch_block(f"block{index}", block)
        inside = {module for block in blocks.values() for module in block.modules()}
        for module in model.modules():
            if module not in inside and module is not self._head and not any(True for _ in module.children()):
                self._hooks.enter_context(hooked(module, self._keep_features))
        self._hooks.enter_context(hooked(model, self._read_logits))
        self._hooks.enter_context(without_compile())
        self._active = True
        return True

    def after_backward(self) -> None:
        """Measure the gradients as they are now: call it after the backward pass and before clipping."""
        if self._active:
            self._gradients = self._sizes(
                (name, parameter.grad)
                for name, parameter in _parameters(unwrap(self.model))
                if parameter.grad is not None
            )

    def end(self, step: int) -> dict[str, float] | None:
        """Return the metrics after the optimizer's step, or None if `step` was not measured.

        Without `after_backward` the gradients are taken here, where they may have been clipped.
        """
        if not self._active:
            return None
        if self._gradients is None:
            self.after_backward()
        if self._log_z is None:
            self._log_z_of_features()
        parameters = dict(_parameters(unwrap(self.model)))
        updates = self._sizes((name, parameters[name].detach() - old) for name, old in self._before.items())
        metrics = self._attention_metrics()
        if self._log_z is not None:
            metrics["probe/log_z_mean"], metrics["probe/log_z_mean_square"] = self._log_z.tolist()
        metrics |= self._by_group("grad_rms", self._gradients or {})
        metrics |= self._by_group("update_rms", updates)
        metrics |= self._by_group("param_rms", self._sizes(parameters.items()))
        metrics |= to_floats({f"probe/activation_rms/{name}": value for name, value in self._activations.items()})
        self.close()
        return metrics

    def close(self) -> None:
        """Take all hooks off and forget an unfinished measurement; for a step that ended in an exception."""
        self._hooks.close()
        self._active = False
        self._clear()

    def _clear(self) -> None:
        self._groups: dict[str, str] = {}
        self._head: nn.Linear | None = None
        self._before: dict[str, Tensor] = {}
        self._attention: dict[str, Tensor] = {}
        self._activations: dict[str, Tensor] = {}
        self._features: Tensor | None = None
        self._log_z: Tensor | None = None
        self._gradients: dict[str, tuple[float, int]] | None = None

    def _watch_block(self, name: str, block: nn.Module) -> None:
        """Record the attention logits and the output of `block`, anew in every forward."""
        running: list[AttentionCapture] = []

        def record(logit: Tensor) -> None:
            known = self._attention.get(name)
            self._attention[name] = logit if known is None else torch.maximum(known, logit)

        def before(_module: nn.Module, _args: tuple[Any, ...]) -> None:
            self._attention.pop(name, None)
            running.append(AttentionCapture(record))
            running[-1].__enter__()

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            running.pop().__exit__(None, None, None)
            hidden = first_tensor(output)
            if hidden is not None:
                self._activations[name] = rms(hidden)
                self._keep_features(module, args, hidden)

        self._hooks.enter_context(hooked(block, after, before))

    def _keep_features(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        """Keep the last output as wide as the head's input: a loss may apply the head without calling it."""
        width = self._head.in_features if self._head else None
        if isinstance(output, Tensor) and output.dim() > 1 and output.shape[-1] == width:
            self._features = sample_rows(output, self.max_tokens)

    def _read_logits(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        """Take log Z from the model's output, if that holds logits."""
        logits = getattr(output, "logits", None)
        if logits is None:
            logits = first_tensor(output)
        vocabulary = self._head.out_features if self._head else None
        self._log_z = None
        if logits is not None and logits.dim() > 1 and vocabulary in (None, logits.shape[-1]):
            self._log_z = _log_z_moments(sample_rows(logits, self.max_tokens))

    def _log_z_of_features(self) -> None:
        """Take log Z from the head's input and the head as it was before the update."""
        if self._head is None or self._features is None:
            return
        names = {id(parameter): name for name, parameter in _parameters(unwrap(self.model))}

        def before(parameter: Tensor) -> Tensor:
            return whole(self._before.get(names[id(parameter)], parameter.detach())).float()

        bias = None if self._head.bias is None else before(self._head.bias)
        self._log_z = _log_z_moments(F.linear(self._features.float(), before(self._head.weight), bias))

    def _attention_metrics(self) -> dict[str, float]:
        if not self._attention and not self._warned:
            self._warned = True
            warnings.warn(
                "no attention logits seen: expected F.scaled_dot_product_attention, or a softmax over scores"
                " [batch, heads, queries, keys], in the blocks (attn_implementation='sdpa' or 'eager')",
                stacklevel=3,
            )
        largest = dict(self._attention)
        if largest:
            largest["all"] = torch.stack(list(largest.values())).amax()
        return to_floats({f"probe/attn_logit_max/{name}": value for name, value in largest.items()})

    def _sizes(self, tensors: Any) -> dict[str, tuple[float, int]]:
        """Return the RMS and the number of elements of named tensors."""
        sizes, values = {}, {}
        for name, tensor in tensors:
            values[name] = rms(tensor)
            sizes[name] = tensor.numel()
        return {name: (value, sizes[name]) for name, value in to_floats(values).items()}

    def _by_group(self, metric: str, sizes: dict[str, tuple[float, int]]) -> dict[str, float]:
        """Join the parameters' RMS, in float64, to those of their groups and of all of them."""
        members: dict[str, list[tuple[float, int]]] = {}
        for name, size in sizes.items():
            members.setdefault(name if self.detail == "parameter" else self._group(name), []).append(size)
            members.setdefault("all", []).append(size)
        return {
            f"probe/{metric}/{group}": math.sqrt(
                math.fsum(value * value * n for value, n in of_group) / sum(n for _, n in of_group)
            )
            for group, of_group in members.items()
        }

    def _group(self, name: str) -> str:
        for prefix, group in self._groups.items():
            if name.startswith(prefix):
                return group
        return name.split(".")[-2] if "." in name else name


def _parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(clean_name(name), parameter) for name, parameter in model.named_parameters()]


def _log_z_moments(logits: Tensor) -> Tensor:
    """Return the mean and the mean square of log Z of logits [tokens, vocab]."""
    log_z = torch.logsumexp(logits.detach().float(), dim=-1)
    return torch.stack([log_z.mean(), log_z.square().mean()])
