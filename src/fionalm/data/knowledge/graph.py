"""A knowledge graph: facts as (subject, predicate, object), looked up by the million.

    graph = KnowledgeGraph.countries()
    graph.objects("France", "borders")
    ("France", "capital", "Paris") in graph

Hron et al. 2024 (arXiv 2408.07852, section 2) train on such triples, so that what a model says is right or wrong
without a judge. A (subject, predicate) pair can have several objects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from fionalm.errors import UserError, choice_error, nearest

if TYPE_CHECKING:
    from fionalm.data.knowledge.measures import GraphStatistics
    from fionalm.data.knowledge.splits import GraphSplit

Triple = tuple[str, str, str]
Pair = tuple[str, str]
SubsetBy = Literal["triples", "subjects"]

MARKS = ("<S_TKN>", "<P_TKN>", "<O_TKN>")
"""What stands before subject, predicate and object in a model's text; no name may hold one."""


class KnowledgeGraph:
    """Triples of strings, each once, in the order in which they were first given.

    Names lose white space at their ends; a triple that is given again is counted in `duplicates` and otherwise
    ignored. Graphs are equal when they hold the same triples in the same order.

    Args:
        triples: the facts.
        name: what messages and reports call the graph.

    Raises:
        UserError: no triple, or one that cannot be: see `check_triple`.
    """

    def __init__(self, triples: Iterable[Triple], name: str = "graph") -> None:
        given = 0
        unique: dict[Triple, None] = {}
        for number, triple in enumerate(triples, 1):
            unique[check_triple(triple, f"triple {number} of {name}")] = None
            given = number
        if not unique:
            raise UserError(f"{name} has no triples: expected at least one subject, predicate and object")
        self.name = name
        self.triples: tuple[Triple, ...] = tuple(unique)
        self.duplicates = given - len(unique)
        self._known = frozenset(unique)

    @classmethod
    def from_tsv(cls, path: str | Path, labels: str | Path | None = None) -> KnowledgeGraph:
        """Read `subject<TAB>predicate<TAB>object` lines; see `sources.read_tsv`."""
        from fionalm.data.knowledge.sources import read_tsv

        return read_tsv(path, labels)

    @classmethod
    def fb15k237(cls, folder: str | Path, labels: str | Path | None = None) -> KnowledgeGraph:
        """Read FB15k-237's train.txt, valid.txt and test.txt, or those that are there; see `sources.read_fb15k237`."""
        from fionalm.data.knowledge.sources import read_fb15k237

        return read_fb15k237(folder, labels)

    @classmethod
    def countries(cls) -> KnowledgeGraph:
        """Return the embedded graph of countries (extra: knowledge); see `countries.countries_graph`."""
        from fionalm.data.knowledge.countries import countries_graph

        return countries_graph()

    def __len__(self) -> int:
        return len(self.triples)

    def __iter__(self) -> Iterator[Triple]:
        return iter(self.triples)

    def __contains__(self, triple: object) -> bool:
        return triple in self._known

    def __eq__(self, other: object) -> bool:
        return self.triples == other.triples if isinstance(other, KnowledgeGraph) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.triples)

    def __repr__(self) -> str:
        return f"KnowledgeGraph({self.name!r}, {len(self.triples)} triples)"

    def contains_many(self, triples: Iterable[Triple]) -> list[bool]:
        """Tell of each triple whether the graph holds it, as `in` does, at over a million a second.

        Names are compared as they are: "paris" and "Paris " are not "Paris".
        """
        return list(map(self._known.__contains__, triples))

    @cached_property
    def by_pair(self) -> Mapping[Pair, tuple[str, ...]]:
        """Objects of every (subject, predicate), in the graph's order."""
        found: dict[Pair, list[str]] = {}
        for subject, predicate, an_object in self.triples:
            found.setdefault((subject, predicate), []).append(an_object)
        return {pair: tuple(objects) for pair, objects in found.items()}

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Every (subject, predicate) that has an object, in the graph's order."""
        return tuple(self.by_pair)

    @cached_property
    def subjects(self) -> tuple[str, ...]:
        """Names that are a subject, in the graph's order."""
        return tuple(dict.fromkeys(subject for subject, _, _ in self.triples))

    @cached_property
    def predicates(self) -> tuple[str, ...]:
        """Names of the predicates, in the graph's order."""
        return tuple(dict.fromkeys(predicate for _, predicate, _ in self.triples))

    @cached_property
    def entities(self) -> tuple[str, ...]:
        """Names that are a subject or an object, in the graph's order."""
        return tuple(dict.fromkeys(name for subject, _, an_object in self.triples for name in (subject, an_object)))

    def objects(self, subject: str, predicate: str) -> tuple[str, ...]:
        """Return the objects of a pair.

        Raises:
            UserError: the graph has no such pair; names the nearest subject, or the subject's nearest predicate.
        """
        found = self.by_pair.get((subject, predicate))
        if found is not None:
            return found
        own = [of for who, of in self.by_pair if who == subject]
        if not own:
            # All names would take minutes to compare in a large graph.
            alike = [name for name in self.subjects if name[:1].lower() == subject[:1].lower()]
            raise UserError(
                f"{self.name} has no subject {subject!r}: expected one of its {len(self.subjects)}"
                f"{nearest(subject, alike or self.subjects)}"
            )
        raise UserError(
            f"{self.name} has no {predicate!r} of {subject!r}: expected one of {', '.join(own)}"
            f"{nearest(predicate, own)}"
        )

    @cached_property
    def fingerprint(self) -> str:
        """Name of the content: 32 hexadecimal digits, equal for equal graphs on any machine."""
        content = hashlib.blake2b(digest_size=16)
        for triple in self.triples:
            content.update("\t".join(triple).encode() + b"\n")
        return content.hexdigest()

    def subset(self, fraction: float, *, by: SubsetBy = "triples", seed: int = 0) -> KnowledgeGraph:
        """Return the part of the graph that holds `fraction` of its triples, or of its subjects with all their triples.

        What is kept has the smallest hashes of (seed, triple) or (seed, subject): of two subsets with one seed, the
        larger holds the smaller. At least one is kept.

        Raises:
            UserError: a fraction outside (0, 1], or an unknown `by`.
        """
        if not 0 < fraction <= 1:
            raise UserError(f"fraction {fraction}: expected a share of the graph above 0, at most 1")
        if by not in get_args(SubsetBy):
            raise choice_error("subset by", by, get_args(SubsetBy))
        if fraction == 1:
            return self
        if by == "subjects":
            kept = set(smallest(self.subjects, fraction, f"subset/{seed}"))
            chosen = [triple for triple in self.triples if triple[0] in kept]
        else:
            kept = set(smallest(self.triples, fraction, f"subset/{seed}"))
            chosen = [triple for triple in self.triples if triple in kept]
        return KnowledgeGraph(chosen, f"{self.name} ({fraction:.6g} of its {by})")

    def split(
        self, *, partially_visible: float = 0.1, invisible: float = 0.1, held_out: float = 0.5, seed: int = 0
    ) -> GraphSplit:
        """Divide the pairs into fully visible, partially visible and invisible ones; see `splits.split_graph`."""
        from fionalm.data.knowledge.splits import split_graph

        return split_graph(self, partially_visible=partially_visible, invisible=invisible, held_out=held_out, seed=seed)

    def statistics(self) -> GraphStatistics:
        """Count; see `measures.measure_graph`."""
        from fionalm.data.knowledge.measures import measure_graph

        return measure_graph(self)


