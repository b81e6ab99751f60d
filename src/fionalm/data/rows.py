"""Rows of a dataset for post-training, from files, folders and the hub, in TRL's columns.

    rows = read_rows("train.jsonl", need=("prompt", "completion"))

Names that well-known datasets give to the same things are understood as they are (GSM8K's `question`, HumanEval's
`test`); any other is mapped by `columns`. Preference pairs that hold whole transcripts have their common beginning
split off as the prompt.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from fionalm.data.hub import stream_rows
from fionalm.data.row_files import read_file_rows
from fionalm.data.text_tokenizer import is_conversation
from fionalm.errors import UserError, nearest

Row = dict[str, Any]

KNOWN_AS: dict[str, tuple[str, ...]] = {
    "prompt": ("question", "problem", "instruction", "query", "input"),
    "completion": ("canonical_solution", "solution", "response", "output", "answer"),
    "chosen": ("preferred", "winner"),
    "rejected": ("dispreferred", "loser"),
    "answer": ("solution", "gold", "target", "label"),
    "tests": ("test", "test_code"),
    "soft_label": ("p_chosen", "preference"),
}
"""What other datasets call a column; the first that is there is taken."""
TEXTS = ("prompt", "completion", "chosen", "rejected")
TURN = "\n\nAssistant:"
HUMAN = "\n\nHuman:"


def read_rows(
    source: str | Path,
    *,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
    need: Sequence[str] = (),
    optional: Sequence[str] = (),
    limit: int | None = None,
) -> list[Row]:
    """Return a dataset's rows, each with the columns needed and those that it has besides.

    Args:
        source: a .jsonl, .json, .csv or .parquet file (also .gz), a folder, or hf:NAME[:CONFIG] on the hub.
        split: of a folder's or the hub's dataset.
        columns: names in the dataset by names here, such as `{"prompt": "question"}`.
        need: columns that every row must have, such as `prompt`, `completion`, `chosen`, `rejected`, `soft_label`,
            `answer`. A `prompt` that is missing beside `chosen` and `rejected` is split off them, and `prompt` and
            `completion` off `messages`.
        optional: columns that are treated the same if the dataset has them.
        limit: rows to read at most; None: all.

    Raises:
        UserError: nothing there, or unreadable; a missing column (those present and the closest are named); in a row,
            which is named by its number from 1, an empty text or a soft label outside [0, 1]. Transcripts that
            end without a reply, of which HH has some, are left out with a warning.
        MissingExtraError: Parquet or a folder without the package `datasets`.
    """
    rows = list(islice(_raw_rows(str(source), split), limit))
    if not rows:
        raise UserError(f"{source} has no rows: expected at least one")
    present = list(dict.fromkeys(key for row in rows[:1000] for key in row))
    there = {*present, *(columns or {})}
    need = [*need, *(name for name in optional if there & {name, *KNOWN_AS.get(name, ())})]
    renames = _renames(source, present, columns or {}, need)
    taken = [_take(row, renames, need, f"row {number} of {source}") for number, row in enumerate(rows, 1)]
    without = [] if "prompt" not in need or "prompt" in renames else _empty_replies(taken)
    if without:
        listed = ", ".join(str(number) for number in without[:9])
        warnings.warn(
            f"{len(without)} of {len(rows)} rows of {source} are left out, for a transcript ends without a reply: "
            f"row {listed}{'' if len(without) < 10 else ', ...'}",
            stacklevel=2,
        )
    for number, row in enumerate(taken, 1):
        if number not in without:
            _check(row, need, f"row {number} of {source}")
    return [row for number, row in enumerate(taken, 1) if number not in without]


def as_conversations(rows: Iterable[Row]) -> list[Row]:
    """Return rows whose prompts are conversations: a transcript's turns, or one message of the user's.

    What follows a transcript loses the space around it, which a chat template has no place for.
    """
    turned = []
    for row in rows:
        new = dict(row)
        if "prompt" in row:
            new["prompt"] = _conversation(row["prompt"])
            if isinstance(row["prompt"], str) and row["prompt"].endswith(TURN):
                replies = [name for name in TEXTS[1:] if isinstance(row.get(name), str)]
                new |= {name: row[name].strip() for name in replies}
        turned.append(new)
    return turned


def with_template(rows: Iterable[Row], template: str) -> list[Row]:
    """Return rows whose prompt is `template` with {column} replaced by the row's columns.

    Raises:
        UserError: the template names a column that there is not, or is malformed.
    """
    filled = []
    for number, row in enumerate(rows, 1):
        try:
            filled.append({**row, "prompt": template.format_map(row)})
        except (KeyError, IndexError, ValueError) as error:
            reason = f"no column {error}" if isinstance(error, KeyError) else str(error)
            close = nearest(str(error.args[0]), row) if isinstance(error, KeyError) else ""
            raise UserError(
                f"the prompt template cannot be filled from row {number}: {reason}; it has {', '.join(row)}{close}"
            ) from error
    return filled


def _raw_rows(source: str, split: str) -> Iterable[Row]:
    path = Path(source.removeprefix("hf:")).expanduser()
    if source.startswith("hf:"):
        return stream_rows(source, split)
    if path.is_dir():
        return stream_rows(f"hf:{path}", split)
    if path.is_file():
        return read_file_rows(path)
    there = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    raise UserError(
        f"there is no data at {source}: expected a .jsonl, .json, .csv or .parquet file, a folder, or hf:NAME"
        f"{nearest(path.name, there)}"
    )


def _renames(source: str | Path, present: list[str], columns: Mapping[str, str], need: Sequence[str]) -> dict[str, str]:
    """Return the dataset's names by ours, of all columns that are asked for and there."""
    for ours, theirs in columns.items():
        if theirs not in present:
            raise UserError(
                f"{source} has no column {theirs!r}, which was given for {ours!r}: it has {', '.join(present)}"
                f"{nearest(theirs, present)}"
            )
    found = dict(columns)
    split_off = _can_split(present, columns, need)
    for name in need:
        if name in found:
            continue
        known = [other for other in (name, *KNOWN_AS.get(name, ())) if other in present]
        if known and not (known[0] != name and name in split_off):
            found[name] = known[0]
        elif name not in split_off:
            raise UserError(
                f"{source} has no column {name!r}: it has {', '.join(present)}{nearest(name, present)}; "
                f"another name can be given for it ({name}=NAME)"
            )
    return found


