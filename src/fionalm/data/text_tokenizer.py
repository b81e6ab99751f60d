"""One face for the tokenizers that models come with: `tokenizers.Tokenizer` and those of `transformers`.

A prompt is a string, a conversation (a list of `{"role": ..., "content": ...}`) or token ids; a completion is what
follows it. Prompts get the special tokens that the tokenizer puts in front, completions get none and end with
end-of-sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fionalm.data.tokenizer import END_OF_TEXT_NAMES
from fionalm.errors import UserError

Message = Mapping[str, Any]
Prompt = str | Sequence[Message] | Sequence[int]


class TextTokenizer:
    """Text to token ids and back, whichever library `tokenizer` is of; wrapping it twice changes nothing.

    Attributes:
        tokenizer: the wrapped one.
        eos_id: the token that ends a completion.
        pad_id: fills batches; any id will do, since what is padded is masked.
    """

    def __init__(self, tokenizer: Any) -> None:
        if isinstance(tokenizer, TextTokenizer):
            tokenizer = tokenizer.tokenizer
        if tokenizer is None:
            raise UserError("the model has no tokenizer: expected a tokenizer.json beside it")
        self.tokenizer = tokenizer
        self._plain = hasattr(tokenizer, "token_to_id")  # tokenizers.Tokenizer
        self.eos_id = self._end_of_sequence()
        pad = None if self._plain else tokenizer.pad_token_id
        self.pad_id: int = self.eos_id if pad is None else pad

    @property
    def has_chat_template(self) -> bool:
        """Whether conversations can be rendered."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Return a prompt's token ids; a conversation is rendered up to where the assistant answers.

        Raises:
            UserError: a conversation, and a tokenizer without a chat template.
        """
        if isinstance(prompt, str):
            if self._plain:
                return self.tokenizer.encode(prompt).ids
            return list(self.tokenizer.encode(prompt))
        if is_conversation(prompt):
            return self._encode_plain(self.render(prompt))
        return [int(token) for token in prompt]  # pyright: ignore[reportArgumentType]

    def encode_completion(self, text: str, *, end: bool = True) -> list[int]:
        """Return a completion's token ids, with end-of-sequence unless told otherwise."""
        return self._encode_plain(text) + ([self.eos_id] if end else [])

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Return the text of token ids, with or without special tokens."""
        if self._plain:
            return self.tokenizer.decode([int(token) for token in ids], skip_special_tokens=not special)
        options = {"skip_special_tokens": not special, "clean_up_tokenization_spaces": False}
        return self.tokenizer.decode([int(token) for token in ids], **options)

    def render(self, prompt: Prompt) -> str:
        """Return a prompt as the text that the model reads.

        Raises:
            UserError: a conversation, and a tokenizer without a chat template.
        """
        if isinstance(prompt, str):
            return prompt
        if not is_conversation(prompt):
            return self.decode(prompt)  # pyright: ignore[reportArgumentType]
        if not self.has_chat_template:
            raise UserError(
                "the prompt is a conversation, and the model's tokenizer has no chat template: expected a string, "
                "or an instruction-tuned model"
            )
        messages = [dict(message) for message in prompt]  # pyright: ignore[reportArgumentType, reportCallIssue]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def _encode_plain(self, text: str) -> list[int]:
        if self._plain:
            return self.tokenizer.encode(text, add_special_tokens=False).ids
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _end_of_sequence(self) -> int:
        if not self._plain and self.tokenizer.eos_token_id is not None:
            return int(self.tokenizer.eos_token_id)
        vocabulary = self.tokenizer.get_vocab()
        for name in END_OF_TEXT_NAMES:
            if name in vocabulary:
                return int(vocabulary[name])
        raise UserError(f"the tokenizer has no end-of-text token: expected one named {', '.join(END_OF_TEXT_NAMES)}")


def is_conversation(prompt: object) -> bool:
    """Tell whether a prompt or completion is a list of messages."""
    return (
        isinstance(prompt, Sequence) and not isinstance(prompt, str) and bool(prompt) and isinstance(prompt[0], Mapping)
    )


def completion_text(completion: str | Sequence[Message]) -> str:
    """Return a completion's text: itself, or the content of its messages."""
    if isinstance(completion, str):
        return completion
    return "\n".join(str(message.get("content", "")) for message in completion)
