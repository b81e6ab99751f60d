"""The generated catalogue, goals, search, and the original's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fionalm.errors import UserError
from fionalm.web.webshop import SearchEngine, generate_catalogue, load_catalogue, make_goals, split_range
from fionalm.web.webshop.generator import product_types
from fionalm.web.webshop.goals import NO_LIMIT
from fionalm.web.webshop.search import tokenize
from fionalm.web.webshop.words import PARAPHRASES

CATALOGUE = generate_catalogue(300)
PRODUCT = {
    "asin": "B000000001",
    "name": "Oak Table Lamp",
    "category": "garden",
    "query": " Table Lamp ",
    "product_category": "Home › Lamps › Table Lamps",
    "full_description": "A lamp for reading.",
    "small_description": ["Dimmable light."],
    "pricing": "$10.00$20.00",
    "customization_options": {"Color": [{"value": "Black/White "}, {"value": "Red"}], "Size": None},
    "images": ["x"],
}
MINED = {
    "B000000001": {"attributes": ["dimmable"], "instruction": "Find me a lamp", "instruction_attributes": ["dimmable"]}
}
HUMAN = {
    "B000000001": [
        {
            "instruction": "i want a dimmable lamp.",
            "instruction_attributes": ["dimmable"],
            "instruction_options": ["red"],
        },
        {"instruction": "i want a lamp", "instruction_attributes": [], "instruction_options": []},
    ]
}


def write(folder: Path, products: object = None, mined: object = None, human: object = None) -> Path:
    (folder / "items_shuffle_1000.json").write_text(json.dumps([PRODUCT] if products is None else products))
    (folder / "items_ins_v2_1000.json").write_text(json.dumps(MINED if mined is None else mined))
    (folder / "items_human_ins.json").write_text(json.dumps(HUMAN if human is None else human))
    return folder


def test_generation_is_fixed_by_the_seed() -> None:
    again = generate_catalogue.__wrapped__(300)
    assert again.products == CATALOGUE.products
    assert generate_catalogue.__wrapped__(300, seed=1).products != CATALOGUE.products
    assert len({product.asin for product in CATALOGUE.products}) == 300


def test_every_attribute_is_said_and_every_option_known() -> None:
    types = {kind.name: kind for kind in product_types()}
    assert len(types) == 52
    for product in CATALOGUE.products:
        for attribute in product.attributes:
            assert any(attribute in text for text in product.shelf_text), (product.title, attribute)
        for axis, values in product.options.items():
            assert 2 <= len(values) == len(set(values))
            assert set(values) <= set(types[product.query].options[axis])
        for wish in product.instructions:
            assert set(wish.attributes) <= set(product.attributes)
            assert set(wish.options) <= {value for values in product.options.values() for value in values}


def test_paraphrases_are_of_attributes_that_exist() -> None:
    known = {attribute.name for kind in product_types() for attribute in kind.attributes}
    assert set(PARAPHRASES) <= known


@pytest.mark.parametrize("kind", ["human", "synthetic"])
def test_goals_keep_one_order(kind: str) -> None:
    goals = make_goals(CATALOGUE, kind)
    assert goals == make_goals(CATALOGUE, kind)
    assert len(set(goals)) == len(goals)
    for goal in goals:
        price = CATALOGUE.by_asin[goal.asin].price
        assert price < goal.price_upper <= price + 40 or goal.price_upper == NO_LIMIT
        assert (f"price lower than {goal.price_upper:.2f} dollars" in goal.instruction) == (
            goal.price_upper != NO_LIMIT
        )


def test_rare_attributes_weigh_more_in_synthetic_goals() -> None:
    goals = make_goals(CATALOGUE, "synthetic")
    counts: dict[str, int] = {}
    for goal in goals:
        for name in goal.attributes:
            counts[name] = counts.get(name, 0) + 1
    for goal in goals[:200]:
        assert goal.weight == pytest.approx(sum(1 / counts[name] for name in goal.attributes) / len(goal.attributes))


def test_splits_part_the_goals() -> None:
    goals = make_goals(generate_catalogue(1000))
    assert (split_range(goals, "test"), split_range(goals, "eval")) == (range(500), range(500, 1500))
    assert split_range(goals, "train") == range(1500, 4000)
    assert split_range(goals[:700], "eval") == range(500, 700)
    with pytest.raises(UserError, match="split 'train' begins at goal 1500, and there are 700"):
        split_range(goals[:700], "train")
    with pytest.raises(UserError, match="unknown split 'dev'"):
        split_range(goals, "dev")


def test_search_ranks_by_words_and_keeps_to_fifty() -> None:
    engine = SearchEngine(CATALOGUE)
    goals = make_goals(CATALOGUE)[:100]
    found = [engine.search(goal.instruction.split(", and price")[0].split()) for goal in goals]
    assert all(len(products) <= 50 for products in found)
    queries = [products[0].query == goal.query for products, goal in zip(found, goals, strict=True)]
    # Words of the type are rare among all documents: the first result is nearly always of the right type.
    assert sum(queries) >= 95
    assert engine.search(["the", "of"]) == engine.search(["zzzz"]) == engine.search([]) == ()


def test_special_queries() -> None:
    engine = SearchEngine(CATALOGUE)
    assert engine.search(["<r>"], "7") == engine.search(["<r>"], "7") != engine.search(["<r>"], "8")
    assert len(engine.search(["<r>"], "7")) == 50
    assert all("gluten free" in product.attributes for product in engine.search(["<a>", "gluten", "free"]))
    assert engine.search(["<a>", "gluten", "free"])
    assert {product.category for product in engine.search(["<c>", "beauty"])} == {"beauty"}
    assert {product.query for product in engine.search(["<q>", "table", "lamp"])} == {"table lamp"}
    assert engine.search(["<a>"]) == engine.search(["<c>", "cars"]) == ()


def test_bm25_agrees_with_its_formula() -> None:
    """Lucene's BM25: idf * tf / (tf + k1 * (1 - b + b * length / mean length)), with k1 = 0.9 and b = 0.4."""
    import math

    catalogue = generate_catalogue(40)
    documents = [tokenize(product.document) for product in catalogue.products]
    mean = sum(map(len, documents)) / len(documents)
    words = ["usb", "cable", "portable"]

    def score(document: list[str]) -> float:
        total = 0.0
        for word in words:
            frequency = document.count(word)
            holders = sum(word in other for other in documents)
            idf = math.log(1 + (len(documents) - holders + 0.5) / (holders + 0.5))
            total += idf * frequency / (frequency + 0.9 * (0.6 + 0.4 * len(document) / mean))
        return total

    scores = [score(document) for document in documents]
    expected = sorted((place for place in range(40) if scores[place] > 0), key=lambda place: -scores[place])
    found = [catalogue.products.index(product) for product in SearchEngine(catalogue).search(words)]
    assert [round(scores[place], 4) for place in found] == [round(scores[place], 4) for place in expected]


