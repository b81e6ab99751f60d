"""MiniWoB's tasks: the list, their fields, and for some that the same seed gives the same page whatever came before."""

from __future__ import annotations

import random
from pathlib import Path

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from fionalm.errors import UserError
from fionalm.web import MINIWOB_TASKS, Action, Browser, Episode, EpisodeConfig, miniwob_task
from fionalm.web.miniwob import RELOADED, fields_of, html_folder

from .probing import difference, drawn_action

SAMPLED = ("click-test-2", "email-inbox", "use-slider", "draw-line")
"""A plain page, one with pictures, one that is loaded anew before each reset, one that is drawn on."""


def test_the_tasks_are_the_package_s_pages() -> None:
    assert sorted(path.stem for path in (html_folder() / "miniwob").glob("*.html")) == sorted(MINIWOB_TASKS)
    assert len(MINIWOB_TASKS) == 130 and set(MINIWOB_TASKS) > RELOADED


def test_unknown_names_and_modes() -> None:
    with pytest.raises(UserError, match=r"unknown MiniWoB task 'click-test2'.*did you mean 'click-test-2'"):
        miniwob_task("click-test2")
    with pytest.raises(UserError, match="data mode"):
        miniwob_task("click-test", data_mode="dev")
    with pytest.raises(gymnasium.error.NameNotFound):
        gymnasium.make("fiona/miniwob.click-nothing-v0")


def test_fields() -> None:
    fields = fields_of("click-button")('Click on the "Ok" button.')
    assert list(fields.values()) == ["Ok"]
    assert fields_of("click-button")("nothing of this kind") == {}


def same_page(browser: Browser, name: str, fast: bool):
    """Return what differs between an episode on a fresh page and the same one after others, in words."""
    found: list[str] = []
    episode = Episode(browser, miniwob_task(name), EpisodeConfig(fast=fast))
    first = (yield from episode.reset(5)).observation
    if not first["utterance"] or not first["dom"]:
        found.append("nothing to see")
    rng = random.Random(name)
    for seed in (11, 12):
        outcome = yield from episode.reset(seed)
        for _ in range(5):
            outcome = yield from episode.step(drawn_action(rng, outcome.observation))
            if outcome.fault:
                found.append(outcome.error)
            if outcome.terminated or outcome.truncated:
                break
    found.append(difference(first, (yield from episode.reset(5)).observation))
    yield from episode.close()
    other = Episode(browser, miniwob_task(name), EpisodeConfig(fast=fast))
    found.append(difference(first, (yield from other.reset(5)).observation))
    yield from other.close()
    return [words for words in found if words]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_page(browser: Browser) -> None:
    results = browser.run_all([same_page(browser, name, fast=True) for name in SAMPLED], timeout=120)
    assert not {name: result for name, result in zip(SAMPLED, results, strict=True) if result}


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLED)
def test_gymnasium_s_checker_passes(name: str) -> None:
    env = gymnasium.make(f"fiona/miniwob.{name}-v0", disable_env_checker=True)
    check_env(env.unwrapped)
    env.close()


def test_time_limits_are_off_unless_asked_for(browser: Browser) -> None:
    limited, free = (Episode(browser, miniwob_task("click-test", time_limit=limit)) for limit in (True, False))
    browser.run_all([limited.reset(1), free.reset(1)], timeout=30)
    for episode in (limited, free):
        assert episode.page is not None
    limits = browser.run_all([episode.page.evaluate("core.EPISODE_MAX_TIME") for episode in (limited, free)])  # type: ignore[union-attr]
    assert limits == [10000, 2_000_000_000]
    # The page's own timer, brought forward.
    browser.run(limited.page.evaluate("core.EPISODE_MAX_TIME = 50"))  # type: ignore[union-attr]
    browser.run(limited.page.evaluate("__fiona.task.limit = 50"))  # type: ignore[union-attr]
    browser.run(limited.reset(1), timeout=30)
    browser.run(limited.page.evaluate("new Promise((done) => setTimeout(done, 120))"))  # type: ignore[union-attr]
    outcome = browser.run(limited.step(Action("none")))
    assert outcome.terminated and outcome.reward == -1 and outcome.reason == "timed out" and not outcome.success
    browser.run_all([limited.close(), free.close()])


def test_pages_are_files(browser: Browser) -> None:
    assert Path(miniwob_task("click-test").url.removeprefix("file://")).is_file()
