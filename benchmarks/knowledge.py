"""Knowledge graphs: membership a second, and objects drawn for pairs against transformers' `generate`.

    python benchmarks/knowledge.py

Membership: a million freshly made triples, half of them in the graph, looked up in a graph of 200,000.
Generation: 16 objects for each of many (subject, predicate) pairs of a synthetic graph, by `sample_objects` (all pairs
at once, judged too) and by `generate`, called once a pair with `num_return_sequences=16` on the same weights. A decoder
of 1M parameters is trained first, so that both end objects as a model that knows its graph does. Tokens count up to the
stop; rounds are interleaved.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from fionalm.data.knowledge import (
    KnowledgeGraph,
    SyntheticGraph,
    TripleConfig,
    TripleCorpus,
    load_triples,
    synthetic_graph,
)
from fionalm.data.knowledge.graph import Pair
from fionalm.evaluation import choose_pairs, sample_objects
from fionalm.models.config import DecoderConfig
from fionalm.models.decoder import Decoder
from fionalm.optim.config import OptimizerConfig
from fionalm.sampling import EngineSampler
from fionalm.training import TrainConfig, train

LOOKUPS, LOOKUP_TARGET = 1_000_000, 1e6
GENERATION_TARGET = 5.0
SAMPLES = 16
DATA = TripleConfig(
    graph="synthetic", synthetic=SyntheticGraph(subjects=400, predicates=4, objects=100), vocab_size=600, seq_len=24
)


def lookups(rounds: int) -> list[float]:
    """Return lookups a second of each round, of strings that no dictionary has hashed before."""
    graph = synthetic_graph(SyntheticGraph(subjects=10_000, predicates=10, objects=1_000))
    rates = []
    for _ in range(rounds):
        asked = _fresh(graph)
        started = time.perf_counter()
        found = graph.contains_many(asked)
        rates.append(LOOKUPS / (time.perf_counter() - started))
        if sum(found) < LOOKUPS // 2:
            raise AssertionError("a triple of the graph was not found in it")
    return rates


def _fresh(graph: KnowledgeGraph) -> list[tuple[str, str, str]]:
    """Return copies of the graph's triples, every other with another object."""
    triples = graph.triples
    asked = [triples[index % len(triples)] for index in range(LOOKUPS)]
    return [
        (bytes(s, "utf-8").decode(), bytes(p, "utf-8").decode(), bytes(o, "utf-8").decode() + "?" * (index % 2))
        for index, (s, p, o) in enumerate(asked)
    ]


def trained(corpus: TripleCorpus, epochs: int) -> Decoder:
    """Return a decoder of about 1M parameters that has learned the graph for some epochs."""
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
    train(config, model=decoder, corpus=corpus, quiet=True)
    return decoder.eval()


def own(
    decoder: Decoder, corpus: TripleCorpus, pairs: list[Pair], max_batch: int
) -> Callable[[int], tuple[float, int]]:
    """Return a function of a seed that gives seconds and tokens of drawing and judging all pairs' objects."""
    sampler = EngineSampler(decoder, corpus.tokenizer, max_batch=max_batch)

    def run(seed: int) -> tuple[float, int]:
        started = time.perf_counter()
        found = sample_objects(
            sampler, corpus.tokens, corpus.split, pairs, samples=SAMPLES, max_tokens=corpus.longest_object, seed=seed
        )
        return time.perf_counter() - started, sum(len(one.token_ids) for one in found)

    return run


def peer(decoder: Decoder, corpus: TripleCorpus, pairs: list[Pair]) -> Callable[[int], tuple[float, int]]:
    """Return the same for `generate`, one pair a call."""
    with tempfile.TemporaryDirectory() as folder:
        decoder.save_pretrained(folder)
        model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    prompts, end = corpus.tokens.encode_pairs(pairs), corpus.tokens.end_id

    def run(seed: int) -> tuple[float, int]:
        torch.manual_seed(seed)
        tokens, started = 0, time.perf_counter()
        for prompt in prompts:
            ids = torch.tensor([prompt])
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                top_k=0,
                max_new_tokens=corpus.longest_object,
                num_return_sequences=SAMPLES,
                eos_token_id=end,
                pad_token_id=end,
            )
            ended = out[:, len(prompt) :] == end
            tokens += int(torch.where(ended.any(1), ended.int().argmax(1) + 1, ended.shape[1]).sum())
        return time.perf_counter() - started, tokens

    return run


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return tokens a second of both, and ratios by round."""
    corpus = load_triples(DATA)
    decoder = trained(corpus, arguments.epochs)
    pairs = choose_pairs(corpus.split, arguments.pairs)
    runs = {
        "sample_objects": own(decoder, corpus, pairs, arguments.max_batch),
        "generate": peer(decoder, corpus, pairs),
    }
    rates: dict[str, list[float]] = {name: [] for name in runs}
    objects: list[float] = []
    for seed in range(arguments.rounds):
        for name, run in runs.items():
            seconds, tokens = run(seed)
            rates[name].append(tokens / seconds)
            objects.append(tokens / len(pairs) / SAMPLES)
    ratios = [a / b for a, b in zip(rates["sample_objects"], rates["generate"], strict=True)]
    return {
        "parameters": decoder.config.num_parameters(),
        "pairs": len(pairs),
        "tokens_per_object": statistics.mean(objects),
        "tokens_per_second": {name: statistics.median(values) for name, values in rates.items()},
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def main() -> int:
    """Measure, print, write JSON; return 1 if a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each side")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds")
    parser.add_argument("--pairs", type=int, default=60, help="pairs of each split that objects are drawn for")
    parser.add_argument("--epochs", type=int, default=10, help="that the model is trained for first")
    parser.add_argument("--max-batch", type=int, default=256, help="the engine's batch")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    arguments = parser.parse_args()
    disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    found = lookups(arguments.rounds)
    rate = statistics.median(found)
    print(f"membership: {rate:,.0f} lookups/s (target {LOOKUP_TARGET:,.0f})", flush=True)
    generation = compare(arguments)
    rates = generation["tokens_per_second"]
    each = " ".join(f"{ratio:.2f}" for ratio in generation["ratios"])
    print(
        f"objects: {generation['parameters']:,} parameters, {generation['pairs']} pairs x {SAMPLES}, "
        f"{generation['tokens_per_object']:.1f} tokens an object, {arguments.threads} threads\n"
        f"  sample_objects {rates['sample_objects']:,.0f} tokens/s, generate a pair {rates['generate']:,.0f}: "
        f"{generation['ratio']:.2f} times ({each}), target {GENERATION_TARGET:g}"
    )
    if arguments.out is not None:
        values = {"threads": arguments.threads, "lookups_per_second": found, "generation": generation}
        arguments.out.write_text(json.dumps(values, indent=2) + "\n")
    missed = [
        name
        for name, met in (("membership", rate >= LOOKUP_TARGET), ("objects", generation["ratio"] >= GENERATION_TARGET))
        if not met
    ]
    if missed:
        print(f"missed targets: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
