"""What the local sites share: sessions, tasks and their scoring, and markup that differs between seeds.

A request's path begins with its session; what a session did is kept as named values (`reached`), and a task's score is
the share of its required values that the session has reached, as the paper scores its websites (Gur et al. 2023,
section 4.1). Sessions do not see each other, and the same requests give the same pages.
"""

from __future__ import annotations

import importlib
import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, ClassVar
from urllib.parse import quote, unquote

from fionalm.errors import UserError, choice_error
from fionalm.web.serving import Response, redirect

SITES = {
    "real-estate": "fionalm.web.sites.real_estate:RealEstateSite",
    "social-media": "fionalm.web.sites.social_media:SocialMediaSite",
    "map": "fionalm.web.sites.maps:MapSite",
}
MOST_SESSIONS = 10_000


@dataclass(frozen=True)
class SiteTask:
    """One task: what is asked for, and the values that a session must have reached at its end."""

    session: str
    instruction: str
    required: Mapping[str, str]


@dataclass(frozen=True)
class Score:
    """Which required values were reached; `share` is the paper's score (over 100), `success` all of them."""

    reached: Mapping[str, bool]

    @property
    def share(self) -> float:
        """The share of required values that were reached."""
        return sum(self.reached.values()) / len(self.reached)

    @property
    def success(self) -> bool:
        """Whether all were."""
        return all(self.reached.values())


@dataclass
class Session:
    """What one customer did: `reached` holds the values that tasks are scored by, `data` what pages remember."""

    reached: dict[str, str] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)


class LocalSite(ABC):
    """A site with generated records; `seed` fixes records, markup and tasks."""

    name: ClassVar[str]

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.style = Style(seed)
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    @abstractmethod
    def page(self, base: str, parts: Sequence[str], query: Mapping[str, str], session: Session) -> str | Response:
        """Return the page at the path `parts` below `base`, the session's root.

        Raises:
            ValueError: there is none.
        """

    @abstractmethod
    def make_task(self, generator: random.Random) -> tuple[str, dict[str, str]]:
        """Return an instruction and the values that it requires."""

    def tasks(self, count: int = 20, seed: int = 0) -> list[SiteTask]:
        """Return `count` tasks that differ in what they require.

        Raises:
            UserError: the site has not so many.
        """
        generator = random.Random(f"{self.name} tasks {self.seed} {seed}")
        found: dict[tuple[tuple[str, str], ...], str] = {}
        for _ in range(50 * count):
            if len(found) == count:
                break
            instruction, required = self.make_task(generator)
            found.setdefault(tuple(required.items()), instruction)
        else:
            if len(found) < count:
                raise UserError(f"{count} tasks of {self.name}: expected at most {len(found)}")
        return [
            SiteTask(f"task-{seed}-{number}", instruction, dict(required))
            for number, (required, instruction) in enumerate(found.items())
        ]

    def respond(self, path: str, query: Mapping[str, str]) -> Response:
        """Answer a request; see `fionalm.web.serving.Site`. `/` opens the session `visit`."""
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts == [""]:
            return redirect("/visit/")
        base = f"/{quote(parts[0], safe='')}"
        with self._lock:
            page = self.page(base, [part for part in parts[1:] if part], query, self.session(parts[0]))
        return page if isinstance(page, Response) else Response(page)

    def session(self, name: str) -> Session:
        """Return a session; the oldest is forgotten when there are ten thousand."""
        if name not in self._sessions and len(self._sessions) >= MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        return self._sessions.setdefault(name, Session())

    def reset(self, name: str) -> None:
        """Forget a session."""
        self._sessions.pop(name, None)

    def score(self, task: SiteTask, session: str | None = None) -> Score:
        """Return what a session (default: the task's own) has reached of a task."""
        reached = self.session(task.session if session is None else session).reached
        return Score({name: same(reached.get(name), value) for name, value in task.required.items()})


class Style:
    """Markup that differs between seeds: classes, identifying attributes, and how deep things are nested."""

    def __init__(self, seed: int) -> None:
        generator = random.Random(f"style {seed}")
        self.prefix = generator.choice(["", "ui-", "x_", "css-", "app__", "sc-"])
        self.mark = generator.choice(["data-testid", "data-qa", "data-test", "id", "data-component"])
        self.layers = generator.randint(1, 3)
        self._salt = seed
        self._hashed = generator.random() < 0.5

    def css(self, name: str) -> str:
        """Return the class that this seed uses for `name`."""
        if not self._hashed:
            return self.prefix + name
        return f"{self.prefix}{random.Random(f'{self._salt} {name}').getrandbits(32):x} {self.prefix}{name}"

    def box(self, name: str, *inner: str, tag: str = "div") -> str:
        """Return `inner` in a box of `name`, as deeply nested as this seed has it."""
        opened = "".join(f'<div class="{self.css(f"{name}-{layer}")}">' for layer in range(1, self.layers))
        body = "".join(inner)
        return f'<{tag} class="{self.css(name)}">{opened}{body}{"</div>" * (self.layers - 1)}</{tag}>'

    def marked(self, name: str) -> str:
        """Return the attribute by which this seed's scripts and tests know a control."""
        return f'{self.mark}="{escape(name)}"'


def document(title: str, body: str, script: str = "") -> str:
    """Return a whole HTML document."""
    tail = f"<script>{script}</script>" if script else ""
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{CSS}</style></head><body>{body}{tail}</body></html>"
    )


CSS = (
    "body{margin:0;font:15px/1.45 system-ui,sans-serif;color:#1c2430;background:#f4f5f7}main,header,footer{max-width:"
    "1000px;margin:0 auto;padding:12px 16px}a{color:#1f4f9c}article{background:#fff;border:1px solid #dde1e7;"
    "border-radius:6px;padding:10px 14px;margin:10px 0}button,input,select,textarea{font:inherit;padding:5px 10px;"
    "margin:3px}[aria-pressed=true],[aria-current=true]{background:#2f66b3;color:#fff}[hidden]{display:none}"
    "nav a{margin-right:12px}ul{padding-left:18px}svg{max-width:100%}"
)


def same(one: str | None, other: str) -> bool:
    """Whether two values are equal but for case and surrounding space."""
    return one is not None and " ".join(one.lower().split()) == " ".join(other.lower().split())


def choices(name: str, values: Sequence[tuple[str, str]], chosen: str = "") -> str:
    """Return a select element; `values` are pairs of value and label."""
    options = "".join(
        f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>{escape(label)}</option>'
        for value, label in values
    )
    return f'<select name="{name}" id="{name}-select">{options}</select>'


def make_site(name: str, seed: int = 0) -> LocalSite:
    """Return a site by name.

    Raises:
        UserError: the name is unknown.
    """
    if name not in SITES:
        raise choice_error("site", name, SITES)
    module, kind = SITES[name].split(":")
    return getattr(importlib.import_module(module), kind)(seed)
