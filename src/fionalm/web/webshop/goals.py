"""Goals: what the customer asks for, in one fixed order that is cut into test, eval and train.

    goals = make_goals(catalogue, "human")
    split_range(goals, "test")          # range(0, 500)

As in the original, an instruction's limit on the price is the larger of two of the next four multiples of ten dollars
above the price, and the order is shuffled once by a constant, not by the process or the worker.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fionalm.errors import UserError, choice_error
from fionalm.web.webshop.products import Catalogue, Product

SHUFFLE_SEED = 233
PRICE_LIMITS = tuple(10.0 * step for step in range(1, 100))
NO_LIMIT = 1_000_000.0
SPLITS = {"test": (0, 500), "eval": (500, 1500), "train": (1500, None), "all": (0, None)}


@dataclass(frozen=True, slots=True)
class Goal:
    """One task. `options` are wanted values; their names are known for synthetic goals only, as in the original."""

    asin: str
    instruction: str
    category: str
    query: str
    product_category: str
    title: str
    attributes: tuple[str, ...]
    options: tuple[str, ...]
    price_upper: float
    weight: float = 1.0


def make_goals(catalogue: Catalogue, kind: str = "human", *, seed: int = SHUFFLE_SEED) -> tuple[Goal, ...]:
    """Return the catalogue's goals in their fixed order.

    Args:
        catalogue: whose instructions to use.
        kind: `human`: what people wrote, all of equal weight. `synthetic`: a base sentence with every combination of
            the product's options, weighed by the mean of 1/count over its attributes: goals of rare ones come more
            often.
        seed: of price limits and order; the default is the original's.

    Raises:
        UserError: the kind is unknown, or there is no goal of it.
    """
    if kind not in ("human", "synthetic"):
        raise choice_error("kind of goals", kind, ("human", "synthetic"))
    generator = random.Random(seed)
    made = _human(catalogue, generator) if kind == "human" else _synthetic(catalogue, generator)
    if not made:
        raise UserError(f"catalogue {catalogue.source} has no {kind} goals: expected products with instructions")
    random.Random(seed).shuffle(made)
    return tuple(made)


def split_range(goals: Sequence[Goal], split: str) -> range:
    """Return the places of a split's goals: test 0 to 500, eval 500 to 1,500, train from there, or all.

    Raises:
        UserError: the split is unknown, or empty because there are too few goals.
    """
    if split not in SPLITS:
        raise choice_error("split", split, SPLITS)
    start, stop = SPLITS[split]
    found = range(start, len(goals) if stop is None else min(stop, len(goals)))
    if not found:
        raise UserError(f"split {split!r} begins at goal {start}, and there are {len(goals)}: expected more, or 'all'")
    return found


def _human(catalogue: Catalogue, generator: random.Random) -> list[Goal]:
    goals = []
    for product in catalogue.products:
        for wish in product.instructions:
            if wish.attributes:
                upper, said = _price_limit(product, generator)
                goals.append(_goal(product, wish.text.strip(".") + said, wish.attributes, wish.options, upper))
    return goals


def _synthetic(catalogue: Catalogue, generator: random.Random) -> list[Goal]:
    bases = [(product, product.synthetic) for product in catalogue.products if product.synthetic is not None]
    counts: Counter[str] = Counter()
    found = []
    for product, base in bases:
        if not base.attributes:
            raise UserError(f"product {product.asin} of {catalogue.source} has an instruction without attributes")
        upper, said = _price_limit(product, generator)
        for chosen in combinations(product.options):
            with_options = ", and ".join(f"{name}: {value}" for name, value in chosen.items())
            text = base.text + (f" with {with_options}" if chosen else "") + said
            found.append((product, text, base.attributes, tuple(chosen.values()), upper))
            counts.update(base.attributes)
    return [_goal(*one, weight=sum(1 / counts[name] for name in one[2]) / len(one[2])) for one in found]


def combinations(options: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Return every way to choose one value of each option, options in alphabetical order."""
    names = sorted(options)
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*(options[name] for name in names))]


def _price_limit(product: Product, generator: random.Random) -> tuple[float, str]:
    above = [limit for limit in PRICE_LIMITS if limit > product.price][:4]
    if len(above) < 2:
        return NO_LIMIT, ""
    upper = max(generator.sample(above, 2))
    return upper, f", and price lower than {upper:.2f} dollars"


def _goal(
    product: Product,
    instruction: str,
    attributes: tuple[str, ...],
    options: tuple[str, ...],
    upper: float,
    weight: float = 1.0,
) -> Goal:
    return Goal(
        asin=product.asin,
        instruction=instruction,
        category=product.category,
        query=product.query,
        product_category=product.product_category,
        title=product.title,
        attributes=attributes,
        options=options,
        price_upper=upper,
        weight=weight,
    )
