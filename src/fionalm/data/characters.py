"""A tokenizer whose tokens are single characters, for small tasks whose every token should be readable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fionalm.data.tokenizer import END_OF_TEXT, mark_tokens
from fionalm.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def character_tokenizer(alphabet: str, *, marks: Sequence[str] = ()) -> Tokenizer:
    """Return a tokenizer with `<|endoftext|>` as id 0, then `marks`, then the alphabet's characters, in order.

    Marks are special tokens that swallow the white space around them.

    Raises:
        UserError: a character occurs twice, or there is none.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    if not alphabet or len(set(alphabet)) < len(alphabet):
        raise UserError(f"alphabet {alphabet!r}: expected each character once")
    vocabulary = {token: index for index, token in enumerate((END_OF_TEXT, *marks, *alphabet))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=END_OF_TEXT))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")  # type: ignore[assignment]
    tokenizer.decoder = decoders.Fuse()  # type: ignore[assignment]
    tokenizer.add_special_tokens([END_OF_TEXT, *mark_tokens(marks)])
    return tokenizer
