"""The local sites: their tasks can be done, scores follow what was done, pages and markup follow the seed."""

from __future__ import annotations

import random
import re
from html.parser import HTMLParser
from urllib.parse import parse_qsl, urlsplit

import pytest

from fionalm.errors import UserError
from fionalm.web.serving import Response
from fionalm.web.sites import SITES, LocalSite, MapSite, SiteTask, make_site

MADE = {name: make_site(name) for name in SITES}
VOID = {"meta", "link", "input", "br"}
PAGES = {
    "real-estate": ["/", "/search?city=norwick", "/home/17", "/search?page=9&sort=-price&min=nonsense"],
    "social-media": ["/", "/c/chess?order=new&flair=Guide", "/thread/12", "/message?to=x", "/c/chess?page=3"],
    "map": ["/", "/search?q=museum", "/place/7", "/directions?from=Abbott&to=Nowhere", "/directions"],
}


class Checker(HTMLParser):
    """Checks that tags are closed in order, and keeps links and identifiers."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.links += [given["href"] or ""] if tag == "a" else []
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


def ask(site: LocalSite, url: str) -> str:
    """Return the page at a URL, following redirections."""
    parts = urlsplit(url)
    answer = site.respond(parts.path, dict(parse_qsl(parts.query)))
    if answer.status == 303:
        return ask(site, answer.headers["Location"])
    assert answer.status == 200 and isinstance(answer.body, str)
    return answer.body


def solve(site: LocalSite, task: SiteTask) -> None:
    """Do a task through the site's own pages: requests as its forms send them, and links as they are shown."""
    base, wanted = f"/{task.session}", dict(task.required)

    def submit(path: str, **fields: str) -> Response:
        return site.respond(base + path, fields)

    if site.name == "real-estate":
        submit("/search", **wanted)
    elif site.name == "map":
        page = str(submit("/directions", **{name: wanted[name] for name in ("from", "to", "mode")}).body)
        links = re.findall(r'href="([^"]*route=\d)"', page)
        ask(site, links[int(wanted["route"]) - 1].replace("&amp;", "&"))
    elif "message" in wanted:
        submit("/message", to=wanted["recipient"], text=wanted["message"])
    else:
        fields = {name: wanted[name] for name in ("order", "flair") if name in wanted}
        page = str(submit(f"/c/{wanted['community']}", **fields).body)
        place = int(re.findall(r" the (\d)(?:st|nd|rd|th) ", task.instruction)[0])
        links = list(dict.fromkeys(re.findall(rf'href="({base}/thread/\d+)"', page)))
        opened = ask(site, links[place - 1])
        if "following" in wanted:
            user = re.findall(rf'href="{base}/u/([^"]+)"', opened)[0]
            submit("/follow", user=user)


@pytest.mark.parametrize("name", SITES)
def test_every_task_can_be_done(name: str) -> None:
    site = make_site(name)
    tasks = site.tasks(20)
    assert len({task.instruction for task in tasks}) == len({task.session for task in tasks}) == 20
    assert site.tasks(20) == tasks != site.tasks(20, seed=1)
    for task in tasks:
        assert site.score(task).share == 0.0
        solve(site, task)
        score = site.score(task)
        assert score.success and score.share == 1.0, (task, score)
        site.reset(task.session)
        assert site.score(task).share == 0.0


@pytest.mark.parametrize("name", SITES)
def test_a_score_is_the_share_that_was_reached(name: str) -> None:
    site = make_site(name)
    task = next(task for task in site.tasks(20) if len(task.required) >= 2)
    session = site.session("other")
    for number, (key, value) in enumerate(task.required.items(), start=1):
        session.reached[key] = f" {value.upper()} "
        assert site.score(task, "other").share == pytest.approx(number / len(task.required))
    session.reached[key] = "elsewhere"
    assert not site.score(task, "other").success


@pytest.mark.parametrize("name", SITES)
def test_pages_are_whole_and_their_links_lead_somewhere(name: str) -> None:
    site = make_site(name)
    generator = random.Random(0)
    for path in PAGES[name]:
        checker = Checker()
        checker.feed(ask(site, f"/s{path}"))
        assert checker.stack == [] and len(set(checker.ids)) == len(checker.ids), path
        for link in generator.sample(checker.links, min(10, len(checker.links))):
            assert link.startswith("/s/")
            ask(site, link)


