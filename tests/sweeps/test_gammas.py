"""The search of per-layer constants, on a stand-in for training whose optimum is known."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from fionalm.errors import MissingExtraError, UserError
from fionalm.models.config import DecoderConfig
from fionalm.scaling.config import ParameterizationConfig
from fionalm.sweeps import GammaSearchResult, TrialStore, gamma_search
from fionalm.training.config import TrainConfig

BASE = TrainConfig(model=DecoderConfig(d_model=32), parameterization=ParameterizationConfig("mup", base_width=32))
BEST = {"embedding": 10.0, "hidden": 0.3, "readout": 1.0}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    seen: list[dict[str, float]] = []

    def run(values: dict[str, Any]) -> dict[str, Any]:
        config = TrainConfig.from_dict(values)
        assert config.parameterization is not None and config.parameterization.name == "mup"
        gammas = config.parameterization.gammas
        seen.append(gammas)
        if gammas["readout"] > 50:
            return {"final_loss": None, "initial_loss": 8.0}
        if gammas["readout"] < 0.02:
            raise MemoryError("no memory")
        distance = sum(math.log10(gammas[layer] / BEST[layer]) ** 2 for layer in BEST)
        return {"final_loss": 3.0 + distance + 0.01 * config.seed, "initial_loss": 8.0}

    monkeypatch.setattr("fionalm.sweeps.training_trial.run", run)
    return seen


def search(folder: Path, **changes: Any) -> GammaSearchResult:
    return gamma_search(BASE, store=TrialStore(folder), executor="serial", quiet=True, **changes)


def test_search_comes_near_the_best_constants(tmp_path: Path, calls: list) -> None:
    result = search(tmp_path, trials=80, seeds=(0, 1))
    assert calls[0] == {"embedding": 1.0, "hidden": 1.0, "readout": 1.0}
    assert len(result.tried) == 80 and len(calls) == 160
    assert all(1e-2 <= gamma <= 1e2 for gammas in calls for gamma in gammas.values())
    untuned = result.tried[0]["loss"]
    assert untuned == pytest.approx(3.005 + 1 + math.log10(0.3) ** 2)
    assert result.loss < 3.3 < untuned
    assert {"gammas": result.gammas, "loss": result.loss} in result.tried
    assert GammaSearchResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_search_is_repeated_from_the_store_and_goes_on(tmp_path: Path, calls: list) -> None:
    first = search(tmp_path, trials=12)
    assert len(calls) == 12
    crashed = sum(entry["loss"] is None for entry in first.tried)
    longer = search(tmp_path, trials=20)
    assert longer.tried[:12] == first.tried
    assert len(calls) == 12 + crashed + 8
    assert search(tmp_path / "new", trials=20) == longer
    assert search(tmp_path, trials=20, search_seed=1).tried != longer.tried


def test_search_bears_diverged_and_crashed_runs(tmp_path: Path, calls: list) -> None:
    result = search(tmp_path, trials=60)
    by_loss = {entry["loss"]: entry["gammas"]["readout"] for entry in result.tried}
    assert 8.0 in by_loss and by_loss[8.0] > 50, "the search should meet a diverged run"
    assert None in by_loss and by_loss[None] < 0.02, "the search should meet a crashed run"
    assert result.loss < 3.5


def test_search_without_a_single_result_says_so(tmp_path: Path, calls: list) -> None:
    with pytest.raises(UserError, match="all 3 sets"):
        search(tmp_path, trials=3, low=0.001, high=0.01)


@pytest.mark.parametrize("changes", [{"trials": 0}, {"seeds": ()}, {"low": 1.0, "high": 1.0}, {"low": 0.0}])
def test_mistakes_are_refused(tmp_path: Path, calls: list, changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="expected"):
        search(tmp_path, **changes)
    assert not calls


def test_missing_optuna_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"fiona-lm\[search\]"):
        search(tmp_path)
