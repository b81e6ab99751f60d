"""The shop: a catalogue with its search engine and goals, what each page holds and where each action leads.

shop = open_shop()
page = shop.start(17)                                   # the search page of goal 17
page, error = shop.act(page, "search[red table lamp]")
shop.observe(page, "text")
"""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from fionalm.errors import UserError, choice_error, nearest
from fionalm.web.webshop.generator import generate_catalogue
from fionalm.web.webshop.goals import Goal, make_goals
from fionalm.web.webshop.loading import load_catalogue
from fionalm.web.webshop.markup import as_html, picture_part
from fionalm.web.webshop.pages import (
    ATTRIBUTES,
    BACK,
    BUY,
    NEXT,
    PREVIOUS,
    SEARCH,
    SUB_PAGES,
    Page,
    Part,
    as_rich_text,
    as_text,
    clickables,
)
from fionalm.web.webshop.products import Catalogue, Product
from fionalm.web.webshop.reward import Reward, purchase_reward
from fionalm.web.webshop.search import PER_PAGE, SearchEngine

OBSERVATION_MODES = ("text", "text_rich", "html", "url")
BASE_URL = "http://127.0.0.1:3000"
_ACTION = re.compile(r"(.+)\[(.+)\]", re.DOTALL)
_OPEN, _CLOSE = Part("markup", '<div class="card">'), Part("markup", "</div>")


@dataclass(frozen=True)
class Shop:
    """A catalogue, the engine that searches it and the goals that are set in it.

    `show_attributes` adds the page of mined attributes to every product, as the original can. `search_anywhere` lets
    an agent search from every page, as the original's text environment does although its pages have no search bar.
    """

    catalogue: Catalogue
    goals: tuple[Goal, ...]
    show_attributes: bool = False
    search_anywhere: bool = False
    engine: SearchEngine = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "engine", SearchEngine(self.catalogue))

    def start(self, goal: int) -> Page:
        """Return the first page of the goal at this place."""
        return Page(str(range(len(self.goals))[goal]))

    def goal(self, page: Page) -> Goal:
        """Return the goal that a page's session is about.

        Raises:
            UserError: there is no such goal.
        """
        if not page.session.isdecimal() or int(page.session) >= len(self.goals):
            raise UserError(f"no goal {page.session!r}: expected a number from 0 to {len(self.goals) - 1}")
        return self.goals[int(page.session)]

    def product(self, page: Page) -> Product:
        """Return the product that a page is about.

        Raises:
            UserError: there is no such product.
        """
        if page.asin not in self.catalogue.by_asin:
            raise UserError(f"no product {page.asin!r}: expected a number as on the results' pages")
        return self.catalogue.by_asin[page.asin]

    def act(self, page: Page, action: str, parts: list[Part] | None = None) -> tuple[Page, str | None]:
        """Return where `search[...]` or `click[...]` leads, or the same page and why it does nothing.

        Args:
            page: where the customer is.
            action: what they do; words are compared in lower case.
            parts: the page's, if they are at hand.
        """
        match = _ACTION.match(action)
        name, argument = (match[1], match[2].lower()) if match else (action, "")
        if name == "search" and argument:
            if page.kind != "index" and not (self.search_anywhere and page.kind != "done"):
                return page, f"no search bar here: expected click[...] first, such as click[{BACK.lower()}]"
            return Page(page.session, "search_results", tuple(argument.split(" "))), None
        if name == "click" and argument:
            found = clickables(self.parts(page) if parts is None else parts)
            if argument in found:
                return found[argument], None
            return page, f"nothing to click called {argument!r} here{nearest(argument, found)}"
        return page, f"unknown action {action[:80]!r}: expected search[keywords] or click[value]"

    def purchase(self, page: Page) -> Reward:
        """Return what the purchase that led to a page of kind `done` is worth."""
        return purchase_reward(self.product(page), dict(page.options), self.goal(page))

    def observe(self, page: Page, mode: str, visited: Set[str] = frozenset(), parts: list[Part] | None = None) -> str:
        """Return a page as an agent reads it.

        Args:
            page: which one.
            mode: `text`, `text_rich`, `html` or `url`.
            visited: products whose pages were seen, for `text_rich`.
            parts: the page's, if they are at hand.

        Raises:
            UserError: the mode is unknown, or there is no such page.
        """
        if mode == "url":
            return BASE_URL + page.url
        parts = self.parts(page) if parts is None else parts
        if mode == "text":
            return as_text(parts)
        if mode == "text_rich":
            return as_rich_text(parts, frozenset(visited))
        if mode == "html":
            return as_html(parts)
        raise choice_error("observation mode", mode, OBSERVATION_MODES)

    def parts(self, page: Page) -> list[Part]:
        """Return what a page holds, from top to bottom.

        Raises:
            UserError: there is no such goal or product.
        """
        goal = self.goal(page)
        if page.kind == "done":
            return [
                Part("text", "Thank you for shopping with us!", name="h1"),
                Part("text", "Your score (min 0.0, max 1.0)", name="h3"),
                Part("text", str(self.purchase(page).total), name="p"),
            ]
        head = [
            Part("markup", '<div id="instruction-text">'),
            Part("text", "Instruction:", name="h4"),
            Part("text", goal.instruction, name="p"),
            _CLOSE,
        ]
        index = Page(page.session)
        if page.kind == "index":
            return [Part("text", "WebShop", name="h2"), *head, Part("search", "", index), Part("button", SEARCH)]
        head.append(Part("button", BACK, index))
        if page.kind == "search_results":
            return head + self._results(page)
        if page.kind == "item_page":
            return head + self._item(page)
        back = replace(page, kind="item_page", sub_page="")
        product = self.product(page)
        return [*head, Part("button", PREVIOUS, back), _OPEN, *_sub_page(product, page.sub_page), _CLOSE]

    def results(self, page: Page) -> tuple[Product, ...]:
        """Return all that was found for a page's keywords, 50 at most."""
        return self.engine.search(page.keywords, page.session)

    def _results(self, page: Page) -> list[Part]:
        found = self.results(page)
        parts = [Part("text", f"Page {page.number} (Total results: {len(found)})", name="h3")]
        if page.number > 1:
            parts.append(Part("button", PREVIOUS, replace(page, number=page.number - 1)))
        parts.append(Part("button", NEXT, replace(page, number=page.number + 1)))
        session, keywords, number = page.session, page.keywords, page.number
        for product in found[PER_PAGE * (number - 1) : PER_PAGE * number]:
            target = Page(session, "item_page", keywords, number, product.asin)
            parts += [
                _OPEN,
                picture_part(page, product.asin, product.title),
                Part("link", product.asin, target),
                Part("text", product.title, name="h4.product-title"),
                Part("text", product.price_tag, name="p.product-price"),
                _CLOSE,
            ]
        return parts

    def _item(self, page: Page) -> list[Part]:
        product = self.product(page)
        chosen = dict(page.options)
        parts = [
            Part("button", PREVIOUS, Page(page.session, "search_results", page.keywords, page.number)),
            _OPEN,
            picture_part(page, product.asin, product.title),
        ]
        for name, values in product.options.items():
            parts += [Part("text", name, name="h4"), Part("markup", '<div class="radio-toolbar">')]
            parts += [Part("option", one, page.choose(name, one), name, chosen.get(name) == one) for one in values]
            parts.append(_CLOSE)
        parts += [
            Part("text", product.title, name="h2"),
            Part("text", f"Price: {product.price_tag}", name="h4"),
            Part("text", f"Rating: {product.rating}", name="h4"),
        ]
        for name in (*SUB_PAGES, ATTRIBUTES) if self.show_attributes else SUB_PAGES:
            parts.append(Part("button", name, replace(page, kind="item_sub_page", sub_page=name)))
        done = Page(page.session, "done", asin=page.asin, options=page.options)
        return [*parts, Part("button", BUY, done, "purchase"), _CLOSE]


