"""Objects drawn for pairs: what is right, how rates are counted, and that a model which learned the graph knows it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fionalm.data import KnowledgeGraph, TripleConfig, load_triples
from fionalm.data.knowledge import SyntheticGraph, parse_triple
from fionalm.errors import UserError
from fionalm.evaluation import (
    GeneratedTriple,
    Hallucination,
    choose_pairs,
    measure_hallucination,
    sample_objects,
)
from fionalm.evaluation.hallucination import written
from fionalm.models import Decoder
from fionalm.models.config import DecoderConfig
from fionalm.optim.config import OptimizerConfig
from fionalm.sampling import EngineSampler
from fionalm.sampling.types import Completion
from fionalm.training import TrainConfig, train

DATA = TripleConfig(
    graph="synthetic", synthetic=SyntheticGraph(subjects=10, predicates=2, objects=6), vocab_size=300, invisible=0.2
)


@pytest.fixture(scope="module")
def corpus():
    return load_triples(DATA)


@pytest.fixture(scope="module")
def model(corpus):
    """A model that has learned its few triples."""
    shape = DecoderConfig(vocab_size=corpus.vocab_size, d_model=48, n_layers=2, n_heads=2, max_seq_len=64)
    config = TrainConfig(
        model=shape, data=DATA, optimizer=OptimizerConfig(lr=1e-2), batch_size=16, steps=150, eval_batches=0
    )
    decoder = Decoder(shape, torch.Generator().manual_seed(0))
    train(config, model=decoder, corpus=corpus, quiet=True)
    return decoder


def test_a_model_knows_what_it_learned_and_makes_up_the_rest(corpus, model):
    sampler = EngineSampler(model, corpus.tokenizer)
    pairs = choose_pairs(corpus.split, 100)
    assert sorted(pairs) == sorted(corpus.split.graph.pairs)
    generated = sample_objects(sampler, corpus.tokens, corpus.split, pairs, temperatures=(0.0, 1.0))
    assert len(generated) == len(pairs) * 17
    for one in generated:
        right = one.triple in corpus.split.graph and one.finished
        assert one.hallucinated == (not right)
        assert one.verdict != "seen" or one.triple in corpus.split.train
        assert one.hallucinated or parse_triple(one.text) == one.triple
        assert one.logp is not None and one.logp <= 0
    measured = {(one.visibility, one.temperature): one for one in measure_hallucination(generated, corpus.split)}
    known, unknown = measured["fully_visible", 1.0], measured["invisible", 1.0]
    assert known.rate.high < 0.3 < unknown.rate.low
    assert known.recall.estimate > 0.9
    assert known.held_out_recall is None and unknown.held_out_recall is not None
    assert measured["fully_visible", 0.0].recall.estimate < known.recall.estimate


def test_a_pair_is_given_the_same_objects_whoever_else_is_asked(corpus, model):
    sampler = EngineSampler(model, corpus.tokenizer, max_batch=7)
    pairs = choose_pairs(corpus.split, 3)
    together = sample_objects(sampler, corpus.tokens, corpus.split, pairs, samples=4)
    alone = sample_objects(sampler, corpus.tokens, corpus.split, pairs[1:2], samples=4)
    assert [one.object for one in together[4:8]] == [one.object for one in alone]
    other = sample_objects(sampler, corpus.tokens, corpus.split, pairs, samples=4, seed=1)
    assert [one.logp for one in other] != [one.logp for one in together]


def test_an_object_that_is_cut_off_is_hallucinated(corpus, model):
    generated = sample_objects(
        EngineSampler(model, corpus.tokenizer), corpus.tokens, corpus.split, choose_pairs(corpus.split, 5), max_tokens=1
    )
    assert not any(one.finished for one in generated)
    assert all(one.hallucinated for one in generated)
    assert measure_hallucination(generated, corpus.split)[0].unfinished == 1


def test_a_mark_inside_an_object_makes_it_wrong(corpus):
    name = corpus.split.graph.triples[0][2]
    ids = [corpus.tokens.object_id, *corpus.tokens.encode_names([name])[name], corpus.tokens.end_id]
    text = corpus.tokenizer.decode(ids)
    assert text.strip() == name
    shown = written(Completion(text, "stop", tuple(ids)), corpus.tokens)
    assert shown.startswith("<O_TKN>") and shown.endswith(name)


def test_a_pair_that_the_graph_lacks_is_named(corpus, model):
    subject = corpus.split.graph.subjects[0]
    with pytest.raises(UserError, match=f"did you mean '{subject}'"):
        sample_objects(EngineSampler(model, corpus.tokenizer), corpus.tokens, corpus.split, [(subject[:-1], "capital")])


SPLIT = KnowledgeGraph([("a", "p", "1"), ("a", "p", "2"), ("b", "p", "1"), ("b", "p", "3")]).split(
    partially_visible=0.5, invisible=0.0, seed=0
)


def drawn(objects: dict[tuple[str, str], str]) -> list[GeneratedTriple]:
    """Objects of one letter each, judged by the split."""
    made = []
    for pair, letters in objects.items():
        for number, letter in enumerate(letters):
            triple = (*pair, letter)
            verdict = "seen" if triple in SPLIT.train else "held_out" if triple in SPLIT.graph else "hallucinated"
            made.append(GeneratedTriple(*triple, SPLIT.visibility[pair], verdict, 1.0, number, True, -1.0))  # type: ignore[arg-type]
    return made


@given(st.text("123", min_size=4, max_size=4), st.text("123", min_size=4, max_size=4))
def test_rates_are_those_counted_by_hand(first, second):
    measured = measure_hallucination(drawn({("a", "p"): first, ("b", "p"): second}), SPLIT, resamples=20)
    assert {one.visibility for one in measured} == {"fully_visible", "partially_visible"}
    for one in measured:
        ((subject, _),) = SPLIT.pairs(one.visibility)
        letters, right = (first, {"1", "2"}) if subject == "a" else (second, {"1", "3"})
        wrong = sum(letter not in right for letter in letters) / 4
        assert one.rate.estimate == pytest.approx(wrong)
        assert one.precision.estimate == pytest.approx(1 - wrong)
        assert one.recall.estimate == len(right & set(letters)) / 2
        hidden = {name for who, _, name in SPLIT.held_out if who == subject}
        assert one.held_out.estimate == sum(letter in hidden for letter in letters) / 4
        assert math.isnan(one.rate.low)  # one pair has no spread
        again = Hallucination.from_dict(one.to_dict())
        assert again.recall.estimate == one.recall.estimate


def test_mistakes_are_named():
    with pytest.raises(UserError, match="no objects were generated"):
        measure_hallucination([], SPLIT)
    uneven = [replace(one, visibility="fully_visible") for one in drawn({("a", "p"): "12", ("b", "p"): "1"})]
    with pytest.raises(UserError, match="pairs have 1 to 2 objects"):
        measure_hallucination(uneven, SPLIT)
    with pytest.raises(UserError, match="pairs 0"):
        choose_pairs(SPLIT, 0)
