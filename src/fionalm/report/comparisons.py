"""Figures that compare conditions: intervals of several series in each row, and a matrix of rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fionalm.report.drawing import finish, frame
from fionalm.report.style import INK, MARKERS, MUTED, WIDTH, Chart, series_colors, styled
from fionalm.report.wording import format_number
from fionalm.statistics import Interval

LABEL = 28
"""Characters of a row's label: a longer one would leave the figure no room."""


def grouped_forest(
    rows: Mapping[str, Mapping[str, Interval]], *, x_label: str, title: str = "", reference: float | None = None
) -> Chart:
    """Draw several intervals in each row, such as attack and control by family.

    Args:
        rows: row -> series -> interval; a series that a row lacks is left out there.
        x_label: what the intervals are of, with the unit.
        title: heading inside the figure.
        reference: a vertical line.
    """
    series = list(dict.fromkeys(name for row in rows.values() for name in row))
    with styled():
        chart, (axes,) = frame({"": []}, x_label, "", title, 1)
        chart.set_size_inches(WIDTH, 0.9 + (0.16 + 0.16 * max(len(series), 1)) * max(len(rows), 1))
        palette = series_colors(max(len(series), 1))
        for place, (label, row) in enumerate(rows.items()):
            for number, name in enumerate(series):
                if name not in row or math.isnan(row[name].estimate):
                    continue
                one, y = row[name], place + 0.55 * ((number + 0.5) / len(series) - 0.5)
                look: dict[str, Any] = {"color": palette[number], "marker": MARKERS[number % len(MARKERS)]}
                axes.plot([one.low, one.high], [y, y], color=palette[number], linewidth=2)
                known = axes.get_legend_handles_labels()[1]
                axes.plot(one.estimate, y, linestyle="", label="_" if name in known else name, **look)
                values = {x_label: one.estimate, "low": one.low, "high": one.high}
                chart.rows.append({"row": label, "series": name, **values})
        if reference is not None:
            axes.axvline(reference, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_yticks(range(len(rows)), [_label(row) for row in rows])
        axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        finish(chart, [axes])
    return chart


def rate_matrix(
    values: Sequence[Sequence[float]], *, rows: Sequence[str], columns: Sequence[str], x_label: str, y_label: str
) -> Chart:
    """Draw rates between 0 and 1 as a matrix with its numbers in it; NaN is a dash.

    Args:
        values: [rows, columns].
        rows: names, from the top.
        columns: names.
        x_label: what columns are.
        y_label: what rows are.
    """
    with styled():
        chart, (axes,) = frame({"": []}, x_label, y_label, "", 1)
        chart.set_size_inches(max(WIDTH, 1.6 + 0.9 * len(columns)), 1.1 + 0.45 * max(len(rows), 1))
        ink = series_colors(1)[0]
        for y, (row, numbers) in enumerate(zip(rows, values, strict=True)):
            for x, (column, value) in enumerate(zip(columns, numbers, strict=True)):
                known = not math.isnan(value)
                # The fill is one hue at different strengths, light enough for the ink on it in both schemes.
                axes.fill_between(
                    [x - 0.48, x + 0.48], y - 0.46, y + 0.46, color=ink, alpha=0.45 * value if known else 0, linewidth=0
                )
                axes.text(x, y, format_number(value, 2), ha="center", va="center", color=INK)
                chart.rows.append({y_label: row, x_label: column, "rate": value})
        axes.plot(range(len(columns)), [0] * len(columns), alpha=0)
        axes.set_xticks(range(len(columns)), [_label(column, 14) for column in columns])
        axes.set_yticks(range(len(rows)), [_label(row) for row in rows])
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
        axes.grid(visible=False)
        axes.tick_params(length=0)
        finish(chart, [axes])
    return chart


def _label(text: str, most: int = LABEL) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
