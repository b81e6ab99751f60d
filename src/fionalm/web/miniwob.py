"""The 130 pages of MiniWoB++ as web tasks. The package `miniwob` brings the pages; nothing else of it is used.

Rewards are the pages' raw ones: no decay with time, and success is a raw reward of 1. The pages' own time limits, 7 to
30 s for most, which a slow model always loses, are off unless asked for.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from fionalm.errors import MissingExtraError, UserError, nearest
from fionalm.web.tasks import Fields, WebTask, no_fields

PAGES = """
ascending-numbers bisect-angle book-flight book-flight-nodelay button-delay buy-ticket chase-circle choose-date
choose-date-easy choose-date-medium choose-date-nodelay choose-list circle-center click-button click-button-sequence
click-checkboxes click-checkboxes-large click-checkboxes-soft click-checkboxes-transfer click-collapsible
click-collapsible-2 click-collapsible-2-nodelay click-collapsible-nodelay click-color click-dialog click-dialog-2
click-link click-menu click-menu-2 click-option click-pie click-pie-nodelay click-scroll-list click-shades
click-shape click-tab click-tab-2 click-tab-2-easy click-tab-2-hard click-tab-2-medium click-test click-test-2
click-test-transfer click-widget copy-paste copy-paste-2 count-shape count-sides daily-calendar drag-box drag-circle
drag-cube drag-items drag-items-grid drag-shapes drag-shapes-2 drag-single-shape drag-sort-numbers draw-circle
draw-line email-inbox email-inbox-delete email-inbox-forward email-inbox-forward-nl email-inbox-forward-nl-turk
email-inbox-important email-inbox-nl-turk email-inbox-noscroll email-inbox-reply email-inbox-star-reply enter-date
enter-password enter-text enter-text-2 enter-text-dynamic enter-time find-greatest find-midpoint find-word
focus-text focus-text-2 form-sequence form-sequence-2 form-sequence-3 generate-number grid-coordinate guess-number
highlight-text highlight-text-2 hot-cold hover-shape identify-shape login-user login-user-popup moving-items
multi-layouts multi-orderings navigate-tree number-checkboxes odd-or-even order-food phone-book read-table
read-table-2 resize-textarea right-angle scroll-text scroll-text-2 search-engine sign-agreement simon-says
simple-algebra simple-arithmetic social-media social-media-all social-media-some stock-market terminal text-editor
text-transform tic-tac-toe unicode-test use-autocomplete use-autocomplete-nodelay use-colorwheel use-colorwheel-2
use-slider use-slider-2 use-spinner visual-addition
"""
MINIWOB_TASKS: tuple[str, ...] = tuple(PAGES.split())

# Pages on which a test found something left over from the episode before.
LEFT_OVER = """
book-flight book-flight-nodelay choose-date choose-date-easy choose-date-medium choose-date-nodelay drag-cube
drag-items drag-items-grid drag-sort-numbers form-sequence form-sequence-2 form-sequence-3 stock-market
use-colorwheel use-colorwheel-2 use-slider use-slider-2
"""
RELOADED = frozenset(LEFT_OVER.split())
# Elements that are no part of the task: the reward display and what measures clicks; the query is the utterance.
IGNORED = ("reward-display", "sync-task-cover", "click-canvas", "attention-canvas", "query")
NO_LIMIT_MS = 2_000_000_000

HOOKS = """{
  start(seed, options) {
    const task = __fiona.task;
    task.limit = task.limit || core.EPISODE_MAX_TIME;
    core.EPISODE_MAX_TIME = options.time_limit ? task.limit : options.no_limit_ms;
    core.endEpisode(0);
    Math.seedrandom(seed);
    core.setDataMode(options.data_mode);
    core.startEpisodeReal();
  },
  ready: () => WOB_TASK_READY,
  status() {
    // The cover that waits for the next episode's start would hide the last frame of this one.
    if (WOB_DONE_GLOBAL && core.cover_div) core.cover_div.style.display = "none";
    const said = core.getUtterance();
    const split = typeof said === "object";
    return {
      utterance: split ? said.utterance : said,
      ...(split ? { fields: said.fields } : {}),
      done: WOB_DONE_GLOBAL,
      reward: WOB_RAW_REWARD_GLOBAL,
      reason: WOB_REWARD_REASON === undefined ? null : WOB_REWARD_REASON,
    };
  },
}"""


def miniwob_task(name: str, *, data_mode: str = "train", time_limit: bool = False) -> WebTask:
    """Return the task of a MiniWoB page.

    Args:
        name: the page's name, such as `click-test-2`.
        data_mode: the part of the pages' own split that problems are drawn from: `train` or `test`.
        time_limit: whether the page's own time limit ends episodes, with -1.

    Raises:
        UserError: there is no such page.
        MissingExtraError: the package `miniwob` is not installed.
    """
    if name not in MINIWOB_TASKS:
        expected = f"one of its {len(MINIWOB_TASKS)} pages{nearest(name, MINIWOB_TASKS)}"
        raise UserError(f"unknown MiniWoB task {name!r}: expected {expected}")
    if data_mode not in ("train", "test", "default"):
        raise UserError(f"unknown data mode {data_mode!r}: expected 'train', 'test' or 'default'")
    return WebTask(
        name=f"miniwob.{name}",
        url=(html_folder() / "miniwob" / f"{name}.html").as_uri(),
        hooks=HOOKS,
        ignored=IGNORED,
        reload=name in RELOADED,
        options={"data_mode": data_mode, "time_limit": time_limit, "no_limit_ms": NO_LIMIT_MS},
        fields=fields_of(name),
    )


@cache
def html_folder() -> Path:
    """Return the folder of the package's pages, with `core` and `common` beside `miniwob`.

    Raises:
        MissingExtraError: the package is not installed.
    """
    # Found without importing it: an import registers its own environments and loads Selenium.
    found = importlib.util.find_spec("miniwob")
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError("this needs the package 'miniwob', which is not installed: pip install 'fiona-lm[web]'")
    return Path(found.submodule_search_locations[0]) / "html"


@cache
def extractors() -> dict[str, Callable[[str], Any]]:
    """Return the package's own functions from utterances to fields, by task."""
    spec = importlib.util.spec_from_file_location("fionalm_miniwob_fields", html_folder().parent / "fields.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FIELD_EXTRACTORS


def fields_of(name: str) -> Callable[[str], Fields]:
    """Return the function from a task's utterances to their fields; of an utterance unknown to it there are none."""
    extract = extractors().get(name)
    if extract is None:
        return no_fields

    def fields(utterance: str) -> Fields:
        try:
            return dict(extract(utterance))
        except ValueError:
            return {}

    return fields
