"""The analysis of `best-of-n` on results whose answer is known, in both directions, and its trials on a tiny scale."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fionalm.data.tasks.number_chains import chain_problems, chain_reaches
from fionalm.report import Measured
from fionalm.studies.best_of_n import STUDY, analysis, figures
from fionalm.studies.best_of_n.base_models import folder_of, prepared
from fionalm.studies.best_of_n.chains import labelled_chains, problem_rows
from fionalm.studies.best_of_n.real import arithmetic_rows, begins_with_answer
from fionalm.studies.best_of_n.results import Results
from fionalm.studies.best_of_n.runs import BASE, BestOfNStudyConfig, preset, training_trials
from fionalm.studies.best_of_n.trials import base, train
from fionalm.studies.study import Lab
from fionalm.sweeps import SerialExecutor, TrialStore

CONFIG = BestOfNStudyConfig(seeds=4, test_problems=40, test_samples=64, grid_problems=20)


def binomial(rate: np.ndarray, samples: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).binomial(samples, rate).tolist()


REACH = {1: (0.5, 0.6), 4: (0.7, 0.35), 16: (0.9, 0.15), 32: (1.0, 0.08)}
"""Share of the problems that are solved at all, and their pass rate, so that each is best at its own N."""


def rates_of(reach: tuple[float, float], problems: int) -> np.ndarray:
    return np.where(np.arange(problems) < reach[0] * problems, reach[1], 0.0)


def make_results(*, paper: bool) -> Results:
    """Return results in which every effect is the paper's, or its opposite."""
    sign = 1.0 if paper else -1.0
    by_key: dict[Any, Any] = {}
    for seed in range(CONFIG.seeds):
        common = {"strategies": [1, 2, 3, 4], "entropy": 6.0 + 0.01 * seed, "distinct": 2.0 + 0.01 * seed}
        ns = CONFIG.ns
        grid = []
        for place, _ in enumerate(CONFIG.temperatures):
            # Warmer samples are worse one by one, and reach more.
            warmth = place / (len(CONFIG.temperatures) - 1)
            skill, reach = 1 - 0.5 * warmth, 0.3 + 0.7 * warmth
            if not paper:
                skill, reach = skill / 2, 1.3 - reach
            hidden = np.where(np.arange(CONFIG.grid_problems) < reach * CONFIG.grid_problems, 0.2 * skill, 0.0)
            grid.append(binomial(hidden, CONFIG.grid_samples, seed))
        right = binomial(rates_of((0.6, 0.2), CONFIG.test_problems), CONFIG.test_samples, seed)
        by_key[BASE, 0, seed] = {
            **common, "right": right, "grid": grid, "best_of": {str(n): 0.30 + 0.01 * seed for n in ns},
        }  # fmt: skip
        for method, n in CONFIG.arms():
            reach = REACH[n if paper else {1: 32, 4: 16, 16: 4, 32: 1}[n]]
            rates = rates_of(reach, CONFIG.test_problems)
            row = {
                "step": 0,
                "entropy": 5.0,
                "distinct_right": 2.0,
                "weighted_pass_rate": 0.5 - sign * 0.3 * (n > 1) + 0.01 * seed,
                "weighted_pass_rate_of_reinforce": 0.5,
            }
            by_key[method, n, seed] = {
                "right": binomial(rates, CONFIG.test_samples, 100 + seed),
                "best_of": {str(m): 0.30 + sign * 0.1 * (n > 1) + 0.015 * seed for m in ns},
                "strategies": [1, 2, 3, 4],
                "entropy": 4.0 + sign * (n > 1) + 0.02 * seed,
                "distinct": 1.0 + sign * 0.5 * (n > 1) + 0.02 * seed,
                "rows": [row, {**row, "step": 1}],
                "weight_by_pass_rate": [1.0, 2.0, 0.0],
                "prompts_by_pass_rate": [2, 2, 0],
            }
    return Results(CONFIG, by_key)


def verdicts(measured: list[Measured]) -> dict[str, str]:
    return {entry.claim.id: entry.verdict for entry in measured}


def test_what_the_paper_says_is_supported_and_its_opposite_contradicted() -> None:
    like, unlike = make_results(paper=True), make_results(paper=False)
    for function in (analysis.baselines, analysis.aware, analysis.matching, analysis.exploration):
        found = verdicts(function(like))
        assert set(found.values()) == {"supported"}, found
    found = verdicts(analysis.baselines(unlike)) | verdicts(analysis.aware(unlike))
    assert set(found.values()) == {"contradicted"}, found
    assert set(verdicts(analysis.exploration(unlike)).values()) == {"contradicted"}
    assert set(verdicts(analysis.matching(unlike)).values()) == {"contradicted"}


def test_temperatures_that_rise_with_n_and_that_do_not() -> None:
    assert verdicts(analysis.temperatures(make_results(paper=True)))["best-temperature-rises-with-n"] == "supported"
    flat = verdicts(analysis.temperatures(make_results(paper=False)))
    assert flat["best-temperature-rises-with-n"] != "supported"


