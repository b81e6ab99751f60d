from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fionalm.data.tasks import (
    COMPLETIONS,
    LETTERS,
    SPLITS,
    WORST_REWARD,
    letter_demonstrations,
    letter_prompts,
    letter_reward,
    letter_rewards,
)
from fionalm.errors import UserError

PROMPTS = [prompt for split in SPLITS for prompt in letter_prompts(split)]


def test_splits_hold_every_prompt_once() -> None:
    assert len(PROMPTS) == len(set(PROMPTS)) == 360
    assert all(len(letter_prompts(split)) > 20 for split in SPLITS)


@given(st.sampled_from(PROMPTS), st.integers(0, len(COMPLETIONS) - 1))
def test_the_table_has_the_reward_of_every_completion(prompt: str, index: int) -> None:
    assert len(COMPLETIONS) == 1296 == len(letter_rewards(prompt))
    assert letter_rewards(prompt)[index] == pytest.approx(letter_reward(prompt, COMPLETIONS[index]), abs=1e-9)


@given(st.sampled_from(PROMPTS))
def test_rewards_are_what_the_prompt_says(prompt: str) -> None:
    best, good, bad, worst = prompt[:4]
    neutral = [letter for letter in LETTERS if letter not in prompt]
    assert letter_reward(prompt, best + good + best + good) == pytest.approx(3.2) == max(letter_rewards(prompt))
    assert letter_reward(prompt, worst * 4) == pytest.approx(-5.7) == min(letter_rewards(prompt))
    assert letter_reward(prompt, neutral[0] + neutral[1] + neutral[0] + bad) == pytest.approx(-0.3)
    assert letter_reward(prompt, best + best + neutral[0] + neutral[1]) == pytest.approx(1.3)


@pytest.mark.parametrize("malformed", ["", "abc", "abcde", "abc>", "ABCD"])
def test_anything_else_is_as_bad_as_the_worst(malformed: str) -> None:
    assert letter_reward("abcd>", malformed) == pytest.approx(WORST_REWARD) == pytest.approx(-5.7)


def test_demonstrations_are_seeded_and_better_than_chance() -> None:
    rows = letter_demonstrations("corpus", 20)
    assert rows == letter_demonstrations("corpus", 20) != letter_demonstrations("corpus", 20, seed=1)
    assert {row["prompt"] for row in rows} == set(letter_prompts("corpus"))
    mean = sum(letter_reward(row["prompt"], row["completion"]) for row in rows) / len(rows)
    chance = sum(letter_rewards("abcd>")) / 1296
    assert mean > chance + 0.3


def test_mistakes() -> None:
    with pytest.raises(UserError, match="'abca>' is none of the letter preferences"):
        letter_reward("abca>", "abcd")
    with pytest.raises(UserError, match="unknown split"):
        letter_prompts("training")
