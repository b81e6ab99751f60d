"""`rest-em`: its analysis on results whose answer is known, in both directions, and its trials at a tiny size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fionalm.report import Measured
from fionalm.studies.rest_em import STUDY
from fionalm.studies.rest_em.analysis import Results, measure_claims
from fionalm.studies.rest_em.claims import CLAIMS
from fionalm.studies.rest_em.figures import add_smollm2, draw_figures
from fionalm.studies.rest_em.runs import (
    TaskSize,
    all_arms,
    arms,
    base_of,
    human_arm,
    plan,
    preset,
    trial,
)
from fionalm.studies.rest_em.smollm2 import one_digit_rows
from fionalm.studies.rest_em.tasks import base_policy, corpus, problems
from fionalm.studies.rest_em.trials import human_solutions, run
from fionalm.studies.study import SCALES, Lab
from fionalm.sweeps import SerialExecutor, TrialStore
from fionalm.training import Workload, to_plain

CONFIG = preset("laptop")
Curves = dict[tuple[str, str], Callable[[int], dict[str, float]]]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, TrialStore(tmp_path / "store"), SerialExecutor(), quiet=True)


def results(curves: Curves, shares: dict[str, tuple[float, float]], votes: dict[str, float]) -> Results:
    """Return results whose `curves[task, arm]` gives an iteration's numbers, with a little noise over seeds.

    `shares` are an arm's solvable problems, and how often they are solved.
    """
    noise = np.random.default_rng(0)
    found: dict[Any, Any] = {}
    for seed in range(CONFIG.seeds):
        for (task, arm), curve in curves.items():
            last = Results(CONFIG, {}).iterations(task, arm)  # type: ignore[arg-type]
            rows = [
                {name: value + 0.002 * noise.standard_normal() for name, value in curve(i).items()}
                | {"kept": 700.0, "kept_per_problem": [50, 40, 30, 30]}
                for i in range(last + 1)
            ]
            sampled = None
            if task == "words" and arm in shares:
                solvable, rate = shares[arm]
                right = noise.binomial(64, rate, 400) * (np.arange(400) < 400 * solvable)
                majority = (noise.random(2000) < votes[arm]).astype(float)
                sampled = {"right": right.tolist(), "judged": [64] * 400, "majority": majority.tolist()}
            found[task, arm, seed] = {"rows": rows, "sampled": sampled}
    return Results(CONFIG, found)


def curve(test: Callable[[int], float], train: Callable[[int], float], related: Callable[[int], float]) -> Any:
    return lambda i: {"test": test(i), "train": train(i), "related": related(i)}


def expected(sign: float) -> Results:
    """Return what the paper expects (sign 1), or its opposite (-1)."""
    rest = curve(lambda i: 0.4 + sign * 0.05 * i, lambda i: 0.4 + 0.1 * i, lambda i: 0.5)
    code = curve(
        lambda i: 0.4 + sign * (0.0 if i == 0 else 0.12 - 0.01 * i),
        lambda i: 0.4 + sign * 0.08 * i,
        lambda i: 0.5,
    )
    worse = curve(lambda i: 0.4 + sign * 0.02 * i, lambda i: 0.5, lambda i: 0.5 - sign * 0.05 * i)
    curves: Curves = {("words", "rest-em"): rest, ("code", "rest-em"): code}
    curves |= {(task, "base"): rest for task in ("words", "code")}
    curves |= {(task, "continue"): worse for task in ("words", "code")}
    curves |= {("words", arm): worse for arm in ("once", "human")}
    shares = {"base": (0.6, 0.6), "rest-em": (0.6 + sign * 0.1, 0.6 + sign * 0.3), "once": (0.6, 0.5)}
    shares["human"] = shares["once"]
    votes = {"base": 0.5, "rest-em": 0.5 + sign * 0.3, "once": 0.5, "human": 0.5}
    return results(curves, shares, votes)


def verdicts(measured: list[Measured]) -> dict[str, str]:
    return {entry.claim.id: entry.verdict for entry in measured}


def test_what_the_paper_says_supports_every_claim(lab: Lab) -> None:
    found = expected(1)
    measured = list(measure_claims(found))
    assert {entry.claim.id for entry in measured} == {claim.id for claim in CLAIMS}
    assert set(verdicts(measured).values()) == {"supported"}, verdicts(measured)
    assert all(entry.n == CONFIG.seeds for entry in measured)
    draw_figures(found, lab)
    names = {path.stem for path in (lab.folder / "figures").glob("*.svg")}
    assert names == {"reward-against-iteration", "comparison", "pass-at-k", "kept-per-problem", "related-tasks"}
    assert len(lab.sections[0].tables[0].rows) == 8


def test_the_opposite_contradicts_every_claim() -> None:
    found = verdicts(list(measure_claims(expected(-1))))
    assert set(found.values()) == {"contradicted"}, found


def test_crashed_trials_and_bases_that_solve_nothing_do_not_stop_the_analysis(lab: Lab) -> None:
    whole = expected(1)
    arms_found: dict[Any, Any] = dict(whole.arms)
    arms_found["words", "once", 2] = None
    for seed in range(CONFIG.seeds):
        arms_found["code", "rest-em", seed] = {"rows": [{}], "sampled": None}
    found = Results(CONFIG, arms_found)
    measured = {entry.claim.id: entry for entry in measure_claims(found)}
    assert measured["iterating-beats-once"].verdict == "supported" and measured["iterating-beats-once"].n == 4
    assert "1 of 5 seeds could not be measured" in measured["iterating-beats-once"].detail
    assert measured["code-overfits"].verdict == "inconclusive" and measured["code-overfits"].n == 0
    draw_figures(found, lab)
    add_smollm2(None, lab)


@pytest.mark.parametrize("scale", SCALES)
def test_presets_and_plans(scale: Any) -> None:
    config = preset(scale)
    runs = plan(config)
    assert len(runs) == config.seeds * 8 and all(isinstance(run, Workload) for run in runs)
    assert sum(run.sampled_tokens for run in runs) > 0 < min(run.sampled_tokens for run in runs)
    assert config.words.iterations == 3 and config.code.iterations > 3
    hashes = {trial(arm).hash for arm in all_arms(config).values()}
    assert len(hashes) == len(all_arms(config))


def test_the_arms_draw_as_many_samples() -> None:
    found = arms(CONFIG, "words", 3)
    rest, once = found["rest-em"], found["once"]
    assert rest.samples * rest.iterations == once.samples * once.iterations
    assert {arm.base for arm in found.values()} == {base_of(CONFIG, "words", 3)}
    assert (rest.start, found["continue"].start, found["continue"].iterations) == ("base", "last", 3)
    assert human_arm(CONFIG, 3, 712).solutions == 712


def test_problems_of_a_seed_are_apart_and_enough_at_every_scale() -> None:
    for scale in ("smoke", "quick", "laptop"):
        config = preset(scale)
        for task in ("words", "code"):
            size = config.size(task)
            for seed in range(config.seeds):
                base = base_of(config, task, seed)
                assert len(corpus(base)) > size.corpus
                found = problems(base, size)
                parts = [found.train, found.validation, found.test]
                names = [{row["id"] for row in part} for part in parts]
                assert [len(part) for part in names] == [size.train, size.validation, size.test]
                assert not names[0] & names[1] | names[0] & names[2] | names[1] & names[2]
                assert len(found.related) == size.related + (size.related // 3 if task == "words" else 0)


def test_human_solutions_are_spread_over_the_problems() -> None:
    rows = [
        {"prompt": "a", "solutions": ["a1", "a2", "a3"]},
        {"prompt": "b", "solutions": ["b1"]},
        {"prompt": "c", "solutions": ["c1", "c2"]},
    ]
    assert human_solutions(rows, 4) == [("a", "a1"), ("b", "b1"), ("c", "c1"), ("a", "a2")]
    assert len(set(human_solutions(rows, 6))) == 6 and human_solutions(rows, 7)[6] == ("a", "a1")


TINY = TaskSize((1,), 100, 20, 150, 8, 4, 6, 3, 8, 2, 4)


def test_trials_train_and_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIONA_HOME", str(tmp_path))
    config = replace(preset("smoke"), words=TINY, d_model=32, n_layers=1, n_heads=2, epochs=1)
    found = arms(config, "words", 0)
    results = {name: run(to_plain(found[name])) for name in ("base", "rest-em")}
    assert len(results["base"]["rows"]) == 1 and len(results["base"]["sampled"]["right"]) == 6
    assert sum(results["base"]["sampled"]["judged"]) == 6 * 4
    last = results["rest-em"]["rows"][-1]
    assert len(results["rest-em"]["rows"]) == 3 and 0 < last["kept"] <= 8 * 8
    assert all(0 <= last[name] <= 1 for name in ("test", "train", "related"))
    human = run(to_plain(human_arm(config, 0, 20)))
    assert human["rows"][1]["kept"] == 20 and human["rows"][0] == {}
    again = run(to_plain(found["rest-em"]))  # its base comes from the cache now
    strip = [{k: v for k, v in row.items() if k != "seconds"} for row in again["rows"]]
    assert strip == [{k: v for k, v in row.items() if k != "seconds"} for row in results["rest-em"]["rows"]]
    assert again["sampled"] == results["rest-em"]["sampled"]


def test_functions_are_judged_in_the_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIONA_HOME", str(tmp_path))
    size = TaskSize((1,), 24, 0, 300, 3, 0, 3, 1, 2, 1)
    config = replace(preset("smoke"), code=size, d_model=32, n_layers=1, n_heads=2, epochs=1)
    result = run(to_plain(arms(config, "code", 0)["rest-em"]))
    assert result["verified"] > 0 and result["sampled"] is None
    assert result["rows"][-1].get("test_failures", 0) == 0


def test_a_base_that_solves_nothing_gives_fewer_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIONA_HOME", str(tmp_path))
    size = TaskSize((1,), 24, 0, 1, 2, 0, 1, 1, 2, 1)
    config = replace(preset("smoke"), code=size, d_model=16, n_layers=1, n_heads=2)
    result = run(to_plain(arms(config, "code", 0)["rest-em"]))
    assert [set(row) for row in result["rows"]] == [{"seconds"}] and result["sampled"] is None


def test_bases_are_kept_and_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("FIONA_HOME", str(tmp_path))
    base = base_of(replace(preset("smoke"), words=replace(TINY, base_steps=3)), "words", 1)
    fresh, kept = base_policy(base), base_policy(base)
    assert len([path for path in (tmp_path / "rest-em").iterdir() if path.is_dir()]) == 1
    first, second = fresh.snapshot(), kept.snapshot()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_one_digit_problems_for_smollm2() -> None:
    train, test = one_digit_rows("train", 40, 0), one_digit_rows("test", 30, 0)
    asked = [{(frozenset(row["id"]) if "-" not in row["id"] else row["id"]) for row in rows} for rows in (train, test)]
    assert not asked[0] & asked[1]
    for row in train:
        assert str(eval(row["id"])) == row["answer"]
        assert row["id"][0] in row["prompt"][0]["content"]


def test_the_study_is_registered() -> None:
    from fionalm.studies import get_study

    assert get_study("rest-em") is STUDY
