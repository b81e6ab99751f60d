"""Options of whatever judges samples: a verifier, and a reward model that scores them. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fionalm.errors import UserError

if TYPE_CHECKING:
    from fionalm.posttraining import RewardModel
    from fionalm.verifiers import Verifier


@dataclass(frozen=True, kw_only=True)
class VerifierOptions:
    """What judges samples."""

    verifier: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Judges each sample: math, number, exact, code or python:path.py:function. None: nothing is judged."""
    verifier_timeout: Annotated[float | None, tyro.conf.arg(metavar="SECONDS")] = None
    """Seconds that the verifier has for a sample. None: its own."""
    unsafe_execution: bool = False
    """Run programs without the sandbox, where there is none (code)."""
    reward_model: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Scores each sample: run folder of fiona finetune reward. Best-of-N picks by this score."""

    def open(self) -> AbstractContextManager[Any]:
        """Return the verifier, a context manager; one that gives None if there is none.

        Raises:
            UserError: no such verifier, it has no such option, or options without a verifier.
        """
        if self.verifier is None:
            if self.verifier_timeout is not None or self.unsafe_execution:
                raise UserError("--verifier-timeout and --unsafe-execution are of --verifier: expected one beside them")
            return nullcontext()
        from fionalm.verifiers import make_verifier

        given: dict[str, Any] = {} if self.verifier_timeout is None else {"timeout": self.verifier_timeout}
        return make_verifier(self.verifier, **given, **({"unsafe_execution": True} if self.unsafe_execution else {}))

    def selector(self, device: Any = None) -> RewardModel | None:
        """Return the reward model, or None.

        Raises:
            UserError: there is none in its folder.
        """
        if self.reward_model is None:
            return None
        from fionalm.posttraining import RewardModel

        return RewardModel.load(self.reward_model, device=device)


def check_answers(verifier: Verifier | None, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse right answers that the verifier cannot read, before anything is spent."""
    check: Callable[[Mapping[str, Sequence[Any]]], Any] | None = getattr(verifier, "check", None)
    if check is not None:
        names = dict.fromkeys(name for row in rows for name in row)
        check({name: [row.get(name) for row in rows] for name in names})
