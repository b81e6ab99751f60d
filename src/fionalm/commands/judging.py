"""Judging many pairs so that a kill loses little: judgements go to a file as they come, known by what was judged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fionalm.paths import write_error

if TYPE_CHECKING:
    from fionalm.verifiers import Judge, Judgement

CHUNK = 16
JUDGEMENTS_FILE = "judgements.jsonl"


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
            _append(path, found)
            known.update(found)
            bar.advance(len(now))
    return [known[key] for key in keys]


def _read(path: Path) -> dict[str, Judgement]:
    from fionalm.verifiers import Judgement

    if not path.exists():
        return {}
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):  # a kill tore the last line
        with path.open("r+b") as file:
            file.truncate(len(whole))
    found = {}
    for line in whole.decode().splitlines():
        values = json.loads(line)
        key = values.pop("key")
        found[key] = Judgement(**values)
    return found


def _append(path: Path, judgements: Mapping[str, Judgement]) -> None:
    text = "".join(json.dumps({"key": key, **asdict(one)}) + "\n" for key, one in judgements.items())
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise write_error(path, error) from error
