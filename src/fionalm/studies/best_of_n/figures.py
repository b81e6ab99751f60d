"""The figures of `best-of-n`, and the table that goes with each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from fionalm.evaluation.co_scaling import fit
from fionalm.objectives import bon_rlb_weights
from fionalm.report import Line, Section, Table, lines_with_intervals
from fionalm.statistics import Interval
from fionalm.studies.best_of_n.results import Result, Results, mean
from fionalm.studies.best_of_n.runs import BASE, BON_METHODS, GRPO, RL, SFT, TITLES, BestOfNStudyConfig
from fionalm.studies.best_of_n.tables import add_tables, cell
from fionalm.studies.study import Lab

BON = "bon-rlb-p"


def draw_all(results: Results, lab: Lab) -> None:
    """Keep every figure and table in the run folder."""
    _pass_at_n(results, lab)
    _matrix(results, lab)
    _temperatures(results, lab)
    _weights(results, lab)
    _training(results, lab)
    add_tables(results, lab)


def draw_real(config: BestOfNStudyConfig, found: Mapping[str, Result], lab: Lab) -> None:
    """Keep what the real model's trials came to."""
    real = config.real
    done = {method: result for method, result in found.items() if result is not None}
    if real is None or not done:
        return
    ns = [n for n in real.ns if n <= real.test_samples]
    lines, rows = [], []
    for method, result in done.items():
        title = TITLES[method] if method in (BASE, RL) else f"{TITLES[method]}, N' = {real.n}"
        curves = [mean(np.array(result["passed"][str(n)])) for n in ns]
        lines.append(_drawn(title, ns, curves))
        cells = [cell(curve) for curve in curves]
        rows.append((title, *cells, f"{result['entropy']:.2f}", f"{result['distinct']:.2f}"))
    lab.figure(
        lines_with_intervals(lines, x_label="N", y_label="pass@N", x_scale="log"),
        "real-model",
        f"{real.model}: pass@N against N",
        f"Test problems that {real.model} solves with N samples at temperature 1, before and after {real.steps} steps. "
        "Bands are 95% intervals over problems.",
    )
    what = "one-digit arithmetic" if real.data is None else real.data
    lab.sections.append(
        Section(
            f"{real.model} on {what}",
            f"One seed, {real.steps} steps of {real.batch} prompts with {real.samples} samples each; "
            f"{len(next(iter(done.values()))['passed'][str(ns[0])])} test problems that training did not see. "
            "Entropy is a response's, in nats; distinct counts right solutions.",
            [Table(("method", *(f"pass@{n}" for n in ns), "entropy", "distinct"), rows)],
        )
    )


def _arms(results: Results) -> list[tuple[str, int]]:
    n = results.config.largest_n
    return [(BASE, 0), (SFT, 1), (RL, 1), (GRPO, 1), *((method, n) for method in BON_METHODS)]


def _pass_at_n(results: Results, lab: Lab) -> None:
    any_right, chosen = "pass@N", "best of N, chosen by the learned verifier"
    shares: dict[str, list[Line]] = {any_right: [], chosen: []}
    gains: dict[str, list[Line]] = {any_right: [], chosen: []}
    for method, n in _arms(results):
        title = TITLES[method] if n <= 1 else f"{TITLES[method]}, N' = {n}"
        for panel, measured, ns in (
            (any_right, results.passed, results.curve_ns),
            (chosen, results.best_of, results.config.ns),
        ):
            values = [measured(method, n, k) for k in ns]
            shares[panel].append(_means(title, ns, values))
            if method != BASE:
                less = [value - measured(BASE, 0, k) for value, k in zip(values, ns, strict=True)]
                gains[panel].append(_line(title, ns, less))
    what = (
        "Test problems solved by N samples at temperature 1: by any of them, and by the one that the learned verifier "
        "picks{}. BoN-aware methods are trained for the largest N'. {}."
    )
    lab.figure(
        lines_with_intervals(shares, x_label="N", y_label="share of test problems", x_scale="log"),
        "pass-at-n",
        "pass@N and best-of-N against N",
        what.format("", "Means over seeds"),
    )
    lab.figure(
        lines_with_intervals(gains, x_label="N", y_label="share less the base's", x_scale="log"),
        "gain-at-n",
        "Gain over the base model against N",
        what.format(", less what the same seed's base model solves", "Bands are 95% intervals over seeds"),
    )


def _matrix(results: Results, lab: Lab) -> None:
    ns = results.config.ns
    values = results.matrix(BON) - np.stack([results.passed(BASE, 0, n) for n in ns], -1)[:, None]
    lines = [
        _line(f"N' = {trained}", ns, [values[:, row, column] for column in range(len(ns))])
        for row, trained in enumerate(ns)
    ]
    lab.figure(
        lines_with_intervals(
            lines, x_label="N at test time", y_label="pass@N less the base's", x_scale="log", ordered=True
        ),
        "train-and-test-n",
        "Training N' against test N",
        "pass@N of BoN-RLB(P) trained for each N', less the same seed's base model's; N' = 1 is REINFORCE. Bands are "
        "95% intervals over seeds.",
    )
    rows = []
    for method in BON_METHODS:
        values = results.matrix(method)
        means = [[mean(values[:, i, j]).estimate for j in range(len(ns))] for i in range(len(ns))]
        rows += [(TITLES[method], trained, *row) for trained, row in zip(ns, means, strict=True)]
    table = Table(("method", "N'", *(f"pass@{n}" for n in ns)), rows, "Means over seeds; N' = 1 is REINFORCE.")
    lab.sections.append(Section("Training N' against test N, all methods", "", [table]))


