"""What a web task is: a page, how an episode on it starts, and how its reward is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Fields = Mapping[str, str]


def no_fields(utterance: str) -> Fields:
    """Return no fields."""
    return {}


@dataclass(frozen=True)
class WebTask:
    """A page and its hooks. Everything about episodes that differs between kinds of tasks is here.

    `hooks` is a JavaScript expression for an object of these functions, put into the page before its own scripts run:

    - `start(seed, options, api)`: begin an episode that depends on the seed (an integer) alone; may return a promise.
    - `ready(api)`: whether the episode has begun (optional).
    - `status(api)`: `{utterance, done, reward}` and optionally `fields` (an object) and `reason`. The reward is the raw
      one, and 1 or more is success.

    `api` is page.js's object: `api.node(ref)`, `api.locate(ref)`, `api.images()` and so on.
    """

    name: str
    url: str
    hooks: str
    size: tuple[int, int] = (160, 210)
    """width and height of the part of the page that screenshots show"""
    viewport: tuple[int, int] = (500, 320)
    """width and height of the window: dialogs centre themselves in it"""
    ignored: tuple[str, ...] = ()
    """ids of elements that are left out of the DOM"""
    reload: bool = False
    """whether the page is loaded anew before each episode, because something is left over from the last"""
    navigates: bool = False
    """whether loading another page belongs to the task; elsewhere it is a fault"""
    options: Mapping[str, Any] = field(default_factory=dict)
    """passed to `start`"""
    fields: Callable[[str], Fields] = no_fields
    """the utterance's fields, where `status` gives none"""
