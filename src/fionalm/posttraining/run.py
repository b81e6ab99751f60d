"""A method's run folder as all its processes see it: the main one writes, every one learns what there is.

with open_run(out, {"method": "sft", **to_plain(config)}, world) as run:
if run.result is None:
...
run.finish({"loss": 1.2})
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fionalm.training.distributed import World
from fionalm.training.environment import environment
from fionalm.training.run_folder import RunFolder

RESULT_FILE = "result.json"
SAMPLES_FILE = "samples.jsonl"
MODEL_FOLDER = "model"


class Run:
    """An open run; see `open_run`.

    Attributes:
        path: the folder; None: nothing is written.
        result: what a finished run came to; None: it is not finished.
        rows: metrics so far.
    """

    def __init__(
        self,
        path: Path | None,
        world: World,
        folder: RunFolder | None = None,
        result: Any = None,
        rows: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.path, self.world, self.result = path, world, result
        self.rows = list(rows)
        self._folder = folder

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row of metrics, which has a `step`; it is in the file before this returns."""
        self.rows.append(dict(row))
        if self._folder is not None:
            self._folder.append(row)

    def truncate(self, step: int) -> None:
        """Drop the rows of `step` and later, which a resumed run writes again."""
        self.rows = [row for row in self.rows if row["step"] < step]
        if self._folder is not None:
            self._folder.truncate(step)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the result, which marks the run as finished; every process calls this."""
        self.result = dict(result)
        self.world.on_main(lambda: self._folder and self._folder.write_json(RESULT_FILE, result))


@contextmanager
def open_run(out: str | Path | None, settings: Mapping[str, Any], world: World) -> Iterator[Run]:
    """Open the run folder `out` for a run with these settings, or resume the one that has them.

    Args:
        out: the folder; None: nothing is written.
        settings: JSON values, all that the numbers depend on.
        world: the processes; each calls this.

    Raises:
        UserError: the folder is of other settings, in use, or cannot be written.
    """
    if out is None:
        yield Run(None, world)
        return
    path = Path(out)
    opened: list[RunFolder] = []

    def begin() -> tuple[Any, list[dict[str, Any]]]:
        folder = RunFolder.open(path, settings)
        opened.append(folder)
        if folder.read_json("environment.json") is None:
            folder.write_json("environment.json", {**environment(world.device), "processes": world.size})
        return folder.read_json(RESULT_FILE), list(folder.rows())

    result, rows = world.on_main(begin)
    if not opened:
        yield Run(path, world, None, result, rows)
        return
    with opened[0] as folder:
        yield Run(path, world, folder, result, rows)


def fingerprint(values: Sequence[Any]) -> str:
    """Return 16 hex digits that name a sequence of JSON values, such as the rows that a run learns from."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()[:16]
