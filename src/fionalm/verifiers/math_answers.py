"""Math answers, compared by math-verify in worker processes with a deadline of our own."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from fionalm.data.text_tokenizer import Message, Prompt, completion_text
from fionalm.errors import UserError
from fionalm.verifiers.answers import gold_column
from fionalm.verifiers.pool import Reply, WorkerPool
from fionalm.verifiers.types import Verdict

LONGEST = 20_000
"""Characters of a completion that are searched for its answer, from the end: math-verify's patterns are not linear."""


class VerifierError(RuntimeError):
    """A verifier could not decide: it ran out of time, or failed."""


class MathVerifier:
    r"""Right where the completion's answer equals the gold one mathematically, as math-verify sees it.

    The answer is what stands after `####`, in the last `\boxed{}`, else what math-verify finds in the text. A gold
    answer may be bare (`\frac{1}{2}`), boxed within a solution, or after `####`. A comparison over the deadline is the
    outcome `timeout`, one that fails is `error`; neither has a reward.

    Args:
        answer_column: the column of gold answers.
        workers: processes.
        timeout: seconds for one comparison.
        memory_mb: each process's memory.
    """

    def __init__(
        self, answer_column: str = "answer", *, workers: int = 2, timeout: float = 5.0, memory_mb: int = 4096
    ) -> None:
        self.answer_column, self.timeout = answer_column, timeout
        command = [sys.executable, "-m", "fionalm.verifiers.math_worker", str(memory_mb), str(timeout)]
        self._pool = WorkerPool(command, workers=workers, seconds=timeout)

    def __enter__(self) -> MathVerifier:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[str | Sequence[Message]], **columns: Sequence[Any]
    ) -> list[Verdict]:
        """Return a verdict for each completion.

        Raises:
            UserError: no column of gold answers, or a gold answer that cannot be parsed (its number is named).
        """
        golds = gold_column(columns, self.answer_column, len(completions))
        jobs = [
            {"prediction": completion_text(completion)[-LONGEST:], "gold": str(gold)}
            for completion, gold in zip(completions, golds, strict=True)
        ]
        return [
            _verdict(reply, self.answer_column, index, job["gold"])
            for index, (reply, job) in enumerate(zip(self._pool.map(jobs), jobs, strict=True))
        ]

    def check(self, columns: Mapping[str, Sequence[Any]]) -> list[str]:
        """Return the gold answers in the form of `Verdict.answer`.

        Raises:
            UserError: one is missing or cannot be parsed.
        """
        golds = gold_column(columns, self.answer_column, len(columns.get(self.answer_column, ())))
        replies = self._pool.map([{"prediction": None, "gold": str(gold)} for gold in golds])
        return [
            _verdict(reply, self.answer_column, index, gold).answer or str(gold)
            for index, (reply, gold) in enumerate(zip(replies, golds, strict=True))
        ]

    def describe(self) -> dict[str, Any]:
        """Return what this verifier is."""
        return {"name": "math", "answer_column": self.answer_column, "timeout": self.timeout}

    def close(self) -> None:
        """End the workers."""
        self._pool.close()


def math_equal(prediction: str, gold: str) -> bool:
    """Tell whether an answer, or a solution that holds one, equals the gold answer.

    It runs in a worker process that is kept for later calls; for many pairs at once use `MathVerifier`.

    Raises:
        UserError: the gold answer cannot be parsed.
        VerifierError: the comparison ran out of time or failed.
    """
    verdict = _shared()([""], [prediction], answer=[gold])[0]
    if verdict.outcome in ("timeout", "error"):
        raise VerifierError(f"comparing {prediction!r} with {gold!r}: {verdict.outcome} {verdict.detail}".rstrip())
    return verdict.outcome == "right"


@cache
def _shared() -> MathVerifier:
    verifier = MathVerifier(workers=1)
    atexit.register(verifier.close)
    return verifier


def _verdict(reply: Reply, column: str, index: int, gold: object) -> Verdict:
    if reply.status == "timeout":
        return Verdict("timeout", None, detail="the comparison ran out of time")
    if reply.status == "died":
        return Verdict("error", None, detail=f"the comparison's process died: {reply.detail[-200:]}")
    outcome = reply.value["outcome"]
    if outcome == "no_gold":
        raise UserError(
            f"{column} number {index + 1} cannot be parsed as a math answer: {gold!r}; expected a number, an "
            "expression or LaTeX such as \\frac{1}{2}"
        )
    reward = {"right": 1.0, "wrong": 0.0, "no_answer": 0.0}.get(outcome)
    return Verdict(outcome, reward, reply.value.get("answer"), reply.value.get("detail", ""))
