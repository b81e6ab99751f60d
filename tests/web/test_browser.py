"""The pool on a real browser: faults of pages and of the browser, the network, and what is left afterwards."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from fionalm.errors import UserError
from fionalm.web import Action, Browser, BrowserConfig, BrowserLostError, Episode, PageError
from fionalm.web.chromium import PROFILE, find_chromium
from fionalm.web.page import CallError


def profiles() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob(f"{PROFILE}{os.getpid()}-*"))


def ended(group: int) -> bool:
    """Whether no process of a group is left, a little later: those without a parent wait to be collected."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_starts_at_once_and_leaves_nothing() -> None:
    before = profiles()
    began = time.monotonic()
    pool = Browser()
    page = pool.run(pool.open_page())
    seconds = time.monotonic() - began
    assert pool.run(page.evaluate("1 + 1")) == 2
    pid = pool.pid
    assert len(profiles() - before) == 1
    pool.close()
    pool.close()
    assert profiles() == before
    assert ended(pid)
    assert seconds < 20  # under 2 s on an idle machine: benchmarks/miniwob.py says


def test_a_killed_owner_takes_the_browser_along() -> None:
    code = (
        "from fionalm.web import Browser; import time\n"
        "pool = Browser(); pool.run(pool.open_page()); print(pool.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        owner.kill()
    assert ended(pid), "the browser outlived its owner"
    # The next browser's start removes the profile that the killed owner could not.
    pool = Browser()
    pool.run(pool.open_page())
    pool.close()
    assert not list(Path(tempfile.gettempdir()).glob(f"{PROFILE}{owner.pid}-*"))


def test_no_browser_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"apt-get install chromium.*playwright install chromium"):
        find_chromium()
    own = tmp_path / ".cache/ms-playwright/chromium-1200/chrome-linux"
    own.mkdir(parents=True)
    (own / "chrome").touch(mode=0o755)
    assert find_chromium() == str(own / "chrome")
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "absent"))
    with pytest.raises(UserError, match="absent"):
        find_chromium()


def test_pages_reach_no_network(browser: Browser, page_task) -> None:
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    fetch = "fetch('{}').then((r) => r.text()).catch((e) => 'failed: ' + e)"
    socket = (
        "new Promise((r) => {{ const s = new WebSocket('ws://{}'); s.onopen = () => r('open'); "
        "s.onerror = () => r('failed'); }})"
    )
    try:
        page = browser.run(browser.open_page(page_task("").url))
        for host in ("127.0.0.1", "localhost", "[::1]"):
            assert str(browser.run(page.evaluate(fetch.format(f"http://{host}:{port}/")))).startswith("failed")
            assert browser.run(page.evaluate(socket.format(f"{host}:{port}/"))) == "failed"
        image = f"new Promise((r) => {{ const i = new Image(); i.onload = i.onerror = (e) => r(e.type); i.src = 'http://127.0.0.1:{port}/x.png'; }})"  # noqa: E501
        assert browser.run(page.evaluate(image)) == "error"
        with pytest.raises(CallError):
            browser.run(page.goto(f"http://127.0.0.1:{port}/left"))
        assert seen == []
        # The same fetch succeeds where the host is let through: it is the rule that stops it.
        open_pool = Browser(BrowserConfig(hosts=("127.0.0.1",)))
        page = open_pool.run(open_pool.open_page(page_task("").url))
        assert open_pool.run(page.evaluate(fetch.format(f"http://127.0.0.1:{port}/"))) == "hello"
        assert str(open_pool.run(page.evaluate(fetch.format(f"http://localhost:{port}/")))).startswith("failed")
        open_pool.close()
    finally:
        server.shutdown()
        server.server_close()
    assert seen == ["/"]


