"""Graphs: what they hold, what they refuse, their subsets and splits."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fionalm.data.knowledge import (
    VISIBILITIES,
    KnowledgeGraph,
    SyntheticGraph,
    synthetic_graph,
)
from fionalm.errors import UserError

NAMES = st.text(
    st.characters(exclude_characters="\t\n\r<", exclude_categories=["Cs", "Zs", "Zl", "Zp", "Cc"]), min_size=1
)
TRIPLES = st.lists(st.tuples(NAMES, st.sampled_from("pq"), NAMES), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def graph() -> KnowledgeGraph:
    return synthetic_graph(SyntheticGraph(subjects=40, predicates=3, objects=20, objects_per_pair=2.5, seed=3))


@given(TRIPLES, TRIPLES)
def test_membership_is_that_of_a_set(triples, others):
    graph = KnowledgeGraph(triples)
    asked = [*triples, *others]
    assert graph.contains_many(asked) == [triple in set(triples) for triple in asked]
    assert graph.contains_many(asked) == [triple in graph for triple in asked]
    assert list(graph) == list(dict.fromkeys(triples))
    assert graph.duplicates == len(triples) - len(set(triples))


@given(TRIPLES)
def test_pairs_hold_every_object_once(triples):
    graph = KnowledgeGraph(triples)
    again = [(subject, predicate, one) for (subject, predicate), found in graph.by_pair.items() for one in found]
    assert sorted(again) == sorted(set(triples))
    assert graph.statistics().pairs == len({triple[:2] for triple in triples})


def test_names_are_compared_as_they_are_after_their_ends_are_trimmed():
    graph = KnowledgeGraph([(" Paris ", "is in", "France")])
    assert ("Paris", "is in", "France") in graph
    assert ("paris", "is in", "France") not in graph
    assert ("Paris ", "is in", "France") not in graph


@pytest.mark.parametrize(
    ("triple", "sentence"),
    [
        (("a", "b"), "has 2 fields"),
        (("a", " ", "c"), "empty predicate"),
        (("a", "b", "c <P_TKN> d"), "object 'c <P_TKN> d'"),
        (("a", "b\tx", "c"), "a tab or a line end"),
    ],
)
def test_a_malformed_triple_is_refused(triple, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        KnowledgeGraph([("a", "b", "c"), triple])


def test_a_graph_without_triples_is_refused():
    with pytest.raises(UserError, match="has no triples"):
        KnowledgeGraph([])


def test_a_missing_pair_names_the_nearest():
    graph = KnowledgeGraph(
        [("France", "capital", "Paris"), ("France", "borders", "Spain"), ("Spain", "capital", "Madrid")]
    )
    assert graph.objects("France", "borders") == ("Spain",)
    with pytest.raises(UserError, match="no subject 'Franc'.*did you mean 'France'"):
        graph.objects("Franc", "capital")
    with pytest.raises(
        UserError, match="no 'border' of 'France': expected one of capital, borders; did you.*'borders'"
    ):
        graph.objects("France", "border")


@pytest.mark.parametrize("by", ["triples", "subjects"])
def test_a_larger_subset_holds_the_smaller(graph, by):
    parts = [graph.subset(fraction, by=by, seed=1) for fraction in (0.1, 0.5, 1.0)]
    assert all(triple in larger for smaller, larger in itertools.pairwise(parts) for triple in smaller)
    assert parts[2] == graph
    if by == "triples":
        assert len(parts[1]) == round(0.5 * len(graph))
    else:
        assert len(parts[1].subjects) == 20
        whole = {triple for triple in graph if triple[0] in set(parts[1].subjects)}
        assert set(parts[1]) == whole
    assert graph.subset(0.1, by=by, seed=2) != parts[0]


def test_a_fraction_outside_of_the_graph_is_refused(graph):
    with pytest.raises(UserError, match="fraction 0"):
        graph.subset(0)
    with pytest.raises(UserError, match="did you mean 'subjects'"):
        graph.subset(0.5, by="subject")


@given(
    triples=TRIPLES,
    partially=st.floats(0, 0.5),
    invisible=st.floats(0, 0.5),
    held_out=st.floats(0.05, 0.95),
    seed=st.integers(0, 3),
)
def test_splits_keep_what_they_say(triples, partially, invisible, held_out, seed):
    graph = KnowledgeGraph(triples)
    options = {"partially_visible": partially, "invisible": invisible, "held_out": held_out, "seed": seed}
    try:
        split = graph.split(**options)
    except UserError as error:
        assert "all invisible" in str(error)
        return
    assert Counter(pair for name in VISIBILITIES for pair in split.pairs(name)) == Counter(graph.pairs)
    assert set(split.train) | set(split.held_out) == set(graph)
    assert not set(split.train) & set(split.held_out)
    for pair, objects in graph.by_pair.items():
        kept = split.train.by_pair.get(pair, ())
        expected = {"fully_visible": len(objects), "invisible": 0}.get(split.visibility[pair])
        if expected is None:
            assert 1 <= len(kept) < len(objects)
        else:
            assert len(kept) == expected
    assert len(split.invisible) == round(invisible * len(graph.pairs))
    assert len(split.partially_visible) <= round(partially * len(graph.pairs))
    assert graph.split(**options).train == split.train


def test_shares_of_a_split_are_checked(graph):
    with pytest.raises(UserError, match="over 1 together"):
        graph.split(partially_visible=0.6, invisible=0.6)
    with pytest.raises(UserError, match="held_out 1"):
        graph.split(held_out=1.0)
    with pytest.raises(UserError, match="unknown split 'visible'"):
        graph.split().pairs("visible")


def test_a_synthetic_graph_has_what_was_asked():
    config = SyntheticGraph(subjects=300, predicates=4, objects=50, objects_per_pair=3, zipf=1.2, seed=5)
    graph = synthetic_graph(config)
    found = graph.statistics()
    assert (found.subjects, found.predicates, found.pairs) == (300, 4, 1200)
    assert found.objects <= 200
    assert abs(found.objects_per_pair.mean - 3) < 0.15
    assert found.objects_per_pair.largest == 5
    assert graph == synthetic_graph(config)
    flat = synthetic_graph(SyntheticGraph(subjects=300, predicates=4, objects=50, objects_per_pair=3, zipf=0, seed=5))
    assert found.triples_per_object.top_percent_share > 2 * flat.statistics().triples_per_object.top_percent_share


def test_a_synthetic_graph_that_cannot_be_is_refused():
    with pytest.raises(UserError, match="objects_per_pair 3"):
        SyntheticGraph(objects=4, objects_per_pair=3)
    with pytest.raises(UserError, match="subjects 0"):
        SyntheticGraph(subjects=0)
