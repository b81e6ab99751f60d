"""The part on real facts: models of FB15k-237, one seed, no claim; left out where its files are not there."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from fionalm.data.knowledge.config import TripleConfig
from fionalm.errors import UserError
from fionalm.report import Section, Table
from fionalm.studies.knowledge_hallucination.figures import VISIBILITIES, size_name
from fionalm.studies.knowledge_hallucination.presets import KnowledgeHallucinationConfig, RealGraph, Shape
from fionalm.studies.knowledge_hallucination.runs import (
    Detecting,
    Generator,
    detecting_trial,
    generator,
    generator_trial,
)
from fionalm.studies.study import Lab

TITLE = "FB15k-237"
RealKey = tuple[Shape, int]


def run_real(config: KnowledgeHallucinationConfig, lab: Lab) -> Section:
    """Train, ask and detect on FB15k-237; where its files are not there, the section says so."""
    if config.real is None:
        return Section(TITLE, "Not run at this scale; `--scale laptop` trains on its files.")
    try:
        models = real_generators(config, config.real)
    except UserError as error:
        return Section(
            TITLE,
            f"Not run: {error}. The environment's FIONA_FB15K237 names a folder with train.txt, valid.txt, test.txt or "
            "some of them.",
        )
    made = dict(zip(models, lab.sweep([generator_trial(one) for one in models.values()], TITLE), strict=True))
    longest = config.real.epochs[-1]
    largest = models[config.real.shapes[-1], longest]
    pairs = {
        shape: Detecting(models[shape, longest], largest, config.detector_epochs)
        for shape in config.real.shapes
        if all((made[one, longest] or {}).get("measures") for one in (shape, config.real.shapes[-1]))
    }
    detected = lab.sweep([detecting_trial(one) for one in pairs.values()], f"detectors, {TITLE}")
    return _section(models, made, dict(zip(pairs, detected, strict=True)))


def real_generators(config: KnowledgeHallucinationConfig, real: RealGraph) -> dict[RealKey, Generator]:
    """Return the models of FB15k-237 by shape and epochs; the longest trained also give objects to detectors.

    Raises:
        UserError: no folder is named, or it does not hold the graph.
    """
    from fionalm.data.knowledge import load_graph

    folder = real.folder or os.environ.get("FIONA_FB15K237")
    if not folder:
        raise UserError("no folder with FB15k-237 was named")
    labels = real.labels or os.environ.get("FIONA_FB15K237_LABELS") or None
    data = TripleConfig(
        str(Path(folder).expanduser().resolve()),
        labels=labels and str(Path(labels).expanduser().resolve()),
        subset_by="subjects",
        vocab_size=real.vocab_size,
    )
    graph = load_graph(data)
    data = replace(data, fraction=min(1.0, real.triples / len(graph)) if real.triples else 1.0)
    asked = replace(config, epochs=real.epochs)
    return {
        (shape, epochs): generator(asked, data, real.updates_per_epoch, shape, epochs, 0, graph.fingerprint)
        for shape, epochs in product(real.shapes, real.epochs)
    }


def _section(
    models: dict[RealKey, Generator],
    made: dict[RealKey, dict[str, Any] | None],
    detected: dict[Shape, dict[str, Any] | None],
) -> Section:
    rows = []
    for (shape, epochs), result in made.items():
        rates = {one["visibility"]: one for one in (result or {}).get("measures", ()) if one["temperature"] == 1}
        shown = [rates[name]["rate"][0] if name in rates else None for name in VISIBILITIES]
        rows.append([size_name(shape), epochs, *shown])
    areas = []
    for shape, result in detected.items():
        for name, found in ((result or {}).get("detectors") or {}).items():
            known = [(found.get(area) or {}).get("estimate") for area in ("base_rate", "auc_pr", "auc_roc")]
            areas.append([size_name(shape), name.replace("-", ", "), *known])
    triples = next((one["split"]["train_triples"] for one in made.values() if one), None)
    counted = "" if triples is None else f" ({triples:,.0f} triples of training)"
    first = next(iter(models.values()))
    return Section(
        TITLE,
        f"{first.data.fraction:.1%} of the subjects of {Path(first.data.graph).name}{counted}, "
        f"{'with names from a file' if first.data.labels else 'by Freebase ids'}; one run each: there is no interval, "
        "and no claim rests on it. Rates at temperature 1; detectors are made of the largest model.",
        [
            Table(
                ["model", "epochs", *VISIBILITIES.values()], rows, "Share of the objects drawn that is hallucinated."
            ),
            Table(
                ["generator", "detector", "base rate", "AUC-PR", "AUC-ROC"],
                areas,
                "Hallucinated is positive: AUC-PR of guessing is the base rate.",
            ),
        ],
    )