@pytest.mark.parametrize("name", SITES)
def test_the_seed_fixes_a_site(name: str) -> None:
    pages = [ask(make_site(name, seed), f"/s{PAGES[name][1]}") for seed in (0, 0, 1)]
    assert pages[0] == pages[1] != pages[2]
    classes = [set(re.findall(r'class="([^"]+)"', page)) for page in pages]
    assert classes[0].isdisjoint(classes[2])


@pytest.mark.parametrize("name", SITES)
def test_lists_are_as_long_as_real_pages(name: str) -> None:
    """A token is about three characters of HTML: 5,000 to 15,000 tokens."""
    sizes = [len(ask(MADE[name], f"/s{path}")) for path in (PAGES[name][1], PAGES[name][2])]
    assert 12_000 < max(sizes) < 60_000, sizes


@pytest.mark.parametrize(
    ("name", "path"),
    [("real-estate", "/s/home/999999"), ("social-media", "/s/c/cars"), ("map", "/s/place/x"), ("map", "/s/a/b/c")],
)
def test_wrong_addresses(name: str, path: str) -> None:
    with pytest.raises(ValueError, match="no page at .*: expected"):
        MADE[name].respond(path, {})


def test_filters_of_homes() -> None:
    site = MADE["real-estate"]
    query = {"city": " NORWICK ", "purpose": "rent", "type": "house", "beds": "2", "baths": "x", "max": "$2,000"}
    found = site.find(query)  # type: ignore[attr-defined]
    assert found
    expected = [
        home
        for home in site.homes  # type: ignore[attr-defined]
        if (home.city, home.purpose, home.kind) == ("Norwick", "rent", "house")
        and home.beds >= 2
        and home.price <= 2000
    ]
    assert found == expected
    ask(site, "/f/search?city=Norwick&max=%242%2C000&beds=x")
    assert site.session("f").reached == {"city": "Norwick", "max": "2000"}


def test_orders_of_threads() -> None:
    site = MADE["social-media"]
    by = {order: site.list_threads("chess", order) for order in ("hot", "new", "top")}  # type: ignore[attr-defined]
    assert {len(found) for found in by.values()} == {len(by["new"])} and len(by["new"]) > 200
    assert [one.age for one in by["new"]] == sorted({one.age for one in by["new"]})
    assert [one.votes for one in by["top"]] == sorted({one.votes for one in by["top"]}, reverse=True)
    assert by["hot"][0] != by["top"][0]


def test_following_can_be_undone_and_strangers_get_no_message() -> None:
    site = make_site("social-media")
    user = site.users[3]  # type: ignore[attr-defined]
    for expected in (user, None, user):
        site.respond("/s/follow", {"user": user})
        assert site.session("s").reached.get("following") == expected
    assert "nobody called nobody" in ask(site, "/s/message?to=nobody&text=hello")
    assert "message" not in site.session("s").reached


def test_unsure_places_are_asked_about() -> None:
    site = MADE["map"]
    page = ask(site, "/s/directions?from=Abbott&to=zzz")
    assert "Which Abbott (from)?" in page and "No place is called zzz (to)." in page
    assert "from" not in site.session("s").reached
    start, end = site.places[0], site.places[1]  # type: ignore[attr-defined]
    routes = site.routes(start, end, "bus")  # type: ignore[attr-defined]
    assert routes == site.routes(start, end, "bus") != site.routes(start, end, "car")  # type: ignore[attr-defined]
    assert [route.minutes for route in routes] == sorted(route.minutes for route in routes)


def test_sessions_are_apart_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fionalm.web.sites.local.MOST_SESSIONS", 3)
    site = make_site("map")
    for name in "abcd":
        site.session(name).reached["x"] = name
    assert site.session("d").reached == {"x": "d"}
    assert site.session("a").reached == {}


def test_unknown_names_and_too_many_tasks() -> None:
    with pytest.raises(UserError, match="unknown site 'realestate': .* did you mean 'real-estate'"):
        make_site("realestate")

    class One(MapSite):
        def make_task(self, generator: random.Random) -> tuple[str, dict[str, str]]:
            return "the only one", {"x": "y"}

    assert len(One().tasks(1)) == 1
    with pytest.raises(UserError, match="2 tasks of map: expected at most 1"):
        One().tasks(2)
