"""One endpoint's requests: retries, the pauses that it asks for, budget, cache, and differences between endpoints."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import random
import re
import time
from collections.abc import Mapping
from typing import Any

from fionalm.errors import UserError, nearest, require
from fionalm.sampling.endpoint_cache import ReplyCache
from fionalm.sampling.endpoint_config import EndpointConfig, Usage
from fionalm.sampling.endpoint_reply import reply_choices

RETRIED = (408, 409, 425, 429)
PROMPT_REFUSED = (400, 413, 422)
EXTRA = ("top_k", "min_p", "stop_token_ids", "return_token_ids")
"""Fields that OpenAI's own API does not have, and vLLM, llama.cpp and `fiona serve` do."""


class OutOfBudget(Exception):
    """The budget does not allow another request."""


class PromptRefusedError(UserError):
    """The endpoint refuses a prompt for what it holds, such as more tokens than its context; `prompt` is its index."""

    def __init__(self, message: str, prompt: int) -> None:
        super().__init__(message)
        self.prompt = prompt


class EndpointClient:
    """Sends requests; lives on one event loop, between `open` and `close`."""

    def __init__(self, url: str, key: str, config: EndpointConfig, usage: Usage, cache: ReplyCache | None) -> None:
        self.url, self.config, self.usage = url, config, usage
        self._stopping = asyncio.Event()
        self._cache = cache
        self._openai = require("openai", "serve")
        self._client = self._openai.AsyncOpenAI(base_url=url, api_key=key, timeout=config.timeout, max_retries=0)
        self._under_way = 0
        self._resume_at = 0.0
        self._reached = False
        self._renamed: dict[str, str | None] = {}

    def stop(self) -> None:
        """End the run: what the endpoint is answering still ends, nothing is tried again."""
        self._stopping.set()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def models(self) -> list[str]:
        """Return the names of the models that the endpoint lists.

        Raises:
            UserError: nothing answers, or not with a list of models.
        """
        try:
            return [model.id async for model in self._client.models.list()]
        except self._openai.APIConnectionError as error:
            raise self._nothing(error) from error
        except self._openai.APIStatusError as error:
            raise UserError(f"{self.url} does not list its models: {self._sentence(error)}") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{self.url} did not list models as an OpenAI-compatible endpoint does") from error

    async def ask(self, path: str, body: Mapping[str, Any], *, draw: int, prompt: int) -> dict[str, Any]:
        """Return the reply to a request, from the cache or the endpoint.

        Args:
            path: `chat/completions` or `completions`.
            body: the request, in OpenAI's names and those of `EXTRA`.
            draw: parts equal requests whose draws are meant to differ.
            prompt: the prompt's index, for errors.

        Raises:
            OutOfBudget: another request is not allowed.
            UserError: the endpoint refuses, or fails after all retries.
        """
        request = {"url": self.url, "path": path, "body": dict(body), "draw": draw}
        if self._cache is not None and (reply := self._cache.get(request)) is not None:
            self.usage.cached += 1
            return reply
        if (limit := self.usage.spent(self.config.budget, self._under_way)) is not None:
            raise OutOfBudget(limit)
        self._under_way += 1
        try:
            reply = await self._send(path, body, prompt)
            reply_choices(reply, self.url)
            if self._cache is not None:
                self._cache.put(request, reply)
            self.usage.add(reply, self.config.budget)
            return reply
        finally:
            self._under_way -= 1

    async def _send(self, path: str, body: Mapping[str, Any], prompt: int) -> dict[str, Any]:
        attempt = 0
        while True:
            await self._sleep(0.0)
            sent = self._translated(body)
            try:
                reply = await self._create(path, dict(sent))
                self._reached = True
                return reply
            except self._openai.APIStatusError as error:
                self._reached = True
                if error.status_code in (400, 422) and self._adapt(error, sent):
                    continue
                if (error.status_code not in RETRIED and error.status_code < 500) or error.code == "insufficient_quota":
                    raise await self._refusal(error, path, body, prompt) from error
                failure, wait = self._sentence(error), _retry_after(error.response.headers)
            except self._openai.APITimeoutError:
                failure, wait = f"no answer within {self.config.timeout:g} s", None
            except self._openai.APIConnectionError as error:
                failure, wait = f"connection failed: {error.__cause__ or error}", None
                if not self._reached and "Connect" in type(error.__cause__).__name__:
                    raise self._nothing(error) from error
            except ValueError as error:
                failure, wait = f"a broken reply: {error}", None
            if self._stopping.is_set() or attempt >= self.config.retries or (wait or 0) > self.config.max_wait:
                asked = f", and asks to wait {wait:g} s" if wait else ""
                raise UserError(
                    f"{self.url} failed {attempt + 1} times, last with: {failure}{asked}; answers so far are "
                    f"{'in the cache' if self._cache is not None else 'lost, because the cache is off'}"
                )
            self.usage.retries += 1
            backoff = min(self.config.backoff * 2**attempt, self.config.max_wait) * (1 - 0.25 * random.random())
            attempt += 1
            if wait is not None:  # the limit is the endpoint's: every request waits, a little apart from each other
                self._resume_at = max(self._resume_at, time.monotonic() + wait)
                backoff *= 0.1
            await self._sleep(backoff)

    async def _sleep(self, seconds: float) -> None:
        """Wait, and longer if another request was told to; raises as soon as the run ends."""
        until = time.monotonic() + seconds
        while (left := max(until, self._resume_at) - time.monotonic()) > 0:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), left)
                raise UserError(f"{self.url}: stopped while waiting to try again")

    async def _create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        extra = {name: body.pop(name) for name in EXTRA if name in body}
        api = self._client.chat.completions if path.startswith("chat") else self._client.completions
        reply = await api.create(**body, extra_body=extra or None)
        if not hasattr(reply, "model_dump"):
            return {}
        return reply.model_dump(mode="json", warnings=False)

    def _translated(self, body: Mapping[str, Any]) -> dict[str, Any]:
        names = {name: self._renamed.get(name, name) for name in body}
        return {new: body[name] for name, new in names.items() if new is not None}

    def _adapt(self, error: Any, sent: Mapping[str, Any]) -> bool:
        """Learn from a refusal what this endpoint calls a field, or that it lacks one; tell whether that may help."""
        named = f"{error.param or ''} {self._sentence(error)}"
        for name, new in (("max_tokens", "max_completion_tokens"), ("seed", None), ("n", None)):
            hit = re.search(rf"(?<!\w){new or name}(?!\w)", named) or (error.param == name)
            if hit and name in sent:
                self._renamed[name] = new
                return True
        return False

    async def _refusal(self, error: Any, path: str, body: Mapping[str, Any], prompt: int) -> UserError:
        said = self._sentence(error)
        if error.status_code in (401, 403):
            return UserError(
                f"{self.url} refused the key ({said}): expected one in FIONA_API_KEY, or "
                "in OPENAI_API_KEY for OpenAI's own"
            )
        if error.status_code == 404:
            models: list[str] = []
            with contextlib.suppress(UserError):
                models = await self.models()
            if models and body["model"] not in models:
                close = nearest(str(body["model"]), models)
                return UserError(
                    f"{self.url} has no model {body['model']!r}: expected one of {', '.join(models[:20])}{close}"
                )
            other = "strings as prompts" if path.startswith("chat") else "--endpoint.chat"
            return UserError(f"{self.url} has no /{path} ({said}): expected {other}, or a URL that ends in /v1")
        sentence = f"{self.url} refused prompts[{prompt}] with {error.status_code}: {said}"
        return PromptRefusedError(sentence, prompt) if error.status_code in PROMPT_REFUSED else UserError(sentence)

    def _nothing(self, error: Exception) -> UserError:
        return UserError(
            f"nothing answers at {self.url}: {error.__cause__ or error}; expected a running OpenAI-compatible "
            "endpoint, such as `fiona serve MODEL` starts"
        )

    def _sentence(self, error: Any) -> str:
        body = error.body if isinstance(error.body, dict) else {}
        said = body.get("message") or (body.get("error") if isinstance(body.get("error"), str) else None)
        return " ".join(str(said or f"status {error.status_code}").split())[:300]


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that an answer asks to wait, or None (RFC 9110: a number or a date)."""
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            return max(float(value) * scale, 0.0)
        except ValueError:
            date = email.utils.parsedate_tz(value)
            if date is not None:
                return max(email.utils.mktime_tz(date) - time.time(), 0.0)
    return None
