"""Which split a generated problem belongs to: decided by what the problem asks, never by a seed.

Two rows whose problems have the same key are in the same split, in every run and on every machine, so a problem of the
test split cannot reach training by another seed, another wording or another name in the story.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from random import Random
from typing import Literal, TypeVar

from fionalm.errors import UserError, choice_error

Split = Literal["corpus", "train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("corpus", "train", "validation", "test")
_SHARES = {"corpus": 50, "train": 20, "validation": 10, "test": 20}
"""Percent of all keys: `corpus` is what a base model is trained on, `train` what a method trains on."""

Problem = TypeVar("Problem")


def split_of(key: str) -> Split:
    """Return the split of the problem with this key."""
    point = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") % 100
    for split in SPLITS:
        point -= _SHARES[split]
        if point < 0:
            return split
    raise AssertionError("the shares sum to 100")


def distinct_problems(
    draw: Callable[[Random], Problem], key: Callable[[Problem], str], split: str, count: int, seed: int
) -> Iterator[tuple[Problem, Random]]:
    """Yield `count` problems of a split, no key twice, each with the generator that its wording is drawn from.

    The first rows of a longer list are the rows of a shorter one.

    Raises:
        UserError: an unknown split, or more problems than it has.
    """
    if split not in SPLITS:
        raise choice_error("split", split, SPLITS)
    generator = Random(f"{split}/{seed}")
    seen: set[str] = set()
    misses = 0
    while len(seen) < count:
        problem = draw(generator)
        name = key(problem)
        if name in seen or split_of(name) != split:
            misses += 1
            if misses > 2000:
                raise UserError(f"{count} problems of the split {split!r}: expected at most about {len(seen)}")
            continue
        misses = 0
        seen.add(name)
        yield problem, Random(f"{seed}/{name}")
