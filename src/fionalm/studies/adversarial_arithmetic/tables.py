"""The tables and galleries of `adversarial-arithmetic`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fionalm.report import Section, Table
from fionalm.report.wording import format_interval, format_number
from fionalm.studies.adversarial_arithmetic.analysis import (
    DIFFERENCE,
    NAMES,
    SHARE,
    Results,
    chosen_share,
    clean_accuracy,
    crossed_excess,
    families_of,
    fooled,
    found_excess,
    interval,
    replies,
    reviewed_change,
    right,
    share,
    steered,
    transfer_excess,
)

GALLERY = {
    "family": "family", "prompt": "what the target read", "answer": "sum", "target": "chosen", "reply": "answer",
    "control": "control", "control_reply": "answer to it",
}  # fmt: skip


def sections(results: Results) -> list[Section]:
    """Return the report's parts below the figures."""
    return [_accuracies(results), _attacks(results), _by_hand(results), _found(results)]


def _accuracies(results: Results) -> Section:
    every = (*families_of("train"), *families_of("held-out"))
    arms: dict[str, Callable[[str], np.ndarray]] = {
        "no text": lambda model: results.by_seed(model, clean_accuracy),
        "harmless talk": lambda model: results.accuracy(model, every, "control"),
        "random words": lambda model: results.accuracy(model, ["random text"]),
        "attacks of the training families": lambda model: results.accuracy(model, families_of("train")),
        "attacks of held-out families": lambda model: results.accuracy(model, families_of("held-out")),
        "PIRS's attacks of the first round": lambda model: results.by_seed(model, _known),
        "(questions about made-up words)": lambda model: results.by_seed(model, lambda one: one["unrelated"]),
    }
    rows = [[name, *(_cell(measured(model), SHARE) for model in results.models)] for name, measured in arms.items()]
    columns = ["before the question", *(NAMES[model] for model in results.models)]
    text = "Shares of right answers on test sums, with 95% intervals over seeds."
    return Section("Accuracy", text, [Table(columns, rows)])


def _attacks(results: Results) -> Section:
    statistics: dict[str, Callable[[dict[str, Any]], float]] = {
        "PIRS: wrong answers on test sums, less the control's": found_excess,
        "PIRS: chosen answers among the wrong ones": chosen_share,
        "PIRS: rate of chosen answers, steering, over that of wrong ones": steered,
        "PIRS: the same of all attacks found, unselected": transfer_excess,
        "PIRS: share of candidates that fooled": lambda one: one["pirs"]["succeeded"] / max(1, one["pirs"]["tried"]),
    }
    rows = [
        [name, *(_cell(results.by_seed(model, one)) for model in results.models)] for name, one in statistics.items()
    ]
    rows.append(
        [
            "copies of a false equation, as many as can be read, less the control's",
            *(_cell(results.repeated(model)) for model in results.models),
        ]
    )
    only_base = [
        (
            "PIRS: wrong answers behind attacks found on other seeds' targets, less the control's",
            _cell(crossed_excess(results)),
        ),
        ("accuracy on attacked sums after a review, less before", _cell(results.by_seed("base", reviewed_change))),
    ]
    optimized = [one["gcg"] for one in results.base if one is not None and one["gcg"]]
    if optimized:
        queries = sum(one["queries"] for one in optimized)
        hits = f"{sum(one['hit'] for one in optimized)} of {len(optimized)}"
        away = np.array([_optimized_elsewhere(one) for one in optimized])
        only_base.append((f"GCG: strings that steer their own sum ({queries:,} queries in all)", hits))
        only_base.append(("GCG: wrong answers on test sums", _cell(away)))
    rows += [[name, cell, *[""] * len(results.hardened)] for name, cell in only_base]
    columns = ["", *(NAMES[model] for model in results.models)]
    return Section("Attacks", "With 95% intervals over seeds.", [Table(columns, rows)])


def _by_hand(results: Results) -> Section:
    shown = next((one["gallery"] for one in results.base if one is not None), [])
    text = "One seed's, before hardening, each beside its control; successful ones first."
    return Section("Gallery: attacks by hand", text, [_pairs(shown)])


def _found(results: Results) -> Section:
    tables = []
    for model in ("base", results.method):
        shown = next((one["pirs"]["gallery"] for one in results.of(model) if one is not None), [])
        tables.append(_pairs(shown, f"Found against the target {NAMES[model]}."))
    text = "Attacks that the target wrote itself (PIRS), asked about test sums, each beside its control; one seed's."
    return Section("Gallery: attacks found", text, tables)


def _pairs(shown: Sequence[Mapping[str, Any]], caption: str = "") -> Table:
    return Table(list(GALLERY.values()), [[one[name] for name in GALLERY] for one in shown], caption)


def _known(result: dict[str, Any]) -> float:
    """Return the accuracy behind the attacks found before hardening, of the target or of its hardened self."""
    rows = replies(result.get("known") or result["pirs"]["fresh"])
    return share(rows, right, condition="attack")


def _optimized_elsewhere(found: Mapping[str, Any]) -> float:
    rows = [row for row in replies(found["rows"]) if row.problem != found["problem"]]
    return share(rows, fooled, condition="attack")


def _cell(by_seed: np.ndarray, bounds: tuple[float, float] = DIFFERENCE) -> str:
    found = interval(by_seed, bounds)
    return f"{format_number(found.estimate)} {format_interval(found.low, found.high)}"
