"""Progress of anything that takes over two seconds: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LOG_INTERVAL_SECONDS = 10.0


class Progress:
    """What `progress` yields: call `advance` as work is done."""

    def advance(self, amount: float = 1, **info: Any) -> None:
        """Count `amount` of work done; `info` is shown beside the rate, such as `loss=2.31`."""


@contextmanager
def progress(total: float, description: str, unit: str = "it", *, quiet: bool = False) -> Iterator[Progress]:
    """Show rate and time left for `total` units of work, on standard error."""
    if quiet:
        yield Progress()
    elif sys.stderr.isatty():
        with _bar(total, description, unit) as bar:
            yield bar
    else:
        lines = _Lines(total, description, unit)
        yield lines
        lines.report()


@contextmanager
def _bar(total: float, description: str, unit: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{{task.fields[rate]}} {unit}/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[info]}"),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as rich:
        task = rich.add_task(description, total=total, rate="-", info="")

        class Bar(Progress):
            def advance(self, amount: float = 1, **info: Any) -> None:
                speed = rich.tasks[0].speed
                rich.update(task, advance=amount, rate="-" if speed is None else f"{speed:,.3g}", info=_format(info))

        yield Bar()


class _Lines(Progress):
    def __init__(self, total: float, description: str, unit: str) -> None:
        self.total, self.description, self.unit = total, description, unit
        self.done = 0.0
        self.started = self.reported = time.monotonic()
        self.info: dict[str, Any] = {}

    def advance(self, amount: float = 1, **info: Any) -> None:
        self.done += amount
        self.info = info or self.info
        if time.monotonic() - self.reported >= LOG_INTERVAL_SECONDS:
            self.report()

    def report(self) -> None:
        self.reported = time.monotonic()
        seconds = self.reported - self.started
        rate = self.done / seconds if seconds > 0 else 0.0
        left = (self.total - self.done) / rate if rate > 0 else float("inf")
        line = f"{self.description}: {self.done:g}/{self.total:g} {self.unit}, {rate:.3g} {self.unit}/s"
        line += f", {seconds:.0f} s" + (f", {left:.0f} s left" if self.done < self.total else "")
        print(f"{line} {_format(self.info)}".rstrip(), file=sys.stderr, flush=True)


def _format(info: dict[str, Any]) -> str:
    return " ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in info.items()
    )
