"""One run of a sweep: what to call with which configuration, its hash, and how it ended.

A trial names its function by import path and its configuration as JSON, so that it means the same in another
process, on another machine and next year. Equal trials have equal hashes, and a hash is the trial's name in
the `TrialStore`.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from fionalm.errors import UserError

TRIAL_VERSION = 1
"""Part of every hash: raised when a change of the library makes stored results mean something else."""

Status = Literal["finished", "crashed"]


@dataclass(frozen=True, eq=False)
class Trial:
    """A call of `function(config)`, which returns a JSON dict; trials of equal hash are equal.

    Attributes:
        function: `"package.module:function"`.
        config: JSON values only; tuples become lists, and 2.0 is the same number as 2.
        cost: expected work in any unit, for scheduling and the time left; no part of the trial's identity.

    Raises:
        UserError: a function that is no import path, or a configuration that JSON cannot hold.
    """

    function: str
    config: dict[str, Any]
    cost: float = 1.0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w+(\.\w+)*:\w+", self.function):
            raise UserError(
                f"trial function {self.function!r} is not an import path: expected 'package.module:function'"
            )
        if not isinstance(self.config, dict):
            raise UserError(f"a trial's config is a dict of JSON values, not a {type(self.config).__name__}")
        try:
            plain = json.loads(json.dumps(self.config))
        except (TypeError, ValueError) as error:
            raise UserError(f"the config of a trial of {self.function} is not JSON: {error}") from error
        object.__setattr__(self, "config", plain)
        if not self.cost > 0:
            raise UserError(f"the cost of a trial is {self.cost}: expected a positive number")

    @cached_property
    def hash(self) -> str:
        """Return 32 hexadecimal digits that depend on function, config and `TRIAL_VERSION` alone."""
        identity = json.dumps(
            [TRIAL_VERSION, self.function, _canonical(self.config)], sort_keys=True, separators=(",", ":")
        )
        return hashlib.sha256(identity.encode()).hexdigest()[:32]

    def __eq__(self, other: object) -> bool:
        return self.hash == other.hash if isinstance(other, Trial) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.hash)


@dataclass(frozen=True)
class TrialOutcome:
    """How a trial ended; a diverged run is a finished one whose result says so.

    Attributes:
        trial: what was run.
        status: `"finished"`, or `"crashed"`: an exception, or a process that died.
        result: what the function returned; None when crashed.
        error: the traceback, or what is known of the process's death; None when finished.
        seconds: the time that the call took, without the start of its process.
        cached: it came from the store and was not run now.
    """

    trial: Trial
    status: Status
    result: dict[str, Any] | None
    error: str | None = None
    seconds: float = 0.0
    cached: bool = False


def _canonical(value: Any) -> Any:
    # A config that went through a command line or another JSON writer comes back with 1.0 as 1.
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return value