def check_triple(triple: Iterable[str], where: str) -> Triple:
    """Return a triple with clean ends, or refuse it.

    Raises:
        UserError: other than three fields, an empty field, a tab or line end inside one, or one of `MARKS`.
    """
    fields = tuple(field.strip() for field in triple)
    if len(fields) != 3:
        raise UserError(f"{where} has {len(fields)} fields: expected a subject, a predicate and an object")
    for field, kind in zip(fields, ("subject", "predicate", "object"), strict=True):
        if not field:
            raise UserError(f"{where} has an empty {kind}: expected a name")
        if "<" in field and any(mark in field for mark in MARKS):
            raise UserError(f"the {kind} {field!r} of {where} holds {', '.join(MARKS)}: expected names without")
        if "\t" in field or "\n" in field or "\r" in field:
            raise UserError(f"the {kind} {field!r} of {where} holds a tab or a line end: expected a name without")
    return fields[0], fields[1], fields[2]


def smallest(items: Iterable[Triple] | Iterable[Pair] | Iterable[str], share: float, salt: str) -> list:
    """Return the `share` of `items` (rounded, at least one) whose hashes with `salt` are smallest."""
    ranked = sorted(items, key=lambda item: rank(item, salt))
    return ranked[: max(1, round(share * len(ranked)))]


def rank(item: tuple[str, ...] | str, salt: str) -> bytes:
    """Return a hash by which items are put into a random order that does not depend on the others."""
    text = item if isinstance(item, str) else "\t".join(item)
    return hashlib.blake2b(f"{salt}\n{text}".encode(), digest_size=16).digest()
