"""Judging many pairs so that a kill loses little: judgements go to a file as they come, known by what was judged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fionalm.paths import append_text, atomic_write_text, drop_torn_line

if TYPE_CHECKING:
    from fionalm.report import Chart
    from fionalm.verifiers import Judge, Judgement

CHUNK = 16
JUDGEMENTS_FILE, UNANSWERED_FILE = "judgements.jsonl", "unanswered.jsonl"


def judge_rows(
    judge: Judge,
    rows: Sequence[Mapping[str, Any]],
    names: tuple[str, str, str],
    path: Path,
    *,
    chunk: int = CHUNK,
    quiet: bool = False,
) -> list[Judgement]:
    """Return each row's judgement, of which the file keeps those that it has.

    Args:
        judge: asked.
        rows: the pairs.
        names: columns of the prompt, the first completion and the second.
        path: JSON lines, appended to; belongs to one judge.
        chunk: pairs judged between two writes: a kill loses at most so many.
        quiet: no progress.

    Raises:
        UserError: the judge answers none of the first pairs, or the disk is full.
    """
    from fionalm.progress import progress
    from fionalm.verifiers import check_answered

    texts = [json.dumps([row[name] for name in names]) for row in rows]
    keys = [hashlib.blake2b(text.encode(), digest_size=8).hexdigest() for text in texts]
    known = _read(path)
    waiting = list({key: row for key, row in zip(keys, rows, strict=True) if key not in known}.items())
    with progress(len(waiting), "judging", "pairs", quiet=quiet or not waiting) as bar:
        for start in range(0, len(waiting), chunk):
            now = waiting[start : start + chunk]
            prompts, firsts, seconds = ([row[name] for _, row in now] for name in names)
            found = dict(zip([key for key, _ in now], judge.judge(prompts, firsts, seconds), strict=True))
            check_answered(list(found.values()) if start == 0 else [])
            append_text(path, "".join(json.dumps({"key": key, **asdict(one)}) + "\n" for key, one in found.items()))
            known.update(found)
            bar.advance(len(now))
    return [known[key] for key in keys]


def _read(path: Path) -> dict[str, Judgement]:
    from fionalm.verifiers import Judgement

    if not path.exists():
        return {}
    found = {}
    for line in drop_torn_line(path).splitlines():
        values = json.loads(line)
        key = values.pop("key")
        found[key] = Judgement(**values)
    return found


def preferences_chart(preferences: Sequence[float], counted: str, x_label: str) -> Chart:
    """Return a histogram of probabilities, of what is `counted`."""
    import numpy as np

    from fionalm.report import Line, lines_with_intervals

    counts, edges = np.histogram(preferences, bins=20, range=(0, 1))
    line = Line(counted, np.repeat(edges, 2)[1:-1], np.repeat(counts, 2))
    return lines_with_intervals([line], x_label=x_label, y_label=counted, x_references={"1/2": 0.5})


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines, whole or not at all."""
    atomic_write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
