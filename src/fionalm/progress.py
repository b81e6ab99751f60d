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

    def advance(self, count: float = 1, *, work: float | None = None, **info: Any) -> None:
        """Count `count` units as done, which were `work` of all work; `info` is shown beside, such as `loss=2.31`."""


@contextmanager
def progress(
    total: float, description: str, unit: str = "it", *, work: float | None = None, quiet: bool = False
) -> Iterator[Progress]:
    """Show rate and time left for `total` units, on standard error.

    Args:
        total: number of units.
        description: what is being done.
        unit: name of a unit.
        work: all work where units differ in theirs: the time left then goes by it. None: a unit is 1.
        quiet: show nothing.
    """
    everything = total if work is None else work
    if quiet:
        yield Progress()
    elif sys.stderr.isatty():
        with _bar(total, everything, description, unit) as bar:
            yield bar
    else:
        lines = _Lines(total, everything, description, unit)
        yield lines
        lines.report()


@contextmanager
def _bar(total: float, work: float, description: str, unit: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn(f"{{task.fields[count]}}/{_amount(total)} {unit}, {{task.fields[rate]}}/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[info]}"),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as rich:
        task = rich.add_task(description, total=work, count="0", rate="-", info="")
        started = time.monotonic()

        class Bar(Progress):
            count = 0.0

            def advance(self, count: float = 1, *, work: float | None = None, **info: Any) -> None:
                self.count += count
                rate = self.count / max(time.monotonic() - started, 1e-9)
                advance = count if work is None else work
                rich.update(task, advance=advance, count=_amount(self.count), rate=f"{rate:,.3g}", info=_format(info))

        yield Bar()


class _Lines(Progress):
    def __init__(self, total: float, work: float, description: str, unit: str) -> None:
        self.total, self.work, self.description, self.unit = total, work, description, unit
        self.count = self.done = 0.0
        self.started = self.reported = time.monotonic()
        self.info: dict[str, Any] = {}

    def advance(self, count: float = 1, *, work: float | None = None, **info: Any) -> None:
        self.count += count
        self.done += count if work is None else work
        self.info = info or self.info
        if time.monotonic() - self.reported >= LOG_INTERVAL_SECONDS:
            self.report()

    def report(self) -> None:
        self.reported = time.monotonic()
        seconds = self.reported - self.started
        rate = self.count / seconds if seconds > 0 else 0.0
        line = f"{self.description}: {_amount(self.count)}/{_amount(self.total)} {self.unit}"
        line += f", {rate:.3g}/s, {seconds:.0f} s"
        if 0 < self.done < self.work:
            line += f", {(self.work - self.done) / self.done * seconds:.0f} s left"
        print(f"{line} {_format(self.info)}".rstrip(), file=sys.stderr, flush=True)


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"


def _format(info: dict[str, Any]) -> str:
    return " ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in info.items()
    )
