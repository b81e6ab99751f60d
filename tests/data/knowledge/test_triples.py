"""Triples as text, tokens and batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fionalm.data import IGNORED, load_data
from fionalm.data.knowledge import (
    MARKS,
    SyntheticGraph,
    TripleConfig,
    TripleTokenizer,
    load_split,
    load_triples,
    pair_text,
    parse_triple,
    triple_text,
)
from fionalm.data.knowledge.text import bpe_for_triples, characters_for_triples
from fionalm.data.tokenizer import train_tokenizer
from fionalm.errors import UserError

SMALL = SyntheticGraph(subjects=12, predicates=3, objects=8)
CONFIG = TripleConfig(graph="synthetic", synthetic=SMALL, vocab_size=300)
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="<>"), min_size=1).filter(
    lambda name: name == name.strip()
)


@pytest.fixture(scope="module")
def tokenizers():
    graph = load_split(CONFIG).train
    return [TripleTokenizer(bpe_for_triples(graph, 300)), TripleTokenizer(characters_for_triples(graph))]


@given(NAMES, NAMES, NAMES)
def test_text_is_parsed_back(subject, predicate, an_object):
    triple = subject, predicate, an_object
    assert parse_triple(triple_text(triple)) == triple
    assert triple_text(triple).startswith(pair_text(triple[:2]))
    assert parse_triple(pair_text(triple[:2])) is None
    assert parse_triple(triple_text(triple) + MARKS[1]) is None


@given(NAMES, NAMES, NAMES)
def test_tokens_are_those_of_the_text(tokenizers, subject, predicate, an_object):
    tokens = tokenizers[0]
    triple = subject, predicate, an_object
    (ids,) = tokens.encode_triples([triple])
    assert ids == [*tokens.tokenizer.encode(triple_text(triple)).ids, tokens.end_id]
    (prompt,) = tokens.encode_pairs([triple[:2]])
    assert ids[: len(prompt)] == prompt
    assert tokens.tokenizer.decode(ids[len(prompt) : -1]) == an_object


def test_characters_write_every_name_of_the_graph(tokenizers):
    tokens, graph = tokenizers[1], load_split(CONFIG).train
    for triple, ids in zip(graph, tokens.encode_triples(graph.triples), strict=True):
        assert len(ids) == sum(map(len, triple)) + 4
        assert parse_triple(tokens.tokenizer.decode(ids[:-1], skip_special_tokens=False)) == triple


def test_a_tokenizer_without_marks_is_refused():
    with pytest.raises(UserError, match="no <S_TKN>, <P_TKN>, <O_TKN>"):
        TripleTokenizer(train_tokenizer(["text"], 300))


def test_a_batch_is_whole_triples_and_an_epoch_all_of_them():
    corpus = load_triples(CONFIG)
    loader = corpus.loader(10, CONFIG.seq_len, seed=4)
    n = len(corpus.split.train)
    rows = [row for step in range(-(-n // 10)) for row in loader.batch(step)]
    read = [parse_triple(_text(corpus, row)) for row in rows[:n]]
    assert sorted(map(str, read)) == sorted(map(str, corpus.split.train))
    assert [str(one) for one in read] != [str(one) for one in corpus.split.train]


def _text(corpus, row):
    ids = [int(token) for token in row if token != IGNORED]
    assert ids[-1] == corpus.tokens.end_id
    assert (row[len(ids) :] == IGNORED).all()
    return corpus.tokenizer.decode(ids[:-1], skip_special_tokens=False)


@given(step=st.integers(0, 50), parts=st.sampled_from([1, 2, 3]))
def test_ranks_share_a_batch_by_tokens(step, parts):
    corpus = load_triples(CONFIG)
    whole = corpus.loader(12, 0, seed=1).batch(step)
    loaders = [corpus.loader(12, 0, seed=1, rank=rank, world_size=2) for rank in range(2)]
    pieces = [loader.batch(step) for loader in loaders]
    joined = [row[row != IGNORED].tolist() for piece in pieces for row in piece]
    assert joined == [row[row != IGNORED].tolist() for row in whole]
    total = (whole[:, 1:] != IGNORED).sum().item()
    for loader, piece in zip(loaders, pieces, strict=True):
        counts = [(chunk[:, 1:] != IGNORED).sum().item() for chunk in piece.chunk(parts)]
        assert np.allclose(loader.shares(step, parts), [2 * count / total for count in counts])


def test_the_cache_gives_the_same_corpus(cache):
    first, second = load_data(CONFIG), load_data(CONFIG)
    assert first.fingerprint == second.fingerprint
    assert len(list(cache.glob("tokenizers/*/tokenizer.json"))) == 1
    other = load_data(TripleConfig(graph="synthetic", synthetic=SMALL, vocab_size=300, split_seed=1))
    assert other.fingerprint != first.fingerprint


def test_a_triple_that_does_not_fit_names_the_length_that_does():
    config = TripleConfig(graph="synthetic", synthetic=SMALL, tokens="characters", seq_len=8)
    with pytest.raises(UserError, match=r"over data.seq_len 8 \+ 1: expected a seq_len of at least (\d+)"):
        _ = load_triples(config).train


@pytest.mark.parametrize(("field", "value"), [("vocab_size", 259), ("seq_len", 3), ("fraction", 0.0)])
def test_values_out_of_range_are_refused(field, value):
    with pytest.raises(UserError, match=field):
        TripleConfig(**{field: value})
