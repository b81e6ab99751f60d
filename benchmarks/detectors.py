"""All detectors of one generator against the time that training the generator took.

    python benchmarks/detectors.py --out detectors.json

A decoder of 1M parameters learns a synthetic knowledge graph for some epochs; it draws 16 objects for each of many
pairs, the graph labels them, and four detectors learn from them: head and full, sentence and token, of the generator's
own representation, split by subject. Target: all four together take less time than the generator did.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from fionalm.data.knowledge import SyntheticGraph, TripleConfig, TripleCorpus, load_triples
from fionalm.evaluation import choose_pairs, sample_objects
from fionalm.models.config import DecoderConfig
from fionalm.models.decoder import Decoder
from fionalm.optim.config import OptimizerConfig
from fionalm.posttraining import DetectorConfig, Policy, RewardConfig, evaluate_detector, split_by_group, train_detector
from fionalm.posttraining.detector_config import Task, Variant
from fionalm.training import TrainConfig, train

SAMPLES = 16
DATA = TripleConfig(
    graph="synthetic", synthetic=SyntheticGraph(subjects=400, predicates=4, objects=100), vocab_size=600, seq_len=24
)
KINDS: tuple[tuple[Variant, Task], ...] = (
    ("head", "sentence"),
    ("head", "token"),
    ("full", "sentence"),
    ("full", "token"),
)


def generator(corpus: TripleCorpus, epochs: int) -> tuple[Policy, float]:
    """Return a decoder of about 1M parameters that has learned the graph, and the seconds that it took."""
    shape = DecoderConfig(
        vocab_size=corpus.vocab_size,
        d_model=128,
        n_layers=4,
        n_heads=4,
        norm="rmsnorm",
        mlp="silu_gated",
        d_ff=352,
        max_seq_len=64,
    )
    steps = math.ceil(epochs * len(corpus.train) / 64)
    config = TrainConfig(
        model=shape, data=DATA, optimizer=OptimizerConfig(lr=3e-3), batch_size=64, steps=steps, eval_batches=0
    )
    decoder = Decoder(shape, torch.Generator().manual_seed(0))
    started = time.perf_counter()
    train(config, model=decoder, corpus=corpus)
    seconds = time.perf_counter() - started
    return Policy(decoder, corpus.tokenizer, device="cpu"), seconds


def labelled(policy: Policy, corpus: TripleCorpus, pairs: int) -> list[dict[str, Any]]:
    """Return the generator's objects with what the graph says of them."""
    chosen = choose_pairs(corpus.split, pairs)
    drawn = sample_objects(
        policy.sampler(max_batch=256),
        corpus.tokens,
        corpus.split,
        chosen,
        samples=SAMPLES,
        max_tokens=corpus.longest_object,
    )
    prompts = {pair: list(ids) for pair, ids in zip(chosen, corpus.tokens.encode_pairs(chosen), strict=True)}
    return [
        {
            "prompt": prompts[one.subject, one.predicate],
            "completion": list(one.token_ids),
            "label": int(one.hallucinated),
            "group": one.subject,
        }
        for one in drawn
    ]


def detectors(policy: Policy, rows: list[dict[str, Any]], epochs: float) -> dict[str, dict[str, float | None]]:
    """Return seconds and areas of each detector."""
    splits = split_by_group(rows)
    training = RewardConfig(
        epochs=epochs,
        patience=2,
        batch_size=64,
        micro_batch_tokens=65_536,
        optimizer=OptimizerConfig(lr=1e-3),
        log_every=1000,
    )
    found = {}
    for variant, task in KINDS:
        config = DetectorConfig(variant=variant, task=task, training=training)
        started = time.perf_counter()
        detector = train_detector(policy, splits["train"], config, validation=splits["validation"], quiet=True)
        seconds = time.perf_counter() - started
        measured = evaluate_detector(detector, splits["test"], resamples=0)
        found[config.name] = {
            "seconds": seconds,
            "auc_pr": measured.auc_pr.estimate,
            "auc_roc": measured.auc_roc.estimate,
            "base_rate": measured.base_rate.estimate,
        }
    return found


def main() -> int:
    """Measure, print, write JSON; return 1 if the target was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of everything")
    parser.add_argument("--epochs", type=int, default=20, help="of the generator; the paper trains for 20 and more")
    parser.add_argument("--pairs", type=int, default=200, help="pairs of each split that objects are drawn for")
    parser.add_argument("--detector-epochs", type=float, default=4.0, help="of the full detectors")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    corpus = load_triples(DATA)
    policy, seconds = generator(corpus, arguments.epochs)
    print(
        f"generator: {policy.model.config.num_parameters():,} parameters, {len(corpus.train):,} triples, "  # pyright: ignore
        f"{arguments.epochs} epochs, {arguments.threads} threads: {seconds:.1f} s",
        flush=True,
    )
    rows = labelled(policy, corpus, arguments.pairs)
    found = detectors(policy, rows, arguments.detector_epochs)
    total = math.fsum(one["seconds"] or 0.0 for one in found.values())
    print(f"detectors: {len(rows):,} labelled objects, 60% of them learnt from")
    for name, one in found.items():
        areas = ", ".join(f"{key} {value:.3f}" for key, value in one.items() if key != "seconds" and value is not None)
        print(f"  {name:<14} {one['seconds']:6.1f} s   {areas}")
    print(f"all detectors {total:.1f} s, {total / seconds:.2f} of the generator's {seconds:.1f} s (target below 1)")
    if arguments.out is not None:
        values = {"threads": arguments.threads, "generator": seconds, "detectors": found, "ratio": total / seconds}
        arguments.out.write_text(json.dumps(values, indent=2) + "\n")
    return int(total >= seconds)


if __name__ == "__main__":
    sys.exit(main())
