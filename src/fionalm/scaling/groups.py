"""Initialise any model for a parameterization and group its parameters with per-layer learning rates.

The multipliers n^-a of a parameterization are absorbed: the model keeps computing with plain matrices
W = n^-a w, and everything that n^-a would have done is done to the initialisation, the learning rate and
epsilon (the "abc-symmetry"). So nothing has to be patched into the forward pass or the optimizer:

    in terms of w: multiplier n^-a       in terms of W
    initial std     n^-b                 n^-(a + b)
    Adam, atan2     LR n^-c, epsilon e   LR n^-(c + a), epsilon n^a e
    SGD             LR n^-c              LR n^-(c + 2a)
    Adafactor       LR n^-c              LR n^-c (its step is a fraction of the parameter, whatever the scale)

with n counted from the base width, where every multiplier is 1 and all parameterizations are the same model.
The two columns train the same function step by step, up to rounding. Three consequences:
  - The derived exponents of W depend on a + b only. So standard and NTK, whose a + b agree, are one and the
    same training run, and so are muP and mean-field (MFP): without exception for SGD and Adam-atan2, and up
    to the epsilons for Adam and Adafactor.
  - Clipping by the global gradient norm breaks the equivalence: the gradients of w have another norm than
    those of W. Clipping here always sees the gradients of W.
  - Decoupled weight decay that is multiplied by the learning rate would have to grow as n^a; independent
    weight decay (theta -= lambda theta, not multiplied by the group's LR) is the same in both columns, and is
    what `fionalm.optim` does by default.
Source: Everett et al. 2024 (arXiv 2407.05872); Yang & Hu 2021 (arXiv 2011.14522) for the symmetry.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from fionalm.errors import UserError, choice_error

from .exponents import (
    MATRIX_KINDS,
    AbsorbedExponents,
    AlignmentLike,
    LayerKind,
    ParameterizationLike,
    absorbed_exponents,
    as_optimizer,
    as_parameterization,
)
from .roles import LayerRole, clean_name, layer_roles, model_width, named_parameters

EPS_SCALINGS = ("none", "per_layer")


def parameterize(
    model: nn.Module,
    parameterization: ParameterizationLike,
    *,
    optimizer: str,
    base_lr: float,
    base_width: int,
    alignment: AlignmentLike = "full",
    gammas: Mapping[str, float] | None = None,
    eps: float | None = None,
    weight_decay: float = 0.0,
    roles: Mapping[str, str] | None = None,
    initialize: bool = True,
    generator: torch.Generator | None = None,
    n_hidden: int | None = None,
    width: int | None = None,
    eps_scaling: str = "none",
) -> list[dict]:
    """Initialise `model` in place and return plain torch parameter groups for its optimizer.

    With ratio = width / base_width and the exponents of this module's table, each kind of layer gets
        initial std   base std * ratio^-(a + b), where the base std is fan_in^-1/2 * ratio^1/2 for hidden and
                      readout matrices, base_width^-1/2 for tables, and fan_in^-1/2 for input layers;
        lr            base_lr * gamma * ratio^-(LR exponent of W).
    Norm gains keep their value, biases of linear layers start at 0, and both learn like an embedding without
    a multiplier, without weight decay. The readout's bias has no width and keeps the base LR; under SGD a
    gain shared by all heads has its LR lowered by one more power of the ratio: its gradient sums over heads.
    Tied embeddings are a readout (see `roles.py`). No depth factor is put on residual outputs; one that the
    model's own initialisation put there survives only initialize=False.

    Args:
        model: any module; call this before or after torch.compile, DDP or FSDP2's fully_shard. As fully_shard
            replaces parameters, groups made before it need `rebind_groups(groups, model)`.
        parameterization: a name or a table of (a, b), as in `learning_rate_exponents`.
        optimizer: "adam", "adamw", "adam_atan2", "adafactor" (with parameter scaling) or "sgd".
        base_lr: learning rate at the base width.
        base_width: width at which all parameterizations coincide.
        alignment: "full", "none", an `Alignment`, a mapping of kinds, or "global": one LR for all layers and
            widths (the baseline that needs retuning at every width).
        gammas: constants that multiply the LR of "embedding", "hidden", "readout", "vector"; missing ones are
            1, and vectors take the embedding's.
        eps: Adam's epsilon at the base width (default 1e-8); optimizers other than Adam's get none.
        weight_decay: of every matrix.
        roles: {glob of parameter names: kind} for parameters that the rules of `roles.py` cannot or should
            not assign.
        initialize: draw new weights; False leaves the values alone (groups for a loaded or sharded model).
        generator: source of the new weights; every rank of a sharded model must pass one of equal state,
            or none, and then rank 0 draws for all.
        n_hidden: hidden layers in the chain (None: all hidden matrices), for alignments with omega above 1/2.
        width: the model's width (None: columns of the token table, else outputs of the first linear layer).
        eps_scaling: "none", or "per_layer": epsilon follows the size of the layer's gradient, n^-g.

    Returns:
        groups with "params", "param_names", "name", "kind", "lr", "weight_decay" and, for Adam, "eps".

    Raises:
        UserError: unknown names, or parameters without a layer kind.
    """
    table, family = as_parameterization(parameterization), as_optimizer(optimizer)
    for what, value in (("base_lr", base_lr), ("base_width", base_width)):
        if not 0 < value < math.inf:
            raise UserError(f"{what} is {value}: expected a positive number")
    if eps_scaling not in EPS_SCALINGS:
        raise choice_error("eps_scaling", eps_scaling, EPS_SCALINGS)
    factors = _gammas(gammas or {})

    assigned = layer_roles(model, roles, width=width)
    ratio = (width or model_width(model)) / base_width
    hidden = sum(role.kind is LayerKind.HIDDEN for role in assigned)
    chain = max(1, hidden) if n_hidden is None else n_hidden
    is_global = isinstance(alignment, str) and alignment == "global"
    exponents = absorbed_exponents(table, optimizer, "full" if is_global else alignment, n_hidden=chain)
    if initialize:
        for role in assigned:
            _initialize(role, exponents[role.kind].init, ratio, base_width, generator)

    groups: dict[str, dict] = {}
    for role in assigned:
        name, scaling = _group(role, exponents[role.kind], family)
        if name not in groups:
            lr_exponent = 0.0 if is_global else scaling.lr
            groups[name] = {
                "params": [],
                "param_names": [],
                "name": name,
                "kind": role.kind.value,
                "lr": base_lr * factors[role.kind] * ratio**-lr_exponent,
                "weight_decay": 0.0 if role.kind is LayerKind.VECTOR else weight_decay,
            }
            if family == "adam" and optimizer != "adam_atan2":
                exponent = scaling.gradient if eps_scaling == "per_layer" else scaling.eps
                exponent = 0.0 if is_global and eps_scaling == "none" else exponent
                groups[name]["eps"] = (1e-8 if eps is None else eps) * ratio**-exponent
        groups[name]["params"].append(role.parameter)
        groups[name]["param_names"].append(role.name)
    return list(groups.values())


def rebind_groups(groups: Sequence[Mapping], model: nn.Module) -> list[dict]:
    """Return `groups` with the parameters that `model` has now under the same names.

    FSDP2's fully_shard puts new parameters in the place of those that `parameterize` has seen.

    Raises:
        UserError: a parameter of the groups is not in the model.
    """
    parameters = named_parameters(model)
    rebound = []
    for group in groups:
        names = [clean_name(name) for name in group["param_names"]]
        missing = [name for name in names if name not in parameters]
        if missing:
            raise UserError(f"group {group['name']!r} holds {missing[0]!r}, which the model does not have")
        rebound.append({**group, "params": [parameters[name] for name in names]})
    return rebound


def _gammas(given: Mapping[str, float]) -> dict[LayerKind, float]:
    for kind, gamma in given.items():
        if kind not in list(LayerKind):
            raise choice_error("layer kind in gammas", kind, [k.value for k in LayerKind])
        if not 0 < gamma < math.inf:
            raise UserError(f"gamma of {kind} is {gamma}: expected a positive number")
    factors = {kind: float(given.get(kind.value, 1.0)) for kind in MATRIX_KINDS}
    factors[LayerKind.VECTOR] = float(given.get("vector", factors[LayerKind.EMBEDDING]))
    return factors


def _group(role: LayerRole, scaling: AbsorbedExponents, family: str) -> tuple[str, AbsorbedExponents]:
    """Name of the role's group and the exponents that hold for it."""
    if role.output_vector:
        return "readout_bias", AbsorbedExponents(0, 0, 0, 0, 0)
    if role.shared_vector and family == "sgd":
        return "shared_vector", replace(scaling, lr=scaling.lr + 1)
    return role.kind.value, scaling


