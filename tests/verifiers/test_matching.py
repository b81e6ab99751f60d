"""Numbers and exact matches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fionalm.errors import UserError
from fionalm.verifiers import ExactVerifier, NumberVerifier, count_outcomes


def test_all_gsm8k_gold_answers_verify_against_themselves_and_wrong_ones_do_not(real_rows) -> None:
    golds = [row["answer"] for row in real_rows("gsm8k/test.jsonl")]
    numbers = [gold.split("####")[1].strip() for gold in golds]
    empty = [""] * len(golds)
    with NumberVerifier() as verifier:
        for given_ in (golds, numbers, [f"Well, 7 of 9.\nThe answer is ${number}." for number in numbers]):
            verdicts = verifier(empty, given_, answer=golds)
            assert count_outcomes(verdicts) == {"right": 1319}
            assert [verdict.answer for verdict in verdicts] == verifier.check({"answer": golds})
        wrong = [f"The answer is {int(number.replace(',', '')) + 1}." for number in numbers]
        assert count_outcomes(verifier(empty, wrong, answer=golds)) == {"wrong": 1319}
        assert count_outcomes(verifier(empty, ["I cannot say."] * 1319, answer=golds)) == {"no_answer": 1319}


def test_numbers_vote_in_one_form_and_within_a_tolerance() -> None:
    verdicts = NumberVerifier()([""] * 3, ["1,000", "1000.0", "1e3"], answer=["1"] * 3)
    assert [verdict.answer for verdict in verdicts] == ["1000"] * 3
    close = NumberVerifier(tolerance=0.01)([""] * 3, ["3.14", "22/7", "3.2"], answer=["3.1416"] * 3)
    assert [verdict.outcome for verdict in close] == ["right", "right", "wrong"]
    with pytest.raises(UserError, match="tolerance"):
        NumberVerifier(tolerance=-1)


def test_a_gold_answer_without_a_number_is_named() -> None:
    with pytest.raises(UserError, match="answer number 2 holds no number: 'many'"):
        NumberVerifier()(["", ""], ["1", "2"], answer=["1", "many"])
    with pytest.raises(UserError, match="answer number 2 holds no number"):
        NumberVerifier().check({"answer": ["1", "many"]})


def test_exact_match_is_normalised() -> None:
    verifier = ExactVerifier()
    verdicts = verifier([""] * 4, [" the  Answer!", "The answer", "another", "  "], answer=["the answer."] * 4)
    assert [verdict.outcome for verdict in verdicts] == ["right", "right", "wrong", "no_answer"]
    assert verdicts[0].answer == verdicts[1].answer == verifier.check({"answer": ["the answer."]})[0]
    strict = ExactVerifier(case=True, punctuation=True)
    assert [v.outcome for v in strict([""] * 2, ["Yes.", "Yes"], answer=["Yes"] * 2)] == ["wrong", "right"]


def test_signs_and_symbols_count() -> None:
    pairs = [("-3", "3"), ("3%", "3"), ("+", "-"), ("!", "?")]
    outcomes = [ExactVerifier()([""], [one], answer=[other])[0].outcome for one, other in pairs]
    assert outcomes == ["wrong"] * 4


def test_alternatives_and_regex() -> None:
    verifier = ExactVerifier(regex=r"[Aa]nswer: (\w+)")
    completions = ["answer: B. No, answer: C", "answer: yes", "none"]
    verdicts = verifier([""] * 3, completions, answer=[["a", "C"], "No", "a"])
    assert [(verdict.outcome, verdict.answer) for verdict in verdicts] == [
        ("right", "a"),
        ("wrong", "yes"),
        ("no_answer", None),
    ]
    with pytest.raises(UserError, match="no regular expression"):
        ExactVerifier(regex="(")


@pytest.mark.parametrize("gold", ["", "  ", [], ["a", ""]])
def test_an_empty_gold_answer_is_named(gold: object) -> None:
    with pytest.raises(UserError, match="answer number 1 is empty"):
        ExactVerifier()([""], ["a"], answer=[gold])


@given(st.text().filter(lambda text: text.strip()))
def test_any_text_equals_itself(text: str) -> None:
    verifier = ExactVerifier()
    try:
        verifier.check({"answer": [text]})
    except UserError:  # nothing is left of it, such as of a control character
        return
    assert (
        verifier([""], [text.upper().lower().upper() if text.isascii() else text], answer=[text])[0].outcome == "right"
    )
