"""What the figures are made of: panels, series, logarithmic ticks, reference lines, one legend below."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from fionalm.report.style import HEIGHT, INK, MARKERS, MUTED, PAPER, WIDTH, Chart, series_colors
from fionalm.report.wording import format_tick

Numbers = Sequence[float] | np.ndarray
Scale = Literal["linear", "log"]
MAX_TICKS = 7


@dataclass(frozen=True)
class Line:
    """A series: x and y of equal length, optionally the ends of an interval at each point.

    `style`: `line` joins the points (interval as a band), `points` does not (interval as bars), `dashed` is a
    fit or theory. `color` is the number of the series whose colour to share, counted from 0; None takes the
    next.
    """

    label: str
    x: Numbers
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None
    style: Literal["line", "points", "dashed"] = "line"
    color: int | None = None

    def __post_init__(self) -> None:
        lengths = {len(values) for values in (self.x, self.y, self.low, self.high) if values is not None}
        if len(lengths) != 1:
            raise ValueError(f"line {self.label!r}: x, y, low and high have different lengths {sorted(lengths)}")


def frame(
    panels: Mapping[str, Sequence[Line]], x_label: str, y_label: str, title: str, columns: int
) -> tuple[Chart, list[Axes]]:
    """Return an empty chart and one axes a panel, sharing scales; y is named above the axis, not along it."""
    count = max(len(panels), 1)
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    chart = Chart(
        figsize=(WIDTH * columns, HEIGHT * rows), layout=ConstrainedLayoutEngine(hspace=0.1 if rows > 1 else 0.0)
    )
    grid = chart.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    all_axes = list(grid.flat)
    for axes in all_axes[count:]:
        axes.remove()
    all_axes = all_axes[:count]
    for index, (axes, name) in enumerate(zip(all_axes, panels, strict=False)):
        axes.set_title(name, pad=22 if y_label else 6)
        axes.tick_params(labelbottom=True, labelleft=True)
        if index + columns >= count:
            axes.set_xlabel(x_label)
        if index % columns == 0 and y_label:
            # Above the axis, not turned along it: a turned label costs a phone a tenth of the width.
            axes.annotate(
                y_label, (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points",
                color=MUTED, fontsize=9, annotation_clip=False,
            )  # fmt: skip
    if title:
        chart.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return chart, all_axes


def looks(lines: Sequence[Line], ordered: bool) -> Callable[[Line], tuple[str, str]]:
    """Return the function from a line to its colour and marker, one a label; fits are muted by default."""
    chosen = [line.color for line in lines if line.color is not None]
    labels = dict.fromkeys(line.label for line in lines if line.color is None and line.style != "dashed")
    slots = {label: index for index, label in enumerate(labels, start=max(chosen, default=-1) + 1)}
    palette = series_colors(max([*chosen, *slots.values()], default=0) + 1, ordered=ordered)

    def look(line: Line) -> tuple[str, str]:
        slot = line.color if line.color is not None else slots.get(line.label)
        return (MUTED, "") if slot is None else (palette[slot], MARKERS[slot % len(MARKERS)])

    return look


def draw(axes: Axes, line: Line, color: str, marker: str, *, hollow: bool = False) -> None:
    """Draw one series with its interval: a band along a line, bars on points."""
    x, y = np.asarray(line.x, dtype=float), np.asarray(line.y, dtype=float)
    y = np.where(np.isfinite(y), y, np.nan)
    marker = marker if len(x) <= 40 and line.style != "dashed" else ""
    face = PAPER if hollow else color
    look: dict[str, Any] = {
        "color": color,
        "marker": marker,
        "markerfacecolor": face,
        "label": line.label or "_",
    }
    look["linestyle"] = {"line": "-", "points": "", "dashed": (0, (4, 2.5))}[line.style]
    if line.low is not None and line.high is not None:
        low, high = np.asarray(line.low, dtype=float), np.asarray(line.high, dtype=float)
        known = np.isfinite(x) & np.isfinite(y) & np.isfinite(low) & np.isfinite(high)
        if line.style == "points":
            axes.vlines(x[known], low[known], high[known], color=color, linewidth=1.4)
        else:
            axes.fill_between(x, low, high, where=known.tolist(), color=color, alpha=0.16, linewidth=0)
    axes.plot(x, y, **look)


def scales(axes: Axes, lines: Sequence[Line], x_scale: Scale, y_scale: Scale) -> None:
    """Set scales and readable ticks; a scale without one positive value stays linear."""
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        scale = x_scale if name == "x" else y_scale
        axis.set_major_formatter(FuncFormatter(lambda value, _: format_tick(value)))
        if scale == "linear":
            continue
        values = {value for line in lines for value in (line.x if name == "x" else line.y) if 0 < value < math.inf}
        if not values:
            continue
        (axes.set_xscale if name == "x" else axes.set_yscale)("log", nonpositive="mask")
        axis.set_major_formatter(FuncFormatter(lambda value, _: format_tick(value)))
        axis.set_minor_locator(NullLocator())
        if name == "x" and len(values) <= 4 * MAX_TICKS:
            # A sweep's own grid (3e-4, 1e-3, ... or 64, 128, ...) says more than powers of ten.
            axis.set_major_locator(FixedLocator(sorted(values)[:: math.ceil(len(values) / MAX_TICKS)]))
        else:
            narrow = max(values) / min(values) < 30
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,), numticks=MAX_TICKS))


def mark(axes: Axes, horizontal: Mapping[str, float], vertical: Mapping[str, float]) -> None:
    """Draw labelled horizontal and vertical lines."""
    if horizontal:
        axes.margins(y=0.1)  # room for a label above the highest line
    look: dict[str, Any] = {"color": MUTED, "linewidth": 1, "linestyle": (0, (1.5, 2)), "zorder": 1}
    for label, value in horizontal.items():
        axes.axhline(value, **look)
        place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        axes.annotate(label, (0, value), (4, 3), color=MUTED, fontsize=9, **place)
    for label, value in vertical.items():
        axes.axvline(value, **look)
        place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        axes.annotate(label, (value, 1), (3, -9), color=MUTED, fontsize=9, **place)


def finish(chart: Chart, all_axes: Sequence[Axes]) -> None:
    """Put one legend for all panels below them, and say where a panel has no data."""
    handles: dict[str, Any] = {}
    for axes in all_axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
        if not any(np.isfinite(np.asarray(line.get_ydata(), dtype=float)).any() for line in axes.lines):
            axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", va="center", color=MUTED)
    if len(handles) > 1:
        widest = max(len(label) for label in handles)
        columns = int(chart.get_figwidth() / (0.42 + 0.07 * widest))
        columns = max(1, min(len(handles), columns))
        lines = math.ceil(len(handles) / columns)
        columns = math.ceil(len(handles) / lines)  # even rows
        chart.set_figheight(chart.get_figheight() + 0.2 * lines)
        chart.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=columns, labelcolor=INK)


def line_rows(panel: str, line: Line, x_label: str, y_label: str) -> list[dict[str, Any]]:
    """Return the numbers of a series as one dict a point."""
    rows = []
    for index, (x, y) in enumerate(zip(line.x, line.y, strict=True)):
        row = {"panel": panel} if panel else {}
        row |= {"series": line.label, x_label: x, y_label: y}
        if line.low is not None and line.high is not None:
            row |= {"low": line.low[index], "high": line.high[index]}
        rows.append(row)
    return rows
