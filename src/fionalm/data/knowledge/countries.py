"""The embedded graph: countries with their capitals, borders, provinces and more, from the package `countryinfo`.

Its facts are as right as that package is; what matters here is that they are known exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from fionalm.data.knowledge.graph import KnowledgeGraph, Triple
from fionalm.errors import require

SINGLE = {"capital": "capital", "region": "region", "subregion": "subregion", "demonym": "demonym"}
MANY = {
    "currencies": "currency",
    "languages": "language",
    "provinces": "province",
    "timezones": "time zone",
    "tld": "internet domain",
    "altSpellings": "also called",
}
CODES = {"alpha2": "two-letter code", "alpha3": "three-letter code"}


def countries_graph() -> KnowledgeGraph:
    """Return the graph of the world's countries and territories.

    Borders name countries, calling codes begin with +, time zones are offsets from UTC; languages and currencies are
    ISO codes. Empty fields, and borders with what is no country of the package, are left out.

    Raises:
        UserError: `countryinfo` is not installed (extra: knowledge).
    """
    rows: list[dict[str, Any]] = [one.info() for one in require("countryinfo", "knowledge").all_countries()]
    rows = sorted((row for row in rows if row.get("ISO")), key=lambda row: row["name"])
    names = {row["ISO"].get("alpha3"): row["name"] for row in rows}
    return KnowledgeGraph((triple for row in rows for triple in _facts(row, names)), "countries")


def _facts(row: dict[str, Any], names: dict[str, str]) -> Iterator[Triple]:
    subject = row["name"]
    for key, predicate in SINGLE.items():
        yield from _each(subject, predicate, [row.get(key)])
    yield from _each(subject, "borders", (names.get(code) for code in row.get("borders") or ()))
    for key, predicate in MANY.items():
        yield from _each(subject, predicate, row.get(key) or ())
    yield from _each(subject, "native name", [row.get("nativeName")])
    yield from _each(subject, "calling code", (f"+{code}" for code in row.get("callingCodes") or () if code))
    for key, predicate in CODES.items():
        yield from _each(subject, predicate, [row["ISO"].get(key)])


def _each(subject: str, predicate: str, objects: Iterable[Any]) -> Iterator[Triple]:
    for one in objects:
        # Some fields of the package hold tabs or line ends.
        name = " ".join(str(one or "").split())
        if name:
            yield subject, predicate, name
