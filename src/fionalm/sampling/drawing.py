"""Samples of a dataset's problems, drawn into a file that a killed run goes on with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fionalm.data.text_tokenizer import Prompt
from fionalm.errors import UserError
from fionalm.sampling.records import SampleRecord, SampleStore
from fionalm.sampling.types import Completion, Sampler, SamplingParams, sample_seed


@dataclass(frozen=True)
class Problem:
    """What is to be answered."""

    id: str
    prompt: Prompt
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The dataset's others, such as the gold answer."""


def problems_of(rows: Iterable[Mapping[str, Any]]) -> list[Problem]:
    """Return rows with a `prompt` as problems, named by their `id`, or else by their number from 0.

    Raises:
        UserError: two rows have the same id.
    """
    problems = []
    for number, row in enumerate(rows):
        others = {name: value for name, value in row.items() if name not in ("prompt", "id")}
        problems.append(Problem(str(row.get("id", number)), row["prompt"], others))
    seen: dict[str, int] = {}
    for number, problem in enumerate(problems, 1):
        if problem.id in seen:
            raise UserError(f"rows {seen[problem.id]} and {number} have the same id {problem.id!r}: expected one each")
        seen[problem.id] = number
    return problems


def draw_samples(
    sampler: Sampler,
    problems: Sequence[Problem],
    params: SamplingParams,
    store: SampleStore,
    *,
    iteration: int = 0,
    whole: bool = False,
    quiet: bool = False,
) -> None:
    """Draw `params.n` samples of each problem into `store`, less those that it has at this temperature.

    A sample's seed comes from `params.seed`, the problem's id and the sample's number, so what is drawn does not depend
    on what was there before, and several temperatures can have one file.

    Args:
        sampler: draws.
        problems: with ids that differ.
        params: how.
        store: gets each sample as soon as it is drawn.
        iteration: of the samples.
        whole: draw all samples of a problem again if some are missing: for an endpoint that is asked for several at
            once, and has its answer in a cache.
        quiet: show no progress.

    Raises:
        UserError: the store has a problem with another prompt, or what the sampler raises; what was drawn is kept.
    """
    missing = {problem.id: _missing(problem, params, store, iteration) for problem in problems}
    if whole:
        missing = {name: list(range(params.n)) if numbers else [] for name, numbers in missing.items()}
    for count in sorted(set(map(len, missing.values())) - {0}, reverse=True):
        group = [problem for problem in problems if len(missing[problem.id]) == count]
        numbers = [missing[problem.id] for problem in group]

        def keep(row: int, place: int, completion: Completion, group: Any = group, numbers: Any = numbers) -> None:
            problem, sample = group[row], numbers[row][place]
            if store.get(iteration, params.temperature, problem.id, sample) is None:
                store.append(_record(problem, sample, completion, params, iteration))

        seeds = [
            [sample_seed(params.seed, problem.id, sample) for sample in row]
            for problem, row in zip(group, numbers, strict=True)
        ]
        prompts = [problem.prompt for problem in group]
        sampler.sample(prompts, replace(params, n=count), seeds=seeds, on_completion=keep, quiet=quiet)


def _missing(problem: Problem, params: SamplingParams, store: SampleStore, iteration: int) -> list[int]:
    there = [store.get(iteration, params.temperature, problem.id, sample) for sample in range(params.n)]
    for record in there:
        if record is not None and record.prompt != problem.prompt:
            raise UserError(
                f"{store.path} has samples of problem {problem.id!r} with another prompt: expected the same data and "
                "template, or another file"
            )
    return [sample for sample, record in enumerate(there) if record is None]


def _record(
    problem: Problem, sample: int, completion: Completion, params: SamplingParams, iteration: int
) -> SampleRecord:
    return SampleRecord(
        problem=problem.id,
        sample=sample,
        prompt=problem.prompt,
        completion=completion.text,
        iteration=iteration,
        temperature=params.temperature,
        finish_reason=completion.finish_reason,
        logp=completion.logp,
        columns=dict(problem.columns),
    )
