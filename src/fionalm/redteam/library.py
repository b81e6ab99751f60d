"""Attacks on disk: one JSON object a line, with who wrote each and how it did.

library = AttackLibrary.load("attacks.jsonl").distinct()
AttackLibrary([*library, *family_attacks()]).save("attacks.jsonl")
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from fionalm.errors import UserError, nearest
from fionalm.paths import atomic_write_text
from fionalm.redteam.attacks import Attack
from fionalm.redteam.similarity import distinct_texts

_NAMES = tuple(field.name for field in fields(Attack))


class AttackLibrary:
    """Attacks by id, in the order in which they came; one that comes again takes the earlier one's place."""

    def __init__(self, attacks: Iterable[Attack] = ()) -> None:
        self._attacks = {attack.id: attack for attack in attacks}

    @classmethod
    def load(cls, path: str | Path) -> AttackLibrary:
        """Read a library.

        Raises:
            UserError: no such file, or a line that is no attack (file and line are named).
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {path}: {error}; expected a library of attacks, JSON lines") from error
        # Not splitlines: an attack may hold a character such as U+2028, which JSON does not escape.
        lines = enumerate(text.split("\n"), 1)
        attacks = [_attack(f"{path}, line {number}", line) for number, line in lines if line.strip()]
        if not attacks:
            raise UserError(f"{path} holds no attack: expected JSON lines with text and family")
        return cls(attacks)

    def save(self, path: str | Path) -> None:
        """Write the library, whole or not at all.

        Raises:
            UserError: it cannot be written.
        """
        lines = (json.dumps(_row(attack), ensure_ascii=False) + "\n" for attack in self)
        atomic_write_text(Path(path), "".join(lines))

    def distinct(self, threshold: float = 0.6, *, vectors: Any = None) -> AttackLibrary:
        """Return the library less attacks like an earlier one; see `distinct_texts`."""
        attacks = list(self)
        kept = distinct_texts([attack.text for attack in attacks], threshold, vectors=vectors)
        return AttackLibrary(attacks[index] for index in kept)

    def families(self) -> dict[str, list[Attack]]:
        """Return attacks by family."""
        found: dict[str, list[Attack]] = {}
        for attack in self:
            found.setdefault(attack.family, []).append(attack)
        return found

    def __getitem__(self, name: str) -> Attack:
        return self._attacks[name]

    def __contains__(self, name: object) -> bool:
        return name in self._attacks

    def __iter__(self) -> Iterator[Attack]:
        return iter(self._attacks.values())

    def __len__(self) -> int:
        return len(self._attacks)


def _row(attack: Attack) -> dict[str, Any]:
    row = {name: getattr(attack, name) for name in _NAMES if name != "provenance"}
    return {"id": attack.id, **row, "provenance": dict(attack.provenance)}


def _attack(place: str, line: str) -> Attack:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place} is no JSON: {error}; expected an attack with text and family") from error
    if not isinstance(values, Mapping):
        raise UserError(f"{place} is {type(values).__name__}: expected an object with text and family")
    for name in ("text", "family"):
        if not isinstance(values.get(name), str):
            raise UserError(f"{place} has no {name}{nearest(name, values)}: expected a string")
    for name in values:
        if name not in (*_NAMES, "id"):
            raise UserError(f"{place} has an entry {name!r}: expected {', '.join(_NAMES)}{nearest(name, _NAMES)}")
    if not isinstance(values.get("provenance", {}), Mapping):
        raise UserError(f"{place} has a provenance that is no object: {values['provenance']!r}")
    try:
        attack = Attack(**{name: value for name, value in values.items() if name != "id"})
    except (UserError, TypeError) as error:
        raise UserError(f"{place}: {error}") from error
    if "id" in values and values["id"] != attack.id:
        raise UserError(
            f"{place} has the id {values['id']!r}, and its text {attack.id!r}: expected the text that the id was given "
            "for, or no id"
        )
    return attack
