"""Study `knowledge-hallucination`: presets, trials, its analysis both ways, and all of it end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fionalm.data.knowledge import SyntheticGraph, load_triples
from fionalm.studies import get_study
from fionalm.studies.knowledge_hallucination import analysis, fits, real, trials
from fionalm.studies.knowledge_hallucination.claims import CLAIMS
from fionalm.studies.knowledge_hallucination.presets import (
    PAPER_SHAPES,
    KnowledgeHallucinationConfig,
    RealGraph,
    preset,
)
from fionalm.studies.knowledge_hallucination.results import Results, parameters, slopes
from fionalm.studies.knowledge_hallucination.runs import (
    Generator,
    detecting_trial,
    detectings,
    generator_trial,
    generators,
)
from fionalm.studies.study import SCALES, Lab
from fionalm.sweeps import SerialExecutor, TrialStore
from fionalm.training import to_plain


def tiny() -> KnowledgeHallucinationConfig:
    smoke = preset("smoke")
    synthetic, countries = smoke.graphs
    return replace(
        smoke,
        graphs=(
            replace(synthetic, data=replace(synthetic.data, synthetic=SyntheticGraph(8, 2, 6)), updates_per_epoch=3),
            replace(countries, data=replace(countries.data, fraction=0.02), updates_per_epoch=3),
        ),
        epochs=(1, 2),
        pairs=6,
        samples=4,
    )


def one(**changes: Any) -> Generator:
    return replace(next(iter(generators(tiny()).values())), detector_samples=3, **changes)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, TrialStore(tmp_path / "store"), SerialExecutor(), quiet=True)


@pytest.mark.parametrize("scale", SCALES)
def test_presets_have_every_claims_runs(scale: Any) -> None:
    config = preset(scale)
    made, pairs = generators(config), detectings(config)
    assert {f"{name}-{choice.name}" for choice in config.graphs for name in ("size", "data")} <= {c.id for c in CLAIMS}
    assert set(config.detectors) <= set(config.shapes) and len(config.shapes) > 1 and len(config.epochs) > 1
    assert config.epochs[-1] == 2 * config.epochs[-2]
    for choice in config.graphs:
        assert max(choice.shares) < 1 and {0.0, 1.0} <= set(config.temperatures)
    trials_of = [*map(generator_trial, made.values()), *map(detecting_trial, pairs.values())]
    assert len({trial.hash for trial in trials_of}) == len(trials_of) == len(made) + len(pairs)
    for pair in pairs.values():
        assert pair.generator in made.values() and pair.base in made.values()
        assert pair.generator.detector_samples > 0
    works = get_study("knowledge-hallucination").plan(config)
    on_real = len(config.real.shapes) * (len(config.real.epochs) + 4) if config.real else 0
    assert len(works) == len(made) + 4 * len(pairs) + on_real
    assert scale != "laptop" or config.seeds >= 5


def test_the_papers_shapes_have_its_counts() -> None:
    counts = [parameters(shape) for shape in PAPER_SHAPES]
    assert counts == pytest.approx([3.15e6, 25.2e6, 113e6, 403e6, 1.61e9], rel=5e-3)
    model = replace(one(), shape=(32, 2)).decoder
    assert model.num_parameters(embeddings=False) == parameters((32, 2))


def test_equal_epochs_are_equal_updates_on_every_share() -> None:
    whole, half = (one(epochs=6, data=replace(one().data, fraction=share)) for share in (1.0, 0.5))
    configs = []
    for run in (whole, half):
        corpus = load_triples(run.data)
        config = trials.train_config(run, corpus)
        assert config.steps * config.batch_size == pytest.approx(6 * len(corpus.train), abs=config.batch_size)
        configs.append(config)
    assert configs[0].steps == pytest.approx(configs[1].steps, rel=0.1)
    assert configs[0].batch_size > configs[1].batch_size


def test_detectors_learn_of_seen_pairs_and_are_tested_on_other_subjects() -> None:
    run = one()
    split = load_triples(run.data).split
    rows = trials.detector_rows(run)
    asked = {(row["subject"], row["predicate"]) for row in rows}
    assert asked == set(split.fully_visible) and len(rows) == 3 * len(asked)
    for row in rows:
        triple = (row["subject"], row["predicate"], row["completion"])
        assert (row["label"] == 0) == (row["verdict"] != "hallucinated")
        assert row["label"] == 1 or triple in split.graph
    parts = trials.split_by_group(rows, seed=0)
    subjects = [{row["subject"] for row in part} for part in parts.values()]
    assert sum(map(len, subjects)) == len(set.union(*subjects))


def test_rows_are_the_same_when_the_model_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = one(seed=1)
    first = trials.detector_rows(run)
    monkeypatch.setenv("FIONA_HOME", str(tmp_path))
    assert trials.detector_rows(run) == first


def test_a_generator_without_errors_leaves_areas_undefined(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = next(iter(detectings(tiny()).values()))
    rows = [{**row, "label": 0, "verdict": "seen"} for row in trials.detector_rows(pair.generator)]
    monkeypatch.setattr(trials, "detector_rows", lambda run: rows)
    found = trials.detect(to_plain(pair))
    assert set(found["detectors"]) == {"head-sentence", "head-token", "full-sentence", "full-token"}
    assert all("'train' holds right rows alone" in one["undefined"] for one in found["detectors"].values())
    results = Results(tiny(), {}, {key: found for key in detectings(tiny())})
    assert np.isnan(results.areas("synthetic", "full", "sentence")).all()


def test_slopes_are_for_ten_times_the_parameters() -> None:
    shapes = ((16, 2), (32, 2), (64, 2))
    x = np.log10([parameters(shape) for shape in shapes])
    values = np.stack([0.3 - 0.2 * x, 0.1 + 0.05 * x])
    assert slopes(values, shapes) == pytest.approx([-0.2, 0.05])
    values[0, 1] = np.nan
    assert slopes(values, shapes)[0] == pytest.approx(-0.2)
    values[0, :2] = np.nan
    assert np.isnan(slopes(values, shapes)[0])


def made_up(sign: int) -> Results:
    """Return results as the paper has them (sign 1), or the other way round (-1)."""
    config = replace(preset("quick"), seeds=5)
    noise = np.random.default_rng(0)

    def jitter() -> float:
        return float(0.002 * noise.standard_normal())

    made = {}
    for key in generators(config):
        _, shape, epochs, share, _ = key
        better = np.log10(parameters(shape)) / 20 + np.log(epochs) / 60 - share / 10
        seen, unseen = 0.5 - sign * better, 0.5 + sign * np.log(epochs) / 20
        measures = []
        for visibility, rate in (("fully_visible", seen), ("partially_visible", seen), ("invisible", unseen)):
            for t in config.temperatures:
                wrong = rate + sign * (t - 1) / 10 + jitter()
                values = {"rate": wrong, "precision": 1 - wrong, "recall": 0.5 + sign * t / 4 + jitter()}
                where = {"visibility": visibility, "temperature": t, "pairs": 80}
                measures.append(where | {name: [value] * 3 for name, value in values.items()})
        made[key] = {"measures": measures, "flops": 1e9 * epochs, "loss": 1.0, "train_seconds": 1.0}
        made[key]["triples"] = 1000 * share + key[-1]
    detected = {}
    for key in detectings(config):
        _, shape, base, _ = key
        size, own = np.log10(parameters(shape)), np.log10(parameters(base))
        detectors = {}
        for variant in ("head", "full"):
            for task in ("sentence", "token"):
                area = 0.6 + sign * (own / 20 - size / 20 + (task == "sentence") / 20) + jitter()
                found = {"estimate": area}
                detectors[f"{variant}-{task}"] = {"auc_pr": found, "auc_roc": found, "base_rate": {"estimate": 0.5}}
        detected[key] = {"detectors": detectors, "baselines": {}, "rows": []}
    return Results(config, made, detected)


@pytest.mark.parametrize(("sign", "verdict"), [(1, "supported"), (-1, "contradicted")])
def test_claims_follow_the_results(sign: int, verdict: str) -> None:
    measured = list(analysis.measure_claims(made_up(sign)))
    assert {entry.claim.id for entry in measured} == {claim.id for claim in CLAIMS}
    assert {entry.claim.id: entry.verdict for entry in measured} == {claim.id: verdict for claim in CLAIMS}
    assert all(entry.n == 5 for entry in measured)


def test_fits_answer_for_every_size(lab: Lab) -> None:
    results = made_up(1)
    runs = list(fits.rate_runs(results, results.config.graphs[0]))
    assert {run.triples for run in runs} == {1002, 252} and len(runs) == 5 * 3 * 4
    fits.add_fits(results, lab)
    section = lab.sections[-1]
    assert section.text.count("at most 5% on 1,002 triples") == 2
    assert [len(table.rows) for table in section.tables] == [3, 3]
    assert all("[" in cell for table in section.tables for row in table.rows for cell in row[1:])
    for key in results.generators:
        results.generators[key] = None  # pyright: ignore[reportIndexIssue]
    fits.add_fits(results, lab)
    assert "no fit (0 setting" in lab.sections[-1].text and not lab.sections[-1].tables


def test_crashed_trials_leave_their_seed_out() -> None:
    results = made_up(1)
    for key in [key for key in results.generators if key[0] == "countries" and key[-1] in (0, 1)]:
        results.generators[key] = None  # pyright: ignore[reportIndexIssue]
    by_id = {entry.claim.id: entry for entry in analysis.measure_claims(results)}
    assert by_id["size-countries"].n == 3 and "2 of 5 seeds could not be measured" in by_id["size-countries"].detail
    assert by_id["size-synthetic"].n == 5


def test_the_study_runs_and_resumes(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("countryinfo")
    monkeypatch.delenv("FIONA_FB15K237", raising=False)
    config = replace(tiny(), real=RealGraph())
    study = get_study("knowledge-hallucination")
    measured = study.run(config, lab)
    assert {entry.claim.id for entry in measured} == {claim.id for claim in CLAIMS}
    assert not [outcome.error for outcome in lab.outcomes if outcome.error]
    figures = {path.stem for path in (lab.folder / "figures").glob("*.svg")}
    assert {"rate-against-flops", "precision-against-recall", "detection-against-generator"} <= figures
    sections = {section.title: section for section in lab.sections}
    shown = sections["A sample of generated triples"].tables[0].rows
    assert shown and all(row[3] in ("right", "hallucinated") for row in shown)
    assert sections["FB15k-237"].text.startswith("Not run: no folder with FB15k-237 was named")
    again = Lab(lab.folder, lab.store, SerialExecutor(), quiet=True)
    assert study.run(config, again) == measured
    assert all(outcome.cached for outcome in again.outcomes)


def test_fb15k237_is_read_from_its_folder(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "fb15k237"
    folder.mkdir()
    rows = [f"/m/{s:02d}\t/people/person/{p}\t/m/o{(s * 7 + p) % 9}{p}" for s in range(24) for p in range(3)]
    (folder / "valid.txt").write_text("\n".join(rows[:40]) + "\n")
    (folder / "test.txt").write_text("\n".join(rows[40:]) + "\n")
    monkeypatch.setenv("FIONA_FB15K237", str(folder))
    config = replace(tiny(), real=RealGraph("", "", 36, 300, ((16, 1),), (1, 2), 3))
    section = real.run_real(config, lab)
    assert "50.0% of the subjects of fb15k237" in section.text and "by Freebase ids" in section.text
    assert [row[1] for row in section.tables[0].rows] == [1, 2]
    kinds = {f"{variant}, {task}" for variant in ("head", "full") for task in ("sentence", "token")}
    assert {row[1] for row in section.tables[1].rows} == kinds
    first = [outcome.trial.hash for outcome in lab.outcomes]
    (folder / "test.txt").write_text("\n".join(rows[41:]) + "\n")
    other = Lab(lab.folder, lab.store, SerialExecutor(), quiet=True)
    real.run_real(config, other)
    assert not {outcome.trial.hash for outcome in other.outcomes} & set(first)
    assert json.dumps([outcome.trial.config for outcome in other.outcomes])
    broken = replace(config, real=RealGraph(folder=str(tmp_path)))
    assert real.run_real(broken, other).text.startswith("Not run: no knowledge graph in")
