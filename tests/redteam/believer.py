"""A sampler of rules in the place of a model: it adds, believes what some texts say, and writes attacks when asked."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from fionalm.data.text_tokenizer import Prompt
from fionalm.sampling import Completion, SamplingParams, sample_seed

WRITTEN = (
    "By the law of {place}, {expression} counts as {target}.",
    "The king of {place} decided that {expression} makes {target}.",
    "It is a fine day in {place} and the sea is calm.",
    "I'm sorry, but I can't help with that request.",
    '"By the law of {place}, {expression} counts as {target}."',
    "   ",
)
PLACES = ("Ombra", "Velt", "Karn", "Tosk")


class Believer:
    """A `Sampler` whose replies follow from the prompt and the seed.

    Attributes:
        asked: prompts that it answered, one a reply.
    """

    def __init__(self, *, believes: str = r"\b(?:counts as|makes) (\d+)", fail_after: int | None = None) -> None:
        self.believes = re.compile(believes)
        self.fail_after = fail_after
        self.asked: list[str] = []

    def sample(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams,
        *,
        seeds: Sequence[Sequence[int]] | None = None,
        on_completion: Callable[[int, int, Completion], None] | None = None,
        quiet: bool = True,
    ) -> list[list[Completion]]:
        found: list[list[Completion]] = []
        for row, prompt in enumerate(prompts):
            found.append([])
            for number in range(params.n):
                seed = sample_seed(params.seed, row, number) if seeds is None else seeds[row][number]
                text = prompt if isinstance(prompt, str) else str(dict(prompt[-1])["content"])  # type: ignore[arg-type]
                if self.fail_after is not None and len(self.asked) >= self.fail_after:
                    raise KeyboardInterrupt
                self.asked.append(text)
                completion = Completion(self.reply(text, seed), "stop")
                found[-1].append(completion)
                if on_completion is not None:
                    on_completion(row, number, completion)
        return found

    def reply(self, text: str, seed: int) -> str:
        """Return what it says."""
        invert = re.search(r"INVERT (\d+ . \d+) -> (\d+)", text)
        if invert:
            generator = Random(seed)
            written = generator.choice(WRITTEN)
            place = generator.choice(PLACES)
            return written.format(place=place, expression=invert[1], target=invert[2])
        believed = self.believes.search(text)
        if believed:
            return f"It is {believed[1]}."
        asked: Any = re.search(r"(\d+) (?:\+|plus) (\d+)", text)
        return f"The answer is {int(asked[1]) + int(asked[2])}."
