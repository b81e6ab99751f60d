"""Verifiers that compare text: numbers, as in GSM8K, and normalised exact match."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from fionalm.data.text_tokenizer import Message, Prompt, completion_text
from fionalm.errors import UserError
from fionalm.verifiers.answers import find_number, gold_column, normalise, number_text
from fionalm.verifiers.types import Verdict


class NumberVerifier:
    r"""Right where the completion's number equals the gold one.

    The number is found by `find_number`: after `####`, in `\boxed{}`, after "the answer is", or the last of the text.

    Args:
        answer_column: the column of gold answers: numbers, or solutions such as GSM8K's.
        tolerance: largest difference, relative to the gold number; 0 compares exactly.
    """

    def __init__(self, answer_column: str = "answer", *, tolerance: float = 0.0) -> None:
        if not 0 <= tolerance < 1:
            raise UserError(f"tolerance {tolerance}: expected a relative difference of at least 0, below 1")
        self.answer_column, self.tolerance = answer_column, Fraction(tolerance)

    def __enter__(self) -> NumberVerifier:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[str | Sequence[Message]], **columns: Sequence[Any]
    ) -> list[Verdict]:
        """Return a verdict for each completion.

        Raises:
            UserError: no column of gold answers, or a gold answer without a number (its place is named).
        """
        golds = gold_column(columns, self.answer_column, len(completions))
        return [
            self._judge(completion_text(completion), self._gold(index, gold))
            for index, (completion, gold) in enumerate(zip(completions, golds, strict=True))
        ]

    def check(self, columns: Mapping[str, Sequence[Any]]) -> list[str]:
        """Return the gold answers in the form of `Verdict.answer`; raises UserError where one has no number."""
        golds = gold_column(columns, self.answer_column, len(columns.get(self.answer_column, ())))
        return [number_text(self._gold(index, gold)) for index, gold in enumerate(golds)]

    def describe(self) -> dict[str, Any]:
        """Return what this verifier is."""
        return {"name": "number", "answer_column": self.answer_column, "tolerance": float(self.tolerance)}

    def close(self) -> None:
        """Do nothing: there are no workers."""

    def _gold(self, index: int, gold: Any) -> Fraction:
        number = find_number(str(gold))
        if number is None:
            raise UserError(f"{self.answer_column} number {index + 1} holds no number: {str(gold)[:200]!r}")
        return number

    def _judge(self, text: str, gold: Fraction) -> Verdict:
        number = find_number(text)
        if number is None:
            return Verdict("no_answer", 0.0)
        if abs(number - gold) <= self.tolerance * abs(gold):
            return Verdict("right", 1.0, number_text(gold))
        return Verdict("wrong", 0.0, number_text(number))


class ExactVerifier:
    """Right where the completion, normalised, is the gold answer, normalised the same way.

    Args:
        answer_column: the column of gold answers; a list holds alternatives.
        regex: finds the answer in the completion: its first group, or the whole match, of the last match; None: the
            whole completion is the answer.
        case: case counts.
        punctuation: punctuation counts.
    """

    def __init__(
        self,
        answer_column: str = "answer",
        *,
        regex: str | None = None,
        case: bool = False,
        punctuation: bool = False,
    ) -> None:
        self.answer_column, self.case, self.punctuation = answer_column, case, punctuation
        try:
            self.regex = None if regex is None else re.compile(regex, re.DOTALL)
        except re.error as error:
            raise UserError(f"regex {regex!r} is no regular expression: {error}") from error

    def __enter__(self) -> ExactVerifier:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[str | Sequence[Message]], **columns: Sequence[Any]
    ) -> list[Verdict]:
        """Return a verdict for each completion.

        Raises:
            UserError: no column of gold answers, or an empty gold answer (its place is named).
        """
        golds = gold_column(columns, self.answer_column, len(completions))
        return [
            self._judge(completion_text(completion), self._gold(index, gold))
            for index, (completion, gold) in enumerate(zip(completions, golds, strict=True))
        ]

    def check(self, columns: Mapping[str, Sequence[Any]]) -> list[str]:
        """Return the gold answers in the form of `Verdict.answer`; raises UserError where one is empty."""
        golds = gold_column(columns, self.answer_column, len(columns.get(self.answer_column, ())))
        return [self._gold(index, gold)[0] for index, gold in enumerate(golds)]

    def describe(self) -> dict[str, Any]:
        """Return what this verifier is."""
        options = {"answer_column": self.answer_column, "case": self.case, "punctuation": self.punctuation}
        return {"name": "exact", "regex": None if self.regex is None else self.regex.pattern, **options}

    def close(self) -> None:
        """Do nothing: there are no workers."""

    def _gold(self, index: int, gold: Any) -> list[str]:
        forms = [self._form(str(item)) for item in (gold if isinstance(gold, list | tuple) else [gold])]
        if not forms or not all(forms):
            raise UserError(f"{self.answer_column} number {index + 1} is empty: {gold!r}; expected text to match")
        return forms

    def _form(self, text: str) -> str:
        form = normalise(text, case=self.case, punctuation=self.punctuation)
        return form or normalise(text, case=self.case, punctuation=True)  # an answer may be punctuation alone

    def _judge(self, text: str, golds: list[str]) -> Verdict:
        if self.regex is not None:
            match = None
            for match in self.regex.finditer(text):  # noqa: B007
                pass
            if match is None:
                return Verdict("no_answer", 0.0, detail="the regex matched nothing")
            text = (match.group(1) if self.regex.groups else match.group()) or ""
        answer = self._form(text)
        if not answer:
            return Verdict("no_answer", 0.0)
        return Verdict("right", 1.0, golds[0]) if answer in golds else Verdict("wrong", 0.0, answer)
