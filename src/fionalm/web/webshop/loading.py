"""The original's files as a catalogue: products, mined attributes and human instructions, from a folder.

    catalogue = load_catalogue("data/", n_products=1000)

It reads `items_shuffle*.json` (products), `items_ins_v2*.json` (attributes and synthetic instructions) and, if they are
there, `items_human_ins.json` and `reviews.json`. A product that does not have the form is an error that names the file
and the product; what the original leaves out (no number, a second one with the same number) is left out here.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fionalm.errors import UserError
from fionalm.web.webshop.products import Catalogue, Instruction, Product, Review

PRODUCTS, ATTRIBUTES, HUMAN, REVIEWS = "items_shuffle", "items_ins_v2", "items_human_ins", "reviews"
KINDS = {str: "text", list: "a list", dict: "an object", float: "a number"}


def load_catalogue(folder: Path | str, n_products: int | None = None) -> Catalogue:
    """Return the first `n_products` (None: all) of the original's files in `folder`.

    Raises:
        UserError: the folder or a file is missing or is no JSON, or a product does not have the form.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no catalogue at {folder}: expected a folder with {PRODUCTS}.json and {ATTRIBUTES}.json")
    if n_products is not None and n_products < 1:
        raise UserError(f"a catalogue of {n_products} products: expected 1 or more")
    path = _find(folder, PRODUCTS)
    rows = _read(path, list)
    attributes = _File(_find(folder, ATTRIBUTES))
    human = _File(folder / f"{HUMAN}.json") if (folder / f"{HUMAN}.json").exists() else None
    reviews = _reviews(folder / f"{REVIEWS}.json")
    products: dict[str, Product] = {}
    for number, row in enumerate(rows[:n_products]):
        where = f"{path}, product {number}"
        if not isinstance(row, dict):
            raise UserError(f"{where}: expected an object, got {_shown(row)}")
        asin = _get(row, "asin", str, where)
        if asin == "nan" or len(asin) > 10 or asin in products:
            continue
        products[asin] = _product(row, f"{where} ({asin})", attributes, human, reviews.get(asin))
    if not products:
        raise UserError(f"{path} holds no products: expected a list of objects with asin, name, category, ...")
    return Catalogue(list(products.values()), str(folder))


