"""WebShop's reward (Yao et al. 2022, section 3.2), term by term as the original's code has it.

    r = r_type * (matched attributes + matched options + [price <= limit]) / (attributes + options + 1)

One thing differs from that code: nouns are found by rule (`nouns`). Its quirks are kept: `large` matches `x-large`,
since the words of one are all in the other, and two colours match if the first colour word in both is the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from fionalm.errors import require
from fionalm.web.webshop.goals import Goal
from fionalm.web.webshop.nouns import title_nouns
from fionalm.web.webshop.products import Product

FUZZY_MATCH = 85
_COLORS = """
alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel camo
caramel champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry cream crystal
dark denim eggplant elephant espresso fuchsia gold granite grape graphite grass gray green grey heather indigo ivory
ivy khaki lavender lemon leopard light lilac lime magenta maroon mauve merlot midnight mint mocha multicolor mushroom
mustard natural navy nude olive orange peach pewter pink plum purple rainbow red rose royal rust sand sapphire
seashell silver skull slate steel stone stonewash sunflower tan taupe teal tiger turquoise violet walnut wheat white
wine yellow"""
COLORS = tuple(_COLORS.split())


@dataclass(frozen=True, slots=True)
class Reward:
    """A purchase's reward and the terms that it is made of."""

    total: float
    type_reward: float
    title_score: float
    query_match: bool
    category_match: bool
    attributes_matched: int
    attributes_wanted: int
    options_matched: int
    options_wanted: int
    price_matched: bool

    @property
    def success(self) -> bool:
        """The paper's success: a reward of 1."""
        return self.total == 1.0


def purchase_reward(product: Product, chosen: Mapping[str, str], goal: Goal) -> Reward:
    """Return what buying `product` with the `chosen` options (name to value) is worth for `goal`."""
    kind, title_score, query, category = type_reward(product, goal)
    attributes = sum(_has_attribute(product, name) for name in goal.attributes)
    options = _matched_options(chosen, goal)
    price = product.price <= goal.price_upper
    total = kind * (attributes + options + price) / (len(goal.attributes) + len(goal.options) + 1)
    return Reward(
        total=total,
        type_reward=kind,
        title_score=title_score,
        query_match=query,
        category_match=category,
        attributes_matched=attributes,
        attributes_wanted=len(goal.attributes),
        options_matched=options,
        options_wanted=len(goal.options),
        price_matched=price,
    )


def type_reward(product: Product, goal: Goal) -> tuple[float, float, bool, bool]:
    """Return r_type, the title score, and whether the queries and the categories match.

    1 where the product came from the goal's query, shares two levels of its categories or a fifth of its title's nouns,
    else 0.5; but 0.1 where under a tenth of the nouns are shared, and 0 where none is, whatever else matches.
    """
    wanted = title_nouns(goal.title)
    # As in the original, a noun that the goal's title repeats counts once above and each time below.
    score = len({*wanted} & {*title_nouns(product.title)}) / len(wanted) if wanted else 0.2
    query = product.query == goal.query
    category = len(_levels(product.product_category) & _levels(goal.product_category)) >= 2
    kind = 1.0 if query or category or score > 0.2 else 0.5
    if score < 0.1:
        kind = 0.1
    if score == 0.0:
        kind = 0.0
    return kind, score, query, category


def _has_attribute(product: Product, wanted: str) -> bool:
    """Whether an attribute of the product is like `wanted`, or a text of its page says it."""
    if any(token_set_ratio(attribute, wanted) > FUZZY_MATCH for attribute in product.attributes):
        return True
    return any(wanted in text for text in product.shelf_text)


def _matched_options(chosen: Mapping[str, str], goal: Goal) -> int:
    """Return how many of the options asked for are like one that was chosen."""
    values = [plain_color(value) for value in chosen.values()]
    wanted = (plain_color(value) for value in goal.options)
    return sum(any(token_set_ratio(value, one) > FUZZY_MATCH for value in values) for one in wanted)


def plain_color(value: str) -> str:
    """Return the first color of the list, in its order, that occurs in `value`; without one, the value itself."""
    return next((color for color in COLORS if color in value), value)


@lru_cache(maxsize=65536)
def token_set_ratio(one: str, other: str) -> int:
    """Return thefuzz's `token_set_ratio` in whole percent: both cut to lower-case ASCII words first."""
    fuzz = require("rapidfuzz", "web").fuzz
    return round(fuzz.token_set_ratio(_cut(one), _cut(other)))


def _cut(text: str) -> str:
    return re.sub(r"\W", " ", text.encode("ascii", "ignore").decode()).lower().strip()


@lru_cache(maxsize=65536)
def _levels(path: str) -> frozenset[str]:
    return frozenset(level.strip() for level in path.split("›"))
