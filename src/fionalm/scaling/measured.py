"""Measured counterparts of the derived exponents: a width sweep of a small network with explicit multipliers.

    python -m fionalm.scaling.measured

prints, for every optimizer, alignment and parameterization, the derived exponents of updates and gradients
beside those fitted over widths, and how the logits' change grows; docs/parameterizations.md shows the result.
The network computes with W = n^-a w and trains w with LR n^-c, so that nothing of `parameterize` enters.
Source of the quantities: Everett et al. 2024 (arXiv 2407.05872).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .coord_result import fit_exponent
from .coordinates import optimizer_factory, rms
from .exponents import (
    MATRIX_KINDS,
    PARAMETERIZATIONS,
    Alignment,
    AlignmentLike,
    LayerKind,
    ParameterizationLike,
    absorbed_exponents,
    as_optimizer,
    as_parameterization,
    learning_rate_exponents,
)

# updates must outgrow the initial readout at these widths, so the base is far below and steps are large
WIDTHS = (128, 256, 512, 1024)
BASE_WIDTH = 16
BASE_LR = {"adam": 0.05, "adafactor": 0.2, "sgd": 1.0}
ALIGNED_READOUT = {"hidden": "full", "readout": Alignment(1.0, 1.0, 1.0)}


@dataclass(frozen=True)
class MeasuredExponent:
    """One size ~ n^exponent, as derived and as fitted.

    quantity: "gradient" of W in step `step`; "update" of W and "change" of the layer's output since
    initialisation, after step `step` (counted from 1). For a change, the derived exponent is a bound.
    """

    kind: str
    quantity: str
    step: int
    derived: float
    measured: float
    stderr: float


class MultiplierMlp(nn.Module):
    """A ReLU network [batch, inputs] -> [batch, outputs], in float64, with multipliers in its forward pass.

    weights[kind] is w [out, in]; the layers compute with W = (width / base_width)^-a w.
    """

    def __init__(
        self,
        width: int,
        parameterization: ParameterizationLike,
        *,
        base_width: int,
        inputs: int = 8,
        outputs: int = 4,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        table, self.ratio = as_parameterization(parameterization), width / base_width
        self.weights = nn.ParameterDict()
        self.multipliers = {str(kind): self.ratio ** -table[kind][0] for kind in MATRIX_KINDS}
        shapes = {"embedding": (width, inputs), "hidden": (width, width), "readout": (outputs, width)}
        for kind, shape in shapes.items():
            base_std = inputs**-0.5 if kind == "embedding" else base_width**-0.5
            values = torch.randn(shape, generator=generator, dtype=torch.float64)
            self.weights[kind] = nn.Parameter(values * base_std * self.ratio ** -table[kind][1])

    def matrix(self, kind: str) -> Tensor:
        """Return W, which the layer multiplies with."""
        return self.multipliers[kind] * self.weights[kind]

    def layers(self, x: Tensor) -> dict[str, Tensor]:
        """Map inputs [batch, inputs] to every layer's output [batch, width]; the readout's are the logits."""
        found = {}
        for kind in self.weights:
            found[kind] = F.linear(x, self.matrix(kind))
            x = F.relu(found[kind])
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs [batch, inputs] to logits [batch, outputs]."""
        return self.layers(x)["readout"]

    def groups(self, c: dict[str, float], base_lr: float) -> list[dict]:
        """Return parameter groups of w with LR base_lr * ratio^-c."""
        return [{"params": [w], "lr": base_lr * self.ratio ** -c[kind]} for kind, w in self.weights.items()]


