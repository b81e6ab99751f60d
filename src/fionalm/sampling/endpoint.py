"""Completions of an OpenAI-compatible endpoint: OpenAI's own, vLLM's, llama.cpp's, or `fiona serve`.

    sampler = EndpointSampler("http://127.0.0.1:8000/v1", "my-model")
    sampler.sample(["Once upon a time"], SamplingParams(n=4))

Its requests, their retries and their cache are in `endpoint_client`.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fionalm.data.text_tokenizer import Prompt, is_conversation
from fionalm.errors import UserError, require
from fionalm.progress import progress
from fionalm.sampling.endpoint_cache import ReplyCache
from fionalm.sampling.endpoint_client import EndpointClient, OutOfBudget
from fionalm.sampling.endpoint_config import EndpointConfig, Usage
from fionalm.sampling.endpoint_reply import choices_from_top, reply_choices, reply_completion, reply_positions
from fionalm.sampling.endpoint_run import run_jobs
from fionalm.sampling.types import Completion, OnCompletion, SamplingParams, sample_seed

TOP_CHAT, TOP_PLAIN = 20, 5
"""The most alternatives that OpenAI's APIs list."""


class BudgetSpentError(UserError):
    """The budget ended the run; `completions` holds what was drawn, None where nothing was."""

    def __init__(self, message: str, completions: list[list[Completion | None]]) -> None:
        super().__init__(message)
        self.completions = completions


@dataclass(frozen=True)
class _Job:
    prompt: int
    samples: tuple[int, ...]