@torch.no_grad()
def _initialize(role: LayerRole, init: float, ratio: float, base_width: int, generator: torch.Generator | None) -> None:
    """Draw a matrix from a normal distribution, or zero a linear layer's bias."""
    parameter = role.parameter
    if parameter.is_meta:
        raise UserError(f"{role.name} is on the meta device: expected real memory (model.to_empty) or initialize=False")
    if role.kind is LayerKind.VECTOR:
        if role.linear_bias:
            parameter.zero_()
        return
    if role.kind is LayerKind.EMBEDDING:
        base = base_width**-0.5 if role.table else role.fan_in**-0.5
        std = base * ratio**-init
    else:
        std = role.fan_in**-0.5 * ratio ** (0.5 - init)
    values = _normal(parameter, std, generator)
    if role.padding_row is not None:
        values[role.padding_row] = 0.0
    if hasattr(parameter, "placements"):  # sharded by FSDP2
        from torch.distributed.tensor import DTensor, distribute_tensor

        sharded = cast(DTensor, parameter)
        source = 0 if generator is None else None  # with equal generators every rank has all values already
        values = distribute_tensor(values, sharded.device_mesh, sharded.placements, src_data_rank=source)
    parameter.copy_(values)


def _normal(like: Tensor, std: float, generator: torch.Generator | None) -> Tensor:
    """Draw a full tensor of `like`'s global shape on the generator's device, in at least single precision."""
    dtype = like.dtype if like.dtype == torch.float64 else torch.float32
    device = like.device if generator is None else generator.device
    values = torch.empty(like.shape, dtype=dtype, device=device).normal_(0.0, std, generator=generator)
    return values.to(like.device)
