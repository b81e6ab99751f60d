"""Two processes under torchrun, by DDP and FSDP2, learn what one process learns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_finetune import CONFIGS, train
from safetensors.torch import load_file

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of the runs by two processes, and by one."""
    two, one = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    program = Path(__file__).parent / "distributed_finetune.py"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*launch, program, two], capture_output=True, text=True, timeout=240, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in CONFIGS:
        train(name, one)
    return two, one


@pytest.mark.parametrize("name", CONFIGS)
def test_losses_and_weights_are_those_of_one_process(name: str, runs: tuple[Path, Path]) -> None:
    two, one = runs
    mine = [json.loads(line) for line in (two / name / "metrics.jsonl").read_text().splitlines()]
    theirs = [json.loads(line) for line in (one / name / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in mine] == [row["step"] for row in theirs] == list(range(6))
    for row, other in zip(mine, theirs, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
        assert row.get("validation_loss", 0) == pytest.approx(other.get("validation_loss", 0), rel=1e-4)
    weights = [load_file(folder / name / "model" / "model.safetensors") for folder in runs]
    for key, value in weights[1].items():
        torch.testing.assert_close(weights[0][key], value, rtol=1e-3, atol=1e-4)
    for rank in (0, 1):
        assert json.loads((two / f"{name}.rank{rank}").read_text()) == mine
    assert (two / name / "model" / "adapter").exists() == name.endswith("lora")