def _can_split(present: list[str], columns: Mapping[str, str], need: Sequence[str]) -> tuple[str, ...]:
    """Return the names that need no column, since they are split off another."""
    if "messages" in present and "completion" in need:
        return ("prompt", "completion")
    names = {*present, *columns}
    return ("prompt",) if names >= {"chosen", "rejected"} else ()


def _take(row: Row, renames: Mapping[str, str], need: Sequence[str], where: str) -> Row:
    taken = dict(row)
    for ours, theirs in renames.items():
        if row.get(theirs) is None:
            raise UserError(f"{where} has no {theirs!r}: it has {', '.join(row)}")
        taken[ours] = row[theirs]
    if "completion" in need and "completion" not in renames:
        taken["prompt"], taken["completion"] = _split_messages(row.get("messages"), where)
    elif "prompt" in need and "prompt" not in renames:
        taken["prompt"], taken["chosen"], taken["rejected"] = split_pair(taken["chosen"], taken["rejected"], where)
    return taken


def split_pair(chosen: Any, rejected: Any, where: str = "the pair") -> tuple[Any, Any, Any]:
    """Split the common beginning of two transcripts off as the prompt; return it and the two that remain.

    Of conversations it is the messages that they share; of texts with Human's and Assistant's turns it ends where the
    last turn of the assistant that they share begins; of other texts, with the last whole word.

    Raises:
        UserError: they share nothing.
    """
    if is_conversation(chosen) and is_conversation(rejected):
        shared = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), 0)
        if not shared:
            raise UserError(f"{where} has no prompt, and its chosen and rejected messages share no beginning")
        return list(chosen[:shared]), list(chosen[shared:]), list(rejected[shared:])
    if not (isinstance(chosen, str) and isinstance(rejected, str)):
        raise UserError(f"{where} has a {type(chosen).__name__} for chosen: expected two texts or two conversations")
    pairs = enumerate(zip(chosen, rejected, strict=False))
    shared = next((i for i, (a, b) in pairs if a != b), min(len(chosen), len(rejected)))
    turn = chosen.rfind(TURN, 0, shared)
    if turn >= 0 and turn + len(TURN) <= shared:
        shared = turn + len(TURN)
    else:
        shared = max(chosen.rfind(" ", 0, shared), chosen.rfind("\n", 0, shared)) + 1
    if not shared:
        raise UserError(f"{where} has no prompt, and its chosen and rejected texts share no beginning")
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _split_messages(messages: Any, where: str) -> tuple[Any, Any]:
    if not is_conversation(messages) or len(messages) < 2 or messages[-1].get("role") != "assistant":
        raise UserError(f"{where} has messages that cannot be learnt from: expected several, the last the assistant's")
    return list(messages[:-1]), list(messages[-1:])


def _check(row: Row, need: Sequence[str], where: str) -> None:
    for name in TEXTS:
        if name not in need:
            continue
        value = row[name]
        if not isinstance(value, str) and not is_conversation(value):
            raise UserError(f"{where}: {name} is {value!r:.80}: expected text or a list of messages")
        if not _has_text(value):
            raise UserError(f"{where}: {name} is empty: expected text")
    if "soft_label" in need:
        row["soft_label"] = _probability(row["soft_label"], where)


def _empty_replies(rows: Sequence[Row]) -> list[int]:
    """Return the numbers, from 1, of the pairs of which splitting off the prompt left a side empty."""
    pairs = ((number, row.get("chosen", "."), row.get("rejected", ".")) for number, row in enumerate(rows, 1))
    return [number for number, chosen, rejected in pairs if not (_has_text(chosen) and _has_text(rejected))]


def _has_text(value: Any) -> bool:
    return bool(value.strip() if isinstance(value, str) else value)


def _probability(value: Any, where: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        raise UserError(
            f"{where}: soft_label is {value!r}: expected a number between 0 and 1, the probability that chosen is "
            "preferred"
        )
    return number


def _conversation(prompt: Any) -> Any:
    if not isinstance(prompt, str):
        return prompt
    if not prompt.startswith(HUMAN):
        return [{"role": "user", "content": prompt}]
    messages = []
    for turn in prompt.removesuffix(TURN).split(HUMAN)[1:]:
        said, *replies = turn.split(TURN)
        messages.append({"role": "user", "content": said.strip()})
        if replies:  # templates refuse two replies in a row
            messages.append({"role": "assistant", "content": "\n\n".join(reply.strip() for reply in replies)})
    return messages
