from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fionalm.errors import UserError
from fionalm.models.config import DecoderConfig, RopeScaling
from fionalm.optim.config import OptimizerConfig, ScheduleConfig
from fionalm.scaling.config import ParameterizationConfig
from fionalm.training import TrainConfig, config_hash, from_plain, to_plain

configs = st.builds(
    TrainConfig,
    model=st.builds(
        DecoderConfig,
        n_layers=st.integers(1, 9),
        qk_norm=st.booleans(),
        d_ff=st.none() | st.integers(1, 99),
        rope_scaling=st.none() | st.builds(RopeScaling, factor=st.floats(0.1, 9)),
    ),
    optimizer=st.builds(
        OptimizerConfig, lr=st.floats(1e-9, 10), betas=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99))
    ),
    schedule=st.builds(ScheduleConfig, warmup_steps=st.integers(0, 50)),
    parameterization=st.none()
    | st.builds(ParameterizationConfig, name=st.sampled_from(["standard", "ntk", "mup", "mfp"])),
    z_loss=st.floats(0, 1),
    seed=st.integers(0, 10),
    strategy=st.sampled_from(["ddp", "fsdp2"]),
)


@given(configs)
def test_json_round_trip(config: TrainConfig) -> None:
    again = TrainConfig.from_json(config.to_json())
    assert again == config
    assert again.config_hash == config.config_hash


@given(configs, configs)
def test_hashes_are_equal_for_equal_configs_only(a: TrainConfig, b: TrainConfig) -> None:
    assert (a.config_hash == b.config_hash) == (a == b)


def test_every_field_is_in_the_hash() -> None:
    default = TrainConfig()
    changed = {
        "model": DecoderConfig(n_layers=7),
        "model_path": "elsewhere",
        "data": replace(default.data, seed=1),
        "optimizer": OptimizerConfig(lr=0.5),
        "schedule": ScheduleConfig(warmup_steps=7),
        "parameterization": ParameterizationConfig(),
        "precision": "fp32",
        "strategy": "fsdp2",
        "compile": True,
    }
    for field in fields(TrainConfig):
        value = changed.get(field.name)
        if value is None:
            value = getattr(default, field.name) * 2 + 2
        assert replace(default, **{field.name: value}).config_hash != default.config_hash, field.name


def test_hash_is_the_same_in_another_process_and_for_ever() -> None:
    code = "from fionalm.training import TrainConfig; print(TrainConfig(seed=3).config_hash)"
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    output = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert output.stdout.strip() == TrainConfig(seed=3).config_hash
    # Written down: stores of finished trials on users' disks are keyed by it.
    text = b'{"kind":"a","names":null,"number":0.1,"pair":[1e-08,3.0],"path":null}'
    assert config_hash(Leaf(number=0.1, pair=(1e-8, 3))) == hashlib.sha256(text).hexdigest()[:16]


@dataclass(frozen=True)
class Leaf:
    number: float = 1.0
    pair: tuple[float, float] = (1.0, 2.0)
    kind: Literal["a", "b"] = "a"
    names: list[str] | None = None
    path: Path | None = None


@dataclass(frozen=True)
class Tree:
    leaf: Leaf
    count: int = 1
    either: Leaf | str = "none"
    flag: bool = False


def test_plain_values() -> None:
    tree = Tree(Leaf(number=2, names=["x"], path=Path("a/b")), either=Leaf(kind="b"))
    plain = to_plain(tree)
    assert plain == json.loads(json.dumps(plain))
    assert plain["leaf"]["pair"] == [1.0, 2.0]
    assert from_plain(Tree, plain) == tree


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"leaf": {"numbr": 1}},
            r"unknown field of Leaf 'leaf.numbr': expected one of .*did you mean 'leaf.number'",
        ),
        ({"leaf": {}, "count": 1.5}, "count was 1.5: expected int"),
        ({"leaf": {}, "count": True}, "count was True: expected int"),
        ({"leaf": {}, "flag": 1}, "flag was 1: expected bool"),
        ({"leaf": {"number": "1"}}, "leaf.number was '1': expected float"),
        ({"leaf": {"pair": [1]}}, r"leaf.pair was \[1\]: expected tuple"),
        ({"leaf": {"pair": [1, None]}}, r"leaf.pair\[1\] was None: expected float"),
        ({"leaf": {"kind": "c"}}, "unknown leaf.kind 'c': expected one of a, b"),
        ({"leaf": {"names": "x"}}, "leaf.names was 'x': expected list"),
        ({"leaf": 3}, "leaf was 3: expected an object of Leaf's fields"),
        ({"leaf": {}, "either": {"kid": 1}}, "unknown field of Leaf 'either.kid'"),
        ({"leaf": {}, "either": 3}, "either was 3: expected str"),
        ([], r"Tree was \[\]: expected an object"),
    ],
)
def test_wrong_values_are_named_by_their_path(values: object, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        from_plain(Tree, values)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"steps": 0}, "steps was 0: expected a whole number of at least 1"),
        ({"batch_size": 2.0}, "batch_size was 2.0"),
        ({"clip_norm": -1.0}, "clip_norm was -1.0: expected a number of at least 0"),
        ({"z_loss": float("nan")}, "z_loss was nan"),
        ({"precision": "bf61"}, "unknown precision 'bf61'.*did you mean 'bf16'"),
        ({"strategy": "fsdp"}, "unknown strategy 'fsdp'.*did you mean 'fsdp2'"),
        ({"grad_accumulation": 3}, "batch_size 16 cannot be cut into grad_accumulation 3"),
        ({"model": DecoderConfig(max_seq_len=64)}, "data.seq_len 128 is over model.max_seq_len 64"),
    ],
)
def test_impossible_runs_are_refused(change: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        TrainConfig(**change)


def test_reading_a_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"steps": 3, "model": {"d_model": 32}}')
    assert TrainConfig.load(path) == TrainConfig(steps=3, model=DecoderConfig(d_model=32))
    path.write_text('{"step": 3}')
    with pytest.raises(UserError, match=r"config.json: unknown field of TrainConfig 'step'.*did you mean 'steps'"):
        TrainConfig.load(path)
    path.write_text("steps=3")
    with pytest.raises(UserError, match="is not JSON"):
        TrainConfig.load(path)
    with pytest.raises(UserError, match="cannot read the training config .*absent.json: No such file"):
        TrainConfig.load(tmp_path / "absent.json")
