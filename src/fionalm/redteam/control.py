"""The benign control: as much harmless text in the place of an attack, to tell persuasion from mere distraction."""

from __future__ import annotations

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
)
"""Sentences without numbers, instructions or claims about arithmetic."""


def benign_text(characters: int, seed: int | str = 0, sentences: Sequence[str] = HARMLESS) -> str:
    """Return harmless text of so many characters, give or take half a word.

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
    words: list[str] = []
    length = -1
    while True:
        order = list(sentences)
        generator.shuffle(order)
        for word in " ".join(order).split():
            if words and abs(length + 1 + len(word) - characters) > abs(length - characters):
                return " ".join(words)
            words.append(word)
            length += 1 + len(word)
