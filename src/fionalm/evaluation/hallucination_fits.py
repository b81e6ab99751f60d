"""How hallucination falls with parameters and epochs and rises with data: a fit, and what it says must be trained.

    fit = fit_rates(runs)
    fit.answer(0.05, triples=10_000)      # which size and how many epochs for at most 5%?

Hron et al. 2024 (arXiv 2408.07852, section 3) find the rate on training data to fall with size and epochs and to rise
with data. The fit is a line in logarithms for the rate's log odds, which stay between 0 and 1 whatever the arguments:

    log(r / (1 - r)) = a + b log N + c log E + d log D + e log N log E

with N parameters (embeddings and head left out), E epochs and D training triples. Terms that the runs cannot tell apart
are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fionalm.errors import UserError
from fionalm.statistics import Interval, bootstrap

Term = tuple[int, int, int]
"""Powers of log N, log E and log D."""
INTERACTION: Term = (1, 1, 0)
NAMES = ("parameters", "epochs", "triples")
ENDLESS = 700.0
"""A logarithm that stands for infinity."""
RESAMPLES = 500


@dataclass(frozen=True)
class RateRun:
    """A trained model's hallucination rate."""

    parameters: int
    epochs: float
    triples: int
    """Trained on."""
    rate: float
    """Share of generated objects that are hallucinated, in [0, 1]."""
    pairs: int
    """That the rate is over: what it is rounded by where it is 0 or 1."""
    seed: int = 0
    flops: float = math.nan
    """Of its training."""
    size: str = ""
    """What a reader calls it."""


@dataclass(frozen=True)
class Needed:
    """What is needed of one thing for a rate, the others being given."""

    interval: Interval
    """Infinite where more does not lower the rate; its ends are of resampled seeds, NaN with one seed."""
    lowest: float
    highest: float
    """Of what was trained."""

    @property
    def varied(self) -> bool:
        """Whether there was more than one value of it."""
        return self.highest > self.lowest

    @property
    def extrapolated(self) -> bool:
        """Whether the estimate lies outside of what was trained."""
        return not self.lowest <= self.interval.estimate <= self.highest

    @property
    def beyond(self) -> bool:
        """Whether more is needed than was trained at most, or is at the interval's upper end."""
        return self.interval.estimate > self.highest or self.interval.high > self.highest


@dataclass(frozen=True)
class Option:
    """A trained size, and the epochs that bring it down to the rate asked for."""

    parameters: int
    size: str
    epochs: Needed
    flops: float
    """Of that many epochs, by the trained runs' FLOPs per epoch; NaN where they are not known."""
    measured: float | None
    """Fewest epochs at which every seed of this size was measured at the rate or below; None: at none."""

    @property
    def name(self) -> str:
        """What a reader calls the size."""
        return self.size or f"{self.parameters:,} parameters"

    @property
    def seen(self) -> str:
        """Say whether the rate was measured."""
        if self.measured is None:
            return "no run of that size was measured that low with every seed"
        return f"measured so with every seed at {self.measured:g} epochs"


