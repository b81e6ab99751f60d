"""Verifiers by name, as commands and configurations give them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fionalm.data.text_tokenizer import Message, Prompt
from fionalm.errors import UserError, choice_error, nearest
from fionalm.verifiers.functions import FunctionVerifier, load_function
from fionalm.verifiers.matching import ExactVerifier, NumberVerifier
from fionalm.verifiers.math_answers import MathVerifier
from fionalm.verifiers.program import ProgramVerifier
from fionalm.verifiers.types import Verdict

VERIFIERS = {"math": MathVerifier, "number": NumberVerifier, "exact": ExactVerifier, "code": ProgramVerifier}
PYTHON = "python:"


class OpenVerifier(Protocol):
    """A verifier with workers to end: a context manager."""

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[str | Sequence[Message]], **columns: Sequence[Any]
    ) -> list[Verdict]:
        """Return a verdict for each completion."""
        ...

    def __enter__(self) -> Any: ...

    def __exit__(self, *exception: object) -> None: ...

    def close(self) -> None:
        """End the workers."""
        ...


def make_verifier(name: str, **options: Any) -> OpenVerifier:
    """Return the verifier called `name`: `math`, `number`, `exact`, `code`, or `python:path/to/file.py:function`.

    `options` are the keywords of its class, such as `timeout=10` or `unsafe_execution=True`.

    Raises:
        UserError: an unknown name or option (the closest is named), or a function that cannot be loaded.
    """
    if name.startswith(PYTHON):
        _check(name, FunctionVerifier, options)
        return FunctionVerifier(load_function(name.removeprefix(PYTHON)), **options)
    if name not in VERIFIERS:
        raise choice_error("verifier", name, [*VERIFIERS, "python:path.py:function"])
    _check(name, VERIFIERS[name], options)
    return VERIFIERS[name](**options)


def _check(name: str, kind: type, options: Mapping[str, Any]) -> None:
    known = [option for option in inspect.signature(kind).parameters if option != "function"]
    for option in options:
        if option not in known:
            raise UserError(
                f"the verifier {name} has no option {option!r}: expected one of {', '.join(known)}"
                f"{nearest(option, known)}"
            )
