"""What the trials of `rest-em` work with: problems, verifiers, base models, and rewards of a policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fionalm.data import character_tokenizer
from fionalm.data.cache import build_once, content_key
from fionalm.data.tasks import FUNCTION_ALPHABET, WORD_ALPHABET, function_rows, word_problem_rows
from fionalm.evaluation import majority_at_k
from fionalm.models import Decoder
from fionalm.optim.config import OptimizerConfig, ScheduleConfig
from fionalm.paths import home
from fionalm.posttraining import Policy, SupervisedConfig, encode_example, fit, load_policy
from fionalm.sampling import SamplingParams
from fionalm.studies.rest_em.runs import Base, TaskSize, decoder
from fionalm.training import to_plain
from fionalm.verifiers import CachedVerifier, NumberVerifier, ProgramVerifier, judged

Rows = list[dict[str, Any]]
BASE_VERSION = 1
"""Raised when a base model of the same settings means something else, such as other wording of the problems."""
MICRO_BATCH_TOKENS = 1024
"""Rows of like length go together: little padding, a quarter faster on a core than the whole batch at once."""


@dataclass(frozen=True)
class Problems:
    """The problems of one seed."""

    train: Rows
    validation: Rows
    test: Rows
    related: Rows


def problems(base: Base, size: TaskSize) -> Problems:
    """Return the problems of a task and seed."""
    return Problems(
        _rows(base, "train", size.train, solutions=20),
        _rows(base, "validation", size.validation),
        _rows(base, "test", size.test),
        _related(base, "test", size.related, 3),
    )


def corpus(base: Base) -> Rows:
    """Return what a base model is trained on: the task and what is related, with human solutions."""
    return _rows(base, "corpus", base.corpus) + _related(base, "corpus", base.related_corpus, 5)


def open_verifier(base: Base) -> CachedVerifier:
    """Return the task's verifier: numbers, or programs in the sandbox, one at a time."""
    return CachedVerifier(NumberVerifier() if base.task == "words" else ProgramVerifier(workers=1, timeout=5.0))


def base_policy(base: Base) -> Policy:
    """Return the base model: trained on the corpus, or taken from the cache folder, where it is kept."""
    if base.model:
        return load_policy(base.model)
    folder = home() / "rest-em" / content_key(BASE_VERSION, to_plain(base))
    return load_policy(build_once(folder, lambda path: _train_base(base, path)), device="cpu")


def _train_base(base: Base, folder: Path) -> None:
    alphabet = WORD_ALPHABET if base.task == "words" else FUNCTION_ALPHABET
    model = Decoder(decoder(base), torch.Generator().manual_seed(base.seed))
    policy = Policy(model, character_tokenizer(alphabet), device="cpu")
    rows = corpus(base)
    config = SupervisedConfig(
        optimizer=OptimizerConfig(lr=base.lr, betas=(0.9, 0.98)),
        schedule=ScheduleConfig(name="linear", warmup_steps=base.base_steps // 20),
        batch_size=base.batch_size,
        micro_batch_tokens=MICRO_BATCH_TOKENS,
        steps=base.base_steps,
        seed=base.seed,
    )
    examples = [encode_example(policy.tokenizer, row["prompt"], row["completion"]) for row in rows]
    fit(policy, examples, config, quiet=True)
    policy.save(folder)


def greedy_rewards(policy: Policy, rows: Rows, verifier: CachedVerifier, max_tokens: int) -> list[float | None]:
    """Return the reward of the greedy answer to each problem; None: the verifier failed."""
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0)
    drawn = policy.sampler().sample([row["prompt"] for row in rows], params)
    return [verdict.reward for verdict in judge(verifier, rows, [completion.text for [completion] in drawn])]


def sampled_rewards(policy: Policy, rows: Rows, verifier: CachedVerifier, size: TaskSize, seed: int) -> dict[str, Any]:
    """Return, of samples at temperature 1 and top-p 0.95, how many are right and whether their majority is."""
    count = size.evaluated
    params = SamplingParams(n=count, max_tokens=size.max_tokens, temperature=1.0, top_p=0.95, seed=seed)
    drawn = policy.sampler().sample([row["prompt"] for row in rows], params)
    found: dict[str, Any] = {"right": [], "judged": [], "majority": []}
    for row, completions in zip(rows, drawn, strict=True):
        verdicts = judge(verifier, [row] * count, [completion.text for completion in completions])
        rewards = [verdict.reward for verdict in verdicts if verdict.reward is not None]
        found["right"].append(int(sum(rewards)))
        found["judged"].append(len(rewards))
        # As in `fionalm.evaluation`: what the verifier failed on was not drawn.
        votes = [verdict.answer for verdict in verdicts if verdict.reward is not None]
        gold = {verdict.answer for verdict in verdicts if verdict.reward}
        found["majority"].append(float(majority_at_k(votes, gold, len(votes))) if votes else None)
    return found


def judge(verifier: CachedVerifier, rows: Rows, completions: Sequence[str]) -> list[Any]:
    """Return a verdict for each row's completion."""
    names = [name for name in ("answer", "tests", "entry_point") if name in rows[0]]
    columns = {name: [row[name] for row in rows] for name in names}
    return judged(verifier, [row["prompt"] for row in rows], completions, columns)


def _related(base: Base, split: str, count: int, fewer: int) -> Rows:
    """Return problems of the related kinds; of comparisons, of which there are few, a `fewer`-th of `count`."""
    if base.task == "code":
        return _rows(base, split, count, "lists")
    return _rows(base, split, count, "expression") + _rows(base, split, count // fewer, "compare")


def _rows(base: Base, split: str, count: int, kind: Any = None, solutions: int = 1) -> Rows:
    if base.task == "words":
        options = {"steps": base.steps, "largest": base.largest, "kind": kind or "story"}
        return word_problem_rows(split, count, seed=base.seed, solutions=solutions, **options)
    return function_rows(split, count, seed=base.seed, solutions=solutions, kind=kind or "numbers", steps=base.steps)
