"""The browser pool: one Chromium, many pages, any number of operations on them side by side.

An operation is a generator: it yields the DevTools commands that it wants answered, all sent at once, and is sent
their results. `Browser.run` drives one and `Browser.run_all` many, from one thread or several; whichever thread waits
first reads the pipe for all. So a vector environment steps its pages together without threads or an event loop.

    browser = Browser()
    page = browser.run(browser.open_page("file:///tmp/page.html"))
    browser.run(page.evaluate("document.title"))

Whatever goes wrong with a page (it hangs, crashes, opens a dialog, is closed) ends the operations on it with a
`PageError`; the page is not to be used again. A browser that was killed ends all with `BrowserLostError` and is started
anew by the next operation.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fionalm.web.chromium import BrowserError, BrowserLostError, Chromium
from fionalm.web.page import Call, CallError, Operation, Page, PageError, scripts

T = TypeVar("T")
HANG = 10.0


@dataclass(frozen=True)
class BrowserConfig:
    """How the pool's Chromium is started."""

    executable: str | None = None
    """path of the browser; without it `CHROMIUM`, PATH and Playwright's own are searched"""
    hosts: tuple[str, ...] = ()
    """the only hosts that pages may reach, such as 127.0.0.1; none for pages of files"""
    flags: tuple[str, ...] = ()
    """more command-line flags of Chromium"""
    hang: float = HANG
    """seconds after which an operation that has no answer counts its page as hung"""


@dataclass(eq=False)
class Job:
    """An operation under way."""

    operation: Operation[Any]
    deadline: float
    pending: dict[int, int] = field(default_factory=dict)
    replies: list[dict[str, Any]] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    error: BrowserError | None = None
    result: Any = None
    done: bool = False

    @property
    def ready(self) -> bool:
        """Whether it can go on: all answers are there, or an error is."""
        return not self.done and (self.error is not None or not self.pending)


