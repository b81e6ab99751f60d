"""Coordinate check: how activations, their changes and the updates scale with width after a few steps.

A parameterization keeps what it promises if, at every width, activations stay O(1), and neither activations
nor logits change by more than O(1). The check trains small models of several widths for a few steps on the
same batches, fits size ~ n^exponent for each layer, and compares the exponent with what the theory allows.
Source: Yang et al. 2022 (arXiv 2203.03466) for the check; Everett et al. 2024 (arXiv 2407.05872) for the exponents
of updates and gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fionalm.errors import UserError
from fionalm.progress import progress

from .coord_result import QUANTITIES, CoordCheckResult, CoordRow, fit_exponent
from .exponents import (
    AbsorbedExponents,
    AlignmentLike,
    LayerKind,
    ParameterizationLike,
    absorbed_exponents,
    as_optimizer,
    as_parameterization,
)
from .groups import parameterize
from .roles import LayerRole, layer_roles, unwrap

Batch = Tensor | tuple[Tensor, Tensor]


def coord_check(
    build_model: Callable[[int], nn.Module],
    widths: Sequence[int],
    batches: Sequence[Batch],
    *,
    parameterization: ParameterizationLike,
    optimizer: str,
    alignment: AlignmentLike = "full",
    base_lr: float,
    base_width: int,
    steps: int = 4,
    seeds: int | Sequence[int] = 3,
    tolerance: float = 0.15,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    make_optimizer: Callable[[list[dict]], torch.optim.Optimizer] | None = None,
    quiet: bool = True,
    **options: Any,
) -> CoordCheckResult:
    """Train `build_model(width)` for a few steps at every width and fit how each layer's sizes scale.

    For each layer that owns a matrix: RMS of its output on the first batch ("activation") and of its change
    since initialisation ("change"), both after `steps` steps; RMS of the weight's change ("update") and of
    its last gradient ("gradient"). The models are parameterized here, so build_model need not initialise.

    Args:
        build_model: makes a model of the given width (`scale_config` changes a configuration's width).
        widths: at least two; four or more doublings give exponents worth reading.
        batches: token ids [batch, seq] for a language model (it learns the next token), or (inputs, targets);
            they are used in turn.
        parameterization: as `optimizer`, `alignment`, `base_lr` and `base_width` in `parameterize`.
        optimizer: its name, also for `fionalm.optim` unless `make_optimizer` is given.
        alignment: as in `parameterize`.
        base_lr: learning rate at the base width; large enough that a few steps change the activations.
        base_width: as in `parameterize`.
        steps: optimizer steps.
        seeds: how many, or which.
        tolerance: how far an exponent may be from theory beyond two standard errors; narrow networks are off
            by 0.1, a wrong exponent is off by 0.25 or more.
        loss: (outputs, targets) -> scalar; default is cross-entropy, or squared error for real targets.
        make_optimizer: parameter groups -> optimizer.
        quiet: show no progress.
        options: further arguments of `parameterize` (gammas, eps, roles, ...).

    Raises:
        UserError: fewer than two widths, no batch, no step, or as in `parameterize`.
    """
    widths = tuple(int(w) for w in widths)
    seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    for what, given, needed in (
        ("widths", len(set(widths)), 2),
        ("batches", len(batches), 1),
        ("steps", steps, 1),
        ("seeds", len(seeds), 1),
    ):
        if given < needed:
            raise UserError(f"{given} {what} given: a coordinate check expects at least {needed}")
    settings = {"optimizer": optimizer, "alignment": alignment, "base_lr": base_lr, "base_width": base_width}
    settings |= options
    sizes: dict[tuple[str, str], list[list[float]]] = {}
    roles: dict[str, LayerRole] = {}
    with progress(len(widths) * len(seeds), "coordinate check", "runs", quiet=quiet) as bar:
        for i, width in enumerate(widths):
            for seed in seeds:
                with torch.random.fork_rng():
                    torch.manual_seed(seed)
                    model = build_model(width)
                    settings["generator"] = torch.Generator().manual_seed(seed)
                    groups = parameterize(model, parameterization, **settings)
                    stepper = (make_optimizer or optimizer_factory(optimizer, base_lr))(groups)
                    layers = _layers(model, options.get("roles"), options.get("width"))
                    measured = _train(model, layers, batches, stepper, steps, loss or default_loss)
                roles |= layers
                for key, value in measured.items():
                    sizes.setdefault(key, [[] for _ in widths])[i].append(value)
                bar.advance(width=width)

    n_hidden = options.get("n_hidden")
    if n_hidden is None:
        n_hidden = max(1, sum(role.kind is LayerKind.HIDDEN for role in roles.values()))
    theory = None
    if not (isinstance(alignment, str) and alignment == "global"):
        theory = absorbed_exponents(parameterization, optimizer, alignment, n_hidden=n_hidden)
    rows = [
        _row(layer, roles[layer], quantity, widths, values, theory, tolerance)
        for (layer, quantity), values in sorted(sizes.items(), key=lambda x: QUANTITIES.index(x[0][1]))
    ]
    name = as_parameterization(parameterization).name
    return CoordCheckResult(name, as_optimizer(optimizer), str(alignment), widths, steps, tolerance, tuple(rows))


def default_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of outputs [..., classes] for whole targets [...], mean squared error for real ones."""
    if targets.is_floating_point():
        return F.mse_loss(outputs, targets)
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def optimizer_factory(name: str, base_lr: float) -> Callable[[list[dict]], torch.optim.Optimizer]:
    """Return what builds the optimizer `name` of `fionalm.optim` from parameter groups."""

    def make(groups: list[dict]) -> torch.optim.Optimizer:
        from fionalm.optim import OptimizerConfig, build_optimizer
        from fionalm.optim.config import OptimizerName

        known = cast("OptimizerName", "adamw" if name == "adam" else name)
        return build_optimizer(OptimizerConfig(name=known, lr=base_lr), groups)

    return make


def rms(x: Tensor) -> float:
    """Root mean square of all entries."""
    return float(x.double().square().mean().sqrt())


def _train(
    model: nn.Module,
    layers: Mapping[str, LayerRole],
    batches: Sequence[Batch],
    optimizer: torch.optim.Optimizer,
    steps: int,
    loss: Callable[[Tensor, Tensor], Tensor],
) -> dict[tuple[str, str], float]:
    """Measure the model before and after its training: {(layer, quantity): RMS}."""
    device = next(model.parameters()).device
    probe = _split(batches[0], device)[0]
    before = _outputs(model, layers, probe)
    weights = {name: role.parameter.detach().clone() for name, role in layers.items()}
    model.train()
    for step in range(steps):
        inputs, targets = _split(batches[step % len(batches)], device)
        optimizer.zero_grad()
        loss(_logits(model(inputs)), targets).backward()
        optimizer.step()
    after = _outputs(model, layers, probe)
    found = {}
    for name, role in layers.items():
        if role.parameter.grad is not None:
            found[name, "gradient"] = rms(role.parameter.grad)
        found[name, "update"] = rms(role.parameter.detach() - weights[name])
        if name in after:  # a table whose rows are read without calling its module has no output
            found[name, "activation"] = rms(after[name])
            found[name, "change"] = rms(after[name] - before[name])
    return found


@torch.no_grad()
def _outputs(model: nn.Module, layers: Mapping[str, LayerRole], inputs: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            found[name] = (output[0] if isinstance(output, tuple) else output).detach().clone()

        return hook

    modules = dict(unwrap(model).named_modules())
    handles = [modules[name].register_forward_hook(keep(name)) for name in layers]
    training = model.training
    try:
        model.eval()
        model(inputs)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return found


def _layers(model: nn.Module, roles: Mapping[str, str] | None, width: int | None) -> dict[str, LayerRole]:
    """Modules that own a matrix, by name; a tied readout is measured at both of its places."""
    matrices = [r for r in layer_roles(model, roles, width=width) if r.kind is not LayerKind.VECTOR]
    by_id = {id(role.parameter): role for role in matrices}
    found = {}
    for name, module in unwrap(model).named_modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) in by_id:
                found[name] = by_id[id(parameter)]
    return found


def _row(
    layer: str,
    role: LayerRole,
    quantity: str,
    widths: tuple[int, ...],
    values: list[list[float]],
    theory: Mapping[LayerKind, AbsorbedExponents] | None,
    tolerance: float,
) -> CoordRow:
    low, high = _bounds(layer, role, quantity, theory)
    exponent, stderr = fit_exponent(widths, values)
    slack = tolerance + (0.0 if math.isnan(stderr) else 2 * stderr)
    finite = bool(np.isfinite(np.asarray(values)).all())
    allowed = finite and not (low is not None and exponent < low - slack)
    allowed = allowed and not (high is not None and exponent > high + slack)
    return CoordRow(layer, role.kind.value, quantity, tuple(map(tuple, values)), exponent, stderr, low, high, allowed)


def _bounds(
    layer: str, role: LayerRole, quantity: str, theory: Mapping[LayerKind, AbsorbedExponents] | None
) -> tuple[float | None, float | None]:
    """Exponents that theory allows: activations of the readout and of tied tables may shrink, not grow."""
    if quantity == "activation":
        return (None if role.kind is LayerKind.READOUT else 0.0), 0.0
    if quantity == "change":
        return None, 0.0
    if theory is None:
        return None, None
    exponent = 0.0 - getattr(theory[role.kind], quantity)
    return exponent, exponent


def _split(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a batch; token ids are their own targets, one position later."""
    inputs, targets = (batch[:, :-1], batch[:, 1:]) if isinstance(batch, Tensor) else batch
    return inputs.to(device), targets.to(device)


def _logits(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits
