"""An episode of a web task on a page of the pool, without Gymnasium: what the environments, oracles and agents share.

Its methods return operations, so that any number of episodes go on side by side: `browser.run_all(...)`.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fionalm.errors import UserError
from fionalm.web.actions import Action, Refused, check, perform, script_action
from fionalm.web.browser import Browser
from fionalm.web.chromium import BrowserError
from fionalm.web.observations import Observation, read_nodes, read_screenshot
from fionalm.web.page import CallError, Operation, Page, PageError, destroyed
from fionalm.web.tasks import WebTask

SETTLE_MS = 1000
LEFT = "the page was left for another"


@dataclass(frozen=True)
class EpisodeConfig:
    """How episodes are run and seen."""

    fast: bool = False
    """synthetic DOM events in place of real input: several times faster"""
    screenshot: bool = False
    """whether observations hold a screenshot"""
    settle_ms: int = SETTLE_MS
    """milliseconds to wait at most, after an action, for animations to end"""
    limit_steps: int = 0
    """steps after which an episode is truncated; 0 for no limit"""


@dataclass
class Outcome:
    """What a reset or a step gave."""

    observation: Observation
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    reason: str = ""
    error: str = ""
    """what was wrong with the action, or with the page"""
    fault: bool = False
    """whether the page failed, which ends the episode without a reward"""
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def success(self) -> bool:
        """Whether the raw reward is 1 or more."""
        return self.terminated and self.reward >= 1

    @property
    def info(self) -> dict[str, Any]:
        """Gymnasium's info: nothing that differs between equal runs."""
        return {
            "success": self.success,
            "raw_reward": self.reward,
            "reason": self.reason,
            "error": self.error,
            "fault": self.fault,
        }


class Episode:
    """One episode after the other of a task, on a page that is replaced when it fails.

    Args:
        browser: the pool.
        task: the page and its hooks.
        config: how episodes are run and seen.
    """

    def __init__(self, browser: Browser, task: WebTask, config: EpisodeConfig | None = None) -> None:
        self.browser, self.task, self.config = browser, task, config or EpisodeConfig()
        self.page: Page | None = None
        self.over = True
        self.steps = 0
        self.last: Observation | None = None

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Operation[Outcome]:
        """Start an episode that depends on `seed` alone; `options` go before the task's own.

        Raises:
            BrowserError: the page cannot be started, on a fresh page neither.
        """
        seed = random.getrandbits(31) if seed is None else seed
        given = {**self.task.options, **(options or {})}
        begin = f"__fiona.begin({seed}, {json.dumps(given)}, {json.dumps(self.task.ignored)}, {self.config.settle_ms})"
        for attempt in range(2):
            try:
                page = yield from self._fresh_page()
                seen = yield from page.evaluate(begin)
                self.over, self.steps, page.navigations = False, 0, 0
                return (yield from self._outcome(page, seen))
            except BrowserError:
                # Left over from before, such as a browser that was killed between two episodes: once more, afresh.
                yield from self.close()
                if attempt:
                    raise
        raise AssertionError

    def step(self, action: Action) -> Operation[Outcome]:
        """Do an action. A page that fails ends the episode: no reward, truncated, and the error is told."""
        page = self.page
        if page is None or self.over or self.last is None:
            return self.failed("there is no episode to go on with: reset first")
        self.steps += 1
        ignored, settle = json.dumps(self.task.ignored), self.config.settle_ms
        try:
            error = ""
            if self.config.fast:
                script, error = "null", self._refusal(action)
                if action.kind != "none" and not error:
                    script = script_action(action)
                seen = yield from self._ask(page, f"__fiona.step({script}, {ignored}, {settle})")
                error = error or seen["error"]
            else:
                error = yield from perform(page, action)
                seen = yield from self._ask(page, f"__fiona.observe({ignored}, {settle})")
            if page.navigations and not self.task.navigates:
                raise PageError(LEFT)
            return (yield from self._outcome(page, seen, error))
        except BrowserError as failed:
            # A script that fails in the next document fails because this one was left.
            left = page.navigations and not self.task.navigates and not page.fault
            page.fault = page.fault or (LEFT if left else str(failed))
            return self.failed(page.fault)

    def screenshot(self) -> Operation[np.ndarray]:
        """Return RGB of the page: [height, width, 3], uint8."""
        if self.page is None or not self.page.alive:
            return np.zeros((self.task.size[1], self.task.size[0], 3), np.uint8)
        png = yield from self.page.screenshot(*self.task.size)
        return read_screenshot(png, self.task.size)

    def close(self) -> Operation[None]:
        """Close the page."""
        page, self.page, self.over = self.page, None, True
        if page is not None:
            yield from page.close()

    def _fresh_page(self) -> Operation[Page]:
        """Return the page, opened or loaded anew where need be."""
        page = self.page
        if page is not None and not page.alive:
            yield from page.close()
            page = None
        if page is None:
            page = yield from self.browser.open_page(size=self.task.viewport)
            self.page = page
            hooks = f"Object.assign(__fiona, {{ task: {self.task.hooks} }});"
            yield from page.call("Page.addScriptToEvaluateOnNewDocument", source=hooks)
            yield from page.goto(self.task.url)
        elif self.task.reload or page.navigations:
            yield from page.goto(self.task.url)
        return page

    def _ask(self, page: Page, expression: str) -> Operation[dict[str, Any]]:
        """Evaluate, once more in the new document if the page loads another and may."""
        for _ in range(5):
            try:
                return (yield from page.evaluate(expression))
            except CallError as error:
                if not destroyed(error) or not self.task.navigates:
                    raise
                yield from page.evaluate("__fiona.loaded()")
        raise PageError("the page never stopped loading others")

    def _refusal(self, action: Action) -> str:
        try:
            if action.kind != "none":
                check(action)
        except (Refused, UserError) as refused:
            return str(refused)
        return ""

    def _outcome(self, page: Page, seen: dict[str, Any], error: str = "") -> Operation[Outcome]:
        utterance = seen["utterance"]
        fields = seen.get("fields")
        if fields is None:
            fields = self.task.fields(utterance)
        observation: Observation = {
            "utterance": utterance,
            "fields": tuple((str(name), str(value)) for name, value in fields.items()),
            "dom": read_nodes(seen["dom"]),
        }
        if self.config.screenshot:
            observation["screenshot"] = read_screenshot((yield from page.screenshot(*self.task.size)), self.task.size)
        self.last, self.over = observation, bool(seen["done"])
        limit = self.config.limit_steps
        truncated = not self.over and 0 < limit <= self.steps
        self.over |= truncated
        return Outcome(
            observation,
            reward=float(seen["reward"]) if seen["done"] else 0.0,
            terminated=bool(seen["done"]),
            truncated=truncated,
            reason=str(seen.get("reason") or ""),
            error=error,
        )

    def failed(self, error: str) -> Outcome:
        """Return the last observation with an error: an episode that failed has no reward."""
        self.over = True
        last = self.last
        if last is None:
            empty: Observation = {"utterance": "", "fields": (), "dom": ()}
            last = empty
            if self.config.screenshot:
                last["screenshot"] = np.zeros((self.task.size[1], self.task.size[0], 3), np.uint8)
        copied: Observation = last.copy()
        copied["dom"] = tuple(node.copy() for node in last["dom"])
        if "screenshot" in last:
            copied["screenshot"] = last["screenshot"].copy()
        return Outcome(copied, truncated=True, error=error, fault=True)
