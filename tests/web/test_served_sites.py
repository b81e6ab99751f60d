"""The pages' own scripts, in a real browser over a real server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fionalm.web import Browser, BrowserConfig
from fionalm.web.chromium import BrowserError
from fionalm.web.miniwob import MINIWOB_TASKS
from fionalm.web.miniwob_site import MiniWobSite
from fionalm.web.page import CallError
from fionalm.web.serving import Site, served
from fionalm.web.sites import SiteTask, make_site
from fionalm.web.webshop import open_shop
from fionalm.web.webshop.pages import Page, read_url
from fionalm.web.webshop.site import ShopSite

Do = Callable[[str, str], Any]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def local_browser() -> Iterator[Browser]:
    pool = Browser(BrowserConfig(hosts=("127.0.0.1",), hang=20.0))
    yield pool
    pool.close()


@pytest.fixture
def visit(local_browser: Browser) -> Iterator[Callable[[Site, str], Do]]:
    """Open a site's page; what comes back runs a script there and waits until another expression is true."""
    servers = []

    def open_page(site: Site, path: str) -> Do:
        server = served(site)
        address = server.__enter__()
        servers.append(server)
        page = local_browser.run(local_browser.open_page(address + path))

        def do(script: str, until: str) -> Any:
            local_browser.run(page.evaluate(f"{{ {script} }}; 0"))
            for _ in range(200):
                try:
                    if found := local_browser.run(page.evaluate(until)):
                        return found
                except (BrowserError, CallError):
                    pass  # between two pages
                time.sleep(0.05)
            pytest.fail(f"never true: {until}")

        return do

    yield open_page
    for server in servers:
        server.__exit__(None, None, None)


def find(name: str, key: str) -> tuple[Any, SiteTask]:
    site = make_site(name, 3)
    return site, next(task for task in site.tasks(20) if key in task.required)


def test_filters_of_homes_by_clicks(visit: Callable[[Site, str], Do]) -> None:
    site, task = find("real-estate", "max")
    wanted = task.required
    do = visit(site, f"/{task.session}/")
    do(
        f"document.querySelector('[name=city]').value = {wanted['city']!r}; document.forms[0].requestSubmit()",
        "location.pathname.endsWith('/search') && document.readyState == 'complete'",
    )
    do("document.querySelector('#more').click()", "!document.querySelector('#filters').hidden")
    do(
        "const form = document.querySelector('#filters'); form.elements.min.value = '9000000'; "
        "form.elements.max.value = '5'; form.requestSubmit()",
        "document.querySelector('[role=alert]').textContent.includes('above the highest')",
    )
    fields = {name: wanted[name] for name in ("purpose", "type", "max")} | {"min": wanted.get("min", "")}
    fill = "; ".join(f"form.elements[{name!r}].value = {value!r}" for name, value in fields.items())
    press = "; ".join(
        f"form.querySelector(`button[data-name={name}][value='{wanted[name]}']`).click()" for name in ("beds", "baths")
    )
    do(
        f"const form = document.querySelector('#filters'); {fill}; {press}; form.requestSubmit()",
        "location.search.includes('beds=') && document.readyState == 'complete'",
    )
    assert site.score(task).success


def test_directions_by_clicks(visit: Callable[[Site, str], Do]) -> None:
    site, task = find("map", "route")
    wanted = task.required
    do = visit(site, f"/{task.session}/directions")
    do(
        f"const box = document.querySelector('[name=from]'); box.value = {wanted['from'][:9]!r}; "
        "box.dispatchEvent(new Event('input'))",
        "document.querySelectorAll('#suggestions option').length > 1",
    )
    do(
        "const form = document.querySelector('#directions'); "
        f"form.elements.from.value = {wanted['to']!r}; form.elements.to.value = {wanted['from']!r}; "
        f"document.querySelector('#swap').click(); form.querySelector('[data-mode={wanted['mode']}]').click(); "
        "form.requestSubmit()",
        "location.search.includes('mode=') && document.readyState == 'complete'",
    )
    link = f"a[href*='route={wanted['route']}']"
    do(
        f"document.querySelector(`{link}`).click()",
        "location.search.includes('route=') && !!document.querySelector('[open]')",
    )
    assert site.score(task).success


def test_messages_and_following_by_clicks(visit: Callable[[Site, str], Do]) -> None:
    site, task = find("social-media", "message")
    do = visit(site, f"/{task.session}/u/{task.required['recipient']}")
    do(
        "document.querySelector('form[action$=follow] button').click()",
        "!!document.querySelector('button[aria-pressed=true]')",
    )
    do("document.querySelector('a[href*=message\\\\?]').click()", "!!document.querySelector('#message-text')")
    do("", "document.querySelector('form button').disabled")
    do(
        f"const text = document.querySelector('#message-text'); text.value = {task.required['message']!r}; "
        "text.dispatchEvent(new Event('input')); text.form.requestSubmit(text.form.querySelector('button'))",
        "!!document.querySelector('[role=status]')",
    )
    assert site.score(task).success
    assert site.session(task.session).reached["following"] == task.required["recipient"]


def test_an_option_of_a_product_by_a_click(visit: Callable[[Site, str], Do]) -> None:
    shop = open_shop(n_products=100)
    product = shop.catalogue.products[0]
    item = Page("5", "item_page", ("x",), 1, product.asin)
    do = visit(ShopSite(shop), item.url)
    name, values = next(iter(product.options.items()))
    do("document.querySelectorAll('input[type=radio]')[1].click()", "!!document.querySelector('input:checked')")
    path = do("", "location.pathname")
    assert read_url(path) == item.choose(name, values[1])
    shown = do("", "document.querySelector('main').innerText")
    assert product.title in shown and "Buy Now" in shown


def test_miniwob_by_hand(visit: Callable[[Site, str], Do]) -> None:
    do = visit(MiniWobSite(), "/")
    assert do("", "document.readyState == 'complete' && document.querySelectorAll('li').length") == len(MINIWOB_TASKS)
    do(
        "document.querySelector('a[href$=\"/click-test.html\"]').click()",
        "typeof core !== 'undefined' && document.readyState == 'complete' && !!document.querySelector('canvas')",
    )
    do("core.startEpisodeReal(); document.querySelector('#subbtn').click()", "WOB_RAW_REWARD_GLOBAL === 1")
