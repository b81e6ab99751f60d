"""What the runs of `soft-preferences` say about its claims."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fionalm.objectives.preference_kinds import PreferenceKind
from fionalm.report import exact, measure
from fionalm.report.claims import Measured
from fionalm.statistics import Interval, bootstrap
from fionalm.studies.soft_preferences.bandit import Bandit, label_distance
from fionalm.studies.soft_preferences.claims import BETAS, CLAIMS, OVER
from fionalm.studies.soft_preferences.runs import SKEWED, SURE, SoftPreferencesConfig

BY_ID = {claim.id: claim for claim in CLAIMS}
NAMES = {
    "dpo": "DPO",
    "cdpo": "cDPO",
    "geometric_dpo": "GDPO",
    "ipo": "IPO",
    "cipo": "cIPO",
    "geometric_ipo": "GIPO",
    "ropo": "ROPO",
    "geometric_ropo": "GROPO",
}
"""The losses' names in the paper."""
Result = dict[str, Any] | None
Key = tuple[str, PreferenceKind, int]


@dataclass(frozen=True)
class Results:
    """Every training's result by (regime, kind, seed); None where one crashed."""

    config: SoftPreferencesConfig
    by_key: Mapping[Key, Result]

    def of(self, regime: str, kind: str) -> list[Result]:
        """Return the results of all seeds."""
        return [self.by_key.get((regime, kind, seed)) for seed in range(self.config.seeds)]  # pyright: ignore[reportArgumentType]

    def final(self, regime: str, kind: str, name: str = "reward") -> np.ndarray:
        """Return a number at the end of training [seed]; NaN where there is none."""
        return np.array([math.nan if one is None else one["series"][-1][name] for one in self.of(regime, kind)])

    def value(self, regime: str, kind: str, name: str) -> np.ndarray:
        """Return a number of the whole training [seed]; NaN where there is none."""
        found = [None if one is None else one[name] for one in self.of(regime, kind)]
        return np.array([math.nan if value is None else value for value in found])

    def fall(self, regime: str, kind: str) -> np.ndarray:
        """Return how far the true reward ends below its best during training [seed]."""
        return np.array(
            [
                math.nan if one is None else max(row["reward"] for row in one["series"]) - one["series"][-1]["reward"]
                for one in self.of(regime, kind)
            ]
        )

    def series(self, regime: str, kind: str, name: str) -> np.ndarray:
        """Return a number over training [seed, step], crashed runs left out."""
        return np.array([[row[name] for row in one["series"]] for one in self.of(regime, kind) if one is not None])

    def by_confidence(self, regime: str, kind: str, name: str) -> dict[str, np.ndarray]:
        """Return `gaps` or `accuracy` by bin of confidence, [seed] each, empty bins left out."""
        found = [one[name] for one in self.of(regime, kind) if one is not None]
        bins = sorted({bin_name for one in found for bin_name in one})
        return {bin_name: np.array([one[bin_name] for one in found if bin_name in one]) for bin_name in bins}


def mean(by_seed: Sequence[float] | np.ndarray) -> Interval:
    """Return the mean over seeds with its interval; crashed runs are left out."""
    values = np.asarray(by_seed, dtype=float)
    values = values[np.isfinite(values)]
    if not len(values):
        return Interval(math.nan, math.nan, math.nan)
    return bootstrap(lambda drawn: float(drawn.mean()), values)


def measure_bandit(bandit: Bandit, policies: Mapping[tuple[str, float], Any]) -> list[Measured]:
    """Measure the bandit's claims; `policies` are those of `cdpo` and `geometric_dpo`, by (kind, beta)."""
    return [
        measure(BY_ID[f"{name}-beta-{beta:g}"], exact(effect))
        for beta in BETAS
        for name, effect in bandit_effects(
            bandit, {kind: policies[kind, beta] for kind in ("cdpo", "geometric_dpo")}, beta
        ).items()
    ]


def bandit_effects(bandit: Bandit, policies: Mapping[str, Any], beta: float) -> dict[str, float]:
    """Return the statistic of each of the bandit's claims, of `cdpo` and `geometric_dpo` trained with this beta."""
    low = {kind: float(policy[bandit.low].sum()) for kind, policy in policies.items()}
    reward = {kind: float((policy * bandit.reward).sum()) for kind, policy in policies.items()}
    return {
        "bandit-cdpo-fits-labels": label_distance(bandit, policies["cdpo"], beta),
        "bandit-cdpo-low-reward": low["cdpo"],
        "bandit-gdpo-leaves-low-reward": low["cdpo"] - low["geometric_dpo"],
        "bandit-gdpo-over-cdpo": reward["geometric_dpo"] - reward["cdpo"],
    }


def measure_models(results: Results) -> list[Measured]:
    """Measure the language model's claims."""
    effects = {name: results.final(SKEWED, kind) - results.final(SKEWED, other) for name, kind, other, _, _ in OVER}
    effects |= {
        "gdpo-near-dpo-when-sure": results.final(SURE, "geometric_dpo") - results.final(SURE, "dpo"),
        "gdpo-flat-on-ties": results.value(SKEWED, "geometric_dpo", "tie_gap"),
        "dpo-grows-on-ties": results.value(SKEWED, "dpo", "tie_gap"),
        "gdpo-less-over-optimised": results.fall(SKEWED, "dpo") - results.fall(SKEWED, "geometric_dpo"),
    }
    return [measure(BY_ID[name], mean(by_seed), n=int(np.isfinite(by_seed).sum())) for name, by_seed in effects.items()]
