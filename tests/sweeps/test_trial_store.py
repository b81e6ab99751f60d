from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fionalm.errors import UserError
from fionalm.sweeps import Trial, TrialStore

FUNCTION = "sweep_trials:parabola"
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
configs = st.dictionaries(st.text(max_size=5), json_values, max_size=4)


def test_hash_is_the_one_of_earlier_versions() -> None:
    # If this fails, every stored trial is lost: raise TRIAL_VERSION only when results change their meaning.
    trial = Trial(FUNCTION, {"lr": 1e-3, "model": {"d_model": 64, "norm": "layernorm"}, "seeds": (0, 1)})
    assert trial.hash == "40a3a8db6d09189ce753edc38594635f"


@given(configs)
def test_hash_ignores_order_number_type_and_a_round_trip(config: dict) -> None:
    trial = Trial(FUNCTION, config)
    assert Trial(FUNCTION, dict(reversed(config.items()))).hash == trial.hash
    assert Trial(FUNCTION, json.loads(json.dumps(config))) == trial
    assert Trial(FUNCTION, config, cost=7.0) == trial
    floats = {
        key: float(value) if type(value) is int and abs(value) < 2**53 else value for key, value in config.items()
    }
    assert Trial(FUNCTION, floats).hash == trial.hash


@given(configs, configs)
def test_different_configs_have_different_hashes(one: dict, two: dict) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)
    if Trial(FUNCTION, one).hash == Trial(FUNCTION, two).hash:
        assert one == two
    elif not same:
        assert Trial(FUNCTION, one) != Trial(FUNCTION, two)


def test_hash_depends_on_function_and_tells_true_from_one() -> None:
    assert Trial("a.b:c", {"x": 1}) != Trial("a.b:d", {"x": 1})
    assert Trial("a.b:c", {"x": 1}) != Trial("a.b:c", {"x": True})
    assert Trial("a.b:c", {"x": 1}) != Trial("a.b:c", {"x": "1"})


def test_hash_is_the_same_in_another_process() -> None:
    trial = Trial(FUNCTION, {"b": [1.5, None], "a": {"y": "ä", "x": 1e-7}})
    code = (
        "from fionalm.sweeps import Trial\n"
        f"print(Trial({FUNCTION!r}, {{'a': {{'x': 1e-7, 'y': 'ä'}}, 'b': [1.5, None]}}).hash)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == trial.hash


@pytest.mark.parametrize(
    ("function", "config", "cost", "message"),
    [
        ("parabola", {}, 1.0, "package.module:function"),
        ("a:b:c", {}, 1.0, "package.module:function"),
        ("a.b:c", [1], 1.0, "dict of JSON values"),
        ("a.b:c", {"x": object()}, 1.0, "not JSON"),
        ("a.b:c", {}, 0.0, "positive"),
        ("a.b:c", {}, math.nan, "positive"),
    ],
)
def test_bad_trials_are_refused(function, config, cost, message) -> None:
    with pytest.raises(UserError, match=message):
        Trial(function, config, cost=cost)


@given(config=configs, result=configs)
def test_store_returns_what_was_put(tmp_path_factory, config: dict, result: dict) -> None:
    store = TrialStore(tmp_path_factory.mktemp("store"))
    trial = Trial(FUNCTION, config)
    assert store.get(trial) is None
    store.put(trial, result, seconds=1.5)
    outcome = TrialStore(store.folder).get(trial)
    assert outcome is not None and outcome.cached and outcome.status == "finished"
    assert outcome.result == result and outcome.seconds == 1.5 and outcome.error is None


def test_store_keeps_losses_that_are_not_finite(tmp_path: Path) -> None:
    store, trial = TrialStore(tmp_path), Trial(FUNCTION, {"lr": math.inf})
    store.put(trial, {"final_loss": math.nan, "losses": [math.inf, -math.inf]})
    outcome = store.get(trial)
    assert outcome is not None and outcome.result is not None
    assert math.isnan(outcome.result["final_loss"])
    assert outcome.result["losses"] == [math.inf, -math.inf]


@pytest.mark.parametrize("damage", ["", "{", "[]", '"text"', '{"status": "finished"}', "\x00\xff"])
def test_damaged_file_is_a_missing_trial(tmp_path: Path, damage: str) -> None:
    store, trial = TrialStore(tmp_path), Trial(FUNCTION, {"lr": 0.1})
    store.put(trial, {"final_loss": 1.0})
    store.path(trial).write_bytes(damage.encode("latin-1"))
    assert store.get(trial) is None and len(store) == 0
    store.put(trial, {"final_loss": 1.0})
    assert store.get(trial) is not None and len(store) == 1


def test_truncated_file_is_a_missing_trial(tmp_path: Path) -> None:
    store, trial = TrialStore(tmp_path), Trial(FUNCTION, {"lr": 0.1})
    store.put(trial, {"final_loss": 1.0})
    whole = store.path(trial).read_bytes()
    for length in range(len(whole) - 1):  # the last byte is the newline
        store.path(trial).write_bytes(whole[:length])
        assert store.get(trial) is None


def test_file_of_another_trial_is_not_taken(tmp_path: Path) -> None:
    store, one, two = TrialStore(tmp_path), Trial(FUNCTION, {"lr": 0.1}), Trial(FUNCTION, {"lr": 0.2})
    store.put(one, {"final_loss": 1.0})
    store.path(two).parent.mkdir(exist_ok=True)
    store.path(two).write_bytes(store.path(one).read_bytes())
    assert store.get(two) is None
    assert [outcome.trial for outcome in store] == [one]


def test_crash_is_kept_but_never_replaces_a_result(tmp_path: Path) -> None:
    store, trial = TrialStore(tmp_path), Trial(FUNCTION, {"lr": 0.1})
    store.put_crashed(trial, "out of memory", seconds=2.0)
    assert [(outcome.trial, outcome.error) for outcome in store.failed()] == [(trial, "out of memory")]
    store.put(trial, {"final_loss": 1.0})
    store.put_crashed(trial, "out of memory")
    outcome = store.get(trial)
    assert outcome is not None and outcome.status == "finished" and not list(store.failed())


def test_default_folder_follows_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FIONA_HOME", str(tmp_path))
    assert TrialStore().folder == tmp_path / "trials"


def test_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=str(tmp_path / "file")):
        TrialStore(tmp_path / "file").put(Trial(FUNCTION, {}), {})
