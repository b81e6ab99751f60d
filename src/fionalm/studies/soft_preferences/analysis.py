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
from fionalm.studies.soft_preferences.claims import CLAIMS, OVER
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


def measure_bandit(bandit: Bandit, policies: Mapping[str, Any]) -> list[Measured]:
    """Measure the bandit's claims; `policies` are those of `cdpo` and `geometric_dpo`."""
    low = {kind: float(policy[bandit.low].sum()) for kind, policy in policies.items()}
    reward = {kind: float((policy * bandit.reward).sum()) for kind, policy in policies.items()}
    gained = reward["geometric_dpo"] - reward["cdpo"]
    fits = label_distance(bandit, policies["cdpo"])
    return [
        measure(BY_ID["bandit-cdpo-fits-labels"], exact(fits)),
        measure(BY_ID["bandit-cdpo-low-reward"], exact(low["cdpo"])),
        measure(BY_ID["bandit-gdpo-leaves-low-reward"], exact(low["cdpo"] - low["geometric_dpo"])),
        measure(BY_ID["bandit-gdpo-over-cdpo"], exact(gained)),
    ]


def measure_models(results: Results) -> list[Measured]:
    """Measure the language model's claims."""
    seeds = results.config.seeds
    measured = [
        measure(BY_ID[name], mean(results.final(SKEWED, kind) - results.final(SKEWED, other)), n=seeds)
        for name, kind, other, _, _ in OVER
    ]
    near = results.final(SURE, "geometric_dpo") - results.final(SURE, "dpo")
    falls = results.fall(SKEWED, "dpo") - results.fall(SKEWED, "geometric_dpo")
    return [
        *measured,
        measure(BY_ID["gdpo-near-dpo-when-sure"], mean(near), n=seeds),
        measure(BY_ID["gdpo-flat-on-ties"], mean(results.value(SKEWED, "geometric_dpo", "tie_gap")), n=seeds),
        measure(BY_ID["dpo-grows-on-ties"], mean(results.value(SKEWED, "dpo", "tie_gap")), n=seeds),
        measure(BY_ID["gdpo-less-over-optimised"], mean(falls), n=seeds),
    ]