def _temperatures(results: Results, lab: Lab) -> None:
    config, ns = results.config, results.grid_ns
    by_n = results.grid(ns).mean(2)  # [seed, T, N]
    lines = [
        _means(f"N = {n}", config.temperatures, [by_n[:, place, column] for place in range(len(config.temperatures))])
        for column, n in enumerate(ns)
    ]
    lab.figure(
        lines_with_intervals(lines, x_label="temperature", y_label="pass@N", ordered=True),
        "temperature-and-n",
        "Temperature and N",
        "pass@N of the base model over sampling temperatures. Means over seeds.",
    )
    fits = []
    smooth = np.geomspace(1, ns[-1], 40)
    for place, temperature in enumerate(config.temperatures):
        values = [by_n[:, place, column] for column in range(len(ns))]
        points = _means(f"T = {temperature:g}", ns, values)
        fits.append(Line(points.label, points.x, points.y, style="points", color=place))
        a, b = fit(ns, np.array(points.y))
        if math.isfinite(a):
            fits.append(Line("", smooth, np.exp(a * smooth**b), style="dashed", color=place))
    lab.figure(
        lines_with_intervals(fits, x_label="N", y_label="pass@N", x_scale="log", ordered=True),
        "co-scaling",
        "The law exp(a(T) N^b(T))",
        "pass@N of the base model (points) and the law fitted to the mean over seeds at each temperature (dashed).",
    )


def _weights(results: Results, lab: Lab) -> None:
    config = results.config
    measured, exact = [], []
    rates = np.linspace(0.02, 0.98, 49)
    for n in config.ns:
        method = RL if n == 1 else BON
        totals = _summed(results, method, n, "weight_by_pass_rate")
        prompts = _summed(results, method, n, "prompts_by_pass_rate")
        label = "RL, N = 1" if n == 1 else f"N' = {n}"
        if totals is not None and prompts is not None:
            centres = (np.arange(len(totals)) + 0.5) / len(totals)
            share = np.divide(totals, prompts, out=np.full_like(totals, math.nan), where=prompts > 0)
            measured.append(Line(label, centres, share / config.samples))
        # Samples of pi_bon are right with probability 1 - p^N.
        weights = [bon_rlb_weights(1 - rate, n, "positive")[0].item() * (1 - (1 - rate) ** n) for rate in rates]
        exact.append(Line(label, rates, weights))
    lab.figure(
        lines_with_intervals(
            {"in training": measured, "exact": exact},
            x_label="pass rate of the prompt",
            y_label="weight",
            ordered=True,
        ),
        "weights",
        "Gradient weights against how often a prompt is solved",
        "Mean absolute weight of a prompt's samples in training, and the exact weight of its right samples together, "
        "N p^(N-1) (1 - p) with p the failure rate, for each N'.",
    )


def _training(results: Results, lab: Lab) -> None:
    panels: dict[str, list[Line]] = {}
    for name, title in (("entropy", "entropy of a response (nats)"), ("distinct_right", "distinct right solutions")):
        panels[title] = []
        for n in results.config.ns:
            method = RL if n == 1 else BON
            runs = [results.by_key.get((method, n, seed)) for seed in range(results.config.seeds)]
            values = [[row.get(name, math.nan) for row in run["rows"]] for run in runs if run is not None]
            if values:
                means = np.array(values, dtype=float).mean(0)
                panels[title].append(Line("RL, N = 1" if n == 1 else f"N' = {n}", range(len(means)), means))
    for title, lines in panels.items():
        name = "entropy" if title.startswith("entropy") else "distinct-solutions"
        lab.figure(
            lines_with_intervals(lines, x_label="step", y_label=title, ordered=True),
            name,
            title[0].upper() + title[1:] + " over training",
            f"Of training samples of BoN-RLB(P) for each N' and of REINFORCE, {results.config.samples} a prompt; mean "
            "over seeds.",
        )


def _line(label: str, x: Sequence[float], by_seed: Sequence[np.ndarray]) -> Line:
    return _drawn(label, x, [mean(values) for values in by_seed])


def _means(label: str, x: Sequence[float], by_seed: Sequence[np.ndarray]) -> Line:
    return Line(label, list(x), [mean(values).estimate for values in by_seed])


def _drawn(label: str, x: Sequence[float], found: Sequence[Interval]) -> Line:
    estimates, lows, highs = ([getattr(one, end) for one in found] for end in ("estimate", "low", "high"))
    return Line(label, list(x), estimates, lows, highs)


def _summed(results: Results, method: str, n: int, name: str) -> np.ndarray | None:
    runs = [results.by_key.get((method, n, seed)) for seed in range(results.config.seeds)]
    found = [np.array(run[name], dtype=float) for run in runs if run is not None and run[name]]
    return np.sum(found, axis=0) if found else None
