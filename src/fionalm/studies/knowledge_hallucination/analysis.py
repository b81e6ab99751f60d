"""What the trials of `knowledge-hallucination` say about its claims."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import numpy as np

from fionalm.report import measure
from fionalm.report.claims import Measured
from fionalm.report.wording import format_number
from fionalm.statistics import Interval, bootstrap
from fionalm.studies.knowledge_hallucination.claims import CLAIMS
from fionalm.studies.knowledge_hallucination.results import Results, slopes

BY_ID = {claim.id: claim for claim in CLAIMS}


def measure_claims(results: Results) -> Iterator[Measured]:
    """Yield every claim with its interval over seeds."""
    for choice in results.config.graphs:
        values = {**_generation(results, choice.name, min(choice.shares)), **_detection(results, choice.name)}
        for name, (seeds, detail) in values.items():
            yield _measured(f"{name}-{choice.name}", seeds, detail)


def _generation(results: Results, graph: str, smallest: float) -> dict[str, tuple[np.ndarray, str]]:
    """Return each claim about what is generated: a value a seed, and what a reader should know of it."""
    shortest, longest = results.config.epochs[0], results.longest
    rates = {epochs: results.rates(graph, epochs=epochs) for epochs in results.config.epochs}
    less = results.rates(graph, epochs=longest, share=smallest)
    unseen = {epochs: results.rates(graph, epochs=epochs, visibility="invisible") for epochs in results.config.epochs}
    cold, warm = (
        {name: results.measures(graph, name, epochs=longest, temperature=t) for name in ("precision", "recall")}
        for t in (0.0, 1.0)
    )
    end, before = unseen[longest], unseen[results.config.epochs[-2]]
    return {
        "size": (slopes(rates[longest], results.config.shapes), _from_to(rates[longest], "smallest to largest model")),
        "epochs": (
            known_mean(rates[longest] - rates[shortest]),
            f"{_from_to(np.stack([known_mean(rates[e]) for e in results.config.epochs], 1), 'shortest to longest')}",
        ),
        "data": (
            known_mean(rates[longest] - less),
            _two(rates[longest], "with all data", less, f"with {format_number(smallest)} of it"),
        ),
        "unseen": (
            known_mean(end - before),
            _two(end, f"after {longest} epochs", before, f"after {results.config.epochs[-2]}"),
        ),
        "cold-is-precise": (
            known_mean(cold["precision"] - warm["precision"]),
            _two(cold["precision"], "at temperature 0", warm["precision"], "at 1"),
        ),
        "cold-recalls-less": (
            known_mean(cold["recall"] - warm["recall"]),
            _two(cold["recall"], "at temperature 0", warm["recall"], "at 1"),
        ),
    }


def _detection(results: Results, graph: str) -> dict[str, tuple[np.ndarray, str]]:
    """Return each claim about detectors, with AUC-ROC and the base rate beside AUC-PR."""
    made, bases = results.config.shapes, results.config.detectors
    sentence = results.areas(graph, "full", "sentence")
    token = results.areas(graph, "full", "token")
    roc, roc_token = (results.areas(graph, "full", task, "auc_roc") for task in ("sentence", "token"))
    rate = results.areas(graph, "full", "sentence", "base_rate")[..., -1]
    by_size = slopes(sentence, bases)
    return {
        "detection-falls": (
            slopes(sentence[..., -1], made),
            f"AUC-PR {_from_to(sentence[..., -1], 'smallest to largest generator')} The base rate, which is the AUC-PR "
            f"of guessing, goes {_from_to(rate)} AUC-ROC goes {_from_to(roc[..., -1])}",
        ),
        "larger-detectors": (
            known_mean(by_size),
            f"AUC-PR {_from_to(known_mean(sentence, 1), 'smallest to largest detector')} AUC-ROC goes "
            f"{_from_to(known_mean(roc, 1))}",
        ),
        "sentence-over-token": (
            known_mean(known_mean(sentence - token)),
            f"AUC-PR: {_two(sentence, 'sentence', token, 'token')} "
            f"AUC-ROC: {_two(roc, 'sentence', roc_token, 'token')}",
        ),
    }


def interval_of(
    values: np.ndarray, resamples: int = 2000, bounds: tuple[float, float] = (-math.inf, math.inf)
) -> Interval:
    """Return the bootstrap interval of the mean over the seeds whose value is known [seed]; `bounds` are a value's."""
    known = values[np.isfinite(values)]
    if not len(known):
        return Interval(math.nan, math.nan, math.nan)
    return bootstrap(lambda drawn: float(drawn.mean()), known, resamples=resamples, bounds=bounds)


def known_mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the mean over the known values of an axis; NaN where none is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of empty means, which stay NaN
        return np.nanmean(values, axis=axis)


def _measured(name: str, values: np.ndarray, detail: str) -> Measured:
    known = int(np.isfinite(values).sum())
    if known < len(values):
        detail = f"{detail} {len(values) - known} of {len(values)} seeds could not be measured.".strip()
    return measure(BY_ID[name], interval_of(values), n=known, detail=detail)


def _from_to(values: np.ndarray, what: str = "") -> str:
    """Say the mean over seeds at each of the last axis's places."""
    shown = " / ".join(format_number(float(one), 3) for one in known_mean(values, 0))
    return f"{shown}{f' ({what})' if what else ''}."


def _two(first: np.ndarray, name: str, second: np.ndarray, other: str) -> str:
    one, two = (format_number(float(known_mean(values.ravel(), 0)), 3) for values in (first, second))
    return f"{one} {name}, {two} {other}."
