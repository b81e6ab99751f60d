"""Web tasks as Gymnasium environments: `gymnasium.make("fiona/miniwob.click-test-2-v0")`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from fionalm.web.actions import Action
from fionalm.web.browser import Browser, shared_browser
from fionalm.web.episode import Episode, EpisodeConfig, Outcome
from fionalm.web.miniwob import miniwob_task
from fionalm.web.observations import Observation
from fionalm.web.spaces import action_space, observation_space
from fionalm.web.tasks import WebTask

SEEDS = 1 << 31


class WebEnv(gym.Env[Observation, Any]):
    """Episodes of a web task on one page of the pool.

    Actions are an `Action`, a mapping of its fields, or a sample of the action space. `info` holds `success` (raw
    reward of 1 or more), `raw_reward`, the page's `reason`, `error` (what was wrong with the action, or with the page)
    and `fault` (whether the page failed, which truncates the episode without a reward).

    Args:
        task: the page and its hooks.
        fast: synthetic DOM events in place of real input.
        screenshot: whether observations hold one.
        settle_ms: milliseconds to wait at most, after an action, for animations to end.
        limit_steps: steps after which an episode is truncated; 0 for no limit.
        render_mode: `rgb_array`, the only one.
        browser: the pool; without it, the one that this process's environments share.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        task: WebTask,
        *,
        fast: bool = False,
        screenshot: bool = False,
        settle_ms: int = 1000,
        limit_steps: int = 0,
        render_mode: str | None = "rgb_array",
        browser: Browser | None = None,
    ) -> None:
        self.task, self.render_mode = task, render_mode
        self.browser = browser or shared_browser()
        config = EpisodeConfig(fast=fast, screenshot=screenshot, settle_ms=settle_ms, limit_steps=limit_steps)
        self.episode = Episode(self.browser, task, config)
        self.action_space = action_space(task.size)
        # Gymnasium's type of a space of dictionaries knows no typed dictionary.
        observations: Any = observation_space(task.size, screenshot)
        self.observation_space = observations

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode: the same seed gives the same page. Options go to the task's start, before its own.

        Raises:
            BrowserError: the page cannot be started.
        """
        super().reset(seed=seed)
        outcome = self.browser.run(self.episode.reset(page_seed(self.np_random, seed), options), timeout=60.0)
        return outcome.observation, outcome.info

    def step(self, action: Action | Mapping[str, Any] | None) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Do an action; the reward is the page's raw one, given at the episode's end."""
        outcome = self.browser.run(self.episode.step(Action.of(action)))
        return as_step(outcome)

    def render(self) -> np.ndarray:  # type: ignore[override]
        """Return RGB of the page: [height, width, 3], uint8."""
        return self.browser.run(self.episode.screenshot())

    def close(self) -> None:
        """Close the page; the browser stays for the other environments, until the process ends."""
        if self.episode.page is not None:
            self.browser.run(self.episode.close())


class MiniWobEnv(WebEnv):
    """A MiniWoB page: `task` is its name; `data_mode` and `time_limit` as in `miniwob_task`."""

    def __init__(self, task: str, *, data_mode: str = "train", time_limit: bool = False, **kwargs: Any) -> None:
        super().__init__(miniwob_task(task, data_mode=data_mode, time_limit=time_limit), **kwargs)


def page_seed(generator: np.random.Generator, seed: int | None) -> int:
    """Return the page's seed: the one given, or the next of the environment's generator."""
    return seed if seed is not None else int(generator.integers(SEEDS))


def as_step(outcome: Outcome) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
    """Return what Gymnasium's `step` returns."""
    return outcome.observation, outcome.reward, outcome.terminated, outcome.truncated, outcome.info
