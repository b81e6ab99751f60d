"""What `knowledge-hallucination` will cost: every run as counts of tokens, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fionalm.data.knowledge.config import TripleConfig
from fionalm.studies.knowledge_hallucination.presets import KnowledgeHallucinationConfig
from fionalm.studies.knowledge_hallucination.runs import Detecting, Generator, detectings, generator, generators
from fionalm.training import Workload

COUNTRIES, FB15K237 = 9_300, 310_000
"""Triples: as counted of the package, and as published of all three files together."""
TRAINED_SHARE = 0.82
"""Of a graph's triples that training sees."""
TOKENS, REAL_TOKENS, OBJECT_TOKENS = 13, 33, 4
"""Of a triple, of one of FB15k-237, and of an object with its end, as counted at the study's vocabularies."""
PAIRS_PER_TRIPLE = 0.45


def plan(config: KnowledgeHallucinationConfig) -> list[Workload]:
    """Return every run of the study, for estimates of its cost."""
    return list(_workloads(config))


def triples(data: TripleConfig) -> int:
    """Return about how many triples a model of `data` is trained on."""
    made = data.synthetic
    whole = {
        "synthetic": round(made.subjects * made.predicates * made.objects_per_pair),
        "countries": COUNTRIES,
    }.get(data.graph, FB15K237)
    return max(1, round(TRAINED_SHARE * whole * data.fraction))


def _workloads(config: KnowledgeHallucinationConfig) -> Iterator[Workload]:
    yield from map(_generating, generators(config).values())
    for one in detectings(config).values():
        yield from _detecting(one)
    if config.real is not None:
        real = config.real
        data = TripleConfig(
            "FB15k-237", fraction=min(1.0, real.triples / FB15K237) if real.triples else 1.0, vocab_size=real.vocab_size
        )
        asked = replace(config, epochs=real.epochs)
        models = {
            (shape, epochs): generator(asked, data, real.updates_per_epoch, shape, epochs, 0)
            for shape in real.shapes
            for epochs in real.epochs
        }
        yield from map(_generating, models.values())
        for shape in real.shapes:
            longest = real.epochs[-1]
            yield from _detecting(
                Detecting(models[shape, longest], models[real.shapes[-1], longest], config.detector_epochs)
            )


def _generating(run: Generator) -> Workload:
    trained = triples(run.data)
    length = _tokens(run)
    asked = min(run.pairs * 3, round(trained * PAIRS_PER_TRIPLE))
    objects = asked * sum(1 if one == 0 else run.samples for one in run.temperatures)
    objects += round(trained * PAIRS_PER_TRIPLE) * run.detector_samples
    return Workload(
        model=run.decoder,
        seq_len=length,
        trained_tokens=run.epochs * trained * length,
        sampled_tokens=objects * OBJECT_TOKENS,
        prompt_tokens=asked * len(run.temperatures) * (length - OBJECT_TOKENS),
        sample_batch=256,
    )


def _detecting(run: Detecting) -> Iterator[Workload]:
    rows = round(triples(run.generator.data) * PAIRS_PER_TRIPLE) * run.generator.detector_samples
    length = _tokens(run.generator)
    for variant in run.variants:
        for task in run.tasks:
            tokens = rows * (length if task == "sentence" else length - OBJECT_TOKENS)
            learnt = round(0.6 * tokens * run.epochs) if variant == "full" else 0
            scored = round(tokens * (1 + 0.2 * run.epochs if variant == "full" else 1))
            yield Workload(model=run.base.decoder, seq_len=length, trained_tokens=learnt, scored_tokens=scored)


def _tokens(run: Generator) -> int:
    return TOKENS if run.data.graph in ("synthetic", "countries") else REAL_TOKENS
