"""A vector environment whose pages step together: `gymnasium.make_vec("fiona/miniwob.click-test-2-v0", num_envs=8)`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space, iterate

from fionalm.errors import UserError
from fionalm.web.actions import Action
from fionalm.web.browser import Browser, shared_browser
from fionalm.web.chromium import BrowserError
from fionalm.web.environment import page_seed
from fionalm.web.episode import Episode, EpisodeConfig, Outcome
from fionalm.web.miniwob import miniwob_task
from fionalm.web.page import Operation
from fionalm.web.spaces import action_space, observation_space
from fionalm.web.tasks import WebTask

RESET_TIMEOUT = 60.0


class WebVectorEnv(gym.vector.VectorEnv[dict[str, Any], Any, np.ndarray]):
    """One page for each of `tasks`, all stepped side by side by one thread; the tasks may differ.

    A page that fails, or a browser that is killed in the middle of a step, ends that page's episode: truncated, no
    reward, `info["error"]` says why. All others go on, and the failed one is reset as any other.

    Args:
        tasks: one for each page; their screenshots have one size.
        autoreset_mode: `NEXT_STEP` (Gymnasium's default), `SAME_STEP` or `DISABLED`.
        others: as of `WebEnv`.
    """

    def __init__(
        self,
        tasks: Sequence[WebTask],
        *,
        fast: bool = False,
        screenshot: bool = False,
        settle_ms: int = 1000,
        limit_steps: int = 0,
        render_mode: str | None = "rgb_array",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        browser: Browser | None = None,
    ) -> None:
        if not tasks:
            raise UserError("a vector environment needs at least one task, none was given")
        sizes = {task.size for task in tasks}
        if len(sizes) > 1:
            raise UserError(f"tasks of one vector environment have screens of one size, these have {sorted(sizes)}")
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 4, "autoreset_mode": self.autoreset_mode}
        self.num_envs, self.render_mode = len(tasks), render_mode
        self.browser = browser or shared_browser()
        config = EpisodeConfig(fast=fast, screenshot=screenshot, settle_ms=settle_ms, limit_steps=limit_steps)
        self.episodes = [Episode(self.browser, task, config) for task in tasks]
        self.single_action_space = action_space(tasks[0].size)
        self.single_observation_space = observation_space(tasks[0].size, screenshot)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._generators: list[np.random.Generator] = []
        self._outcomes: list[Outcome] = []

    def reset(  # type: ignore[override]
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start all episodes; an integer seed gives the pages that seed and those after it.

        `options["reset_mask"]`, a boolean array, names the pages to reset; the others stay as they are.

        Raises:
            BrowserError: a page cannot be started.
        """
        super().reset(seed=seed if isinstance(seed, int) else None)
        options = dict(options or {})
        mask = options.pop("reset_mask", np.ones(self.num_envs, dtype=bool))
        seeds = (
            [None if seed is None else seed + place for place in range(self.num_envs)]
            if not isinstance(seed, Sequence)
            else list(seed)
        )
        if len(seeds) != self.num_envs:
            raise UserError(f"{len(seeds)} seeds for {self.num_envs} pages")
        for place, one in enumerate(seeds):
            fresh = np.random.default_rng(one)
            if not self._generators or len(self._generators) <= place:
                self._generators.append(fresh)
            elif one is not None:
                self._generators[place] = fresh
        chosen = [place for place in range(self.num_envs) if mask[place]]
        given = [page_seed(self._generators[place], seeds[place]) for place in chosen]
        operations = [self.episodes[place].reset(one, options) for place, one in zip(chosen, given, strict=True)]
        outcomes = self._started(operations)
        if len(chosen) == self.num_envs:
            self._outcomes = outcomes
        else:
            for place, outcome in zip(chosen, outcomes, strict=True):
                self._outcomes[place] = outcome
        return self._batch([outcome.observation for outcome in self._outcomes]), self._infos(outcomes, chosen)

    def step(  # type: ignore[override]
        self, actions: Sequence[Action | Mapping[str, Any] | None] | Mapping[str, Any]
    ) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Do one action on each page: a sequence of what `WebEnv.step` takes, or a sample of the action space."""
        each = list(iterate(self.action_space, actions)) if isinstance(actions, Mapping) else list(actions)
        if len(each) != self.num_envs:
            raise UserError(f"{len(each)} actions for {self.num_envs} pages")
        operations: list[Operation[Outcome]] = []
        for episode, action in zip(self.episodes, each, strict=True):
            step = episode.step(Action.of(action))
            operations.append(self._reset_instead(episode) if self._due(episode) else step)
        self._outcomes = self._driven(operations)
        rewards = np.array([outcome.reward for outcome in self._outcomes], dtype=np.float64)
        terminated = np.array([outcome.terminated for outcome in self._outcomes])
        truncated = np.array([outcome.truncated for outcome in self._outcomes])
        infos: dict[str, Any] = {}
        ended = np.flatnonzero(terminated | truncated)
        if self.autoreset_mode is AutoresetMode.SAME_STEP and len(ended):
            for place in ended:
                final = {"final_obs": self._outcomes[place].observation, "final_info": self._outcomes[place].info}
                infos = self._add_info(infos, final, int(place))
            fresh = self._started([self._reset_instead(self.episodes[place]) for place in ended])
            for place, outcome in zip(ended, fresh, strict=True):
                self._outcomes[place] = outcome
        infos = self._infos(self._outcomes, range(self.num_envs), infos)
        return self._batch([outcome.observation for outcome in self._outcomes]), rewards, terminated, truncated, infos

    def render(self) -> tuple[np.ndarray, ...]:
        """Return RGB of every page."""
        shots = self.browser.run_all([episode.screenshot() for episode in self.episodes])
        return tuple(
            np.zeros((episode.task.size[1], episode.task.size[0], 3), np.uint8) if isinstance(shot, Exception) else shot
            for shot, episode in zip(shots, self.episodes, strict=True)
        )

    def close_extras(self, **kwargs: Any) -> None:
        """Close the pages; the browser stays for the other environments."""
        self.browser.run_all([episode.close() for episode in self.episodes])

    def _due(self, episode: Episode) -> bool:
        return self.autoreset_mode is AutoresetMode.NEXT_STEP and episode.over

    def _reset_instead(self, episode: Episode) -> Operation[Outcome]:
        return episode.reset(page_seed(self._generators[self.episodes.index(episode)], None))

    def _started(self, operations: Iterable[Operation[Outcome]]) -> list[Outcome]:
        """Run resets; one that fails on a fresh page too is raised."""
        found = self.browser.run_all(operations, timeout=RESET_TIMEOUT)
        for outcome in found:
            if isinstance(outcome, BrowserError):
                raise outcome
        return [outcome for outcome in found if isinstance(outcome, Outcome)]

    def _driven(self, operations: Iterable[Operation[Outcome]]) -> list[Outcome]:
        """Run steps, which report their pages' faults themselves, and resets, whose failure becomes a fault."""
        found = self.browser.run_all(operations)
        return [
            episode.failed(str(outcome)) if isinstance(outcome, BrowserError) else outcome
            for episode, outcome in zip(self.episodes, found, strict=True)
        ]

    def _batch(self, observations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batched: dict[str, Any] = {
            key: tuple(observation[key] for observation in observations) for key in ("utterance", "fields", "dom")
        }
        if "screenshot" in self.single_observation_space.spaces:  # type: ignore[attr-defined]
            batched["screenshot"] = np.stack([observation["screenshot"] for observation in observations])
        return batched

    def _infos(
        self, outcomes: Sequence[Outcome], places: Iterable[int], infos: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        found = dict(infos or {})
        for place, outcome in zip(places, outcomes, strict=True):
            found = self._add_info(found, outcome.info, place)
        return found


class MiniWobVectorEnv(WebVectorEnv):
    """`num_envs` pages of one MiniWoB task, or of several in turn: `task` is a name or several."""

    def __init__(
        self,
        task: str | Sequence[str],
        num_envs: int | None = None,
        *,
        data_mode: str = "train",
        time_limit: bool = False,
        **kwargs: Any,
    ) -> None:
        names = [task] if isinstance(task, str) else list(task)
        make: Callable[[str], WebTask] = lambda name: miniwob_task(name, data_mode=data_mode, time_limit=time_limit)  # noqa: E731
        count = len(names) if num_envs is None else num_envs
        super().__init__([make(names[place % len(names)]) for place in range(count)], **kwargs)
