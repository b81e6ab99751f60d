"""What `fiona detect` prints and draws: tables of detectors and baselines, curves, calibration, scored answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fionalm.evaluation import Detection, Measure
    from fionalm.evaluation.detection import Comparison
    from fionalm.report import Chart

SHOWN_ROWS = 40


def detection_table(found: Mapping[str, Detection]) -> tuple[list[str], list[list[Any]]]:
    """Return the areas of each detector and baseline."""
    names = ["hallucinated if high", "AUC-PR", "AUC-ROC", "ECE", "Brier"]
    rows = [[name, written(one.auc_pr), written(one.auc_roc), one.ece, one.brier] for name, one in found.items()]
    return names, rows


def comparison_table(found: Mapping[str, Comparison]) -> tuple[list[str], list[list[Any]]]:
    """Return what each detector has over a baseline."""
    names = ["detector", "AUC-PR", "AUC-ROC"]
    return names, [[name, written(one.auc_pr), written(one.auc_roc)] for name, one in found.items()]


def charts(
    found: Mapping[str, Detection], scores: Mapping[str, Sequence[float]], labels: np.ndarray, split: str
) -> dict[str, tuple[Chart, str]]:
    """Return the figures by file name, with captions."""
    from fionalm.evaluation.detection import DIRECTION
    from fionalm.report import Line, forest, lines_with_intervals
    from fionalm.statistics import Interval

    rate = next(iter(found.values())).base_rate.estimate
    areas = {
        name: Interval(one.auc_pr.estimate, _or_nan(one.auc_pr.low), _or_nan(one.auc_pr.high))
        for name, one in found.items()
        if one.auc_pr.estimate is not None
    }
    result = {
        "auc-pr": (
            forest(areas, x_label="AUC-PR", reference=rate),
            f"Area under precision and recall on the split {split!r}; dashed: guessing, which is the base rate. "
            f"Bootstrap intervals over groups. {DIRECTION}.",
        )
    }
    if areas:
        curves = [precision_recall(name, scores[name], labels, index) for index, name in enumerate(areas)]
        result["precision-recall"] = (
            lines_with_intervals(curves, x_label="recall", y_label="precision", references={"base rate": rate or 0.0}),
            "Precision of the rows that score highest against the share of hallucinated rows that are among them.",
        )
    lines = [_reliability(name, one, index) for index, (name, one) in enumerate(found.items()) if one.reliability]
    if lines:
        lines.append(Line("right", [0, 1], [0, 1], style="dashed"))
        result["calibration"] = (
            lines_with_intervals(lines, x_label="predicted probability", y_label="share that is hallucinated"),
            "Rows by their calibrated probability of being hallucinated; on the diagonal it is right.",
        )
    return result


def precision_recall(name: str, scores: Sequence[float], labels: np.ndarray, color: int) -> Any:
    """Return the curve through every threshold, thinned to a hundred points."""
    from fionalm.report import Line

    order = np.argsort(-np.asarray(scores), kind="stable")
    ranked, sorted_scores = labels[order], np.asarray(scores)[order]
    ends = np.flatnonzero(np.append(np.diff(sorted_scores) != 0, True))
    hits = ranked.cumsum()[ends]
    kept = np.unique(np.linspace(0, len(ends) - 1, min(len(ends), 100)).astype(int))
    recall, precision = hits / labels.sum(), hits / (ends + 1)
    return Line(name, recall[kept].tolist(), precision[kept].tolist(), color=color)


def answers_table(
    rows: Sequence[Mapping[str, Any]], scores: Mapping[str, Sequence[float]], best: str
) -> tuple[list[str], list[list[Any]]]:
    """Return answers from the one that looks most hallucinated to the one that looks least, evenly spaced."""
    order = sorted(range(len(rows)), key=lambda index: -scores[best][index])
    if len(order) > SHOWN_ROWS:
        order = [order[int(place)] for place in np.linspace(0, len(order) - 1, SHOWN_ROWS)]
    names = ["question", "answer", "verdict", f"{best}: probability of hallucination"]
    verdicts = ("right", "hallucinated")
    return names, [
        [question(rows[i]["prompt"]), short(rows[i]["completion"]), verdicts[rows[i]["label"]], scores[best][i]]
        for i in order
    ]


def question(prompt: Any) -> str:
    """Return the end of a prompt."""
    return short(prompt if isinstance(prompt, str) else str(prompt[-1]["content"]))


def short(text: Any, most: int = 160) -> str:
    """Return a text's beginning on one line."""
    line = " ".join(str(text if isinstance(text, str) else text[-1]["content"]).split())
    return line if len(line) <= most else f"{line[:most]}..."


def written(measure: Measure) -> str:
    """Return an estimate with its interval, or that it is undefined."""
    from fionalm.report.wording import format_interval, format_number

    if measure.estimate is None:
        return "undefined"
    ends = "" if measure.low is None or measure.high is None else f" {format_interval(measure.low, measure.high)}"
    return format_number(measure.estimate) + ends


def _reliability(name: str, found: Detection, color: int) -> Any:
    from fionalm.report import Line

    return Line(name, [b.probability for b in found.reliability], [b.share for b in found.reliability], color=color)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
