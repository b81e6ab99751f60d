"""Where an optimized string stands among a prompt's tokens, and which tokens it may be made of.

A string found in token space is an attack only if its text, put into the problem and tokenized as any user's text is,
gives those tokens again: every candidate is held to that, in every problem.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from fionalm.data import Prompt, TextTokenizer
from fionalm.errors import UserError

PROBES = 8
TRIES = 400
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What bytes that are no text decode to."""


class GcgTask(NamedTuple):
    """One problem that the string should make the model answer wrongly."""

    prompt: Callable[[str], Prompt]
    """What the model reads with a given string in it."""
    target: str
    """The wrong answer, as the model would write it."""


class Slot(NamedTuple):
    """A problem's tokens around the string's."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    target: tuple[int, ...]
    """The wrong answer's, with end-of-sequence."""
    lead: str
    """Text that shares the string's first token, such as the space in front of it."""
    trail: str
    """Text that shares its last."""


def allowed_tokens(tokenizer: TextTokenizer, rows: int, *, ascii_only: bool = True) -> list[int]:
    """Return the tokens that a string may be made of: printable text, no special tokens.

    Args:
        tokenizer: of the model.
        rows: of the model's embedding, which may be more than there are tokens.
        ascii_only: leave out all that a plain keyboard lacks.

    Raises:
        UserError: there is none.
    """
    size = min(rows, max(tokenizer.tokenizer.get_vocab().values()) + 1)
    found = []
    for token in range(size):
        text = tokenizer.decode([token])
        if text and text.isprintable() and REPLACEMENT not in text and (text.isascii() or not ascii_only):
            found.append(token)
    if len(found) < 2:
        raise UserError(f"{len(found)} of the vocabulary's {size} tokens are printable: expected at least 2 to choose")
    return found


def place(
    tokenizer: TextTokenizer, tasks: Sequence[GcgTask], text: str, allowed: Sequence[int]
) -> tuple[tuple[int, ...], list[Slot]]:
    """Return the string's tokens, which all problems share, and each problem's slot.

    Args:
        tokenizer: of the model.
        tasks: the problems.
        text: the string to begin with.
        allowed: tokens of which other strings are made, to see which tokens depend on the string.

    Raises:
        UserError: the string is other tokens in another problem, or leaves no trace.
    """
    ids, slots = (), []
    for number, task in enumerate(tasks, 1):
        found, slot = _place(tokenizer, task, text, allowed)
        if slots and (found, slot.lead, slot.trail) != (ids, slots[0].lead, slots[0].trail):
            raise UserError(
                f"problem {number} splits the string {text!r} into other tokens than problem 1: expected the same "
                "place between words in all"
            )
        ids = found
        slots.append(slot)
    return ids, slots


def random_text(tokenizer: TextTokenizer, task: GcgTask, length: int, allowed: Sequence[int], seed: int) -> str:
    """Return a string of `length` random tokens, as counted in the problem.

    Raises:
        UserError: none was found, as where tokens merge with all that stands beside them.
    """
    generator = random.Random(seed)
    pieces: list[str] = []
    for _ in range(TRIES + length):
        text = "".join(pieces).strip()
        try:
            count = len(_place(tokenizer, task, text, allowed)[0]) if text else 0
        except UserError:  # a piece that is not spelled as it reads
            pieces.pop()
            continue
        if count == length:
            return text
        if count < length:
            pieces.append(tokenizer.decode([generator.choice(allowed)]))
        else:
            del pieces[generator.randrange(len(pieces))]
    raise UserError(f"no string of {length} tokens was found in {TRIES} tries: expected another length, or a text")


def attack_text(tokenizer: TextTokenizer, ids: Sequence[int], slot: Slot) -> str | None:
    """Return the string that has these tokens in a slot, or None if they do not fit between its neighbours."""
    text = tokenizer.decode(ids, special=True)
    if not text.startswith(slot.lead) or not text.endswith(slot.trail):
        return None
    text = text[len(slot.lead) : len(text) - len(slot.trail)]
    return text or None


def survives(tokenizer: TextTokenizer, task: GcgTask, slot: Slot, ids: Sequence[int]) -> bool:
    """Tell whether the string's text, put into the problem, is tokenized as these tokens."""
    text = attack_text(tokenizer, ids, slot)
    if text is None or text != text.strip():  # white space at the ends would not survive a copy
        return False
    return tuple(tokenizer.encode_prompt(task.prompt(text))) == (*slot.before, *ids, *slot.after)


def _place(tokenizer: TextTokenizer, task: GcgTask, text: str, allowed: Sequence[int]) -> tuple[tuple[int, ...], Slot]:
    own = tokenizer.encode_prompt(task.prompt(text))
    first = last = len(own)
    words = (tokenizer.decode([token]).strip() for token in _spread(allowed))
    probes = (word for word in words if word and word[0] != text[0] and word[-1] != text[-1])
    for probe in itertools.islice(probes, PROBES):
        other = tokenizer.encode_prompt(task.prompt(probe))
        first = min(first, _common(own, other))
        last = min(last, _common(own[::-1], other[::-1]))
    ids = tuple(own[first : len(own) - last])
    inside = tokenizer.decode(ids, special=True)
    where = inside.find(text)
    if not ids or where < 0:
        raise UserError(
            f"the string {text!r} is not found among the prompt's tokens: expected text that they can spell"
        )
    slot = Slot(
        tuple(own[:first]),
        tuple(own[len(own) - last :]),
        tuple(tokenizer.encode_completion(task.target)),
        inside[:where],
        inside[where + len(text) :],
    )
    return ids, slot


def _spread(items: Sequence[int]) -> Iterator[int]:
    """Yield all items, the first few far from one another."""
    stride = max(1, len(items) // (2 * PROBES))
    for start in range(stride):
        yield from items[start::stride]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
