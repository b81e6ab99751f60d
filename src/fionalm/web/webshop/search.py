"""Search: BM25 over what a product's page says, the fifty best, and the four special queries.

The constants are the original's engine's (Lucene's BM25 with k1 = 0.9 and b = 0.4, English stop words). Words are
stemmed by Harman's S-stemmer, which joins plurals to singulars, where Lucene's analyzer has Porter's.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from fionalm.errors import require
from fionalm.web.webshop.products import Catalogue, Product

TOP = 50
PER_PAGE = 10
K1, B = 0.9, 0.4
_STOP_WORDS = """
a an and are as at be but by for if in into is it no not of on or such that the their then there these they this to
was will with"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
_WORD = re.compile(r"[a-z0-9]+(?:\.[0-9]+)?(?:'[a-z]+)?")


class SearchEngine:
    """Finds products by keywords; equal scores keep the catalogue's order."""

    def __init__(self, catalogue: Catalogue) -> None:
        bm25s = require("bm25s", "web")
        self.catalogue = catalogue
        self._index = bm25s.BM25(method="lucene", k1=K1, b=B)
        documents = [tokenize(product.document) for product in catalogue.products]
        # A catalogue without a single word would have no vocabulary to index.
        self._has_words = any(documents)
        if self._has_words:
            self._index.index(documents, show_progress=False)
        self._vocabulary = self._index.vocab_dict if self._has_words else {}
        self._by_attribute: dict[str, list[Product]] = defaultdict(list)
        for product in catalogue.products:
            for attribute in dict.fromkeys(product.attributes):
                self._by_attribute[attribute].append(product)
        self._recent = lru_cache(maxsize=4096)(self._ranked)

    def search(self, keywords: Sequence[str], session: str = "") -> tuple[Product, ...]:
        """Return the products for `keywords`, best first, fifty at most.

        `<r>` gives random ones, the same within a `session`; `<a> ATTRIBUTE`, `<c> CATEGORY` and `<q> QUERY` give those
        that have it, in the catalogue's order. Nothing fits: nothing is found.
        """
        if not keywords:
            return ()
        products, rest = self.catalogue.products, " ".join(keywords[1:]).strip()
        if keywords[0] == "<r>":
            return tuple(random.Random(session).sample(list(products), k=min(TOP, len(products))))
        if keywords[0] == "<a>":
            return tuple(self._by_attribute.get(rest, ())[:TOP])
        if keywords[0] == "<c>":
            return tuple([product for product in products if product.category == rest][:TOP])
        if keywords[0] == "<q>":
            return tuple([product for product in products if product.query == rest][:TOP])
        return self._recent(" ".join(keywords))

    def _ranked(self, text: str) -> tuple[Product, ...]:
        known = [token for token in tokenize(text) if token in self._vocabulary]
        if not known:
            return ()
        scores = self._index.get_scores(known)
        # Those at least as good as the fiftieth, sorted without losing the order of equals.
        kept = np.flatnonzero(scores > 0)
        if len(kept) > TOP:
            bound = np.partition(scores[kept], -TOP)[-TOP]
            kept = kept[scores[kept] >= bound]
        best = kept[np.argsort(-scores[kept], kind="stable")][:TOP]
        return tuple(self.catalogue.products[place] for place in best)


def tokenize(text: str) -> list[str]:
    """Return a text's search terms: lower case, without stop words, plurals as singulars."""
    return [_stem(word) for word in _WORD.findall(text.lower()) if word not in STOP_WORDS]


@lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    """Harman's S-stemmer (1991), of which the first rule that fits is used."""
    word = word.removesuffix("'s")
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    if word.endswith("es") and not word.endswith(("aes", "ees", "oes")):
        return word[:-1]
    if word.endswith("s") and not word.endswith(("us", "ss")) and len(word) > 2:
        return word[:-1]
    return word