def test_terms_join_plurals() -> None:
    assert tokenize("The Bodies' ladies shoes, glasses and women's 6.5 size") == [
        "body",
        "lady",
        "shoe",
        "glasse",
        "women",
        "6.5",
        "size",
    ]


def test_original_files(tmp_path: Path) -> None:
    twice = [PRODUCT, {**PRODUCT, "name": "Second"}, {**PRODUCT, "asin": "nan"}]
    catalogue = load_catalogue(write(tmp_path, twice))
    (product,) = catalogue.products
    assert product.options == {"color": ("black | white", "red")}
    assert (product.query, product.price_tag) == ("table lamp", "$10.0 to $20.0")
    assert 10 <= product.price <= 20 == catalogue.products[0].prices[1]
    (goal,) = make_goals(catalogue)
    assert goal.instruction.startswith("i want a dimmable lamp, and price lower than")
    assert [goal.options for goal in make_goals(catalogue, "synthetic")] in (
        [("black | white",), ("red",)],
        [("red",), ("black | white",)],
    )


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"products": {}}, "expected a list at the top, got {}"),
        ({"products": []}, "holds no products"),
        ({"products": [7]}, "product 0: expected an object, got 7"),
        ({"products": [{**PRODUCT, "name": None}]}, r"product 0 \(B000000001\): expected 'name' as text, got null"),
        ({"products": [PRODUCT, {"asin": "B2"}]}, r"product 1 \(B2\): expected 'query' as text, got nothing|'name'"),
        ({"products": [{**PRODUCT, "pricing": "free"}]}, r"expected 'pricing' as text like \$10.99, got 'free'"),
        ({"products": [{**PRODUCT, "customization_options": {"color": ["red"]}}]}, "expected option 'color' as a list"),
        ({"products": [{**PRODUCT, "small_description": 3}]}, "expected 'small_description' as a list of texts, got 3"),
        ({"mined": {"B000000001": []}}, r"items_ins_v2_1000.json, product B000000001: expected an object, got \[\]"),
        ({"human": {"B000000001": [{"instruction": 1}]}}, "instruction 0: expected 'instruction' as text, got 1"),
        ({"human": {"B000000001": {}}}, "items_human_ins.json, product B000000001: expected a list"),
    ],
)
def test_malformed_files_name_the_product(tmp_path: Path, broken: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_catalogue(write(tmp_path, **broken))


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no catalogue at"):
        load_catalogue(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no items_shuffle.json"):
        load_catalogue(tmp_path)
    (write(tmp_path) / "items_shuffle_1000.json").write_text("[{,")
    with pytest.raises(UserError, match="is no JSON: line 1, column 3"):
        load_catalogue(tmp_path)
    with pytest.raises(UserError, match="expected 1 or more"):
        generate_catalogue(0)


def test_reviews_file(tmp_path: Path) -> None:
    reviews = [
        {"asin": "B000000001", "average_rating": 4.5, "reviews": [{"title": "Good", "stars": 4, "review": "Yes"}]}
    ]
    (write(tmp_path) / "reviews.json").write_text(json.dumps(reviews))
    product = load_catalogue(tmp_path).products[0]
    assert (product.rating, product.reviews[0].score, product.reviews[0].body) == ("4.5", 4.0, "Yes")
    (tmp_path / "reviews.json").write_text(json.dumps([{"asin": "B000000001", "reviews": ["Good"]}]))
    with pytest.raises(UserError, match=r"entry 0 \(B000000001\): expected reviews with title"):
        load_catalogue(tmp_path)
