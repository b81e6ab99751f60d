"""Two processes on one machine give one process's losses. Each torchrun start costs several seconds: few of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fionalm.errors import UserError
from fionalm.models import load_model
from fionalm.optim.config import OptimizerConfig
from fionalm.scaling import StabilityProbe
from fionalm.scaling.config import ParameterizationConfig
from fionalm.training import World, train
from fionalm.training.__main__ import main
from fionalm.training.config import TrainConfig

pytestmark = pytest.mark.slow


def torchrun(*arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, check=False, timeout=240, env=environment
    )


@pytest.fixture(scope="module")
def configs(tiny: TrainConfig) -> dict[str, TrainConfig]:
    base = replace(tiny, checkpoint_every=6, grad_accumulation=2, eval_every=6, z_loss=1e-3)
    scaled = replace(
        base,
        parameterization=ParameterizationConfig(name="mup", base_width=8),
        optimizer=OptimizerConfig(name="adam_atan2", lr=1e-2, weight_decay=1e-4),
    )
    return {
        "ddp": base,
        "fsdp2": replace(base, strategy="fsdp2", probe_every=5),
        "ddp-mup": scaled,
        "fsdp2-mup": replace(scaled, strategy="fsdp2"),
        "uneven": replace(base, batch_size=9, grad_accumulation=1),
    }


@pytest.fixture(scope="module")
def runs(configs: dict[str, TrainConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    for name, config in configs.items():
        (out / f"{name}.json").write_text(config.to_json())
    done = torchrun(str(Path(__file__).with_name("distributed_runs.py")), str(out))
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def result_of(runs: Path, name: str, rank: int = 0) -> Any:
    return json.loads((runs / f"{name}.rank{rank}").read_text())


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "ddp-mup", "fsdp2-mup"])
def test_two_processes_give_the_losses_of_one(
    runs: Path, configs: dict[str, TrainConfig], corpus: Any, name: str
) -> None:
    config = configs[name]
    probes = [StabilityProbe] if config.probe_every else []
    one = train(config, corpus=corpus, probes=probes, quiet=True, device="cpu").to_dict()
    two = result_of(runs, name)
    # Adam turns rounding in small gradients into updates; the first steps are as close as float32 allows.
    np.testing.assert_allclose([x for _, x in two["losses"][:2]], [x for _, x in one["losses"][:2]], rtol=2e-6)
    np.testing.assert_allclose([x for _, x in two["losses"]], [x for _, x in one["losses"]], rtol=1e-4)
    assert two["final_loss"] == pytest.approx(one["final_loss"], rel=1e-4)
    assert [row.keys() for row in two["metrics"]] == [row.keys() for row in one["metrics"]]
    for key in ("lr", "tokens", "log_z", "grad_norm"):
        np.testing.assert_allclose(
            [row[key] for row in two["metrics"]], [row[key] for row in one["metrics"]], rtol=2e-3
        )
    assert result_of(runs, name, rank=1) == two  # every process returns the same


def test_only_the_main_process_writes(runs: Path) -> None:
    rows = [json.loads(line) for line in (runs / "ddp" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(12))
    assert json.loads((runs / "ddp" / "environment.json").read_text())["processes"] == 2


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_one_process_resumes_what_two_began(
    runs: Path, configs: dict[str, TrainConfig], corpus: Any, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs / name, folder)
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "step-00000012")
    probes = [StabilityProbe] if configs[name].probe_every else []
    resumed = train(configs[name], out=folder, corpus=corpus, probes=probes, quiet=True, device="cpu").to_dict()
    before = result_of(runs, name)
    assert resumed["losses"][:6] == before["losses"][:6]  # read from the file
    np.testing.assert_allclose([x for _, x in resumed["losses"]], [x for _, x in before["losses"]], rtol=1e-4)


def test_sharded_model_is_exported_whole(runs: Path, configs: dict[str, TrainConfig], corpus: Any) -> None:
    one, two = load_model(runs / "ddp")[0], load_model(runs / "fsdp2")[0]
    assert two.config == configs["fsdp2"].model
    tokens = torch.from_numpy(corpus.validation[:16].astype(np.int64))[None]
    torch.testing.assert_close(two(tokens).logits, one(tokens).logits, rtol=1e-2, atol=1e-2)


def test_a_batch_that_cannot_be_shared(runs: Path) -> None:
    for rank in (0, 1):
        sentence = "UserError: batch_size 9 cannot be shared by 2 processes: expected a multiple of 2"
        assert result_of(runs, "uneven", rank) == sentence


def test_command_under_torchrun(tiny: TrainConfig, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"the number {i} follows the number {i - 1}\n" for i in range(400)))
    data = replace(tiny.data, source=str(text), vocab_size=300, validation_fraction=0.2)
    model = replace(tiny.model, vocab_size=300)
    config = replace(tiny, data=data, model=model, strategy="fsdp2", checkpoint_every=6)
    path, out = tmp_path / "config.json", tmp_path / "run"
    path.write_text(config.to_json())
    command = ("-m", "fionalm.training", str(path), "--out", str(out), "--device", "cpu")
    done = torchrun(*command)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("final loss") == 1
    first = json.loads((out / "result.json").read_text())
    # The same command in one process goes on from the two processes' checkpoint.
    (out / "result.json").unlink()
    shutil.rmtree(out / "checkpoints" / "step-00000012")
    main([*command[2:], "--quiet"])
    second = json.loads((out / "result.json").read_text())
    np.testing.assert_allclose([x for _, x in second["losses"]], [x for _, x in first["losses"]], rtol=1e-4)


def test_main_process_errors_reach_the_caller() -> None:
    world = World(torch.device("cpu"))

    def fail() -> None:
        raise UserError("one sentence")

    with pytest.raises(UserError, match="one sentence"):
        world.on_main(fail)
    assert world.main_first(lambda: SimpleNamespace(a=1)).a == 1
