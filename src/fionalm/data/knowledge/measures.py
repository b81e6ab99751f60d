"""What a graph is like: counts, degrees and skew."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fionalm.data.knowledge.graph import KnowledgeGraph


@dataclass(frozen=True)
class Degrees:
    """How many of something each of several things has."""

    mean: float
    median: float
    largest: int
    largest_name: str
    top_percent_share: float
    """Share that the hundredth with most have together (at least one): 0.01 without skew."""


@dataclass(frozen=True)
class GraphStatistics:
    """Counts and degrees of a graph."""

    triples: int
    duplicates: int
    """Triples that were given again and dropped."""
    subjects: int
    predicates: int
    objects: int
    """Different objects."""
    entities: int
    """Subjects and objects together; a name that is both counts once."""
    pairs: int
    """Of subject and predicate."""
    pairs_with_several: int
    """Pairs with two objects or more, which alone can be partially visible."""
    objects_per_pair: Degrees
    triples_per_subject: Degrees
    """Out-degree."""
    triples_per_object: Degrees
    """In-degree: how often each object is one."""
    triples_per_predicate: dict[str, int]
    """Most frequent first."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def measure_graph(graph: KnowledgeGraph) -> GraphStatistics:
    """Count `graph`."""
    subjects, predicates, objects = (Counter(triple[place] for triple in graph) for place in range(3))
    several = Counter({" / ".join(pair): len(found) for pair, found in graph.by_pair.items()})
    return GraphStatistics(
        triples=len(graph),
        duplicates=graph.duplicates,
        subjects=len(subjects),
        predicates=len(predicates),
        objects=len(objects),
        entities=len(graph.entities),
        pairs=len(graph.by_pair),
        pairs_with_several=sum(len(found) > 1 for found in graph.by_pair.values()),
        objects_per_pair=_degrees(several),
        triples_per_subject=_degrees(subjects),
        triples_per_object=_degrees(objects),
        triples_per_predicate=dict(predicates.most_common()),
    )


def _degrees(counts: Counter[str]) -> Degrees:
    values = np.sort(np.fromiter(counts.values(), dtype=np.int64))[::-1]
    name, largest = counts.most_common(1)[0]
    top = max(1, len(values) // 100)
    return Degrees(
        mean=float(values.mean()),
        median=float(np.median(values)),
        largest=largest,
        largest_name=name,
        top_percent_share=float(values[:top].sum() / values.sum()),
    )