def measured_exponents(
    parameterization: ParameterizationLike,
    optimizer: str,
    alignment: AlignmentLike,
    *,
    widths: Sequence[int] = WIDTHS,
    base_width: int = BASE_WIDTH,
    base_lr: float | None = None,
    steps: int = 3,
    seeds: int = 3,
    make_optimizer: Callable[[list[dict]], torch.optim.Optimizer] | None = None,
) -> list[MeasuredExponent]:
    """Train `MultiplierMlp` at several widths with derived learning rates and fit how its sizes scale.

    Every step sees a new batch of 32 random inputs with random labels of 4 classes, the same for all widths.

    Args:
        parameterization: as in `learning_rate_exponents`, like `optimizer` and `alignment`.
        optimizer: its name.
        alignment: decides the learning rates; what the network's alignment is, the exponents show.
        widths: at least two.
        base_width: where all parameterizations coincide.
        base_lr: learning rate there; None takes one whose updates soon outgrow the initial readout.
        steps: optimizer steps.
        seeds: networks per width.
        make_optimizer: parameter groups -> optimizer; None: that of `fionalm.optim` with its defaults.
    """
    family = as_optimizer(optimizer)
    lr = BASE_LR[family] if base_lr is None else base_lr
    make = make_optimizer or optimizer_factory(optimizer, lr)
    source = torch.Generator().manual_seed(0)
    inputs = torch.randn(steps, 32, 8, generator=source, dtype=torch.float64)
    labels = torch.randint(0, 4, (steps, 32), generator=source)
    c = learning_rate_exponents(parameterization, optimizer, alignment)
    sizes: dict[tuple[str, str, int], list[list[float]]] = {}
    for i, width in enumerate(widths):
        for seed in range(seeds):
            generator = torch.Generator().manual_seed(seed)
            model = MultiplierMlp(width, parameterization, base_width=base_width, generator=generator)
            groups = model.groups(c, lr)
            if family == "adam" and optimizer != "adam_atan2":
                groups = [{**group, "eps": 1e-30} for group in groups]
            for key, size in _train(model, make(groups), inputs, labels).items():
                sizes.setdefault(key, [[] for _ in widths])[i].append(size)

    theory = absorbed_exponents(parameterization, optimizer, alignment)
    start = as_parameterization(parameterization).total("readout")
    rows = []
    for (kind, quantity, step), values in sizes.items():
        derived = {"change": 0.0, "update": -theory[LayerKind(kind)].update}.get(quantity)
        if derived is None:  # the first gradient sees the initial readout only
            gradient = theory[LayerKind(kind)].gradient
            derived = -(start if step == 1 and kind != "readout" else gradient)
        rows.append(MeasuredExponent(kind, quantity, step, derived + 0.0, *fit_exponent(widths, values)))
    return rows


def _train(
    model: MultiplierMlp, optimizer: torch.optim.Optimizer, inputs: Tensor, labels: Tensor
) -> dict[tuple[str, str, int], float]:
    """Sizes by (kind, quantity, step)."""
    found = {}
    with torch.no_grad():
        before = model.layers(inputs[0])
        weights = {kind: model.matrix(kind).clone() for kind in model.weights}
    for step, (x, y) in enumerate(zip(inputs, labels, strict=True), start=1):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        with torch.no_grad():
            after = model.layers(inputs[0])
            for kind, w in model.weights.items():
                gradient = w.grad
                assert gradient is not None
                found[kind, "gradient", step] = rms(gradient) / model.multipliers[kind]
                found[kind, "update", step] = rms(model.matrix(kind) - weights[kind])
                found[kind, "change", step] = rms(after[kind] - before[kind])
    return found


def markdown_table(steps: int = 3) -> Iterator[str]:
    """Sweep all optimizers, alignments and parameterizations; yields the lines of a table.

    A cell says "derived: measured after step 1, 2, ..."; gradients are those of step 1, 2, ...
    """
    columns = [
        *((f"update of {kind}", str(kind), "update") for kind in MATRIX_KINDS),
        ("gradient of hidden", "hidden", "gradient"),
        ("change of hidden", "hidden", "change"),
        ("change of logits", "readout", "change"),
    ]
    yield f"| optimizer | alignment | parameterization | {' | '.join(title for title, *_ in columns)} |"
    yield "| --- " * (3 + len(columns)) + "|"
    alignments = {"full": "full", "none": "none", "full, readout omega 1": ALIGNED_READOUT}
    for optimizer in BASE_LR:
        for name, alignment in alignments.items():
            for parameterization in PARAMETERIZATIONS:
                rows = measured_exponents(parameterization, optimizer, alignment, steps=steps)
                cells = [_cell(rows, kind, quantity) for _, kind, quantity in columns]
                yield f"| {optimizer} | {name} | {parameterization} | {' | '.join(cells)} |"


def _cell(rows: list[MeasuredExponent], kind: str, quantity: str) -> str:
    chosen = [row for row in rows if (row.kind, row.quantity) == (kind, quantity)]
    derived = list(dict.fromkeys(f"{row.derived:g}" for row in chosen))
    bound = "<= " if quantity == "change" else ""
    return f"{bound}{' then '.join(derived)}: " + ", ".join(f"{row.measured:+.2f}" for row in chosen)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in markdown_table():
        print(line, flush=True)
