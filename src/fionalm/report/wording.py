"""How numbers, times and foreign text are written in reports, figures and the terminal."""

from __future__ import annotations

import math
import re
from typing import Any

# Tab and newline may stay. The rest of C0 and C1 moves a terminal's cursor or is not valid in HTML; a lone
# surrogate cannot be encoded; the bidirectional controls can make text read differently from what it is.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufdd0-\ufdef\ufffe\uffff]"
)


def clean(text: str) -> str:
    """Replace what a browser, a terminal or an encoder cannot show safely: text may come from a model."""
    return _UNPRINTABLE.sub("\ufffd", text.replace("\r\n", "\n"))


def format_number(value: Any, digits: int = 3) -> str:
    """Write a number with `digits` significant digits, as one would say it: `1,234`, `0.0123`, `3e-5`."""
    if value is None or isinstance(value, (bool, str)):
        return "–" if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    value = float(value)
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    size = abs(value)
    if size == 0:
        return "0"
    if size < 1e-3 or size >= 1e6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"
    if size >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{float(f'{value:.{digits}g}'):.{digits}g}"


def format_tick(value: float) -> str:
    """Write a number of an axis: learning rates as `3e-4` and `0.03`, sizes as `200k`, `3M` and `1.5B`."""
    size = abs(value)
    if 0 < size < 0.0099:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if unit <= size < unit * 1e3:
            return format_number(value / unit) + name
    return format_number(value / 1e3) + "k" if 2e4 <= size < 1e6 else format_number(value)


def format_interval(low: float, high: float) -> str:
    """Write an interval, `[0.12, 0.34]`; one without ends is `no interval`."""
    if math.isnan(low) or math.isnan(high):
        return "no interval"
    return f"[{format_number(low)}, {format_number(high)}]"


def format_seconds(seconds: float) -> str:
    """Write a duration: `0.8 s`, `41 s`, `12 min 3 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
