from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fionalm.web import Browser, BrowserConfig, WebTask


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    pool = Browser(BrowserConfig(hang=20.0))
    yield pool
    pool.close()


# An episode of this page ends with the reward that a script or a click sets.
HOOKS = """{
  start(seed, options) { globalThis.reward = 0; globalThis.done = false; if (globalThis.setup) setup(seed, options); },
  status: () => ({ utterance: "", done, reward }),
}"""


@pytest.fixture
def page_task(tmp_path: Path):
    """Make a task of a page's body."""

    def make(body: str, name: str = "page", **options: object) -> WebTask:
        path = tmp_path / f"{name}.html"
        path.write_text(f"<!doctype html><meta charset='utf-8'><body style='margin:0'>{body}</body>", encoding="utf-8")
        return WebTask(name=name, url=path.as_uri(), hooks=HOOKS, size=(200, 200), **options)  # type: ignore[arg-type]

    return make
