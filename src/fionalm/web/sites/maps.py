"""A map: a search for places, a page for each, and directions by car, bus, bicycle or on foot with several routes."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import ClassVar
from urllib.parse import urlencode

from fionalm.web.serving import Response, json_response
from fionalm.web.sites.local import LocalSite, Session, document
from fionalm.web.sites.names import CITIES, LAST, STREETS, pick

MODES = {"car": 42.0, "bus": 24.0, "bicycle": 15.0, "foot": 4.8}
"""Kilometres an hour."""
PLACES = (
    "Museum",
    "Library",
    "Station",
    "Hospital",
    "Theatre",
    "Market",
    "Bakery",
    "Park",
    "Hotel",
    "Stadium",
    "School",
)
N_ROUTES, N_STREETS, PER_PAGE, N_NEAR = 4, 18, 40, 60
SPREAD = 40.0
SCRIPT = """
const form = document.querySelector("#directions");
if (form) {
  form.querySelectorAll("button[data-mode]").forEach((button) => button.addEventListener("click", () => {
    form.elements.mode.value = button.dataset.mode;
    form.querySelectorAll("button[data-mode]").forEach((other) =>
      other.setAttribute("aria-pressed", String(other === button)));
  }));
  form.querySelector("#swap").addEventListener("click", () => {
    [form.elements.from.value, form.elements.to.value] = [form.elements.to.value, form.elements.from.value];
  });
  const list = document.querySelector("#suggestions");
  form.querySelectorAll("input[list]").forEach((input) => input.addEventListener("input", async () => {
    const answer = await fetch(`${form.dataset.base}/suggest?q=${encodeURIComponent(input.value)}`);
    list.replaceChildren(...(await answer.json()).map((name) => new Option(name, name)));
  }));
}
"""


@dataclass(frozen=True)
class Place:
    """One place; `x` and `y` in kilometres."""

    number: int
    name: str
    kind: str
    city: str
    address: str
    x: float
    y: float


@dataclass(frozen=True)
class Route:
    """One way between two places: through which streets, in kilometres and minutes."""

    streets: tuple[str, ...]
    kilometres: float
    minutes: int


class MapSite(LocalSite):
    """Reached values are those of the directions last shown (from, to, mode, the route chosen), or the place open."""

    name: ClassVar[str] = "map"

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        generator = random.Random(f"places {seed}")
        self.places: list[Place] = []
        for city in CITIES:
            x, y = generator.uniform(-SPREAD, SPREAD), generator.uniform(-SPREAD, SPREAD)
            # A place's name is its family's, its kind's and its city's: each is there once.
            for family in LAST:
                for kind in generator.sample(PLACES, 6):
                    address = f"{generator.randint(1, 300)} {pick(STREETS, generator)}, {city}"
                    here = (x + generator.gauss(0, 3), y + generator.gauss(0, 3))
                    self.places.append(Place(len(self.places), f"{family} {kind}, {city}", kind, city, address, *here))
        self._by_name = {place.name.lower(): place for place in self.places}

    def make_task(self, generator: random.Random) -> tuple[str, dict[str, str]]:
        """Return a wish for directions between two places, by one mode and by the first to fourth route."""
        start = pick(self.places, generator)
        near = [place for place in self.places if place.city == start.city and place is not start]
        end = pick(near if generator.random() < 0.6 else self.places, generator)
        while end is start:
            end = pick(self.places, generator)
        mode, route = pick(tuple(MODES), generator), generator.randint(1, N_ROUTES)
        ordinal = ("1st", "2nd", "3rd", "4th")[route - 1]
        by = "on foot" if mode == "foot" else f"by {mode}"
        opening = generator.choice(("Show me the way", "Find directions", "I want to go", "How do I get"))
        text = f"{opening} from {start.name} to {end.name} {by}, by the {ordinal} route."
        return text, {"from": start.name, "to": end.name, "mode": mode, "route": str(route)}

    def page(self, base: str, parts: Sequence[str], query: Mapping[str, str], session: Session) -> str | Response:
        """Return the map, found places, a place or directions; see `LocalSite.page`."""
        match parts:
            case []:
                return self._document(base, "Map", self._search_form(base, "") + self._drawing(self.places[::25]))
            case ["search"]:
                return self._found(base, query.get("q", ""))
            case ["suggest"]:
                return json_response([place.name for place in self.find(query.get("q", ""))[:8]])
            case ["place", number] if number.isdecimal() and int(number) < len(self.places):
                place = self.places[int(number)]
                session.reached["place"] = place.name
                return self._place(base, place)
            case ["directions"]:
                return self._directions(base, query, session)
        raise ValueError(f"no page at {'/'.join(parts)}: expected search, place/NUMBER or directions")

    def find(self, text: str) -> list[Place]:
        """Return the places whose name or address holds every word of `text`; a place's whole name finds it alone."""
        exact = self._by_name.get(" ".join(text.lower().split()))
        if exact is not None:
            return [exact]
        words = text.lower().replace(",", " ").split()
        found = [
            place for place in self.places if all(word in f"{place.name} {place.address}".lower() for word in words)
        ]
        return found if words else []

    def routes(self, start: Place, end: Place, mode: str) -> list[Route]:
        """Return the routes between two places, fastest first; the same each time."""
        generator = random.Random(f"{self.seed} {start.number} {end.number} {mode}")
        direct = max(0.3, math.dist((start.x, start.y), (end.x, end.y)))
        lengths = sorted(direct * generator.uniform(1.05, 1.9) for _ in range(N_ROUTES))
        return [
            Route(
                tuple(generator.sample(STREETS, N_STREETS)), round(length, 1), max(1, round(60 * length / MODES[mode]))
            )
            for length in lengths
        ]

    def _directions(self, base: str, query: Mapping[str, str], session: Session) -> str:
        given = {name: query.get(name, "").strip() for name in ("from", "to")}
        mode = query.get("mode", "car") if query.get("mode", "car") in MODES else "car"
        form = self._directions_form(base, given, mode)
        ends = {name: self.find(text) for name, text in given.items()}
        notes = "".join(self._unsure(name, given[name], places) for name, places in ends.items() if given[name])
        if any(len(places) != 1 for places in ends.values()):
            return self._document(base, "Directions", f"<h1>Directions</h1>{form}{notes}")
        start, end = ends["from"][0], ends["to"][0]
        routes = self.routes(start, end, mode)
        chosen = query.get("route", "") if query.get("route", "") in map(str, range(1, N_ROUTES + 1)) else ""
        session.reached = {"from": start.name, "to": end.name, "mode": mode, **({"route": chosen} if chosen else {})}
        here = {"from": start.name, "to": end.name, "mode": mode}
        cards = "".join(
            self._route(
                f"{base}/directions?{urlencode({**here, 'route': number})}", number, route, str(number) == chosen
            )
            for number, route in enumerate(routes, start=1)
        )
        body = f"<h1>Directions</h1>{form}{notes}{self._drawing([start, end])}{cards}"
        return self._document(base, "Directions", body)

    def _route(self, url: str, number: int, route: Route, chosen: bool) -> str:
        steps = "".join(f"<li>Follow {street}</li>" for street in route.streets)
        facts = f"{route.kilometres} km, {route.minutes} minutes"
        link = f'<h3><a href="{escape(url)}" {self.style.marked(f"route-{number}")}>Route {number}: {facts}</a></h3>'
        opened = " open" if chosen else ""
        ways = f"<details{opened}><summary>Way</summary><ol>{steps}</ol></details>"
        name = "route chosen" if chosen else "route"
        return self.style.box(name, link, f"<p>via {route.streets[0]}</p>", ways, tag="article")

    def _unsure(self, name: str, text: str, places: list[Place]) -> str:
        if len(places) == 1:
            return ""
        if not places:
            return f'<p role="alert">No place is called {escape(text)} ({name}).</p>'
        items = "".join(f"<li>{escape(place.name)}</li>" for place in places[:10])
        return f'<p role="alert">Which {escape(text)} ({name})?</p><ul>{items}</ul>'

    def _directions_form(self, base: str, given: Mapping[str, str], mode: str) -> str:
        modes = "".join(
            f'<button type="button" data-mode="{one}" aria-pressed="{str(one == mode).lower()}" '
            f"{self.style.marked(f'mode-{one}')}>{one.title()}</button>"
            for one in MODES
        )
        ends = "".join(
            f'<label>{name.title()} <input name="{name}" list="suggestions" value="{escape(text)}" required></label>'
            for name, text in given.items()
        )
        return (
            f'<form id="directions" action="{base}/directions" data-base="{base}">{ends}'
            f'<button type="button" id="swap">Swap</button><input type="hidden" name="mode" value="{mode}">{modes}'
            f'<button type="submit" {self.style.marked("go")}>Find routes</button>'
            '<datalist id="suggestions"></datalist></form>'
        )

    def _search_form(self, base: str, text: str) -> str:
        return (
            f'<form action="{base}/search"><input name="q" aria-label="Place" value="{escape(text)}" required>'
            f'<button type="submit" {self.style.marked("search")}>Search</button></form>'
        )

    def _found(self, base: str, text: str) -> str:
        found = self.find(text)
        cards = "".join(
            self.style.box(
                "place",
                f'<h3><a href="{base}/place/{place.number}">{escape(place.name)}</a></h3>',
                f"<p>{escape(place.address)}</p>",
                f'<a href="{base}/directions?{escape(urlencode({"to": place.name}))}">Directions</a>',
                tag="article",
            )
            for place in found[:PER_PAGE]
        )
        body = f"{self._search_form(base, text)}<h1>{len(found)} places</h1>{self._drawing(found[:PER_PAGE])}{cards}"
        return self._document(base, "Places", body)

    def _place(self, base: str, place: Place) -> str:
        near = sorted(self.places, key=lambda one: math.dist((one.x, one.y), (place.x, place.y)))[1 : N_NEAR + 1]
        items = "".join(
            f'<li><a href="{base}/place/{one.number}">{escape(one.name)}</a> {one.address}</li>' for one in near
        )
        links = "".join(
            f'<a href="{base}/directions?{escape(urlencode({name: place.name}))}" '
            f"{self.style.marked(f'directions-{name}')}>Directions {name} here</a> "
            for name in ("to", "from")
        )
        body = (
            f"<h1>{escape(place.name)}</h1><p>{place.address}</p>{links}{self._drawing([place, *near])}<ul>{items}</ul>"
        )
        return self._document(base, place.name, body)

    def _drawing(self, places: Sequence[Place]) -> str:
        """Return an SVG of where the places are, scaled to them."""
        if not places:
            return ""
        left, top = min(one.x for one in places) - 1, min(one.y for one in places) - 1
        scale = 300 / max(max(one.x for one in places) - left + 1, max(one.y for one in places) - top + 1)
        dots = "".join(
            f'<circle cx="{scale * (one.x - left):.1f}" cy="{scale * (one.y - top):.1f}" r="4">'
            f"<title>{escape(one.name)}</title></circle>"
            for one in places
        )
        return f'<svg viewBox="0 0 300 300" width="300" height="300" role="img" aria-label="Map">{dots}</svg>'

    def _document(self, base: str, title: str, body: str) -> str:
        links = f'<header><nav><a href="{base}/">Map</a><a href="{base}/directions">Directions</a></nav></header>'
        return document(title, f"{links}<main>{body}</main>", SCRIPT)
