"""Finished trials on disk: one JSON file each, shared by every study and every process of a user.

A file is written whole or not at all, so a kill at any moment loses only the trials that were running.
NaN and infinite losses are kept as such, in the way of Python's `json` (`NaN`, `Infinity`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fionalm.errors import UserError
from fionalm.paths import atomic_write_text, home
from fionalm.sweeps.trial import TRIAL_VERSION, Trial, TrialOutcome


class TrialStore:
    """Outcomes by trial, in `folder/HASH[:2]/HASH.json`; default folder `home()/trials`.

    A file that is damaged, or that holds another trial than its name says, counts as missing.
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        self.folder = home() / "trials" if folder is None else Path(folder).expanduser()

    def path(self, trial: Trial) -> Path:
        """Return where the outcome of `trial` is, or would be, kept."""
        return self.folder / trial.hash[:2] / f"{trial.hash}.json"

    def get(self, trial: Trial) -> TrialOutcome | None:
        """Return the outcome of `trial`, finished or crashed, or None if it has none yet."""
        outcome = _read(self.path(trial))
        if outcome is None or outcome.trial != trial:
            return None
        return TrialOutcome(trial, outcome.status, outcome.result, outcome.error, seconds=outcome.seconds, cached=True)

    def put(self, trial: Trial, result: dict[str, Any], *, seconds: float = 0.0) -> TrialOutcome:
        """Keep the result of a finished trial.

        Raises:
            UserError: the folder cannot be written or the disk is full.
        """
        return self._write(TrialOutcome(trial, "finished", result, None, seconds))

    def put_crashed(self, trial: Trial, error: str, *, seconds: float = 0.0) -> TrialOutcome:
        """Keep that a trial crashed, with what is known of why; a finished outcome is never replaced.

        Raises:
            UserError: the folder cannot be written or the disk is full.
        """
        outcome = TrialOutcome(trial, "crashed", None, error, seconds)
        earlier = self.get(trial)
        return outcome if earlier is not None and earlier.status == "finished" else self._write(outcome)

    def failed(self) -> Iterator[TrialOutcome]:
        """Yield the crashed outcomes."""
        return (outcome for outcome in self if outcome.status == "crashed")

    def __iter__(self) -> Iterator[TrialOutcome]:
        for path in sorted(self.folder.glob("??/*.json")):
            outcome = _read(path)
            if outcome is not None and outcome.trial.hash == path.stem:
                yield outcome

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _write(self, outcome: TrialOutcome) -> TrialOutcome:
        record = {
            "version": TRIAL_VERSION,
            "function": outcome.trial.function,
            "config": outcome.trial.config,
            "status": outcome.status,
            "result": outcome.result,
            "error": outcome.error,
            "seconds": outcome.seconds,
        }
        atomic_write_text(self.path(outcome.trial), json.dumps(record) + "\n")
        return outcome


def _read(path: Path) -> TrialOutcome | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        trial = Trial(record["function"], record["config"])
        result, error = record["result"], record["error"]
        seconds = float(record["seconds"])
        if record["status"] == "finished" and isinstance(result, dict):
            return TrialOutcome(trial, "finished", result, None, seconds, cached=True)
        if record["status"] == "crashed" and isinstance(error, str):
            return TrialOutcome(trial, "crashed", None, error, seconds, cached=True)
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None  # whatever is wrong with the file, running the trial again is the remedy
    return None
