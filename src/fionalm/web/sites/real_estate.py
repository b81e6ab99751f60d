"""Homes for rent and for sale: a search form, a panel of filters, pages of results and a page for every home."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import ClassVar
from urllib.parse import urlencode

from fionalm.web.serving import Response, redirect
from fionalm.web.sites.local import LocalSite, Session, choices, document
from fionalm.web.sites.names import CITIES, STREETS, pick, split

N_HOMES = 6000
PER_PAGE = 24
PURPOSES = {"rent": "For rent", "sale": "For sale"}
TYPES = {"house": "House", "apartment": "Apartment", "condo": "Condo", "townhouse": "Townhouse"}
FEATURES = split(
    "hardwood floors, in-unit laundry, fenced yard, covered parking, granite counters, walk-in closets, corner lot, "
    "new roof, mountain views, close to transit, pets welcome, quiet street, open floor plan, fireplace, roof terrace"
)
SCRIPT = """
const panel = document.querySelector("#filters");
document.querySelector("#more").addEventListener("click", () => { panel.hidden = !panel.hidden; });
panel.querySelectorAll("button[data-name]").forEach((button) => button.addEventListener("click", () => {
  panel.querySelector(`input[name=${button.dataset.name}]`).value = button.value;
  panel.querySelectorAll(`button[data-name=${button.dataset.name}]`).forEach((other) =>
    other.setAttribute("aria-pressed", String(other === button)));
}));
panel.addEventListener("submit", (event) => {
  const low = Number(panel.elements.min.value), high = Number(panel.elements.max.value);
  if (panel.elements.max.value && low > high) {
    event.preventDefault();
    panel.querySelector("[role=alert]").textContent = "The lowest price is above the highest.";
  }
});
"""


@dataclass(frozen=True)
class Home:
    """One offer; `price` in dollars, a month where it is for rent."""

    number: int
    city: str
    address: str
    purpose: str
    kind: str
    beds: int
    baths: int
    price: int
    area: int
    features: tuple[str, ...]


class RealEstateSite(LocalSite):
    """Reached values are those of the last search: city, purpose, type, beds, baths, min and max; and the home open."""

    name: ClassVar[str] = "real-estate"

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        generator = random.Random(f"homes {seed}")
        self.homes = [_home(number, generator) for number in range(N_HOMES)]

    def make_task(self, generator: random.Random) -> tuple[str, dict[str, str]]:
        """Return a search as somebody would ask for it; some homes meet it."""
        home = generator.choice(self.homes)
        beds, baths = generator.randint(1, home.beds), generator.randint(1, home.baths)
        required = {
            "city": home.city,
            "purpose": home.purpose,
            "type": home.kind,
            "beds": str(beds),
            "baths": str(baths),
        }
        step = 100 if home.purpose == "rent" else 25_000
        high, low = (home.price // step + generator.randint(1, 4)) * step, max(0, home.price // step - 3) * step
        unit = " a month" if home.purpose == "rent" else ""
        kind = generator.choice(("max", "min", "between"))
        if kind != "max":
            required["min"] = str(low)
        if kind != "min":
            required["max"] = str(high)
        price = {
            "max": f"for less than ${high:,}{unit}",
            "min": f"for more than ${low:,}{unit}",
            "between": f"for between ${low:,} and ${high:,}{unit}",
        }[kind]
        noun = TYPES[home.kind].lower()
        article = "an" if noun[0] in "aeiou" else "a"
        rooms = f"{beds} or more bedroom{'s' * (beds > 1)} and {baths} or more bathroom{'s' * (baths > 1)}"
        opening = generator.choice(("I am looking for", "Find", "Show me", "Can you find me"))
        return (
            f"{opening} {article} {noun} {PURPOSES[home.purpose].lower()} in {home.city} with {rooms}, {price}.",
            required,
        )

    def page(self, base: str, parts: Sequence[str], query: Mapping[str, str], session: Session) -> str | Response:
        """Return the search page, results or a home; see `LocalSite.page`."""
        if not parts:
            return self._start(base)
        if parts == ["search"]:
            return self._results(base, query, session)
        if len(parts) == 2 and parts[0] == "home" and parts[1].isdecimal() and int(parts[1]) < len(self.homes):
            home = self.homes[int(parts[1])]
            session.reached["home"] = parts[1]
            return self._detail(base, home, session)
        if parts == ["save"] and query.get("home", "").isdecimal() and int(query["home"]) < len(self.homes):
            session.data.setdefault("saved", []).append(int(query["home"]))
            session.reached["saved"] = query["home"]
            return redirect(f"{base}/home/{query['home']}")
        raise ValueError(f"no page at {'/'.join(parts)}: expected search or home/NUMBER")

    def find(self, query: Mapping[str, str]) -> list[Home]:
        """Return the homes that meet a search's filters; empty ones, and what is no number, are not applied."""
        least = {name: _whole(query.get(name, "")) for name in ("beds", "baths", "min", "max")}
        city = " ".join(query.get("city", "").lower().split())
        return [
            home
            for home in self.homes
            if (not city or home.city.lower() == city)
            and query.get("purpose", "") in ("", home.purpose)
            and query.get("type", "") in ("", home.kind)
            and home.beds >= (least["beds"] or 0)
            and home.baths >= (least["baths"] or 0)
            and (least["min"] or 0) <= home.price <= (least["max"] or 10**9)
        ]

    def _header(self, base: str) -> str:
        links = f'<nav><a href="{base}/">Home search</a><a href="{base}/search?purpose=rent">Rent</a>'
        return f'<header>{links}<a href="{base}/search?purpose=sale">Buy</a></nav></header>'

    def _start(self, base: str) -> str:
        form = (
            f'<form action="{base}/search" {self.style.marked("search")}><label for="city-input">City</label>'
            f'<input id="city-input" name="city" required>{choices("purpose", list(PURPOSES.items()))}'
            f'<button type="submit">Search</button></form>'
        )
        cities = "".join(f'<li><a href="{base}/search?{urlencode({"city": one})}">{one}</a></li>' for one in CITIES)
        return document("Homes", f"{self._header(base)}<main><h1>Find a home</h1>{form}<ul>{cities}</ul></main>")

    def _results(self, base: str, query: Mapping[str, str], session: Session) -> str:
        filters = {
            name: query.get(name, "").strip() for name in ("city", "purpose", "type", "beds", "baths", "min", "max")
        }
        for name in ("beds", "baths", "min", "max"):
            filters[name] = "" if (number := _whole(filters[name])) is None else str(number)
        session.reached = {name: value for name, value in filters.items() if value}
        found = self.find(filters)
        order = query.get("sort", "")
        if order in ("price", "-price"):
            found.sort(key=lambda home: home.price, reverse=order == "-price")
        number = max(1, _whole(query.get("page", "")) or 1)
        shown = "".join(self._card(base, home) for home in found[PER_PAGE * (number - 1) : PER_PAGE * number])
        here = {**filters, "sort": order}
        pages = "".join(
            f'<a href="{base}/search?{escape(urlencode({**here, "page": one}))}"{_current(one == number)}>{one}</a> '
            for one in range(max(1, number - 3), min(-(-len(found) // PER_PAGE), number + 3) + 1)
        )
        heading = f"{len(found):,} homes" + (f" in {escape(filters['city'])}" if filters["city"] else "")
        body = f"<h1>{heading}</h1>{self._filters(base, filters)}{shown}<nav>{pages}</nav>"
        return document("Homes: results", f"{self._header(base)}<main>{body}</main>", SCRIPT)

    def _filters(self, base: str, filters: Mapping[str, str]) -> str:
        def buttons(name: str, counts: range) -> str:
            made = "".join(
                f'<button type="button" data-name="{name}" value="{one}" aria-pressed="'
                f'{str(filters[name] == str(one)).lower()}" {self.style.marked(f"{name}-{one}")}>{one}+</button>'
                for one in counts
            )
            kept = f'<input type="hidden" name="{name}" value="{escape(filters[name])}">'
            return f"<fieldset><legend>{name.title()}</legend>{kept}{made}</fieldset>"

        types = [("", "Any type"), *TYPES.items()]
        inner = (
            f'<input name="city" aria-label="City" value="{escape(filters["city"])}">'
            f"{choices('purpose', [('', 'Rent or buy'), *PURPOSES.items()], filters['purpose'])}"
            f"{choices('type', types, filters['type'])}{buttons('beds', range(1, 6))}{buttons('baths', range(1, 5))}"
            f'<label>Lowest price <input name="min" inputmode="numeric" value="{escape(filters["min"])}"></label>'
            f'<label>Highest price <input name="max" inputmode="numeric" value="{escape(filters["max"])}"></label>'
            f"{choices('sort', [('', 'Newest'), ('price', 'Price, low to high'), ('-price', 'Price, high to low')])}"
            f'<p role="alert"></p><button type="submit" {self.style.marked("apply")}>Apply filters</button>'
        )
        more = f'<button type="button" id="more" {self.style.marked("more-filters")}>More filters</button>'
        return f'{more}<form id="filters" action="{base}/search" hidden>{inner}</form>'

    def _card(self, base: str, home: Home) -> str:
        css = self.style
        facts = "".join(f"<li>{one}</li>" for one in (f"{home.beds} bd", f"{home.baths} ba", f"{home.area:,} sqft"))
        link = f'<h2 class="{css.css("address")}"><a href="{base}/home/{home.number}">{escape(home.address)}</a></h2>'
        price = f'<p class="{css.css("price")}" {css.marked(f"price-{home.number}")}>{_price(home)}</p>'
        tags = ", ".join(f'<span class="{css.css("tag")}">{one}</span>' for one in home.features)
        kind = f'<p class="{css.css("kind")}">{TYPES[home.kind]}, {PURPOSES[home.purpose].lower()}, {home.city}</p>'
        return css.box("card", link, price, f'<ul class="{css.css("facts")}">{facts}</ul>', kind, tags, tag="article")

    def _detail(self, base: str, home: Home, session: Session) -> str:
        saved = home.number in session.data.get("saved", [])
        save = (
            f'<form action="{base}/save" method="post"><input type="hidden" name="home" value="{home.number}">'
            f'<button type="submit" {self.style.marked("save")}>{"Saved" if saved else "Save"}</button></form>'
        )
        near = [one for one in self.homes if one.city == home.city and one.kind == home.kind and one is not home][:12]
        body = (
            f"<h1>{escape(home.address)}</h1><p>{_price(home)}</p>{self._card(base, home)}{save}"
            f"<h2>Similar homes</h2>{''.join(self._card(base, one) for one in near)}"
        )
        return document(home.address, f"{self._header(base)}<main>{body}</main>")


def _home(number: int, generator: random.Random) -> Home:
    city, purpose = pick(CITIES, generator), pick(tuple(PURPOSES), generator)
    kind, beds = pick(tuple(TYPES), generator), generator.randint(1, 5)
    baths, area = generator.randint(1, min(4, beds + 1)), 350 + 320 * beds + generator.randint(0, 500)
    per_month = 500 + 380 * beds + generator.randint(0, 1200)
    price = per_month // 5 * 5 if purpose == "rent" else (per_month * generator.randint(170, 260)) // 500 * 500
    address = f"{generator.randint(1, 999)} {pick(STREETS, generator)}, {city}"
    return Home(number, city, address, purpose, kind, beds, baths, price, area, tuple(generator.sample(FEATURES, 5)))


def _price(home: Home) -> str:
    return f"${home.price:,}" + (" a month" if home.purpose == "rent" else "")


def _whole(text: str) -> int | None:
    plain = text.replace(",", "").replace("$", "").strip()
    return int(plain) if plain.isdecimal() and len(plain) < 12 else None


def _current(here: bool) -> str:
    return ' aria-current="true"' if here else ""
