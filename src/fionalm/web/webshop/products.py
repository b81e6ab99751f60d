"""What the shop sells: products, their reviews and the instructions that people wrote for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True, slots=True)
class Review:
    """One review of a product; `score` counts stars, 0 to 5."""

    title: str
    score: float
    body: str


@dataclass(frozen=True, slots=True)
class Instruction:
    """What somebody who wants a product says: the text without its price, and what it asks for.

    `options` are values alone, as in the original's files: which option a value belongs to is not said.
    """

    text: str
    attributes: tuple[str, ...]
    options: tuple[str, ...]


@dataclass(frozen=True)
class Product:
    """One product. `prices` is one price or a range, in dollars; `price` is what buying it costs."""

    asin: str
    title: str
    category: str
    query: str
    product_category: str
    description: str
    bullets: tuple[str, ...]
    attributes: tuple[str, ...]
    options: Mapping[str, tuple[str, ...]]
    prices: tuple[float, ...]
    price: float
    rating: str = "N.A."
    reviews: tuple[Review, ...] = ()
    instructions: tuple[Instruction, ...] = ()
    synthetic: Instruction | None = None
    """The base of synthetic goals, which go over every combination of options; its own are empty."""

    @cached_property
    def price_tag(self) -> str:
        """The price as pages show it."""
        return " to ".join(f"${price}" for price in self.prices) if self.prices else "$100.0"

    @cached_property
    def shelf_text(self) -> tuple[str, str, str]:
        """Title, bullets and description in lower case: where a wanted attribute may be said."""
        return self.title.lower(), " ".join(self.bullets).lower(), self.description.lower()

    @cached_property
    def document(self) -> str:
        """What the search engine reads: title, description, first bullet and options, as in the original's index."""
        options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in self.options.items())
        return " ".join([self.title, self.description, *self.bullets[:1], options]).lower()


@dataclass(frozen=True, eq=False)
class Catalogue:
    """All products, in the order that goals are made in; `by_asin` finds one."""

    products: Sequence[Product]
    source: str = "generated"
    by_asin: Mapping[str, Product] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_asin", {product.asin: product for product in self.products})

    def __len__(self) -> int:
        return len(self.products)