def _sub_page(product: Product, name: str) -> list[Part]:
    if name == "Description":
        return [Part("text", product.description.strip(), name="p.product-info")]
    if name == "Features":
        return [Part("text", bullet.strip(), name="p.product-info") for bullet in product.bullets]
    if name == "Reviews":
        parts = []
        for review in product.reviews:
            parts += [
                Part("text", f'"{review.title}"', name="h4"),
                Part("text", str(review.score), name="span.stars"),
                Part("text", review.body.strip(), name="p.content"),
            ]
        return parts
    listed = [Part("text", attribute, name="p.attribute") for attribute in product.attributes]
    told = (product.category, product.query, product.product_category)
    return [*listed, *(Part("text", one, name="h4") for one in told)]


@lru_cache(maxsize=4)
def open_shop(
    catalogue: Catalogue | Path | str | None = None,
    *,
    n_products: int | None = None,
    goals: str = "human",
    show_attributes: bool = False,
    search_anywhere: bool = False,
) -> Shop:
    """Return a shop; the same arguments give the same one, which all environments of a process share.

    Args:
        catalogue: a catalogue, a folder with the original's files, or None: the generated one.
        n_products: how many products. None: all of a folder's, or 1,000.
        goals: `human` or `synthetic`.
        show_attributes: whether products have a page of their mined attributes.
        search_anywhere: whether agents may search from every page.

    Raises:
        UserError: a file is malformed, or an argument is none of the choices.
    """
    if isinstance(catalogue, Path | str):
        catalogue = load_catalogue(catalogue, n_products)
    elif catalogue is None:
        catalogue = generate_catalogue(1000 if n_products is None else n_products)
    return Shop(catalogue, make_goals(catalogue, goals), show_attributes, search_anywhere)
