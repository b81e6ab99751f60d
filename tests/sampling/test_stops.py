from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fionalm.data import TextTokenizer, character_tokenizer, train_tokenizer
from fionalm.sampling.stops import StopFinder, cut_at_stop

TEXT = "the cat sat on the mat, naïve café ☃ 😀😀 the end. STOP it\n\n"
BYTES = TextTokenizer(train_tokenizer([TEXT] * 3, 290))
CHARACTERS = TextTokenizer(character_tokenizer("abc"))


def first_complete(tokenizer: TextTokenizer, ids: list[int], stop: tuple[str, ...]) -> int | None:
    """Return how many tokens it takes until a stop string is in the whole text."""
    counts = range(1, len(ids) + 1)
    return next((n for n in counts if cut_at_stop(tokenizer.decode(ids[:n]), stop)[1]), None)


def first_found(tokenizer: TextTokenizer, ids: list[int], stop: tuple[str, ...]) -> int | None:
    finder = StopFinder(tokenizer, stop)
    return next((n for n in range(1, len(ids) + 1) if finder.found(ids[:n])), None)


@settings(max_examples=300)
@given(
    st.lists(st.integers(0, 289), max_size=40),
    st.lists(st.text("at ☃é😀\nx", min_size=1, max_size=4), min_size=1, max_size=3).map(tuple),
)
def test_a_stop_string_is_found_with_the_token_that_completes_it(ids: list[int], stop: tuple[str, ...]) -> None:
    assert first_found(BYTES, ids, stop) == first_complete(BYTES, ids, stop)


@given(st.lists(st.integers(0, 3), max_size=60), st.text("abc", min_size=1, max_size=5))
def test_special_tokens_inside_a_stop_string_do_not_hide_it(ids: list[int], stop: str) -> None:
    assert first_found(CHARACTERS, ids, (stop,)) == first_complete(CHARACTERS, ids, (stop,))


@pytest.mark.parametrize("stop", ["the end. STOP", "fé ☃ 😀", "😀😀"])
def test_stop_strings_across_tokens(stop: str) -> None:
    ids = BYTES.encode_completion(TEXT, end=False)
    # Neither the stop string's start nor its end need be a token's.
    found = first_found(BYTES, ids, (stop,))
    assert found is not None
    assert cut_at_stop(BYTES.decode(ids[:found]), (stop,)) == (TEXT[: TEXT.index(stop)], True)


def test_the_earliest_stop_string_cuts() -> None:
    assert cut_at_stop("one two three", ("three", "two")) == ("one ", True)
    assert cut_at_stop("one", ("two",)) == ("one", False)
