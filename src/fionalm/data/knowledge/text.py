"""A triple as text and as tokens: `<S_TKN> subject <P_TKN> predicate <O_TKN> object`, then end-of-text.

The format is that of Hron et al. 2024 (arXiv 2408.07852, section 2). The marks are single tokens that swallow the
spaces around them, so a name has the same tokens wherever it stands, and a prompt's tokens are the start of its
triple's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fionalm.data.characters import character_tokenizer
from fionalm.data.knowledge.graph import MARKS, KnowledgeGraph, Pair, Triple
from fionalm.data.tokenizer import end_of_text_id, train_tokenizer
from fionalm.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def triple_text(triple: Triple) -> str:
    """Return a triple's text."""
    subject, predicate, an_object = triple
    return f"{pair_text((subject, predicate))} {an_object}"


def pair_text(pair: Pair) -> str:
    """Return the prompt that asks for an object of a pair."""
    s, p, o = MARKS
    return f"{s} {pair[0]} {p} {pair[1]} {o}"


def parse_triple(text: str) -> Triple | None:
    """Return the triple that `text` spells, or None if it spells none: marks missing, repeated, or in another order."""
    s, p, o = MARKS
    before, mark, rest = text.partition(s)
    subject, has_predicate, rest = rest.partition(p)
    predicate, has_object, an_object = rest.partition(o)
    names = subject.strip(), predicate.strip(), an_object.strip()
    whole = mark and has_predicate and has_object and not before.strip() and all(names)
    return None if not whole or any(m in name for m in MARKS for name in names) else names


class TripleTokenizer:
    """Tokens of triples, whichever tokenizer writes the names.

    Args:
        tokenizer: has the marks and end-of-text as tokens.

    Raises:
        UserError: it has not.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        marks = [tokenizer.token_to_id(mark) for mark in MARKS]
        if None in marks:
            raise UserError(
                f"the tokenizer has no {', '.join(m for m, known in zip(MARKS, marks, strict=True) if known is None)}: "
                "expected one that was made for triples, as fiona kg train leaves in its model's folder"
            )
        self.tokenizer = tokenizer
        self.subject_id, self.predicate_id, self.object_id = (int(mark) for mark in marks if mark is not None)
        self.end_id = end_of_text_id(tokenizer)
        # Names that spell a special token are ordinary text.
        self._encoder: Any = type(tokenizer).from_str(tokenizer.to_str())
        self._encoder.encode_special_tokens = True
        self._encoder.no_truncation()
        self._encoder.no_padding()

    def encode_names(self, names: Iterable[str]) -> dict[str, list[int]]:
        """Return the token ids of each name, without marks."""
        unique = list(dict.fromkeys(names))
        encoded = self._encoder.encode_batch_fast(unique, add_special_tokens=False)
        return {name: encoding.ids for name, encoding in zip(unique, encoded, strict=True)}

    def encode_triples(self, triples: Sequence[Triple]) -> list[list[int]]:
        """Return the token ids of whole triples, each with end-of-text."""
        ids = self.encode_names(name for triple in triples for name in triple)
        s, p, o, end = self.subject_id, self.predicate_id, self.object_id, self.end_id
        return [
            [s, *ids[subject], p, *ids[predicate], o, *ids[an_object], end] for subject, predicate, an_object in triples
        ]

    def encode_pairs(self, pairs: Sequence[Pair]) -> list[list[int]]:
        """Return the token ids of prompts, each ending where the object begins."""
        ids = self.encode_names(name for pair in pairs for name in pair)
        s, p, o = self.subject_id, self.predicate_id, self.object_id
        return [[s, *ids[subject], p, *ids[predicate], o] for subject, predicate in pairs]


def bpe_for_triples(graph: KnowledgeGraph, vocab_size: int) -> Tokenizer:
    """Train byte-level BPE on the names of a graph's triples, each counted as often as it occurs."""
    names = (name for triple in graph for name in triple)
    return train_tokenizer(names, vocab_size, marks=MARKS)


def characters_for_triples(graph: KnowledgeGraph) -> Tokenizer:
    """Return a tokenizer of the characters that the graph's names use, in code point order."""
    alphabet = sorted({character for name in (*graph.entities, *graph.predicates) for character in name})
    return character_tokenizer("".join(alphabet), marks=MARKS)


def pad(rows: Sequence[Sequence[int]], fill: int) -> np.ndarray:
    """Return rows of token ids as one array [rows, longest], int64, with `fill` after each."""
    longest = max(map(len, rows))
    return np.array([[*row, *[fill] * (longest - len(row))] for row in rows], dtype=np.int64)