@dataclass(frozen=True)
class Answer:
    """Which size and how many epochs, for a rate of at most `rate`."""

    rate: float
    triples: int
    options: tuple[Option, ...]
    """One for each trained size, smallest first."""
    sizes: tuple[tuple[float, Needed], ...]
    """(epochs, parameters needed) for each trained number of epochs, fewest first."""
    lowest_rate: float
    """Lowest mean rate that was measured on that many triples."""

    @property
    def best(self) -> Option | None:
        """The option of fewest FLOPs (or of the smallest model) whose epochs, interval included, were trained."""
        inside = [
            one
            for one in self.options
            if math.isfinite(one.epochs.interval.estimate) and not (one.epochs.beyond or one.epochs.extrapolated)
        ]

        def cost(one: Option) -> tuple[float, int]:
            return one.flops if math.isfinite(one.flops) else 0.0, one.parameters

        return min(inside, key=cost, default=None)

    @property
    def sentence(self) -> str:
        """Say it, and how far it can be trusted."""
        asked = f"at most {100 * self.rate:g}% on {self.triples:,} triples"
        if not self.options[0].epochs.varied:
            return f"{asked}: {self._by_size()}"
        if self.best is not None:
            need = self.best.epochs.interval
            return f"{asked}: {self.best.name}, {need.estimate:.3g} epochs{_ends(need)}; {self.best.seen}"
        reach = [one for one in self.options if math.isfinite(one.epochs.interval.estimate)]
        if not reach:
            return f"{asked}: out of reach by this fit, for more epochs lower the rate of no trained size"
        nearest = min(reach, key=lambda one: one.epochs.interval.estimate / one.epochs.highest)
        need, limit = nearest.epochs.interval, nearest.epochs
        if need.estimate < limit.lowest:
            return (
                f"{asked}: fewer epochs than were trained, by extrapolation {need.estimate:.3g} of {nearest.name}; "
                f"train with fewer than {limit.lowest:g} to know"
            )
        if not limit.extrapolated:
            return (
                f"{asked}: {nearest.name}, {need.estimate:.3g} epochs, which is not certain{_ends(need)}, for "
                f"{limit.highest:g} were trained at most; {nearest.seen}"
            )
        return (
            f"{asked}: outside of what was trained (epochs {limit.lowest:g} to {limit.highest:g}, lowest rate "
            f"{100 * self.lowest_rate:.3g}%); by extrapolation {nearest.name} needs {need.estimate:.3g} "
            f"epochs{_ends(need)}: train that to know"
        )

    def _by_size(self) -> str:
        epochs, needed = self.sizes[0]
        need = needed.interval
        if not math.isfinite(need.estimate):
            return f"one number of epochs was trained, {epochs:g}, and larger models are not better by this fit"
        reach = "by extrapolation " if needed.extrapolated or needed.beyond else ""
        return (
            f"{reach}{need.estimate:.3g} parameters{_ends(need)} at {epochs:g} epochs, the only number that was "
            f"trained (sizes {needed.lowest:,.0f} to {needed.highest:,.0f}); train several to know how epochs count"
        )


