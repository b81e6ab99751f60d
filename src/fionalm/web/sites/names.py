"""Names of places, streets and people, all made up."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def split(text: str) -> tuple[str, ...]:
    """Return the parts of a text between commas."""
    return tuple(text.split(", "))


CITIES = split(
    "Alderton, Brackwell, Cawdor Falls, Dunmere, Eastholm, Fairhaven Bay, Glenrock, Harrowgate, Ironvale, Jasper "
    "Springs, Kelbrook, Larkfield, Millbrae, Norwick, Oakhurst, Pinecrest, Quarry Hill, Redwater, Silverton Lake, "
    "Thornbury"
)
_TREES = split(
    "Acorn, Birch, Cedar, Dogwood, Elder, Fern, Garnet, Hazel, Ivy, Juniper, Larch, Maple, Nettle, Olive, Poplar, "
    "Quince, Rowan, Spruce, Tulip, Willow"
)
STREETS = tuple(f"{name} {kind}" for name in _TREES for kind in ("Street", "Avenue", "Lane", "Road", "Court"))
FIRST = split(
    "Ada, Ben, Cleo, Dario, Elin, Femi, Greta, Hugo, Ines, Jonas, Kira, Liam, Mina, Nils, Olga, Pablo, Quinn, Rosa, "
    "Sven, Tara, Umar, Vera, Wim, Yara, Zoe"
)
LAST = split(
    "Abbott, Brandt, Castel, Drummond, Egan, Farrow, Gillam, Hale, Irving, Jarvis, Keller, Lund, Moreau, Norton, "
    "Osei, Petrov, Quist, Rossi, Sato, Thorne, Underhill, Vance, Weller, Yates, Zimmer"
)


def pick(values: Sequence[T], generator: random.Random) -> T:
    """Return one of `values`."""
    return values[generator.randrange(len(values))]
