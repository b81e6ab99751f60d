"""Requests in OpenAI's form: read, checked, and turned into what the engine takes."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fionalm.data.text_tokenizer import TextTokenizer
from fionalm.errors import UserError
from fionalm.sampling.types import SamplingParams, sample_seed

MOST_LISTED = 20
DEFAULT_TOKENS = 16
"""Of /v1/completions, as OpenAI's has it; a chat goes on to the context's end."""
UNSUPPORTED = {
    "tools": None,
    "functions": None,
    "audio": None,
    "suffix": None,
    "logit_bias": {},
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repetition_penalty": 1,
}
"""Fields that would change the answer, with the value that does not."""


class ApiError(Exception):
    """A request that is refused, in OpenAI's form."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(status, "invalid_request_error")
        self.body = {
            "error": {
                "message": message,
                "type": "server_error" if status >= 500 else kind,
                "param": param,
                "code": code,
            }
        }


@dataclass(frozen=True)
class Request:
    """A checked request."""

    chat: bool
    prompts: list[list[int]]
    """Token ids of each prompt; a chat has one."""
    params: SamplingParams
    seeds: list[list[int]]
    """[prompts][n]"""
    logprobs: bool
    top: int
    """Most likely tokens to list."""
    echo: bool
    stream: bool
    include_usage: bool
    token_ids: bool
    """Give token ids beside the text (vLLM's `return_token_ids`)."""
    draw: bool
    """False: only the echo was asked for."""


def read_request(
    body: Mapping[str, Any], tokenizer: TextTokenizer, *, chat: bool, context: int | None, vocabulary: int
) -> Request:
    """Check a request's body.

    Args:
        body: the JSON object.
        tokenizer: the model's.
        chat: of /v1/chat/completions, else of /v1/completions.
        context: longest prompt and completion together, or None.
        vocabulary: number of tokens that the model knows.

    Raises:
        ApiError: a field that is missing, of the wrong type, or not supported.
    """
    fields = {name: value for name, value in body.items() if value is not None}
    for name, neutral in UNSUPPORTED.items():
        if name in fields and fields[name] != neutral and fields[name] != []:
            raise ApiError(f"{name} is not supported here", param=name, code="unsupported_parameter")
    if (fields.get("response_format") or {"type": "text"}) != {"type": "text"}:
        raise ApiError("response_format: only text is supported here", param="response_format")
    n = _whole(fields, "n", 1)
    if _whole(fields, "best_of", n) != n:
        raise ApiError("best_of is not supported here: expected n completions to choose from", param="best_of")
    if chat:
        prompts = [_read_messages(fields, tokenizer)]
        top, logprobs = _whole(fields, "top_logprobs", 0), _flag(fields, "logprobs")
        if top and not logprobs:
            raise ApiError("top_logprobs needs logprobs: true", param="top_logprobs")
    else:
        prompts = _read_prompts(fields, tokenizer, vocabulary)
        top, logprobs = _whole(fields, "logprobs", 0), "logprobs" in fields
    if top > MOST_LISTED:
        raise ApiError(
            f"{top} most likely tokens: expected at most {MOST_LISTED}", param="top_logprobs" if chat else "logprobs"
        )
    echo = _flag(fields, "echo") and not chat
    limit = _limit(fields, prompts, chat, context)
    seed = _whole(fields, "seed", None)
    seeds = []
    for row in range(len(prompts)):
        first = secrets.randbits(63) if seed is None else seed if row == 0 else sample_seed(seed, row, 0)
        seeds.append([first, *(sample_seed(first, "choice", index) for index in range(1, n))])
    options = fields.get("stream_options") or {}
    params = _params(fields, n, max(limit, 1))
    return Request(
        chat,
        prompts,
        params,
        seeds,
        logprobs,
        top,
        echo,
        _flag(fields, "stream"),
        isinstance(options, Mapping) and bool(options.get("include_usage")),
        _flag(fields, "return_token_ids"),
        draw=limit > 0,
    )


