"""The rows of metrics of a run: at most one a step, written when the step's loss is known to be finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fionalm.training.result import Row, plain_numbers
from fionalm.training.run_folder import RunFolder


class MetricsLog:
    """Collects what is measured at each step; keeps it in `rows`, and in the run folder if there is one."""

    def __init__(self, folder: RunFolder | None = None, rows: list[Row] | None = None) -> None:
        self.folder = folder
        self.rows: list[Row] = rows or []
        self._waiting: dict[int, Row] = {}

    def add(self, step: int, values: Mapping[str, Any] | None) -> None:
        """Add values to a step's row."""
        if values:
            self._waiting.setdefault(step, {"step": step}).update(plain_numbers(values))

    def commit(self) -> None:
        """Write the rows collected so far; the losses up to here are finite."""
        for row in self._waiting.values():
            self.rows.append(row)
            if self.folder is not None:
                self.folder.append(row)
        self._waiting.clear()

    def diverge(self, step: int) -> None:
        """Write that the loss of `step` was not finite, and drop what was measured after it."""
        self._waiting = {known: row for known, row in self._waiting.items() if known < step}
        self.add(step, {"loss": None, "diverged": True})
        self.commit()
