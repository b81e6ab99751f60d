"""Samples of prompts, drawn and judged: verification runs beside sampling, and both are timed.

As soon as the last sample of a prompt ends, a thread hands the prompt's samples to the verifier, whose own processes do
the work; what is left when sampling ends is waited for, and reported as idle time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from fionalm.data import Prompt, TextTokenizer
from fionalm.sampling import Completion, Sampler, SampleRecord, SamplingParams
from fionalm.training.distributed import World
from fionalm.verifiers import Verdict, Verifier, judged

Row = Mapping[str, Any]
Selector = Callable[[Sequence[Prompt], Sequence[str]], Sequence[float]]
"""Scores completions of prompts; best-of-N keeps the one with the largest score."""
NOT_COLUMNS = ("prompt", "completion")


@dataclass
class Group:
    """One prompt's samples."""

    problem: str
    """The prompt's id."""
    prompt_ids: tuple[int, ...]
    completions: list[Completion]
    verdicts: list[Verdict]
    scores: list[float] | None = None
    """The selector's; None: there is none."""

    @property
    def rewards(self) -> list[float]:
        """Rewards, NaN where the verifier failed."""
        return [float("nan") if verdict.reward is None else verdict.reward for verdict in self.verdicts]

    @property
    def right(self) -> list[bool]:
        """Which samples are right."""
        return [verdict.outcome == "right" for verdict in self.verdicts]

    @property
    def judged(self) -> int:
        """How many samples the verifier could judge."""
        return sum(verdict.reward is not None for verdict in self.verdicts)

    @property
    def distinct_right(self) -> int:
        """How many different right completions there are."""
        texts = zip(self.completions, self.right, strict=True)
        return len({completion.text.strip() for completion, right in texts if right})


@dataclass
class Seconds:
    """Where the time of a batch went, in one process."""

    sampling: float = 0.0
    scoring: float = 0.0
    """In the verifier, most of it beside sampling, and in the selector."""
    waiting: float = 0.0
    """After sampling, for the verifier: idle."""


@dataclass
class Rollouts:
    """Draws and judges.

    Args:
        sampler: draws from the policy as it is at each call.
        verifier: gives rewards.
        params: how to draw.
        selector: scores, beside the rewards.
        columns: names of the rows' columns that the verifier is given; None: all but prompt and completion.
    """

    sampler: Sampler
    tokenizer: TextTokenizer
    verifier: Verifier
    params: SamplingParams
    selector: Selector | None = None
    seconds: Seconds = field(default_factory=Seconds)
    """Of the latest call."""

    def draw(self, rows: Sequence[Row], problems: Sequence[str], seeds: Sequence[Sequence[int]]) -> list[Group]:
        """Return a judged group of samples for each row.

        Args:
            rows: `prompt`, and the verifier's columns.
            problems: their ids.
            seeds: [rows][n].

        Raises:
            UserError: a prompt that does not fit, or a verifier that cannot work.
        """
        prompts = [row["prompt"] for row in rows]
        texts: list[list[str]] = [[""] * self.params.n for _ in rows]
        missing = [self.params.n] * len(rows)
        futures: dict[int, Future[tuple[list[Verdict], float]]] = {}
        started = time.perf_counter()
        with ThreadPoolExecutor(1, thread_name_prefix="verifier") as pool:

            def on_completion(prompt: int, sample: int, completion: Completion) -> None:
                texts[prompt][sample] = completion.text
                missing[prompt] -= 1
                if not missing[prompt]:
                    futures[prompt] = pool.submit(_timed_judge, self.verifier, rows[prompt], texts[prompt])

            drawn = self.sampler.sample(prompts, self.params, seeds=seeds, on_completion=on_completion)
            sampled = time.perf_counter()
            done_verdicts = [futures[index].result() for index in range(len(rows))]
        done = time.perf_counter()
        self.seconds = Seconds(sampled - started, sum(seconds for _, seconds in done_verdicts), done - sampled)
        groups = [
            Group(problem, tuple(self.tokenizer.encode_prompt(prompt)), completions, verdicts)
            for problem, prompt, completions, (verdicts, _) in zip(problems, prompts, drawn, done_verdicts, strict=True)
        ]
        if self.selector is not None and groups:
            everything = [text for found in texts for text in found]
            scores = self.selector([prompt for prompt in prompts for _ in range(self.params.n)], everything)
            for index, group in enumerate(groups):
                group.scores = [float(s) for s in scores[index * self.params.n : (index + 1) * self.params.n]]
            self.seconds.scoring += time.perf_counter() - done
        return groups


def judge(verifier: Verifier, row: Row, completions: Sequence[str]) -> list[Verdict]:
    """Return a verdict for each completion of a row; a verifier that raises has failed on all of them.

    Raises:
        UserError: the verifier says what is wrong with the data, such as a missing column.
    """
    count = len(completions)
    columns = {name: [value] * count for name, value in row.items() if name not in NOT_COLUMNS}
    return judged(verifier, [row["prompt"]] * count, completions, columns)


def gather(world: World, groups: Sequence[Group]) -> list[Group]:
    """Return all processes' groups in order, where process r has every size-th from r on; each process calls this."""
    if world.size == 1:
        return list(groups)
    shares: list[Any] = [None] * world.size
    dist.all_gather_object(shares, list(groups))
    return [shares[index % world.size][index // world.size] for index in range(sum(len(share) for share in shares))]


def records(groups: Sequence[Group], rows: Sequence[Row], *, iteration: int, temperature: float) -> list[SampleRecord]:
    """Return groups as lines of a samples file."""
    found = []
    for group, row in zip(groups, rows, strict=True):
        columns = {name: value for name, value in row.items() if name not in NOT_COLUMNS}
        for sample, (completion, verdict) in enumerate(zip(group.completions, group.verdicts, strict=True)):
            found.append(
                SampleRecord(
                    problem=group.problem,
                    sample=sample,
                    prompt=row["prompt"],
                    completion=completion.text,
                    iteration=iteration,
                    temperature=temperature,
                    finish_reason=completion.finish_reason,
                    token_ids=None if completion.token_ids is None else list(completion.token_ids),
                    logp=completion.logp,
                    reward=verdict.reward,
                    outcome=verdict.outcome,
                    answer=verdict.answer,
                    score=None if group.scores is None else group.scores[sample],
                    columns=columns,
                )
            )
    return found


def outcome_counts(groups: Sequence[Group]) -> dict[str, int]:
    """Return how often each outcome occurred."""
    return dict(Counter(verdict.outcome for group in groups for verdict in group.verdicts))


def unique(names: Sequence[str]) -> list[str]:
    """Return names of which each occurs once: the second `7` is `7#2`."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return found


def reward_table(groups: Sequence[Group]) -> torch.Tensor:
    """Return rewards [prompts, samples], NaN where the verifier failed."""
    return torch.tensor([group.rewards for group in groups], dtype=torch.float64)


def score_table(groups: Sequence[Group]) -> torch.Tensor | None:
    """Return the selector's scores [prompts, samples], or None."""
    if any(group.scores is None for group in groups):
        return None
    return torch.tensor([group.scores for group in groups], dtype=torch.float64)


def _timed_judge(verifier: Verifier, row: Row, completions: Sequence[str]) -> tuple[list[Verdict], float]:
    started = time.perf_counter()
    return judge(verifier, row, completions), time.perf_counter() - started