def test_the_matched_statistics_by_hand() -> None:
    values = np.array([[[0.5, 0.6], [0.4, 0.8]], [[0.5, 0.6], [0.4, 0.8]]])  # [seed, N', N]
    assert analysis.matched_margin(values) == pytest.approx(0.1)
    assert analysis.matched_advantage(values) == pytest.approx((0.1 + 0.2) / 2)
    assert analysis.matched_margin(values[:, ::-1]) == pytest.approx(-0.2)


def test_the_laws_error_is_zero_on_the_law() -> None:
    ns = [1, 2, 4, 8, 16]
    law = np.array([np.exp(a * np.array(ns, dtype=float) ** b) for a, b in ((-2.0, -0.5), (-1.0, -0.3))])
    assert analysis.fit_error(ns, law) == pytest.approx(0, abs=1e-9)
    assert analysis.fit_error(ns, law + 0.1 * np.array([0, 1, 0, 1, 0])) > 0.02


def test_crashed_trials_leave_a_report(tmp_path: Path) -> None:
    results = make_results(paper=True)
    broken = Results(CONFIG, {**results.by_key, (BASE, 0, 1): None, ("bon-rlb-p", 32, 2): None})
    lab = Lab(tmp_path, TrialStore(tmp_path / "store"), SerialExecutor(), quiet=True)
    figures.draw_all(broken, lab)
    assert verdicts(analysis.aware(broken)) == verdicts(analysis.aware(results))
    counts = {entry.claim.id: entry.n for entry in analysis.aware(broken) + analysis.temperatures(broken)}
    assert counts["bon-rlb-p-over-base"] == 2 and counts["bon-rl-s-over-rl"] == 4
    assert counts["best-temperature-rises-with-n"] == counts["co-scaling-fits"] == 3
    nothing = Results(CONFIG, dict.fromkeys(results.by_key))
    for function in (analysis.baselines, analysis.matching, analysis.exploration, analysis.temperatures):
        assert set(verdicts(function(nothing)).values()) == {"inconclusive"}
    assert len(list((tmp_path / "figures").glob("*.svg"))) == 8 and len(lab.sections) == 3


def test_every_scale_is_planned_and_trains_what_the_claims_need() -> None:
    for scale in ("smoke", "quick", "laptop", "cluster"):
        config = preset(scale)
        assert config.largest_n < config.samples and config.largest_n <= min(config.test_samples, config.grid_samples)
        keys = set(training_trials(config))
        assert {("bon-rlb-p", n, 0) for n in config.ns if n > 1} <= keys
        assert len(STUDY.plan(config)) == config.seeds * (1 + len(list(config.arms()))) + (3 if config.real else 0)


def test_labelled_chains_are_labelled_right_and_come_from_their_split_alone() -> None:
    values = {"seed": 0, "n_digits": 3}
    rows = labelled_chains("validation", values)
    assert all(chain_reaches(row["prompt"], row["completion"]) is row["label"] for row in rows)
    assert 0.25 < np.mean([row["label"] for row in rows]) < 0.5
    prompts = {problem.prompt for problem in chain_problems("validation", 3)}
    assert {row["prompt"] for row in rows} == prompts
    assert not {row["prompt"] for row in problem_rows("train", values)} & prompts


def test_arithmetic_splits_share_nothing_and_its_verifier_reads_the_first_number() -> None:
    learnt, held_out = arithmetic_rows()
    twins = [
        {frozenset(row["id"]) if "-" not in row["id"] else row["id"] for row in part} for part in (learnt, held_out)
    ]
    assert len(learnt) + len(held_out) == 300 and not twins[0] & twins[1]
    texts = [" 15\n", "15 apples", "5", "150", "", "the answer is 15", "-15"]
    assert begins_with_answer([""] * 7, texts, ["15"] * 7) == [1, 1, 0, 0, 0, 0, 0]


def test_a_base_model_and_a_method_trained_from_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FIONA_HOME", str(tmp_path))
    config = replace(
        preset("smoke"), pretraining_steps=4, verifier_steps=2, test_problems=4, grid_problems=2,
        temperatures=(0.7, 1.3), expert_prompts=4, steps=1,
    )  # fmt: skip
    values = config.base_values(0)
    found = base(values)
    assert len(found["right"]) == 4 and np.array(found["grid"]).shape == (2, 2)
    trials = training_trials(config)
    for key in (("bon-rl-v", 4, 0), ("sft", 1, 0)):
        trained = train(trials[key].config)
        assert len(trained["rows"]) == 1 and set(trained["best_of"]) == {"1", "4"}
    first = prepared(values)[0].snapshot()
    shutil.rmtree(folder_of(values))  # what was lost is made again, the same
    second = prepared(values)[0].snapshot()
    assert all(np.array_equal(first[name], second[name]) for name in first)
