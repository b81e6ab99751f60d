import csv
import io
import json
import math
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from fionalm.errors import UserError
from fionalm.report import (
    Line,
    extrapolation,
    forest,
    lines_with_intervals,
    loss_against_lr,
    power_law,
    save_figure,
    styled,
)
from fionalm.report.style import CATEGORIES, series_colors
from fionalm.statistics import Interval

LRS = [1e-3, 1e-2, 1e-1]
LINE = Line("width 64", LRS, [3.0, 2.5, math.nan], [2.9, 2.4, math.nan], [3.1, 2.6, math.nan])


def svg_text(path):
    root = ElementTree.fromstring(path.read_text())
    return ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]


def luminance(color):
    channels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(color, other):
    bright, dark = sorted((luminance(color), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def charts():
    return {
        "lines": lambda: lines_with_intervals([LINE], x_label="step", y_label="loss", references={"limit": 2.7}),
        "panels": lambda: loss_against_lr({"a": [LINE], "b": [LINE], "c": [LINE]}, initial_loss=8.0),
        "power": lambda: power_law([LINE], x_label="n", y_label="lr", theory={"theory": -1.0}),
        "extrapolation": lambda: extrapolation(
            [LINE],
            [Line("", LRS, LRS, LRS, LRS)],
            [LINE],
            x_label="n",
            y_label="logit",
            threshold={"limit": 3.0},
        ),
        "forest": lambda: forest({"none": Interval(1.0, 0.5, 1.5)}, x_label="nats", reference=1.0),
    }


@pytest.mark.parametrize("name", charts())
def test_the_same_numbers_give_the_same_bytes_whatever_the_user_has_set(tmp_path, name):
    first = save_figure(charts()[name](), tmp_path / "a", "x", "c").read_bytes()
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "lines.linewidth": 9, "axes.grid": False}):
        second = save_figure(charts()[name](), tmp_path / "b", "x", "c").read_bytes()
    assert first == second
    assert b"<dc:date>" not in first


