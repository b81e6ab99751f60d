"""Which size and how many epochs: what the rates of `knowledge-hallucination` say by a fit, and how far it holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fionalm.errors import UserError
from fionalm.evaluation.hallucination_fits import Answer, Needed, RateFit, RateRun, fit_rates
from fionalm.report import Line, Section, Table, lines_with_intervals
from fionalm.report.wording import format_interval, format_number
from fionalm.studies.knowledge_hallucination.figures import size_name
from fionalm.studies.knowledge_hallucination.presets import GraphChoice
from fionalm.studies.knowledge_hallucination.results import Results, parameters
from fionalm.studies.study import Lab

TARGETS = (0.25, 0.1, 0.05)
"""Rates that the question is asked for; the paper's is 5%."""


def add_fits(results: Results, lab: Lab) -> None:
    """Fit each graph's rates on fully visible pairs, draw the fit beside them, and answer the question."""
    panels: dict[str, list[Line]] = {}
    tables, sentences = [], []
    for choice in results.config.graphs:
        runs = list(rate_runs(results, choice))
        try:
            fit = fit_rates(runs)
        except UserError as error:
            sentences.append(f"{choice.name}: no fit ({error}).")
            continue
        whole = max(run.triples for run in runs)
        answers = [fit.answer(rate, whole) for rate in TARGETS]
        off = "" if np.isnan(fit.left_out_error) else f", {fit.left_out_error:.2f} from a setting that was left out"
        sentences.append(
            f"{choice.name}: R squared {format_number(fit.r_squared)}; the fit is at most {fit.error:.2f} from a "
            f"measured mean rate{off}. " + ". ".join(answer.sentence for answer in answers) + "."
        )
        tables.append(_table(choice.name, answers, whole))
        panels[choice.name] = _lines(results, fit, runs, whole)
    if panels:
        lab.figure(
            lines_with_intervals(panels, x_label="epochs", y_label="share hallucinated", x_scale="log", ordered=True),
            "rate-fit",
            "The fit beside what was measured",
            "Mean rate over seeds on fully visible pairs (points) and the fit (dashed), on all data. The fit is a line "
            "of the log odds in the logarithms of parameters, epochs and triples, with one interaction.",
        )
    text = (
        "Which size and how many epochs for at most so much hallucination about what was trained on? Epochs needed by "
        "each size, with 95% intervals over seeds; a star marks what lies outside of what was trained, which is a "
        "guess until it is trained.\n\n" + "\n\n".join(sentences)
    )
    lab.sections.append(Section("Which size, how many epochs", text, tables, ["rate-fit"] if panels else []))


def rate_runs(results: Results, choice: GraphChoice) -> Iterator[RateRun]:
    """Yield the measured rates of a graph; a share's triples are those of the seeds' mean, as they differ a little."""
    settings = [(epochs, 1.0) for epochs in results.config.epochs]
    settings += [(results.longest, share) for share in choice.shares]
    for epochs, share in settings:
        known = {"epochs": epochs, "share": share}
        rates, flops, counts, pairs = (
            results.rates(choice.name, **known),
            results.facts(choice.name, "flops", **known),
            results.facts(choice.name, "triples", **known),
            results.measures(choice.name, "pairs", **known),
        )
        for (seed, place), rate in np.ndenumerate(rates):
            if np.isfinite(rate):
                shape = results.config.shapes[place]
                yield RateRun(
                    parameters=parameters(shape),
                    epochs=epochs,
                    triples=round(float(np.nanmean(counts))),
                    rate=float(rate),
                    pairs=int(pairs[seed, place]),
                    seed=seed,
                    flops=float(flops[seed, place]),
                    size=size_name(shape),
                )


def _table(graph: str, answers: list[Answer], whole: int) -> Table:
    rows = []
    for place, option in enumerate(answers[0].options):
        rows.append([option.size, *(_needed(answer.options[place].epochs) for answer in answers)])
    columns = ["model", *(f"epochs for {rate:.0%}" for rate in TARGETS)]
    return Table(columns, rows, f"The graph {graph}, all {whole:,} triples of training.")


def _needed(needed: Needed) -> str:
    found = needed.interval
    if not np.isfinite(found.estimate):
        return "out of reach"
    star = " *" if needed.extrapolated or needed.beyond else ""
    return f"{format_number(found.estimate)} {format_interval(found.low, found.high)}{star}"


def _lines(results: Results, fit: RateFit, runs: list[RateRun], whole: int) -> list[Line]:
    epochs = [float(one) for one in results.config.epochs]
    curve = np.geomspace(epochs[0], epochs[-1], 5).tolist()
    lines: list[Line] = []
    for number, shape in enumerate(results.config.shapes):
        own: dict[float, list[Any]] = {}
        for run in runs:
            if run.parameters == parameters(shape) and run.triples == whole:
                own.setdefault(run.epochs, []).append(run.rate)
        known = sorted(own)
        lines.append(
            Line(size_name(shape), known, [float(np.mean(own[one])) for one in known], style="points", color=number)
        )
        fitted = [fit.predict(parameters(shape), one, whole).estimate for one in curve]
        lines.append(Line("", curve, fitted, style="dashed", color=number))
    return lines
