"""Where a diagnosis goes: a run folder with its numbers, figures and report, and lines in the terminal."""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fionalm.report import Chart, Section
    from fionalm.training import RunFolder

RESULT_FILE = "result.json"


@dataclass
class Diagnosis:
    """A run folder that is being filled."""

    folder: RunFolder
    started: float = field(default_factory=time.monotonic)

    def finish(
        self, result: Mapping[str, Any], charts: Mapping[str, tuple[Chart, str]], sections: Sequence[Section]
    ) -> None:
        """Write numbers, figures and the report, and print where they are: the last line names the first figure.

        Args:
            result: JSON values; numbers that are not finite become null.
            charts: figure and caption by file name.
            sections: of the report, tables among them.
        """
        from fionalm.report import save_figure, write_report, write_run_facts, write_sections
        from fionalm.report.folder import FIGURES_FOLDER

        path = self.folder.path
        self.folder.write_json(RESULT_FILE, result)
        figures = [
            save_figure(chart, path / FIGURES_FOLDER, name, caption, order=order)
            for order, (name, (chart, caption)) in enumerate(charts.items())
        ]
        write_sections(path, sections)
        write_run_facts(path, seconds=time.monotonic() - self.started)
        report = write_report(path)
        print(f"numbers: {(path / RESULT_FILE).resolve()}")
        print(f"report: {report.resolve()}")
        print(f"figure: {figures[0].resolve()}")


@contextmanager
def diagnosis(out: Path, title: str, settings: Mapping[str, Any]) -> Iterator[Diagnosis]:
    """Open the run folder `out` for a diagnosis with these settings, or resume the one that has them.

    Raises:
        UserError: the folder is of other settings, or cannot be written.
    """
    from fionalm.training import RunFolder, environment

    with RunFolder.open(out, {"title": title, **settings}) as folder:
        command = shlex.join(["fiona", *sys.argv[1:]])
        folder.write_json("environment.json", {**environment(), "command": command})
        yield Diagnosis(folder)


def columns(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table as aligned lines: numbers to the right, words to the left, nothing cut."""
    cells = [list(names), *([number(cell) for cell in row] for row in rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(names))]
    right = [any(isinstance(row[index], int | float) for row in rows) for index in range(len(names))]
    lines = [
        "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join(lines)


def number(value: Any) -> str:
    """Write a cell of a table: three significant digits, a dash for what is not known."""
    from fionalm.report.wording import format_number

    return "-" if value is None or (isinstance(value, float) and math.isnan(value)) else format_number(value)
