"""A paper's claims as data, and the verdict that a measured interval gives each of them.

A study lists its claims before the run: sentence, paper's number, statistic, direction and threshold. The run
fills in an interval. `verdict` is a function of claim and interval alone, so nothing can be tuned after the
fact; reading `claims.json` derives every verdict again and refuses a file in which one was changed.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from fionalm.errors import UserError
from fionalm.paths import atomic_write_text
from fionalm.report.wording import format_number
from fionalm.statistics import Interval

Direction = Literal["greater", "less", "within"]
Verdict = Literal["supported", "contradicted", "inconclusive"]
DIRECTIONS: tuple[Direction, ...] = ("greater", "less", "within")
VERDICTS: tuple[Verdict, ...] = ("supported", "contradicted", "inconclusive")
CLAIMS_FILE = "claims.json"
_TEXTS = ("id", "claim", "paper", "statistic", "unit", "samples")


@dataclass(frozen=True)
class Claim:
    """What a paper says, and what this project would have to measure to believe it; fixed before the run.

    Attributes:
        id: short name, unique within a study, such as `qk-layernorm-survives`.
        claim: the paper's claim in one sentence.
        paper: figure or table and number, such as `Figure 1: 0.9 against 3.1`.
        statistic: what this run measures, in words.
        direction: the side of `threshold` that supports the claim; `within` means inside the bounds.
        threshold: a number; for `within` a number t (bounds -t and t) or a pair (low, high).
        unit: unit of the statistic, empty for a plain ratio or count.
        samples: what the interval is over: `seeds`, `prompts`, `tasks`.
        exact: the statistic is deterministic: its interval has zero width and needs no samples.
        paper_effect: the paper's own number if it is on the same statistic, drawn beside the measured one.
    """

    id: str
    claim: str
    paper: str
    statistic: str
    direction: Direction
    threshold: float | tuple[float, float]
    unit: str = ""
    samples: str = "seeds"
    exact: bool = False
    paper_effect: float | None = None

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            raise ValueError(f"claim {self.id!r}: direction {self.direction!r} is not one of {DIRECTIONS}")
        pair = isinstance(self.threshold, (tuple, list))
        if pair and self.direction != "within":
            raise ValueError(f"claim {self.id!r}: only a 'within' claim takes a pair of bounds")
        if pair and len(self.threshold) != 2:  # pyright: ignore[reportArgumentType]
            raise ValueError(f"claim {self.id!r}: bounds must be (low, high), not {self.threshold}")
        low, high = self.bounds
        if math.isnan(low) or math.isnan(high) or (math.isinf(low) and math.isinf(high)) or low > high:
            raise ValueError(f"claim {self.id!r}: threshold {self.threshold} leaves nothing to support it")

    @property
    def bounds(self) -> tuple[float, float]:
        """Return the ends of the supporting side; one is infinite unless the direction is `within`."""
        if isinstance(self.threshold, (tuple, list)):
            return float(self.threshold[0]), float(self.threshold[1])
        value = float(self.threshold)
        if self.direction == "within":
            return -value, value
        return (value, math.inf) if self.direction == "greater" else (-math.inf, value)

    @property
    def criterion(self) -> str:
        """Return the condition for support in words, such as `above 1.5 nats`."""
        low, high = self.bounds
        unit = f" {self.unit}" if self.unit else ""
        if low == high:
            return f"exactly {format_number(low)}{unit}"
        if self.direction == "within":
            return f"between {format_number(low)} and {format_number(high)}{unit}"
        return (
            f"above {format_number(low)}{unit}" if self.direction == "greater" else f"below {format_number(high)}{unit}"
        )


@dataclass(frozen=True)
class Measured:
    """A claim with its measured interval and the verdict that follows; built by `measure`."""

    claim: Claim
    interval: Interval
    verdict: Verdict
    reason: str
    n: int | None = None
    detail: str = ""

    @property
    def counted(self) -> str:
        """Return what the interval is over, such as `3 seeds`; empty where `n` is not known."""
        if self.n is None:
            return ""
        return f"{self.n:,} {self.claim.samples.removesuffix('s') if self.n == 1 else self.claim.samples}"

    def to_dict(self) -> dict[str, Any]:
        """Return the object that `claims.json` holds; a number that is not finite becomes None."""
        return {
            **asdict(self.claim),
            "effect": _finite(self.interval.estimate),
            "interval": [_finite(end) for end in self.interval.as_list()],
            "verdict": self.verdict,
            "reason": self.reason,
            "n": self.n,
            "detail": self.detail,
        }


def exact(value: float) -> Interval:
    """Return the zero-width interval of a deterministic measurement, for claims with `exact=True`."""
    return Interval(float(value), float(value), float(value))


def measure(claim: Claim, interval: Interval, *, detail: str = "", n: int | None = None) -> Measured:
    """Give `claim` the verdict that `interval` alone decides.

    Supported: the whole interval is on the supporting side. Contradicted: the whole interval is on the other
    side. The threshold of a `greater` or `less` claim belongs to neither side, the bounds of a `within` claim
    support it. An effect or an end that is not finite (one seed, nothing measured) is inconclusive and the
    reason says so.

    Args:
        claim: the claim, stated before the run.
        interval: estimate and confidence interval of `claim.statistic`; `exact(value)` if `claim.exact`.
        detail: what a reader should know about this measurement, one or two sentences.
        n: number of `claim.samples` behind the interval.

    Raises:
        ValueError: ends in the wrong order, or an exact claim with an interval of some width.
    """
    estimate, low, high = (float(value) for value in (interval.estimate, interval.low, interval.high))
    if low > high:
        raise ValueError(f"claim {claim.id!r}: interval [{low}, {high}] has its ends in the wrong order")
    if claim.exact and math.isfinite(estimate) and not estimate == low == high:
        raise ValueError(f"claim {claim.id!r} is exact, but its interval [{low}, {high}] has a width")
    undecided = Measured(
        claim, Interval(estimate, low, high), "inconclusive", "", None if n is None else int(n), detail
    )
    verdict, reason = _decide(undecided)
    return replace(undecided, verdict=verdict, reason=reason)


def count_verdicts(measured: Sequence[Measured]) -> dict[Verdict, int]:
    """Return how many claims got each verdict, all three always present."""
    counts = Counter(entry.verdict for entry in measured)
    return {verdict: counts[verdict] for verdict in VERDICTS}


def write_claims(folder: Path | str, measured: Sequence[Measured]) -> Path:
    """Write `claims.json` into a run folder: strictly valid JSON, one object a claim; return its path.

    Raises:
        ValueError: two claims with one id.
        UserError: the folder cannot be written.
    """
    repeated = [name for name, count in Counter(entry.claim.id for entry in measured).items() if count > 1]
    if repeated:
        raise ValueError(f"claim ids must be unique, but {repeated} occur more than once")
    path = Path(folder) / CLAIMS_FILE
    text = json.dumps([entry.to_dict() for entry in measured], indent=2, allow_nan=False)
    atomic_write_text(path, text + "\n")
    return path


def read_claims(folder: Path | str) -> list[Measured]:
    """Read `claims.json` of a run folder, deriving each verdict again from its interval.

    Raises:
        UserError: no such file, a file that is not such a list, or a verdict that its interval does not give.
    """
    path = Path(folder) / CLAIMS_FILE
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} has no {CLAIMS_FILE}: expected the folder of a finished study") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if not isinstance(entries, list):
        raise UserError(f"{path} should hold a list of claims, not {type(entries).__name__}")
    return [_from_dict(entry, path) for entry in entries]


def _decide(entry: Measured) -> tuple[Verdict, str]:
    claim, interval = entry.claim, entry.interval
    bound_low, bound_high = claim.bounds
    low, high = interval.low, interval.high
    if not math.isfinite(interval.estimate):
        return "inconclusive", "the effect could not be measured"
    if not (math.isfinite(low) and math.isfinite(high)):
        return "inconclusive", "no interval can be given" + (f" from {entry.counted}" if entry.counted else "")
    what = "the exact value" if claim.exact else "the whole interval"
    if not low <= interval.estimate <= high:
        what += ", which does not hold its own estimate,"
    inside = (
        (bound_low <= low and high <= bound_high)
        if claim.direction == "within"
        else bound_low < low and high < bound_high
    )
    if inside:
        return "supported", f"{what} is {claim.criterion}"
    if high < bound_low or low > bound_high:
        return "contradicted", f"{what} is not {claim.criterion}"
    return "inconclusive", f"the {'exact value' if claim.exact else 'interval'} touches or crosses the threshold"


def _from_dict(entry: Any, path: Path) -> Measured:
    if not isinstance(entry, dict):
        raise UserError(f"{path} should hold objects, not {type(entry).__name__}")
    try:
        values = {field.name: entry[field.name] for field in fields(Claim) if field.name in entry}
        values |= {name: str(values[name]) for name in _TEXTS if name in values}
        if values.get("paper_effect") is not None:
            values["paper_effect"] = float(values["paper_effect"])
        if isinstance(values.get("threshold"), list):
            values["threshold"] = tuple(values["threshold"])
        low, high = (_number(end) for end in entry["interval"])
        interval = Interval(_number(entry["effect"]), low, high)
        measured = measure(Claim(**values), interval, detail=str(entry.get("detail", "")), n=entry.get("n"))
        given = entry["verdict"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: claim {entry.get('id')!r} is not complete: {error}") from error
    if given != measured.verdict:
        raise UserError(
            f"{path}: claim {measured.claim.id!r} says {given!r}, but its interval gives {measured.verdict!r}"
        )
    return measured


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
