"""The constitutional loop: what each turn is asked, what is kept, and that a stopped loop goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from fionalm.data import character_tokenizer
from fionalm.errors import UserError
from fionalm.models import Decoder, DecoderConfig
from fionalm.redteam.constitution import (
    USER_LABEL,
    ConstitutionConfig,
    constitutional_answers,
    plain_dialogue,
)
from fionalm.redteam.principles import PRINCIPLES, Constitution
from fionalm.sampling import Completion, EngineSampler, SamplingParams, read_samples

QUESTIONS = [
    "What is 2 + 3?",
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1 {answer}"}],
]
CONFIG = ConstitutionConfig(constitution=Constitution(("Be right.", "Be calm.")), rounds=2)


class Rule:
    """A sampler whose answer is a function of what it reads; it dies after so many answers, if told to."""

    def __init__(self, answer: Callable[[Any], str], dies_after: int | None = None) -> None:
        self.answer, self.left = answer, dies_after
        self.asked: list[Any] = []
        self.params: list[SamplingParams] = []

    def sample(
        self,
        prompts: Sequence[Any],
        params: SamplingParams,
        *,
        seeds: Sequence[Sequence[int]] | None = None,
        on_completion: Callable[[int, int, Completion], None] | None = None,
        quiet: bool = True,
    ) -> list[list[Completion]]:
        found = []
        self.params.append(params)
        for index, prompt in enumerate(prompts):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left = None if self.left is None else self.left - 1
            self.asked.append(prompt)
            completion = Completion(self.answer(prompt), "stop")
            found.append([completion])
            if on_completion is not None:
                on_completion(index, 0, completion)
        return found


def turn(prompt: Any) -> str:
    return f"turn {len(prompt)} of {prompt[-1]['content'][:6]}"


def test_a_model_reviews_itself_in_the_same_conversation() -> None:
    rule = Rule(turn)
    first, second = constitutional_answers(rule, QUESTIONS, CONFIG)
    assert [kind for kind, _ in first.turns] == ["answer", "review", "revision", "review", "revision"]
    assert first.answers == ["turn 1 of What i", "turn 5 of Now an", "turn 5 of Now an"]
    assert first.reviews == ["turn 3 of Review"] * 2
    assert second.answers[0] == "turn 2 of 1 + 1"
    review, revision = rule.asked[2], rule.asked[4]
    assert [message["role"] for message in revision] == ["user", "assistant", "user", "assistant", "user"]
    assert review[1]["content"] == first.answers[0] and "1. Be right.\n2. Be calm." in review[2]["content"]
    assert revision[3]["content"] == first.reviews[0]
    # The second round begins with the question and the latest answer.
    assert rule.asked[6][:2] == [review[0], {"role": "assistant", "content": first.answers[1]}]
    assert [params.max_tokens for params in rule.params] == [64, 192, 64, 192, 64]


def test_another_reviewer_is_shown_question_and_answer_alone() -> None:
    model, reviewer = (
        Rule(lambda prompt: f"answer {{question}} {len(prompt)}"),
        Rule(lambda prompt: "{answer} is wrong"),
    )
    first, second = constitutional_answers(model, QUESTIONS, CONFIG, reviewer=reviewer)
    assert len(reviewer.asked) == 4 and all(len(prompt) == 1 for prompt in reviewer.asked)
    shown = reviewer.asked[0][0]["content"]
    assert "Question: What is 2 + 3?" in shown and "Answer: answer {question} 1" in shown and "2. Be calm." in shown
    assert "Question: Be brief.\n1 + 1 {answer}\n" in reviewer.asked[1][0]["content"]
    told = model.asked[2]
    assert told[:2] == [
        {"role": "user", "content": "What is 2 + 3?"},
        {"role": "assistant", "content": first.answers[0]},
    ]
    assert "{answer} is wrong" in told[2]["content"]
    assert second.reviews == ["{answer} is wrong"] * 2


def test_every_turn_is_kept_and_a_stopped_loop_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "loop.jsonl"
    columns = [{"answer": 5}, {"answer": 2}]
    whole = constitutional_answers(Rule(turn), QUESTIONS, CONFIG, columns=columns, ids=["a", "b"], out=path)
    records = read_samples(path)
    assert len(records) == 10
    assert [record.columns["turn"] for record in records if record.problem == "b"] == [
        kind for kind, _ in whole[1].turns
    ]
    assert records[1].columns["answer"] == 2 and records[1].prompt == QUESTIONS[1]
    for stop in range(10):
        cut = tmp_path / f"cut{stop}.jsonl"
        with pytest.raises(KeyboardInterrupt):
            constitutional_answers(Rule(turn, stop), QUESTIONS, CONFIG, columns=columns, ids=["a", "b"], out=cut)
        rest = Rule(turn)
        again = constitutional_answers(rest, QUESTIONS, CONFIG, columns=columns, ids=["a", "b"], out=cut)
        assert again == whole and len(rest.asked) == 10 - stop
        assert {(r.key, r.completion) for r in read_samples(cut)} == {(r.key, r.completion) for r in records}
    with pytest.raises(UserError, match="another conversation"):
        constitutional_answers(Rule(turn), ["Another?", QUESTIONS[1]], CONFIG, ids=["a", "b"], out=path)


def test_a_model_without_chat_template_reads_a_plain_dialogue() -> None:
    alphabet = "".join(
        sorted(
            set(
                plain_dialogue([{"role": "user", "content": "What is 2 + 3?"}])
                + "".join([*PRINCIPLES, Constitution().review, Constitution().revise, "0123456789"])
            )
        )
    )
    tokenizer = character_tokenizer(alphabet)
    config = DecoderConfig(vocab_size=tokenizer.get_vocab_size(), d_model=16, n_layers=1, n_heads=2, max_seq_len=2048)
    sampler = EngineSampler(Decoder(config, torch.Generator().manual_seed(0)), tokenizer)
    settings = ConstitutionConfig(max_tokens=8, review_tokens=8, temperature=1.0, stop=(USER_LABEL,))
    one = constitutional_answers(sampler, ["What is 2 + 3?"] * 2, settings, render=plain_dialogue)
    two = constitutional_answers(sampler, ["What is 2 + 3?"] * 2, settings, render=plain_dialogue)
    assert one == two and one[0].answers != one[1].answers
    with pytest.raises(UserError, match="chat template"):
        constitutional_answers(sampler, ["What is 2 + 3?"], settings)
    assert plain_dialogue([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]).endswith(
        "User: a\nAssistant: b\nAssistant:"
    )


def test_constitutions_come_from_files(tmp_path: Path) -> None:
    plain = tmp_path / "rules.txt"
    plain.write_text("# mine\nBe right.\n\n Be calm. \n")
    assert Constitution.from_file(plain).principles == ("Be right.", "Be calm.")
    whole = tmp_path / "rules.json"
    whole.write_text(json.dumps({"principles": ["Be right."], "revise": "Again."}))
    assert Constitution.from_file(whole) == Constitution(("Be right.",), revise="Again.")
    for text, message in [
        ('{"principles": ["x"], "revize": "y"}', "did you mean 'revise'"),
        ('{"principles": ["x"], "review": "y"}', "has no {principles}"),
        ('{"principles": []}', "without a principle"),
        ("[1]", "no list of principles"),
        ("{", "cannot read"),
    ]:
        whole.write_text(text)
        with pytest.raises(UserError, match=message):
            Constitution.from_file(whole)
    with pytest.raises(UserError, match="cannot read"):
        Constitution.from_file(tmp_path / "none.txt")


def test_what_makes_no_loop_is_said() -> None:
    with pytest.raises(UserError, match="rounds 0"):
        ConstitutionConfig(rounds=0)
    with pytest.raises(UserError, match="1 different ids for 2"):
        constitutional_answers(Rule(turn), QUESTIONS, ids=["a", "a"])
    with pytest.raises(UserError, match="token ids"):
        constitutional_answers(Rule(turn), [[1, 2]])
