"""A tokenizer whose tokens are single characters, for small tasks whose every token should be readable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fionalm.data.tokenizer import END_OF_TEXT
from fionalm.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def character_tokenizer(alphabet: str) -> Tokenizer:
    """Return a tokenizer with `<|endoftext|>` as id 0 and the alphabet's characters, in order, from 1 on.

    Raises:
        UserError: a character occurs twice, or there is none.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    if not alphabet or len(set(alphabet)) < len(alphabet):
        raise UserError(f"alphabet {alphabet!r}: expected each character once")
    vocabulary = {END_OF_TEXT: 0, **{character: index for index, character in enumerate(alphabet, 1)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=END_OF_TEXT))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")  # type: ignore[assignment]
    tokenizer.decoder = decoders.Fuse()  # type: ignore[assignment]
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer
