"""What a model may see of a graph: pairs that are fully visible, partially visible or invisible.

Hron et al. 2024 (arXiv 2408.07852, section 2.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from fionalm.data.knowledge.graph import KnowledgeGraph, Pair, Triple, rank
from fionalm.errors import UserError, choice_error

VISIBILITIES = ("fully_visible", "partially_visible", "invisible")


@dataclass(frozen=True, eq=False)
class GraphSplit:
    """A graph's pairs by what training shows of their objects: all, some, none."""

    graph: KnowledgeGraph
    """The whole: what is true."""
    train: KnowledgeGraph
    """What is trained on."""
    fully_visible: tuple[Pair, ...]
    """Every object is in `train`."""
    partially_visible: tuple[Pair, ...]
    """At least one object is in `train`, and at least one is not."""
    invisible: tuple[Pair, ...]
    """No object is in `train`."""

    def pairs(self, visibility: str) -> tuple[Pair, ...]:
        """Return the pairs of one of `VISIBILITIES`.

        Raises:
            UserError: another name.
        """
        if visibility not in VISIBILITIES:
            raise choice_error("split", visibility, VISIBILITIES)
        return getattr(self, visibility)

    @cached_property
    def visibility(self) -> Mapping[Pair, str]:
        """Which of `VISIBILITIES` each pair has."""
        return {pair: name for name in VISIBILITIES for pair in self.pairs(name)}

    @cached_property
    def held_out(self) -> tuple[Triple, ...]:
        """The true triples that are not trained on, in the graph's order."""
        return tuple(triple for triple in self.graph if triple not in self.train)

    def to_dict(self) -> dict[str, float]:
        """Return counts: pairs, triples and held-out triples of each visibility, and what invisible pairs meet."""
        counts: dict[str, float] = {"triples": len(self.graph), "train_triples": len(self.train)}
        for name in VISIBILITIES:
            pairs = self.pairs(name)
            counts[f"{name}_pairs"] = len(pairs)
            counts[f"{name}_triples"] = sum(len(self.graph.by_pair[pair]) for pair in pairs)
        counts["partially_visible_held_out"] = len(self.held_out) - counts["invisible_triples"]
        seen = set(self.train.subjects)
        known = sum(subject in seen for subject, _ in self.invisible)
        counts["invisible_pairs_of_trained_subjects"] = known
        return counts

    def visibilities(self) -> Iterator[tuple[str, tuple[Pair, ...]]]:
        """Yield the names of the splits that have pairs, with them."""
        return ((name, self.pairs(name)) for name in VISIBILITIES if self.pairs(name))


def split_graph(
    graph: KnowledgeGraph,
    *,
    partially_visible: float = 0.1,
    invisible: float = 0.1,
    held_out: float = 0.5,
    seed: int = 0,
) -> GraphSplit:
    """Choose which pairs are invisible, and which objects of which pairs are held out.

    Pairs and objects are put in the order of their hashes with the seed, so that a pair's place does not depend on the
    rest of the graph: most pairs that are invisible in a subset are so in the whole graph. Only a pair with two objects
    or more can be partially visible; if there are fewer of those than `partially_visible` asks for, all of them are.

    Args:
        graph: what is divided.
        partially_visible: share of all pairs.
        invisible: share of all pairs.
        held_out: share of a partially visible pair's objects that are held out, rounded; at least one is held out and
            at least one stays.
        seed: of the choice.

    Raises:
        UserError: shares outside [0, 1), or together with nothing left to train on.
    """
    for name, share in (("partially_visible", partially_visible), ("invisible", invisible)):
        if not 0 <= share < 1:
            raise UserError(f"{name} {share}: expected a share of the pairs, from 0 to below 1")
    if not 0 < held_out < 1:
        raise UserError(f"held_out {held_out}: expected a share of a pair's objects, between 0 and 1")
    if partially_visible + invisible > 1:
        raise UserError(
            f"partially_visible {partially_visible} and invisible {invisible} are over 1 together: expected shares of "
            "the same pairs"
        )
    ranked = sorted(graph.pairs, key=lambda pair: rank(pair, f"split/{seed}"))
    n_invisible = round(invisible * len(ranked))
    unseen, rest = ranked[:n_invisible], ranked[n_invisible:]
    several = [pair for pair in rest if len(graph.by_pair[pair]) > 1]
    partial = set(several[: round(partially_visible * len(ranked))])
    hidden: set[Triple] = {(*pair, one) for pair in unseen for one in graph.by_pair[pair]}
    for pair in partial:
        objects = sorted(graph.by_pair[pair], key=lambda one: rank((*pair, one), f"held out/{seed}"))
        count = min(max(1, round(held_out * len(objects))), len(objects) - 1)
        hidden.update((*pair, one) for one in objects[:count])
    train = [triple for triple in graph if triple not in hidden]
    if not train:
        raise UserError(f"{graph.name} has {len(ranked)} pairs, all invisible: expected some to train on")
    gone = set(unseen)
    return GraphSplit(
        graph=graph,
        train=KnowledgeGraph(train, f"training part of {graph.name}"),
        fully_visible=tuple(pair for pair in graph.pairs if pair not in gone and pair not in partial),
        partially_visible=tuple(pair for pair in graph.pairs if pair in partial),
        invisible=tuple(pair for pair in graph.pairs if pair in gone),
    )
