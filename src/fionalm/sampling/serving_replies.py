"""Answers in OpenAI's form: whole completions and chunks of them, with log-probabilities and usage."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from fionalm.data.text_tokenizer import TextTokenizer
from fionalm.sampling.serving_loop import Draw, ServingLoop, Step
from fionalm.sampling.serving_requests import Request
from fionalm.sampling.stops import UNFINISHED


class Reply:
    """Builds the answer to one request.

    Args:
        request: what was asked.
        draws: its completions, [prompts][n].
        loop: that draws them.
        model: the served name.
        echoed: with `echo`, the log-probabilities of each prompt's tokens; None for the first of them.
    """

    def __init__(
        self,
        request: Request,
        draws: Sequence[Sequence[Draw]],
        loop: ServingLoop,
        model: str,
        echoed: Sequence[Sequence[float | None]] = (),
    ) -> None:
        self.request, self.loop, self.echoed = request, loop, echoed
        self.draws = [draw for row in draws for draw in row]
        self._pieces = Pieces(loop.tokenizer)
        kind = "chat.completion" if request.chat else "text_completion"
        prefix = "chatcmpl" if request.chat else "cmpl"
        self._head = {"id": f"{prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._kind, self._chunk_kind = kind, "chat.completion.chunk" if request.chat else kind

    def whole(self) -> dict[str, Any]:
        """Return the answer once all is drawn."""
        width = len(self.request.seeds[0])
        count = len(self.request.prompts) * width
        choices = [self._choice(index, index // width) for index in range(count)]
        return {**self._head, "object": self._kind, "choices": choices, "usage": self.usage()}

    def chunk(self, choices: list[dict[str, Any]], *, usage: bool = False) -> dict[str, Any]:
        """Return one event of a stream; `usage` is the last one's."""
        body = {**self._head, "object": self._chunk_kind, "choices": choices}
        if self.request.include_usage:
            body["usage"] = self.usage() if usage else None
        return body

    def usage(self) -> dict[str, int]:
        """Return the tokens: each prompt's once, and all that were drawn."""
        prompt = sum(map(len, self.request.prompts))
        drawn = sum(len(draw.steps) for draw in self.draws)
        return {"prompt_tokens": prompt, "completion_tokens": drawn, "total_tokens": prompt + drawn}

    def delta(self, index: int, text: str, start: int, end: int, offset: int, *, first: bool) -> dict[str, Any]:
        """Return a stream's news of one completion.

        Args:
            index: which completion.
            text: what is new of its text.
            start: of its tokens, the first that is new.
            end: the first that is not yet told.
            offset: characters of the text before.
            first: nothing was told of it before.
        """
        draw = self.draws[index]
        finish = draw.finish if end == len(draw.steps) else None
        choice: dict[str, Any] = {"index": index, "finish_reason": finish}
        choice["logprobs"] = self._logprobs(draw, start, end, offset) if self.request.logprobs else None
        if self.request.token_ids:
            choice["token_ids"] = [step.token for step in draw.steps[start:end]]
        if self.request.chat:
            return choice | {"delta": {"role": "assistant", "content": text} if first else {"content": text}}
        return choice | {"text": text}

    def _choice(self, index: int, prompt: int) -> dict[str, Any]:
        text, draw = "", self.draws[index] if self.draws else None
        choice: dict[str, Any] = {"index": index, "finish_reason": draw.finish if draw else "length", "logprobs": None}
        if draw is not None:
            text = self.loop.text(draw)[0]
            if self.request.logprobs:
                choice["logprobs"] = self._logprobs(draw, 0, len(draw.steps), 0)
            if self.request.token_ids:
                choice["token_ids"] = [step.token for step in draw.steps]
        if self.request.echo:
            ids = self.request.prompts[prompt]
            pieces = self._pieces.of(ids)
            text = self.loop.tokenizer.decode(ids) + text
            if self.request.logprobs:
                choice["logprobs"] = _joined(pieces, self.echoed[prompt], choice["logprobs"])
        if self.request.chat:
            return choice | {"message": {"role": "assistant", "content": text, "refusal": None}}
        return choice | {"text": text}

    def _logprobs(self, draw: Draw, start: int, end: int, offset: int) -> dict[str, Any]:
        steps, pieces = draw.steps[start:end], self._pieces
        before = draw.steps[start - 1].token if start else draw.prompt_ids[-1]
        previous = [before, *(step.token for step in steps[:-1])]
        names = [pieces.piece(last, step.token) for last, step in zip(previous, steps, strict=True)]
        if self.request.chat:
            return {"content": [self._token(*one) for one in zip(previous, names, steps, strict=True)], "refusal": None}
        offsets = [offset + sum(map(len, names[:place])) for place in range(len(names))]
        # Tokens that are halves of a character have one name: the most likely keeps it.
        tops = [
            {pieces.piece(last, token): logp for token, logp in ((step.token, step.logp), *reversed(step.top))}
            for last, step in zip(previous, steps, strict=True)
        ]
        return {
            "tokens": names,
            "token_logprobs": [step.logp for step in steps],
            "top_logprobs": tops if self.request.top else None,
            "text_offset": offsets,
        }

    def _token(self, previous: int, name: str, step: Step) -> dict[str, Any]:
        top = [_named(self._pieces.piece(previous, token), logp) for token, logp in step.top]
        return _named(name, step.logp) | {"top_logprobs": top}


