"""The batched engine: a queue of samples drawn through one key-value cache.

A prompt is read once for all its samples; a sample that ends makes room at once, and the queue's next one takes it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fionalm.data.text_tokenizer import Prompt, TextTokenizer
from fionalm.errors import UserError
from fionalm.models.decoder import Decoder
from fionalm.progress import Progress, progress
from fionalm.sampling.choice import choose, uniforms
from fionalm.sampling.decoder_cache import DecoderCache
from fionalm.sampling.inference import bare, context_length, end_ids, evaluating, unwrapped
from fionalm.sampling.scoring import score
from fionalm.sampling.stops import StopFinder, cut_at_stop
from fionalm.sampling.transformers_cache import TransformersCache
from fionalm.sampling.types import Completion, OnCompletion, SamplingParams, sample_seed

READ_TOKENS = 1024
"""Tokens, padding included, of prompts that are read together."""
READ_FROM = 8
"""New prompts are read once one in so many rows is free."""


class Cache(Protocol):
    """The rows of a running batch: how a kind of model reads prompts and tokens."""

    joins: bool
    """Whether rows of different lengths can share a batch."""

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[list[Any], Tensor]:
        """Read prompts; return a prefix of each, for `admit`, and next-token logits [prompts, v]."""
        ...

    def admit(self, prefixes: Sequence[Any]) -> None:
        """Append a row for each prefix."""
        ...

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Read a token a row; return the logits [b, v] of the next."""
        ...

    def keep(self, order: Sequence[int]) -> None:
        """Keep the rows `order` in that order; no row moves towards the end."""
        ...


@dataclass
class _Row:
    """A sample being drawn."""

    prompt: int
    sample: int
    seed: int
    limit: int
    stops: StopFinder | None
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)


@dataclass
class _Group:
    """A prompt that was read, with the samples of it that still wait."""

    prefix: Any
    logits: Tensor
    """Of the first token [v]."""
    waiting: deque[_Row]


class _Speed:
    """Tokens a second, shown now and then also while no completion ends."""

    def __init__(self, bar: Progress) -> None:
        self.bar, self.tokens = bar, 0
        self.started = self.shown = time.monotonic()

    def count(self, tokens: int) -> None:
        self.tokens += tokens
        if time.monotonic() - self.shown > 0.5:
            self.shown = time.monotonic()
            self.bar.advance(0, tokens_per_second=self.rate())

    def rate(self) -> int:
        return round(self.tokens / max(time.monotonic() - self.started, 1e-9))