class Browser:
    """One Chromium and its pages, started by the first operation and again by the first one after it was lost.

    Args:
        config: how to start it.
    """

    def __init__(self, config: BrowserConfig | None = None) -> None:
        self.config = config or BrowserConfig()
        self.generation = 0
        self.pages: dict[str, Page] = {}
        self._chromium: Chromium | None = None
        self._numbers = itertools.count(1)
        self._jobs: dict[int, Job] = {}
        self._news = threading.Condition(threading.RLock())
        self._reading = False
        self._owner = os.getpid()
        atexit.register(self.close)

    @property
    def pid(self) -> int:
        """Process id of the running browser, 0 if none."""
        return self._chromium.pid if self._chromium is not None else 0

    def start(self) -> Chromium:
        """Return the running browser, started if need be.

        Raises:
            UserError: there is no Chromium on this machine.
            BrowserError: it does not start.
        """
        with self._news:
            if self._chromium is None or not self._chromium.alive:
                self._chromium = Chromium(self.config.executable, self.config.hosts, self.config.flags)
                self.generation += 1
            return self._chromium

    def run(self, operation: Operation[T], timeout: float | None = None) -> T:
        """Drive an operation to its end and return its result.

        Raises:
            PageError: its page failed, or nothing answered within `timeout` seconds (the config's, if not given).
            BrowserLostError: the browser was lost meanwhile.
        """
        (result,) = self.run_all([operation], timeout)
        if isinstance(result, BrowserError):
            raise result
        return result

    def run_all(self, operations: Iterable[Operation[T]], timeout: float | None = None) -> list[T | BrowserError]:
        """Drive operations side by side; the result of one that failed is its error, and the others go on.

        An error other than a `BrowserError` is raised when all others have ended.
        """
        deadline = time.monotonic() + (self.config.hang if timeout is None else timeout)
        jobs = [Job(operation, deadline) for operation in operations]
        raised: BaseException | None = None
        waiting = list(jobs)
        try:
            while waiting:
                for job in waiting:
                    if job.ready:
                        try:
                            self._advance(job)
                        except Exception as error:
                            job.done, raised = True, raised or error
                waiting = [job for job in waiting if not job.done]
                if waiting and not any(job.ready for job in waiting):
                    self._wait(waiting)
        finally:
            with self._news:
                for job in waiting:
                    self._forget(job)
        if raised is not None:
            raise raised
        return [job.error if job.error is not None else job.result for job in jobs]

    def open_page(self, url: str | None = None, size: tuple[int, int] = (500, 320)) -> Operation[Page]:
        """Open a page with a viewport of `size` pixels, and load `url` in it."""
        width, height = size
        new = {"url": "about:blank", "width": width, "height": height, "newWindow": True}
        target = (yield [Call("", "Target.createTarget", new)])[0]["targetId"]
        attached = (yield [Call("", "Target.attachToTarget", {"targetId": target, "flatten": True})])[0]
        page = Page(self, self.generation, target, attached["sessionId"], size)
        self.pages[page.session] = page
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        prepare = {
            "Page.enable": {},
            "Inspector.enable": {},
            "Emulation.setDeviceMetricsOverride": screen,
            "Emulation.setFocusEmulationEnabled": {"enabled": True},
            "Page.addScriptToEvaluateOnNewDocument": {"source": scripts()},
        }
        yield [Call(page.session, method, parameters) for method, parameters in prepare.items()]
        if url is not None:
            yield from page.goto(url)
        return page

    def tell(self, call: Call) -> None:
        """Send a command to a page without waiting for its answer."""
        with contextlib.suppress(BrowserLostError):
            message = {"id": next(self._numbers), "method": call.method, "params": call.parameters}
            self.start().send({**message, "sessionId": call.session})

    def close(self) -> None:
        """End the browser and all its pages; the next operation would start another."""
        if os.getpid() != self._owner:
            return
        with self._news:
            self._lose(BrowserLostError("the browser was closed"))
        atexit.unregister(self.close)

    def _advance(self, job: Job) -> None:
        """Give an operation its answers or its error, and send what it asks for next."""
        replies, error, job.error, job.replies, job.sessions = job.replies, job.error, None, [], []
        refused = next((reply["error"] for reply in replies if "error" in reply), None)
        if error is None and refused is not None:
            error = CallError(refused.get("message", "refused"))
        try:
            if error is not None:
                calls = job.operation.throw(error)
            elif replies:
                calls = job.operation.send([reply["result"] for reply in replies])
            else:
                calls = next(job.operation)
            self._send(job, calls)
        except StopIteration as stop:
            job.result, job.done = stop.value, True
        except BrowserError as failed:
            job.error, job.done = failed, True

    def _send(self, job: Job, calls: Sequence[Call]) -> None:
        """Send an operation's commands, or set the error that keeps them from it."""
        try:
            with self._news:
                chromium = self.start()
                for call in calls:
                    page = self.pages.get(call.session)
                    if call.session and (page is None or page.fault):
                        job.error = PageError(page.fault) if page else BrowserLostError("the page's browser is gone")
                        return
                job.replies = [{} for _ in calls]
                messages = []
                for place, call in enumerate(calls):
                    number = next(self._numbers)
                    message: dict[str, Any] = {"id": number, "method": call.method, "params": call.parameters}
                    if call.session:
                        message["sessionId"] = call.session
                    job.pending[number] = place
                    job.sessions.append(call.session)
                    self._jobs[number] = job
                    messages.append(message)
            chromium.send(*messages)
        except BrowserLostError as error:
            self._lose(error)
            job.error = job.error or error

    def _wait(self, jobs: Sequence[Job]) -> None:
        """Return when one of the jobs can go on: by reading the pipe, or while another thread does."""
        deadline = min(job.deadline for job in jobs)
        with self._news:
            while self._reading and not any(job.ready for job in jobs):
                left = deadline - time.monotonic()
                if left <= 0:
                    return self._expire(jobs)
                self._news.wait(left)
            chromium = self._chromium
            if chromium is None or any(job.ready for job in jobs):
                return None
            self._reading = True
        messages, lost = [], None
        try:
            messages = chromium.receive(deadline - time.monotonic())
        except BrowserLostError as error:
            lost = error
        finally:
            with self._news:
                self._reading = False
                if lost is not None:
                    self._lose(lost)
                for message in messages:
                    self._dispatch(message)
                if not messages and time.monotonic() >= deadline:
                    self._expire(jobs)
                self._news.notify_all()
        return None

    def _dispatch(self, message: dict[str, Any]) -> None:
        number = message.get("id")
        if number is not None:
            job = self._jobs.pop(number, None)
            if job is not None:
                job.replies[job.pending.pop(number)] = message
            return
        method, parameters = message["method"], message.get("params", {})
        page = self.pages.get(parameters.get("sessionId") or message.get("sessionId", ""))
        if page is None:
            return
        if method == "Page.javascriptDialogOpening":
            # Answered, so that the page can be closed; what it asked is told.
            self._fail(page, f"the page opened a dialog: {parameters.get('message', '')!r}")
            self.tell(Call(page.session, "Page.handleJavaScriptDialog", {"accept": False}))
        elif method == "Inspector.targetCrashed":
            self._fail(page, "the page crashed")
        elif method == "Target.detachedFromTarget":
            self._fail(page, "the page was closed")
        elif method == "Page.frameNavigated" and "parentId" not in parameters["frame"]:
            page.navigations += 1

    def _fail(self, page: Page, fault: str) -> None:
        """Mark a page as failed, and end what waits for it."""
        page.fault = page.fault or fault
        for job in {id(job): job for job in self._jobs.values() if page.session in job.sessions}.values():
            job.error = job.error or PageError(page.fault)
            self._forget(job)

    def _expire(self, jobs: Sequence[Job]) -> None:
        """End the jobs whose time is over; the pages that they waited for have hung."""
        now = time.monotonic()
        for job in jobs:
            if job.pending and job.deadline <= now:
                fault = "the page hung: it did not answer in time"
                sessions = [job.sessions[place] for place in job.pending.values()]
                for page in filter(None, map(self.pages.get, sessions)):
                    page.hung = True
                    self._fail(page, fault)
                job.error = job.error or PageError(fault)
                self._forget(job)
                # What the operation does about it may take as long again.
                job.deadline = now + self.config.hang

    def _forget(self, job: Job) -> None:
        for number in job.pending:
            self._jobs.pop(number, None)
        job.pending.clear()

    def _lose(self, error: BrowserLostError) -> None:
        """Count the browser as gone: end its process, its pages and all that waits."""
        with self._news:
            if self._chromium is not None:
                self._chromium.close()
                self._chromium = None
                self.generation += 1
            for page in self.pages.values():
                page.fault = page.fault or str(error)
            self.pages.clear()
            for job in {id(job): job for job in self._jobs.values()}.values():
                job.error = job.error or error
                job.pending.clear()
            self._jobs.clear()
            self._news.notify_all()


_shared: dict[tuple[int, BrowserConfig], Browser] = {}


def shared_browser(config: BrowserConfig | None = None) -> Browser:
    """Return this process's browser for a configuration: environments share it, and processes never do."""
    key = (os.getpid(), config or BrowserConfig())
    if key not in _shared:
        _shared[key] = Browser(key[1])
    return _shared[key]
