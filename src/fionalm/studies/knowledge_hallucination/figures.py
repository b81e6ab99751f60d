"""The figures of `knowledge-hallucination`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fionalm.posttraining.detector_config import Task, Variant
from fionalm.report import Line, lines_with_intervals
from fionalm.report.wording import format_tick
from fionalm.studies.knowledge_hallucination.analysis import interval_of, known_mean
from fionalm.studies.knowledge_hallucination.presets import Shape
from fionalm.studies.knowledge_hallucination.results import Results, parameters
from fionalm.studies.knowledge_hallucination.runs import TASKS, VARIANTS
from fionalm.studies.study import Lab

VISIBILITIES = {
    "fully_visible": "fully visible",
    "partially_visible": "partially visible",
    "invisible": "invisible",
}
BANDS = "Bands are 95% intervals over seeds."
RATE = "share hallucinated"


def draw_figures(results: Results, lab: Lab) -> None:
    """Draw every figure."""
    _draw_flops(results, lab)
    _draw_shares(results, lab)
    _draw_unseen(results, lab)
    _draw_precision(results, lab)
    _draw_generators(results, lab)
    _draw_rates(results, lab)
    _draw_detectors(results, lab)


def size_name(shape: Shape) -> str:
    """Return a model's name in figures and tables: its non-embedding parameters."""
    return f"{format_tick(parameters(shape))} parameters"


def line(label: str, x: Sequence[float], values: np.ndarray, color: int | None = None, **options: Any) -> Line:
    """Return the mean over seeds of shares or areas [seed, point] with its interval at each point."""
    found = [
        interval_of(column, resamples=400, bounds=(0.0, 1.0)) for column in values.T
    ]  # a band needs no third digit
    low, high = (
        [one.estimate if math.isnan(getattr(one, end)) else getattr(one, end) for one in found]  # one seed has none
        for end in ("low", "high")
    )
    return Line(label, x, [one.estimate for one in found], low, high, color=color, **options)


def _draw_flops(results: Results, lab: Lab) -> None:
    panels = {}
    for choice in results.config.graphs:
        rates, flops = (
            np.stack([found(results, choice.name, epochs) for epochs in results.config.epochs], -1)
            for found in (_rates, _flops)
        )  # [seed, shape, epochs]
        panels[choice.name] = [
            line(size_name(shape), known_mean(flops[:, place], 0).tolist(), rates[:, place])
            for place, shape in enumerate(results.config.shapes)
        ]
    lab.figure(
        lines_with_intervals(panels, x_label="training FLOPs", y_label=RATE, x_scale="log", ordered=True),
        "rate-against-flops",
        "Hallucination against compute",
        f"Share of objects drawn at temperature 1 for fully visible pairs that the graph does not hold. Every line is "
        f"a size, every point a training of {_list(results.config.epochs)} epochs. {BANDS}",
    )


def _draw_shares(results: Results, lab: Lab) -> None:
    panels = {}
    for choice in results.config.graphs:
        shares = sorted({*choice.shares, 1.0})
        rates = np.stack([results.rates(choice.name, epochs=results.longest, share=one) for one in shares], -1)
        panels[choice.name] = [
            line(size_name(shape), shares, rates[:, place]) for place, shape in enumerate(results.config.shapes)
        ]
    lab.figure(
        lines_with_intervals(
            panels, x_label="share of the graph's subjects", y_label=RATE, x_scale="log", ordered=True
        ),
        "rate-against-data",
        "Hallucination against data",
        f"Rate on fully visible pairs after {results.longest} epochs, of models that were trained on shares of the "
        f"graph; all have as many updates. {BANDS}",
    )


def _draw_unseen(results: Results, lab: Lab) -> None:
    panels = {}
    for choice in results.config.graphs:
        by_epochs = {
            name: np.stack(
                [
                    known_mean(results.rates(choice.name, epochs=epochs, visibility=name))
                    for epochs in results.config.epochs
                ],
                -1,
            )
            for name in VISIBILITIES
        }
        panels[choice.name] = [
            line(title, results.config.epochs, by_epochs[name]) for name, title in VISIBILITIES.items()
        ]
    lab.figure(
        lines_with_intervals(panels, x_label="epochs", y_label=RATE, x_scale="log"),
        "rate-against-epochs",
        "What was seen and what was not",
        "Rate at temperature 1 by what training showed of a pair's objects: all, some, none; mean over sizes. An "
        f"object is right if the whole graph holds the triple. {BANDS}",
    )


