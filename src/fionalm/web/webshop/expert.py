"""A scripted customer: reads the instruction and what the pages show, and buys what fits best.

    expert = ShopExpert()
    action = expert.act(observation)        # observations of mode text_rich

It searches for the instruction's words, looks at the first results that are cheap enough, reads their descriptions and
features, and scores each by the words and pairs of neighbouring words of the instruction that the product's page says
or its options offer. It knows nothing of goals, attributes or products: it shows that the goals can be met, and
collects demonstrations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise

from fionalm.web.webshop.pages import BACK, BUY, NEXT, PREVIOUS
from fionalm.web.webshop.search import tokenize
from fionalm.web.webshop.words import PARAPHRASES

_BUTTON = re.compile(r"^( *)\[(?:clicked )?button\] (.*) \[(?:clicked )?button_\]$")
_LIMIT = re.compile(r",? ?(?:and )?price lower than ([\d.]+) dollars")
_FILLERS = set(
    tokenize(
        "i im am look looking for need want find me show can you would like to buy get please help it should be pick "
        "choose also one that which is are has have a in size color with without my some anything"
    )
)
PAIR_WEIGHT = 0.4
UNSURE_PRICE = 0.6
"""What a price range that begins below the limit and ends above it costs, in words."""


@dataclass
class _View:
    """What a text_rich observation says."""

    kind: str
    instruction: str
    texts: list[str]
    options: dict[str, list[str]]
    rows: list[tuple[str, str, str]]
    """Of results: product number, title and price."""
    has_previous: bool


@dataclass
class _Candidate:
    asin: str
    prices: tuple[float, ...]
    place: int
    score: float = 0.0
    options: dict[str, list[str]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)


class ShopExpert:
    """Acts on `text_rich` observations, one episode after another; a search page begins a new one.

    Args:
        n_looks: how many products it looks at before it decides.
    """

    def __init__(self, n_looks: int = 8) -> None:
        self.n_looks = n_looks
        self._begin("")

    def act(self, observation: str) -> str:
        """Return the next action for a page."""
        view = read_page(observation)
        if view.kind == "index":
            if self._nothing_found:
                self._nothing_found = False
                return "search[<r>]"
            self._begin(view.instruction)
            return f"search[{' '.join(self._words) or self._text}]"
        if view.kind == "results":
            return self._from_results(view)
        if view.kind == "item":
            return self._from_item(view)
        if self._looking is not None:
            self._looking.said += view.texts
        return f"click[{PREVIOUS}]"

    def _begin(self, instruction: str) -> None:
        limit = _LIMIT.search(instruction)
        self._limit = float(limit[1]) if limit else float("inf")
        text = _LIMIT.sub("", instruction.lower())
        for attribute, said in PARAPHRASES.items():
            text = text.replace(said, attribute)
        self._text = text
        phrases = [[word for word in tokenize(part) if word not in _FILLERS] for part in re.split(r"[,.] ", text)]
        self._words = list(dict.fromkeys(word for phrase in phrases for word in phrase))
        self._pairs = {pair for phrase in phrases for pair in pairwise(phrase)}
        self._seen: dict[str, _Candidate] = {}
        self._queue: list[str] | None = None
        self._looking: _Candidate | None = None
        self._step = ""
        self._best: _Candidate | None = None
        self._nothing_found = False

    def _from_results(self, view: _View) -> str:
        if self._queue is None:
            for place, (asin, _title, price) in enumerate(view.rows):
                prices = tuple(float(one) for one in re.findall(r"\$([\d.]+)", price))
                if asin not in self._seen and prices and prices[0] <= self._limit:
                    self._seen[asin] = _Candidate(asin, prices, place)
            self._queue = list(self._seen)[: self.n_looks]
        if not self._seen:
            # Nothing cheap enough on this page. If no page has any, a dear product is better than none, or any at all.
            self._queue = None
            if view.rows:
                return f"click[{NEXT}]"
            self._limit = float("inf")
            self._nothing_found = not view.has_previous
            return f"click[{PREVIOUS}]" if view.has_previous else f"click[{BACK}]"
        if self._queue:
            self._looking, self._step = self._seen[self._queue.pop(0)], "description"
            return f"click[{self._looking.asin}]"
        if self._best is None:
            looked = [one for one in self._seen.values() if one.said]
            self._best = max(looked, key=lambda one: (one.score, -one.place))
        self._looking = self._best
        return f"click[{self._best.asin}]"

    def _from_item(self, view: _View) -> str:
        one = self._looking
        if one is None:
            return f"click[{PREVIOUS}]"
        if self._best is not None:
            chosen = self.wanted_options(view.options)
            done = [value for value in chosen if f"You have clicked {value}." in view.texts]
            missing = [value for value in chosen if value not in done]
            return f"click[{missing[0]}]" if missing else f"click[{BUY}]"
        if self._step == "description":
            one.options, one.said, self._step = view.options, list(view.texts), "features"
            return "click[Description]"
        if self._step == "features":
            self._step = "back"
            return "click[Features]"
        one.score = self._fit(one)
        if one.score >= len(self._words) + PAIR_WEIGHT * len(self._pairs):
            self._queue = []
        return f"click[{PREVIOUS}]"

    def wanted_options(self, options: dict[str, list[str]]) -> list[str]:
        """Return for each option the longest of its values that the instruction says, if any."""
        found = []
        for values in options.values():
            said = [one for one in values if re.search(rf"(?<![\w.-]){re.escape(one)}(?![\w-]|\.\w)", self._text)]
            if said:
                found.append(max(said, key=len))
        return found

    def _fit(self, one: _Candidate) -> float:
        texts = [tokenize(text) for text in [*one.said, *self.wanted_options(one.options)]]
        words = {word for text in texts for word in text}
        pairs = {pair for text in texts for pair in pairwise(text)}
        score = sum(word in words for word in self._words) + PAIR_WEIGHT * len(pairs & self._pairs)
        return score - (UNSURE_PRICE if one.prices[-1] > self._limit else 0.0)


def read_page(observation: str) -> _View:
    """Return what a `text_rich` observation says; text of options that were not chosen is left out of its texts."""
    lines = observation.strip("\n").split("\n")
    texts: list[str] = []
    options: dict[str, list[str]] = {}
    buttons: list[str] = []
    rows: list[tuple[str, str, str]] = []
    for number, line in enumerate(lines):
        match = _BUTTON.match(line)
        if match is None:
            if line:
                texts.append(line)
        elif match[1]:
            options.setdefault(texts[-1], []).append(match[2])
        else:
            buttons.append(match[2])
            # A link to a product follows an empty line; its title and price come next.
            if number and not lines[number - 1]:
                title, price = [*lines[number + 1 : number + 3], "", ""][:2]
                rows.append((match[2], title, price))
    place = texts.index("Instruction:") if "Instruction:" in texts else -1
    instruction = texts[place + 1] if 0 <= place < len(texts) - 1 else ""
    # The instruction itself is no evidence for a product.
    told = texts[:place] + texts[place + 2 :] if place >= 0 else texts
    if texts and texts[0] == "WebShop":
        kind = "index"
    elif BUY in buttons:
        kind = "item"
    else:
        kind = "results" if NEXT in buttons else "sub page"
    return _View(kind, instruction, told, options, rows, PREVIOUS in buttons)