FAULTS = {
    "hung": ("<button onclick='for (;;);'>x</button>", "hung"),
    "dialog": ("<button onclick='alert(\"who are you\")'>x</button>", "dialog: 'who are you'"),
    "left": ("<a href='page.html?again'>x</a>", "left for another"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("fast", [False, True])
def test_a_page_that_fails_is_an_error_and_is_replaced(page_task, fault: str, fast: bool) -> None:
    from fionalm.web import EpisodeConfig

    body, words = FAULTS[fault]
    pool = Browser(BrowserConfig(hang=1.5))
    episode = Episode(pool, page_task(body), EpisodeConfig(fast=fast))
    other = Episode(pool, page_task("<button onclick='reward = 1; done = true'>x</button>", name="other"))
    pool.run_all([episode.reset(1), other.reset(1)], timeout=20)
    ref = next(node["ref"] for node in episode.last["dom"] if node["text"] == "x")  # type: ignore[index]
    failed, fine = pool.run_all([episode.step(Action("click", ref=ref)), other.step(Action("click", ref=2))])
    if fault == "left" and not failed.error:  # type: ignore[union-attr]
        (failed,) = pool.run_all([episode.step(Action("none"))])
    assert not isinstance(failed, Exception) and not isinstance(fine, Exception)
    assert failed.fault and words in failed.error
    assert (failed.reward, failed.terminated, failed.truncated, failed.success) == (0.0, False, True, False)
    assert failed.info["fault"] is True
    assert fine.success and not fine.fault
    again = pool.run(episode.reset(1), timeout=20)
    assert not again.error and [node["text"] for node in again.observation["dom"]][-1] == "x"
    for _ in range(100):
        if (pages := pool.run(count_pages(), timeout=20)) == 2:
            break
        time.sleep(0.05)
    assert pages == 2
    pool.close()


def count_pages():
    from fionalm.web.page import Call

    targets = (yield [Call("", "Target.getTargets", {})])[0]["targetInfos"]
    return sum(target["type"] == "page" for target in targets)


def test_a_crashed_page_is_an_error(browser: Browser, page_task) -> None:
    episode = Episode(browser, page_task("<p>x</p>"))
    browser.run(episode.reset(1), timeout=20)
    assert episode.page is not None
    with pytest.raises(PageError, match="crashed"):
        browser.run(episode.page.call("Page.crash"))
    outcome = browser.run(episode.step(Action("none")))
    assert outcome.fault and "crashed" in outcome.error and outcome.truncated
    assert not browser.run(episode.reset(1), timeout=20).error
    browser.run(episode.close())


def test_a_killed_browser_is_started_again(page_task) -> None:
    pool = Browser()
    episodes = [Episode(pool, page_task("<p>x</p>")) for _ in range(3)]
    pool.run_all([episode.reset(1) for episode in episodes], timeout=30)
    first = pool.pid
    # In the middle of a step: two pages are idle, one waits for its answer.
    threading.Timer(0.3, os.kill, (first, signal.SIGKILL)).start()
    page = episodes[0].page
    assert page is not None
    with pytest.raises(BrowserLostError):
        pool.run(page.evaluate("new Promise(() => 0)"), timeout=20)
    outcomes = pool.run_all([episode.step(Action("none")) for episode in episodes])
    assert all(not isinstance(outcome, Exception) and outcome.fault and outcome.truncated for outcome in outcomes)
    again = pool.run_all([episode.reset(1) for episode in episodes], timeout=30)
    assert all(not isinstance(outcome, Exception) and not outcome.error for outcome in again)
    assert pool.pid not in (0, first)
    pool.close()


def test_threads_share_a_browser(browser: Browser, page_task) -> None:
    url = page_task("<p>x</p>").url
    found: dict[int, list[int]] = {}

    def work(number: int) -> None:
        page = browser.run(browser.open_page(url), timeout=30)
        wait = f"new Promise((done) => setTimeout(() => done({number}), {5 * number}))"
        found[number] = [browser.run(page.evaluate(wait)) for _ in range(10)]
        browser.run(page.close())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [number] * 10 for number in range(4)}


def test_scripts_that_throw_and_refused_commands(browser: Browser, page_task) -> None:
    page = browser.run(browser.open_page(page_task("").url))
    with pytest.raises(CallError, match="no such thing"):
        browser.run(page.evaluate("(() => { throw new Error('no such thing') })()"))
    with pytest.raises(CallError, match="wasn't found"):
        browser.run(page.call("Page.flyAway"))
    assert browser.run(page.evaluate("2")) == 2
    with pytest.raises(CallError, match="cannot load"):
        browser.run(page.goto("file:///no/such/page.html"))
    browser.run(page.close())