class EngineSampler:
    """Draws from the own `Decoder` or any causal language model of `transformers`.

    A sample depends on its prompt, its seed and the parameters alone: its uniform numbers come from (seed, step), and
    the batch decides nothing. What the batch can do is round: products of matrices of other shapes differ in the last
    bits of the logits (about 1e-6 in float32, 1e-2 in bfloat16), so a draw that falls within that distance of the
    border between two tokens, or a tie at temperature 0, may come out differently in another batch.

    Args:
        model: gives the logits; it is put into evaluation mode while sampling, and back after.
        tokenizer: a `TextTokenizer`, or what one can wrap.
        max_batch: samples that are drawn at a time, at most.
        context: tokens of a prompt and its completion together, at most. None: what the model was made for.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, *, max_batch: int = 64, context: int | None = None) -> None:
        if max_batch < 1:
            raise UserError(f"max_batch {max_batch}: expected at least 1")
        self.model = model
        self.tokenizer = TextTokenizer(tokenizer)
        self.max_batch = max_batch
        inner = bare(model)
        self.decoder = inner if isinstance(inner, Decoder) else None
        longest = context_length(inner)
        if context is not None and longest is not None and context > longest:
            raise UserError(f"context {context}: expected at most the model's {longest}")
        self.context = longest if context is None else context
        self.vocabulary: int | None = getattr(inner.get_input_embeddings(), "num_embeddings", None)
        self.end_ids = {self.tokenizer.eos_id, *end_ids(inner)}

    def sample(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams,
        *,
        seeds: Sequence[Sequence[int]] | None = None,
        on_completion: OnCompletion | None = None,
        quiet: bool = True,
    ) -> list[list[Completion]]:
        """Return `params.n` completions of each prompt; see `Sampler.sample`.

        Raises:
            UserError: a prompt that is empty or leaves the context no room, or logits that are no numbers.
        """
        encoded = [self.tokenizer.encode_prompt(prompt) for prompt in prompts]
        limits = [self._limit(index, ids, params.max_tokens) for index, ids in enumerate(encoded)]
        if seeds is None:
            seeds = [[sample_seed(params.seed, index, i) for i in range(params.n)] for index in range(len(prompts))]
        if [len(row) for row in seeds] != [params.n] * len(prompts):
            raise UserError(f"seeds: expected {params.n} for each of {len(prompts)} prompts")
        done: list[list[Completion | None]] = [[None] * params.n for _ in prompts]
        queue = deque(
            (ids, deque(_Row(index, i, seeds[index][i], limit, self._finder(params)) for i in range(params.n)))
            for index, (ids, limit) in enumerate(zip(encoded, limits, strict=True))
        )
        with (
            evaluating(self.model),
            progress(len(prompts) * params.n, "sampling", "completions", quiet=quiet) as bar,
        ):
            speed = _Speed(bar)
            for row, reason in self._run(queue, params, speed):
                completion = self._completion(row, reason, params)
                done[row.prompt][row.sample] = completion
                bar.advance(tokens_per_second=speed.rate())
                if on_completion is not None:
                    on_completion(row.prompt, row.sample, completion)
        return [[completion for completion in row if completion is not None] for row in done]

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str | Sequence[int]]) -> list[list[float]]:
        """Return the log-probability (nats) of every token of each completion, given its prompt.

        Args:
            prompts: one a completion.
            completions: texts, of which no end-of-sequence is scored, or token ids.

        Raises:
            UserError: different numbers of the two, an empty prompt, or a pair longer than the context.
        """
        with evaluating(self.model):
            return score(self.model, self.tokenizer, self.context, prompts, completions)

    def _run(
        self, queue: deque[tuple[list[int], deque[_Row]]], params: SamplingParams, speed: _Speed
    ) -> Iterator[tuple[_Row, str]]:
        """Draw everything in the queue; yield each row as it ends, with the reason."""
        cache = self._cache(params.n)
        ends = self.end_ids | set(params.stop_token_ids)
        active: list[_Row] = []
        groups: deque[_Group] = deque()
        while queue or groups or active:
            fresh: list[tuple[_Row, _Group]] = []
            while len(active) + len(fresh) < self.max_batch and (cache.joins or not (active or fresh)):
                room = self.max_batch - len(active) - len(fresh)
                if not groups:
                    # Prompts are read several at a time, or one small product would follow each sample's end.
                    if not queue or (active and room < self.max_batch // READ_FROM):
                        break
                    groups += _read(cache, queue, room)
                group = groups[0]
                fresh += [(group.waiting.popleft(), group) for _ in range(min(len(group.waiting), room))]
                if not group.waiting:
                    groups.popleft()
            if fresh:
                logits = torch.stack([group.logits for _, group in fresh]).float()
                ended = self._draw([row for row, _ in fresh], logits, params, ends)
                going = [pair for index, pair in enumerate(fresh) if index not in ended]
                if going:
                    cache.admit([group.prefix for _, group in going])
                    active += [row for row, _ in going]
                yield from ended.values()
            speed.count(len(fresh) + len(active))
            if not active:
                continue
            ended = self._draw(active, cache.step([row.ids[-1] for row in active]).float(), params, ends)
            if ended:
                order = compacted(len(active), ended)
                cache.keep(order)
                active = [active[index] for index in order]
                yield from ended.values()

    def _cache(self, samples: int) -> Cache:
        return TransformersCache(unwrapped(self.model)) if self.decoder is None else DecoderCache(self.decoder, samples)

    def _draw(
        self, rows: Sequence[_Row], logits: Tensor, params: SamplingParams, ends: set[int]
    ) -> dict[int, tuple[_Row, str]]:
        """Draw a token for each row from `logits` [b, v]; return those that ended, by their index."""
        draws = torch.from_numpy(uniforms([row.seed for row in rows], [len(row.ids) for row in rows]))
        tokens, logps = choose(logits, params, draws.to(logits.device))
        ended: dict[int, tuple[_Row, str]] = {}
        for index, (row, token, logp) in enumerate(zip(rows, tokens.tolist(), logps.tolist(), strict=True)):
            row.ids.append(token)
            row.logps.append(logp)
            if logp != logp:
                raise UserError("the model's logits are not finite: expected a model that has not diverged")
            if token in ends or (row.stops is not None and row.stops.found(row.ids)):
                ended[index] = (row, "stop")
            elif len(row.ids) == row.limit:
                ended[index] = (row, "length")
        return ended

    def _completion(self, row: _Row, reason: str, params: SamplingParams) -> Completion:
        ends = self.end_ids | set(params.stop_token_ids)
        text = self.tokenizer.decode(row.ids[:-1] if row.ids[-1] in ends else row.ids)
        if params.stop:
            text, _ = cut_at_stop(text, params.stop)
        return Completion(text, "stop" if reason == "stop" else "length", tuple(row.ids), tuple(row.logps))

    def _finder(self, params: SamplingParams) -> StopFinder | None:
        return StopFinder(self.tokenizer, params.stop) if params.stop else None

    def _limit(self, index: int, ids: Sequence[int], max_tokens: int) -> int:
        if not ids:
            raise UserError(f"prompts[{index}] has no tokens: expected at least one")
        if self.vocabulary is not None and max(ids) >= self.vocabulary:
            raise UserError(
                f"prompts[{index}] has token {max(ids)}, and the model knows {self.vocabulary}: expected the model's "
                "own tokenizer"
            )
        if self.context is None:
            return max_tokens
        if len(ids) >= self.context:
            raise UserError(
                f"prompts[{index}] has {len(ids)} tokens, and the context holds {self.context}: expected at most "
                f"{self.context - 1}, so that one can be drawn"
            )
        return min(max_tokens, self.context - len(ids))


def _read(cache: Cache, queue: deque[tuple[list[int], deque[_Row]]], room: int) -> list[_Group]:
    """Read the queue's next prompts, enough for `room` rows where they are short."""
    taken: list[tuple[list[int], deque[_Row]]] = []
    longest = rows = 0
    while queue and (not taken or rows < room):
        longest = max(longest, len(queue[0][0]))
        if taken and longest * (len(taken) + 1) > READ_TOKENS:
            break
        taken.append(queue.popleft())
        rows += len(taken[-1][1])
    prefixes, logits = cache.prefill([ids for ids, _ in taken])
    return [_Group(*parts) for parts in zip(prefixes, logits, (waiting for _, waiting in taken), strict=True)]


def compacted(rows: int, ended: dict[int, Any]) -> list[int]:
    """Return which of `rows` rows stand where once those that ended are gone: the last ones fill the holes."""
    order = list(range(rows))
    for index in sorted(ended, reverse=True):
        order[index] = order[-1]
        order.pop()
    return order
