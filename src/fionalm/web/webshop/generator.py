"""The shop's own catalogue: products made of `words` by a seed, each with instructions as people would write them.

    catalogue = generate_catalogue(1000, seed=0)

Every attribute that a product has is said in its title, bullets or description, as in the original, where attributes
were mined from these texts. No product, brand or sentence is a real shop's.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from fionalm.errors import UserError
from fionalm.web.webshop import words
from fionalm.web.webshop.products import Catalogue, Instruction, Product, Review

ROOTS = {
    "beauty": "Beauty & Personal Care",
    "electronics": "Electronics",
    "fashion": "Clothing, Shoes & Jewelry",
    "garden": "Home & Kitchen",
    "grocery": "Grocery & Gourmet Food",
}
ASIN_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Attribute:
    """What a product can be: `said` as a sentence has it, `name` as files and rewards have it."""

    name: str
    said: str

    @property
    def is_adjective(self) -> bool:
        """Whether it can stand before the noun."""
        return self.name == self.said


@dataclass(frozen=True)
class ProductType:
    """One line of goods: what its products are called, cost and can be."""

    name: str
    category: str
    path: str
    prices: tuple[float, float]
    styles: tuple[str, ...]
    attributes: tuple[Attribute, ...]
    options: Mapping[str, tuple[str, ...]]

    @property
    def article(self) -> str:
        """`a`, or nothing before plurals and what is not counted."""
        plain = self.name.endswith("s") and not self.name.endswith(("ss", "'s dress"))
        uncounted = self.name.split()[-1] in words.UNCOUNTED.split()
        return "" if plain or uncounted else "a "


@lru_cache(maxsize=1)
def product_types() -> tuple[ProductType, ...]:
    """Return the types of `words.TYPES`."""
    lines = [line.strip() for line in words.TYPES.strip().splitlines()]
    types = []
    for head, styles, own in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        name, category, path, prices, options = (part.strip() for part in head.split("|"))
        low, high = map(float, prices.split("-"))
        said = dict.fromkeys(one.strip() for one in f"{own}; {words.SHARED[category]}".split(";"))
        attributes = tuple(Attribute(_bare(one), one) for one in said)
        axes = {axis: tuple(words.OPTIONS[axis].split(", ")) for axis in options.split(", ")}
        path = f"{ROOTS[category]} › {path}"
        types.append(ProductType(name, category, path, (low, high), tuple(styles.split(", ")), attributes, axes))
    return tuple(types)


@lru_cache(maxsize=4)
def generate_catalogue(n_products: int = 1000, seed: int = 0, instructions: int = 4) -> Catalogue:
    """Return a catalogue of `n_products`, with up to `instructions` wishes for each.

    The same arguments give the same catalogue everywhere. Types come in turn, so that every type has rivals.

    Raises:
        UserError: `n_products` or `instructions` is below one.
    """
    if n_products < 1 or instructions < 1:
        raise UserError(
            f"a catalogue of {n_products} products with {instructions} instructions each: expected 1 or more"
        )
    generator = random.Random(f"webshop catalogue {seed}")
    types = product_types()
    asins: set[str] = set()
    products = []
    for number in range(n_products):
        product = _product(types[number % len(types)], generator, instructions)
        asin = product.asin
        while asin in asins:
            asin = _asin(generator)
        asins.add(asin)
        products.append(product if asin == product.asin else Product(**{**vars(product), "asin": asin}))
    generator.shuffle(products)
    return Catalogue(products, f"generated, {n_products} products, seed {seed}")


def _product(kind: ProductType, generator: random.Random, n_instructions: int) -> Product:
    brand = generator.choice(words.BRAND_STARTS.split()) + generator.choice(words.BRAND_ENDS.split())
    style = generator.choice(kind.styles)
    chosen = generator.sample(kind.attributes, k=generator.randint(4, 7))
    options = {axis: _some(values, generator) for axis, values in kind.options.items()}
    in_title = generator.randint(1, 2)
    n_description = generator.randint(1, 2)
    titled, bulleted, described = chosen[:in_title], chosen[in_title:-n_description], chosen[-n_description:]
    title = _title(brand, style, kind.name, titled, options, generator)
    fill = {"type": kind.name, "style": style}
    description = " ".join([_sentence(one, fill, generator) for one in described] + [generator.choice(words.CLOSINGS)])
    bullets = tuple(_sentence(one, fill, generator) for one in bulleted or titled)
    price = _price(kind, generator)
    prices = (price, _cents(price * generator.uniform(1.1, 1.6))) if generator.random() < 0.2 else (price,)
    cost = _cents(generator.uniform(*prices)) if len(prices) == 2 else price
    reviews = tuple(_review(fill, generator) for _ in range(generator.randint(0, 4)))
    rating = f"{sum(review.score for review in reviews) / len(reviews):.1f}" if reviews else "N.A."
    wanted = tuple(generator.sample(chosen, k=min(2, len(chosen))))
    base = _plain_wish(kind, wanted)
    return Product(
        asin=_asin(generator),
        title=title,
        category=kind.category,
        query=kind.name,
        product_category=kind.path,
        description=description,
        bullets=bullets,
        attributes=tuple(one.name for one in chosen),
        options=options,
        prices=prices,
        price=cost,
        rating=rating,
        reviews=reviews,
        instructions=_instructions(kind, style, chosen, options, generator, n_instructions),
        synthetic=Instruction(base, tuple(one.name for one in wanted), ()),
    )


def _instructions(
    kind: ProductType,
    style: str,
    attributes: list[Attribute],
    options: Mapping[str, tuple[str, ...]],
    generator: random.Random,
    count: int,
) -> tuple[Instruction, ...]:
    """Return up to `count` wishes that this product meets; no two ask for the same."""
    found: dict[tuple[tuple[str, ...], tuple[str, ...]], Instruction] = {}
    for _ in range(3 * count):
        wanted = generator.sample(attributes, k=generator.choice((1, 1, 2, 2, 3)))
        values = [(axis, generator.choice(choices)) for axis, choices in options.items() if generator.random() < 0.8]
        key = tuple(sorted(one.name for one in wanted)), tuple(value for _, value in values)
        if key not in found and len(found) < count:
            text = _wish(kind, style if generator.random() < 0.3 else "", wanted, values, generator)
            found[key] = Instruction(text, tuple(one.name for one in wanted), key[1])
    return tuple(found.values())


def _wish(
    kind: ProductType, style: str, wanted: list[Attribute], values: list[tuple[str, str]], generator: random.Random
) -> str:
    before, after = [], []
    for one in wanted:
        said = words.PARAPHRASES.get(one.name) if generator.random() < 0.25 else None
        if said is None and one.is_adjective and generator.random() < 0.7:
            before.append(one.name)
        else:
            after.append(said or (f"that is {one.said}" if one.is_adjective else one.said))
    asked = [_asked(axis, value) for axis, value in values]
    late = [asked.pop()] if asked and generator.random() < 0.35 else []
    thing = " ".join(part for part in (", ".join(before), style, kind.name) if part)
    article = "an " if kind.article and thing[0] in "aeiou" and not thing.startswith("usb") else kind.article
    text = " ".join([generator.choice(words.OPENINGS), f"{article}{thing}", *after])
    text += "".join(f", {one}" if number else f" {one}" for number, one in enumerate(asked))
    return text + "".join(f". {generator.choice(words.FOLLOW_UPS).format(one.removeprefix('in '))}" for one in late)


def _plain_wish(kind: ProductType, wanted: tuple[Attribute, ...]) -> str:
    """Return a synthetic goal's beginning."""
    before = ", ".join(one.said for one in wanted if one.is_adjective)
    after = " ".join(one.said for one in wanted if not one.is_adjective)
    return " ".join(part for part in ("find me", before, kind.name, after) if part)


