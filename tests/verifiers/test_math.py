"""Math answers: real gold answers, equal and unequal forms, deadlines, errors."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fionalm.errors import UserError
from fionalm.verifiers import MathVerifier, VerifierError, math_equal, reward_function


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    with MathVerifier(timeout=20.0) as opened:
        yield opened


def test_all_gsm8k_gold_answers_verify_against_themselves_and_wrong_ones_do_not(verifier, real_rows) -> None:
    golds = [row["answer"] for row in real_rows("gsm8k/test.jsonl")]
    assert len(golds) == 1319
    verdicts = verifier([""] * len(golds), golds, answer=golds)
    assert {verdict.outcome for verdict in verdicts} == {"right"}
    wrong = [f"Somehow.\n#### {int(gold.split('####')[1].replace(',', '')) + 1}" for gold in golds]
    verdicts = verifier([""] * len(golds), wrong, answer=golds)
    assert {verdict.outcome for verdict in verdicts} == {"wrong"}


def test_all_math_500_gold_answers_verify_against_themselves_and_wrong_ones_do_not(verifier, real_rows) -> None:
    rows = real_rows("math500/test.jsonl")
    golds = [row["answer"] for row in rows]
    assert len(golds) == 500
    for given in (golds, [row["solution"] for row in rows]):
        verdicts = verifier([""] * 500, given, answer=golds)
        assert {verdict.outcome for verdict in verdicts} == {"right"}
        assert all(verdict.answer for verdict in verdicts)
    for wrong in (r"\frac{999983}{7}", r"\text{no such thing}", "x^{11} - 2y"):
        verdicts = verifier([""] * 500, [rf"So it is $\boxed{{{wrong}}}$."] * 500, answer=golds)
        assert {verdict.outcome for verdict in verdicts} == {"wrong"}


@pytest.mark.parametrize(
    ("prediction", "gold", "outcome"),
    [
        (r"\frac12", "0.5", "right"),
        ("x = 5", "5", "right"),
        ("50%", "0.5", "right"),
        (r"\sqrt{2}", "2^{1/2}", "right"),
        ("(1, 2)", "(1,2)", "right"),
        (r"The final answer is \boxed{\frac{\pi}{2}}.", r"\pi/2", "right"),
        ("Evelyn", r"\text{Evelyn}", "right"),
        ("#### 1,234", "1234", "right"),
        ("1,234", "1234.0", "right"),
        ("0.333333", r"\frac{1}{3}", "right"),
        ("1/0", "1", "wrong"),
        ("2.0001", "2", "wrong"),
        (r"\frac{1", "1", "wrong"),
        (r"\text{Navin}", r"\text{Evelyn}", "wrong"),
        ("I don't know it", "3", "no_answer"),
        ("", "3", "no_answer"),
        ("####", "3", "no_answer"),
    ],
)
def test_forms(verifier, prediction: str, gold: str, outcome: str) -> None:
    verdict = verifier([""], [prediction], answer=[gold])[0]
    assert verdict.outcome == outcome
    assert verdict.reward == (1.0 if outcome == "right" else 0.0)


def test_equal_answers_vote_together(verifier) -> None:
    forms = ["0.25", r"\frac14", r"The answer is $\frac{1}{4}$.", r"\boxed{1/4}", "x=0.25"]
    answers = {verdict.answer for verdict in verifier([""] * 5, forms, answer=["7"] * 5)}
    assert answers == {"1/4"}
    right = verifier([""] * 5, forms, answer=[r"\tfrac{25}{100}"] * 5)
    assert {verdict.answer for verdict in right} == {"1/4"} == set(verifier.check({"answer": [r"\tfrac{25}{100}"]}))


def test_conversations_are_read(verifier) -> None:
    assert verifier([""], [[{"role": "assistant", "content": "It is $4$."}]], answer=["4"])[0].reward == 1.0


@pytest.mark.parametrize("gold", ["", "   ", "It is not known at all"])
def test_a_gold_answer_that_cannot_be_parsed_is_named(verifier, gold: str) -> None:
    with pytest.raises(UserError, match="answer number 2 cannot be parsed"):
        verifier(["", ""], ["1", "1"], answer=["1", gold])
    with pytest.raises(UserError, match="answer number 2 cannot be parsed"):
        verifier.check({"answer": ["1", gold]})


def test_a_comparison_over_the_deadline_is_a_timeout_and_costs_no_other() -> None:
    with MathVerifier(timeout=1.0, workers=1) as verifier:
        verifier([""], ["1"], answer=["1"])
        started = time.monotonic()
        outcomes = verifier([""] * 3, ["1", "9^{9^{9^{9}}}", "3"], answer=["1", "2", "3"])
        assert [verdict.outcome for verdict in outcomes] == ["right", "timeout", "right"]
        assert outcomes[1].reward is None
        assert time.monotonic() - started < 60
        assert reward_function(verifier)([""], ["9^{9^{9^{9}}}"], answer=["2"]) == [None]


def test_a_comparison_that_dies_is_an_error() -> None:
    with MathVerifier(timeout=30.0, workers=1) as verifier:
        verifier([""], ["1"], answer=["1"])
        worker = verifier._pool._all[0].process
        os.kill(worker.pid, signal.SIGKILL)
        assert [verdict.outcome for verdict in verifier([""] * 2, ["1"] * 2, answer=["1"] * 2)] == ["right"] * 2


def test_no_alarm_is_used(verifier) -> None:
    verifier([""], ["1/2 + x"], answer=["x + 0.5"])
    for worker in verifier._pool._all:
        status = Path(f"/proc/{worker.process.pid}/status").read_text()
        caught = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), 16)
        assert not caught >> (signal.SIGALRM - 1) & 1


def test_math_equal() -> None:
    assert math_equal(r"\frac{1}{2}", "0.5")
    assert not math_equal("0.51", "0.5")
    with pytest.raises(UserError, match="cannot be parsed"):
        math_equal("1", "")
    assert issubclass(VerifierError, RuntimeError)
