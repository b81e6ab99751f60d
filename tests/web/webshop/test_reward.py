"""The reward's terms, each where it decides."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fionalm.web.webshop import Goal, Product, purchase_reward
from fionalm.web.webshop.nouns import is_noun, title_nouns
from fionalm.web.webshop.reward import plain_color, token_set_ratio, type_reward

PRODUCT = Product(
    asin="B0",
    title="Oak Table Lamp, Dimmable",
    category="garden",
    query="table lamp",
    product_category="Home › Lamps › Table Lamps",
    description="For reading. Comes with usb ports.",
    bullets=("A glass shade.",),
    attributes=("dimmable", "energy saving"),
    options={"color": ("black", "navy blue"), "size": ("small", "x-small")},
    prices=(30.0,),
    price=30.0,
)
GOAL = Goal(
    asin="B0",
    instruction="",
    category="garden",
    query="table lamp",
    product_category="Home › Lamps › Table Lamps",
    title="Oak Table Lamp, Dimmable",
    attributes=("dimmable", "usb ports"),
    options=("navy blue", "small"),
    price_upper=30.0,
)
CHOSEN = {"color": "navy blue", "size": "small"}


def test_everything_right_is_one() -> None:
    reward = purchase_reward(PRODUCT, CHOSEN, GOAL)
    assert (reward.total, reward.success) == (1.0, True)
    assert (reward.attributes_matched, reward.options_matched, reward.price_matched) == (2, 2, True)


@pytest.mark.parametrize(
    ("product", "chosen", "expected"),
    [
        (replace(PRODUCT, price=30.01), CHOSEN, 4 / 5),
        (PRODUCT, {"color": "black", "size": "small"}, 4 / 5),
        # All words of one are words of the other; colours are compared by their first colour word, in the list's order.
        (PRODUCT, {"color": "navy blue", "size": "x-small"}, 5 / 5),
        (PRODUCT, {"color": "navy blue", "size": "large"}, 4 / 5),
        (PRODUCT, {"color": "dark navy", "size": "small"}, 4 / 5),
        (PRODUCT, {"color": "bright blue", "size": "small"}, 5 / 5),
        (PRODUCT, {}, 3 / 5),
        (replace(PRODUCT, attributes=("dimmable lights",), description=""), CHOSEN, 4 / 5),
        (replace(PRODUCT, attributes=()), CHOSEN, 5 / 5),
        (replace(PRODUCT, attributes=(), title="Oak Table Lamp"), CHOSEN, 4 / 5),
    ],
)
def test_terms_add_up(product: Product, chosen: dict[str, str], expected: float) -> None:
    assert purchase_reward(product, chosen, GOAL).total == pytest.approx(expected)


def test_options_count_no_further_than_asked() -> None:
    goal = replace(GOAL, options=("navy blue",))
    chosen = {"color": "navy blue", "base": "light blue", "size": "small"}
    reward = purchase_reward(PRODUCT, chosen, goal)
    assert (reward.options_matched, reward.total) == (1, 1.0)


@pytest.mark.parametrize(
    ("title", "query", "path", "expected"),
    [
        ("Lamp", "table lamp", "a › b", (1.0, 0.25)),
        ("Lamp", "other", "a › b", (1.0, 0.25)),
        # All of these share one noun in four, one in eight, one in twelve, or none with the goal's title.
        ("Chair", "table lamp", "a › b", (0.0, 0.0)),
        ("Chair", "other", "Home › Lamps", (0.0, 0.0)),
    ],
)
def test_type_by_title(title: str, query: str, path: str, expected: tuple[float, float]) -> None:
    product = replace(PRODUCT, title=title, query=query, product_category=path)
    assert type_reward(product, GOAL)[:2] == expected


def test_type_by_query_and_category() -> None:
    long = replace(GOAL, title="Oak Table Lamp Dimmable Desk Light Bedroom Office")
    one_in_eight = replace(PRODUCT, title="Pine Lamp", query="other", product_category="a › b")
    assert type_reward(one_in_eight, long)[0] == 0.5
    assert type_reward(replace(one_in_eight, query="table lamp"), long)[0] == 1.0
    assert type_reward(replace(one_in_eight, product_category="Lamps › x › Home"), long)[0] == 1.0
    assert type_reward(replace(one_in_eight, product_category="Lamps › Lamps › x"), long)[0] == 0.5
    longer = replace(long, title=long.title + " Reading Study Kids Room")
    assert type_reward(replace(one_in_eight, query="table lamp"), longer)[0] == 0.1
    assert type_reward(PRODUCT, replace(GOAL, title="for the"))[1] == 0.2
    # A noun that the goal's title repeats counts each time below the line, and once above it.
    assert type_reward(PRODUCT, replace(GOAL, title="Lamp Lamp Chair Sofa"))[1] == 0.25


def test_nouns_of_titles() -> None:
    title = "Wilfield Men's T-Shirt with a pocket, very soft (2 Pack, Gift Pack)"
    assert title_nouns(title) == ("wilfield", "men", "shirt", "pocket", "pack", "gift", "pack")
    title = "Machine Washable table covers for 24 chairs"
    assert title_nouns(title) == ("machine", "washable", "table", "covers", "chairs")
    assert not any(map(is_noun, ["with", "The", "24", "3.1", "breathable", "soft", "x"]))
    assert all(map(is_noun, ["4K", "earring", "cable", "Soft"]))


def test_colors_and_similar_words() -> None:
    assert [plain_color(value) for value in ("deep navy blue", "blue", "xl")] == ["blue", "blue", "xl"]
    assert token_set_ratio("Natural Ingredients!", "ingredients natural") == 100
    assert token_set_ratio("essential oil", "essential oils") == 96
    assert token_set_ratio("", "oil") == token_set_ratio("油", "oil") == 0


words = st.text(alphabet="ab ", max_size=12)


@given(words, words)
def test_token_set_ratio_by_its_definition(one: str, other: str) -> None:
    """The best of three comparisons: the common words with each side's, and the two sides; 2 * LCS / length each."""
    first, second = set(one.split()), set(other.split())
    common = " ".join(sorted(first & second))
    left = f"{common} {' '.join(sorted(first - second))}".strip()
    right = f"{common} {' '.join(sorted(second - first))}".strip()
    pairs = [(left, right), *([(common, left), (common, right)] if common else [])]
    best = max(similarity(a, b) for a, b in pairs)
    assert token_set_ratio(one, other) == (round(best) if first and second else 0)


def similarity(one: str, other: str) -> float:
    longest = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            longest[i + 1][j + 1] = longest[i][j] + 1 if a == b else max(longest[i][j + 1], longest[i + 1][j])
    return 200 * longest[-1][-1] / (len(one) + len(other)) if one or other else 100.0
