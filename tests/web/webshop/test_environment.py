"""The pages, all four views of them, the Gymnasium environment and the scripted customer."""

from __future__ import annotations

import random
from dataclasses import replace
from html.parser import HTMLParser

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

import fionalm.web  # noqa: F401 (registers the ids)
from fionalm.errors import UserError
from fionalm.web.webshop import Shop, ShopExpert, WebShopEnv, make_goals, open_shop
from fionalm.web.webshop.pages import KINDS, SUB_PAGES, Page, clickables, read_url
from fionalm.web.webshop.products import Catalogue, Product, Review

SHOP = open_shop(n_products=400)


class Seen(HTMLParser):
    """Collects a document's texts as the original's text mode does, and what can be clicked in it."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.texts: list[str] = []
        self.urls: list[str] = []
        self.checked: list[str] = []
        self.has_search_bar = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in ("meta", "link", "input", "img"):
            self.stack.append(tag)
        if tag == "input" and given.get("type") == "radio":
            self.urls.append(given["data-url"] or "")
            if "checked" in given:
                self.checked.append(given["value"] or "")
        elif tag == "input":
            self.has_search_bar = given.get("id") == "search_input"
        elif tag in ("form", "a"):
            self.urls.append(given.get("action") or given.get("href") or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and not {"title", "script", "style"} & set(self.stack):
            self.texts.append(data.strip())


def wander(shop: Shop, seed: int, steps: int = 40) -> list[Page]:
    """Return the pages that somebody sees who clicks at random."""
    generator = random.Random(seed)
    page = shop.start(generator.randrange(len(shop.goals)))
    pages = [page]
    for _ in range(steps):
        words = shop.goal(page).instruction.split()[:8]
        found = list(clickables(shop.parts(page)))
        page, error = shop.act(page, f"click[{generator.choice(found)}]" if found else f"search[{' '.join(words)}]")
        assert error is None
        pages.append(page)
        if page.kind == "done":
            break
    return pages


@pytest.mark.parametrize("seed", range(6))
def test_text_is_what_the_html_shows(seed: int) -> None:
    shop = open_shop(n_products=400, show_attributes=True)
    kinds = set()
    for page in wander(shop, seed):
        kinds.add(page.kind)
        parts = shop.parts(page)
        seen = Seen()
        seen.feed(shop.observe(page, "html"))
        assert seen.stack == []
        assert " [SEP] ".join(seen.texts) == shop.observe(page, "text")
        # A browser can go where an agent can, and nowhere else; forms of search aside.
        assert set(seen.urls) - {shop.start(int(page.session)).url} <= {one.url for one in clickables(parts).values()}
        assert {one.url for one in clickables(parts).values()} <= set(seen.urls)
        assert seen.has_search_bar == (page.kind == "index")
        assert seen.checked == [part.text for part in parts if part.chosen]
    assert "item_page" in kinds


@pytest.mark.parametrize("seed", range(4))
def test_a_page_is_its_url(seed: int) -> None:
    for page in wander(SHOP, seed):
        if page.kind == "done":
            continue
        assert read_url(page.url) == page
        assert SHOP.observe(read_url(page.url), "html") == SHOP.observe(page, "html")


words = st.text(min_size=1).filter(lambda text: max(text) < "\ud800" or max(text) > "\udfff").filter(str.strip)


@given(
    st.lists(words.filter(lambda text: " " not in text), min_size=1),
    words,
    st.dictionaries(words, words),
    st.sampled_from(KINDS),
)
def test_any_page_survives_its_url(keywords: list[str], asin: str, options: dict[str, str], kind: str) -> None:
    found, item = tuple(keywords), kind in ("item_page", "item_sub_page")
    page = Page(
        session="7",
        kind=kind,
        keywords=found if item or kind == "search_results" else (),
        number=3 if item or kind == "search_results" else 1,
        asin=asin if item or kind == "done" else "",
        sub_page=SUB_PAGES[0] if kind == "item_sub_page" else "",
        options=tuple(options.items()) if item or kind == "done" else (),
    )
    assert read_url(page.url) == page


@pytest.mark.parametrize(
    "path",
    ["/", "/search_results/1/a", "/search_results/1/a/0", "/done/1/B0/[]", "/item_sub_page/1/B/a/1/Price/{}", "/a/b"],
)
def test_addresses_that_are_none(path: str) -> None:
    with pytest.raises(ValueError):
        read_url(path)


def test_rich_text_marks_what_is_chosen() -> None:
    product = Product(
        "B0", "Lamp <b>", "garden", "lamp", "a › b", "Fine", ("x",), (), {"color": ("red", "blue")}, (9.5,), 9.5,
        reviews=(Review("Nice", 4.0, "Yes"),),
    )  # fmt: skip
    shop = Shop(Catalogue([product]), (goal := make_goals(SHOP.catalogue)[0],))
    item = Page("0", "item_page", ("lamp",), 1, "B0", options=(("color", "blue"),))
    assert shop.observe(item, "text_rich") == (
        "You have clicked blue.\nInstruction:\n" + goal.instruction + "\n[button] Back to Search [button_]\n"
        "[button] < Prev [button_]\ncolor\n  [button] red [button_]\n  [clicked button] blue [clicked button_]\n"
        "Lamp <b>\nPrice: $9.5\nRating: N.A.\n[button] Description [button_]\n[button] Features [button_]\n"
        "[button] Reviews [button_]\n[button] Buy Now [button_]\n"
    )
    results = Page("0", "search_results", ("lamp",))
    assert "\n\n[clicked button] B0 [clicked button_]\nLamp <b>\n$9.5\n" in shop.observe(results, "text_rich", {"B0"})
    assert "\n\n[button] B0 [button_]\n" in shop.observe(results, "text_rich")
    assert shop.observe(results, "url") == "http://127.0.0.1:3000/search_results/0/lamp/1"
    reviews = Page("0", "item_sub_page", ("lamp",), 1, "B0", "Reviews")
    assert shop.observe(reviews, "text").endswith('< Prev [SEP] "Nice" [SEP] 4.0 [SEP] Yes')


def test_ways_between_pages() -> None:
    page = SHOP.start(3)
    results, _ = SHOP.act(page, "search[USB Cable]")
    assert results == Page("3", "search_results", ("usb", "cable"))
    second, _ = SHOP.act(results, "click[next >]")
    assert SHOP.act(second, "click[< Prev]")[0] == results
    asin = SHOP.results(results)[0].asin
    item, _ = SHOP.act(results, f"click[{asin.lower()}]")
    name, values = next(iter(SHOP.product(item).options.items()))
    chosen, _ = SHOP.act(item, f"click[{values[0]}]")
    other, _ = SHOP.act(chosen, f"click[{values[1]}]")
    assert (chosen.options, other.options) == (((name, values[0]),), ((name, values[1]),))
    sub, _ = SHOP.act(other, "click[Features]")
    assert sub.kind == "item_sub_page"
    assert SHOP.act(sub, "click[< prev]")[0] == other
    assert SHOP.act(other, "click[< prev]")[0] == results
    assert SHOP.act(sub, "click[back to search]")[0] == page
    assert SHOP.act(other, "click[buy now]")[0].kind == "done"


@pytest.mark.parametrize(
    ("action", "error"),
    [
        ("click[search]", "nothing to click called 'search' here"),
        ("click[bak to search]", "nothing to click called 'bak to search' here"),
        ("press[enter]", r"unknown action 'press\[enter\]': expected search\[keywords\] or click\[value\]"),
        ("search[]", "unknown action"),
        ("", "unknown action ''"),
    ],
)
def test_an_action_that_is_none_changes_nothing(action: str, error: str) -> None:
    env = WebShopEnv(shop=SHOP, split="all")
    before, _ = env.reset(seed=1)
    after, reward, terminated, truncated, info = env.step(action)
    assert (after, reward, terminated, truncated) == (before, 0.0, False, False)
    assert info["error"].startswith(error.replace("\\", ""))


def test_search_needs_a_search_bar() -> None:
    page, _ = SHOP.act(SHOP.start(0), "search[lamp]")
    same, error = SHOP.act(page, "search[chair]")
    assert same is page and error == "no search bar here: expected click[...] first, such as click[back to search]"
    anywhere = Shop(SHOP.catalogue, SHOP.goals, search_anywhere=True)
    assert anywhere.act(page, "search[chair]")[0].keywords == ("chair",)


def test_gymnasium_checks_it() -> None:
    env = gym.make("fiona/webshop-v0", render_mode="rgb_array", n_products=400)
    check_env(env.unwrapped, skip_render_check=False)
    assert env.spec is not None and env.spec.max_episode_steps == 100


def test_episodes_are_fixed_by_the_seed() -> None:
    def play(seed: int) -> list[object]:
        env = WebShopEnv("html", shop=SHOP, split="all")
        told: list[object] = [env.reset(seed=seed)]
        told.append(env.step("search[" + env.shop.goal(Page(str(told[0][1]["goal"]))).query + "]"))  # type: ignore[index]
        for _ in range(3):
            clicks = env.available_actions()["clickables"]
            told.append(env.step(f"click[{clicks[len(clicks) // 2]}]"))
        return told

    assert play(5) == play(5) != play(6)


def test_goals_come_from_the_split() -> None:
    shop = open_shop(n_products=1000)
    for split, places in (("test", range(500)), ("eval", range(500, 1500)), ("train", range(1500, 4000))):
        env = WebShopEnv(shop=shop, split=split)
        drawn = {env.reset(seed=seed)[1]["goal"] for seed in range(40)}
        assert drawn <= set(places) and len(drawn) > 30
    with pytest.raises(UserError, match="goal 7: expected a number from 1500 to 3999"):
        env.reset(options={"goal": 7})
    assert env.reset(options={"goal": 1500})[1]["goal"] == 1500


def test_synthetic_goals_are_drawn_by_weight() -> None:
    goals = make_goals(SHOP.catalogue, "synthetic")[:2]
    shop = Shop(SHOP.catalogue, (replace(goals[0], weight=100.0), replace(goals[1], weight=5.0)))
    env = WebShopEnv(shop=shop, split="all")
    drawn = [env.reset(seed=seed)[1]["goal"] for seed in range(100)]
    assert drawn.count(0) > 80


def test_earlier_observations_and_actions_come_first() -> None:
    env = WebShopEnv(shop=SHOP, split="all", num_prev_observations=1, num_prev_actions=2)
    first, _ = env.reset(seed=0)
    second = env.step("search[lamp]")[0]
    assert second.startswith(f"{first} [SEP] search[lamp] [SEP] Instruction:")
    third = env.step("nonsense")[0]
    now = second.removeprefix(f"{first} [SEP] search[lamp] [SEP] ")
    assert third == f"search[lamp] [SEP] {now} [SEP] nonsense [SEP] {now}"


def test_over_is_over() -> None:
    env = WebShopEnv(shop=SHOP, split="all", render_mode="ansi")
    with pytest.raises(ResetNeeded):
        env.step("search[lamp]")
    env.reset(seed=0)
    env.step("search[lamp]")
    env.step(f"click[{env.available_actions()['clickables'][-1]}]")
    *_, terminated, _, info = env.step("click[buy now]")
    assert terminated and 0 <= info["terms"]["total"] <= 1
    assert env.available_actions() == {"has_search_bar": False, "clickables": ()}
    assert "Your score (min 0.0, max 1.0)" in env.render()
    with pytest.raises(ResetNeeded):
        env.step("click[buy now]")


def test_wrong_choices() -> None:
    with pytest.raises(UserError, match="unknown observation mode 'texts': .* did you mean 'text'"):
        WebShopEnv("texts", shop=SHOP)
    with pytest.raises(UserError, match="unknown split 'valid'"):
        WebShopEnv(split="valid", shop=SHOP)
    with pytest.raises(UserError, match="unknown kind of goals 'humans'"):
        open_shop(n_products=400, goals="humans")
    with pytest.raises(UserError, match="no goal '9999'"):
        SHOP.parts(Page("9999"))
    with pytest.raises(UserError, match="no product 'B1'"):
        SHOP.parts(Page("1", "item_page", asin="B1"))


def test_drawings_show_the_page() -> None:
    env = WebShopEnv(shop=SHOP, split="all", render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    env.step("search[lamp]")
    assert first.shape == (800, 640, 3) and first.dtype == np.uint8
    assert (first != env.render()).any()


def test_vector_environments() -> None:
    envs = gym.make_vec("fiona/webshop-v0", num_envs=3, vectorization_mode="sync", n_products=400, split="all")
    observations, info = envs.reset(seed=0)
    assert len({*observations}) == 3
    after, rewards, *_ = envs.step(["search[lamp]"] * 3)
    assert all("Total results" in text for text in after) and rewards.tolist() == [0.0] * 3
    assert len(info["goal"]) == 3
    envs.close()


def test_the_expert_meets_most_goals() -> None:
    env = WebShopEnv("text_rich", shop=open_shop(n_products=1000), split="eval")
    rewards = [play(env, goal) for goal in range(500, 560)]
    assert sum(reward == 1.0 for reward in rewards) >= 54
    assert sum(rewards) / len(rewards) > 0.95


def test_the_expert_finds_an_end_where_nothing_fits() -> None:
    goal = make_goals(SHOP.catalogue)[0]
    wishes = ("a table lamp, and price lower than 0.10 dollars", "a zyzzyva, and price lower than 50.00 dollars")
    hopeless = tuple(replace(goal, instruction=wish) for wish in wishes)
    env = WebShopEnv("text_rich", shop=Shop(SHOP.catalogue, hopeless), split="all")
    assert [0.0 <= play(env, place) < 1.0 for place in range(2)] == [True, True]


def play(env: WebShopEnv, goal: int) -> float:
    """Return what the expert gets for a goal, within the step limit."""
    observation, _ = env.reset(options={"goal": goal})
    expert = ShopExpert()
    for _ in range(100):
        observation, reward, terminated, _, info = env.step(expert.act(observation))
        assert "error" not in info
        if terminated:
            return float(reward)
    pytest.fail("no purchase in 100 steps")
