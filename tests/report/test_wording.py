import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fionalm.report.wording import clean, format_interval, format_number, format_seconds, format_tick


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (-0.0, "0"), (2.0, "2"), (0.1234, "0.123"), (-0.05, "-0.05"), (12.345, "12.3"),
     (99.96, "100"), (1234.5, "1,234"), (3e-5, "3e-5"), (1.25e9, "1.25e9"), (7, "7"),
     (1234567, "1,234,567"), (True, "True"),
     (None, "–"), (math.nan, "–"), (math.inf, "∞"), (-math.inf, "-∞")],
)  # fmt: skip
def test_numbers(value, text):
    assert format_number(value) == text


@given(st.floats(-1e12, 1e12, allow_nan=False))
def test_a_written_number_is_within_a_part_in_two_hundred(value):
    assert float(format_number(value).replace(",", "")) == pytest.approx(value, rel=5.1e-3, abs=1e-300)


@pytest.mark.parametrize(
    ("value", "text"),
    [(3e-4, "3e-4"), (1e-3, "1e-3"), (0.01, "0.01"), (64, "64"), (1000, "1,000"), (2e5, "200k"),
     (1.2e6, "1.2M"), (2.68e10, "26.8B"), (0, "0"), (10000.0, "10,000")],
)  # fmt: skip
def test_ticks(value, text):
    assert format_tick(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.83, "0.8 s"), (41.2, "41 s"), (59.9, "60 s"), (723, "12 min 3 s"), (7500, "2 h 5 min")],
)
def test_durations(seconds, text):
    assert format_seconds(seconds) == text


def test_an_interval_without_ends_says_so():
    assert format_interval(0.1, 0.25) == "[0.1, 0.25]"
    assert format_interval(math.nan, math.nan) == "no interval"


@given(st.text(st.characters(exclude_categories=())))
def test_clean_text_can_be_encoded_and_moves_no_cursor(text):
    shown = clean(text)
    shown.encode()
    assert not any(ord(letter) < 32 and letter not in "\t\n" for letter in shown)
    assert clean(shown) == shown


def test_clean_keeps_what_people_write():
    assert clean("naïve µP: 日本語 🙂\n\tx") == "naïve µP: 日本語 🙂\n\tx"
    assert clean("\x1b[31mred\x1b[0m \u202eabc") == "\ufffd[31mred\ufffd[0m \ufffdabc"
