"""The folder of a run: its configuration, its environment, its metrics; opened anew or resumed.

A folder belongs to one configuration for good, and to one process at a time. Every file but `metrics.jsonl` is
written whole or not at all; a row of metrics that a kill tore is dropped when the folder is opened again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fionalm.errors import UserError
from fionalm.paths import atomic_write_text, write_error
from fionalm.training.result import plain_numbers


class RunFolder:
    """An open run folder. Use `RunFolder.open`, and `close` it, or use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = _lock(path)
        self._metrics: Any = None
        self._made: list[Path] | None = None
        """If this opening began the run: the folders that it made for it, deepest first."""

    @classmethod
    def open(cls, path: str | Path, config: Mapping[str, Any]) -> RunFolder:
        """Create the folder for `config`, or resume the one that has it.

        Args:
            path: the folder; made if absent.
            config: JSON values, kept in config.json.

        Raises:
            UserError: the folder is of another configuration, in use, or cannot be written.
        """
        path = Path(path)
        absent = [folder for folder in (path, *path.parents) if not folder.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(path, error) from error
        folder = cls(path)
        try:
            known = folder.read_json("config.json")
            if known is None:
                if folder.metrics_path.exists():
                    raise UserError(f"{path} has a metrics.jsonl but no config.json: expected a new or a run's folder")
                folder.write_json("config.json", config)
                folder._made = absent
            elif changed := _differences(known, json.loads(json.dumps(config))):
                raise UserError(
                    f"{path} is the folder of another run, whose {changed[0]}"
                    f"{f' (and {len(changed) - 1} more differ)' if len(changed) > 1 else ''}: "
                    f"expected the same configuration, or another folder"
                )
        except BaseException:
            folder.close()
            raise
        return folder

    @property
    def metrics_path(self) -> Path:
        """Where the metrics are: one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row to the metrics, in the file before this returns; numbers that are not finite become null."""
        try:
            if self._metrics is None:
                self._metrics = self.metrics_path.open("a", encoding="utf-8")
            self._metrics.write(json.dumps(plain_numbers(row), allow_nan=False) + "\n")
            self._metrics.flush()
        except OSError as error:
            raise write_error(self.metrics_path, error) from error

    def sync(self) -> None:
        """Force the metrics onto the disk, so that a checkpoint never outlives the rows before it."""
        if self._metrics is not None:
            try:
                os.fsync(self._metrics.fileno())
            except OSError as error:
                raise write_error(self.metrics_path, error) from error

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of metrics, up to a torn one."""
        if not self.metrics_path.exists():
            return
        with self.metrics_path.open(encoding="utf-8") as lines:
            for line in lines:
                if not line.endswith("\n"):
                    return
                yield json.loads(line)

    def truncate(self, step: int) -> list[dict[str, Any]]:
        """Drop the rows of `step` and later, which a resumed run writes again; return those that stay."""
        self._close_metrics()
        kept = [row for row in self.rows() if row["step"] < step]
        if self.metrics_path.exists():
            atomic_write_text(self.metrics_path, "".join(json.dumps(row) + "\n" for row in kept))
        return kept

    def read_json(self, name: str) -> Any:
        """Return a file's value, or None if there is no such file."""
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path}: {error}; expected JSON") from error

    def write_json(self, name: str, value: Any) -> None:
        """Write a file whole, numbers that are not finite as null."""
        text = json.dumps(plain_numbers(value), indent=2, allow_nan=False) + "\n"
        atomic_write_text(self.path / name, text)

    def close(self) -> None:
        """Close the metrics and let other processes have the folder."""
        self._close_metrics()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()
        if kind is not None and issubclass(kind, UserError) and self._made is not None:
            self._take_back(self._made)

    def _take_back(self, made: list[Path]) -> None:
        """Remove a run that a mistake ended before it had anything to keep: the mended one may have the folder."""
        begun = {"config.json", "environment.json"}
        with contextlib.suppress(OSError):
            if {entry.name for entry in self.path.iterdir()} <= begun:
                for name in begun:
                    (self.path / name).unlink(missing_ok=True)
                for folder in made:
                    folder.rmdir()

    def _close_metrics(self) -> None:
        if self._metrics is not None:
            # A row that a full disk refused stays in the buffer, and closing tries it again.
            with contextlib.suppress(OSError):
                self._metrics.close()
            self._metrics = None


def _lock(path: Path) -> int | None:
    """Hold the folder until the returned descriptor is closed, or the process dies."""
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(f"another process is writing to {path}: expected a folder that is not in use") from None
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None
    return descriptor


def _differences(known: Any, given: Any, where: str = "") -> list[str]:
    """Describe every leaf in which two JSON values differ."""
    if isinstance(known, dict) and isinstance(given, dict):
        found = []
        for key in dict.fromkeys((*known, *given)):
            found += _differences(known.get(key), given.get(key), f"{where}.{key}" if where else key)
        return found
    return [] if known == given else [f"{where} is {known!r} and not {given!r}"]
