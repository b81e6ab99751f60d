"""Errors that a user can mend: one sentence each, printed without a traceback, exit code 2."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class UserError(Exception):
    """A mistake of the user's: the sentence says what was given, what was expected and the nearest choice."""


class MissingExtraError(UserError):
    """An optional part is not installed."""


def nearest(given: str, choices: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the choice closest to `given`, or an empty string.

    The first choice that begins with what was given comes before a similar one: `h100` means `h100-80gb`, not `a100`.
    """
    names = list(choices)
    begun = [name for name in names if given and name.lower().startswith(given.lower())]
    close = begun or difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def choice_error(what: str, given: object, choices: Iterable[str]) -> UserError:
    """Build the error for a value outside a closed set of names."""
    names = list(choices)
    expected = ", ".join(names)
    return UserError(f"unknown {what} {given!r}: expected one of {expected}{nearest(str(given), names)}")


def require(module: str, extra: str) -> ModuleType:
    """Import an optional `module`, or raise the error that names the extra which brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(
            f"this needs the package {module.split('.')[0]!r}, which is not installed: pip install 'fiona-lm[{extra}]'"
        ) from error
