"""The Generate step: draw samples of every problem, verify them, and keep both where a kill cannot take them.

Samples are drawn, verified and written a few problems at a time, always the same ones together: what a resumed run
draws again it draws in the same batches, so its samples are the same to the bit. While the samples of some problems are
verified, by workers or in a thread, the next ones are drawn.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch.distributed as dist

from fionalm.data import Prompt, is_conversation
from fionalm.data.text_tokenizer import Message
from fionalm.errors import UserError
from fionalm.posttraining.rest_em_config import RestEMConfig
from fionalm.posttraining.run import SAMPLES_FILE
from fionalm.progress import progress
from fionalm.sampling import Completion, Sampler, SampleRecord, SampleStore, sample_seed
from fionalm.training.distributed import World
from fionalm.training.interrupt import stop_on_signals
from fionalm.verifiers.asking import check_judged, judged
from fionalm.verifiers.types import Verdict, Verifier

Row = Mapping[str, Any]
NOT_COLUMNS = ("prompt", "completion")


class Problems:
    """Rows with their ids, their prompts as the model reads them, and the columns that a verifier reads.

    Raises:
        UserError: a row without a prompt, two rows of one id, or a verifier's mistake such as a missing gold answer.
    """

    def __init__(self, rows: Sequence[Row], prefix: str = "") -> None:
        self.rows = list(rows)
        self.ids = [str(row.get("id", number)) for number, row in enumerate(self.rows)]
        seen: dict[str, int] = {}
        for number, (row, name) in enumerate(zip(self.rows, self.ids, strict=True), 1):
            if "prompt" not in row:
                raise UserError(f"row {number} has no 'prompt', only {', '.join(row)}: expected a prompt in every row")
            if name in seen:
                raise UserError(f"rows {seen[name]} and {number} have one id, {name!r}: expected one a row")
            seen[name] = number
        self.prompts = [with_prefix(row["prompt"], prefix) for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def columns(self, numbers: Sequence[int]) -> dict[str, list[Any]]:
        """Return the columns, prompt and completion apart, of the rows with these numbers."""
        names = dict.fromkeys(name for row in self.rows for name in row if name not in NOT_COLUMNS)
        return {name: [self.rows[number].get(name) for number in numbers] for name in names}

    def judge(self, verifier: Verifier, numbers: Sequence[int], completions: Sequence[str]) -> list[Verdict]:
        """Return the verdicts of completions of the problems with these numbers."""
        prompts = [self.rows[number]["prompt"] for number in numbers]
        return judged(verifier, prompts, completions, self.columns(numbers))


class Samples:
    """Every sample of a run, on disk in `samples.jsonl` if there is a folder.

    With many processes each writes a file of its own while it draws; the main one then takes them into the one file.
    """

    def __init__(self, folder: Path | None, world: World) -> None:
        self.world = world
        self.records: dict[tuple[int, str, int], SampleRecord] = {}
        self._main: SampleStore | None = None
        self._own: SampleStore | None = None
        if folder is not None:
            path = folder / SAMPLES_FILE
            world.on_main(lambda: _merge_left_over(path))
            store = SampleStore(path)  # whole lines only by now, so that nobody truncates it
            self.records = {_key(record): record for record in store}
            self._main = store if world.is_main else None
            self._own = store if world.is_main else SampleStore(path.with_name(f"samples-{world.rank}.jsonl"))

    def append(self, records: Sequence[SampleRecord]) -> None:
        """Keep records, on disk before this returns."""
        if self._own is not None:
            self._own.append(*records)
        self.records.update({_key(record): record for record in records})

    def share(self, records: Sequence[SampleRecord]) -> None:
        """Give every process the records that each has drawn; all call this."""
        if self.world.size == 1:
            return
        gathered: list[Any] = [None] * self.world.size
        dist.all_gather_object(gathered, list(records))
        others = [record for rank, part in enumerate(gathered) if rank != self.world.rank for record in part]
        self.records.update({_key(record): record for record in others})
        if self._main is not None:
            self._main.append(*others)
        self.world.barrier()
        if self._own is not None and not self.world.is_main:
            with suppress(FileNotFoundError):
                self._own.path.unlink()

    def of(self, generation: int, problems: Problems, count: int) -> list[list[SampleRecord]]:
        """Return a generation's samples by problem, in order."""
        return [[self.records[generation, name, sample] for sample in range(count)] for name in problems.ids]


def _key(record: SampleRecord) -> tuple[int, str, int]:
    return record.iteration, record.problem, record.sample  # a run has one temperature


