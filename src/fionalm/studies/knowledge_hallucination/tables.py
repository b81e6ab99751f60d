"""The tables of `knowledge-hallucination`: models, detectors, and a sample of what was generated."""

from __future__ import annotations

from typing import Any

from fionalm.report import Section, Table
from fionalm.studies.knowledge_hallucination.analysis import known_mean
from fionalm.studies.knowledge_hallucination.figures import VISIBILITIES, size_name
from fionalm.studies.knowledge_hallucination.results import Results
from fionalm.studies.knowledge_hallucination.runs import TASKS, VARIANTS
from fionalm.studies.study import Lab

VERDICTS = {"seen": "right", "held_out": "right, not seen in training", "hallucinated": "hallucinated"}


def add_tables(results: Results, lab: Lab) -> None:
    """Add every table to the report."""
    lab.sections += [_models(results), _detectors(results), *_samples(results)]


def _models(results: Results) -> Section:
    tables = []
    for choice in results.config.graphs:
        rows = []
        for place, shape in enumerate(results.config.shapes):
            for epochs, share in [(epochs, 1.0) for epochs in results.config.epochs] + [
                (results.longest, share) for share in choice.shares
            ]:
                rates = [
                    _mean(results.rates(choice.name, epochs=epochs, share=share, visibility=one), place)
                    for one in VISIBILITIES
                ]
                facts = [
                    _mean(results.facts(choice.name, name, epochs=epochs, share=share), place)
                    for name in ("flops", "loss", "train_seconds")
                ]
                rows.append([size_name(shape), epochs, share, *rates, *facts])
        columns = ["model", "epochs", "share of data", *VISIBILITIES.values(), "FLOPs", "training loss", "seconds"]
        tables.append(Table(columns, rows, f"The graph {choice.name}, means over seeds."))
    text = (
        "Share of objects drawn at temperature 1 that the graph does not hold, by what training showed of their pair. "
        "Every row is a training of its own, with its own schedule."
    )
    return Section("The models", text, tables)


def _detectors(results: Results) -> Section:
    tables = []
    for choice in results.config.graphs:
        rows: list[list[Any]] = []
        for place, shape in enumerate(results.config.shapes):
            rate = float(known_mean(results.areas(choice.name, "full", "sentence", "base_rate")[:, place].ravel()))
            for number, base in enumerate(results.config.detectors):
                for variant in VARIANTS:
                    areas = [
                        _mean(results.areas(choice.name, variant, task, name)[:, :, number], place)
                        for task in TASKS
                        for name in ("auc_pr", "auc_roc")
                    ]
                    rows.append([size_name(shape), size_name(base), variant, rate, *areas])
            for baseline in ("sequence log-probability", "length"):
                areas = [_mean(results.baselines(choice.name, baseline, name), place) for name in ("auc_pr", "auc_roc")]
                rows.append([size_name(shape), baseline, "no training", rate, *areas, None, None])
        columns = ["generator", "detector", "variant", "base rate", "AUC-PR, sentence", "AUC-ROC, sentence"]
        columns += ["AUC-PR, token", "AUC-ROC, token"]
        tables.append(Table(columns, rows, f"The graph {choice.name}, means over seeds."))
    text = (
        "Detectors are trained on one generator's objects for fully visible pairs and tested on those of other "
        "subjects. Label 1 and high scores mean hallucinated: AUC-PR of guessing is the base rate, AUC-ROC of guessing "
        "0.5. The sequence log-probability is the generator's own of the object that it drew."
    )
    return Section("The detectors", text, tables)


def _samples(results: Results) -> list[Section]:
    tables = []
    for choice in results.config.graphs:
        for shape in results.config.shapes:
            found = results.detectors.get((choice.name, shape, results.config.detectors[-1], 0)) or {}
            rows = [
                [
                    one["subject"],
                    one["predicate"],
                    one["completion"],
                    VERDICTS[one["verdict"]],
                    one.get("full-sentence"),
                    one.get("full-token"),
                ]
                for one in found.get("rows", ())
            ]
            columns = ["subject", "predicate", "object drawn", "verdict", "after it", "before it"]
            caption = f"The graph {choice.name}, the model of {size_name(shape)}, seed 0"
            tables.append(Table(columns, rows, caption, folded=True))
    text = (
        "Objects that each model drew at temperature 1 for pairs of the detectors' test subjects, every so many "
        "of them. The last two columns are the calibrated probability that the object is hallucinated, by the largest "
        "fine-tuned detectors: after it was read (sentence) and before it was drawn (token)."
    )
    return [Section("A sample of generated triples", text, tables)]


def _mean(values: Any, place: int) -> float | None:
    found = float(known_mean(values[:, place], 0))
    return found if found == found else None