def test_drawing_leaves_no_global_state(tmp_path):
    before = dict(matplotlib.rcParams)
    for name, chart in charts().items():
        save_figure(chart(), tmp_path, name, "caption")
    assert dict(matplotlib.rcParams) == before
    unwanted = "{'matplotlib.pyplot', 'torch'}"
    code = f"import sys, fionalm.report.figures; sys.exit(bool({unwanted} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_report_of_saved_files_needs_neither_matplotlib_nor_torch():
    code = (
        "import sys; from fionalm.report import write_report, print_summary, measure; "
        "sys.exit(bool({'matplotlib', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_saved_figure_brings_words_and_numbers(tmp_path):
    path = save_figure(
        loss_against_lr([LINE], initial_loss=8.0),
        tmp_path,
        "loss-lr",
        "Caption.",
        title="Loss",
        alt="A",
        order=2,
    )
    assert path == tmp_path / "loss-lr.svg"
    words = json.loads(path.with_suffix(".json").read_text())
    assert words == {"title": "Loss", "caption": "Caption.", "alt": "A", "order": 2}
    rows = list(csv.DictReader(io.StringIO(path.with_suffix(".csv").read_text())))
    assert [row["learning rate"] for row in rows] == ["0.001", "0.01", "0.1"]
    assert rows[0] == {
        "series": "width 64",
        "learning rate": "0.001",
        "final loss": "3.0",
        "low": "2.9",
        "high": "3.1",
    }


def test_any_matplotlib_figure_can_be_saved_with_data_of_its_own(tmp_path):
    with styled():
        figure = Figure()
        figure.subplots().plot([1, 2], [3, 4])
    path = save_figure(figure, tmp_path, "mine", "c", [{"x": 1, "y": 3}, {"x": 2, "z": "a,b"}])
    assert path.with_suffix(".csv").read_text() == 'x,y,z\n1,3,\n2,,"a,b"\n'
    assert not save_figure(figure, tmp_path, "bare", "c").with_suffix(".csv").exists()


@pytest.mark.parametrize("name", ["../up", "Upper", "", "a b", "-a", "a.svg"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="figure name"):
        save_figure(Figure(), tmp_path, name, "c")


def test_a_place_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "figures").write_text("a file")
    with pytest.raises(UserError, match="cannot write"):
        save_figure(charts()["lines"](), tmp_path / "figures", "x", "c")


def test_text_stays_text_and_learning_rates_read_as_written(tmp_path):
    texts = svg_text(save_figure(loss_against_lr([LINE], initial_loss=8.0), tmp_path, "x", "c"))
    assert {"1e-3", "0.01", "0.1", "learning rate", "final loss", "diverged"} <= set(texts)


def test_diverged_runs_stand_on_the_line_and_the_best_is_marked():
    chart = loss_against_lr(
        [Line("a", LRS, [3.0, 2.0, 9.5]), Line("b", LRS, [2.5, math.inf, math.nan])], initial_loss=4
    )
    lines = chart.axes[0].lines
    crosses = [line for line in lines if line.get_marker() == "x"]
    assert [np.asarray(line.get_xydata()).tolist() for line in crosses] == [
        [[0.1, 3.3]],
        [[0.01, 3.3], [0.1, 3.3]],
    ]
    best = [np.asarray(line.get_xydata()).tolist() for line in lines if line.get_markersize() == 8]
    assert best == [[[0.01, 2.0]], [[0.001, 2.5]]]


def test_a_near_initial_loss_is_drawn_where_it_is(tmp_path):
    chart = loss_against_lr([Line("a", LRS, [3.0, 2.0, math.nan])], initial_loss=3.1)
    assert "initial loss" in svg_text(save_figure(chart, tmp_path, "x", "c"))


def test_the_slope_of_a_power_law_is_found():
    widths = [64, 128, 256]
    chart = power_law([Line("global", widths, [n**-0.75 for n in widths])], x_label="width", y_label="lr")
    assert chart.axes[0].get_legend_handles_labels()[1] == ["global, slope -0.75"]


@pytest.mark.parametrize(
    ("values", "scale"),
    [([], "log"), ([math.nan] * 3, "linear"), ([math.nan] * 3, "log"), ([-1.0, 0.0, -2.0], "log")],
)
def test_a_sweep_with_nothing_to_show_still_gives_figures(tmp_path, values, scale):
    line = Line("a", values, values, values, values)
    figures = [
        lines_with_intervals([line], x_label="x", y_label="y", x_scale=scale, y_scale=scale, references={"r": 1.0}),
        lines_with_intervals({"one": [line], "two": []}, x_label="x", y_label="y", x_scale=scale, y_scale=scale),
        loss_against_lr([line]),
        power_law([line], x_label="x", y_label="y", theory={"t": 1.0}),
        extrapolation([line], [line], [line], x_label="x", y_label="y", x_scale=scale, y_scale=scale),
    ]
    for index, chart in enumerate(figures):
        save_figure(chart, tmp_path, f"f{index}", "c")
    assert "no data" in svg_text(save_figure(loss_against_lr([]), tmp_path, "none", "c"))
    save_figure(forest({}, x_label="x"), tmp_path, "forest", "c")


def test_every_interval_of_a_line_needs_its_point():
    with pytest.raises(ValueError, match="different lengths"):
        Line("a", [1, 2], [1, 2], [1], [2])


def test_arrays_and_long_series_can_be_drawn(tmp_path):
    steps = np.arange(500)
    chart = lines_with_intervals([Line("a", steps, np.sqrt(steps))], x_label="step", y_label="norm")
    assert chart.axes[0].lines[0].get_marker() in ("", "None")
    save_figure(chart, tmp_path, "x", "c")


@pytest.mark.parametrize("color", [*CATEGORIES, *series_colors(9, ordered=True)])
def test_series_stand_out_on_white_and_on_the_dark_page_alike(color):
    assert contrast(color, "#ffffff") >= 3
    assert contrast(color, "#12161c") >= 3


def test_ordered_series_have_colours_of_their_own():
    assert len(set(series_colors(14, ordered=True))) == 14