def generate(
    sampler: Sampler,
    problems: Problems,
    verifier: Verifier,
    config: RestEMConfig,
    generation: int,
    samples: Samples,
    world: World,
    *,
    executor: ThreadPoolExecutor,
    interruptible: bool,
    quiet: bool,
) -> dict[str, float]:
    """Draw and verify what is missing of a generation, each process its share; return the seconds that it took.

    Raises:
        KeyboardInterrupt: stopped, after what was drawn is verified and written.
        UserError: a full disk, a verifier or sampler that refuses, or a verifier that judges nothing of a first batch.
    """
    seconds = {"generate": 0.0, "verify": 0.0}
    groups = missing(problems, config, generation, samples)
    share = groups[world.rank :: world.size]
    params, drawn = config.sampling_params(), []
    pending: Future[list[SampleRecord]] | None = None

    def keep(done: Future[list[SampleRecord]]) -> None:
        started = time.perf_counter()
        records = done.result()
        seconds["verify"] += time.perf_counter() - started
        samples.append(records)
        drawn.extend(records)

    total = sum(len(numbers) for numbers in share) * params.n
    with (
        stop_on_signals(interruptible) as stop,
        progress(total, f"iteration {generation + 1}: sampling", "samples", quiet=quiet) as bar,
    ):
        # Every process samples as often: where FSDP2 spreads the weights, they become whole for all at once.
        for turn in range(math.ceil(len(groups) / world.size)):
            if world.any(stop.requested):
                break
            numbers = share[turn] if turn < len(share) else []
            started = time.perf_counter()
            seeds = [
                [sample_seed(config.seed, f"{generation}/{problems.ids[n]}", i) for i in range(params.n)]
                for n in numbers
            ]
            prompts = [problems.prompts[number] for number in numbers]
            completions = sampler.sample(prompts, params, seeds=seeds, on_completion=lambda *_: bar.advance())
            seconds["generate"] += time.perf_counter() - started
            if not numbers:
                continue
            if pending is not None:
                keep(pending)
            first = not samples.records and not drawn and pending is None
            pending = executor.submit(
                _verified, problems, verifier, numbers, completions, config, generation, first=first
            )
            if first:  # before hours are spent on samples that nobody can judge
                pending.result()
        if pending is not None:
            keep(pending)
        stopped = world.any(stop.requested)
    samples.share(drawn)
    if stopped:
        done = sum(key[0] == generation for key in samples.records)
        raise KeyboardInterrupt(
            f"iteration {generation + 1} has {done:,} of {len(problems) * params.n:,} samples: "
            "the same command resumes it"
        )
    return seconds


def missing(problems: Problems, config: RestEMConfig, generation: int, samples: Samples) -> list[list[int]]:
    """Return the problems to sample, in the groups in which they are: those of which not every sample is there."""
    size, count = config.problems_at_once, config.samples_per_problem
    groups = [list(range(start, min(start + size, len(problems)))) for start in range(0, len(problems), size)]
    return [
        numbers
        for numbers in groups
        if any((generation, problems.ids[n], i) not in samples.records for n in numbers for i in range(count))
    ]


def with_prefix(prompt: Prompt, prefix: str) -> Prompt:
    """Return the prompt with text put before it, in a conversation before its first message's."""
    if not prefix:
        return prompt
    if isinstance(prompt, str):
        return prefix + prompt
    if not is_conversation(prompt):
        raise UserError("a prompt of token ids was given with a prompt_prefix: expected text, or no prefix")
    messages: list[dict[str, Any]] = [dict(message) for message in cast("Sequence[Message]", prompt)]
    return [{**messages[0], "content": prefix + str(messages[0].get("content", ""))}, *messages[1:]]


def _verified(
    problems: Problems,
    verifier: Verifier,
    numbers: Sequence[int],
    completions: Sequence[Sequence[Completion]],
    config: RestEMConfig,
    generation: int,
    *,
    first: bool,
) -> list[SampleRecord]:
    """Return the records of some problems' completions; of the `first` in a run, some must have been judged."""
    repeated = [number for number, row in zip(numbers, completions, strict=True) for _ in row]
    texts = [completion.text for row in completions for completion in row]
    found = problems.judge(verifier, repeated, texts)
    if first:
        check_judged(found)
    verdicts = iter(found)
    records = []
    for number, row in zip(numbers, completions, strict=True):
        name, source = problems.ids[number], problems.rows[number]
        for sample, completion in enumerate(row):
            verdict = next(verdicts)
            records.append(
                SampleRecord(
                    problem=name,
                    sample=sample,
                    prompt=source["prompt"],
                    completion=completion.text,
                    iteration=generation,
                    temperature=config.temperature,
                    finish_reason=completion.finish_reason,
                    logp=completion.logp,
                    reward=verdict.reward,
                    outcome=verdict.outcome,
                    answer=verdict.answer,
                    columns={key: value for key, value in source.items() if key not in NOT_COLUMNS},
                )
            )
    return records


def _merge_left_over(path: Path) -> None:
    """Take what killed processes had drawn into the one file."""
    store = SampleStore(path)
    if not path.exists():
        store.append()
    for other in sorted(path.parent.glob("samples-*.jsonl")):
        store.append(*SampleStore(other))
        other.unlink()