def _asked(axis: str, value: str) -> str:
    """Return how an option is asked for."""
    if axis == "color":
        return f"in {value}"
    if axis in ("size", "shoe size", "waist size", "bed size"):
        return f"in size {value}"
    if axis in ("flavor", "scent"):
        return f"in {value} {axis}"
    return f"in {value}"


def _title(
    brand: str,
    style: str,
    name: str,
    attributes: list[Attribute],
    options: Mapping[str, tuple[str, ...]],
    generator: random.Random,
) -> str:
    said = [one.said for one in attributes]
    axis = generator.choice(list(options))
    shown = f" ({_capitals(generator.choice(options[axis]))})" if generator.random() < 0.25 else ""
    return f"{brand} {_capitals(f'{style} {name}')}, {_capitals(', '.join(said))}{shown}"


def _sentence(attribute: Attribute, fill: dict[str, str], generator: random.Random) -> str:
    said = attribute.said
    usual = words.SENTENCES[: 4 if attribute.is_adjective else 1]
    text = generator.choice(usual if generator.random() < 0.9 else words.SENTENCES[-1:])
    return text.format(attribute=said, Attribute=said[:1].upper() + said[1:], **fill)


def _review(fill: dict[str, str], generator: random.Random) -> Review:
    stars = generator.choices((5, 4, 3, 2, 1), weights=(8, 5, 2, 1, 1))[0]
    title, body = words.PRAISE[stars]
    return Review(title, float(stars), body.format(**fill))


def _some(values: tuple[str, ...], generator: random.Random) -> tuple[str, ...]:
    """Return some of the values, two at least, in their order."""
    kept = set(generator.sample(values, k=generator.randint(2, min(7, len(values)))))
    return tuple(value for value in values if value in kept)


def _price(kind: ProductType, generator: random.Random) -> float:
    low, high = kind.prices
    return _cents(low * (high / low) ** generator.random())


def _cents(price: float) -> float:
    return round(price, 2)


def _asin(generator: random.Random) -> str:
    return "B0" + "".join(generator.choices(ASIN_LETTERS, k=8))


def _bare(said: str) -> str:
    """Return an attribute without the words that tie it to its noun."""
    for mark in ("with an ", "with a ", "with no ", "with ", "for "):
        if said.startswith(mark):
            return said.removeprefix("with ") if mark == "with no " else said.removeprefix(mark)
    return said


def _capitals(text: str) -> str:
    small = {"with", "for", "a", "an", "of", "the", "and"}
    return " ".join(word if word in small else word[:1].upper() + word[1:] for word in text.split(" "))
