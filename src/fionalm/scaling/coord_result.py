"""What a coordinate check found: one row per layer and quantity, with the exponent fitted over widths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

QUANTITIES = ("activation", "change", "update", "gradient")


@dataclass(frozen=True)
class CoordRow:
    """One quantity of one layer over the widths.

    values: RMS, one tuple of seeds per width; exponent and stderr: of the fit RMS ~ n^exponent; low, high:
    what theory allows (None: no bound); allowed: whether it does, with the tolerance and two standard errors.
    """

    layer: str
    kind: str
    quantity: str
    values: tuple[tuple[float, ...], ...]
    exponent: float
    stderr: float
    low: float | None
    high: float | None
    allowed: bool

    @property
    def theory(self) -> str:
        """What theory allows, in words: "= 0", "<= 0", or "any"."""
        if self.high is None:
            return "any"
        return f"{'=' if self.low == self.high else '<='} {self.high:g}"


@dataclass(frozen=True)
class CoordCheckResult:
    """What a coordinate check measured."""

    parameterization: str
    optimizer: str
    alignment: str
    widths: tuple[int, ...]
    steps: int
    tolerance: float
    rows: tuple[CoordRow, ...]

    @property
    def matches(self) -> bool:
        """Whether in every layer activations stay O(1), and they and the logits change by O(1) at most."""
        return all(row.allowed for row in self.rows if row.quantity in ("activation", "change"))

    def select(self, quantity: str, kind: str | None = None) -> list[CoordRow]:
        """Return the rows of one quantity, of one kind of layer or of all."""
        return [r for r in self.rows if r.quantity == quantity and kind in (None, r.kind)]

    def table(self) -> list[dict[str, Any]]:
        """Return one printable row per layer and quantity; the RMS is the mean over seeds."""
        return [
            {
                "layer": row.layer,
                "kind": row.kind,
                "quantity": row.quantity,
                **{f"n={w}": float(np.mean(v)) for w, v in zip(self.widths, row.values, strict=True)},
                "exponent": row.exponent,
                "stderr": row.stderr,
                "theory": row.theory,
                "allowed": row.allowed,
            }
            for row in self.rows
        ]

    def series(self, quantity: str) -> dict[str, list[tuple[int, float]]]:
        """Return the lines of a figure: for each layer (width, mean RMS over seeds)."""
        return {
            row.layer: [(w, float(np.mean(v))) for w, v in zip(self.widths, row.values, strict=True)]
            for row in self.select(quantity)
        }

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data that JSON can hold."""
        return {**asdict(self), "matches": self.matches}


def fit_exponent(widths: Sequence[int], values: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Fit values ~ widths^exponent by least squares in logarithms: the exponent and its standard error.

    values: one sequence of seeds per width. NaN if any value is not positive and finite; the standard error
    of two points is NaN.
    """
    x = np.log(np.repeat(np.asarray(widths, float), [len(v) for v in values]))
    flat = np.concatenate([np.asarray(v, float) for v in values])
    if not (np.isfinite(flat).all() and (flat > 0).all()):
        return math.nan, math.nan
    y, x = np.log(flat), x - x.mean()
    slope = float(x @ y / (x @ x))
    residual = y - y.mean() - slope * x
    freedom = len(y) - 2
    stderr = math.sqrt(float(residual @ residual) / freedom / float(x @ x)) if freedom > 0 else math.nan
    return slope, stderr
