"""The figures that studies share: lines with intervals, loss against LR, fits, extrapolations, forests.

Each function takes plain numbers and returns a `Chart`, which `save_figure` writes with the numbers it shows.
A mapping from panel title to lines in place of a list of lines gives small multiples with shared axes and one
legend. NaN and infinite values are left out, or marked as diverged where that is what they mean; no data
gives an empty frame that says so, because a sweep in which everything crashed must still end in a report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from matplotlib.transforms import offset_copy

from fionalm.report.drawing import Line, Scale, draw, finish, frame, line_rows, looks, mark, scales
from fionalm.report.style import MARKERS, MUTED, PAPER, WIDTH, Chart, save_figure, series_colors, styled
from fionalm.report.wording import format_number
from fionalm.statistics import Interval

__all__ = [
    "Chart",
    "Line",
    "extrapolation",
    "forest",
    "lines_with_intervals",
    "loss_against_lr",
    "power_law",
    "save_figure",
]

Lines = Sequence[Line] | Mapping[str, Sequence[Line]]


def lines_with_intervals(
    lines: Lines,
    *,
    x_label: str,
    y_label: str,
    title: str = "",
    x_scale: Scale = "linear",
    y_scale: Scale = "linear",
    ordered: bool = False,
    references: Mapping[str, float] | None = None,
    x_references: Mapping[str, float] | None = None,
    columns: int = 2,
) -> Chart:
    """Draw series with their intervals: metrics over steps, a statistic against size, best LR against width.

    Args:
        lines: series, or panel title -> series.
        x_label: what x is, with its unit.
        y_label: what y is, with its unit; written above the axis, where a phone has room for it.
        title: heading inside the figure; leave it empty where the report gives one.
        x_scale: `linear` or `log`.
        y_scale: `linear` or `log`.
        ordered: colour the series from blue to orange because their order means something, such as width.
        references: labelled horizontal lines, such as a threshold.
        x_references: labelled vertical lines.
        columns: panels side by side.
    """
    panels = lines if isinstance(lines, Mapping) else {"": lines}
    with styled():
        chart, all_axes = frame(panels, x_label, y_label, title, columns)
        look = looks([line for panel in panels.values() for line in panel], ordered)
        for axes, (name, panel) in zip(all_axes, panels.items(), strict=True):
            scales(axes, panel, x_scale, y_scale)
            for line in panel:
                draw(axes, line, *look(line))
                chart.rows += line_rows(name, line, x_label, y_label)
            mark(axes, references or {}, x_references or {})
        finish(chart, all_axes)
    return chart


def loss_against_lr(
    curves: Lines,
    *,
    initial_loss: float = math.nan,
    x_label: str = "learning rate",
    y_label: str = "final loss",
    title: str = "",
    ordered: bool = True,
    columns: int = 2,
) -> Chart:
    """Draw final loss against learning rate, a line a width or an intervention.

    The best learning rate of every curve is filled; runs that diverged (loss not finite, or above
    `initial_loss`) are crosses at the initial loss, or nearer to the curves where that is not known or so
    far up that the curves could not be told apart.
    """
    panels = curves if isinstance(curves, Mapping) else {"": curves}
    everything = [line for panel in panels.values() for line in panel]
    ceiling = initial_loss if math.isfinite(initial_loss) else math.inf
    kept_losses = [value for line in everything for value in line.y if value <= ceiling and math.isfinite(value)]
    worst, best_loss = max(kept_losses, default=1.0), min(kept_losses, default=0.0)
    top = min(ceiling, worst + 0.3 * (worst - best_loss or 1.0))
    with styled():
        chart, all_axes = frame(panels, x_label, y_label, title, columns)
        look = looks(everything, ordered)
        for axes, (name, panel) in zip(all_axes, panels.items(), strict=True):
            scales(axes, panel, "log", "linear")
            lost_any = False
            for number, line in enumerate(panel):
                lost = [not (value <= ceiling and math.isfinite(value)) for value in line.y]
                kept = [math.nan if gone else value for value, gone in zip(line.y, lost, strict=True)]
                color, marker = look(line)
                draw(axes, replace(line, y=kept), color, marker, hollow=True)
                lost_at = [x for x, gone in zip(line.x, lost, strict=True) if gone]
                lost_any |= bool(lost_at)
                # Crosses of several series at one learning rate stand side by side.
                aside = offset_copy(axes.transData, chart, x=6 * (number - (len(panel) - 1) / 2), units="points")
                axes.plot(lost_at, [top] * len(lost_at), "x", color=color, markersize=5, transform=aside)
                axes.update_datalim([(x, top) for x in lost_at])  # a moved marker does not count by itself
                if not all(lost):
                    best = int(np.nanargmin(kept))
                    axes.plot(line.x[best], kept[best], marker, color=color, markersize=8, zorder=4)
                chart.rows += line_rows(name, line, x_label, y_label)
            if lost_any or top == ceiling:
                mark(axes, {"initial loss" if top == ceiling else "diverged": top}, {})
        finish(chart, all_axes)
    return chart


def power_law(
    lines: Lines,
    *,
    x_label: str,
    y_label: str,
    theory: Mapping[str, float] | None = None,
    title: str = "",
    ordered: bool = False,
    columns: int = 2,
) -> Chart:
    """Draw points on logarithmic axes with the fitted power law of each series, its slope in the legend.

    `theory` maps a legend entry to a slope, drawn dotted through the middle of each panel's first series.
    """
    panels = lines if isinstance(lines, Mapping) else {"": lines}
    fitted: dict[str, list[Line]] = {}
    for name, panel in panels.items():
        fitted[name] = []
        for index, line in enumerate(panel):
            slope, curve = _fit(line)
            label = f"{line.label}, slope {format_number(slope, 2)}" if math.isfinite(slope) else line.label
            fitted[name].append(replace(line, label=label, style="points", color=index))
            if curve is not None:
                fitted[name].append(replace(curve, color=index))
        for label, slope in (theory or {}).items():
            fitted[name] += [_through(panel[0], label, slope)] if panel else []
    shown = fitted if isinstance(lines, Mapping) else fitted[""]
    return lines_with_intervals(
        shown,
        x_label=x_label,
        y_label=y_label,
        title=title,
        x_scale="log",
        y_scale="log",
        ordered=ordered,
        columns=columns,
    )


def extrapolation(
    fitted: Sequence[Line],
    predictions: Sequence[Line],
    held_out: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    threshold: Mapping[str, float] | None = None,
    title: str = "",
    x_scale: Scale = "log",
    y_scale: Scale = "log",
    ordered: bool = True,
) -> Chart:
    """Draw fitted points, the prediction's line with its band, and held-out points as open circles.

    The lists pair up: `predictions[i]` and `held_out[i]` share the colour of `fitted[i]`. `threshold` labels
    levels such as the attention logit that marks divergence.
    """
    series = [*fitted, *predictions, *held_out]
    with styled():
        chart, (axes,) = frame({"": series}, x_label, y_label, title, 1)
        palette = series_colors(max(len(fitted), len(predictions), len(held_out), 1), ordered=ordered)
        scales(axes, series, x_scale, y_scale)
        for group, lines in (("fitted", fitted), ("prediction", predictions), ("held out", held_out)):
            for index, line in enumerate(lines):
                color, marker = palette[index], MARKERS[index % len(MARKERS)]
                if group == "prediction":
                    draw(axes, replace(line, label="", style="dashed"), color, "")
                else:
                    shown = replace(line, style="points", label=line.label if group == "fitted" else "")
                    draw(axes, shown, color, marker, hollow=group == "held out")
                chart.rows += [{"group": group, **row} for row in line_rows("", line, x_label, y_label)]
        axes.plot([], [], "o", color=MUTED, markerfacecolor=PAPER, label="held out")
        axes.plot([], [], "--", color=MUTED, label="prediction")
        mark(axes, threshold or {}, {})
        finish(chart, [axes])
    return chart


def forest(
    intervals: Mapping[str, Interval], *, x_label: str, title: str = "", reference: float | None = None
) -> Chart:
    """Draw one interval a row, such as LR sensitivity by intervention; `reference` is a vertical line."""
    with styled():
        chart, (axes,) = frame({"": []}, x_label, "", title, 1)
        chart.set_size_inches(WIDTH, 0.9 + 0.34 * max(len(intervals), 1))
        for row, (label, interval) in enumerate(intervals.items()):
            axes.plot([interval.low, interval.high], [row, row], color=series_colors(1)[0], linewidth=2.4)
            axes.plot(interval.estimate, row, "o", color=series_colors(1)[0], markersize=6.5)
            values = {x_label: interval.estimate, "low": interval.low, "high": interval.high}
            chart.rows.append({"row": label, **values})
        if reference is not None:
            axes.axvline(reference, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_yticks(range(len(intervals)), list(intervals))
        axes.set_ylim(max(len(intervals), 1) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        finish(chart, [axes])
    return chart


def _fit(line: Line) -> tuple[float, Line | None]:
    x, y = np.asarray(line.x, dtype=float), np.asarray(line.y, dtype=float)
    known = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
    if len(set(x[known])) < 2:
        return math.nan, None
    slope, offset = np.polyfit(np.log(x[known]), np.log(y[known]), 1)
    ends = [float(x[known].min()), float(x[known].max())]
    return float(slope), Line("", ends, [math.exp(offset + slope * math.log(end)) for end in ends], style="dashed")


def _through(line: Line, label: str, slope: float) -> Line:
    x, y = np.asarray(line.x, dtype=float), np.asarray(line.y, dtype=float)
    known = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
    if not known.any():
        return Line(label, [], [], style="dashed")
    middle_x, middle_y = (math.exp(np.log(values[known]).mean()) for values in (x, y))
    ends = [float(x[known].min()), float(x[known].max())]
    return Line(label, ends, [middle_y * (end / middle_x) ** slope for end in ends], style="dashed")
