"""The claims of a run folder in the terminal: a table with colours, or plain lines for a log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fionalm.report.claims import Measured, count_verdicts
from fionalm.report.folder import Run, holds_studies, read_run, study_folders
from fionalm.report.html import REPORT_FILE
from fionalm.report.wording import clean, format_interval, format_number, format_seconds

_LOOKS = {
    "supported": ("✓", "bold green"),
    "contradicted": ("✗", "bold red"),
    "inconclusive": ("~", "yellow"),
}


def print_summary(folder: Path | str, *, console: Console | None = None) -> None:
    """Print each claim's verdict, effect and interval, the totals, and where the report lies.

    A folder of run folders is printed study by study. Off a terminal every claim is one line of plain text,
    however wide, for logs and grep.

    Raises:
        UserError: no such folder, no run in it, or a file in it that cannot be understood.
    """
    path = Path(folder)
    runs = [read_run(child) for child in (study_folders(path) if holds_studies(path) else [path])]
    console = console or Console()
    for run in runs:
        _print_run(run, console)
    everything = [entry for run in runs for entry in run.claims or ()]
    if len(runs) > 1:
        _line(console, _totals(everything, f"all {len(runs)} studies"))
    report = path / REPORT_FILE
    _line(console, Text(f"report: {report}" if report.exists() else f"no report yet: fiona report {path}"))


def _print_run(run: Run, console: Console) -> None:
    claims = list(run.claims or ())
    if run.claims is None:
        _line(console, Text(clean(f"{run.title}: no claims were measured")))
        return
    if console.is_terminal:
        console.print(_table(run, claims))
    else:
        for entry in claims:
            _line(console, Text(clean(_plain(entry)).replace("\n", " ")))
    took = "" if run.seconds is None else f", {format_seconds(run.seconds)}"
    _line(console, _totals(claims, clean(run.title) + took))


def _table(run: Run, claims: Sequence[Measured]) -> Table:
    table = Table(title=Text(clean(run.title)), box=box.ROUNDED, expand=True, show_lines=True)
    table.title_justify, table.title_style = "left", "bold"
    table.add_column("verdict", no_wrap=True)
    table.add_column("claim", ratio=3)
    table.add_column("paper", ratio=2)
    table.add_column("measured", ratio=2)
    table.add_column("supported if", ratio=2)
    for entry in claims:
        symbol, look = _LOOKS[entry.verdict]
        table.add_row(
            Text(f"{symbol} {entry.verdict}", style=look),
            Text(clean(entry.claim.claim)),
            Text(clean(entry.claim.paper)),
            Text(clean(_effect(entry))),
            Text(clean(entry.claim.criterion)),
        )
    return table


def _plain(entry: Measured) -> str:
    claim = entry.claim
    return (
        f"{entry.verdict:<12}  {claim.id}: {_effect(entry)}, supported if {claim.criterion}"
        f" (paper: {claim.paper}) {claim.claim}"
    )


def _effect(entry: Measured) -> str:
    unit = f" {entry.claim.unit}" if entry.claim.unit else ""
    interval = entry.interval
    ends = "exact" if entry.claim.exact else format_interval(interval.low, interval.high)
    return f"{format_number(interval.estimate)}{unit} {ends}"


def _totals(claims: Sequence[Measured], name: str) -> Text:
    counts = count_verdicts(claims)
    text = Text(f"{name}: ")
    for index, (verdict, count) in enumerate(counts.items()):
        text.append(", " if index else "").append(f"{count} {verdict}", style=_LOOKS[verdict][1] if count else "dim")
    return text


def _line(console: Console, text: Text) -> None:
    console.print(text, soft_wrap=True)
