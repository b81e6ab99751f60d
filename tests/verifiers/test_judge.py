"""The judge: softmax over its two answers, both orders, whatever the texts hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fionalm.errors import UserError
from fionalm.verifiers.judge import Judge, check_answered, choice_logps


class Scorer:
    """Log-probabilities by a rule over the question's text: what stands at (1) and at (2)."""

    def __init__(self, place: float = 0.0) -> None:
        self.place = place
        self.seen: list[Any] = []

    def choice_logps(self, prompts: Sequence[Any], choices: Sequence[str]) -> list[list[float]]:
        assert list(choices) == ["1", "2"]  # an endpoint lists first tokens, which must differ
        self.seen += prompts
        found = []
        for prompt in prompts:
            text = prompt if isinstance(prompt, str) else prompt[0]["content"]
            first, second = text.split("Answer (1):\n")[1].split("\n\nAnswer (2):\n")
            second = second.split("\n\nWhich answer")[0]
            found.append([self.place + 0.1 * len(first), 0.1 * len(second)])
        return found


class Tokens:
    """Knows only token log-probabilities, as a local engine does."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def score(self, prompts: Sequence[Any], completions: Sequence[str]) -> list[list[float]]:
        self.seen |= set(completions)
        return [[-1.0, -float(completion.strip("()"))] for completion in completions]


def test_preference_is_the_softmax_averaged_over_both_orders() -> None:
    (found,) = Judge(Scorer(place=1.0)).judge(["q"], ["long answer"], ["short"])
    gap = 0.1 * (len("long answer") - len("short"))
    assert found.shown_first == pytest.approx(1 / (1 + math.exp(-(gap + 1))))
    assert found.shown_second == pytest.approx(1 / (1 + math.exp(-(gap - 1))))
    assert found.preference == pytest.approx((found.shown_first + found.shown_second) / 2)
    assert not found.consistent  # the place decided


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), min_size=1, max_size=5), st.floats(-900, 900))
def test_swapping_the_pair_gives_the_other_probability(pairs: list[tuple[str, str]], place: float) -> None:
    judge = Judge(Scorer(place))
    firsts, seconds = [f"x{a}x" for a, _ in pairs], [f"x{b}x" for _, b in pairs]
    forward = judge.preferences(["q"] * len(pairs), firsts, seconds)
    backward = judge.preferences(["q"] * len(pairs), seconds, firsts)
    assert forward == pytest.approx([1 - p for p in backward])
    assert all(0 <= p <= 1 for p in forward)


def test_a_judge_that_likes_a_place_gives_a_half() -> None:
    assert Judge(Scorer(place=1e6)).preferences(["q"], ["abc"], ["abcdef"]) == [0.5]
    assert Judge(Tokens()).preferences(["q"], ["abc"], ["abcdef"]) == [0.5]


class Silent:
    """An endpoint whose answers begin with neither choice, or with one of them alone."""

    def __init__(self, *logps: float) -> None:
        self.logps = logps

    def choice_logps(self, prompts: Sequence[Any], choices: Sequence[str]) -> list[list[float]]:
        return [list(self.logps) for _ in prompts]


def test_what_an_endpoint_does_not_list_is_counted() -> None:
    (found,) = Judge(Silent(-math.inf, -math.inf)).judge(["q"], ["a"], ["b"])
    assert found.preference == 0.5 and found.unanswered == 2
    with pytest.raises(UserError, match="named neither answer of any pair"):
        check_answered([found])
    (found,) = Judge(Silent(-math.inf, -1.0)).judge(["q"], ["a"], ["b"])
    assert (found.shown_first, found.shown_second, found.unanswered) == (0.0, 1.0, 0)
    check_answered([found])


def test_token_log_probabilities_are_summed() -> None:
    assert choice_logps(Tokens(), ["a", "b"], ["(1)", "(2)"]) == [[-2.0, -3.0]] * 2


def test_questions_show_texts_as_they_are() -> None:
    judge = Judge(Scorer(), criterion="the {shorter} one")
    conversation = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "{first}?"}]
    (message,) = judge.question(conversation, [{"role": "assistant", "content": "a {second} b"}], "{prompt}")
    text = message["content"]  # pyright: ignore[reportArgumentType, reportCallIssue, reportIndexIssue]
    assert "system: Be brief.\n\nuser: {first}?" in text
    assert "Answer (1):\na {second} b\n\nAnswer (2):\n{prompt}\n" in text and "the {shorter} one" in text
    plain = Judge(Scorer(), chat=False).question("q", "a", "b")
    assert isinstance(plain, str) and plain.endswith("The better answer is (")
    assert "Reply with 1 or 2 only." in text


@pytest.mark.parametrize(("chat", "choices"), [(True, {"(1)", "(2)"}), (False, {"1)", "2)"})])
def test_a_local_model_is_scored_on_what_may_follow(chat: bool, choices: set[str]) -> None:
    sampler = Tokens()
    judge = Judge(sampler, chat=chat)
    assert "Reply with (1) or (2) only." in str(judge.question("q", "a", "b"))
    assert judge.preferences(["q"], ["a"], ["b"]) == [0.5]
    assert sampler.seen == choices


def test_mistakes_get_one_sentence() -> None:
    with pytest.raises(UserError, match="gives no log-probabilities"):
        Judge(object())  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="has no {second}"):
        Judge(Tokens(), template="{prompt} {first}")
    with pytest.raises(UserError, match="2 prompts, 1 first"):
        Judge(Tokens()).preferences(["a", "b"], ["c"], ["d"])
    with pytest.raises(UserError, match="not token ids"):
        Judge(Tokens()).preferences([[1, 2]], ["c"], ["d"])
