r"""Where the answer stands in a text: `\boxed{}`, `####`, "the answer is", the last number; and plain normal forms."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from fionalm.errors import UserError, nearest

NUMBER = re.compile(
    r"(?<![\w.,])[-+−]?(?:[$€£¥]\s?)?[-+−]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+|(?<=\d))(?:[eE][-+]?\d{1,3}(?![\w.]))?"
    r"(?:\s?/\s?\d+(?![\d.,]*\d))?"
)
"""A sign, a currency, digits with or without groups of three, decimals, an exponent, or a fraction of integers."""
ANSWER_IS = re.compile(r"\banswer\s*(?:\bis\b\s*:?|[:=])\s*", re.IGNORECASE)
BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
FENCE = re.compile(r"```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)


def boxed(text: str) -> str | None:
    r"""Return what the last `\boxed{}` holds, braces balanced, or None."""
    for start in reversed([match.end() for match in BOXED.finditer(text)]):
        depth = 1
        for position in range(start, len(text)):
            character = text[position]
            if character in "{}" and (position == 0 or text[position - 1] != "\\"):
                depth += 1 if character == "{" else -1
            if depth == 0:
                return text[start:position].strip()
    return None


def after_hashes(text: str) -> str | None:
    """Return the rest of the line after the last `####`, GSM8K's mark of an answer, or None."""
    _, mark, rest = text.rpartition("####")
    lines = rest.strip().splitlines()
    return lines[0].strip() if mark and lines else None


def find_number(text: str) -> Fraction | None:
    r"""Return the answer that a solution gives as a number, or None.

    It is the first number after the last `####`, else in the last `\boxed{}`, else after the last "answer is" (or
    "answer:"), else the last number of the text.
    """
    for part in (after_hashes(text), boxed(text)):
        if part is not None and (numbers := numbers_of(part)):
            return numbers[0]
    for match in reversed(list(ANSWER_IS.finditer(text))):
        sentence = re.split(r"\n|[.!?](?:\s|$)", text[match.end() :], maxsplit=1)[0]
        if numbers := numbers_of(sentence):
            # "answer is 6 * 7 = 42": what stands after the last equals sign.
            return (numbers_of(sentence.rpartition("=")[2]) or numbers)[0]
    numbers = numbers_of(text)
    return numbers[-1] if numbers else None


def numbers_of(text: str) -> list[Fraction]:
    """Return the numbers in a text, in order."""
    return [value for match in NUMBER.finditer(text) if (value := _number(match.group())) is not None]


def number_text(value: Fraction) -> str:
    """Return the one form of a number that equal numbers share: `42`, `-7/2`."""
    return str(value.numerator) if value.denominator == 1 else f"{value.numerator}/{value.denominator}"


def code_of(text: str) -> str:
    """Return the program in a completion: its last fenced block of Python (or of no language), else the text itself."""
    blocks = [body for language, body in FENCE.findall(text) if language.lower() in ("", "python", "python3", "py")]
    return blocks[-1] if blocks else text


def normalise(text: str, *, case: bool = False, punctuation: bool = False) -> str:
    """Return a text as exact match compares it: Unicode NFKC, single spaces, by default without case and punctuation.

    Args:
        text: what to normalise.
        case: keep case.
        punctuation: keep punctuation. Signs and points within numbers are kept always.
    """
    text = unicodedata.normalize("NFKC", text)
    if not case:
        text = text.casefold()
    if not punctuation:
        text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
        text = re.sub(r"(?![-+.]\d|%|\.\d)[^\w\s]", " ", text)
    return " ".join(text.split())


def gold_column(columns: Mapping[str, Sequence[Any]], name: str, count: int) -> Sequence[Any]:
    """Return the column of gold answers.

    Raises:
        UserError: it is missing (those present and the closest are named), or has another length.
    """
    if name not in columns:
        present = ", ".join(sorted(columns)) or "none"
        raise UserError(f"the verifier needs the column {name!r}; the data's are: {present}{nearest(name, columns)}")
    if len(columns[name]) != count:
        raise UserError(f"column {name!r} holds {len(columns[name])} values for {count} completions")
    return columns[name]


def _number(text: str) -> Fraction | None:
    text = text.replace("−", "-")
    negative = text.count("-", 0, 4) % 2 == 1 and "-" in text.split("e")[0].split("E")[0]
    digits = re.sub(r"[^\d./eE+-]", "", text).lstrip("+-")
    top, _, bottom = digits.partition("/")
    try:
        value = Fraction(Decimal(top)) / (int(bottom) if bottom else 1)
    except (InvalidOperation, ValueError, ZeroDivisionError, OverflowError):
        return None
    return -value if negative else value
