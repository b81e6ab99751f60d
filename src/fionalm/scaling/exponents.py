"""Learning-rate exponents of each layer kind, derived from the stability constraints.

Source: Everett et al. 2024, "Scaling Exponents Across Parameterizations and Optimizers" (arXiv 2407.05872).
A layer of a model of width n computes with W = n^-a w, where w starts with standard deviation n^-b and is
trained with a learning rate that goes as n^-c. (a, b) is the parameterization; c is derived here. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias, cast

from fionalm.errors import UserError, choice_error


class LayerKind(str, Enum):
    """The role of a parameter when width grows; `VECTOR` is a gain or a bias."""

    EMBEDDING = "embedding"
    HIDDEN = "hidden"
    READOUT = "readout"
    VECTOR = "vector"

    def __str__(self) -> str:
        return self.value


MATRIX_KINDS = (LayerKind.EMBEDDING, LayerKind.HIDDEN, LayerKind.READOUT)


@dataclass(frozen=True)
class Parameterization:
    """Exponents (a, b) of each layer kind: multiplier n^-a, initial standard deviation n^-b."""

    name: str
    embedding: tuple[float, float]
    hidden: tuple[float, float]
    readout: tuple[float, float]

    def __post_init__(self) -> None:
        """Refuse tables whose activations are not O(1), or whose logits grow, at initialisation."""
        for kind in MATRIX_KINDS:
            if not all(math.isfinite(x) for x in self[kind]):
                raise UserError(f"{kind} has (a, b) = {self[kind]}: expected two finite numbers")
        for kind, needed in ((LayerKind.EMBEDDING, 0.0), (LayerKind.HIDDEN, 0.5)):
            if abs(sum(self[kind]) - needed) > 1e-9:
                raise UserError(
                    f"{kind} has a + b = {sum(self[kind]):g}: no learning rate keeps activations O(1) "
                    f"unless a + b = {needed:g}"
                )
        if sum(self.readout) < 0.5 - 1e-9:
            raise UserError(
                f"readout has a + b = {sum(self.readout):g}: logits grow with width at initialisation "
                "unless a + b is at least 0.5"
            )

    def __getitem__(self, kind: str) -> tuple[float, float]:
        return getattr(self, LayerKind(kind).value)

    def total(self, kind: str) -> float:
        """Return a + b: the initial standard deviation of W falls as n^-(a + b)."""
        return sum(self[kind])


PARAMETERIZATIONS = {
    p.name: p
    for p in (
        Parameterization("standard", embedding=(0, 0), hidden=(0, 0.5), readout=(0, 0.5)),
        Parameterization("ntk", embedding=(0, 0), hidden=(0.5, 0), readout=(0.5, 0)),
        Parameterization("mup", embedding=(-0.5, 0.5), hidden=(0, 0.5), readout=(0.5, 0.5)),
        Parameterization("mfp", embedding=(0, 0), hidden=(0.5, 0), readout=(1, 0)),
    )
}


@dataclass(frozen=True)
class Alignment:
    """How sums over the width add up, as exponents in [0, 1]: 1/2 for independent terms, 1 for aligned ones.

    alpha: the update with the incoming activation; omega: the initial weights with the change of the incoming
    activation; u: the update with that change.
    """

    alpha: float
    omega: float
    u: float

    def __post_init__(self) -> None:
        for name in ("alpha", "omega", "u"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"alignment {name} is {getattr(self, name)}: expected a number from 0 to 1")


ALIGNMENTS = {"full": Alignment(1.0, 0.5, 1.0), "none": Alignment(0.5, 0.5, 0.5)}

OPTIMIZERS = {"sgd": "sgd", "adam": "adam", "adamw": "adam", "adam_atan2": "adam", "adafactor": "adafactor"}

ParameterizationLike: TypeAlias = "str | Parameterization | Mapping[str, tuple[float, float]]"
AlignmentLike: TypeAlias = "str | Alignment | Mapping[str, str | Alignment]"


@dataclass(frozen=True)
class AbsorbedExponents:
    """Exponents of the matrix W = n^-a w that the model multiplies with: each size goes as n^-exponent.

    init: initial standard deviation; lr: learning rate applied to W; update: RMS of an update of W; gradient:
    RMS of the gradient with respect to W once training has begun; eps: Adam's epsilon on W that equals a
    constant epsilon on w.
    """

    init: float
    lr: float
    update: float
    gradient: float
    eps: float


def learning_rate_exponents(
    parameterization: ParameterizationLike,
    optimizer: str,
    alignment: AlignmentLike,
    *,
    n_hidden: int = 1,
) -> dict[str, float]:
    """Derive c of each layer kind, LR ~ n^-c: the largest updates that keep activations and logits O(1).

    Minimises the sum of c over layers under r_l >= 0, where the change of layer l's activation goes as n^-r_l
    (`solve_updates`). With u above alpha several choices have that sum: the one with the smallest c of the
    embedding is returned, and among those the one with the smallest c of the hidden layers.

    Args:
        parameterization: "standard", "ntk", "mup", "mfp", or {"embedding": (a, b), "hidden": (a, b),
            "readout": (a, b)}.
        optimizer: "adam" (any scale-invariant one: "adamw", "adam_atan2"), "adafactor" (updates scaled by the
            parameter's RMS) or "sgd".
        alignment: "full", "none", an `Alignment`, or one per kind {"hidden": ..., "readout": ...}.
        n_hidden: hidden layers in the chain, which share one c; it matters only if omega is above 1/2.

    Raises:
        UserError: unknown name, or a table that no learning rate can make stable.

    Source: arXiv 2407.05872, the stability constraints.
    """
    table = as_parameterization(parameterization)
    exponents = absorbed_exponents(table, optimizer, alignment, n_hidden=n_hidden)
    # W = n^-a w: Adam's and Adafactor's steps on w shrink by the multiplier, a gradient step by it twice
    multiplier = {"adam": 1, "adafactor": 0, "sgd": 2}[as_optimizer(optimizer)]
    return {kind.value: exponents[kind].lr - multiplier * table[kind][0] + 0.0 for kind in MATRIX_KINDS}


def absorbed_exponents(
    parameterization: ParameterizationLike, optimizer: str, alignment: AlignmentLike, *, n_hidden: int = 1
) -> dict[LayerKind, AbsorbedExponents]:
    """Exponents per kind for W, with the multiplier n^-a absorbed; they depend on (a, b) through a + b only.

    A vector (gain, bias) multiplies or shifts each coordinate by itself, so its update may be as large as the
    embedding's, and its gradient is that of an activation.
    """
    table, family = as_parameterization(parameterization), as_optimizer(optimizer)
    updates = solve_updates(table.total("readout"), alignment, n_hidden=n_hidden)
    activation_gradient = gradient_exponent(table.total("readout"), updates[LayerKind.READOUT])
    result = {}
    for kind, update in updates.items():
        a, b = table[kind]
        gradient = 0.0 if kind is LayerKind.READOUT else activation_gradient
        step = {"adam": 0.0, "adafactor": a + b, "sgd": gradient}[family]  # size of a step at learning rate 1
        result[kind] = AbsorbedExponents(a + b, update - step, update, gradient, eps=-a)
    embedding = result[LayerKind.EMBEDDING]
    result[LayerKind.VECTOR] = AbsorbedExponents(0.0, embedding.lr, embedding.update, activation_gradient, 0.0)
    return result


def gradient_exponent(readout_total: float, readout_update: float) -> float:
    """Exponent of the gradient that reaches the activations below the readout.

    It is the readout matrix's size: its initial n^-(a + b), or the update n^-e once that is larger, because
    updates are as large as the constraints allow. The layers in between keep it: their backward pass has the
    alignment of the forward pass.
    """
    return min(readout_total, readout_update)


def solve_updates(readout_total: float, alignment: AlignmentLike, *, n_hidden: int = 1) -> dict[LayerKind, float]:
    """Smallest exponents e (updates of W go as n^-e) that keep every activation and the logits O(1).

    The change of the activations goes as n^-r with r_0 = e_embedding and, layer by layer,
    r_l = min(e - alpha, e + r_(l-1) - u, 1/2 + r_(l-1) - omega) >= 0 for the hidden layers and
    min(e - alpha, e + r_H - u, readout_total + r_H - omega) >= 0 for the logits; readout_total is its a + b.
    Since c = e - (a constant of the layer), the smallest sum of c is the smallest sum of e.

    The chain is solved from its end. The logits need r_H >= omega - readout_total. Each hidden layer lets
    r fall by at least omega - 1/2 (or rise by at most 1/2 - omega), which fixes how small the embedding's
    update must be. Raising r above what is needed costs the layers below at least what it saves above, so
    the needed r is optimal and, among equal sums, has the smallest embedding exponent.
    """
    if isinstance(n_hidden, bool) or not isinstance(n_hidden, int) or n_hidden < 1:
        raise UserError(f"n_hidden is {n_hidden!r}: expected a whole number of hidden layers, at least 1")
    hidden, readout = as_alignment(alignment, "hidden"), as_alignment(alignment, "readout")
    last = max(0.0, readout.omega - readout_total)  # r_H
    fall = max(hidden.omega - 0.5, -last / n_hidden)  # r_(l-1) - r_l, the same at every hidden layer
    largest = last + max(0.0, (n_hidden - 1) * fall)  # the largest of r_1 ... r_H
    return {
        LayerKind.EMBEDDING: last + n_hidden * fall,
        LayerKind.HIDDEN: max(hidden.alpha + largest, hidden.u - fall),
        LayerKind.READOUT: max(readout.alpha, readout.u - last),
    }


def as_parameterization(given: ParameterizationLike) -> Parameterization:
    """Resolve a name or a table of (a, b); a table's stability at initialisation is checked."""
    if isinstance(given, Parameterization):
        return given
    if isinstance(given, str):
        if given not in PARAMETERIZATIONS:
            raise choice_error("parameterization", given, PARAMETERIZATIONS)
        return PARAMETERIZATIONS[given]
    expected = [kind.value for kind in MATRIX_KINDS]
    try:
        table = {str(LayerKind(kind)): (float(a), float(b)) for kind, (a, b) in dict(given).items()}
    except (TypeError, ValueError) as error:
        raise UserError(
            f"parameterization {given!r}: expected a name or {{kind: (a, b)}} for {', '.join(expected)}"
        ) from error
    if sorted(table) != sorted(expected):
        raise UserError(f"parameterization table has {sorted(table)}: expected (a, b) for {', '.join(expected)}")
    return Parameterization("custom", **table)


def as_alignment(given: AlignmentLike, kind: str) -> Alignment:
    """Resolve the alignment of one layer kind from a name, an `Alignment` or a mapping of kinds."""
    if isinstance(given, Alignment):
        return given
    if isinstance(given, Mapping):
        unknown = sorted(set(map(str, given)) - {"hidden", "readout"})
        if unknown or kind not in given:
            raise UserError(f"alignment is given for {sorted(map(str, given))}: expected 'hidden' and 'readout'")
        return as_alignment(cast("str | Alignment", given[kind]), kind)
    if not isinstance(given, str) or given not in ALIGNMENTS:
        raise choice_error("alignment", given, ALIGNMENTS)
    return ALIGNMENTS[given]


def as_optimizer(given: str) -> str:
    """Resolve an optimizer's name to the family that decides the size of its updates."""
    if not isinstance(given, str) or given not in OPTIMIZERS:
        raise choice_error("optimizer", given, OPTIMIZERS)
    return OPTIMIZERS[given]
