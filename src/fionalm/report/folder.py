"""The files of a run folder that a report reads, and the ones that only a report needs.

Read: `config.json`, `environment.json`, `run.json`, `claims.json`, `sections.json`, `figures/*.svg` with
`NAME.json` (title, caption, alternative text) and `NAME.csv` (the plotted numbers) beside each. All but one
of config and claims may be missing: a command that measures no claims has a report too.
"""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fionalm.errors import UserError
from fionalm.paths import atomic_write_text
from fionalm.report.claims import CLAIMS_FILE, Measured, read_claims
from fionalm.report.wording import clean

FIGURES_FOLDER = "figures"


@dataclass(frozen=True)
class Table:
    """A table of a section: cells are numbers, strings, booleans or None."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    folded: bool = False
    """Show the caption alone until a reader opens it: for long ones."""


@dataclass(frozen=True)
class Section:
    """A part of a report below the claims: plain text (blank lines part paragraphs), tables, figures."""

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    figures: Sequence[str] = ()


@dataclass(frozen=True)
class SavedFigure:
    """A figure of a run folder: its file, words and plotted numbers (`rows` is None if none were saved)."""

    name: str
    svg: Path
    title: str = ""
    caption: str = ""
    alt: str = ""
    order: int = 0
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] | None = None
    csv: str = ""


@dataclass(frozen=True)
class Run:
    """A run folder as read from disk; `claims` is None where none were measured."""

    path: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    claims: Sequence[Measured] | None = None
    sections: Sequence[Section] = ()
    figures: Sequence[SavedFigure] = ()

    @property
    def title(self) -> str:
        """Return the name to show: config's `title` or `study`, else the folder's own."""
        return str(self.config.get("title") or self.config.get("study") or self.path.resolve().name)

    @property
    def command(self) -> str:
        """Return the command that repeats this run, from config or environment; empty if neither holds it."""
        command = self.config.get("command") or self.environment.get("command") or ""
        return shlex.join(str(part) for part in command) if isinstance(command, list) else str(command)

    @property
    def seeds(self) -> int | None:
        """Return the number of seeds, from the config or the study's own part of it, `config`."""
        inner = self.config.get("config")
        seeds = self.config.get("seeds", inner.get("seeds") if isinstance(inner, dict) else None)
        return seeds if isinstance(seeds, int) and not isinstance(seeds, bool) else None

    @property
    def seconds(self) -> float | None:
        """Return the wall time, or None if `run.json` holds none."""
        seconds = self.facts.get("seconds")
        return float(seconds) if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) else None


def read_run(folder: Path | str) -> Run:
    """Read a run folder.

    Raises:
        UserError: no such folder, neither config nor claims in it, or a file that cannot be understood.
    """
    path = Path(folder)
    if not path.is_dir():
        raise UserError(f"{path} is not a folder: expected a run folder, the --out of an earlier command")
    if not is_run(path):
        raise UserError(f"{path} is not a run folder: it holds neither config.json nor {CLAIMS_FILE}")
    return Run(
        path=path,
        config=_read_object(path / "config.json"),
        environment=_read_object(path / "environment.json"),
        facts=_read_object(path / "run.json"),
        claims=read_claims(path) if (path / CLAIMS_FILE).exists() else None,
        sections=_read_sections(path / "sections.json"),
        figures=_read_figures(path / FIGURES_FOLDER),
    )


def is_run(folder: Path) -> bool:
    """Tell whether a folder is that of a run."""
    return (folder / "config.json").is_file() or (folder / CLAIMS_FILE).is_file()


def study_folders(folder: Path | str) -> list[Path]:
    """Return the run folders directly below `folder`, by name: what `fiona reproduce all` leaves."""
    path = Path(folder)
    return sorted(child for child in path.iterdir() if child.is_dir() and is_run(child)) if path.is_dir() else []


def holds_studies(folder: Path | str) -> bool:
    """Tell whether a folder is one of several studies: no claims of its own, but claims in a folder below."""
    if (Path(folder) / CLAIMS_FILE).exists():
        return False
    return any((child / CLAIMS_FILE).exists() for child in study_folders(folder))


def write_sections(folder: Path | str, sections: Sequence[Section]) -> Path:
    """Write `sections.json` into a run folder and return its path."""
    path = Path(folder) / "sections.json"
    atomic_write_text(path, json.dumps([asdict(section) for section in sections], indent=2) + "\n")
    return path


def write_run_facts(folder: Path | str, *, seconds: float, **facts: Any) -> Path:
    """Write `run.json`: wall time and what else is known only once a run has ended, such as `trials=84`."""
    path = Path(folder) / "run.json"
    atomic_write_text(path, json.dumps({"seconds": seconds, **facts}, indent=2) + "\n")
    return path


def flatten(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return a nested config as `(dotted.name, leaf)` pairs; a list of plain values is one leaf."""
    if isinstance(value, Mapping) and (value or not prefix):
        return [
            pair for key, item in value.items() for pair in flatten(item, f"{prefix}.{key}" if prefix else str(key))
        ]
    if isinstance(value, list) and any(isinstance(item, (Mapping, list)) for item in value):
        return [pair for index, item in enumerate(value) for pair in flatten(item, f"{prefix}[{index}]")]
    if isinstance(value, (list, Mapping)):
        value = ", ".join(str(item) for item in value) or "none"
    return [(prefix, value)]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error


def _read_object(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    value = _read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path} should hold a JSON object, not {type(value).__name__}")
    return value


def _read_sections(path: Path) -> list[Section]:
    if not path.exists():
        return []
    try:
        return [_section(**entry) for entry in _read_json(path)]
    except TypeError as error:
        raise UserError(f"{path} should hold a list of sections: {error}") from error


def _section(title: str, text: str = "", tables: Sequence[Any] = (), figures: Sequence[str] = ()) -> Section:
    return Section(str(title), str(text), [_table(**table) for table in tables], [str(name) for name in figures])


def _table(columns: Sequence[Any], rows: Sequence[Any], caption: str = "", folded: bool = False) -> Table:
    if any(len(row) != len(columns) for row in rows):
        raise TypeError(f"every row of a table needs its {len(columns)} cells")
    return Table([str(column) for column in columns], [list(row) for row in rows], str(caption), bool(folded))


def _read_figures(folder: Path) -> list[SavedFigure]:
    figures = [_read_figure(path) for path in folder.glob("*.svg")]
    return sorted(figures, key=lambda figure: (figure.order, figure.name))


def _read_figure(svg: Path) -> SavedFigure:
    words = _read_object(svg.with_suffix(".json"))
    title, caption, alt = (str(words.get(key, "")) for key in ("title", "caption", "alt"))
    order = words.get("order", 0)
    if not isinstance(order, int):
        raise UserError(f"{svg.with_suffix('.json')}: order should be a whole number, not {order!r}")
    table = svg.with_suffix(".csv")
    text = ""
    rows: list[list[str]] = []
    if table.exists():
        try:
            text = clean(table.read_text(encoding="utf-8"))
            rows = list(csv.reader(io.StringIO(text), strict=True))
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(f"cannot read {table}: {error}") from error
    return SavedFigure(
        svg.stem, svg, title, caption, alt, order, rows[0] if rows else (), rows[1:] if rows else None, text
    )
