"""Learning-rate sensitivity: how much of an algorithm's quality hangs on the right learning rate."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from fionalm.errors import UserError
from fionalm.statistics import Interval, bootstrap


def lr_sensitivity(
    lrs: Sequence[float] | np.ndarray, losses: Sequence[float | None] | np.ndarray, initial_loss: float
) -> float:
    """Return the LR sensitivity of one sweep (Wortsman et al. 2023, arXiv 2309.14322).

    The mean over the sweep's learning rates of min(loss, l0) - l*, with l* the best final loss of the sweep
    and l0 the loss at initialisation; 0 is best. The expectation is a plain mean over the learning rates
    given, as in the paper, so they should be evenly spaced in log. A diverged run (NaN, infinite, None or
    over l0) counts as l0.

    Args:
        lrs: the learning rates of the sweep, positive and distinct, in any order.
        losses: final loss at each of them, in nats.
        initial_loss: l0.

    Returns:
        The sensitivity in nats; NaN with a warning if no run ended below l0, for which 0 would be the best
        score.

    Raises:
        UserError: lengths that differ, no learning rate, one that is not positive or stands twice, or an l0
        that is not finite.
    """
    sensitivity = _sensitivities(lrs, [losses], initial_loss)[0]
    if np.isnan(sensitivity):
        _warn_all_diverged(len(lrs), initial_loss)
    return float(sensitivity)


def lr_sensitivity_interval(
    lrs: Sequence[float] | np.ndarray,
    losses_by_seed: Sequence[Sequence[float | None]] | np.ndarray,
    initial_loss: float | Sequence[float] | np.ndarray,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the mean LR sensitivity over seeds with its bootstrap interval.

    Each seed's sweep has its own l*, and its l0 if several are given. A seed at which every run diverged has
    none: it takes the mean l* of the others, so that it counts as the worst and not as the best.

    Args:
        lrs: the learning rates of the sweep, positive and distinct.
        losses_by_seed: final losses [seeds, lrs].
        initial_loss: l0, one for all seeds or one a seed.
        level: confidence level.
        resamples: number of bootstrap resamples.
        seed: seed of the resampling.

    Returns:
        The interval; its ends are NaN with one seed, and all of it is NaN, with a warning, if every run of
        every seed diverged.

    Raises:
        UserError: as `lr_sensitivity`, or no seed.
    """
    sensitivities = _sensitivities(lrs, losses_by_seed, initial_loss)
    if np.isnan(sensitivities).all():
        _warn_all_diverged(sensitivities.size * len(lrs), initial_loss)
        return Interval(np.nan, np.nan, np.nan)
    return bootstrap(
        lambda drawn: float(drawn.mean()),
        sensitivities,
        level=level,
        resamples=resamples,
        seed=seed,
        bounds=(0.0, math.inf),
    )


def _sensitivities(lrs: Any, losses_by_seed: Any, initial_loss: Any) -> np.ndarray:
    """Return each seed's sensitivity [seeds]: all NaN if every run of every seed diverged."""
    lrs = np.asarray(lrs, dtype=float)
    if lrs.ndim != 1 or not lrs.size:
        raise UserError(f"learning rates of shape {list(lrs.shape)}: expected a list of at least one")
    if not (np.isfinite(lrs).all() and (lrs > 0).all()):
        raise UserError(f"learning rates {lrs.tolist()}: expected positive numbers")
    if len(np.unique(lrs)) < lrs.size:
        raise UserError(f"learning rates {lrs.tolist()}: expected each one once")
    rows = [list(row) for row in losses_by_seed]
    if not rows:
        raise UserError("no seed's losses: expected at least one list of losses")
    for row in rows:
        if len(row) != lrs.size:
            raise UserError(f"{len(row)} losses for {lrs.size} learning rates: expected one loss for each")
    initial = np.asarray(initial_loss, dtype=float)
    if initial.shape not in ((), (len(rows),)) or not np.isfinite(initial).all():
        raise UserError(
            f"initial loss {initial.tolist()}: expected a finite number, or one for each of {len(rows)} seeds"
        )
    initial = np.broadcast_to(initial[..., None], (len(rows), 1))
    losses = np.array(rows, dtype=float)  # [seeds, lrs]; None becomes NaN
    clipped = np.where(losses < initial, losses, initial)  # NaN compares false and so counts as l0
    clipped = np.where(np.isneginf(clipped), initial, clipped)
    trained = (clipped < initial).any(axis=1)
    if not trained.any():
        return np.full(len(rows), np.nan)
    best = clipped.min(axis=1)
    best[~trained] = best[trained].mean()
    return (clipped - best[:, None]).mean(axis=1)  # the difference first: equal losses give 0, not -1e-16


def _warn_all_diverged(runs: int, initial_loss: Any) -> None:
    warnings.warn(
        f"none of {runs} runs ended below the initial loss {initial_loss}: LR sensitivity is undefined (NaN)",
        stacklevel=3,
    )
