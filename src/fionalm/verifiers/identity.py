"""What a verifier or selector is, in a few JSON values: a run that another one began is not gone on with."""

from __future__ import annotations

import hashlib
import inspect
from typing import Any


def describe(judge: Any) -> dict[str, Any]:
    """Return the name and options of a verifier or selector, or for a function of the user's its name and source.

    Whatever has a method `describe` says it itself; of a bound method, its object does.
    """
    owner = getattr(judge, "__self__", judge)
    says = getattr(owner, "describe", None)
    if says is not None:
        return dict(says())
    named = judge if hasattr(judge, "__name__") else type(judge)
    return {"name": named.__name__, "source": source_hash(named)}


def source_hash(function: Any) -> str | None:
    """Return 16 hex digits of the source of a function or class; None where Python does not know its source."""
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        return None
    return hashlib.sha256(source.encode()).hexdigest()[:16]
