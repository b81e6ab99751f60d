"""What every study shares: presets, final losses, and the run from trials to a report."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fionalm.errors import UserError
from fionalm.report import Claim, measure
from fionalm.statistics import bootstrap
from fionalm.studies import STUDIES, get_study
from fionalm.studies.study import SCALES, Lab, Study, configured, final_loss, reproduce
from fionalm.sweeps import Trial, TrialStore
from fionalm.training import TrainConfig, estimate_any

CLAIM = Claim("squares-grow", "Squares grow.", "Table 1: 9", "mean of the squares", "greater", 1.0)


@dataclass(frozen=True)
class SquareConfig:
    seeds: int = 3


def square(values: dict[str, Any]) -> dict[str, Any]:
    with Path(values["log"]).open("a") as log:
        log.write("ran\n")
    return {"square": values["x"] ** 2}


def study(log: Path, *, claims: tuple[Claim, ...] = (CLAIM,)) -> Study[SquareConfig]:
    def run(config: SquareConfig, lab: Lab) -> list[Any]:
        trials = [Trial("studies.test_study:square", {"x": seed + 2, "log": str(log)}) for seed in range(config.seeds)]
        squares = [result["square"] for result in lab.sweep(trials, "squares") if result]
        return [measure(CLAIM, bootstrap(lambda drawn: float(drawn.mean()), squares), n=config.seeds)]

    return Study("squares", "Do squares grow?", "Nobody 2024", claims, lambda scale: SquareConfig(), lambda _: [], run)


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    # Trials name their function by module; the workers of this test are this process.
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    store = TrialStore(tmp_path / "store")
    return {"scale": "quick", "command": "fiona reproduce squares", "store": store, "executor": "serial", "quiet": True}


def test_a_study_ends_in_a_report_and_runs_each_trial_once(tmp_path: Path, arguments: dict[str, Any]) -> None:
    log = tmp_path / "log"
    report = reproduce(study(log), SquareConfig(), tmp_path / "run", **arguments)
    (claim,) = json.loads((tmp_path / "run" / "claims.json").read_text())
    assert claim["effect"] == pytest.approx(29 / 3) and claim["n"] == 3
    assert "Squares grow." in report.read_text() and "fiona reproduce squares" in report.read_text()
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["trials"] == 3 and facts["crashed_trials"] == 0
    reproduce(study(log), SquareConfig(), tmp_path / "run", **arguments)
    reproduce(study(log), SquareConfig(seeds=4), tmp_path / "wider", **arguments)
    assert len(log.read_text().splitlines()) == 4


def test_a_folder_of_another_configuration_is_refused_and_kept(tmp_path: Path, arguments: dict[str, Any]) -> None:
    reproduce(study(tmp_path / "log"), SquareConfig(), tmp_path / "run", **arguments)
    before = (tmp_path / "run" / "claims.json").read_text()
    with pytest.raises(UserError, match="seeds"):
        reproduce(study(tmp_path / "log"), SquareConfig(seeds=2), tmp_path / "run", **arguments)
    assert (tmp_path / "run" / "claims.json").read_text() == before


def test_a_study_must_measure_each_of_its_claims(tmp_path: Path, arguments: dict[str, Any]) -> None:
    other = Claim("forgotten", "Another.", "Table 2", "nothing", "less", 0.0)
    with pytest.raises(AssertionError, match="forgotten"):
        reproduce(study(tmp_path / "log", claims=(CLAIM, other)), SquareConfig(), tmp_path / "run", **arguments)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"final_loss": 3.0, "initial_loss": 6.0}, 3.0),
        ({"final_loss": 7.0, "initial_loss": 6.0}, 6.0),
        ({"final_loss": None, "initial_loss": 6.0}, 6.0),
        (None, math.nan),
    ],
)
def test_losses_are_capped_at_initialisation(result: dict[str, Any] | None, expected: float) -> None:
    assert final_loss(result) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("scale", SCALES)
def test_every_preset_is_a_plan_of_distinct_runs(name: str, scale: str) -> None:
    found = get_study(name)
    config = configured(found, scale)
    runs = found.plan(config)
    trainings = [run for run in runs if isinstance(run, TrainConfig)]
    assert runs and (not trainings or {run.seed for run in trainings} == set(range(config.seeds)))
    assert all(estimate_any(run).flops > 0 for run in runs)
    assert len({claim.id for claim in found.claims}) == len(found.claims)
    more = found.plan(configured(found, scale, config.seeds + 1))
    if trainings:
        assert len(more) == len(runs) * (config.seeds + 1) / config.seeds
    elif not getattr(config, "paper", False):  # the paper's own runs have no seeds
        assert len(more) > len(runs)


def test_bad_scales_and_seeds() -> None:
    found = get_study("scaling-exponents")
    with pytest.raises(UserError, match="did you mean 'laptop'"):
        configured(found, "laptp")
    with pytest.raises(UserError, match="at least 1"):
        configured(found, "smoke", 0)
    with pytest.raises(UserError, match="training-instabilities"):
        get_study("training-instability")
