"""A page of the pool, and the operations on it: generators that yield DevTools commands and are sent their results.

`Browser.run` and `Browser.run_all` drive them (see browser.py); one operation takes part in another by `yield from`.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Generator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from fionalm.web.chromium import BrowserError

if TYPE_CHECKING:
    from fionalm.web.browser import Browser

T = TypeVar("T")


class Call(NamedTuple):
    """One DevTools command, to a page's session or, with an empty one, to the browser."""

    session: str
    method: str
    parameters: dict[str, Any]


Operation = Generator[Sequence[Call], list[dict[str, Any]], T]
"""What yields commands to be sent together, is sent their results, and returns its own."""


class PageError(BrowserError):
    """A page failed: it hung, crashed, opened a dialog or was closed."""


class CallError(BrowserError):
    """Chromium refused a command, or a script in the page threw."""


class Page:
    """A page of the pool. Its methods return operations, to be run by `Browser.run` or within another operation."""

    def __init__(self, browser: Browser, generation: int, target: str, session: str, size: tuple[int, int]) -> None:
        self.browser, self.generation, self.target, self.session, self.size = browser, generation, target, session, size
        self.fault = ""
        self.hung = False
        self.navigations = 0
        self.held = False  # whether the mouse button is down

    @property
    def alive(self) -> bool:
        """Whether the page can still be used."""
        return not self.fault and self.generation == self.browser.generation

    def call(self, method: str, **parameters: Any) -> Operation[dict[str, Any]]:
        """Send one command to the page and return its result."""
        return (yield [Call(self.session, method, parameters)])[0]

    def evaluate(self, expression: str) -> Operation[Any]:
        """Return the value of a JavaScript expression, awaited if it is a promise.

        Raises:
            CallError: the script threw; its message is quoted.
        """
        parameters = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        return script_value((yield [Call(self.session, "Runtime.evaluate", parameters)])[0])

    def goto(self, url: str) -> Operation[None]:
        """Load `url` and wait until its load event is over."""
        result = yield from self.call("Page.navigate", url=url)
        if result.get("errorText"):
            raise CallError(f"cannot load {url}: {result['errorText']}")
        for attempt in range(3):
            try:
                yield from self.evaluate("__fiona.loaded()")
                break
            except CallError as error:
                # The document was exchanged while it was being asked: ask the new one.
                if attempt == 2 or not destroyed(error):
                    raise
        self.navigations = 0

    def screenshot(self, width: int, height: int) -> Operation[bytes]:
        """Return a PNG of the page's upper left `width` x `height` pixels."""
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        result = yield from self.call(
            "Page.captureScreenshot", format="png", clip=clip, optimizeForSpeed=True, fromSurface=True
        )
        return base64.b64decode(result["data"])

    def close(self) -> Operation[None]:
        """Close the page, whatever state it is in."""
        here = self.generation == self.browser.generation
        self.fault = self.fault or "the page was closed"
        self.browser.pages.pop(self.session, None)
        if here:
            if self.hung:
                # A script that never ends keeps its process busy for good; this ends the process.
                self.browser.tell(Call(self.session, "Page.crash", {}))
            with contextlib.suppress(BrowserError):
                yield [Call("", "Target.closeTarget", {"targetId": self.target})]


@cache
def scripts() -> str:
    """Return what runs in every page before its own scripts: page.js and events.js."""
    return "\n".join((Path(__file__).parent / name).read_text() for name in ("page.js", "events.js"))


def script_value(result: dict[str, Any]) -> Any:
    """Return the value of `Runtime.evaluate`'s result.

    Raises:
        CallError: the script threw.
    """
    if "exceptionDetails" in result:
        details = result["exceptionDetails"]
        words = details.get("exception", {}).get("description") or details.get("text", "an error")
        raise CallError(f"a script in the page failed: {words.splitlines()[0]}")
    return result["result"].get("value")


def destroyed(error: CallError) -> bool:
    """Whether a command failed because the page was loading another document."""
    words = str(error).lower()
    return "context was destroyed" in words or "cannot find context" in words or "navigated or closed" in words
