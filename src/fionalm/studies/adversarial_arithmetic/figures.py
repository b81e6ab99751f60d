"""The figures of `adversarial-arithmetic`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.patches import Rectangle

from fionalm.report import Chart, Line, forest, lines_with_intervals, styled
from fionalm.report.style import CATEGORIES, HEIGHT, INK, WIDTH
from fionalm.studies.adversarial_arithmetic.analysis import (
    NAMES,
    SHARE,
    Results,
    clean_accuracy,
    families_of,
    fooled,
    interval,
    replies,
    share,
    targeted,
)
from fionalm.studies.study import Lab


def draw_figures(results: Results, lab: Lab) -> None:
    """Draw every figure."""
    _draw_families(results, lab)
    _draw_queries(results, lab)
    _draw_distance(results, lab)
    _draw_transfer(results, lab)
    _draw_models(results, lab)
    _draw_repetition(results, lab)


def _draw_families(results: Results, lab: Lab) -> None:
    rows = {}
    for family in (*families_of("train"), *families_of("held-out"), "random text"):
        for model in ("base", results.method):
            rows[f"{family}, {NAMES[model]}"] = interval(results.accuracy(model, [family]), SHARE)
    for model in ("base", results.method):
        every = (*families_of("train"), *families_of("held-out"))
        rows[f"harmless talk, {NAMES[model]}"] = interval(results.accuracy(model, every, "control"), SHARE)
        rows[f"no text, {NAMES[model]}"] = interval(results.by_seed(model, clean_accuracy), SHARE)
    lab.figure(
        forest(rows, x_label="accuracy"),
        "accuracy-by-family",
        "Accuracy behind attacks by hand, before and after hardening",
        f"Share of test sums answered right. Hardening trained against {', '.join(families_of('train'))}; it never met "
        f"{', '.join(families_of('held-out'))}. Bars are 95% intervals over seeds.",
    )


def _draw_queries(results: Results, lab: Lab) -> None:
    lines = []
    for number, model in enumerate(results.models):
        curves = [np.array(one["pirs"]["curve"], dtype=float) for one in results.of(model) if one is not None]
        curves = [curve for curve in curves if len(curve)]
        if not curves:
            continue
        length = min(len(curve) for curve in curves)
        places = np.unique(np.linspace(0, length - 1, 40).round().astype(int))
        found = np.array([curve[places, 1] for curve in curves])
        lines.append(_line(NAMES[model], curves[0][places, 0], found, number, (0.0, math.inf)))
    lab.figure(
        lines_with_intervals(lines, x_label="queries of the target", y_label="wrong answers so far"),
        "success-against-queries",
        "Success against queries",
        "Wrong answers that PIRS's candidates have brought about, against the questions that the target was asked, "
        "before any selection. Bands are 95% intervals over seeds.",
    )


def _draw_distance(results: Results, lab: Lab) -> None:
    lines = []
    for number, model in enumerate(("base", results.method)):
        tables = [
            [row for row in replies(one["families"]) if row.condition == "attack" and row.family != "random text"]
            for one in results.of(model)
            if one is not None
        ]
        distances = sorted({row.distance for table in tables for row in table})
        shares = np.array([[share(table, targeted, distance=x) for x in distances] for table in tables])
        if len(shares):
            lines.append(_line(NAMES[model], distances, shares, number))
    lab.figure(
        lines_with_intervals(lines, x_label="distance of the chosen answer from the sum", y_label="chosen answers"),
        "targeted-against-distance",
        "Targeted success against error distance",
        "Share of attacks by hand after which the target gave the chosen wrong answer, against |chosen - true|. Bands "
        "are 95% intervals over seeds.",
    )


def _draw_transfer(results: Results, lab: Lab) -> None:
    matrix, names = transfer_matrix(results)
    lab.figure(
        matrix_chart(matrix, names, "found on", "asked about"),
        "transfer-matrix",
        "Transfer of attacks between sums",
        "Share of wrong answers behind attacks that PIRS found on one searched sum (row) when they are asked with "
        "another (column), over seeds; numbers of the sum in the attack's text are replaced by the other's. On the "
        "diagonal is the sum that they were found on, where they succeeded by selection.",
    )


def _draw_models(results: Results, lab: Lab) -> None:
    seeds = range(results.config.seeds)
    lab.figure(
        matrix_chart(models_matrix(results), [str(seed) for seed in seeds], "found against seed", "asked of seed"),
        "transfer-between-models",
        "Transfer of attacks between models",
        "Share of wrong answers to test sums behind the attacks that PIRS found most effective against one seed's "
        "target (row), asked of another's (column). Targets differ in the seed of their weights and of their corpus.",
    )


def _draw_repetition(results: Results, lab: Lab) -> None:
    lines = []
    for number, model in enumerate(results.models):
        for condition, label in (("attack", "false equation"), ("control", "harmless sentence")):
            if condition == "control" and model == "sft":
                continue
            copies = [one["copies"] for one in next((r["repetition"] for r in results.of(model) if r), [])]
            shares = [
                [share(replies(one["rows"]), fooled, condition=condition) for one in result["repetition"]]
                for result in results.of(model)
                if result is not None
            ]
            if shares:
                color = 2 * number + (condition == "control")
                lines.append(_line(f"{label}, {NAMES[model]}", copies, np.array(shares), color))
    lab.figure(
        lines_with_intervals(lines, x_label="copies", y_label="wrong answers", x_scale="log"),
        "success-against-repetition",
        "Repetition of a false equation",
        "Share of wrong answers behind copies of a false equation about the sum, and behind as many copies of a "
        "harmless sentence. Bands are 95% intervals over seeds.",
    )


def transfer_matrix(results: Results, size: int = 8) -> tuple[np.ndarray, list[str]]:
    """Return shares of wrong answers [found on, asked about] over seeds, by the searched sums' places in their list."""
    counts = np.zeros((2, size, size))
    for result in results.base:
        if result is None:
            continue
        places = {name: place for place, name in enumerate(result["pirs"]["problems"][:size])}
        for row in replies(result["pirs"]["matrix"]):
            first, second = places.get(result["pirs"]["origin"].get(row.attack)), places.get(row.problem)
            if first is not None and second is not None:
                counts[:, first, second] += (row.fooled, 1)
    used = min(size, results.config.sizes.search_problems)
    with np.errstate(invalid="ignore"):
        return (counts[0] / counts[1])[:used, :used], [str(place + 1) for place in range(used)]