class _File:
    """A file that maps a product's number to what is known of it."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, _read(path, dict)

    def get(self, asin: str, kind: type) -> Any:
        found = self.rows.get(asin)
        if found is not None and not isinstance(found, kind):
            raise UserError(f"{self.path}, product {asin}: expected {KINDS[kind]}, got {_shown(found)}")
        return found


Reviewed = tuple[str, tuple[Review, ...]]
"""A rating as shown, and the reviews."""


def _product(
    row: dict[str, Any], where: str, attributes: _File, human: _File | None, reviewed: Reviewed | None
) -> Product:
    asin = row["asin"]
    mined = attributes.get(asin, dict) or {}
    mined_at = f"{attributes.path}, product {asin}"
    bullets = row.get("small_description")
    bullets = [bullets] if isinstance(bullets, str) else bullets or []
    prices = _prices(row.get("pricing"), where)
    # A draw of the product's own: the price does not depend on how many products are loaded.
    price = random.Random(asin).uniform(*prices) if len(prices) == 2 else (prices or (100.0,))[0]
    rating, reviews = reviewed or ("N.A.", ())
    base = mined.get("instruction")
    return Product(
        asin=asin,
        title=_get(row, "name", str, where),
        category=_get(row, "category", str, where),
        query=_get(row, "query", str, where).lower().strip(),
        product_category=_get(row, "product_category", str, where),
        description=_optional(row, "full_description", str, where) or "",
        bullets=_texts(bullets, "small_description", where),
        attributes=_texts(mined.get("attributes", []), "attributes", mined_at),
        options=_options(row.get("customization_options"), where),
        prices=prices,
        price=price,
        rating=rating,
        reviews=reviews,
        instructions=_human(human, asin),
        synthetic=None
        if base is None
        else Instruction(
            _get(mined, "instruction", str, mined_at),
            _texts(mined.get("instruction_attributes", []), "instruction_attributes", mined_at),
            (),
        ),
    )


def _human(file: _File | None, asin: str) -> tuple[Instruction, ...]:
    if file is None:
        return ()
    found = []
    for number, row in enumerate(file.get(asin, list) or []):
        where = f"{file.path}, product {asin}, instruction {number}"
        if not isinstance(row, dict):
            raise UserError(f"{where}: expected an object, got {_shown(row)}")
        options = row.get("instruction_options", [])
        found.append(
            Instruction(
                _get(row, "instruction", str, where),
                _texts(row.get("instruction_attributes"), "instruction_attributes", where),
                _texts(list(options.values()) if isinstance(options, dict) else options, "instruction_options", where),
            )
        )
    return tuple(found)


def _options(given: Any, where: str) -> Mapping[str, tuple[str, ...]]:
    if not given:
        return {}
    if not isinstance(given, dict):
        raise UserError(f"{where}: expected 'customization_options' as an object, got {_shown(given)}")
    options = {}
    for name, contents in given.items():
        if contents is None:
            continue
        if not isinstance(contents, list) or not all(isinstance(one, dict) for one in contents):
            raise UserError(f"{where}: expected option {name!r} as a list of objects, got {_shown(contents)}")
        values = [_get(one, "value", str, f"{where}, option {name!r}") for one in contents]
        options[name.lower()] = tuple(value.strip().replace("/", " | ").lower() for value in values)
    return options


def _prices(given: Any, where: str) -> tuple[float, ...]:
    if not given:
        return ()
    if not isinstance(given, str):
        raise UserError(f"{where}: expected 'pricing' as text like $10.99, got {_shown(given)}")
    try:
        prices = tuple(float(re.sub(r"[^\d.]", "", part)) for part in given.split("$")[1:])
    except ValueError:
        prices = ()
    if not prices:
        raise UserError(f"{where}: expected 'pricing' as text like $10.99, got {given!r}")
    return prices[:2]


def _reviews(path: Path) -> dict[str, Reviewed]:
    if not path.exists():
        return {}
    found = {}
    for number, row in enumerate(_read(path, list)):
        where = f"{path}, entry {number}"
        if not isinstance(row, dict):
            raise UserError(f"{where}: expected an object, got {_shown(row)}")
        asin = _get(row, "asin", str, where)
        reviews = []
        for one in _get(row, "reviews", list, f"{where} ({asin})"):
            score = one.get("score", one.get("stars", 0)) if isinstance(one, dict) else None
            try:
                reviews.append(Review(str(one.get("title") or ""), float(score or 0), str(one.get("review") or "")))
            except (AttributeError, ValueError):
                raise UserError(f"{where} ({asin}): expected reviews with title, stars and review") from None
        found[asin] = (str(row.get("average_rating", "N.A.")), tuple(reviews))
    return found


def _find(folder: Path, name: str) -> Path:
    """Return the file called `name`, whole or cut to its first 1,000 products."""
    for path in (folder / f"{name}.json", folder / f"{name}_1000.json"):
        if path.exists():
            return path
    raise UserError(f"no {name}.json (or {name}_1000.json) in {folder}: expected WebShop's data files")


def _read(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is no JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if not isinstance(content, kind):
        raise UserError(f"{path}: expected {KINDS[kind]} at the top, got {_shown(content)}")
    return content


def _get(row: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    if not isinstance(row.get(key), kind):
        given = _shown(row[key]) if key in row else "nothing"
        raise UserError(f"{where}: expected {key!r} as {KINDS[kind]}, got {given}")
    return row[key]


def _optional(row: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    return None if row.get(key) is None else _get(row, key, kind, where)


def _texts(given: Any, key: str, where: str) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise UserError(f"{where}: expected {key!r} as a list of texts, got {_shown(given)}")
    return tuple(given)


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
