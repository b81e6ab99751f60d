"""Parameter groups under LR schedulers, torch.compile and FSDP2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
import torch
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from fionalm.models import Decoder, DecoderConfig
from fionalm.scaling import parameterize

from .networks import TinyDecoder, token_batches

OPTIONS = {"optimizer": "adamw", "base_lr": 0.02, "base_width": 8, "eps": 1e-8}


def groups_of(model: torch.nn.Module) -> list[dict]:
    return parameterize(model, "mup", generator=torch.Generator().manual_seed(0), **OPTIONS)


def build() -> Decoder:
    return Decoder(DecoderConfig(vocab_size=64, d_model=32, n_layers=1, n_heads=2, qk_norm=True))


def train(model: torch.nn.Module, groups: list[dict]) -> list[float]:
    optimizer = torch.optim.AdamW(groups)
    losses = []
    for batch in token_batches(3):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch[:, :-1]).logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_schedulers_keep_the_ratios_between_layers() -> None:
    groups = groups_of(TinyDecoder())
    start = {group["name"]: group["lr"] for group in groups}
    assert len(set(start.values())) > 1
    optimizer = torch.optim.AdamW(groups, lr=123.0)  # the default must not replace a group's own
    schedule = LambdaLR(optimizer, lambda step: 0.5**step)
    for step in range(1, 4):
        optimizer.step()
        schedule.step()
        assert {g["name"]: g["lr"] for g in optimizer.param_groups} == {
            name: pytest.approx(lr * 0.5**step) for name, lr in start.items()
        }


def test_optimizer_state_round_trip_keeps_the_groups() -> None:
    model = TinyDecoder()
    optimizer = torch.optim.AdamW(groups_of(model))
    restored = torch.optim.AdamW(groups_of(model), lr=5.0)
    restored.load_state_dict(optimizer.state_dict())
    keys = ("name", "kind", "lr", "eps", "weight_decay", "param_names")
    for one, other in zip(restored.param_groups, optimizer.param_groups, strict=True):
        assert {key: one[key] for key in keys} == {key: other[key] for key in keys}


@pytest.mark.parametrize("compile_first", [False, True])
def test_compiled_models_train_alike(compile_first: bool) -> None:
    eager = build()
    expected = train(eager, groups_of(eager))
    model = build()
    if compile_first:
        compiled = cast(torch.nn.Module, torch.compile(model, backend="aot_eager"))
        groups = groups_of(compiled)
    else:
        groups = groups_of(model)
        compiled = cast(torch.nn.Module, torch.compile(model, backend="aot_eager"))
    assert [g["param_names"] for g in groups] == [g["param_names"] for g in groups_of(build())]
    assert train(compiled, groups) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_sharded_models_train_alike() -> None:
    here = Path(__file__).parent
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(here / "fsdp2_program.py")],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(here)},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "same as one process" in done.stdout
