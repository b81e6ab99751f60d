"""SVG inside a report: saved figures made safe to inline, and the small drawing of a claim's interval.

An inlined figure may not reach outside itself: its ids get a prefix of their own; its style sheet (it would
apply to the whole page) and everything that could run or fetch is dropped; its inks become the page's colour
variables, so that one file serves light and dark readers.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

from markupsafe import Markup

from fionalm.errors import UserError
from fionalm.report.claims import Measured
from fionalm.report.wording import clean, format_interval, format_number

# The exact colours that figures are drawn with, by the page's variable that takes the place of each.
INKS = {"ink": "#1f2328", "muted": "#59636e", "grid": "#d8dee4", "paper": "#ffffff"}
_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_SHAPES = {"path", "rect", "circle", "ellipse", "line", "polyline", "polygon", "text", "tspan"}
_DRAWN = _SHAPES | {"svg", "g", "defs", "use", "clipPath", "title", "desc", "linearGradient", "stop"}
_BAR_WIDTH, _BAR_HEIGHT, _MARGIN = 220, 44, 12


def inline_figure(path: Path, prefix: str, label: str) -> tuple[Markup, float]:
    """Return a saved figure as markup for an HTML page, and its width in points.

    Args:
        path: an SVG file that `save_figure` wrote.
        prefix: put before every id, unique within the page.
        label: the figure in words, for those who cannot see it.

    Raises:
        UserError: the file is not readable as SVG.
    """
    try:
        root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise UserError(f"cannot read the figure {path}: {error}") from error
    if root.tag != f"{_SVG}svg":
        raise UserError(f"{path} is not an SVG file: its root is {root.tag!r}")
    root.tail = None
    _strip(root, prefix)
    view = [float(part) for part in re.findall(r"-?[\d.]+", root.get("viewBox", ""))]
    width = view[2] if len(view) == 4 else 324.0
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.set("role", "img")
    root.set("aria-label", label)
    markup = ElementTree.tostring(root, encoding="unicode")
    for name, color in INKS.items():
        markup = re.sub(re.escape(color), f"var(--{name})", markup, flags=re.IGNORECASE)
    return Markup(markup), width


def interval_svg(measured: Measured) -> Markup:
    """Draw a claim's interval against its threshold; the paper's own number is a diamond."""
    claim, interval = measured.claim, measured.interval
    low_bound, high_bound = claim.bounds
    ends = [end for end in (low_bound, high_bound) if math.isfinite(end)]
    shown = [value for value in (interval.estimate, interval.low, interval.high) if math.isfinite(value)]
    place, clipped = _axis(ends + shown, claim.paper_effect)
    left, right = place(low_bound), place(high_bound)
    parts = [
        f'<rect class="side" x="{left:.1f}" y="6" width="{max(right - left, 1.5):.1f}" height="18"/>',
        f'<line class="axis" x1="0" x2="{_BAR_WIDTH}" y1="24" y2="24"/>',
    ]
    for end in dict.fromkeys(ends):
        parts.append(f'<line class="threshold" x1="{place(end):.1f}" x2="{place(end):.1f}" y1="3" y2="28"/>')
        parts.append(_label(place(end), format_number(end)))
    if math.isfinite(interval.low) and math.isfinite(interval.high):
        start, stop = place(interval.low), place(interval.high)
        parts.append(f'<line class="range" x1="{start:.1f}" x2="{max(stop, start + 0.1):.1f}" y1="15" y2="15"/>')
    if claim.paper_effect is not None and math.isfinite(claim.paper_effect):
        parts.append(_diamond(place(claim.paper_effect), clipped))
    if math.isfinite(interval.estimate):
        parts.append(f'<circle class="estimate" cx="{place(interval.estimate):.1f}" cy="15" r="4.5"/>')
    body = "".join(parts)
    frame = '<svg class="interval {}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    label = clean(_words(measured))
    return Markup(frame).format(measured.verdict, _BAR_WIDTH, _BAR_HEIGHT, label, Markup(body))


def _strip(element: ElementTree.Element, prefix: str) -> None:
    element.tag = element.tag.removeprefix(_SVG)
    href = element.attrib.pop(_HREF, None) or element.attrib.pop("href", None)
    if href is not None and href.startswith("#"):
        element.set("href", f"#{prefix}{href[1:]}")
    for name, value in list(element.attrib.items()):
        if name.startswith(("{", "on")):
            del element.attrib[name]
        elif name == "id":
            element.set(name, prefix + value)
        elif "url(" in value:
            element.set(name, re.sub(r"url\(\s*['\"]?(#?)([^)]*?)['\"]?\s*\)", _local_url(prefix), value))
    for child in list(element):
        tag = child.tag.removeprefix(_SVG) if isinstance(child.tag, str) else ""
        if tag in _DRAWN and not (tag == "title" and element.tag == "svg"):
            _strip(child, prefix)
        else:
            element.remove(child)


def _local_url(prefix: str) -> Callable[[re.Match[str]], str]:
    return lambda found: f"url(#{prefix}{found[2]})" if found[1] else "none"


def _axis(values: list[float], paper_effect: float | None) -> tuple[Callable[[float], float], bool]:
    """Return value -> x, and whether the paper's number lies too far out to stretch the axis to it."""
    low, high = min(values), max(values)
    span = (high - low) or abs(low) or 1.0
    clipped = False
    if paper_effect is not None and math.isfinite(paper_effect):
        clipped = not low - 2 * span <= paper_effect <= high + 2 * span
        if not clipped:
            low, high = min(low, paper_effect), max(high, paper_effect)
    low, high = low - 0.15 * span, high + 0.15 * span
    if low == high:  # a span lost to rounding, beside a value of 1e16
        low, high = low - 1, high + 1

    def place(value: float) -> float:
        if math.isinf(value):
            return 0.0 if value < 0 else float(_BAR_WIDTH)
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        return _MARGIN + share * (_BAR_WIDTH - 2 * _MARGIN)

    return place, clipped


def _label(x: float, text: str) -> str:
    anchor = "start" if x < 30 else "end" if x > _BAR_WIDTH - 30 else "middle"
    return f'<text x="{x:.1f}" y="40" text-anchor="{anchor}">{text}</text>'


def _diamond(x: float, clipped: bool) -> str:
    if clipped:
        side = 1 if x > _BAR_WIDTH / 2 else -1
        return f'<path class="paper" d="M{x:.1f} 9l{side * 8} 6l{-side * 8} 6z"/>'
    return f'<path class="paper" d="M{x:.1f} 8.5l5 6.5l-5 6.5l-5 -6.5z"/>'


def _words(measured: Measured) -> str:
    claim, interval = measured.claim, measured.interval
    words = f"measured {format_number(interval.estimate)}, {format_interval(interval.low, interval.high)}"
    words += f"; supported if {claim.criterion}"
    return words + ("" if claim.paper_effect is None else f"; paper {format_number(claim.paper_effect)}")