def _params(fields: Mapping[str, Any], n: int, limit: int) -> SamplingParams:
    stop = fields.get("stop", [])
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(one, str) for one in stop):
        raise ApiError("stop: expected a string or a list of strings", param="stop")
    ids = fields.get("stop_token_ids", [])
    if not isinstance(ids, list) or not all(isinstance(one, int) for one in ids):
        raise ApiError("stop_token_ids: expected a list of whole numbers", param="stop_token_ids")
    top_k = _whole(fields, "top_k", 0)
    try:
        return SamplingParams(
            n=n,
            max_tokens=limit,
            temperature=_number(fields, "temperature", 1.0),
            top_k=0 if top_k == -1 else top_k,
            top_p=_number(fields, "top_p", 1.0),
            min_p=_number(fields, "min_p", 0.0),
            stop=tuple(stop),
            stop_token_ids=tuple(ids),
        )
    except UserError as error:
        raise ApiError(str(error)) from error


def _limit(fields: Mapping[str, Any], prompts: list[list[int]], chat: bool, context: int | None) -> int:
    name = "max_completion_tokens" if "max_completion_tokens" in fields else "max_tokens"
    longest = max(map(len, prompts))
    left = max((context or longest + 4096) - longest, 1)
    limit = _whole(fields, name, left if chat else DEFAULT_TOKENS)
    # An echo alone, which scores the prompt, draws nothing.
    least = 0 if not chat and fields.get("echo") else 1
    if limit < least:
        raise ApiError(f"{name} {limit}: expected at least {least}", param=name)
    return limit


def _read_messages(fields: Mapping[str, Any], tokenizer: TextTokenizer) -> list[int]:
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError("messages: expected a list of at least one message", param="messages")
    read = []
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ApiError(f"messages[{index}]: expected an object with role and content", param="messages")
        read.append({**message, "content": _content(message.get("content"), index)})
    try:
        return tokenizer.encode_prompt(read)
    except UserError as error:
        raise ApiError(f"{error}; use /v1/completions", param="messages") from error
    except Exception as error:  # the template's own complaint, such as roles that do not alternate
        raise ApiError(f"the chat template refuses these messages: {error}", param="messages") from error


def _content(content: Any, index: int) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, Mapping) and part.get("type") == "text"]
    if not texts or len(texts) < len(parts) or not all(isinstance(text, str) for text in texts):
        raise ApiError(f"messages[{index}].content: expected a string, or parts of type text", param="messages")
    return "".join(map(str, texts))


def _read_prompts(fields: Mapping[str, Any], tokenizer: TextTokenizer, vocabulary: int) -> list[list[int]]:
    given = fields.get("prompt")
    if isinstance(given, str) or (isinstance(given, list) and given and all(_is_whole(one) for one in given)):
        given = [given]
    if not isinstance(given, list) or not given:
        raise ApiError("prompt: expected a string, a list of strings, token ids, or lists of those", param="prompt")
    prompts = []
    for prompt in given:
        if isinstance(prompt, str):
            prompt = tokenizer.encode_prompt(prompt)
        elif not isinstance(prompt, list) or not all(_is_whole(one) and 0 <= one < vocabulary for one in prompt):
            raise ApiError(f"prompt: expected strings, or token ids from 0 to {vocabulary - 1}", param="prompt")
        if not prompt:
            raise ApiError("prompt: it has no tokens, expected at least one", param="prompt")
        prompts.append(prompt)
    return prompts


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _whole(fields: Mapping[str, Any], name: str, default: Any) -> Any:
    value = fields.get(name, default)
    if name in fields and not _is_whole(value):
        raise ApiError(f"{name} {value!r}: expected a whole number", param=name)
    return value


def _number(fields: Mapping[str, Any], name: str, default: float) -> float:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ApiError(f"{name} {value!r}: expected a number", param=name)
    return float(value)


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise ApiError(f"{name} {value!r}: expected true or false", param=name)
    return value
