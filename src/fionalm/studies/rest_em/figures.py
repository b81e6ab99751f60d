"""The figures and tables of `rest-em`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fionalm.report import Line, Section, Table, forest, lines_with_intervals
from fionalm.report.wording import format_interval, format_number
from fionalm.statistics import bootstrap
from fionalm.studies.rest_em.analysis import Results, interval_of
from fionalm.studies.rest_em.runs import TASKS, Task
from fionalm.studies.study import Lab

TITLES: Mapping[str, str] = {"words": "word problems", "code": "functions"}
ARMS = {
    "base": "base model",
    "rest-em": "ReST-EM",
    "continue": "continuing from the last policy",
    "once": "one iteration, as many samples",
    "human": "as many human solutions",
}


def draw_figures(results: Results, lab: Lab) -> None:
    """Draw every figure, and add the tables to the report."""
    _draw_rewards(results, lab)
    _draw_comparison(results, lab)
    _draw_pass_at_k(results, lab)
    _draw_kept(results, lab)
    _draw_related(results, lab)
    lab.sections.append(
        Section("The arms", "Shares of problems solved greedily, and what was learnt from.", [_table(results)])
    )


def add_smollm2(result: Mapping[str, Any] | None, lab: Lab) -> None:
    """Report SmolLM2's run as it came."""
    if result is None:
        lab.sections.append(Section("SmolLM2-135M-Instruct", "The run did not end; nothing was measured."))
        return
    both = np.array([result["before"], result["after"]], dtype=float)
    before, after = both[:, np.isfinite(both).all(axis=0)]  # what the verifier failed on is left out
    gain = bootstrap(lambda first, second: float((second - first).mean()), before, after, paired=True)
    rows = [
        ["test pass@1, greedy, before", float(before.mean())],
        ["test pass@1, greedy, after one iteration", float(after.mean())],
        [
            "difference, 95% interval over problems",
            f"{format_number(gain.estimate)} {format_interval(gain.low, gain.high)}",
        ],
        ["test problems", len(before)],
        ["training problems", result["problems"]],
        ["samples", result["samples"]],
        ["right samples learnt from", result["kept"]],
        ["mean reward of the samples", result["train_reward"]],
        ["seconds", round(result["seconds"])],
    ]
    text = (
        "The same code on a real instruction-tuned model: one iteration of ReST-EM with adapters (LoRA) on sums, "
        "differences and products of one-digit numbers, one seed. It is no claim's evidence."
    )
    lab.sections.append(Section("SmolLM2-135M-Instruct", text, [Table(["", "value"], rows)]))


def _draw_rewards(results: Results, lab: Lab) -> None:
    panels = {
        TITLES[task]: [
            _line("test", results.curve(task, "rest-em", "test", last), 0),
            _line("train", results.curve(task, "rest-em", "train", last), 1),
        ]
        for task in TASKS
        for last in [results.iterations(task, "rest-em")]
    }
    lab.figure(
        lines_with_intervals(panels, x_label="iteration", y_label="problems solved greedily"),
        "reward-against-iteration",
        "Reward against iteration",
        "Greedy pass@1 on test and training problems after each iteration of ReST-EM; iteration 0 is the base model. "
        "Bands are 95% intervals over seeds.",
    )


def _draw_comparison(results: Results, lab: Lab) -> None:
    lab.figure(
        forest({title: interval_of(results.end("words", arm)) for arm, title in ARMS.items()}, x_label="test pass@1"),
        "comparison",
        "Word problems: ways to use the same base model",
        "Greedy pass@1 on test word problems of the base model, of ReST-EM, of three iterations that continue from the "
        "last policy, of one iteration with as many samples in total, and of fine-tuning on as many human solutions.",
    )


def _draw_pass_at_k(results: Results, lab: Lab) -> None:
    lines = [
        _line(ARMS[arm], results.pass_at(arm), number, results.ks)
        for number, arm in enumerate(("base", "rest-em", "once", "human"))
    ]
    lab.figure(
        lines_with_intervals(lines, x_label="k", y_label="pass@k", x_scale="log"),
        "pass-at-k",
        "Pass@k before and after",
        "Share of test word problems of which one of k samples is right, at temperature 1 and top-p 0.95. Bands are "
        "95% intervals over seeds.",
    )


def _draw_kept(results: Results, lab: Lab) -> None:
    panels = {}
    for task in TASKS:
        lines = []
        for iteration in range(1, min(3, results.iterations(task, "rest-em")) + 1):
            shares = _histograms(results, task, iteration)
            if len(shares):
                lines.append(_line(f"iteration {iteration}", shares, iteration - 1))
        panels[TITLES[task]] = lines
    lab.figure(
        lines_with_intervals(panels, x_label="distinct right samples kept", y_label="share of problems", ordered=True),
        "kept-per-problem",
        "Samples kept a problem",
        "Training problems by the distinct right samples of them that were learnt from, "
        f"{results.config.max_per_problem} at most.",
    )


def _draw_related(results: Results, lab: Lab) -> None:
    panels = {
        TITLES[task]: [
            _line(ARMS[arm], results.curve(task, arm, "related", results.iterations(task, "continue")), number)
            for number, arm in enumerate(("rest-em", "continue"))
        ]
        for task in TASKS
    }
    lab.figure(
        lines_with_intervals(panels, x_label="iteration", y_label="related problems solved greedily"),
        "related-tasks",
        "Held-out related tasks",
        "Greedy pass@1 on tasks that the base model knows and that no iteration trains on: expressions and comparisons "
        "for word problems, functions of lists for functions of numbers. Bands are 95% intervals over seeds.",
    )


def _line(label: str, values: np.ndarray, color: int, x: Any = None) -> Line:
    """Return the mean over seeds with its interval at each point; `values` is [seed, point]."""
    found = [interval_of(column, resamples=400) for column in values.T]  # a band needs no third digit
    low, high = ([_or_mean(getattr(one, end), one.estimate) for one in found] for end in ("low", "high"))
    points = list(range(values.shape[1])) if x is None else x
    return Line(label, points, [one.estimate for one in found], low, high, color=color)


def _or_mean(end: float, mean: float) -> float:
    return end if math.isfinite(end) else mean  # one seed has no interval


def _histograms(results: Results, task: Task, iteration: int) -> np.ndarray:
    """Return [seed, number kept] as shares of the problems, of the seeds that reached the iteration."""
    most = results.config.max_per_problem
    found = []
    for seed in range(results.config.seeds):
        rows = (results.arms.get((task, "rest-em", seed)) or {}).get("rows", ())
        if iteration < len(rows):
            counts = rows[iteration]["kept_per_problem"]
            found.append([*counts, *[0] * (most + 1 - len(counts))])
    return np.array(found, dtype=float) / results.config.size(task).train


def _table(results: Results) -> Table:
    names = ("test", "train", "related", "kept", "solved", "verifier_failures", "truncated")
    rows = []
    for task in TASKS:
        for arm, title in ARMS.items():
            if (task, arm, 0) not in results.arms:
                continue
            values = [_mean(results.end(task, arm, name)) for name in names]
            rows.append([TITLES[task], title, results.iterations(task, arm), *values])
    columns = ["task", "arm", "iterations", "test", "train", "related", "kept", "solved", "verifier failed", "cut off"]
    return Table(columns, rows, "Means over seeds, of the last policy and the samples that it was trained on.")


def _mean(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None
