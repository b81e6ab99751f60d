"""Letter preferences: a prompt says which letters are liked, and a completion of four letters has a known reward.

`dbfa>` likes d most, then b, dislikes f and most of all a; c and e are neutral. The reward of a completion is the sum
of its letters' values less 0.7 for each letter that repeats its neighbour. There are 360 prompts and 1,296 completions:
few enough to compute every expectation exactly, and every pair's true soft label is known.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise, permutations, product
from random import Random

import numpy as np

from fionalm.data.tasks.splits import SPLITS, split_of
from fionalm.errors import UserError, choice_error

LETTERS = "abcdef"
LETTER_ALPHABET = LETTERS + ">"
"""Every character of prompts and completions, for `character_tokenizer`."""
LENGTH = 4
VALUES = (1.0, 0.6, -0.3, -0.9)
"""Of the prompt's letters, in their order."""
REPEAT = -0.7
COMPLETIONS = tuple("".join(letters) for letters in product(LETTERS, repeat=LENGTH))
"""All of them, in the order of `letter_rewards`."""
WORST_REWARD = LENGTH * VALUES[-1] + (LENGTH - 1) * REPEAT
"""Lowest of all; also that of text which is no completion of the task."""


def letter_prompts(split: str) -> list[str]:
    """Return every prompt of `corpus`, `train`, `validation` or `test`; no two splits share one.

    Raises:
        UserError: an unknown split.
    """
    if split not in SPLITS:
        raise choice_error("split", split, SPLITS)
    prompts = ["".join(letters) for letters in permutations(LETTERS, len(VALUES))]
    return [f"{prompt}>" for prompt in prompts if split_of(f"letters {prompt}") == split]


def letter_reward(prompt: str, completion: str) -> float:
    """Return a completion's true reward, between -5.7 and 3.2; the lowest if it is not four of the letters.

    Raises:
        UserError: the prompt is none of the task.
    """
    values = _values(prompt)
    if len(completion) != LENGTH or not set(completion) <= set(LETTERS):
        return WORST_REWARD
    repeats = sum(left == right for left, right in pairwise(completion))
    return round(sum(values[letter] for letter in completion) + REPEAT * repeats, 9)


@lru_cache(maxsize=512)
def letter_rewards(prompt: str) -> np.ndarray:
    """Return the rewards [1296] of all completions, in the order of `COMPLETIONS`."""
    values = _values(prompt)
    letters = np.array([[LETTERS.index(letter) for letter in completion] for completion in COMPLETIONS])
    worth = np.array([values[letter] for letter in LETTERS])
    repeats = (letters[:, 1:] == letters[:, :-1]).sum(axis=1)
    return np.round(worth[letters].sum(axis=1) + REPEAT * repeats, 9)


def letter_demonstrations(split: str, per_prompt: int, *, seed: int = 0, skill: float = 0.5) -> list[dict[str, str]]:
    """Return `prompt` and `completion` of a demonstrator that draws each letter with probability exp(skill value).

    Raises:
        UserError: an unknown split.
    """
    rows = []
    for prompt in letter_prompts(split):
        values, generator = _values(prompt), Random(f"{seed}/{prompt}")
        weights = [np.exp(skill * values[letter]) for letter in LETTERS]
        for _ in range(per_prompt):
            rows.append({"prompt": prompt, "completion": "".join(generator.choices(LETTERS, weights, k=LENGTH))})
    return rows


def _values(prompt: str) -> dict[str, float]:
    liked = prompt.removesuffix(">")
    if len(liked) != len(VALUES) or len(set(liked)) < len(liked) or not set(liked) <= set(LETTERS):
        raise UserError(f"prompt {prompt!r} is none of the letter preferences: expected one such as 'dbfa>'")
    return {**dict.fromkeys(LETTERS, 0.0), **dict(zip(liked, VALUES, strict=True))}
