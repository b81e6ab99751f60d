"""English numerals: `forty-two` for 42, and where they stand in a text."""

from __future__ import annotations

import re
from typing import NamedTuple

UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_VALUES = {word: value for value, word in enumerate(UNITS)} | {word: 10 * value for value, word in enumerate(TENS, 2)}
_ANY = "|".join((*UNITS, *TENS, "hundred", *SCALES))
_NUMERAL = re.compile(
    rf"(?<![\w-])(?:(?P<sign>minus|negative)\s+)?(?P<words>(?:an?\s+(?=hundred|thousand|million|billion))?"
    rf"(?:{_ANY})(?:(?:\s+and\s+|\s*-\s*|\s+)(?:{_ANY}))*)(?![\w-])",
    re.IGNORECASE,
)
_PRONOUN_BEFORE = re.compile(
    r"\b(?:the|this|that|no|any|every|each|which|only|another|some|right|wrong|correct|same|other|first|last|good|new)\s+$",
    re.IGNORECASE,
)
_PRONOUN_AFTER = re.compile(
    r"\s+(?:of|more|who|that|can|could|should|would|must|may|might|has|day|by|thing)\b", re.IGNORECASE
)


_NUMBER_END = re.compile(rf"(?:[\d)]|\b(?:{_ANY}))\s*$", re.IGNORECASE)


class Numeral(NamedTuple):
    """A numeral in a text."""

    start: int
    end: int
    value: int


def spelled(value: int) -> str:
    """Return the numeral of a whole number below 10^12.

    Raises:
        ValueError: a larger one.
    """
    if abs(value) >= 10**12:
        raise ValueError(f"{value}: expected a number below 10^12")
    if value < 0:
        return f"minus {spelled(-value)}"
    if value < 20:
        return UNITS[value]
    if value < 100:
        return TENS[value // 10 - 2] + (f"-{UNITS[value % 10]}" if value % 10 else "")
    for name, size in (*reversed(SCALES.items()), ("hundred", 100)):
        if value >= size:
            rest = f" {spelled(value % size)}" if value % size else ""
            return f"{spelled(value // size)} {name}{rest}"
    raise AssertionError("below 100 was answered above")


def numerals_of(text: str) -> list[Numeral]:
    """Return the numerals in a text, in order; `one` as a pronoun is none, and `two three` are two."""
    found: list[Numeral] = []
    for match in _NUMERAL.finditer(text):
        words = match["words"].lower()
        if words == "one" and not match["sign"] and _is_pronoun(text, match.start(), match.end()):
            continue
        found += _values(match, text)
    return found


def ends_with_number(text: str) -> bool:
    """Tell whether a text ends with a number, so that a `minus` after it subtracts."""
    return _NUMBER_END.search(text) is not None


def _values(match: re.Match[str], text: str) -> list[Numeral]:
    """Return the numbers that a run of numeral words holds: it ends where the next word cannot go on with it."""
    tokens = [
        (one.group().lower(), one.start(), one.end())
        for one in re.finditer(rf"\b(?:{_ANY})\b", match["words"], re.IGNORECASE)
    ]
    offset = match.start("words")
    numbers: list[Numeral] = []
    total, part, start, room, scale = 0, -1, 0, 0, 10**12
    end = 0

    def close() -> None:
        if end:
            numbers.append(Numeral(offset + start, offset + end, total + max(part, 0)))

    for word, begin, stop in tokens:
        value = _VALUES.get(word)
        if value is not None and (part < 0 or 0 < value < room):
            if not end:
                start = begin
            part = max(part, 0) + value
            room = 10 if value >= 20 and value % 10 == 0 else 0
        elif word == "hundred" and part < 10 and part != 0:
            if not end:
                start = begin
            part, room = max(part, 1) * 100, 100
        elif word in SCALES and part != 0 and SCALES[word] < scale:
            if not end:
                start = begin
            scale = SCALES[word]
            total, part, room = total + max(part, 1) * scale, -1, 0
        else:
            close()
            total, part, start, room, scale = 0, -1, begin, 0, 10**12
            if value is not None:
                part, room = value, 10 if value >= 20 and value % 10 == 0 else 0
            elif word == "hundred":
                part, room = 100, 100
            else:
                total, scale = SCALES[word], SCALES[word]
        end = stop
    close()
    if match["sign"] and numbers and not ends_with_number(text[: match.start()]):
        first = numbers[0]
        numbers[0] = Numeral(match.start(), first.end, -first.value)
    return numbers


def _is_pronoun(text: str, start: int, end: int) -> bool:
    return bool(_PRONOUN_BEFORE.search(text[:start]) or _PRONOUN_AFTER.match(text[end:]))
