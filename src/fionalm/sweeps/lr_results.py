"""What learning-rate sweeps found: tables of losses, and what is read off them with intervals over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from fionalm.statistics import Interval, bootstrap
from fionalm.sweeps import optimum

Result = Mapping[str, Any] | None


@dataclass(frozen=True, eq=False)
class LRTransferResult:
    """Final losses over widths, learning rates and seeds.

    Attributes:
        widths: ascending.
        lrs: ascending, as at `base_width`.
        seeds: ascending.
        losses: final losses `[width, lr, seed]` in nats; infinite where a run diverged, NaN where it crashed.
        initial_losses: the same runs' first losses.
        parameterization: its name; None: the model's own.
        optimizer: its name.
        alignment: as assumed by the parameterization.
        base_width: where the parameterization leaves learning rates as they are.
    """

    widths: tuple[int, ...]
    lrs: tuple[float, ...]
    seeds: tuple[int, ...]
    losses: np.ndarray
    initial_losses: np.ndarray
    parameterization: str | None
    optimizer: str
    alignment: str | None
    base_width: int

    @classmethod
    def from_results(cls, results: Sequence[Result], **description: Any) -> LRTransferResult:
        """Build the tables from training results in the order width, learning rate, seed; None: crashed."""
        shape = tuple(len(description[name]) for name in ("widths", "lrs", "seeds"))
        losses, initial_losses = _tables(results, shape)
        return cls(losses=losses, initial_losses=initial_losses, **description)

    def best_lr(self, width: int, *, interpolate: bool = True) -> Interval:
        """Return the best learning rate at `width`; NaN where every run diverged (`optimum.best_log_lr`)."""
        index = self.widths.index(width)
        return optimum.best_lr(self.lrs, self.clipped[index], interpolate=interpolate)

    def slope(self, *, interpolate: bool = True) -> Interval:
        """Return the slope of log best learning rate against log width, NaN with fewer than two widths."""
        return optimum.best_lr_slope(self.widths, self.lrs, self.clipped, interpolate=interpolate)

    def largest_shift(self, *, interpolate: bool = True) -> Interval:
        """Return the largest distance of a width's best learning rate from the base width's, in grid steps.

        Where the base width was not swept, the narrowest width stands for it.
        """
        base = self.base_width if self.base_width in self.widths else self.widths[0]
        return optimum.largest_shift(self.widths, self.lrs, self.clipped, base_width=base, interpolate=interpolate)

    def best_loss(self, width: int) -> Interval:
        """Return the mean loss over seeds at the best learning rate of the grid."""
        losses = self.clipped[self.widths.index(width)]
        return bootstrap(lambda drawn: optimum.mean_over_seeds(drawn).min(), losses)

    @property
    def edge_widths(self) -> tuple[int, ...]:
        """Widths whose best learning rate is an end of the grid: sweep further before believing a slope."""
        means = [optimum.mean_over_seeds(losses) for losses in self.clipped]
        return tuple(
            width for width, mean in zip(self.widths, means, strict=True) if mean.argmin() in (0, len(mean) - 1)
        )

    @property
    def clipped(self) -> np.ndarray:
        """Losses `[width, seed, lr]`, where a run that diverged or ended above its first loss has that."""
        return np.minimum(self.losses, self.initial_losses).swapaxes(1, 2)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values that `from_dict` reads back; they hold no NaN."""
        return _to_dict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LRTransferResult:
        """Read `to_dict`'s values."""
        return cls(**_from_dict(values))


@dataclass(frozen=True, eq=False)
class StabilityResult:
    """Final losses over learning rates and seeds.

    Attributes:
        lrs: ascending.
        seeds: ascending.
        losses: final losses `[lr, seed]` in nats; infinite where a run diverged, NaN where it crashed.
        initial_losses: the same runs' first losses.
    """

    lrs: tuple[float, ...]
    seeds: tuple[int, ...]
    losses: np.ndarray
    initial_losses: np.ndarray

    @classmethod
    def from_results(cls, results: Sequence[Result], **description: Any) -> StabilityResult:
        """Build the tables from training results in the order learning rate, seed; None: crashed."""
        losses, initial_losses = _tables(results, (len(description["lrs"]), len(description["seeds"])))
        return cls(losses=losses, initial_losses=initial_losses, **description)

    def sensitivity(self) -> Interval:
        """Return the LR sensitivity with its interval over seeds (Wortsman et al. 2023).

        A seed of which a run crashed is left out, as a crash says nothing of the learning rate. NaN where
        none is left, and, with a warning, where every run diverged.
        """
        from fionalm.scaling import lr_sensitivity_interval

        whole = ~np.isnan(self.losses).any(axis=0)
        if not whole.any():
            return Interval(np.nan, np.nan, np.nan)
        # Runs of one seed begin alike at every learning rate.
        initial = self.initial_losses[0, whole]
        return lr_sensitivity_interval(self.lrs, self.losses[:, whole].T.tolist(), initial.tolist())

    def best_lr(self, *, interpolate: bool = True) -> Interval:
        """Return the best learning rate (`optimum.best_log_lr`)."""
        clipped = np.minimum(self.losses, self.initial_losses).T
        return optimum.best_lr(self.lrs, clipped, interpolate=interpolate)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values that `from_dict` reads back; they hold no NaN."""
        return _to_dict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StabilityResult:
        """Read `to_dict`'s values."""
        return cls(**_from_dict(values))


def _tables(results: Sequence[Result], shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    def number(result: Result, name: str) -> float:
        if result is None:
            return np.nan
        return np.inf if result[name] is None else result[name]

    losses = [number(result, "final_loss") for result in results]
    initial = [number(result, "initial_loss") for result in results]
    return np.array(losses, dtype=float).reshape(shape), np.array(initial, dtype=float).reshape(shape)


def _to_dict(result: Any) -> dict[str, Any]:
    values = {field.name: getattr(result, field.name) for field in fields(result)}
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    for key in ("losses", "initial_losses"):
        table = values[key].astype(object)
        table[~np.isfinite(values[key])] = None
        plain[key] = table.tolist()
    plain["crashed"] = np.isnan(values["losses"]).tolist()
    return plain


def _from_dict(values: Mapping[str, Any]) -> dict[str, Any]:
    whole = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    crashed = np.array(whole.pop("crashed"))
    for key in ("losses", "initial_losses"):
        table = np.array(values[key], dtype=float)
        whole[key] = np.where(np.isnan(table) & ~crashed, np.inf, table)
    return whole
