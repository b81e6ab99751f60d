"""Samples on disk: one JSON object a line, appended as they come, read back after a kill.

The same file is what `fiona sample` writes, what the trainers keep in their run folders, and what `fiona evaluate`
reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from fionalm.errors import UserError
from fionalm.paths import append_text, atomic_write_text, drop_torn_line


@dataclass(frozen=True)
class SampleRecord:
    """One sample of one problem; its key is (iteration, temperature, problem, sample)."""

    problem: str
    """The problem's id: the dataset's `id`, or its row number."""
    sample: int
    """Which of the problem's samples."""
    prompt: Any
    """String or conversation."""
    completion: str
    iteration: int = 0
    """Which generation of the policy drew it; 0 is the first."""
    temperature: float = 1.0
    finish_reason: str = "stop"
    token_ids: list[int] | None = None
    logp: float | None = None
    """Log-probability of the completion under the policy that drew it, in nats."""
    reward: float | None = None
    """None: not judged, or the verifier failed."""
    outcome: str | None = None
    """The verdict's; None: not judged."""
    answer: str | None = None
    """The answer found, for majority votes."""
    score: float | None = None
    """A selecting verifier's score, for best-of-k."""
    columns: dict[str, Any] = field(default_factory=dict)
    """The problem's other columns, such as its gold answer."""

    @property
    def key(self) -> tuple[int, float, str, int]:
        """What makes the sample unique in its file."""
        return self.iteration, self.temperature, self.problem, self.sample


class SampleStore:
    """An append-only JSONL file of samples. A torn last line, which a kill leaves, is dropped on opening.

    A key written again replaces the earlier record for readers: so a reward can be added to a sample.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._records: dict[tuple[int, float, str, int], SampleRecord] = {}
        if self.path.exists():
            whole = drop_torn_line(self.path)
            for record in _parse(self.path, whole):
                self._records[record.key] = record

    def append(self, *records: SampleRecord) -> None:
        """Write records; they are in the file before this returns.

        Raises:
            UserError: the file cannot be written.
        """
        append_text(self.path, _lines(records))
        for record in records:
            self._records[record.key] = record

    def rewrite(self, order: Sequence[str]) -> None:
        """Write the file anew, each sample once: by iteration, temperature, `order` of the problems, and number.

        So a run that was killed and resumed leaves the same file as one that was not. Problems that `order` does not
        name come last.

        Raises:
            UserError: the file cannot be written.
        """
        place = {problem: index for index, problem in enumerate(order)}
        last = len(place)
        records = sorted(self, key=lambda one: (*one.key[:2], place.get(one.problem, last), one.problem, one.sample))
        write_samples(self.path, records)
        self._records = {record.key: record for record in records}

    def get(self, iteration: int, temperature: float, problem: str, sample: int) -> SampleRecord | None:
        """Return a sample, or None."""
        return self._records.get((iteration, temperature, problem, sample))

    def of(self, iteration: int) -> list[SampleRecord]:
        """Return an iteration's samples by problem and sample number, in order of first appearance."""
        return [record for record in self._records.values() if record.iteration == iteration]

    def __iter__(self) -> Iterator[SampleRecord]:
        return iter(self._records.values())

    def __len__(self) -> int:
        return len(self._records)


def read_samples(path: str | Path) -> list[SampleRecord]:
    """Read a samples file.

    Raises:
        UserError: no such file, or a line that is no sample (file and line are named).
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}; expected a samples file of `fiona sample`") from error
    return list({record.key: record for record in _parse(path, text)}.values())


def _lines(records: Iterable[SampleRecord]) -> str:
    return "".join(json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records)


def write_samples(path: str | Path, records: Iterable[SampleRecord]) -> None:
    """Write a samples file, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    atomic_write_text(Path(path), _lines(records))


def _parse(path: Path, text: str) -> Iterator[SampleRecord]:
    names = {item.name for item in fields(SampleRecord)}
    # Not splitlines: a completion may hold a character such as U+2028, which JSON does not escape.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            values["problem"] = str(values["problem"])
            yield SampleRecord(**{key: value for key, value in values.items() if key in names})
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path}, line {number} is no sample: {error}; expected JSON with at least problem, sample, prompt, "
                "completion"
            ) from error