def _draw_precision(results: Results, lab: Lab) -> None:
    panels = {}
    for choice in results.config.graphs:
        precision, recall = (
            np.stack(
                [
                    results.measures(choice.name, name, epochs=results.longest, temperature=t)
                    for t in results.config.temperatures
                ],
                -1,
            )
            for name in ("precision", "recall")
        )
        panels[choice.name] = [
            line(size_name(shape), known_mean(recall[:, place], 0).tolist(), precision[:, place])
            for place, shape in enumerate(results.config.shapes)
        ]
    lab.figure(
        lines_with_intervals(panels, x_label="recall", y_label="precision", ordered=True),
        "precision-against-recall",
        "Precision and recall against temperature",
        f"Fully visible pairs, {results.config.samples} samples of each, after {results.longest} epochs. Along a line "
        f"the temperature goes from {results.config.temperatures[0]:g} (left) to {results.config.temperatures[-1]:g} "
        f"(right). {BANDS}",
    )


def _draw_generators(results: Results, lab: Lab) -> None:
    sizes = [parameters(shape) for shape in results.config.shapes]
    panels = {}
    for choice in results.config.graphs:
        for name, title in (("auc_pr", "AUC-PR"), ("auc_roc", "AUC-ROC")):
            lines = [
                line(f"{variant}, {task}", sizes, results.areas(choice.name, variant, task, name)[..., -1], number)
                for number, (variant, task) in enumerate(_kinds())
            ]
            log_probability = results.baselines(choice.name, "sequence log-probability", name)
            lines.append(line("generator's log-probability", sizes, log_probability, len(lines)))
            guess = (
                results.areas(choice.name, "full", "sentence", "base_rate")[..., -1]
                if name == "auc_pr"
                else np.full((1, len(sizes)), 0.5)
            )
            lines.append(Line("guessing", sizes, known_mean(guess, 0).tolist(), style="dashed", color=len(lines)))
            panels[f"{choice.name}, {title}"] = lines
    lab.figure(
        lines_with_intervals(panels, x_label="generator's parameters", y_label="area under the curve", x_scale="log"),
        "detection-against-generator",
        "Detection against the generator's size",
        "How well detectors made of the largest model tell hallucinated objects from right ones, on subjects that they "
        "were not trained on. Hallucinated is positive, so that AUC-PR of guessing is the base rate, which falls as "
        f"the generator grows; AUC-ROC does not depend on it. {BANDS}",
    )


def _draw_rates(results: Results, lab: Lab) -> None:
    panels = {}
    for choice in results.config.graphs:
        rate = results.areas(choice.name, "full", "sentence", "base_rate")[..., -1]
        lines = []
        for number, (variant, task) in enumerate(_kinds()):
            area = results.areas(choice.name, variant, task)[..., -1]
            lines.append(line(f"{variant}, {task}", known_mean(rate, 0).tolist(), area, number))
        lines.append(Line("guessing", [0.0, 1.0], [0.0, 1.0], style="dashed", color=len(lines)))
        panels[choice.name] = lines
    lab.figure(
        lines_with_intervals(panels, x_label="share hallucinated", y_label="AUC-PR"),
        "detection-against-rate",
        "Detection against the hallucination rate",
        "AUC-PR of detectors made of the largest model against the share of the tested objects that are hallucinated; "
        f"each point is a generator's size. {BANDS}",
    )


def _draw_detectors(results: Results, lab: Lab) -> None:
    sizes = [parameters(shape) for shape in results.config.detectors]
    panels = {}
    for choice in results.config.graphs:
        for task in TASKS:
            areas = results.areas(choice.name, "full", task)
            panels[f"{choice.name}, {task}"] = [
                line(f"generator of {size_name(shape)}", sizes, areas[:, place])
                for place, shape in enumerate(results.config.shapes)
            ]
    lab.figure(
        lines_with_intervals(panels, x_label="detector's parameters", y_label="AUC-PR", x_scale="log", ordered=True),
        "detection-against-detector",
        "Detection against the detector's size",
        f"AUC-PR of fine-tuned detectors, one line a generator. {BANDS}",
    )


def _kinds() -> list[tuple[Variant, Task]]:
    return [(variant, task) for variant in reversed(VARIANTS) for task in TASKS]


def _rates(results: Results, graph: str, epochs: int) -> np.ndarray:
    return results.rates(graph, epochs=epochs)


def _flops(results: Results, graph: str, epochs: int) -> np.ndarray:
    return results.facts(graph, "flops", epochs=epochs)


def _list(epochs: Sequence[int]) -> str:
    return f"{', '.join(map(str, epochs[:-1]))} or {epochs[-1]}"
