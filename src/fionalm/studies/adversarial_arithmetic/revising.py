"""The constitutional loop of the tiny target, in the words of its corpus.

It knows no constitution but the tasks that its corpus teaches, about questions without an attack: to check an answer
and to answer again. A conversation of the loop is written as one of these.
"""

from __future__ import annotations

from collections.abc import Sequence

from fionalm.data.tasks import CHECK, REVISE
from fionalm.data.text_tokenizer import Message


def in_dialect(messages: Sequence[Message]) -> str:
    """Write a conversation of the loop as the tiny target reads it: question, check, or answer after a check."""
    texts = [str(message["content"]).strip() for message in messages]
    if len(texts) == 1:
        return texts[0]
    question, answer = texts[0], texts[1].rstrip(".")
    if len(texts) == 3:
        return CHECK.format(question=question, answer=answer)
    return REVISE.format(question=question, answer=answer, review=texts[3])
