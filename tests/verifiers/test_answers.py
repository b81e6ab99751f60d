"""Finding answers in texts."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fionalm.errors import UserError
from fionalm.verifiers.answers import (
    after_hashes,
    boxed,
    code_of,
    find_number,
    gold_column,
    normalise,
    number_text,
    numbers_of,
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 18", 18),
        ("6 * 7 = 42\n#### 1,234", 1234),
        ("The answer is 42.", 42),
        ("the answer is: $1,000,000.50!", Fraction("1000000.5")),
        ("Answer: -3", -3),
        ("So the answer is 6 * 7 = 42 apples, not 41.", 42),
        ("First 3, then 5 and 7", 7),
        (r"Hence \boxed{\$12}. Check: 3 times 4.", 12),
        ("about 1/2", Fraction(1, 2)),
        ("-7/2", Fraction(-7, 2)),
        ("It costs −5 dollars", -5),
        ("2.5e3 metres", 2500),
        (".5", Fraction(1, 2)),
        ("the answer is 10.", 10),
        ("In 1999, 7 of them left", 7),
        ("3-2", 2),
        ("-$3", -3),
        ("$-3", -3),
        ("no number", None),
        ("", None),
        ("x2y", None),
        ("1/0", None),
        ("####", None),
    ],
)
def test_find_number(text: str, number: int | Fraction | None) -> None:
    assert find_number(text) == number


@given(st.fractions(max_denominator=1000))
def test_number_text_is_read_back(value: Fraction) -> None:
    assert numbers_of(number_text(value)) == [value]
    assert find_number(f"It is 3 times 4, so the answer is {number_text(value)}.") == value
    assert find_number(f"Some 12 words.\n#### {number_text(value)}") == value


@given(st.integers(-(10**12), 10**12))
def test_groups_of_three_are_one_number(value: int) -> None:
    assert numbers_of(f"{value:,}") == [value]


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    find_number(text)
    boxed(text)
    after_hashes(text)
    code_of(text)
    assert normalise(normalise(text)) == normalise(text)


BRACES = st.recursive(
    st.text("ab +", max_size=4), lambda inner: st.tuples(inner, inner).map(lambda two: f"{{{two[0]}{two[1]}}}")
)


@given(BRACES)
def test_boxed_takes_balanced_braces(inner: str) -> None:
    assert boxed(r"\boxed{3} and \boxed{" + inner + "} done") == inner.strip()


def test_an_unclosed_box_is_none() -> None:
    assert boxed(r"\boxed{1") is None
    assert boxed(r"\boxed{1} then \boxed{2") == "1"


def test_code_is_the_last_fenced_block_of_python() -> None:
    assert code_of("x = 1") == "x = 1"
    assert code_of("```python\nx = 1\n```\nor\n```py\nx = 2\n```\nOutput:\n```text\n3\n```") == "x = 2\n"
    assert code_of("Here:\n```\nx = 1") == "x = 1"


def test_normal_forms() -> None:
    assert normalise("  Paris. ") == normalise("PARIS")
    assert normalise("-3.5%") == "-3.5%"
    assert normalise("1,000") == "1000"
    assert normalise("Straße", case=True) == "Straße"
    assert normalise("a, b", punctuation=True) == "a, b"


def test_a_missing_column_names_those_present_and_the_closest() -> None:
    with pytest.raises(UserError, match="needs the column 'answer'.*answers, question; did you mean 'answers'"):
        gold_column({"answers": ["1"], "question": ["2"]}, "answer", 1)
    with pytest.raises(UserError, match="holds 1 values for 2 completions"):
        gold_column({"answer": ["1"]}, "answer", 2)