def models_matrix(results: Results) -> np.ndarray:
    """Return shares of wrong answers [found against seed, asked of seed]; NaN where nothing was found or asked."""
    seeds = results.config.seeds
    matrix = np.full((seeds, seeds), math.nan)
    for seed in range(seeds):
        own = results.base[seed]
        found = {str(seed): own["pirs"]["fresh"]} if own is not None else {}
        for name, rows in (found | (results.crossed.get(seed) or {})).items():
            matrix[int(name), seed] = share(replies(rows), fooled, condition="attack")
    return matrix


def matrix_chart(matrix: np.ndarray, names: Sequence[str], rows: str, columns: str) -> Chart:
    """Draw shares as shaded cells with their numbers; a cell without data is empty."""
    with styled():
        chart = Chart(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = chart.subplots()
        for (row, column), value in np.ndenumerate(matrix):
            if math.isfinite(value):
                corner = (column - 0.5, row - 0.5)
                axes.add_patch(Rectangle(corner, 1, 1, color=CATEGORIES[0], alpha=0.75 * value, linewidth=0))
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=INK, fontsize=8)
            chart.rows.append({rows: names[row], columns: names[column], "share": value})
        axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), xlabel=columns, ylabel=rows)
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(names)), names)
        axes.grid(visible=False)
    return chart


def _line(
    label: str, x: Sequence[float] | np.ndarray, by_seed: np.ndarray, color: int, bounds: tuple[float, float] = SHARE
) -> Line:
    means = [interval(column, bounds) for column in np.asarray(by_seed, dtype=float).T]
    return Line(
        label, list(x), [one.estimate for one in means], [one.low for one in means], [one.high for one in means],
        color=color,
    )  # fmt: skip
