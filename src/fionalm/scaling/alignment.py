"""How far weights, their updates and activations align in training (Everett et al. 2024, arXiv 2407.05872).

For activations z [tokens, n] and weights W [n, out] the log alignment ratio is log_n(RMS(z W) / (RMS(z)
RMS(W))), n the fan-in: about 1/2 if z and W are independent, 1 if they are aligned so that all n terms of
every product agree. With z_t = z_0 + dz and W_t = W_0 + dW the layer's output is z_0 W_0 + z_0 dW + dz W_0 +
dz dW, and the ratios of the last three terms are the paper's alpha, omega and u.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from fionalm.errors import UserError

from .exponents import Alignment, LayerKind
from .hooks import check_every, hooked, is_due, reshard, rms, sample_rows, to_floats, whole, without_compile
from .roles import clean_name, is_linear, layer_roles, unwrap

TERMS = ("weight", "update", "alpha", "omega", "u")
"""The measured terms, as they stand in the metrics' names."""


def log_alignment_ratio(activations: Tensor, weight: Tensor) -> Tensor:
    """Return log_n(RMS(z W) / (RMS(z) RMS(W))), a float32 scalar (Everett et al. 2024).

    Args:
        activations: z [..., n].
        weight: W [n, out], fan-in first.

    Returns:
        The ratio; NaN where it is undefined: z or W is zero, or n is below 2.
    """
    n = weight.shape[0]
    z, weight = activations.detach().float(), weight.detach().float()
    if n < 2:
        return z.new_full((), math.nan)
    with torch.autocast(z.device.type, enabled=False):
        product = z @ weight
    return (rms(product).log() - rms(z).log() - rms(weight).log()) / math.log(n)


class AlignmentProbe:
    """Measure the log alignment ratios of every linear layer: `nn.Linear` and transformers' `Conv1D`.

    Metrics of `end` are `alignment/TERM/LAYER`, LAYER the module's name:

    - `weight`: current weights with the current incoming activations;
    - `update`: dW, the change of the weights since the snapshot, with the current incoming activations;
    - `alpha`: dW with the activations at the snapshot; `omega`: the snapshot's weights with dz, the change of
      the activations since the snapshot; `u`: dW with dz. These three need `probe_batch`.

    The snapshot is taken when the probe is built: build it after the weights are initialised and before a
    checkpoint is loaded, so that a resumed run measures against the same weights; or call `reset` for a later
    snapshot. It costs a copy of the measured weights, and with `probe_batch` their incoming activations on
    that batch. Ratios that are undefined because nothing has changed yet are left out. The contract of
    `begin` and `end` is that of `StabilityProbe`; the head is measured, an embedding is not: its input is
    one-hot, so its ratio is 1/2 by construction.

    Args:
        model: the model, also inside DistributedDataParallel, torch.compile or FSDP2 (there every rank must
            probe).
        every: steps between two measured steps.
        probe_batch: input ids [batch, seq], fixed for the run, on which all terms are measured in `end` by
            one forward in eval mode with the updated weights. Without it, `weight` and `update` are measured
            within the training step's own forward (the last micro-batch's), before the update.
        max_tokens: activations that enter a ratio, evenly spaced over the training batch; unused with
            `probe_batch`.

    Raises:
        UserError: `every` below 1, or a model without linear layers.
    """

    def __init__(
        self, model: nn.Module, every: int = 50, *, probe_batch: Tensor | None = None, max_tokens: int = 512
    ) -> None:
        self.model = model
        self.every = check_every(every)
        self.probe_batch = probe_batch
        self.max_tokens = max_tokens
        self._hooks = ExitStack()
        self._active = False
        self._ratios: dict[str, Tensor] = {}
        if not self._layers():
            raise UserError(f"{type(model).__name__} has no linear layer: expected a model with nn.Linear or Conv1D")
        self.reset()

    def reset(self) -> None:
        """Take a new snapshot: measure changes from the weights and activations of now."""
        self._weights = {name: _fan_in_first(layer).detach().clone() for name, layer in self._layers().items()}
        self._activations: dict[str, Tensor] = {}
        if self.probe_batch is not None:
            self._run_probe_batch(lambda name, _layer, z: self._activations.update({name: z.clone()}))

    def begin(self, step: int) -> bool:
        """Prepare the measurement before the forward of `step`; say whether this step is measured."""
        self.close()
        self._active = is_due(step, self.every)
        if self._active and self.probe_batch is None:
            self._watch(lambda name, layer, z: self._measure(name, layer, sample_rows(z, self.max_tokens)))
            self._hooks.enter_context(without_compile())
        return self._active

    def end(self, step: int) -> dict[str, float] | None:
        """Return the metrics after the optimizer's step, or None if `step` was not measured."""
        if not self._active:
            return None
        if self.probe_batch is not None:
            self._run_probe_batch(self._measure)
        metrics = {name: value for name, value in to_floats(self._ratios).items() if math.isfinite(value)}
        self.close()
        return metrics

    def close(self) -> None:
        """Take all hooks off and forget an unfinished measurement; for a step that ended in an exception."""
        self._hooks.close()
        self._active = False
        self._ratios = {}

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Return the snapshot, for a run that is resumed without its initial weights."""
        return {"weights": self._weights, "activations": self._activations}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Take up the snapshot of an interrupted run."""
        self._weights, self._activations = dict(state["weights"]), dict(state["activations"])

    def _layers(self) -> dict[str, nn.Module]:
        return _linear_layers(self.model)

    def _watch(self, act: Callable[[str, nn.Module, Tensor], None]) -> None:
        """Call `act(name, layer, z)` with the incoming activations [..., fan-in] of each layer that runs."""
        for name, layer in self._layers().items():

            def after(module: nn.Module, args: tuple[Any, ...], output: Any, name: str = name) -> None:
                if output is not None:
                    act(name, module, args[0].detach())

            self._hooks.enter_context(hooked(layer, after))

    @torch.no_grad()
    def _run_probe_batch(self, act: Callable[[str, nn.Module, Tensor], None]) -> None:
        """Run the model on the probe batch, in eval mode so that no random numbers are drawn."""
        assert self.probe_batch is not None
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            with without_compile():
                self._watch(act)
                model = unwrap(self.model)
                model(self.probe_batch.to(next(model.parameters()).device))
        finally:
            self._hooks.close()
            reshard(self.model)
            for module, training in modes.items():
                module.training = training

    @torch.no_grad()
    def _measure(self, name: str, layer: nn.Module, z: Tensor) -> None:
        """Take the ratios of layer `name` with its incoming activations z [..., fan-in]."""
        weight = whole(_fan_in_first(layer).detach()).float()
        initial = whole(self._weights[name]).to(weight)
        z, change = z.float(), weight - initial
        pairs = {"weight": (z, weight), "update": (z, change)}
        if name in self._activations:
            z_0 = self._activations[name].to(z)
            pairs |= {"alpha": (z_0, change), "omega": (z - z_0, initial), "u": (z - z_0, change)}
        for term, (activations, matrix) in pairs.items():
            self._ratios[f"alignment/{term}/{name}"] = log_alignment_ratio(activations, matrix)


