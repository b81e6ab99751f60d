"""One engine for many clients: requests join and leave the running batch between two tokens.

The engine's parts (`DecoderCache`, `choose`, `StopFinder`) draw the tokens, so a sample with the same prompt, seed and
parameters is the one that `EngineSampler.sample` draws. What differs from it: every request has its own parameters,
requests arrive while others are drawn, each token is told at once, and a client that hangs up frees its rows.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from fionalm.errors import UserError
from fionalm.sampling.choice import choose, uniforms
from fionalm.sampling.decoder_cache import DecoderCache
from fionalm.sampling.engine import EngineSampler, compacted, evaluating
from fionalm.sampling.stops import StopFinder, cut_at_stop
from fionalm.sampling.transformers_cache import TransformersCache
from fionalm.sampling.types import SamplingParams

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """A drawn token."""

    token: int
    logp: float
    """In nats, under the model at temperature 1."""
    top: tuple[tuple[int, float], ...]
    """The most likely tokens with theirs, most likely first."""


@dataclass
class Draw:
    """A completion that is being drawn; the loop's thread appends to it, others read."""

    prompt_ids: list[int]
    params: SamplingParams
    seed: int
    top: int
    """Most likely tokens to list at each step."""
    notify: Callable[[], None]
    """Called in the loop's thread after each token and at the end."""
    limit: int
    stops: StopFinder | None
    how: SamplingParams
    """What of the parameters decides a draw: rows that share it are drawn together."""
    ids: list[int] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    finish: Literal["stop", "length"] | None = None
    """Set last: everything is drawn."""
    error: str | None = None
    cancelled: bool = False

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.finish is not None or self.error is not None or self.cancelled


@dataclass
class _Group:
    """Completions of one prompt that wait for room."""

    draws: list[Draw]
    read: tuple[Any, Tensor] | None = None
    """The prompt's cache and first logits [v], once it was read."""


