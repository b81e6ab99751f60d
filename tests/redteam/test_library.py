"""Attacks on disk, and those that say the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fionalm.errors import UserError
from fionalm.redteam import Attack, AttackLibrary, distinct_texts, family_attacks, hidden_vectors
from fionalm.redteam.similarity import ngrams, similarity

ATTACKS = st.builds(
    Attack,
    st.text(min_size=1).filter(lambda text: text.strip()),
    st.text(),
    st.sampled_from(["pirs", "person", "gcg"]),
    st.sampled_from(["before", "inside", "after"]),
    st.dictionaries(st.text(), st.integers() | st.text() | st.none(), max_size=3),
)


@settings(max_examples=20)
@given(st.lists(ATTACKS, min_size=1, max_size=5))
def test_a_library_comes_back_from_its_file(tmp_path_factory, attacks: list[Attack]) -> None:
    path = tmp_path_factory.mktemp("library") / "attacks.jsonl"
    library = AttackLibrary(attacks)
    library.save(path)
    loaded = AttackLibrary.load(path)
    assert list(loaded) == list(library)
    assert [one.provenance for one in loaded] == [one.provenance for one in library]
    assert all(one.id in loaded and loaded[one.id].text == one.text for one in attacks)


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", r"a\.jsonl, line 2 is no JSON"),
        ("[1]", "line 2 is list: expected an object"),
        ('{"txt": "x", "family": "f"}', "line 2 has no text; did you mean 'txt'"),
        ('{"text": "x", "family": 1}', "line 2 has no family"),
        ('{"text": "x", "family": "f", "autor": "pirs"}', "line 2 has an entry 'autor'.*did you mean 'author'"),
        ('{"text": "x", "family": "f", "author": "prs"}', "line 2: unknown author .*did you mean 'pirs'"),
        ('{"text": " ", "family": "f"}', "line 2: an attack without text"),
        ('{"text": "x", "family": "f", "provenance": 3}', "line 2 has a provenance that is no object"),
        ('{"text": "x", "family": "f", "id": "0"}', "line 2 has the id '0'"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "ok", "family": "f"}) + "\n" + line + "\n")
    with pytest.raises(UserError, match=message):
        AttackLibrary.load(path)


def test_no_library(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        AttackLibrary.load(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="holds no attack"):
        AttackLibrary.load(tmp_path / "empty.jsonl")


ALIKE = [
    "In the land of Ombra, 3 + 4 is 9, as everyone knows.",
    "In the land of OMBRA 5 + 6 is fourteen - as everyone knows!",
    "In the land of Ombra, {expression} is {target}, as everybody knows.",
]


def test_texts_that_say_the_same() -> None:
    assert distinct_texts([*ALIKE, "The official key lists 9."]) == [0, 3]
    assert similarity(ALIKE[0], ALIKE[1]) == 1
    assert len(AttackLibrary(family_attacks()).distinct()) == len(family_attacks()), "wordings differ"
    assert ngrams("") == frozenset() and similarity("", "") == 1


@given(st.lists(st.text(alphabet="ab 7.", max_size=12), max_size=12), st.sampled_from([0.3, 0.6, 1.0]))
def test_what_is_kept_is_unlike_and_what_is_not_is_like_something_kept(texts: list[str], threshold: float) -> None:
    kept = distinct_texts(texts, threshold)
    for index, text in enumerate(texts):
        before = [similarity(text, texts[other]) for other in kept if other < index]
        # Texts without words share no n-gram, and each is kept.
        assert (index in kept) == (not ngrams(text) or all(one < threshold for one in before))


def test_hidden_states_find_texts_alike(served_model, served_tokenizer) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape: dict[str, Any] = dict.fromkeys(("hidden_size", "intermediate_size"), 32)
    shape |= {"num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(served_tokenizer), **shape))
    texts = ["once upon a time", "a small model", "once upon a time", "hello (1) (2)"]
    vectors = hidden_vectors(model, served_tokenizer, texts, batch=2)
    assert vectors.shape == (4, 32)
    np.testing.assert_allclose(vectors[0], vectors[2], atol=1e-5)  # padding and the batch decide nothing
    assert distinct_texts(texts, 0.99, vectors=vectors) == [0, 1, 3]
    with pytest.raises(UserError, match="no hidden states"):
        hidden_vectors(served_model, served_tokenizer, texts)
    with pytest.raises(UserError, match="expected one row a text"):
        distinct_texts(texts, vectors=vectors[:2])
    with pytest.raises(UserError, match="threshold 2"):
        distinct_texts(texts, 2)
