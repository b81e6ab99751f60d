"""A run folder as one self-contained HTML page, which opens from a disk or on a phone without a network.

The page holds no script and makes no request; a content security policy says so to the browser, in case text
that came from a model should ever slip through escaping. Everything that is not this room's own markup is
escaped.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fionalm.errors import UserError
from fionalm.paths import atomic_write_bytes
from fionalm.report.claims import VERDICTS, count_verdicts
from fionalm.report.folder import (
    Run,
    SavedFigure,
    Section,
    Table,
    flatten,
    holds_studies,
    is_run,
    read_run,
    study_folders,
)
from fionalm.report.svg import inline_figure, interval_svg
from fionalm.report.wording import clean, format_interval, format_number, format_seconds

REPORT_FILE = "report.html"
_TEMPLATES = Path(__file__).parent / "templates"
_MAX_DATA_ROWS = 200
_ONE_PANEL_POINTS = 340


@dataclass(frozen=True)
class _ShownFigure:
    name: str
    title: str
    caption: str
    svg: Markup
    width: float
    figure: SavedFigure

    @property
    def wide(self) -> bool:
        return self.width > _ONE_PANEL_POINTS

    @property
    def data_url(self) -> str:
        return "data:text/csv;charset=utf-8;base64," + base64.b64encode(self.figure.csv.encode()).decode()

    @property
    def rows(self) -> Sequence[Sequence[str]]:
        return (self.figure.rows or ())[:_MAX_DATA_ROWS]


def write_report(folder: Path | str) -> Path:
    """Write `report.html` into a run folder, from what the folder holds; return its path.

    A folder that has no claims itself but holds studies gets the combined report of `write_index`.

    Raises:
        UserError: no such folder, no run in it, or a file in it that cannot be understood.
    """
    path = Path(folder)
    return write_index(path) if holds_studies(path) else _write_run(read_run(path), has_index=False)


def write_index(folder: Path | str) -> Path:
    """Write the report over several studies, one sub folder each, and every study's own; return its path.

    The combined page holds the totals and every study's claims, and links to the studies' pages by relative
    paths, so the folder can be moved or published as it is.

    Raises:
        UserError: no such folder, no run folder in it, or a file that cannot be understood.
    """
    path = Path(folder)
    runs = [read_run(child) for child in study_folders(path)]
    if not runs:
        raise UserError(f"{path} holds no run folders: expected one sub folder a study, with claims.json in it")
    for run in runs:
        _write_run(run, has_index=True)
    whole = read_run(path) if is_run(path) else Run(path)
    seconds = whole.seconds
    known = [run.seconds for run in runs if run.seconds is not None]
    everything = [entry for run in runs for entry in run.claims or ()]
    page = (
        _environment()
        .get_template("index.html.j2")
        .render(
            title=whole.config.get("title") or "Studies",
            command=whole.command,
            seconds=seconds if seconds is not None else sum(known) if known else None,
            runs=runs,
            claims=everything,
            counts=count_verdicts(everything),
            report_file=REPORT_FILE,
        )
    )
    return _save(path / REPORT_FILE, page)


def _write_run(run: Run, *, has_index: bool) -> Path:
    figures = {figure.name: _show(figure, number) for number, figure in enumerate(run.figures)}
    sections = [(section, _named(section, figures, run)) for section in run.sections]
    placed = {figure.name for _, chosen in sections for figure in chosen}
    skipped = ("command", "title", "paper", "study")
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=run.title,
            run=run,
            paper=_paper(run.config.get("paper")),
            claims=run.claims,
            counts=count_verdicts(run.claims or ()),
            figures=[figure for name, figure in figures.items() if name not in placed],
            sections=sections,
            config=flatten({key: value for key, value in run.config.items() if key not in skipped}),
            machine=flatten({key: value for key, value in run.environment.items() if key != "command"}),
            facts=flatten({key: value for key, value in run.facts.items() if key != "seconds"}),
            has_index=has_index,
            report_file=REPORT_FILE,
            max_data_rows=_MAX_DATA_ROWS,
        )
    )
    return _save(run.path / REPORT_FILE, page)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else clean(str(value)),
    )
    environment.globals.update(style=Markup((_TEMPLATES / "report.css").read_text()), verdicts=VERDICTS)
    environment.filters.update(
        number=format_number,
        seconds=format_seconds,
        interval=lambda measured: format_interval(measured.interval.low, measured.interval.high),
        drawing=interval_svg,
        numeric_columns=_numeric_columns,
        paragraphs=lambda text: [part for part in re.split(r"\n\s*\n", str(text).strip()) if part],
    )
    environment.tests["numeric"] = _is_number
    return environment


def _show(figure: SavedFigure, number: int) -> _ShownFigure:
    title = figure.title or figure.name.replace("-", " ").capitalize()
    label = clean(figure.alt or f"{title}. {figure.caption}".strip())
    svg, width = inline_figure(figure.svg, f"figure{number}-", label)
    return _ShownFigure(figure.name, title, figure.caption, svg, width, figure)


def _named(section: Section, figures: dict[str, _ShownFigure], run: Run) -> list[_ShownFigure]:
    missing = [name for name in section.figures if name not in figures]
    if missing:
        known = ", ".join(figures) or "none"
        raise UserError(f"section {section.title!r} of {run.path} names figure {missing[0]!r}: there are {known}")
    return [figures[name] for name in section.figures]


def _paper(paper: Any) -> dict[str, str]:
    """Return title, authors, year and url of the config's `paper`: a mapping, or one line of text."""
    given = paper if isinstance(paper, dict) else {"title": paper or ""}
    words = {key: str(given.get(key) or "") for key in ("title", "authors", "year", "url")}
    if not re.match(r"https?://", words["url"]):
        # A link is followed by a click: never javascript: or file:.
        named = re.search(r"\barXiv[ :](\d{4}\.\d{4,5})\b", words["title"])
        words["url"] = f"https://arxiv.org/abs/{named[1]}" if named else ""
    return words


def _numeric_columns(table: Table) -> list[bool]:
    """Tell of each column whether it holds numbers only, some of which may be missing."""
    columns = [[row[index] for row in table.rows] for index in range(len(table.columns))]
    return [
        any(_is_number(cell) for cell in cells) and all(cell is None or _is_number(cell) for cell in cells)
        for cells in columns
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _save(path: Path, page: str) -> Path:
    atomic_write_bytes(path, page.encode("utf-8", errors="replace"))
    return path
