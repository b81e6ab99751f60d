"""Detectors and baselines measured on the test split of `fiona detect`: printed, and what the report shows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fionalm.commands.detect_data import AnswerOptions, baselines
from fionalm.errors import UserError

if TYPE_CHECKING:
    from fionalm.evaluation import Detection
    from fionalm.posttraining import Detector
    from fionalm.posttraining.detector_rows import Row

ROWS_FILE = "test.jsonl"
AGAINST = "log-probability a token"
"""The baseline that detectors are compared with."""


def measured(
    splits: Mapping[str, Sequence[Row]],
    samples: Mapping[str, Any],
    sampler: Any,
    answers: AnswerOptions,
    detectors: Mapping[str, Detector],
    resamples: int,
    seed: int,
    out: Path,
) -> tuple[dict[str, Any], Any, Any]:
    """Measure detectors and baselines on the test split; print, and return numbers, figures and sections."""
    from fionalm.commands.detect_report import answers_table, charts, comparison_table, detection_table
    from fionalm.commands.outcome import columns
    from fionalm.evaluation import compare_detectors, evaluate_detection
    from fionalm.evaluation.detection import DIRECTION, POSITIVE, length_direction
    from fionalm.paths import atomic_write_text
    from fionalm.posttraining.detector_rows import check_rows
    from fionalm.report import Section, Table

    test: Sequence[Row] = splits["test"]
    how: dict[str, Any] = {"resamples": resamples, "seed": seed}
    labels, groups = check_rows(test, "test", both=False), groups_of(test)
    texts = [row["prompt"] for row in test], [row["completion"] for row in test]
    lengths = [len(sampler.tokenizer.encode_completion(row["completion"], end=False)) for row in splits["train"]]
    direction = length_direction(lengths, [row["label"] for row in splits["train"]])
    scores: dict[str, Any] = {name: one.logits(*texts) for name, one in detectors.items()}
    probabilities = {name: one.calibrator(scores[name]) for name, one in detectors.items()}
    others = baselines(test, samples, sampler, direction, answers.equivalent(sampler))
    scores |= others
    found = {
        name: evaluate_detection(one, labels, groups=groups, probabilities=probabilities.get(name), **how)
        for name, one in scores.items()
    }
    compared = {
        name: compare_detectors(scores[name], scores[AGAINST], labels, groups=groups, **how) for name in detectors
    }
    best = min(detectors, key=lambda name: detectors[name].facts.get("validation_loss", 0.0))
    say_areas(found)
    names, table = detection_table(found)
    print(columns(names, table))
    print(f"\ndetectors less {AGAINST}, paired:\n{columns(*comparison_table(compared))}")
    for name, one in detectors.items():
        if one.calibrator.reason:
            print(f"{name}: {one.calibrator.reason}")
    shown = {**scores, **{name: list(values) for name, values in probabilities.items()}}
    lines = [
        {**row, "hallucination_probability": {name: float(values[i]) for name, values in probabilities.items()}}
        | {key_of(name): values[i] for name, values in others.items()}
        for i, row in enumerate(test)
    ]
    atomic_write_text(out / ROWS_FILE, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    result = {
        "positive": POSITIVE,
        "direction": DIRECTION,
        "best": best,
        "length_direction": direction,
        "splits": {name: _size(part) for name, part in splits.items()},
        "detectors": {name: {**one.facts, "calibrator": one.calibrator.to_dict()} for name, one in detectors.items()},
        "test": {name: one.to_dict() for name, one in found.items()},
        f"less {AGAINST}": {name: one.to_dict() for name, one in compared.items()},
    }
    first = next(iter(found.values()))
    areas = Table(names, table, f"Base rate {first.base_rate.estimate:.3f}.")
    answers_shown = Table(*answers_table(test, shown, best))
    sections = [
        Section("Detectors and baselines", _text(first, splits, direction), [areas], ["auc-pr", "precision-recall"]),
        Section(f"Against {AGAINST}", "Paired.", [Table(*comparison_table(compared))], ["calibration"]),
        Section("Answers", "Of the test split, from the most to the least suspicious.", [answers_shown], []),
    ]
    return result, charts(found, scores, labels, "test"), sections


def groups_of(rows: Sequence[Row]) -> list[str]:
    """Return the name of each row's group, over which intervals are taken."""
    from fionalm.posttraining.detector_rows import group_of

    return [group_of(row) for row in rows]


def key_of(label: str) -> str:
    """Return a baseline's name as a column."""
    return label.replace("(", "").replace(")", "").replace(" ", "_").replace("-", "_")


def say_outcomes(rows: Sequence[Row], outcomes: Counter[str]) -> None:
    """Print what the verifier found.

    Raises:
        UserError: it could judge no answer.
    """
    if not rows:
        raise UserError("the verifier could judge no answer: expected a verifier that works on this data")
    if outcomes:
        counted = ", ".join(f"{count:,} {outcome.replace('_', ' ')}" for outcome, count in outcomes.most_common())
        print(f"{sum(outcomes.values()):,} answers: {counted}")
        print(f"{len(rows):,} of them have a label: what is not right is hallucinated")


def say_areas(found: Mapping[str, Detection]) -> None:
    """Print which way labels and scores point, the base rate, and why areas are undefined if they are."""
    from fionalm.commands.detect_report import written
    from fionalm.evaluation.detection import DIRECTION

    first = next(iter(found.values()))
    print(DIRECTION)
    print(
        f"split {first.split!r}: {first.rows:,} answers in {first.groups:,} groups, {first.hallucinated:,} "
        f"hallucinated: base rate {written(first.base_rate)}"
    )
    if first.auc_pr.undefined:
        print(first.auc_pr.undefined)


def _size(rows: Sequence[Row]) -> dict[str, int]:
    hallucinated = sum(row["label"] for row in rows)
    return {"rows": len(rows), "hallucinated": hallucinated, "groups": len(set(groups_of(rows)))}


def _text(first: Detection, splits: Mapping[str, Sequence[Row]], direction: int) -> str:
    from fionalm.evaluation.detection import DIRECTION

    sizes = {name: _size(part) for name, part in splits.items()}
    counted = "; ".join(
        f"{name} {one['rows']:,} rows, {one['hallucinated']:,} hallucinated" for name, one in sizes.items()
    )
    text = (
        f"{DIRECTION}. Split by question or group, so that nothing is on two sides: {counted}. Intervals of 95% are "
        f"over {first.groups:,} groups. By the training split, hallucinated answers are the "
        f"{'longer' if direction > 0 else 'shorter'} ones."
    )
    return text if first.auc_pr.undefined is None else f"{text}\n\n{first.auc_pr.undefined}."
