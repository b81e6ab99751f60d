"""The shop for people: the same pages as `html` observations, in a browser."""

from __future__ import annotations

import random
from collections.abc import Mapping

from fionalm.web.serving import Response, redirect
from fionalm.web.webshop.markup import STYLE, picture
from fionalm.web.webshop.pages import Page, read_url
from fionalm.web.webshop.shop import Shop


class ShopSite:
    """Answers the shop's URLs; `/` leads to the first page of a goal drawn anew each time.

    A page is shown exactly as `html` observations have it. Nothing is remembered: everything is in the URLs.
    """

    def __init__(self, shop: Shop, seed: int | None = None) -> None:
        self.shop = shop
        self._generator = random.Random(seed)

    def respond(self, path: str, query: Mapping[str, str]) -> Response:
        """Answer a request; see `fionalm.web.serving.Site`."""
        if path == "/":
            return redirect(self.shop.start(self._generator.randrange(len(self.shop.goals))).url)
        if path == "/style.css":
            return Response(STYLE, "text/css")
        if path.startswith("/picture/"):
            product = self.shop.product(Page("0", asin=path.removeprefix("/picture/").removesuffix(".svg")))
            return Response(picture(product.asin, product.title), "image/svg+xml")
        page = read_url(path)
        if page.kind == "index" and query.get("search_query", "").strip():
            self.shop.goal(page)
            keywords = tuple(query["search_query"].lower().split(" "))
            return redirect(Page(page.session, "search_results", keywords).url)
        return Response(self.shop.observe(page, "html"))
