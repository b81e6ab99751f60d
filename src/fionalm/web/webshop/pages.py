"""The shop's pages: where the customer is (`Page`), and what a page holds (`Part`s), from which all views are made.

    index -> search_results -> item_page -> item_sub_page, and item_page -> done

A page is its URL: everything that it shows follows from it, the catalogue and the goal, so that going back, a second
worker or a person's browser see the same. A URL has the original's form, percent-encoded:
`/item_page/SESSION/ASIN/KEYWORDS/PAGE/OPTIONS`; a session is the place of its goal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple
from urllib.parse import quote, quote_plus, unquote, unquote_plus

KINDS = ("index", "search_results", "item_page", "item_sub_page", "done")
BACK, NEXT, PREVIOUS, BUY, SEARCH = "Back to Search", "Next >", "< Prev", "Buy Now", "Search"
SUB_PAGES = ("Description", "Features", "Reviews")
ATTRIBUTES = "Attributes"


@dataclass(frozen=True, slots=True)
class Page:
    """Where a customer is. `number` is the page of results; `options` are those chosen: name and value."""

    session: str
    kind: str = "index"
    keywords: tuple[str, ...] = ()
    number: int = 1
    asin: str = ""
    sub_page: str = ""
    options: tuple[tuple[str, str], ...] = ()

    def choose(self, name: str, value: str) -> Page:
        """Return the item's page with one more option chosen, or another value of it."""
        return replace(self, options=tuple({**dict(self.options), name: value}.items()))

    @property
    def url(self) -> str:
        """The page's address on its server, from the root on."""
        session = quote(self.session, safe="")
        if self.kind == "index":
            return f"/{session}"
        keywords = quote_plus(" ".join(self.keywords))
        if self.kind == "search_results":
            return f"/search_results/{session}/{keywords}/{self.number}"
        asin, options = quote(self.asin, safe=""), quote(json.dumps(dict(self.options)), safe="")
        if self.kind == "item_page":
            return f"/item_page/{session}/{asin}/{keywords}/{self.number}/{options}"
        if self.kind == "item_sub_page":
            return f"/item_sub_page/{session}/{asin}/{keywords}/{self.number}/{self.sub_page}/{options}"
        return f"/done/{session}/{asin}/{options}"


def read_url(path: str) -> Page:
    """Return the page at a URL's path.

    Raises:
        ValueError: no page has this address. (Whether goal and product exist is the shop's to say.)
    """
    kind, *parts = path.strip("/").split("/")
    if kind not in KINDS or kind == "index":
        if parts or not kind:
            raise ValueError(f"no page at {path}")
        return Page(unquote(kind))
    if len(parts) != {"search_results": 3, "item_page": 5, "item_sub_page": 6, "done": 3}[kind]:
        raise ValueError(f"no page at {path}")
    session = unquote(parts[0])
    if kind == "search_results":
        return Page(session, kind, _keywords(parts[1]), _number(parts[2]))
    asin, options = unquote(parts[1]), _options(parts[-1])
    if kind == "done":
        return Page(session, kind, asin=asin, options=options)
    sub_page = unquote(parts[4]) if kind == "item_sub_page" else ""
    if sub_page not in ("", *SUB_PAGES, ATTRIBUTES):
        raise ValueError(f"no page at {path}")
    return Page(session, kind, _keywords(parts[2]), _number(parts[3]), asin, sub_page, options)


class Part(NamedTuple):
    """One thing on a page: a text, a button, a link to a product, an option, or markup that shows nothing itself.

    `text` is what is seen (of markup: the markup). `target` is where a click leads. `name` is a text's or button's
    element or class, or an option's name; `chosen` says whether an option is.
    """

    kind: str
    text: str
    target: Page | None = None
    name: str = ""
    chosen: bool = False


def visible(parts: list[Part]) -> Iterator[Part]:
    """Yield the parts that show a text."""
    return (part for part in parts if part.kind not in ("markup", "search") and part.text)


def as_text(parts: list[Part]) -> str:
    """Return a page as the original's `text` mode: what is seen, joined by ` [SEP] `."""
    return " [SEP] ".join([part.text for part in parts if part.kind not in ("markup", "search") and part.text])


def as_rich_text(parts: list[Part], visited: frozenset[str] | set[str] = frozenset()) -> str:
    """Return a page as the original's `text_rich` mode.

    A line each; what can be clicked stands between `[button]` and `[button_]`, or `[clicked button]` where an option is
    chosen or a product's page was `visited`; chosen options are told first, the last one on the page at the top.
    """
    lines, told = [], []
    for part in visible(parts):
        clicked = part.chosen or (part.kind == "link" and part.text in visited)
        word = "clicked button" if clicked else "button"
        if part.kind == "text":
            lines.append(part.text)
        elif part.kind == "button":
            lines.append(f"[button] {part.text} [button_]")
        elif part.kind == "link":
            lines.append(f"\n[{word}] {part.text} [{word}_]")
        else:
            lines.append(f"  [{word}] {part.text} [{word}_]")
            if clicked:
                told.insert(0, f"You have clicked {part.text}.")
    return "\n".join([*told, *lines]) + "\n"


def clickables(parts: list[Part]) -> dict[str, Page]:
    """Return what can be clicked on a page, in lower case, and where it leads.

    Where two options have the same value, a click means the later one: actions name values alone.
    """
    found = {part.text.lower(): part.target for part in parts if part.kind in ("button", "link") and part.target}
    found.update({part.text.lower(): part.target for part in parts if part.kind == "option" and part.target})
    return found


def _keywords(part: str) -> tuple[str, ...]:
    return tuple(unquote_plus(part).split(" "))


def _number(part: str) -> int:
    if not part.isdecimal() or int(part) < 1:
        raise ValueError(f"page of results {part}: expected 1 or more")
    return int(part)


def _options(part: str) -> tuple[tuple[str, str], ...]:
    options = json.loads(unquote(part))
    if not isinstance(options, dict) or not all(isinstance(value, str) for value in options.values()):
        raise ValueError(f"options {part}: expected an object of texts")
    return tuple(options.items())
