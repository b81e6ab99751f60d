"""Rows that detectors learn from: checked, and split so that no subject and no prompt is on two sides."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fionalm.errors import UserError, nearest
from fionalm.evaluation.detection import checked_labels, single_class

Row = Mapping[str, Any]
SPLITS = ("train", "validation", "test")
NEEDED = ("prompt", "completion", "label")


def split_by_group(
    rows: Sequence[Row], shares: Sequence[float] = (0.6, 0.2, 0.2), *, group: str = "group", seed: int = 0
) -> dict[str, list[Row]]:
    """Return rows for training, validation and test; rows of one group, or with one prompt, are together.

    The groups are put in an order that depends on their names and the seed alone, not on the rows' order, and cut where
    each share of the rows is reached.

    Args:
        rows: with a `prompt`.
        shares: of train, validation and test.
        group: the column that holds the group, such as a triple's subject; a row without it is a group by its prompt.
        seed: of the order.

    Raises:
        UserError: shares that are no three parts of 1, or fewer than three groups.
    """
    if len(shares) != len(SPLITS) or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise UserError(f"shares {tuple(shares)}: expected three above 0 that sum to 1, for {', '.join(SPLITS)}")
    units = _units(rows, group)
    members: dict[int, list[int]] = {}
    for row, unit in enumerate(units):
        members.setdefault(unit, []).append(row)
    if len(members) < len(SPLITS):
        raise UserError(
            f"{len(rows)} rows have {len(members)} groups that share no prompt: expected at least {len(SPLITS)}, one "
            f"each for {', '.join(SPLITS)}"
        )
    names = {unit: min(group_of(rows[row], group) for row in kept) for unit, kept in members.items()}
    order = sorted(members, key=lambda unit: hashlib.blake2b(f"{seed}/{names[unit]}".encode()).digest())
    found: dict[str, list[Row]] = {name: [] for name in SPLITS}
    ends = np.cumsum(shares) * len(rows)
    side = taken = 0
    for place, unit in enumerate(order):
        left = len(order) - place
        # A split that would stay empty takes a group, however large the ones before it were.
        full = taken >= ends[side] - 1e-9 or left <= len(SPLITS) - 1 - side
        if side < len(SPLITS) - 1 and found[SPLITS[side]] and full:
            side += 1
        found[SPLITS[side]] += [rows[row] for row in members[unit]]
        taken += len(members[unit])
    return found


def group_of(row: Row, group: str = "group") -> str:
    """Return the name of a row's group: its column's value, or else its prompt."""
    value = row.get(group)
    return _key(row["prompt"]) if value is None else f"={value}"


def check_rows(rows: Sequence[Row], split: str, *, both: bool = True) -> np.ndarray:
    """Return the rows' labels [n], 1 for hallucinated.

    Args:
        rows: with prompt, completion and label.
        split: its name, for messages.
        both: refuse labels of one class.

    Raises:
        UserError: no rows, a missing column, a label that is neither 0 nor 1 (the row is named), one class alone.
    """
    for number, row in enumerate(rows, 1):
        for name in NEEDED:
            if name not in row:
                raise UserError(
                    f"row {number} of the split {split!r} has no column {name!r}: expected {', '.join(NEEDED)}, and it "
                    f"has {', '.join(row)}{nearest(name, row)}"
                )
    labels = checked_labels([row["label"] for row in rows], split)
    reason = single_class(labels, split)
    if both and reason is not None:
        raise UserError(f"there is nothing to learn from: {reason}")
    return labels


def check_no_leak(learnt: Sequence[Row], held_out: Sequence[Row], split: str, group: str = "group") -> None:
    """Refuse rows that share a group or a prompt with those that were learnt from.

    Raises:
        UserError: names the first one.
    """
    for what, name in (("group", lambda row: group_of(row, group)), ("prompt", lambda row: _key(row["prompt"]))):
        known = set(map(name, learnt))
        shared = next((row for row in held_out if name(row) in known), None)
        if shared is not None:
            value = shared.get(group) if what == "group" and shared.get(group) is not None else shared["prompt"]
            raise UserError(
                f"{what} {value!r:.80} is in the split {split!r} and in 'train': expected splits that share none, as "
                "split_by_group makes them"
            )


def _units(rows: Sequence[Row], group: str) -> list[int]:
    """Return the number of each row's connected component, where a shared group or prompt connects."""
    parents: dict[str, str] = {}

    def root(name: str) -> str:
        parents.setdefault(name, name)
        while parents[name] != name:
            parents[name] = parents[parents[name]]
            name = parents[name]
        return name

    for row in rows:
        parents[root(group_of(row, group))] = root(_key(row["prompt"]))
    numbers: dict[str, int] = {}
    return [numbers.setdefault(root(_key(row["prompt"])), len(numbers)) for row in rows]


def _key(prompt: Any) -> str:
    """Return a prompt as a name: texts that differ in case and spaces alone are one question."""
    if isinstance(prompt, str):
        return " ".join(prompt.casefold().split())
    return json.dumps(prompt, sort_keys=True, ensure_ascii=False).casefold()
