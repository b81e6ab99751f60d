"""Graphs made to measure: how many subjects, predicates and objects, how many objects a pair, how skewed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fionalm.data.knowledge.graph import KnowledgeGraph, Triple
from fionalm.errors import UserError

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


@dataclass(frozen=True)
class SyntheticGraph:
    """What `synthetic_graph` makes."""

    subjects: int = 500
    """Names that are a subject."""
    predicates: int = 8
    """Predicates; every subject has each."""
    objects: int = 200
    """Names that each predicate's objects are drawn from; predicates share none."""
    objects_per_pair: float = 2.0
    """Mean number of objects of a pair; each pair has 1 to 2 * mean - 1 of them, all equally likely."""
    zipf: float = 1.0
    """Exponent of the objects' frequencies: the k-th most frequent has weight k^-zipf; 0: all alike."""
    seed: int = 0
    """Of names and facts."""

    def __post_init__(self) -> None:
        for name in ("subjects", "predicates", "objects"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} {getattr(self, name)}: expected at least 1")
        most = 2 * round(self.objects_per_pair) - 1
        if self.objects_per_pair < 1 or most > self.objects:
            raise UserError(
                f"objects_per_pair {self.objects_per_pair}: expected a mean of 1 to {(self.objects + 1) // 2}, half of "
                f"the {self.objects} objects"
            )
        if self.zipf < 0:
            raise UserError(f"zipf {self.zipf}: expected an exponent of 0 or more")


def synthetic_graph(config: SyntheticGraph = SyntheticGraph()) -> KnowledgeGraph:
    """Return a graph of made-up names; the same config gives the same graph.

    Objects of a pair are drawn without replacement with weights k^-zipf. Nothing about a pair's objects follows from
    its subject, so that pairs that a model has not seen cannot be known, only guessed.
    """
    generator = np.random.default_rng(config.seed)
    count = config.subjects + config.predicates * (config.objects + 1)
    names = _names(count, generator)
    subjects = names[: config.subjects]
    predicates = names[config.subjects : config.subjects + config.predicates]
    rest = names[config.subjects + config.predicates :]
    pools = [rest[i * config.objects : (i + 1) * config.objects] for i in range(config.predicates)]
    log_weights = -config.zipf * np.log(np.arange(1, config.objects + 1))
    triples: list[Triple] = []
    for subject in subjects:
        for predicate, pool in zip(predicates, pools, strict=True):
            objects = _objects_of_a_pair(config.objects_per_pair, generator)
            # Gumbel noise and the largest: draws without replacement (Efraimidis and Spirakis 2006).
            keys = log_weights + generator.gumbel(size=config.objects)
            chosen = np.argpartition(-keys, objects - 1)[:objects]
            triples += [(subject, predicate, pool[index]) for index in chosen[np.argsort(-keys[chosen])]]
    return KnowledgeGraph(triples, f"synthetic graph {config.seed}")


def _objects_of_a_pair(mean: float, generator: np.random.Generator) -> int:
    """Draw a number from 1 to 2 m - 1, where m is one of the two whole numbers beside `mean`."""
    middle = int(mean) + int(generator.random() < mean - int(mean))
    return int(generator.integers(1, 2 * middle))


def _names(count: int, generator: np.random.Generator) -> list[str]:
    """Return different names of two or more syllables, in a random order."""
    syllables = [consonant + vowel for consonant in CONSONANTS for vowel in VOWELS]
    length = 2
    while len(syllables) ** length < 4 * count:
        length += 1
    names: dict[str, None] = {}
    while len(names) < count:
        drawn = generator.integers(len(syllables), size=(count, length))
        names.update(dict.fromkeys("".join(syllables[i] for i in row).capitalize() for row in drawn))
    return list(names)[:count]
