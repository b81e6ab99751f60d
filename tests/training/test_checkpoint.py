from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from fionalm.errors import UserError
from fionalm.optim.config import OptimizerConfig
from fionalm.training import TrainConfig, checkpoint, train

STOP_AT = 5


class StopAt:
    def begin(self, step: int) -> None:
        pass

    def end(self, step: int) -> None:
        if step == STOP_AT:
            os.kill(os.getpid(), signal.SIGINT)


def contents(folder: Path, work: Path) -> dict[str, Any]:
    """Everything in the newest checkpoint: tensors by name, and the plain values."""
    newest = max((folder / "checkpoints").iterdir())
    dcp_to_torch_save(newest, work / "whole.pt")
    plain = json.loads((newest / "state.json").read_text())
    del plain["seconds"]
    return {**torch.load(work / "whole.pt"), **plain}


def metrics(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "tokens_per_second"} for row in rows]


def assert_same_run(one: Path, other: Path, work: Path) -> None:
    a, b = contents(one, work), contents(other, work)
    assert a.keys() == b.keys()
    for name, value in a.items():
        same = torch.equal(value, b[name]) if isinstance(value, torch.Tensor) else value == b[name]
        assert same, name
    assert metrics(one) == metrics(other)


@pytest.mark.parametrize("name", ["adamw", "adam_atan2", "adafactor", "sgd"])
def test_every_optimizer_resumes_to_the_same_bits(tiny: TrainConfig, corpus: Any, tmp_path: Path, name: Any) -> None:
    sgd = name == "sgd"
    optimizer = OptimizerConfig(
        name=name, lr=1e-2, weight_decay=1e-4, independent_weight_decay=not sgd, momentum=0.9 if sgd else 0.0
    )
    config = replace(tiny, optimizer=optimizer)
    train(config, out=tmp_path / "whole", corpus=corpus, quiet=True)
    with pytest.raises(KeyboardInterrupt):
        train(config, out=tmp_path / "stopped", corpus=corpus, probes=[StopAt()], quiet=True)
    train(config, out=tmp_path / "stopped", corpus=corpus, quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", tmp_path)
    state = [key for key in contents(tmp_path / "whole", tmp_path) if key.startswith("optimizer/")]
    assert len(state) >= 13  # at least one tensor a parameter, or the comparison above says little


@pytest.mark.slow
def test_killed_at_random_moments(tiny: TrainConfig, corpus: Any, tmp_path: Path) -> None:
    config = replace(tiny, steps=24, checkpoint_every=1, eval_every=7)
    (tmp_path / "config.json").write_text(config.to_json())
    script = Path(__file__).with_name("killed_runs.py")
    command = [sys.executable, str(script), str(tmp_path / "config.json"), str(tmp_path / "killed"), "0"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(output) >= 3
    train(config, out=tmp_path / "whole", corpus=corpus, quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "killed", tmp_path)
    names = sorted(p.name for p in (tmp_path / "killed" / "checkpoints").iterdir())
    assert names == ["step-00000023", "step-00000024"]


@pytest.mark.parametrize("moment", ["data", "rename"])
def test_killed_while_a_checkpoint_is_written(
    tiny: TrainConfig, corpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    class Killed(BaseException):
        """Ends the run where SIGKILL would; nothing may run after it, so nothing is cleaned up."""

    def die(*_: object, **__: object) -> None:
        raise Killed

    config = replace(tiny, checkpoint_every=3)
    with monkeypatch.context() as patch:
        original = checkpoint.save_tensors

        def save(state: dict[str, Any], **options: Any) -> None:
            original(state, **options)
            if len(list((tmp_path / "run" / "checkpoints").glob("step-*"))) == 1:
                if moment == "data":
                    next(options["storage_writer"].path.glob("*.distcp")).write_bytes(b"half")
                    die()
                patch.setattr(Path, "rename", die)

        patch.setattr(checkpoint, "save_tensors", save)
        with pytest.raises(Killed):
            train(config, out=tmp_path / "run", corpus=corpus, quiet=True)
    names = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == [".unfinished-step-00000006", "step-00000003"]
    train(config, out=tmp_path / "run", corpus=corpus, quiet=True)
    train(config, out=tmp_path / "whole", corpus=corpus, quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run", tmp_path)
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Make writes past `size` bytes of a file fail, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_keeps_what_was_saved(tiny: TrainConfig, corpus: Any, tmp_path: Path) -> None:
    config = replace(tiny, checkpoint_every=4)
    with pytest.raises(KeyboardInterrupt):
        train(config, out=tmp_path / "run", corpus=corpus, probes=[StopAt()], quiet=True)
    with (
        file_size_limit(20_000),
        pytest.raises(UserError, match=r"cannot write .*step-00000008: .*File too large"),
    ):
        train(config, out=tmp_path / "run", corpus=corpus, quiet=True)
    names = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-00000004", "step-00000006"]
    train(config, out=tmp_path / "run", corpus=corpus, quiet=True)
    train(config, out=tmp_path / "whole", corpus=corpus, quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run", tmp_path)


def test_a_checkpoint_of_another_model_is_refused(tiny: TrainConfig, corpus: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tiny, out=tmp_path / "run", corpus=corpus, probes=[StopAt()], quiet=True)
    other = replace(tiny, model=replace(tiny.model, d_ff=32))
    (tmp_path / "run" / "config.json").write_text(other.to_json())
    with pytest.raises(UserError, match=r"of another model: it has blocks.0.mlp.up.weight with shape \(64, 16\)"):
        train(other, out=tmp_path / "run", corpus=corpus, quiet=True)


def test_an_unreadable_checkpoint_is_named(tiny: TrainConfig, corpus: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tiny, out=tmp_path / "run", corpus=corpus, probes=[StopAt()], quiet=True)
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    (newest / "state.json").write_text("{")
    with pytest.raises(UserError, match="cannot read the checkpoint .*step-00000006: .*remove it to resume"):
        train(tiny, out=tmp_path / "run", corpus=corpus, quiet=True)
    shutil.rmtree(newest)
    assert train(tiny, out=tmp_path / "run", corpus=corpus, quiet=True).steps == 12