@dataclass(frozen=True, eq=False)
class RateFit:
    """Least squares of the rates' log odds over mean rates of seeds; resampled over seeds."""

    terms: tuple[Term, ...]
    cells: np.ndarray
    """Logarithms of parameters, epochs and triples of each setting [cells, 3]."""
    odds: np.ndarray
    """Log odds of each seed's rate [seeds, cells]; NaN where a run is missing."""
    coefficients: np.ndarray
    r_squared: float
    """Of the log odds of mean rates."""
    error: float
    """Largest distance of the fit from a mean rate."""
    left_out_error: float
    """The same for each setting when the fit is made without it; NaN where that cannot be."""
    runs: tuple[RateRun, ...]

    def predict(self, parameters: float, epochs: float, triples: float) -> Interval:
        """Return the rate at a setting, with its interval over resampled seeds."""
        place = np.log([[parameters, epochs, triples]])
        return self._resampled(lambda fit: float(_rate(_design(place, self.terms) @ fit)[0]), bounds=(0.0, 1.0))

    def rate(self, parameters: float, epochs: float, triples: float) -> float:
        """Return the rate at a setting, without an interval."""
        return float(_rate(_design(np.log([[parameters, epochs, triples]]), self.terms) @ self.coefficients)[0])

    def epochs_for(self, rate: float, parameters: float, triples: float) -> Needed:
        """Return the epochs for a rate of at most `rate`."""
        return self._needed(1, rate, {0: math.log(parameters), 2: math.log(triples)})

    def parameters_for(self, rate: float, epochs: float, triples: float) -> Needed:
        """Return the parameters for a rate of at most `rate`."""
        return self._needed(0, rate, {1: math.log(epochs), 2: math.log(triples)})

    def answer(self, rate: float, triples: int | None = None) -> Answer:
        """Return which size and how many epochs give a rate of at most `rate`.

        Args:
            rate: in (0, 1).
            triples: trained on; None: as many as most runs were.

        Raises:
            UserError: a rate outside (0, 1).
        """
        if not 0 < rate < 1:
            raise UserError(f"rate {rate:g}: expected a share between 0 and 1, such as 0.05")
        counts = [run.triples for run in self.runs]
        chosen = max(set(counts), key=lambda n: (counts.count(n), n)) if triples is None else triples
        near = min(set(counts), key=lambda n: abs(math.log(n / chosen)))
        here = [run for run in self.runs if run.triples == near]
        means = _grouped(here, lambda run: (run.parameters, run.epochs))
        options = []
        for parameters in sorted({run.parameters for run in self.runs}):
            own = [run for run in self.runs if run.parameters == parameters]
            needed = self.epochs_for(rate, parameters, chosen)
            per_epoch = float(np.median([run.flops / run.epochs / run.triples for run in own])) * chosen
            low_enough = sorted(
                epochs
                for (size, epochs), rates in means.items()
                if size == parameters and near == chosen and max(rates) <= rate
            )
            options.append(
                Option(
                    parameters=parameters,
                    size=own[0].size,
                    epochs=needed,
                    flops=per_epoch * needed.interval.estimate,
                    measured=low_enough[0] if low_enough else None,
                )
            )
        sizes = tuple((e, self.parameters_for(rate, e, chosen)) for e in sorted({run.epochs for run in self.runs}))
        lowest = min(float(np.mean(rates)) for rates in means.values())
        return Answer(rate, chosen, tuple(options), sizes, lowest)

    def slopes(self) -> dict[str, Interval]:
        """Return the change of the log odds for each doubling, at the others' means; NaN where it is not fitted."""
        centre = self.cells.mean(0)

        def slope(axis: int) -> Callable[[np.ndarray], float]:
            return lambda fit: _gradient(fit, self.terms, axis, centre) * math.log(2)

        return {name: self._resampled(slope(axis)) for axis, name in enumerate(NAMES)}

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; intervals as [estimate, low, high]."""
        return {
            "terms": [list(term) for term in self.terms],
            "coefficients": self.coefficients.tolist(),
            "r_squared": self.r_squared,
            "error": self.error,
            "left_out_error": self.left_out_error,
            "seeds": len(self.odds),
            "log_odds_per_doubling": {name: [one.estimate, one.low, one.high] for name, one in self.slopes().items()},
        }

    def _needed(self, axis: int, rate: float, others: Mapping[int, float]) -> Needed:
        target = math.log(rate / (1 - rate))
        place = np.zeros(3)
        for index, value in others.items():
            place[index] = value

        def solve(fit: np.ndarray) -> float:
            gradient = _gradient(fit, self.terms, axis, place)
            rest = float((_design(place[None], self.terms) @ fit)[0])  # at 0 of the axis
            # A large number for infinity, so that resamples in which more does not help widen the interval.
            return min((target - rest) / gradient, ENDLESS) if gradient < 0 else ENDLESS

        found = self._resampled(solve)
        values = np.exp(self.cells[:, axis])
        ends = Interval(*map(_exponential, (found.estimate, found.low, found.high)))
        return Needed(ends, float(values.min()), float(values.max()))

    def _resampled(
        self, statistic: Callable[[np.ndarray], float], bounds: tuple[float, float] = (-math.inf, math.inf)
    ) -> Interval:
        return bootstrap(lambda odds: statistic(self._fitted(odds)), self.odds, resamples=500, bounds=bounds)

    def _fitted(self, odds: np.ndarray) -> np.ndarray:
        # Every bootstrap draws the same seeds again: their fits are made once.
        key = odds.tobytes()
        if key not in self._fits:
            self._fits[key] = _least_squares(self.cells, odds, self.terms)
        return self._fits[key]

    @cached_property
    def _fits(self) -> dict[bytes, np.ndarray]:
        return {}


def fit_rates(runs: Iterable[RateRun]) -> RateFit:
    """Fit rates against parameters, epochs and data.

    A rate of exactly 0 or 1, which has no log odds, is (rate pairs + 1/2) / (pairs + 1), and so is every other.

    Args:
        runs: of several sizes or numbers of epochs; runs that differ in their seed alone are resampled together.

    Raises:
        UserError: fewer than two settings, the same setting and seed twice, or a rate outside [0, 1].
    """
    runs = tuple(runs)
    for run in runs:
        if not 0 <= run.rate <= 1:
            raise UserError(f"a run of {run.parameters:,} parameters has rate {run.rate}: expected one in [0, 1]")
    settings = sorted({(run.parameters, run.epochs, run.triples) for run in runs})
    if len(settings) < 2:
        raise UserError(
            f"{len(settings)} setting of size, epochs and data: expected two or more, as from fiona kg train --sizes "
            "16x1 32x2 --epochs 5 20"
        )
    seeds = sorted({run.seed for run in runs})
    odds = np.full((len(seeds), len(settings)), np.nan)
    for run in runs:
        where = seeds.index(run.seed), settings.index((run.parameters, run.epochs, run.triples))
        if not math.isnan(odds[where]):
            raise UserError(
                f"two runs of {run.parameters:,} parameters, {run.epochs:g} epochs, {run.triples:,} triples and seed "
                f"{run.seed}: expected one"
            )
        smooth = (run.rate * run.pairs + 0.5) / (run.pairs + 1)
        odds[where] = math.log(smooth / (1 - smooth))
    cells = np.log(np.array(settings, dtype=float))
    terms = _terms(cells)
    fit = _least_squares(cells, odds, terms)
    mean = np.nanmean(odds, 0)
    fitted = _design(cells, terms) @ fit
    spread = float(np.square(mean - mean.mean()).sum())
    return RateFit(
        terms=terms,
        cells=cells,
        odds=odds,
        coefficients=fit,
        r_squared=1 - float(np.square(mean - fitted).sum()) / spread if spread else math.nan,
        error=float(np.abs(_rate(mean) - _rate(fitted)).max()),
        left_out_error=_left_out_error(cells, odds, terms),
        runs=runs,
    )


def _terms(cells: np.ndarray) -> tuple[Term, ...]:
    """Return as many terms as the settings can carry, with one to spare for the interaction."""
    varied = [len(set(cells[:, axis])) > 1 for axis in range(3)]
    terms: list[Term] = [(0, 0, 0)]
    for axis in range(3):
        power: Term = (int(axis == 0), int(axis == 1), int(axis == 2))
        if varied[axis] and _carried(cells, [*terms, power]):
            terms.append(power)
    if varied[0] and varied[1] and len(cells) > len(terms) + 1 and _carried(cells, [*terms, INTERACTION]):
        terms.append(INTERACTION)
    return tuple(terms)


def _carried(cells: np.ndarray, terms: Sequence[Term]) -> bool:
    # About their means, or powers of numbers that hardly differ would look alike.
    design = _design(cells - cells.mean(0), terms)
    return len(cells) >= len(terms) and np.linalg.matrix_rank(design) == len(terms)


def _design(places: np.ndarray, terms: Sequence[Term]) -> np.ndarray:
    """Return the design matrix [places, terms]."""
    return np.stack([np.prod(places ** np.array(term), axis=1) for term in terms], axis=1)


def _least_squares(cells: np.ndarray, odds: np.ndarray, terms: Sequence[Term]) -> np.ndarray:
    """Fit the mean log odds of seeds; a setting that no seed here has is left out."""
    known = ~np.isnan(odds).all(0)
    mean = np.nanmean(odds[:, known], 0)
    return np.linalg.lstsq(_design(cells[known], terms), mean, rcond=None)[0]


def _gradient(fit: np.ndarray, terms: Sequence[Term], axis: int, place: np.ndarray) -> float:
    """Return the derivative of the log odds by one logarithm, of which they are a line, at the others' `place`."""
    total = 0.0
    for coefficient, term in zip(fit, terms, strict=True):
        if term[axis]:
            others = [value**power for i, (value, power) in enumerate(zip(place, term, strict=True)) if i != axis]
            total += float(coefficient) * math.prod(others)
    fitted = any(term[axis] for term in terms)
    return total if fitted else math.nan


def _left_out_error(cells: np.ndarray, odds: np.ndarray, terms: Sequence[Term]) -> float:
    """Return the largest distance between a setting's mean rate and what the others predict of it."""
    if len(cells) <= len(terms):
        return math.nan
    errors = []
    for index in range(len(cells)):
        others = np.arange(len(cells)) != index
        if not _carried(cells[others], terms):
            return math.nan
        fit = _least_squares(cells[others], odds[:, others], terms)
        predicted = _rate(_design(cells[index : index + 1], terms) @ fit)[0]
        errors.append(abs(float(predicted - _rate(np.nanmean(odds[:, index])))))
    return max(errors)


def _rate(odds: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(odds)))


def _grouped(runs: Iterable[RateRun], key: Callable[[RateRun], Any]) -> dict[Any, list[float]]:
    groups: dict[Any, list[float]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run.rate)
    return groups


def _exponential(log: float) -> float:
    return math.inf if log >= ENDLESS else math.exp(log)


def _ends(interval: Interval) -> str:
    if math.isnan(interval.low):
        return " (one seed: no interval)"
    return f" (95%: {interval.low:.3g} to {interval.high:.3g})"