class ServingLoop:
    """Draws for all requests in a thread of its own.

    Args:
        sampler: whose model, tokenizer, context and batch size are used.
    """

    def __init__(self, sampler: EngineSampler) -> None:
        self.sampler = sampler
        self.tokenizer = sampler.tokenizer
        self.steps = self.rows = 0
        """Steps taken, and rows in them: their ratio is the mean batch."""
        self.active: list[Draw] = []
        """The batch's rows."""
        self._changed = threading.Condition()
        self._waiting: deque[_Group] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="fiona-serving", daemon=True)
        self._thread.start()

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        seeds: Sequence[int],
        notify: Callable[[], None],
        *,
        top: int = 0,
    ) -> list[Draw]:
        """Queue a completion of the prompt for each seed; they share its reading.

        Raises:
            UserError: an empty prompt, or one that leaves the context no room.
        """
        ids, context = list(prompt_ids), self.sampler.context
        if not ids:
            raise UserError("the prompt has no tokens: expected at least one")
        if context is not None and len(ids) >= context:
            raise UserError(
                f"the prompt has {len(ids)} tokens, and the model's context holds {context}: expected at "
                f"most {context - 1}"
            )
        limit = params.max_tokens if context is None else min(params.max_tokens, context - len(ids))
        how = replace(params, n=1, max_tokens=1, stop=(), stop_token_ids=(), seed=0)
        draws = []
        for seed in seeds:
            stops = StopFinder(self.tokenizer, params.stop) if params.stop else None
            draws.append(Draw(ids, params, seed, top, notify, limit, stops, how))
        with self._changed:
            if self._closed:
                raise UserError("the server is stopping")
            self._waiting.append(_Group(list(draws)))
            self._changed.notify()
        return draws

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run something with the model between two steps, such as scoring."""
        future: Future[T] = Future()
        with self._changed:
            self._calls.append((function, future))
            self._changed.notify()
        return future

    def cancel(self, draws: Sequence[Draw]) -> None:
        """Give up completions; their rows are free after the next step."""
        for draw in draws:
            draw.cancelled = True

    def close(self) -> None:
        """Stop the thread; what is under way ends with an error."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def text(self, draw: Draw, count: int | None = None) -> tuple[str, bool]:
        """Return the text of a completion's first `count` tokens, and whether a stop string ended it."""
        ids = [step.token for step in draw.steps[:count]]
        if ids and ids[-1] in self._ends(draw):
            ids.pop()
        text = self.tokenizer.decode(ids)
        return cut_at_stop(text, draw.params.stop) if draw.params.stop else (text, False)

    def _work(self) -> None:
        with evaluating(self.sampler.model), torch.no_grad():
            while self._wait():
                try:
                    self._run(self.active)
                except Exception as error:  # out of memory, say: these requests fail, the server goes on
                    self._fail(self.active, f"{type(error).__name__}: {error}")
                    self.active.clear()
        self._fail([draw for group in self._waiting for draw in group.draws], "the server is stopping")
        for _, future in self._calls:
            future.cancel()

    def _wait(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting or self._calls)
            return not self._closed

    def _run(self, active: list[Draw]) -> None:
        """Draw until nothing is left to draw; `active` holds the rows of the batch."""
        decoder = self.sampler.decoder
        cache: Any = DecoderCache(decoder) if decoder is not None else TransformersCache(self.sampler.model)
        while (self._waiting or self._calls or active) and not self._closed:
            while self._calls:
                _answer(*self._calls.popleft())
            while self._waiting and len(active) < self.sampler.max_batch and (cache.joins or not active):
                self._admit(cache, active)
            if active:
                self._draw(active, cache.step([draw.ids[-1] for draw in active]).float())
                self.steps, self.rows = self.steps + 1, self.rows + len(active)
                gone = {index: None for index, draw in enumerate(active) if draw.ended}
                if gone:
                    order = compacted(len(active), gone)
                    cache.keep(order)
                    active[:] = [active[index] for index in order]
        if self._closed:
            self._fail(active, "the server is stopping")
            active.clear()

    def _admit(self, cache: Any, active: list[Draw]) -> None:
        """Read the next prompt and let its completions join, as many as there is room for."""
        room = self.sampler.max_batch - len(active)
        group = self._waiting[0]
        group.draws = [draw for draw in group.draws if not draw.cancelled]
        fresh, group.draws = group.draws[:room], group.draws[room:]
        if not group.draws:
            self._waiting.popleft()
        if not fresh:
            return
        try:
            if group.read is None:
                prefixes, logits = cache.prefill([fresh[0].prompt_ids])
                group.read = (prefixes[0], logits[0].float())
            prefix, logits = group.read
            self._draw(fresh, logits.expand(len(fresh), -1))
        except Exception as error:  # the batch is as it was: others go on
            self._fail(fresh, f"{type(error).__name__}: {error}")
            return
        going = [draw for draw in fresh if not draw.ended]
        if going:
            cache.admit([prefix] * len(going))
            active += going

    def _draw(self, rows: Sequence[Draw], logits: Tensor) -> None:
        """Draw a token for each row from `logits` [b, v]."""
        draws = torch.from_numpy(uniforms([row.seed for row in rows], [len(row.ids) for row in rows]))
        draws = draws.to(logits.device)
        kinds: dict[SamplingParams, list[int]] = {}
        for index, row in enumerate(rows):
            kinds.setdefault(row.how, []).append(index)
        for how, indices in kinds.items():
            whole = len(indices) == len(rows)
            part, numbers = (logits, draws) if whole else (logits[indices], draws[indices])
            tokens, logps = choose(part, how, numbers)
            tops = _top(part, max(rows[index].top for index in indices))
            for place, (index, token, logp) in enumerate(zip(indices, tokens.tolist(), logps.tolist(), strict=True)):
                row = rows[index]
                row.ids.append(token)
                if logp != logp:
                    self._fail([row], "the model's logits are not finite: expected a model that has not diverged")
                    continue
                row.steps.append(Step(token, logp, tuple(tops[place][: row.top]) if tops else ()))
                if token in self._ends(row) or (row.stops is not None and row.stops.found(row.ids)):
                    row.finish = "stop"
                elif len(row.ids) == row.limit:
                    row.finish = "length"
                row.notify()

    def _ends(self, draw: Draw) -> set[int]:
        return self.sampler.end_ids | set(draw.params.stop_token_ids)

    def _fail(self, draws: Sequence[Draw], error: str) -> None:
        for draw in draws:
            if not draw.ended:
                draw.error = error
                draw.notify()


def _top(logits: Tensor, count: int) -> list[list[tuple[int, float]]]:
    """Return the `count` most likely tokens of each row of `logits` [b, v], with log-probabilities."""
    if not count:
        return []
    values, tokens = logits.log_softmax(-1).topk(min(count, logits.shape[1]))
    return [list(zip(*row, strict=True)) for row in zip(tokens.tolist(), values.tolist(), strict=True)]


def _answer(function: Callable[[], Any], future: Future[Any]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(function())
        except Exception as error:
            future.set_exception(error)
