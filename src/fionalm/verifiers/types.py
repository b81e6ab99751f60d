"""What a verifier says of a completion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from fionalm.data.text_tokenizer import Message, Prompt

Outcome = Literal["right", "wrong", "no_answer", "limit", "timeout", "error"]
DECIDED: tuple[Outcome, ...] = ("right", "wrong", "no_answer")
"""Outcomes that come again if the same completion is judged again; the others depend on the machine and its load."""


@dataclass(frozen=True)
class Verdict:
    """The outcome for one completion."""

    outcome: Outcome
    """`no_answer`: nothing to judge was found, so not right; `limit`: a program broke its limits of time, memory or
    output, so not right, though a faster machine might say otherwise; `timeout` and `error`: the verifier's own
    failures."""
    reward: float | None
    """1 for right, 0 for wrong, no_answer and limit (a verifier may grade between); None where the verifier failed."""
    answer: str | None = None
    """The answer found in the completion, in a form that equal answers share; for majority votes."""
    detail: str = ""
    """Why, in a few words."""


class Verifier(Protocol):
    """Judges completions; `columns` are the dataset's others, one value a completion, such as `answer=[...]`."""

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[str | Sequence[Message]], **columns: Sequence[Any]
    ) -> list[Verdict]:
        """Return a verdict for each completion. It never raises because of what a completion holds."""
        ...


def count_outcomes(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Return how often each outcome occurred."""
    return dict(Counter(verdict.outcome for verdict in verdicts))
