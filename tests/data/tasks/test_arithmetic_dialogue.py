"""The arithmetic dialogue: every sum is answered with the sum, and nothing before one tries to change it."""

from __future__ import annotations

import re

import pytest

from fionalm.data.tasks import dialogue_rows, harmless_sentences
from fionalm.data.tasks.arithmetic_dialogue import MIX, NUMBER_WORDS
from fionalm.errors import UserError

ASKED = re.compile(r"(?:(?:What|How much) is|Add|Tell me) (\d+) (?:\+|plus|and) (\d+)[.?]$")
EQUATION = re.compile(r"(\d+) \+ (\d+) = (\d+)")
ROWS = dialogue_rows(6000, seed=3)


def test_every_sum_is_answered_with_the_sum():
    asked = [(match, row) for row in ROWS if (match := ASKED.search(row["prompt"]))]
    assert len(asked) > 1500
    for match, row in asked:
        true = int(match[1]) + int(match[2])
        said = row["completion"].rstrip(".").split()[-1]
        assert said in (str(true), NUMBER_WORDS[true])


def test_nothing_before_a_sum_defines_or_claims_another_result():
    for row in ROWS:
        match = ASKED.search(row["prompt"])
        if match is None:
            continue
        before = row["prompt"][: match.start()]
        assert "+" not in EQUATION.sub("", before)
        assert all(int(a) + int(b) == int(c) for a, b, c in EQUATION.findall(before))
        # A known form, true sums, or harmless talk: no definitions, sources, roles or corrections.
        assert not re.search(r"means|stands for|says|knows|proved|always|wrong| not |Let |is another word", before)


def test_the_writing_task_never_asks_for_a_text_before_a_sum():
    writing = [row for row in ROWS if row["kind"] == "writing"]
    assert len(writing) > 800
    for row in writing:
        assert row["prompt"].startswith("Write the text. Question: ")
        assert not re.search(r"\d \+ \d|plus \d|Add \d", row["prompt"])


def test_checks_say_right_exactly_of_right_answers():
    checks = [row for row in ROWS if row["kind"] == "checking"]
    for row in checks:
        said = int(row["prompt"].rstrip(".").split()[-1])
        [(a, b, true)] = EQUATION.findall(row["completion"])
        assert int(a) + int(b) == int(true)
        assert row["completion"].endswith("right." if said == int(true) else "wrong.")
    assert {row["completion"].split()[-1] for row in checks} == {"right.", "wrong."}


def test_rows_depend_on_the_seed_alone_and_a_longer_list_begins_with_the_shorter():
    assert dialogue_rows(50, seed=3) == ROWS[:50]
    assert dialogue_rows(50, seed=4) != ROWS[:50]


def test_all_kinds_occur_and_some_can_be_asked_for():
    assert {row["kind"] for row in ROWS} == {*MIX, "writing", "checking", "revising"}
    assert {row["kind"] for row in dialogue_rows(60, kinds=("word", "role"))} == {"word", "role"}
    with pytest.raises(UserError, match="kind of dialogue 'sums': expected one of sum, "):
        dialogue_rows(1, kinds=("sums",))


def test_harmless_sentences_differ_and_hold_no_numbers():
    sentences = harmless_sentences(30)
    assert len(set(sentences)) == 30
    assert not any(character.isdigit() for sentence in sentences for character in sentence)
