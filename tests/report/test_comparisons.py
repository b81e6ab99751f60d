"""Figures that compare conditions."""

from __future__ import annotations

import math
from pathlib import Path

from fionalm.report import grouped_forest, rate_matrix, save_figure
from fionalm.statistics import wilson


def test_intervals_of_several_series(tmp_path: Path) -> None:
    rows = {
        "invented rules": {"attack": wilson(1, 4), "control": wilson(3, 4)},
        "a name that is much too long for the room that a figure has " * 3: {"attack": wilson(2, 4)},
        "not asked": {"attack": wilson(0, 0)},
    }
    chart = grouped_forest(rows, x_label="share")
    assert [(row["series"], row["share"]) for row in chart.rows] == [
        ("attack", 0.25),
        ("control", 0.75),
        ("attack", 0.5),
    ]
    assert save_figure(chart, tmp_path, "forest", "Rates.").stat().st_size > 1000
    save_figure(grouped_forest({}, x_label="share"), tmp_path, "empty", "Nothing.")


def test_a_matrix_of_rates(tmp_path: Path) -> None:
    chart = rate_matrix(
        [[0.5, math.nan], [1.0, 0.0]],
        rows=["pirs", "x" * 80],
        columns=["a", "y" * 80],
        x_label="model",
        y_label="attacks",
    )
    assert next(row["rate"] for row in chart.rows if row["attacks"] == "pirs") == 0.5 and len(chart.rows) == 4
    text = save_figure(chart, tmp_path, "matrix", "Transfer.").read_text()
    assert "0.5" in text and "–" in text
