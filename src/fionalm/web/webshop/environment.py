"""WebShop as a Gymnasium environment: `fiona/webshop-v0`.

    env = gymnasium.make("fiona/webshop-v0", observation_mode="text", split="train")
    observation, info = env.reset(seed=0)               # info: goal, instruction, url, available_actions
    observation, reward, terminated, truncated, info = env.step("search[red table lamp]")

An episode ends with `click[Buy Now]`; its reward is the purchase's, everything before is worth 0.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded

from fionalm.errors import UserError, choice_error
from fionalm.web.spaces import UnicodeText
from fionalm.web.webshop.drawing import draw
from fionalm.web.webshop.goals import split_range
from fionalm.web.webshop.pages import Page, Part, clickables
from fionalm.web.webshop.products import Catalogue
from fionalm.web.webshop.shop import OBSERVATION_MODES, Shop, open_shop

SEPARATOR = " [SEP] "


class WebShopEnv(gym.Env[str, str]):
    """One customer. Observations and actions are texts; an action that is none leaves all as it is, with a reason.

    `info["error"]` says why an action did nothing. At the end, `info["success"]` is a reward of 1 and `info["terms"]`
    holds what the reward is made of.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array", "ansi"], "render_fps": 4}

    def __init__(
        self,
        observation_mode: str = "text",
        split: str = "train",
        *,
        shop: Shop | None = None,
        catalogue: Catalogue | Path | str | None = None,
        n_products: int | None = None,
        goals: str = "human",
        show_attributes: bool = False,
        search_anywhere: bool = False,
        num_prev_observations: int = 0,
        num_prev_actions: int = 0,
        render_mode: str | None = None,
    ) -> None:
        """Open the shop.

        Args:
            observation_mode: `text`, `text_rich`, `html` or `url`.
            split: whose goals are played: `test`, `eval`, `train` or `all`.
            shop: a shop, instead of the arguments from `catalogue` to `search_anywhere`, which are `open_shop`'s.
            catalogue: see `open_shop`.
            n_products: see `open_shop`.
            goals: see `open_shop`.
            show_attributes: see `open_shop`.
            search_anywhere: see `open_shop`.
            num_prev_observations: how many earlier observations stand before the present one.
            num_prev_actions: how many earlier actions stand among them.
            render_mode: `rgb_array` (a drawing of the page), `ansi` (its text) or None.

        Raises:
            UserError: an argument is none of the choices, or the catalogue is malformed.
        """
        if observation_mode not in OBSERVATION_MODES:
            raise choice_error("observation mode", observation_mode, OBSERVATION_MODES)
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise choice_error("render mode", render_mode, self.metadata["render_modes"])
        self.shop = shop or open_shop(
            catalogue,
            n_products=n_products,
            goals=goals,
            show_attributes=show_attributes,
            search_anywhere=search_anywhere,
        )
        self.observation_mode, self.render_mode = observation_mode, render_mode
        self.goals = split_range(self.shop.goals, split)
        self._chances = np.cumsum([self.shop.goals[place].weight for place in self.goals])
        self.num_prev_observations, self.num_prev_actions = num_prev_observations, num_prev_actions
        self._past: deque[tuple[str, str]] = deque(maxlen=max(num_prev_observations, num_prev_actions))
        self._current = ""
        self._visited: set[str] = set()
        self._page: Page | None = None
        self._parts: list[Part] = []
        self.observation_space = UnicodeText()
        self.action_space = UnicodeText()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Return the search page of a goal: `options["goal"]`, or one drawn from the split by its weight.

        Raises:
            UserError: the goal is none of the split's.
        """
        super().reset(seed=seed)
        goal = (options or {}).get("goal")
        if goal is None:
            drawn = self.np_random.random() * self._chances[-1]
            goal = self.goals[min(int(np.searchsorted(self._chances, drawn, side="right")), len(self.goals) - 1)]
        elif goal not in self.goals:
            raise UserError(f"goal {goal!r}: expected a number from {self.goals[0]} to {self.goals[-1]}")
        self._past.clear()
        self._visited.clear()
        self._go(self.shop.start(int(goal)))
        return self._current, self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Do `search[keywords]` or `click[value]`.

        Raises:
            ResetNeeded: there is no episode.
        """
        if self._page is None or self._page.kind == "done":
            raise ResetNeeded("the episode is over, or none has begun: call reset first")
        page, error = self.shop.act(self._page, str(action), self._parts)
        self._past.append((self._current, str(action)))
        if page is not self._page:
            self._go(page)
        info = self._info()
        reward, terminated = 0.0, page.kind == "done"
        if terminated:
            purchase = self.shop.purchase(page)
            reward = purchase.total
            info |= {"success": purchase.success, "terms": asdict(purchase)}
        if error:
            info["error"] = error
        return self._with_past(), reward, terminated, False, info

    def available_actions(self) -> dict[str, Any]:
        """Return whether there is a search bar, and what can be clicked.

        Raises:
            ResetNeeded: there is no episode.
        """
        if self._page is None:
            raise ResetNeeded("no episode has begun: call reset first")
        searchable = self._page.kind == "index" or (self.shop.search_anywhere and self._page.kind != "done")
        return {"has_search_bar": searchable, "clickables": tuple(clickables(self._parts))}

    def render(self) -> Any:
        """Return the page as a drawing, uint8 [height, width, 3], or as its text."""
        if self.render_mode is None:
            return None
        if self.render_mode == "ansi":
            return "" if self._page is None else self.shop.observe(self._page, "text_rich", self._visited, self._parts)
        return draw(self._parts)

    def _go(self, page: Page) -> None:
        self._page = page
        self._parts = self.shop.parts(page)
        if page.kind == "item_page":
            self._visited.add(page.asin)
        self._current = self.shop.observe(page, self.observation_mode, self._visited, self._parts)

    def _with_past(self) -> str:
        """Return the observation after earlier ones: the oldest first, each followed by the action taken there."""
        texts = []
        for age, (seen, action) in enumerate(reversed(self._past), start=1):
            if age <= self.num_prev_actions:
                texts.append(action)
            if age <= self.num_prev_observations:
                texts.append(seen)
        return SEPARATOR.join([*reversed(texts), self._current])

    def _info(self) -> dict[str, Any]:
        assert self._page is not None
        return {
            "goal": int(self._page.session),
            "instruction": self.shop.goal(self._page).instruction,
            "url": self.shop.observe(self._page, "url"),
            "available_actions": self.available_actions(),
        }
