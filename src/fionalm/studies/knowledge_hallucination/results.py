"""The trials of `knowledge-hallucination` as arrays over seeds: rates, precision and recall, detectors' areas."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fionalm.posttraining.detector_config import Task, Variant
from fionalm.studies.knowledge_hallucination.presets import KnowledgeHallucinationConfig, Shape
from fionalm.studies.knowledge_hallucination.runs import DetectorKey, Key

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Results:
    """Every trial's result by its key; None where one crashed."""

    config: KnowledgeHallucinationConfig
    generators: Mapping[Key, Result | None]
    detectors: Mapping[DetectorKey, Result | None]

    @property
    def longest(self) -> int:
        """The largest number of epochs."""
        return self.config.epochs[-1]

    def rates(self, graph: str, *, epochs: int, share: float = 1.0, visibility: str = "fully_visible") -> np.ndarray:
        """Return the hallucination rate at temperature 1 [seed, shape]; NaN where there is none."""
        return self.measures(graph, "rate", epochs=epochs, share=share, visibility=visibility)

    def measures(
        self,
        graph: str,
        name: str,
        *,
        epochs: int,
        share: float = 1.0,
        visibility: str = "fully_visible",
        temperature: float = 1.0,
    ) -> np.ndarray:
        """Return a field of `Hallucination` [seed, shape]; NaN where there is none."""
        return np.array(
            [
                [
                    _measure(self.generators.get((graph, shape, epochs, share, seed)), name, visibility, temperature)
                    for shape in self.config.shapes
                ]
                for seed in range(self.config.seeds)
            ]
        )

    def facts(self, graph: str, name: str, *, epochs: int, share: float = 1.0) -> np.ndarray:
        """Return a number of the trainings, such as `flops` [seed, shape]; NaN where there is none."""
        return np.array(
            [
                [
                    _number((self.generators.get((graph, shape, epochs, share, seed)) or {}).get(name))
                    for shape in self.config.shapes
                ]
                for seed in range(self.config.seeds)
            ]
        )

    def areas(self, graph: str, variant: Variant, task: Task, name: str = "auc_pr") -> np.ndarray:
        """Return auc_pr, auc_roc or base_rate [seed, generator, detector]; NaN where undefined."""
        return np.array(
            [
                [
                    [self._area((graph, made, base, seed), f"{variant}-{task}", name) for base in self.config.detectors]
                    for made in self.config.shapes
                ]
                for seed in range(self.config.seeds)
            ]
        )

    def baselines(self, graph: str, baseline: str, name: str = "auc_pr") -> np.ndarray:
        """Return an area of what needs no training [seed, generator]."""
        found = []
        for seed in range(self.config.seeds):
            rows = [self.detectors.get((graph, made, self.config.detectors[0], seed)) for made in self.config.shapes]
            found.append([_estimate(((row or {}).get("baselines") or {}).get(baseline), name) for row in rows])
        return np.array(found)

    def _area(self, key: DetectorKey, detector: str, name: str) -> float:
        return _estimate(((self.detectors.get(key) or {}).get("detectors") or {}).get(detector), name)


def parameters(shape: Shape) -> int:
    """Return the non-embedding parameters of a shape: those of its blocks and norms."""
    width, layers = shape
    return 12 * layers * width**2 + (2 * layers + 1) * width


def slopes(values: np.ndarray, shapes: tuple[Shape, ...]) -> np.ndarray:
    """Return the change for ten times the parameters, by least squares along the last axis; NaN with fewer than two.

    Values that are not known are left out.
    """
    x = np.log10([parameters(shape) for shape in shapes])
    flat = values.reshape(-1, values.shape[-1])
    return np.array([_slope(x, row) for row in flat]).reshape(values.shape[:-1])


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    known = np.isfinite(y)
    return float(np.polyfit(x[known], y[known], 1)[0]) if known.sum() > 1 else math.nan


def _measure(result: Result | None, name: str, visibility: str, temperature: float) -> float:
    for one in (result or {}).get("measures", ()):
        if one["visibility"] == visibility and one["temperature"] == temperature:
            value = one[name]
            return _number(value[0] if isinstance(value, list) else value)
    return math.nan


def _estimate(detection: Any, name: str) -> float:
    return _number(((detection or {}).get(name) or {}).get("estimate"))


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
