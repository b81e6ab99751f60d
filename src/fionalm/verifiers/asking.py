"""Asking a verifier so that its own failures are known as such, and never end a run or count as wrong answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fionalm.data.text_tokenizer import Message, Prompt
from fionalm.errors import UserError
from fionalm.verifiers.types import Verdict, Verifier


def judged(
    verifier: Verifier,
    prompts: Sequence[Prompt],
    completions: Sequence[str | Sequence[Message]],
    columns: Mapping[str, Sequence[Any]],
) -> list[Verdict]:
    """Return a verdict for each completion; where the verifier raises, it has failed on all of them.

    Args:
        verifier: asked once, with everything.
        prompts: one a completion.
        completions: what is judged.
        columns: the dataset's others, one value a completion.

    Raises:
        UserError: the verifier says what is wrong with the data, such as a missing column, or returns too few or too
            many verdicts.
    """
    if not completions:
        return []
    try:
        verdicts = list(verifier(prompts, completions, **columns))
    except UserError:
        raise
    except Exception as error:
        return [Verdict("error", None, detail=f"{type(error).__name__}: {error}"[:300])] * len(completions)
    if len(verdicts) != len(completions):
        raise UserError(
            f"the verifier {type(verifier).__name__} returned {len(verdicts)} verdicts for {len(completions)} "
            "completions: expected one each"
        )
    return verdicts


def check_judged(verdicts: Sequence[Verdict]) -> None:
    """Refuse a first batch of which the verifier could judge nothing: there would be nothing to learn or report.

    Raises:
        UserError: no verdict has a reward; says why the first one has none.
    """
    if verdicts and all(verdict.reward is None for verdict in verdicts):
        detail = verdicts[0].detail or verdicts[0].outcome
        raise UserError(
            f"the verifier could judge none of the first {len(verdicts):,} completions ({detail}): expected a verifier "
            "that works on this data"
        )
