"""What the trials of `rest-em` work with: problems, verifiers, base models, and rewards of a policy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fionalm.data import character_tokenizer
from fionalm.data.tasks import FUNCTION_ALPHABET, WORD_ALPHABET, function_rows, word_problem_rows
from fionalm.evaluation import majority_at_k
from fionalm.models import Decoder
from fionalm.optim.config import OptimizerConfig, ScheduleConfig
from fionalm.paths import home
from fionalm.posttraining import Policy, SupervisedConfig, encode_example, fit, load_policy
from fionalm.sampling import SamplingParams
from fionalm.studies.rest_em.runs import Base, TaskSize, decoder
from fionalm.training import config_hash
from fionalm.verifiers import CachedVerifier, NumberVerifier, ProgramVerifier

Rows = list[dict[str, Any]]


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


def open_verifier(base: Base) -> CachedVerifier:
    """Return the task's verifier: numbers, or programs in the sandbox, one at a time."""
    return CachedVerifier(NumberVerifier() if base.task == "words" else ProgramVerifier(workers=1, timeout=5.0))


def base_policy(base: Base) -> Policy:
    """Return the base model: trained on the corpus, or taken from the cache folder, where it is kept."""
    if base.model:
        return load_policy(base.model)
    folder = home() / "rest-em" / config_hash(base)
    if folder.exists():
        return load_policy(folder, device="cpu")
    alphabet = WORD_ALPHABET if base.task == "words" else FUNCTION_ALPHABET
    model = Decoder(decoder(base), torch.Generator().manual_seed(base.seed))
    policy = Policy(model, character_tokenizer(alphabet), device="cpu")
    rows = _rows(base, "corpus", base.corpus) + _related(base, "corpus", base.related_corpus, 5)
    config = SupervisedConfig(
        optimizer=OptimizerConfig(lr=base.lr, betas=(0.9, 0.98)),
        schedule=ScheduleConfig(name="linear", warmup_steps=base.base_steps // 20),
        batch_size=base.batch_size,
        steps=base.base_steps,
        seed=base.seed,
    )
    fit(
        policy, [encode_example(policy.tokenizer, row["prompt"], row["completion"]) for row in rows], config, quiet=True
    )
    unfinished = folder.with_name(f".{folder.name}-{os.getpid()}")
    policy.save(unfinished)
    try:
        unfinished.rename(folder)
    except OSError:  # another trial of this base was faster, with the same weights
        shutil.rmtree(unfinished, ignore_errors=True)
    return policy


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
        votes = [verdict.answer for verdict in verdicts]
        gold = {verdict.answer for verdict in verdicts if verdict.reward}
        found["majority"].append(float(majority_at_k(votes, gold, count)))
    return found


def judge(verifier: CachedVerifier, rows: Rows, completions: Sequence[str]) -> list[Any]:
    """Return a verdict for each row's completion."""
    names = [name for name in ("answer", "tests", "entry_point") if name in rows[0]]
    return verifier(
        [row["prompt"] for row in rows], completions, **{name: [row[name] for row in rows] for name in names}
    )


def _related(base: Base, split: str, count: int, fewer: int) -> Rows:
    """Return problems of the related kinds; of comparisons, of which there are few, a `fewer`-th of `count`."""
    if base.task == "code":
        return _rows(base, split, count, "lists")
    return _rows(base, split, count, "expression") + _rows(base, split, count // fewer, "compare")


def _rows(base: Base, split: str, count: int, kind: Any = None, solutions: int = 1) -> Rows:
    if base.task == "words":
        options = {"steps": base.steps, "largest": base.largest, "kind": kind or "story"}
        return word_problem_rows(split, count, seed=base.seed, solutions=solutions, **options)
    # The last step of a function of a list, a sum or a count, is the easiest.
    steps = (*base.steps, max(base.steps) + 1) if kind == "lists" else base.steps
    return function_rows(split, count, seed=base.seed, solutions=solutions, kind=kind or "numbers", steps=steps)
