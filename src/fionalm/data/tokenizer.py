"""Byte-level BPE: training, loading, and turning documents into token ids.

Tokenizers are `tokenizers.Tokenizer` objects, so that their tokenizer.json opens in `transformers` too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fionalm.data.config import SMALLEST_VOCABULARY
from fionalm.errors import UserError

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

END_OF_TEXT = "<|endoftext|>"
# What well-known tokenizers call the token between documents, in the order in which they are tried.
END_OF_TEXT_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]", "[SEP]")
BATCH_CHARACTERS = 1 << 20


def train_tokenizer(documents: Iterable[str], vocab_size: int, *, marks: Sequence[str] = ()) -> Tokenizer:
    """Train byte-level BPE (Sennrich et al. 2016; bytes as in GPT-2) with `<|endoftext|>` as id 0.

    The same documents give the same tokenizer. A small corpus may give fewer than `vocab_size` tokens.

    Args:
        documents: the text.
        vocab_size: largest number of tokens, special ones included.
        marks: special tokens with the ids from 1 on; each swallows the white space around it.

    Raises:
        UserError: `vocab_size` has no room for the 256 bytes and the special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    smallest = SMALLEST_VOCABULARY + len(marks)
    if vocab_size < smallest:
        raise UserError(f"vocab_size {vocab_size} is too small: expected at least {smallest}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT, *mark_tokens(marks)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def mark_tokens(marks: Sequence[str]) -> list[AddedToken]:
    """Return special tokens that swallow the white space around them."""
    from tokenizers import AddedToken

    return [AddedToken(mark, lstrip=True, rstrip=True, special=True) for mark in marks]


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Load a tokenizer.json, or the one in a folder such as `save_pretrained` of `transformers` writes.

    Raises:
        UserError: no such file, or not a tokenizer.
    """
    from tokenizers import Tokenizer

    path = Path(path).expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        there = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) if path.is_dir() else "nothing"
        raise UserError(f"no tokenizer at {path}: expected a tokenizer.json or a folder with one, found {there}")
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception for whatever it cannot parse
        raise UserError(f"{file} is not a tokenizer.json: {error}") from error


def end_of_text_id(tokenizer: Tokenizer) -> int:
    """Return the id of the token that ends a document.

    Raises:
        UserError: the tokenizer has none of the names that such a token goes by.
    """
    for name in END_OF_TEXT_NAMES:
        token_id = tokenizer.token_to_id(name)
        if token_id is not None:
            return token_id
    raise UserError(f"the tokenizer has no end-of-text token: expected one named {', '.join(END_OF_TEXT_NAMES)}")


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Return one more than the largest token id: the embedding rows that a model needs."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def encode_documents(tokenizer: Tokenizer, documents: Iterable[str]) -> Iterator[np.ndarray]:
    """Yield the token ids [n] of each document, the last of which is end-of-text.

    Text that spells a special token is encoded as ordinary text, and none is added in front. Documents go in
    batches to the library's threads; `TOKENIZERS_PARALLELISM=false` keeps it to one.
    """
    encoder: Any = type(tokenizer).from_str(tokenizer.to_str())
    encoder.no_truncation()
    encoder.no_padding()
    encoder.encode_special_tokens = True
    separator = end_of_text_id(tokenizer)
    dtype = token_dtype(tokenizer)
    for batch in _batches(documents):
        for encoding in encoder.encode_batch_fast(batch, add_special_tokens=False):
            yield np.array([*encoding.ids, separator], dtype=dtype)


def token_dtype(tokenizer: Tokenizer) -> np.dtype:
    """Return the smaller of uint16 and uint32 that holds every id."""
    return np.dtype(np.uint16 if vocabulary_size(tokenizer) <= 1 << 16 else np.uint32)


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
