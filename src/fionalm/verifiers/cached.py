"""A verifier that judges equal completions of a problem once: models that learn a task draw them again and again."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from fionalm.data.text_tokenizer import Message, Prompt
from fionalm.verifiers.identity import describe
from fionalm.verifiers.types import DECIDED, Verdict, Verifier


class CachedVerifier:
    """Asks `verifier` only what it has not decided before; what failed or broke a limit is asked again.

    Args:
        verifier: gives a completion the same verdict each time.

    Attributes:
        asked: completions that the verifier was given so far.
    """

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier
        self.asked = 0
        self._known: dict[bytes, Verdict] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> CachedVerifier:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[str | Sequence[Message]], **columns: Sequence[Any]
    ) -> list[Verdict]:
        """Return a verdict for each completion."""
        values = [{name: column[index] for name, column in columns.items()} for index in range(len(completions))]
        keys = [_key(*judged) for judged in zip(prompts, completions, values, strict=True)]
        with self._lock:
            fresh = {key: index for index, key in enumerate(keys) if key not in self._known}
            indices = list(fresh.values())
            self.asked += len(indices)
            verdicts = (
                self.verifier(
                    [prompts[index] for index in indices],
                    [completions[index] for index in indices],
                    **{name: [column[index] for index in indices] for name, column in columns.items()},
                )
                if indices
                else []
            )
            found = dict(zip(fresh, verdicts, strict=True))
            self._known.update({key: verdict for key, verdict in found.items() if verdict.outcome in DECIDED})
            return [found.get(key) or self._known[key] for key in keys]

    def check(self, columns: Mapping[str, Sequence[Any]]) -> Any:
        """Have the verifier check its columns, if it can."""
        check = getattr(self.verifier, "check", None)
        return None if check is None else check(columns)

    def describe(self) -> dict[str, Any]:
        """Return what the verifier is."""
        return describe(self.verifier)

    def close(self) -> None:
        """End the verifier's workers."""
        close = getattr(self.verifier, "close", None)
        if close is not None:
            close()


def _key(prompt: Prompt, completion: str | Sequence[Message], columns: Mapping[str, Any]) -> bytes:
    text = json.dumps([prompt, completion, columns], sort_keys=True, default=repr)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