def mean_alignment(metrics: dict[str, float]) -> dict[str, float]:
    """Average one step's alignment metrics over the layers: a mean for each measured term."""
    values: dict[str, list[float]] = defaultdict(list)
    for name, value in metrics.items():
        prefix, _, rest = name.partition("/")
        if prefix == "alignment":
            values[rest.partition("/")[0]].append(value)
    return {term: sum(values[term]) / len(values[term]) for term in TERMS if term in values}


def measured_alignment(
    model: nn.Module, metrics: Mapping[str, float], roles: Mapping[str, str] | None = None
) -> dict[str, Alignment]:
    """Turn one step's metrics into the alignment that `learning_rate_exponents` and `parameterize` take.

    Args:
        model: the model that was measured.
        metrics: of an `AlignmentProbe` with `probe_batch`, at a step after weights and activations have changed.
        roles: as in `layer_roles`.

    Returns:
        for "hidden" and "readout" the mean alpha, omega and u over the layers of that kind, cut to [0, 1] (a ratio
        leaves it by rounding, or where the terms cancel).

    Raises:
        UserError: a kind of which no layer was measured.
    """
    kinds = {id(role.parameter): role.kind for role in layer_roles(model, roles)}
    found = {}
    for kind in (LayerKind.HIDDEN, LayerKind.READOUT):
        layers = [name for name, layer in _linear_layers(model).items() if kinds.get(id(layer.weight)) is kind]
        means = []
        for term in ("alpha", "omega", "u"):
            keys = [f"alignment/{term}/{name}" for name in layers]
            values = [metrics[key] for key in keys if key in metrics]
            if not values:
                raise UserError(
                    f"no {term} of a {kind} layer among the metrics: expected those of an AlignmentProbe with "
                    "probe_batch, after the first update"
                )
            means.append(min(1.0, max(0.0, sum(values) / len(values))))
        found[str(kind)] = Alignment(*means)
    return found


def _linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    return {clean_name(name): module for name, module in unwrap(model).named_modules() if is_linear(module)}


def _fan_in_first(layer: nn.Module) -> Tensor:
    """Return the layer's weight as [fan-in, out]."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.mT if isinstance(layer, nn.Linear) else weight
