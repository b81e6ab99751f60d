"""What `fiona evaluate` prints and draws: tables of metrics, differences, the grid of temperatures and N."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fionalm.evaluation import CoScaling, Evaluation, Metric
    from fionalm.report import Chart, Section
    from fionalm.sampling import SampleRecord
    from fionalm.statistics import Interval

NAMES = {
    "pass": "pass@k: one of k is right",
    "best-of": "best-of-k: the one with the best score is right",
    "majority": "majority@k: the most frequent answer is right",
}


def metrics_report(
    sets: Mapping[str, list[SampleRecord]], ks: Sequence[int], options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, tuple[Chart, str]], list[Section]]:
    """Print the metrics of each set of samples and return numbers, charts and sections of the report."""
    from fionalm.commands.outcome import columns
    from fionalm.evaluation import evaluate_samples
    from fionalm.report import Section, Table

    found = {label: evaluate_samples(records, ks, **options) for label, records in sets.items()}
    facts = [
        [label, one.problems, one.samples, one.judged, *map(_written, (one.reward, one.distinct_right)), one.truncated]
        for label, one in found.items()
    ]
    fact_names = ["samples of", "problems", "samples", "judged", "mean reward", "distinct right", "truncated"]
    all_ks = sorted({metric.k for one in found.values() for metric in one.metrics})
    rows = [
        [label, name, *(_cell(one.find(name, k)) for k in all_ks)]
        for label, one in found.items()
        for name in dict.fromkeys(metric.name for metric in one.metrics)
    ]
    names = ["samples of", "metric", *(f"k={k}" for k in all_ks)]
    outcomes = {label: dict(one.outcomes) for label, one in found.items()}
    verdicts = "; ".join(f"{label}: {_counts(counts)}" for label, counts in outcomes.items())
    print(columns(fact_names, facts), f"\noutcomes: {verdicts}", "", columns(names, rows), sep="\n")
    tables = [Table(names, rows, "Mean over problems with its 95% interval."), Table(fact_names, facts)]
    differences = _differences(found)
    result: dict[str, Any] = {"sets": {label: one.to_dict() for label, one in found.items()}}
    if differences:
        header = ["samples of", "metric", "k", "minus " + next(iter(found)), "95% interval"]
        print("", columns(header, differences), sep="\n")
        tables.append(Table(header, differences, "Paired over the problems that both have."))
        keys = ("set", "metric", "k", "estimate", "interval")
        result["differences"] = [dict(zip(keys, row, strict=True)) for row in differences]
    charts = {"metrics": (_chart(found), "Mean over problems, with 95% bootstrap intervals over problems.")}
    return result, charts, [Section("Metrics", f"Outcomes of the verifier: {verdicts}.", tables, ["metrics"])]


def _differences(found: Mapping[str, Evaluation]) -> list[list[Any]]:
    """Return rows of what each set has over the first."""
    from fionalm.evaluation import paired_difference
    from fionalm.report.wording import format_interval

    (_, first), *others = found.items()
    rows = []
    for label, one in others:
        for metric in one.metrics:
            before = first.find(metric.name, metric.k)
            difference = None if before is None else paired_difference(metric, before)
            if difference is not None:
                ends = format_interval(difference.low, difference.high)
                rows.append([label, metric.name, metric.k, difference.estimate, ends])
    return rows


def _chart(found: Mapping[str, Evaluation]) -> Chart:
    from fionalm.report import lines_with_intervals

    panels: dict[str, list[Any]] = {}
    for index, (label, one) in enumerate(found.items()):
        for name in dict.fromkeys(metric.name for metric in one.metrics):
            metrics = [metric for metric in one.metrics if metric.name == name]
            line = _line(label, [metric.k for metric in metrics], [metric.interval for metric in metrics], index)
            panels.setdefault(NAMES[name], []).append(line)
    return lines_with_intervals(panels, x_label="k, samples at inference", y_label="share of problems", x_scale="log")


def co_scaling_report(
    files: Mapping[str, list[SampleRecord]],
    ks: Sequence[int],
    options: Mapping[str, Any],
    result: dict[str, Any],
    charts: dict[str, tuple[Chart, str]],
    sections: list[Section],
) -> None:
    """Add the co-scaling of each file and iteration to what is reported."""
    from fionalm.commands.outcome import columns
    from fionalm.evaluation import co_scaling as scale
    from fionalm.report import Section, Table

    if all(len({one.temperature for one in records}) == 1 for records in files.values()):
        files = {" and ".join(files): [one for records in files.values() for one in records]}
    result["co_scaling"] = {}
    iterations = {(name, one.iteration): None for name, records in files.items() for one in records}
    for number, (name, iteration) in enumerate(iterations):
        several = len({key[1] for key in iterations if key[0] == name}) > 1
        label = f"{name}, iteration {iteration}" if several else name
        found = scale([one for one in files[name] if one.iteration == iteration], ks, **options)
        result["co_scaling"][label] = found.to_dict()
        names = ["temperature", *(f"N={n}" for n in found.ns), "a", "b", "largest error"]
        rows = [
            [temperature, *map(_written, found.grid[i]), _written(found.a[i]), _written(found.b[i]), found.error[i]]
            for i, temperature in enumerate(found.temperatures)
        ]
        rows.append(["best", *map(_written, found.best), None, None, None])
        print(f"\npass@N of {label} over {found.problems} problems, fitted by exp(a N^b)\n{columns(names, rows)}")
        key = "co-scaling" if len(iterations) == 1 else f"co-scaling-{number}"
        charts[key] = (_grid_chart(found), f"pass@N of {label} over temperatures; dashed: the fit exp(a N^b).")
        charts[f"{key}-best"] = (_best_chart(found), f"The temperature with the highest pass@N of {label}.")
        caption = f"{found.problems} problems that all temperatures have."
        sections.append(Section(f"Temperature and N: {label}", "", [Table(names, rows, caption)], [key, f"{key}-best"]))


def _grid_chart(found: CoScaling) -> Chart:
    from fionalm.report import lines_with_intervals

    lines = []
    for index, temperature in enumerate(found.temperatures):
        points = _line(f"T {temperature:g}", found.ns, found.grid[index], index)
        lines.append(replace(points, style="points"))
        fitted = [found.fitted(index, n) for n in found.ns]
        lines.append(replace(points, label="", y=fitted, low=None, high=None, style="dashed"))
    return lines_with_intervals(lines, x_label="N", y_label="pass@N", x_scale="log", ordered=True)


def _best_chart(found: CoScaling) -> Chart:
    from fionalm.report import lines_with_intervals

    line = _line("best temperature", found.ns, found.best, 0)
    return lines_with_intervals([line], x_label="N", y_label="best temperature", x_scale="log")


def _line(label: str, x: Sequence[float], intervals: Sequence[Interval], color: int) -> Any:
    from fionalm.report import Line

    values = [one.estimate for one in intervals]
    return Line(label, x, values, [one.low for one in intervals], [one.high for one in intervals], color=color)


def _cell(metric: Metric | None) -> str:
    return "-" if metric is None else _written(metric.interval)


def _written(interval: Interval) -> str:
    from fionalm.report.wording import format_interval, format_number

    return f"{format_number(interval.estimate)} {format_interval(interval.low, interval.high)}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {outcome.replace('_', ' ')}" for outcome, count in counts.items())
