"""The same seeds and actions on the `miniwob` package's own Selenium environment: instructions, fields, rewards, ends.

One driver serves all tasks: the five pages that have no registered environment are built from its base class like the
others, by subdomain. Skipped where there is no chromedriver (Debian's package `chromium-driver`).
"""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fionalm.web import MINIWOB_TASKS, Action, Browser, Episode, miniwob_task
from fionalm.web.chromium import find_chromium
from fionalm.web.miniwob import extractors

from .probing import targets

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("chromedriver") is None, reason="no chromedriver: apt-get install chromium-driver"),
]
SEEDS = (1,)
GROUPS = 5
# How long one waits decides the reward: what moves by the clock is compared as far as its start.
BY_THE_CLOCK = {"chase-circle", "moving-items"}
RESTING = (
    "return !(window.jQuery && jQuery.timers.length) && !document.getAnimations().some(a => a.playState === 'running')"
)


class Reference:
    """The package's environment, moved from task to task."""

    def __init__(self) -> None:
        # Both named, or Selenium looks for them on the network first.
        os.environ["MINIWOB_CHROME_BINARY"] = find_chromium()
        os.environ["MINIWOB_CHROMEDRIVER"] = shutil.which("chromedriver") or ""
        from miniwob.environment import MiniWoBEnvironment
        from miniwob.reward import get_raw_reward

        self.env = MiniWoBEnvironment(subdomain="click-test", reward_processor=get_raw_reward)
        self.instance = self.env.instance
        self.instance.record_screenshots = False
        self.viewport = (self.instance.inner_width, self.instance.inner_height)

    def reset(self, name: str, seed: int) -> dict[str, Any]:
        self.instance.url = miniwob_task(name).url
        self.instance.driver.get(self.instance.url)
        self.instance.field_extractor = extractors().get(name, lambda _: [])
        observation, _ = self.env.reset(seed=seed)
        return observation

    def step(self, action: Action) -> tuple[float, bool]:
        if action.kind == "click":
            given = self.env.create_action("CLICK_COORDS", coords=np.array([action.x, action.y], dtype=np.float32))
        else:
            given = self.env.create_action("TYPE_TEXT", text=action.text)
        self.env.instance.perform(given, self.env.action_space_config)
        for _ in range(100):
            if self.instance.driver.execute_script(RESTING):
                break
            time.sleep(0.01)
        told = self.instance.get_metadata()
        return float(told["raw_reward"]) if told["done"] else 0.0, bool(told["done"])


@pytest.fixture(scope="module")
def reference() -> Iterator[Reference]:
    made = Reference()
    yield made
    made.env.close()


def play(browser: Browser, episode: Episode, seed: int) -> tuple[Any, list[Action], list[tuple[float, bool]]]:
    """Play a few likely actions, the last a click on what submits; return them by coordinates, and what they gave."""
    rng = random.Random(seed)
    first = outcome = browser.run(episode.reset(seed), timeout=30)
    actions: list[Action] = []
    results: list[tuple[float, bool]] = []

    def act(action: Action) -> None:
        nonlocal outcome
        outcome = browser.run(episode.step(action))
        assert not outcome.fault, outcome.error
        actions.append(action)
        results.append((outcome.reward, outcome.terminated))

    for turn in range(4):
        found = targets(outcome.observation)
        buttons = [
            node for node in outcome.observation["dom"] if node["tag"] in ("button", "input") and node["ref"] > 0
        ]
        if turn == 3 and buttons:
            found = buttons[-1:]
        if not found:
            break
        node = rng.choice(found)
        assert episode.page is not None
        point = browser.run(episode.page.evaluate(f"__fiona.locate({node['ref']})"))
        if "error" in point:
            continue
        act(Action("click", x=int(point["x"]), y=int(point["y"])))
        if not outcome.terminated and node["tag"] in ("input", "textarea"):
            words = [value for _, value in outcome.observation["fields"]] or ["ab 1"]
            act(Action("type", text=rng.choice(words)[:60]))
        if outcome.terminated:
            break
    return first.observation, actions, results


@pytest.mark.parametrize("part", range(GROUPS))
def test_every_task_agrees(browser: Browser, reference: Reference, part: int) -> None:
    wrong: dict[str, list[object]] = {}
    for name in MINIWOB_TASKS[part::GROUPS]:
        task = dataclasses.replace(miniwob_task(name), viewport=reference.viewport)
        episode = Episode(browser, task)
        for seed in SEEDS:
            ours, actions, results = play(browser, episode, seed)
            theirs = reference.reset(name, seed)
            problems: list[object] = []
            if ours["utterance"][:256] != theirs["utterance"]:
                problems.append((ours["utterance"], theirs["utterance"]))
            if [(key[:64], value[:64]) for key, value in ours["fields"]] != [tuple(pair) for pair in theirs["fields"]]:
                problems.append((ours["fields"], theirs["fields"]))
            if name not in BY_THE_CLOCK:
                replayed = [reference.step(action) for action in actions]
                if not np.allclose(np.array(replayed, float), np.array(results, float)):
                    problems.append((actions, results, replayed))
            if problems:
                wrong.setdefault(name, []).extend(problems)
        browser.run(episode.close())
    assert not wrong