class EndpointSampler:
    """A `Sampler` over an endpoint.

    Attributes:
        usage: requests, retries and tokens so far.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        config: EndpointConfig = EndpointConfig(),  # noqa: B008 (frozen)
        *,
        api_key: str | None = None,
        cache_folder: str | Path | None = None,
    ) -> None:
        """Prepare; no request is sent before the first sample, except to find the model's name.

        Args:
            base_url: such as `http://127.0.0.1:8000/v1`.
            model: its name there. None: the only one that the endpoint lists.
            config: how to ask.
            api_key: None: `FIONA_API_KEY`; for OpenAI's own endpoint, and where `OPENAI_BASE_URL` names this one,
                `OPENAI_API_KEY`.
            cache_folder: of answers. None: `endpoints` in the cache folder.

        Raises:
            UserError: the extra `serve` is missing, the URL is none, or no model was named and it lists several.
        """
        require("openai", "serve")
        self.url = base_url.rstrip("/")
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).hostname:
            raise UserError(f"{base_url!r} is no endpoint: expected a URL such as http://127.0.0.1:8000/v1")
        self.config = config
        self.usage = Usage()
        self._key = _key(self.url) if api_key is None else api_key
        self._cache = ReplyCache(cache_folder) if config.cache else None
        self.model = model or self._only_model()

    def sample(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams,
        *,
        seeds: Sequence[Sequence[int]] | None = None,
        on_completion: OnCompletion | None = None,
        quiet: bool = True,
    ) -> list[list[Completion]]:
        """Return `params.n` completions of each prompt; see `Sampler`.

        Seeds are sent to the endpoint, which may ignore them. A request for several completions sends the first's.

        Raises:
            BudgetSpentError: the budget ended the run, with what was drawn.
            UserError: the endpoint refuses, fails after all retries, or returns no log-probabilities.
            KeyboardInterrupt: stopped by the user, with how much is in the cache.
        """
        if seeds is None:
            seeds = [
                [sample_seed(params.seed, row, sample) for sample in range(params.n)] for row in range(len(prompts))
            ]
        found: list[list[Completion | None]] = [[None] * len(row) for row in seeds]
        size = self.config.samples_per_request or max(params.n, 1)
        jobs = [
            _Job(row, tuple(range(first, min(first + size, len(chosen)))))
            for row, chosen in enumerate(seeds)
            for first in range(0, len(chosen), size)
        ]
        total = sum(map(len, found))

        async def work(client: EndpointClient, job: _Job) -> list[tuple[int, Completion]]:
            return await self._complete(client, job, prompts[job.prompt], params, seeds[job.prompt])

        with progress(total, "sampling", "samples", quiet=quiet) as bar:
            for job, completions in self._run(jobs, work, lambda spent: self._budget_spent(spent, found)):
                for sample, completion in completions:
                    found[job.prompt][sample] = completion
                    if on_completion is not None:
                        on_completion(job.prompt, sample, completion)
                bar.advance(len(completions), requests=self.usage.requests, tokens=self.usage.completion_tokens)
        return [[completion for completion in row if completion is not None] for row in found]

    def choice_logps(
        self, prompts: Sequence[Prompt], choices: Sequence[str], *, quiet: bool = True
    ) -> list[list[float]]:
        """Return log-probabilities (nats) that the answer to each prompt is each of a few short `choices`, such as (1).

        One request a prompt: the likeliest tokens of its greedy answer are compared with the choices. A choice beyond
        them gets an upper bound; all are -inf where the answer begins with none of them.

        Raises:
            UserError: the endpoint returns no log-probabilities, or as `sample`.
        """
        result: list[list[float]] = [[] for _ in prompts]
        params = SamplingParams(max_tokens=max(map(len, choices)) + 1, temperature=0.0)

        async def work(client: EndpointClient, job: _Job) -> list[float]:
            path, body = self._body(prompts[job.prompt], params, 1, 0, top=True)
            reply = await client.ask(path, body, draw=0, prompt=job.prompt)
            answers = reply_choices(reply, self.url)
            return choices_from_top(reply_positions(answers[0], self.url) if answers else [], choices)

        jobs = [_Job(row, (0,)) for row in range(len(prompts))]
        with progress(len(jobs), "judging", "prompts", quiet=quiet) as bar:
            for job, logps in self._run(jobs, work, lambda spent: self._budget_spent(spent, [])):
                result[job.prompt] = logps
                bar.advance(1, requests=self.usage.requests)
        return result

    async def _complete(
        self, client: EndpointClient, job: _Job, prompt: Prompt, params: SamplingParams, seeds: Sequence[int]
    ) -> list[tuple[int, Completion]]:
        """Draw a job's samples: in one request, and by one each what that did not bring."""
        left, drawn = list(job.samples), []
        while left:
            count = len(left) if not drawn else 1
            path, body = self._body(prompt, params, count, seeds[left[0]])
            reply = await client.ask(path, body, draw=seeds[left[0]], prompt=job.prompt)
            choices = reply_choices(reply, self.url)[: len(left)]
            if not choices:
                raise UserError(f"{self.url} answered prompts[{job.prompt}] without a completion")
            for choice in choices:
                completion = reply_completion(choice, logprobs=self.config.logprobs, url=self.url)
                drawn.append((left.pop(0), completion))
        return drawn

    def _body(
        self, prompt: Prompt, params: SamplingParams, count: int, seed: int, *, top: bool = False
    ) -> tuple[str, dict[str, Any]]:
        body: dict[str, Any] = {"model": self.model, "max_tokens": params.max_tokens, "temperature": params.temperature}
        body |= {"seed": seed, "n": count} if count > 1 else {"seed": seed}
        if params.top_p < 1:
            body["top_p"] = params.top_p
        if params.stop:
            body["stop"] = list(params.stop)
        extra = {"top_k": params.top_k, "min_p": params.min_p, "stop_token_ids": list(params.stop_token_ids)}
        extra["return_token_ids"] = self.config.token_ids
        body |= {name: value for name, value in extra.items() if value}
        if isinstance(prompt, str) and self.config.chat:
            prompt = [{"role": "user", "content": prompt}]
        if is_conversation(prompt):
            if self.config.chat is False:
                raise UserError(
                    "a prompt is a conversation, and the endpoint is asked for plain completions: expected strings"
                )
            if top:
                body |= {"logprobs": True, "top_logprobs": TOP_CHAT}
            elif self.config.logprobs:
                body["logprobs"] = True
            messages = [dict(message) for message in prompt]  # pyright: ignore[reportCallIssue, reportArgumentType]
            return "chat/completions", body | {"messages": messages}
        if top or self.config.logprobs:
            body["logprobs"] = TOP_PLAIN if top else 1
        return "completions", body | {"prompt": prompt if isinstance(prompt, str) else list(prompt)}

    def _run(
        self,
        jobs: Sequence[_Job],
        work: Callable[[EndpointClient, _Job], Awaitable[Any]],
        spent: Callable[[str], UserError],
    ) -> Iterator[tuple[_Job, Any]]:
        """Yield jobs as they end."""

        def client() -> EndpointClient:
            return EndpointClient(self.url, self._key, self.config, self.usage, self._cache)

        ended = 0
        try:
            for item in run_jobs(client, jobs, work, self.config.concurrency):
                ended += 1
                yield item
        except OutOfBudget as limit:
            raise spent(str(limit)) from None
        except KeyboardInterrupt:
            kept = "in the cache" if self._cache is not None else "not kept, because the cache is off"
            raise KeyboardInterrupt(
                f"{ended} of {len(jobs)} answers are {kept}: the same command goes on from there"
            ) from None

    def _budget_spent(self, limit: str, found: list[list[Completion | None]]) -> BudgetSpentError:
        drawn = sum(one is not None for row in found for one in row)
        kept = "the cache keeps them, and a larger budget goes on from there" if self._cache is not None else "no more"
        return BudgetSpentError(
            f"the budget of {limit} is spent after {drawn} of {sum(map(len, found))} completions: {kept}", found
        )

    def _only_model(self) -> str:
        """Return the name of the endpoint's model."""
        names: list[str] = []

        async def work(client: EndpointClient, _: _Job) -> None:
            names.extend(await client.models())

        for _ in self._run([_Job(0, (0,))], work, UserError):
            pass
        if len(names) != 1:
            listed = ", ".join(names[:20]) or "none"
            raise UserError(f"no model was named, and {self.url} lists {listed}: expected URL#MODEL")
        return names[0]


def _key(url: str) -> str:
    """Return the key for an endpoint from the environment; OpenAI's goes to no one else."""
    host = urlsplit(url).hostname or ""
    named = os.environ.get("OPENAI_BASE_URL", "").rstrip("/") == url
    if named or host == "openai.com" or host.endswith(".openai.com"):
        return os.environ.get("OPENAI_API_KEY") or os.environ.get("FIONA_API_KEY") or "none"
    return os.environ.get("FIONA_API_KEY") or "none"
