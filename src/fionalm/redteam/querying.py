"""Asking a model many short questions: batched, metered, kept in a file, and gone on with after a kill.

target = QueryModel.open("smollm2", store="runs/attack/target.jsonl", meter=Meter(queries=500, minutes=5))
[asked] = target.ask(["What is 3 + 4?"])
asked.replies  # ("3 + 4 = 7.",)
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from fionalm.data.text_tokenizer import Prompt
from fionalm.errors import UserError
from fionalm.progress import Progress, progress
from fionalm.sampling.endpoint_client import PromptRefusedError
from fionalm.sampling.endpoint_config import EndpointConfig
from fionalm.sampling.make import make_sampler
from fionalm.sampling.records import SampleRecord, SampleStore
from fionalm.sampling.types import Completion, Sampler, SamplingParams, sample_seed

SHORT = SamplingParams(max_tokens=32, temperature=0.0)
"""How a target answers if nothing is said."""
MOST_REFUSED = 3
"""Prompts that an endpoint may refuse before it has answered any, and is asked a short one."""
PROBE = "1 + 1 ="
PART, PART_CHARACTERS = 64, 6000
"""Replies, and characters of their prompts, that are asked for at once where the time is limited."""


@dataclass
class Meter:
    """Counts replies and ends a run at its limits; what was found until then is kept.

    A reply counts once in a run, whether a model gives it now or the file has it from before a kill: a resumed run
    stops where the first would have.
    """

    queries: int | None = None
    """Replies at most. None: no limit."""
    minutes: float | None = None
    """From the meter's making. None: no limit."""
    used: int = 0
    """Replies so far."""
    fresh: int = 0
    """Of them, those that a model gave now."""
    spent: str | None = None
    """The limit that ended the run, in words; None while there is none."""
    parent: Meter | None = field(default=None, repr=False)
    started: float = field(default_factory=time.monotonic, repr=False)

    def __post_init__(self) -> None:
        for name in ("queries", "minutes"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise UserError(f"budget of {name} {value}: expected 0 or more")

    def left(self) -> int | None:
        """Return how many more replies may be asked for; None: any number. Notes the limit once it is reached."""
        above = None if self.parent is None else self.parent.left()
        if self.parent is not None:
            self.spent = self.spent or self.parent.spent
        own = None if self.queries is None else self.queries - self.used
        if own is not None and own <= 0:
            self.spent = self.spent or f"{self.queries:,} queries"
        if self.late() or self.spent is not None:
            return 0
        return min((one for one in (above, own) if one is not None), default=None)

    def limit(self) -> int:
        """Return the smallest limit of queries, here or in what this is a share of."""
        above = None if self.parent is None else self.parent.limit()
        return min((one for one in (above, self.queries) if one is not None), default=self.used)

    @property
    def timed(self) -> bool:
        """Whether time is limited, here or in what this is a share of."""
        return self.minutes is not None or (self.parent is not None and self.parent.timed)

    def late(self) -> bool:
        """Tell whether the time is up, here or in what this is a share of; notes it."""
        if self.minutes is not None and time.monotonic() - self.started >= 60 * self.minutes:
            self.spent = self.spent or f"{self.minutes:.3g} minutes"
            return True
        if self.parent is not None and self.parent.late():
            self.spent = self.spent or self.parent.spent
            return True
        return False

    def count(self, replies: int, fresh: int) -> None:
        """Count replies, here and in what this is a share of."""
        self.used, self.fresh = self.used + replies, self.fresh + fresh
        if self.parent is not None:
            self.parent.count(replies, fresh)

    def share(self, part: float) -> Meter:
        """Return a meter of a part of what is left, which counts here too."""
        left = self.left()
        minutes = None if self.minutes is None else self.minutes - (time.monotonic() - self.started) / 60
        return Meter(
            None if left is None else round(left * part),
            None if minutes is None else max(minutes, 0) * part,
            parent=self,
        )


@dataclass(frozen=True)
class Asked:
    """What came of one prompt."""

    replies: tuple[str, ...] = ()
    missing: Literal["budget", "too long", "refused"] | None = None
    """Why there are no replies: the budget was spent; the prompt does not fit the context; the endpoint refused it."""


class _TimeIsUp(Exception):
    """Ends a batch at the meter's limit; replies so far are kept."""


class QueryModel:
    """A model that is attacked, or that writes attacks.

    Attributes:
        name: of the model, part of what a kept reply belongs to.
        meter: its budget, which several models may share.
    """

    def __init__(
        self,
        name: str,
        sampler: Sampler,
        params: SamplingParams = SHORT,
        *,
        chat: bool | None = None,
        render: Callable[[str], Prompt] | None = None,
        store: SampleStore | str | Path | None = None,
        meter: Meter | None = None,
        max_characters: int | None = None,
    ) -> None:
        """Prepare; nothing is asked yet.

        Args:
            name: of the model.
            sampler: asks it.
            params: how; `n` replies of each prompt.
            chat: ask as a user's message in a conversation. None: endpoints, and models with a chat template, are.
            render: text to prompt, instead of `chat`.
            store: file of samples that keeps every reply. None: replies are forgotten.
            meter: the budget. None: no limit.
            max_characters: longer prompts are not asked, where the context's length is not known here.
        """
        self.name, self.sampler, self.params = name, sampler, params
        self.meter = Meter() if meter is None else meter
        self.store = store if isinstance(store, SampleStore) or store is None else SampleStore(store)
        self.max_characters = max_characters
        self._tokenizer = getattr(sampler, "tokenizer", None)
        if chat is None:
            chat = self._tokenizer is None or bool(getattr(self._tokenizer, "has_chat_template", False))
        self.chat = chat and render is None
        self._render = render or (_as_message if chat else _as_text)
        self._asked: dict[str, Asked] = {}
        self._settings = json.dumps([self.chat, {**asdict(params), "n": None}], sort_keys=True)

    @classmethod
    def open(
        cls,
        spec: str,
        params: SamplingParams = SHORT,
        *,
        endpoint: EndpointConfig = EndpointConfig(),  # noqa: B008 (frozen)
        engine: dict[str, Any] | None = None,
        **others: Any,
    ) -> QueryModel:
        """Open what `make_sampler` opens.

        Args:
            spec: a model, an endpoint, or vllm:NAME.
            params: how it is asked.
            endpoint: how an endpoint is.
            engine: `max_batch`, `context` and `device` of a local model.
            **others: as the class takes them.

        Raises:
            UserError: nothing at `spec`.
        """
        local = Path(spec).expanduser()
        name = str(local.resolve()) if local.exists() else spec
        return cls(name, make_sampler(spec, endpoint=endpoint, **(engine or {})), params, **others)

    def ask(self, texts: Sequence[str], *, quiet: bool = True) -> list[Asked]:
        """Return the replies to texts; equal ones are asked once, and none that was asked before.

        Texts are asked in their order: those that the budget does not reach are the last.

        Raises:
            UserError: the sampler's own; replies until then are kept.
        """
        keys = [self._key(text) for text in texts]
        fresh = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._asked}
        left = self.meter.left()
        wanted: dict[str, Prompt] = {}
        cut = False
        for key, text in fresh.items():
            if self._too_long(text):
                self._asked[key] = Asked(missing="too long")
                continue
            if left is not None and (left := left - self.params.n) < 0:
                cut = True
                break
            wanted[key] = self._render(text)
            if (kept := self._kept(key)) is not None:
                self._asked[key] = Asked(kept)
                self.meter.count(self.params.n, 0)
        self._draw({key: prompt for key, prompt in wanted.items() if key not in self._asked}, quiet=quiet)
        if cut and self.meter.left() != 0:  # less is left than a prompt's replies
            self.meter.spent = f"{self.meter.limit():,} queries"
        return [self._asked.get(key, Asked(missing="budget")) for key in keys]

    def _draw(self, wanted: dict[str, Prompt], *, quiet: bool) -> None:
        """Ask for what is missing; a prompt that the endpoint refuses is left out, and the rest goes on."""
        refused = 0
        with progress(len(wanted), f"asking {self.name}", "questions", quiet=quiet) as bar:
            while part := self._next_part(wanted):
                if self.meter.late():
                    return
                try:
                    self._sample(list(part), list(part.values()), bar)
                except _TimeIsUp:
                    return
                except PromptRefusedError as error:
                    refused += 1
                    if refused == MOST_REFUSED and not any(one.replies for one in self._asked.values()):
                        # The prompts' fault, or that of how they are asked? A harmless one tells: it raises.
                        self.sampler.sample([self._render(PROBE)], replace(self.params, n=1))
                    self._asked[list(part)[error.prompt]] = Asked(missing="refused")
                except UserError as error:
                    if not hasattr(error, "completions"):  # BudgetSpentError; its class needs the extra `serve`
                        raise
                    self.meter.spent = str(error).partition(":")[0]
                    return

    def _next_part(self, wanted: dict[str, Prompt]) -> dict[str, Prompt]:
        """Return what is to be asked at once: all that is missing, or in parts where the time is limited."""
        missing = {key: prompt for key, prompt in wanted.items() if key not in self._asked}
        if not self.meter.timed:
            return missing
        part: dict[str, Prompt] = {}
        length = 0
        for key, prompt in missing.items():
            length += len(str(prompt))
            # An engine reads long prompts for minutes before one is answered and the clock is looked at.
            if part and (length > PART_CHARACTERS or len(part) * self.params.n >= PART):
                break
            part[key] = prompt
        return part

    def _sample(self, keys: Sequence[str], prompts: Sequence[Prompt], bar: Progress) -> None:
        drawn: dict[str, dict[int, Completion]] = {key: {} for key in keys}

        def keep(row: int, sample: int, completion: Completion) -> None:
            found = drawn[keys[row]]
            found[sample] = completion
            if len(found) == self.params.n:
                self._keep(keys[row], prompts[row], [found[number] for number in range(self.params.n)])
                bar.advance(1)
            if self.meter.late():
                raise _TimeIsUp

        # Of the prompt, not the model's name: an endpoint at another address draws the same.
        names = [_digest(self._settings, prompt) for prompt in prompts]
        seeds = [[sample_seed(self.params.seed, name, number) for number in range(self.params.n)] for name in names]
        self.sampler.sample(prompts, self.params, seeds=seeds, on_completion=keep)

    def _keep(self, key: str, prompt: Prompt, completions: Sequence[Completion]) -> None:
        self._asked[key] = Asked(tuple(one.text for one in completions))
        self.meter.count(len(completions), len(completions))
        if self.store is not None:
            self.store.append(
                *(
                    SampleRecord(
                        problem=key,
                        sample=number,
                        prompt=prompt,
                        completion=one.text,
                        temperature=self.params.temperature,
                        finish_reason=one.finish_reason,
                        columns={"model": self.name},
                    )
                    for number, one in enumerate(completions)
                )
            )

    def _kept(self, key: str) -> tuple[str, ...] | None:
        if self.store is None:
            return None
        records = [self.store.get(0, self.params.temperature, key, number) for number in range(self.params.n)]
        found = [record.completion for record in records if record is not None]
        return tuple(found) if len(found) == self.params.n else None

    def _too_long(self, text: str) -> bool:
        if self.max_characters is not None and len(text) > self.max_characters:
            return True
        context = getattr(self.sampler, "context", None)
        # A token has one character at least, and long ones are rare: only what may be too long is tokenized.
        if self._tokenizer is None or context is None or len(text) < context - self.params.max_tokens - 200:
            return False
        return len(self._tokenizer.encode_prompt(self._render(text))) + self.params.max_tokens > context

    def _key(self, text: str) -> str:
        return _digest(f"{self.name}\n{self._settings}", self._render(text))


def _digest(settings: str, prompt: Prompt) -> str:
    text = f"{settings}\n{json.dumps(prompt, sort_keys=True, ensure_ascii=False)}"
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def _as_message(text: str) -> Prompt:
    return [{"role": "user", "content": text}]


def _as_text(text: str) -> Prompt:
    return text
