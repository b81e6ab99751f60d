"""What the methods of `fiona finetune` are given, and what they leave behind. Imports no torch."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fionalm.commands.problems import DataOptions, Row
from fionalm.commands.verifying import VerifierOptions
from fionalm.errors import UserError

if TYPE_CHECKING:
    from fionalm.posttraining.preflight import Preflight

Name = tyro.conf.arg(metavar="NAME")
Count = tyro.conf.arg(metavar="N")

Model = Annotated[str, tyro.conf.arg(metavar="MODEL", help="A model or run folder, a .gguf file, hf:NAME or smollm2.")]
Data = Annotated[
    str,
    tyro.conf.arg(metavar="DATA", help="A .jsonl, .json, .csv or .parquet file, a folder, or hf:NAME[:CONFIG]."),
]
Out = Annotated[
    Path | None,
    tyro.conf.arg(metavar="DIR", help="Run folder; the same command resumes a stopped run and reads a finished one."),
]

PANELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "loss": ("loss (nats)", ("loss", "validation_loss", "validation/loss")),
    "reward": ("reward", ("reward", "validation", "validation_reward", "validation/pass@1")),
    "accuracy": ("share ranked right", ("accuracy", "validation/accuracy")),
    "margin": ("implicit reward margin", ("reward_margin", "validation/reward_margin")),
    "kl": ("KL from the start (nats)", ("kl",)),
}
"""Figures of a run, by file name: y label and the metrics shown, as far as the run has them."""


@dataclass(frozen=True, kw_only=True)
class RowOptions(DataOptions):
    """Which rows, and how the model reads them."""

    validation: Annotated[str | None, tyro.conf.arg(metavar="DATA")] = None
    """Rows that are not learnt from: another dataset, or a share of DATA, such as 0.05."""
    validation_limit: Annotated[int | None, Count] = None
    """Validation rows at most. None: all."""
    preflight_only: bool = False
    """Show what would be done, and stop."""
    device: Annotated[str | None, Name] = None
    """cpu or cuda. None: a GPU if there is one."""
    quiet: bool = False
    """Show no preflight and no progress."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.validation_limit is not None and self.validation_limit < 1:
            raise UserError(f"--validation-limit {self.validation_limit}: expected at least 1")
        if self.validation is not None:
            _share(self.validation)

    def read(self, data: str, need: Sequence[str], optional: Sequence[str] = ()) -> tuple[list[Row], list[Row]]:
        """Return the rows to learn from, and those to validate on.

        Raises:
            UserError: as `read_rows`, or a share that leaves no row.
        """
        rows = self.rows(data, need, optional, limit=self.limit)
        if self.validation is None:
            return rows, []
        share = _share(self.validation)
        if share is None:
            return rows, self.rows(self.validation, need, optional, limit=self.validation_limit)
        count = min(max(1, round(share * len(rows))), self.validation_limit or len(rows))
        if count >= len(rows):
            raise UserError(f"--validation {self.validation} of {len(rows)} rows leaves none to learn from")
        chosen = set(random.Random(0).sample(range(len(rows)), count))
        return [row for i, row in enumerate(rows) if i not in chosen], [rows[i] for i in sorted(chosen)]


@dataclass(frozen=True, kw_only=True)
class ProblemOptions(RowOptions, VerifierOptions):
    """Rows with a problem and what its solutions are judged by."""

    verifier: Annotated[str, Name] = field()  # pyright: ignore
    """math, number, exact, code, or python:path/to/file.py:function."""
    reward_model: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Run folder of fiona finetune reward, which selects among samples (bon-rl-v, bon-sft)."""

    def need(self, *also: str) -> tuple[str, ...]:
        """Return the columns that the verifier reads, and others."""
        read = {"math": ("answer",), "number": ("answer",), "exact": ("answer",), "code": ("tests",)}
        return ("prompt", *read.get(self.verifier, ()), *also)


@dataclass
class Ending:
    """What a finished run leaves: figures, a report, and lines that say where everything is."""

    out: Path
    before: Preflight
    started: float = field(default_factory=time.monotonic)

    def tell(self, title: str, sentence: str) -> None:
        """Write figures and report, and print where model, samples, report and figure are."""
        if not is_main():
            return
        from fionalm.report import Section, save_figure, write_report, write_run_facts, write_sections
        from fionalm.report.folder import FIGURES_FOLDER

        rows = _metrics(self.out)
        figures = [
            save_figure(chart, self.out / FIGURES_FOLDER, name, caption, order=order)
            for order, (name, chart, caption) in enumerate(_charts(rows, title))
        ]
        write_sections(self.out, [Section("Before it began", self.before.text())])
        write_run_facts(self.out, seconds=time.monotonic() - self.started)
        report = write_report(self.out)
        print(sentence)
        print(f"model: {(self.out / 'model').resolve()}")
        for name in ("samples.jsonl", "samples"):
            if (self.out / name).exists():
                print(f"samples: {(self.out / name).resolve()}")
        print(f"report: {report.resolve()}")
        if figures:
            print(f"figure: {figures[0].resolve()}")


def is_main() -> bool:
    """Tell whether this process is the first, or the only one, of a run."""
    return os.environ.get("RANK", "0") == "0"


def _share(text: str) -> float | None:
    try:
        share = float(text)
    except ValueError:
        return None
    if not 0 < share < 1:
        raise UserError(f"--validation {text}: expected a share between 0 and 1, or a dataset")
    return share


def _metrics(out: Path) -> list[Row]:
    import json

    path = out / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _charts(rows: Sequence[Mapping[str, Any]], title: str) -> list[tuple[str, Any, str]]:
    from fionalm.report import Line, lines_with_intervals

    charts = []
    rewarded = any("reward" in row or "validation_reward" in row for row in rows)
    # Where rewards are learnt from, the loss of samples that change says little.
    order = sorted(PANELS, key=lambda name: name != "reward") if rewarded else list(PANELS)
    for name in order:
        label, metrics = PANELS[name]
        lines = []
        for metric in metrics:
            points = [(row["step"], row[metric]) for row in rows if isinstance(row.get(metric), int | float)]
            if points:
                steps, values = zip(*points, strict=True)
                dense = len(points) > 1 and len(points) * 2 > len(rows)
                lines.append(Line(metric.replace("_", " "), steps, values, style="line" if dense else "points"))
        if lines:
            charts.append((name, lines_with_intervals(lines, x_label="step", y_label=label), f"{title}: {label}."))
    return charts
