"""The look that every figure shares, and saving one so that the same numbers give the same bytes.

Figures are vector files with real text. Their inks are exact colours from `INKS`, so that a report can swap
them for those of the reader's light or dark scheme; series colours have 3:1 contrast on white and on
near-black alike. Colour never carries meaning alone: every series has its own marker, and ordered ones
(widths) grow warmer along the one hue axis that all colour-blind readers see, blue to orange.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import style as matplotlib_style
from matplotlib.figure import Figure

from fionalm.paths import atomic_write_bytes, atomic_write_text
from fionalm.report.svg import INKS
from fionalm.report.wording import clean

INK, MUTED, GRID, PAPER = (INKS[name] for name in ("ink", "muted", "grid", "paper"))
CATEGORIES = ("#2a78d6", "#d55e00", "#0f9d74", "#a95fc4", "#7d8590", "#c2497a", "#8a7a10")
ORDINAL_ENDS = ("#3f5fd0", "#9a63b8", "#d0566f", "#d9730d")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

WIDTH, HEIGHT = 4.5, 3.2  # inches of one panel: 324 points, so that 10 point text stays 10 pixels on a phone
_STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "lines.linewidth": 1.7,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.2,
    "figure.facecolor": PAPER,
    "savefig.facecolor": "auto",
    "svg.fonttype": "none",  # nothing collides: fonts that browsers put in DejaVu's place are narrower
    "svg.hashsalt": "fiona",
    "path.simplify": True,
}


class Chart(Figure):
    """A matplotlib figure that carries the numbers it plots: `rows`, one dict a point."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rows: list[dict[str, Any]] = []


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the shared style, whatever the user's matplotlibrc says; the global state comes back."""
    with matplotlib_style.context(["default", _STYLE]):
        yield


def series_colors(count: int, *, ordered: bool = False) -> list[str]:
    """Return `count` colours: distinct categories, or a blue-to-orange scale for ordered series."""
    if not ordered:
        return [CATEGORIES[index % len(CATEGORIES)] for index in range(count)]
    stops = [tuple(int(color[start : start + 2], 16) for start in (1, 3, 5)) for color in ORDINAL_ENDS]
    colors = []
    for index in range(count):
        position = index / max(count - 1, 1) * (len(stops) - 1)
        left = min(int(position), len(stops) - 2)
        mixed = [a + (b - a) * (position - left) for a, b in zip(stops[left], stops[left + 1], strict=True)]
        colors.append("#" + "".join(f"{round(channel):02x}" for channel in mixed))
    return colors


def save_figure(
    figure: Figure,
    folder: Path | str,
    name: str,
    caption: str,
    data: Sequence[Mapping[str, Any]] | None = None,
    *,
    title: str = "",
    alt: str = "",
    order: int = 0,
) -> Path:
    """Write `NAME.svg`, its words and its numbers into a run's `figures` folder; return the path of the SVG.

    Args:
        figure: any matplotlib figure, or a `Chart`, which brings its data.
        folder: `RUN/figures`.
        name: file name without ending: lower case letters, digits and hyphens.
        caption: what the figure shows and how to read it, one to three sentences.
        data: the plotted numbers, one mapping a point, written as `NAME.csv`; a chart's own if None.
        title: heading in the report; made from the name if empty.
        alt: the figure in one sentence for those who cannot see it; the title and caption if empty.
        order: place in the report, lowest first, then by name.

    Raises:
        ValueError: a name that is not such a name.
        UserError: the folder cannot be written.
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(f"figure name {name!r} must be lower case letters, digits and hyphens")
    target = Path(folder) / name
    buffer = io.BytesIO()
    with styled():  # the SVG writer reads its salt and font handling when it saves
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    atomic_write_bytes(target.with_suffix(".svg"), buffer.getvalue())
    words = {"title": title, "caption": caption, "alt": alt, "order": order}
    atomic_write_text(target.with_suffix(".json"), json.dumps(words, indent=2) + "\n")
    rows = data if data is not None else getattr(figure, "rows", None)
    if rows:
        atomic_write_text(target.with_suffix(".csv"), _to_csv(rows))
    return target.with_suffix(".svg")


def _to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return clean(buffer.getvalue())