class Pieces:
    """Tokens as text: a token's is what it adds to the one before, and special tokens have their names."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.tokenizer = tokenizer

    def piece(self, previous: int, token: int) -> str:
        """Return the text that `token` adds after `previous`."""
        before = self.tokenizer.decode([previous])
        both = self.tokenizer.decode([previous, token])
        added = both[len(before) :] if both.startswith(before) else self.tokenizer.decode([token])
        return added or self._name(token)

    def of(self, ids: Sequence[int]) -> list[str]:
        """Return the pieces of a text's tokens."""
        first = [self.tokenizer.decode(ids[:1]) or self._name(ids[0])]
        return first + [self.piece(last, token) for last, token in pairwise(ids)]

    def _name(self, token: int) -> str:
        tokenizer = self.tokenizer.tokenizer
        name = getattr(tokenizer, "id_to_token", None) or tokenizer.convert_ids_to_tokens
        return str(name(token) or "")


def ready_text(text: str, stop: Sequence[str]) -> str:
    """Return what of a growing text may be told: no unfinished character, nothing that may begin a stop string."""
    while text.endswith(UNFINISHED):
        text = text[:-1]
    held = max((size for one in stop for size in range(1, len(one)) if text.endswith(one[:size])), default=0)
    return text[: len(text) - held]


def _named(piece: str, logp: float) -> dict[str, Any]:
    return {"token": piece, "logprob": logp, "bytes": None if UNFINISHED in piece else list(piece.encode())}


def _joined(pieces: Sequence[str], logps: Sequence[float | None], drawn: dict[str, Any] | None) -> dict[str, Any]:
    """Put a prompt's tokens, of which only their own log-probability is known, before the drawn ones'."""
    length = sum(map(len, pieces))
    later = drawn or {"tokens": [], "token_logprobs": [], "text_offset": [], "top_logprobs": None}
    tops = later["top_logprobs"]
    own = [None if logp is None else {piece: logp} for piece, logp in zip(pieces, logps, strict=True)]
    return {
        "tokens": [*pieces, *later["tokens"]],
        "token_logprobs": [*logps, *later["token_logprobs"]],
        "text_offset": [
            *(sum(map(len, pieces[:place])) for place in range(len(pieces))),
            *(length + offset for offset in later["text_offset"]),
        ],
        "top_logprobs": None if tops is None and drawn is not None else [*own, *(tops or [])],
    }
