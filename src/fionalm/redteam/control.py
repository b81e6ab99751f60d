"""The benign control: as much harmless text in the place of an attack, to tell persuasion from mere distraction."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from random import Random

from fionalm.errors import UserError

HARMLESS = (
    "The bus to the market leaves from the corner near the old library.",
    "It rained in the morning and the streets are still wet.",
    "My sister likes to paint boats on quiet evenings.",
    "The baker on our street makes very good rye bread.",
    "There is a small garden behind the school with apple trees.",
    "The museum keeps a collection of maps and letters.",
    "He walked along the river until the lamps were lit.",
    "A grey cat sleeps on the window sill of the kitchen.",
    "They are going to plant tulips beside the gate in autumn.",
    "The train to the coast passes through a long valley.",
    "Her favourite chair stands close to the fireplace.",
    "The children built a kite from paper and thin wood.",
    "In the harbour the fishermen mend their nets and talk.",
    "The letter came in a blue envelope without a stamp.",
    "We had soup and warm bread for dinner yesterday.",
    "The path to the lake is steep but pleasant in summer.",
    "It rains.",
    "The sun shines.",
    "The birds are singing.",
    "The lake is calm at night.",
    "A boat lies on the white sand.",
    "The garden gate is open all day.",
    "Old letters lie in a wooden drawer.",
    "The kettle is singing in the kitchen.",
)
"""Sentences without numbers, instructions or claims about arithmetic, of many lengths."""
NEAR = 8
"""Characters by which whole sentences may miss a length; farther off, the last one is cut."""


def benign_text(characters: int, seed: int | str = 0, sentences: Sequence[str] = HARMLESS) -> str:
    """Return harmless text of so many characters, give or take a few: whole sentences, if they come near.

    Args:
        characters: its length, above 0.
        seed: decides the sentences.
        sentences: to choose from, such as ones that a model with few words knows.

    Raises:
        UserError: no sentence, or no length.
    """
    if characters < 1 or not any(sentence.strip() for sentence in sentences):
        raise UserError(
            f"benign text of {characters} characters from {len(sentences)} sentences: expected some of both"
        )
    generator = Random(f"benign/{seed}")
    shortest_first = sorted(sentences, key=len)
    parts: list[str] = []
    left = characters
    while left > len(shortest_first[-1]) + 1:
        part = generator.choice(sentences)
        parts.append(part)
        left -= len(part) + 1
    if left > len(shortest_first[0]) // 2 or not parts:
        order = generator.sample(list(sentences), len(sentences))
        parts.append(min(order, key=lambda sentence: abs(len(sentence) - left)))
    text = " ".join(parts)
    if abs(len(text) - characters) <= NEAR:
        return text
    return _cut(f"{text} {generator.choice(sentences)}", characters)


def _cut(text: str, characters: int) -> str:
    """Return the words that come nearest to a length, as a sentence."""
    words = text.split()
    lengths = itertools.accumulate(len(word) + 1 for word in words)
    _, count = min((abs(length - characters), number) for number, length in enumerate(lengths, 1))
    return " ".join(words[:count]).rstrip(".,;:") + "."
