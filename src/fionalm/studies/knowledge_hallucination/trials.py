"""The trials of `knowledge-hallucination`: a model of a graph is trained and asked; models are made detectors."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from fionalm.data.cache import content_key
from fionalm.data.knowledge import TripleCorpus, load_triples, pair_text
from fionalm.evaluation.detection import evaluate_detection, length_direction, single_class
from fionalm.evaluation.hallucination import choose_pairs, measure_hallucination, sample_objects
from fionalm.optim.config import OptimizerConfig, ScheduleConfig
from fionalm.paths import atomic_write_text, home
from fionalm.posttraining import Policy, load_policy
from fionalm.posttraining.detector_config import DetectorConfig
from fionalm.posttraining.detector_rows import split_by_group
from fionalm.posttraining.detectors import Detector, evaluate_detector, train_detector
from fionalm.posttraining.reward_config import RewardConfig
from fionalm.studies.knowledge_hallucination.runs import Detecting, Generator
from fionalm.training import TrainConfig, from_plain, to_plain, train

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = 1
"""Raised when a model or rows of the same settings mean something else."""
MAX_BATCH = 256
SHOWN = 24
"""Test rows of every detector that the report can show."""
Rows = list[dict[str, Any]]


def generate(values: dict[str, Any]) -> dict[str, Any]:
    """Train a model of a graph, draw objects and judge them; a trial.

    Returns:
        `measures`: one a visibility and temperature, as `Hallucination.to_dict`; sizes, tokens and FLOPs of training;
        counts of the split.
    """
    started = time.perf_counter()
    run = from_plain(Generator, values)
    corpus = load_triples(run.data)
    config = train_config(run, corpus)
    length = corpus.train.lengths - 1
    tokens = float(config.steps * config.batch_size * length.mean())
    with _locked(run) as folder:
        result = train(config, corpus=corpus, out=folder, quiet=True)
        found = {
            "measures": [],
            "parameters": config.model.num_parameters(embeddings=False),
            "tokens": tokens,
            "flops": tokens * config.model.flops_per_token(round(length.mean())),
            "steps": config.steps,
            "loss": result.to_dict()["final_loss"],
            "diverged": result.diverged,
            "triples": len(corpus.train),
            "split": corpus.split.to_dict(),
            "train_seconds": result.seconds,
        }
        if result.diverged:  # it has no model to ask
            return found
        policy = load_policy(folder)
        if run.detector_samples:
            _write_rows(run, corpus, policy, folder)
    pairs = choose_pairs(corpus.split, run.pairs, seed=run.seed)
    generated = sample_objects(
        policy.sampler(max_batch=MAX_BATCH),
        corpus.tokens,
        corpus.split,
        pairs,
        temperatures=run.temperatures,
        samples=run.samples,
        seed=run.seed,
    )
    measured = measure_hallucination(generated, corpus.split, resamples=400, seed=run.seed)
    seconds = time.perf_counter() - started
    return {**found, "measures": [one.to_dict() for one in measured], "seconds": seconds}


def detect(values: dict[str, Any]) -> dict[str, Any]:
    """Make a model detectors of a generator's hallucinations; a trial.

    Returns:
        `detectors`: by variant and task, such as full-sentence, as `Detection.to_dict`, or the reason why there is
        none; `baselines`: what needs no training; `rows`: some test rows with their scores.
    """
    started = time.perf_counter()
    run = from_plain(Detecting, values)
    rows = detector_rows(run.generator)
    splits = split_by_group(rows, seed=run.generator.seed)
    with _locked(run.base) as folder:
        corpus = load_triples(run.base.data)
        train(train_config(run.base, corpus), corpus=corpus, out=folder, quiet=True)
        policy = load_policy(folder)
    test = splits["test"]
    shown: Rows = [{name: row[name] for name in _SHOWN} for row in test[:: max(1, len(test) // SHOWN)][:SHOWN]]
    found: dict[str, Any] = {}
    reason = next((why for name in ("train", "test") if (why := _single(splits[name], name))), None)
    for variant in run.variants:
        for task in run.tasks:
            config = DetectorConfig(variant=variant, task=task, training=_training(run))
            if reason is not None:
                found[config.name] = {"undefined": reason}
                continue
            detector = train_detector(policy, splits["train"], config, validation=splits["validation"], quiet=True)
            detection = evaluate_detector(detector, test, resamples=0)
            found[config.name] = {**detection.to_dict(), "facts": detector.facts}
            _add_scores(shown, config.name, detector)
    return {
        "detectors": found,
        "baselines": {} if reason else _baselines(splits["train"], test),
        "rows": shown,
        "counts": {name: len(part) for name, part in splits.items()},
        "seconds": time.perf_counter() - started,
    }


def detector_rows(run: Generator) -> Rows:
    """Return a generator's objects for fully visible pairs, as what detectors learn from.

    Drawn when it was trained, or now where that is no longer there.
    """
    with _locked(run) as folder:
        if not (folder / ROWS_FILE).exists():
            corpus = load_triples(run.data)
            train(train_config(run, corpus), corpus=corpus, out=folder, quiet=True)
            _write_rows(run, corpus, load_policy(folder), folder)
        return json.loads((folder / ROWS_FILE).read_text(encoding="utf-8"))


def train_config(run: Generator, corpus: TripleCorpus) -> TrainConfig:
    """Return the training of a model.

    It has `epochs` times `updates_per_epoch` updates, give or take a rounding of the batch, in which every triple is
    met `epochs` times.
    """
    from dataclasses import replace

    batch = max(1, round(len(corpus.train) / run.updates_per_epoch))
    steps = max(1, round(run.epochs * len(corpus.train) / batch))
    return TrainConfig(
        model=replace(run.decoder, vocab_size=corpus.vocab_size),
        data=run.data,
        optimizer=OptimizerConfig(lr=run.lr),
        schedule=ScheduleConfig(name="cosine", warmup_steps=max(1, steps // 20)),
        batch_size=batch,
        steps=steps,
        seed=run.seed,
        eval_batches=0,
        log_every=max(1, steps // 20),
        keep_checkpoints=1,
        checkpoint_every=0 if steps < 5000 else steps // 50,
    )


ROWS_FILE = "detector-rows.json"
_SHOWN = ("subject", "predicate", "completion", "verdict", "label", "logp")


def _write_rows(run: Generator, corpus: TripleCorpus, policy: Policy, folder: Path) -> None:
    if (folder / ROWS_FILE).exists():
        return
    drawn = sample_objects(
        policy.sampler(max_batch=MAX_BATCH),
        corpus.tokens,
        corpus.split,
        corpus.split.fully_visible,
        samples=run.detector_samples,
        seed=run.seed + 1,
    )
    rows = [
        {
            "prompt": pair_text((one.subject, one.predicate)),
            "completion": one.object,
            "label": int(one.hallucinated),
            "group": one.subject,
            "subject": one.subject,
            "predicate": one.predicate,
            "verdict": one.verdict,
            "logp": one.logp,
        }
        for one in drawn
    ]
    atomic_write_text(folder / ROWS_FILE, json.dumps(rows))


def _training(run: Detecting) -> RewardConfig:
    """Return how all weights of a detector learn: at a tenth of the rate that they were first trained at."""
    return RewardConfig(
        epochs=run.epochs,
        patience=2,
        batch_size=32,
        optimizer=OptimizerConfig(lr=run.base.lr / 10, betas=(0.9, 0.999)),
        log_every=1000,
        seed=run.base.seed,
    )


def _single(rows: Sequence[Any], split: str) -> str | None:
    return single_class(np.array([row["label"] for row in rows]), split)


def _add_scores(shown: Rows, name: str, detector: Detector) -> None:
    prompts = [pair_text((row["subject"], row["predicate"])) for row in shown]
    scores = detector.probabilities(prompts, [row["completion"] for row in shown])
    for row, score in zip(shown, scores, strict=True):
        row[name] = score


def _baselines(learnt: Sequence[Any], test: Sequence[Any]) -> dict[str, Any]:
    """Return what the generator's own probability and the answer's length tell."""
    labels = [row["label"] for row in test]
    lengths = [[len(row["completion"]) for row in rows] for rows in (learnt, test)]
    direction = length_direction(lengths[0], [row["label"] for row in learnt])
    scores = {
        "sequence log-probability": [-row["logp"] for row in test],
        "length": [direction * length for length in lengths[1]],
    }
    return {name: evaluate_detection(score, labels, resamples=0).to_dict() for name, score in scores.items()}


@contextmanager
def _locked(run: Generator) -> Iterator[Path]:
    """Give the folder of a model to one process at a time: its training, which a killed run resumes, and its rows."""
    trained = to_plain(run)
    for name in ("pairs", "samples", "temperatures"):
        del trained[name]
    folder = home() / "knowledge-hallucination" / content_key(VERSION, trained)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        yield folder
